"""PL/pgSQL bodies: what they touch, or that this cannot be said."""

from __future__ import annotations

import pytest

from classifiers.tokens import Unreadable
from dbproxy.catalogue.bodies import Known, read_plpgsql

KNOWN = Known(
    {"staff", "journal", "Odd.Name"}.__contains__,
    {"f", "lower"}.__contains__,
    {"@@@"}.__contains__,
    {"mood"}.__contains__,
)


def touched(source: str) -> tuple[set[str], set[str]]:
    body = read_plpgsql(source, KNOWN)
    modes: dict[str, set[str]] = {"read": set(), "write": set()}
    for each in body.effects:
        modes[each.mode].add(each.object)
    return modes["read"], modes["write"]


@pytest.mark.parametrize(
    ("source", "read", "written"),
    [
        ("begin return (select ssn from hr.staff); end", {"hr.staff"}, set()),
        ("begin insert into journal select * from staff; return new; end", {"journal", "staff"}, {"journal"}),
        ("begin update only hr.staff set a = 1; end", {"hr.staff"}, {"hr.staff"}),
        ("begin delete from staff where id = 1; end", {"staff"}, {"staff"}),
        ("begin truncate table journal; end", {"journal"}, {"journal"}),
        ("declare r record; begin for r in select * from a, staff loop null; end loop; end", {"staff"}, set()),
        ("begin merge into staff using journal on true when matched then delete; end", {"staff", "journal"}, {"staff"}),
        ('begin perform 1 from U&"st\\0061ff"; end', {"staff"}, set()),
        ('begin perform 1 from x."Odd.Name"; end', {'x."Odd.Name"'}, set()),
        ("begin /* from staff */ perform 'from staff'; -- from staff\n end", set(), set()),
        ("begin perform $q$select * from staff$q$; end", set(), set()),
        ("begin staff := 1; return staff.x; end", set(), set()),
        ("begin with x as (table staff) select 1; end", {"staff"}, set()),
    ],
)  # fmt: skip
def test_relations_are_found_where_they_can_stand(source: str, read: set[str], written: set[str]) -> None:
    assert touched(source) == (read, written)


@pytest.mark.parametrize(
    "source",
    [
        "begin execute 'drop table staff'; end",
        "begin execute format('select %I', x); end",
        "declare c refcursor; begin open c for execute q; end",
        "begin return query execute q; end",
        "begin for r in execute q loop null; end loop; end",
        "begin create temp table t as select * from staff; end",
        "begin if x then drop table staff; end if; end",
        "begin <<l>> alter table staff add a int; end",
        "begin set search_path = hidden; end",
        "begin perform set_config('search_path', 'hidden', true); end",
        "begin call p(); end",
        "begin copy staff to '/tmp/x'; end",
        "begin perform 'no end; end",
    ],
)
def test_what_runs_texts_or_changes_names_cannot_be_said(source: str) -> None:
    with pytest.raises(Unreadable):
        read_plpgsql(source, KNOWN)


def test_functions_operators_and_casts_that_somebody_made_are_called() -> None:
    body = read_plpgsql(
        "begin perform code.f(1), lower('x'), upper('x'), 1 @@@ 2, 'x'::code.mood, pg_sleep(1); end", KNOWN
    )
    assert set(body.functions) == {"code.f", "lower", "operator:@@@", "cast:code.mood", "pg_sleep"}


@pytest.mark.parametrize(("source", "events"), [("begin insert into staff values (1); end", "i"), ("begin delete from staff; end", "d"), ("begin update staff set a = 1; end", "iud"), ("begin perform 1; end", "")])  # fmt: skip
def test_what_is_written_may_be_only_what_the_words_say(source: str, events: str) -> None:
    assert read_plpgsql(source, KNOWN).events == events


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        ("begin truncate journal; end", {"truncate"}),
        ("begin delete from staff; end", {"no_where"}),
        ("begin if exists (select 1 from journal where a) then delete from staff; end if; end", {"no_where"}),
        ("begin with d as (delete from staff returning 1) insert into journal select 1 from d where true; end", {"no_where"}),
        ("begin update staff set a = (select 1 from journal where b); end", {"no_where"}),
        ("begin update staff set a = 1 where true and 1 = 1 returning a into x; end", {"trivial_where"}),
        ("begin update staff set a = case when b then 1 else 2 end where id = new.id; end", set()),
        ("begin insert into staff values (1) on conflict (a) do update set a = 2; end", set()),
        ("begin perform 1 from staff for update; insert into journal values (1); end", set()),
    ],
)  # fmt: skip
def test_writes_say_whether_they_are_bounded(source: str, flags: set[str]) -> None:
    found = {flag for each in read_plpgsql(source, KNOWN).effects if each.mode == "write" for flag in each.flags}
    assert found == flags
