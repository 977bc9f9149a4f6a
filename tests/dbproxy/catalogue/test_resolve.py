"""What a statement reaches, worked out from a snapshot alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from classifiers.classify import classify
from classifiers.effects import Effect, Kind, LexingState, Report
from classifiers.tokens import join_name
from dbproxy.catalogue.model import Body, Function, Hook, Named, Relation, Snapshot
from dbproxy.catalogue.resolve import ANYTHING, MAX_REACHED, Resolution, find_made, resolve, split_name
from dbproxy.policy.decide import decide
from dbproxy.policy.load import compile_policy
from dbproxy.policy.model import Action, Context, Decision

READ, WRITE = Kind.DML_READ, Kind.DML_WRITE


def function(oid: int, name: str, body: Body | None, **more: object) -> Function:
    return replace(Function(oid, "code", name, "sql", "volatile", is_security_definer=False, body=body), **more)  # type: ignore[arg-type]


def reads(name: str, *columns: str) -> Body:
    return Body((Effect(READ, name, "read", columns),))


SNAPSHOT = Snapshot(
    "shop",
    180_000,
    1,
    (
        Relation(20_001, "hr", "staff", "table", ("id", "ssn")),
        Relation(20_002, "app", "v", "view", ("id", "ref"), hooks=(Hook("view", "_RETURN", "s", ((20_001, ("ssn",)),)),)),
        Relation(20_003, "app", "vv", "view", ("badge",), hooks=(Hook("view", "_RETURN", "s", ((20_002, ("ref",)),)),)),
        Relation(20_004, "app", "parts", "partitioned", ("id",), children=(20_005,)),
        Relation(20_005, "app", "part_1", "table", ("id",), parents=(20_004,)),
        Relation(20_006, "app", "inbox", "table", ("id",), hooks=(Hook("trigger", "t", "i", functions=(30_001,)),)),
        Relation(20_007, "app", "parent", "table", ("id",), hooks=(Hook("foreign key", "fk", "d", ((20_001, ()),), "write"),)),
        Relation(20_008, "app", "now", "table", ("id",), former=(("app", "before"),)),
        Relation(20_009, "other", "staff", "table", ("id",)),
        Relation(20_010, "app", "far", "foreign", ("id",), remote="theirs.t"),
        Relation(20_011, "app", "hidden_view", "view", hooks=(Hook("view", "unread", "s", is_known=False),)),
        Relation(20_012, "app", "a", "view", hooks=(Hook("view", "_RETURN", "s", ((20_013, ()),)),)),
        Relation(20_013, "app", "b", "view", hooks=(Hook("view", "_RETURN", "s", ((20_012, ()),)),)),
        Relation(20_014, "pg_temp_3", "secret_view", "view", hooks=(Hook("view", "_RETURN", "s", ((20_001, ("id",)),)),)),
        Relation(20_015, "Odd Schema", "a.b", "table", ("id",)),
    ),
    (
        function(30_001, "count_staff", reads("hr.staff")),
        function(30_002, "opaque", None, language="plpgsql"),
        function(30_003, "purge", Body((Effect(WRITE, "hr.staff", "write", flags=frozenset({"no_where"})),))),
        function(30_004, "lower", None),
        function(30_005, "by_path", reads("staff")),
        function(30_006, "own_path", reads("staff"), path=("other",)),
        function(30_007, "outer", Body(functions=("code.opaque",))),
        function(30_008, "loop_a", Body(functions=("code.loop_b",))),
        function(30_009, "loop_b", Body(functions=("code.loop_a",))),
    ),
    (Named("code", "@@@", (30_001,)),),
    (Named("code", "mood"), Named("code", "checked", (30_002,))),
    (("pg_catalog", "pg_class"), ("information_schema", "tables")),
)  # fmt: skip


def look(
    sql: str, path: tuple[str, ...] | None = ("app",), derived: tuple[tuple[str, tuple[str, ...]], ...] = ()
) -> Resolution:
    return resolve(classify("postgres", sql.encode(), LexingState()), SNAPSHOT, path, derived)


def reached(sql: str, path: tuple[str, ...] | None = ("app",)) -> set[str]:
    return {each.object for each in look(sql, path).reached}


@pytest.mark.parametrize(
    ("sql", "path", "names"),
    [
        ("select badge from vv", ("app",), {"app.vv", "app.v", "hr.staff"}),
        ("select badge from app.vv", (), {"app.v", "hr.staff"}),
        ("select * from staff", ("hr",), {"hr.staff"}),
        ("select * from staff", ("hr", "other"), {"hr.staff", "other.staff"}),
        ("select * from staff", None, {"hr.staff", "other.staff"}),
        ("select * from staff", ("$user", "hr"), {"hr.staff", "other.staff"}),
        ("select id from parts", ("app",), {"app.parts", "app.part_1"}),
        ("select id from app.part_1", (), {"app.parts"}),
        ("insert into inbox values (1)", ("app",), {"app.inbox", "hr.staff"}),
        ("delete from inbox", ("app",), {"app.inbox"}),
        ("delete from parent where id = 1", ("app",), {"app.parent", "hr.staff"}),
        ("insert into parent values (1)", ("app",), {"app.parent"}),
        ("update v set ref = 1", ("app",), {"app.v", "hr.staff"}),
        ("select * from app.now", (), {"app.before"}),
        ("select * from secret_view", ("app",), {"pg_temp_3.secret_view", "hr.staff"}),
        ("select * from pg_temp.secret_view", (), {"pg_temp_3.secret_view", "hr.staff"}),
        ("select code.count_staff()", (), {"hr.staff"}),
        ("select count_staff()", ("code",), {"hr.staff"}),
        ("select by_path()", ("code", "hr"), {"hr.staff"}),
        ("select code.own_path()", ("hr",), {"other.staff"}),
        ("select 1 operator(code.@@@) 2", (), {"hr.staff"}),
        ("select a.b from app.parts a, code.count_staff() b", (), {"app.part_1", "hr.staff"}),
        ('select * from "Odd Schema"."a.b"', (), set()),
        ("prepare p as select * from v", ("app",), {"app.v", "hr.staff"}),
        ("declare c cursor for select * from v", ("app",), {"app.v", "hr.staff"}),
        ("copy v to stdout", ("app",), {"app.v", "hr.staff"}),
        ("explain select * from v", ("app",), {"app.v", "hr.staff"}),
        ("with staff as (select 1) select * from staff", ("hr",), set()),
        ("drop view app.v", (), set()),
        ("select * from a", ("app",), {"app.a", "app.b"}),
    ],
)  # fmt: skip
def test_names_stand_for_what_they_lead_to(sql: str, path: tuple[str, ...] | None, names: set[str]) -> None:
    found = look(sql, path)
    # A row is spelled out where the text says *, which is no other object.
    assert {each.object for each in found.reached} - {
        each.object for each in classify("postgres", sql.encode(), LexingState()).effects
    } == names - {""}
    assert (found.visibility, found.unresolved) == ("full", ())


def test_columns_are_those_of_what_a_view_is_made_of() -> None:
    columns = {each.object: each.columns for each in look("select badge from vv").reached}
    assert columns["hr.staff"] == ("ssn",)
    assert columns["app.v"] == ("ref",)


def test_a_star_is_spelled_out() -> None:
    (found,) = [each for each in look("select * from hr.staff").reached if each.object == "hr.staff"]
    assert set(found.columns) == {"*", "id", "ssn"}


@pytest.mark.parametrize(
    ("sql", "is_known"),
    [
        ("select code.count_staff()", True),
        ("select code.purge()", True),
        ("select 'x'::code.mood", True),
        ("select code.loop_a()", True),
        ("select code.opaque()", False),
        ("select code.outer()", False),
        ("select code.missing()", False),
        ("select 'x'::code.checked", False),
        ("select lower('x')", True),
        ("call code.count_staff()", False),
        ("do 'begin end'; select code.count_staff()", False),
    ],
)
def test_a_function_is_known_if_all_that_it_runs_is(sql: str, *, is_known: bool) -> None:
    report = look(sql, ("app",)).report
    assert (Kind.DYNAMIC not in report.kinds) == is_known


def test_a_user_s_function_with_the_name_of_a_builtin_one_counts() -> None:
    assert Kind.DYNAMIC not in look("select lower('x')", ("app",)).report.kinds
    assert Kind.DYNAMIC in look("select lower('x')", ("code",)).report.kinds
    assert Kind.DYNAMIC in look("select lower('x')", None).report.kinds


def test_a_write_in_a_function_is_a_write_of_the_statement() -> None:
    report = look("select code.purge()").report
    (effect,) = [each for each in report.effects if each.mode == "write"]
    assert (effect.kind, effect.object, effect.via) == (WRITE, "hr.staff", "function code.purge")
    assert "code.purge" in report.functions


@pytest.mark.parametrize("sql", ["select * from nowhere", "insert into nowhere values (1)", "copy nowhere to stdout", "explain select * from nowhere", "select * from app.nowhere", "truncate nowhere"])  # fmt: skip
def test_what_is_not_there_may_be_anything(sql: str) -> None:
    found = look(sql)
    assert found.visibility == "degraded"
    assert len(found.unresolved) == 1
    assert {each.object for each in found.reached} == {ANYTHING}
    assert all("degraded_visibility" in each.flags for each in found.reached)


@pytest.mark.parametrize("sql", ["create table nowhere(a int)", "select * from pg_class", "select * from information_schema.tables", "set work_mem = '1MB'", "drop function code.nowhere()", "begin"])  # fmt: skip
def test_what_need_not_be_there_is_not_missed(sql: str) -> None:
    assert (look(sql).visibility, look(sql).unresolved, look(sql).reached) == ("full", (), ())


def test_a_view_that_cannot_be_read_may_show_anything() -> None:
    found = look("select * from hidden_view")
    assert found.visibility == "degraded"
    assert ANYTHING in {each.object for each in found.reached}


def test_a_foreign_table_is_on_another_server() -> None:
    found = look("select * from far")
    assert {"app.far", "theirs.t"} <= {each.object for each in found.reached}
    assert "remote_access" in found.report.flags


def test_without_a_snapshot_every_table_may_be_any() -> None:
    found = resolve(classify("postgres", b"select * from x", LexingState()), None, ("app",))
    assert (found.visibility, [each.object for each in found.reached]) == ("missing", [ANYTHING])
    found = resolve(classify("postgres", b"select 1", LexingState()), None, ("app",))
    assert found.reached == ()


def test_a_stale_snapshot_is_said_and_matches_no_less() -> None:
    report = classify("postgres", b"select * from app.vv", LexingState())
    fresh, stale = (resolve(report, SNAPSHOT, (), is_stale=each) for each in (False, True))
    assert stale.visibility == "stale"
    assert "degraded_visibility" in stale.report.flags
    assert {each.object for each in stale.reached} == {each.object for each in fresh.reached}


def test_more_than_is_followed_may_be_anything() -> None:
    many = tuple(
        Relation(40_000 + n, "app", f"p{n}", "table", ("id",), parents=(20_004,)) for n in range(MAX_REACHED + 10)
    )
    wide = replace(SNAPSHOT.relations[3], children=tuple(each.oid for each in many))
    snapshot = replace(SNAPSHOT, relations=(wide, *many))
    found = resolve(classify("postgres", b"select id from app.parts", LexingState()), snapshot, ())
    assert ANYTHING in {each.object for each in found.reached}
    assert found.visibility == "degraded"


def test_what_a_session_made_stands_for_what_went_into_it() -> None:
    made = classify("postgres", b"create temp table t as select * from v", LexingState())
    derived = find_made(made, look("create temp table t as select * from v"))
    assert derived == (("t", ("app.v", "hr.staff", "v")),)
    found = look("select * from t", derived=derived)
    assert "hr.staff" in {each.object for each in found.reached}
    assert found.unresolved == ()


def test_code_that_a_session_hangs_on_a_table_may_reach_anything() -> None:
    text = "create trigger x after insert on app.parts for each row execute function f()"
    derived = find_made(classify("postgres", text.encode(), LexingState()), look(text))
    assert dict(derived)["parts"] == (ANYTHING,)
    found = look("insert into app.parts values (1)", derived=derived)
    assert ANYTHING in {each.object for each in found.reached}


@pytest.mark.parametrize("name", [("a",), ("a", "b"), ("a.b", "c"), ('q"x', "y"), ("", "x"), ('"', '."')])
def test_names_are_split_as_they_were_joined(name: tuple[str, ...]) -> None:
    assert split_name(join_name(name)) == name


# ---- rules over what is reached ---------------------------------------------------------------------------------------


def ask(policy: str, sql: str) -> Decision:
    checked = compile_policy([("p.yaml", policy.encode())])
    assert checked.policy is not None, checked.problems
    return decide(checked.policy, look(sql).report, Context("shop", "prod", "shop", "alice", search_path=("app",)))


LABEL = "version: 1\nlabels: {pii: {tables: [hr.staff]}}\nrules: [{name: pii, match: {label: pii}, action: block}]\n"
ALLOW = "version: 1\ndefaults: {action: block}\nrules: [{name: ok, match: {table: [app.vv, app.inbox, app.nowhere]}, action: allow}]\n"


@pytest.mark.parametrize(
    ("sql", "action"),
    [
        ("select badge from vv", Action.BLOCK),
        ("select code.count_staff()", Action.BLOCK),
        ("select * from nowhere", Action.BLOCK),
        ("insert into inbox values (1)", Action.BLOCK),
        ("select id from parts", Action.ALLOW),
        ("select * from other.staff", Action.ALLOW),
    ],
)
def test_a_label_is_met_by_what_is_reached(sql: str, action: Action) -> None:
    assert ask(LABEL, sql).action is action


@pytest.mark.parametrize(
    ("sql", "action"),
    [
        ("select badge from app.vv", Action.ALLOW),  # what a permitted view shows is permitted with it
        ("insert into app.inbox values (1)", Action.BLOCK),  # what a trigger does is not
        ("select id from app.v", Action.BLOCK),
    ],
)
def test_an_allow_rule_covers_what_is_shown_and_not_what_is_done(sql: str, action: Action) -> None:
    assert ask(ALLOW, sql).action is action


def test_a_report_without_a_catalogue_is_matched_no_less_with_one() -> None:
    for sql in (
        "select * from staff",
        "select code.count_staff(), 1 from v",
        "delete from nowhere",
        "do 'x'",
        "select 1 from",
    ):
        report: Report = classify("postgres", sql.encode(), LexingState())
        kept = set(look(sql).report.effects)
        lost = [each for each in report.effects if each not in kept]
        assert all(each.kind is Kind.DYNAMIC and each.flags == {"unknown_function"} for each in lost)


def test_a_copy_that_was_renamed_is_still_a_copy() -> None:
    copy = Relation(20_100, "pg_temp_1", "renamed", "table", ("id",), former=(("pg_temp_1", "copy"),))
    snapshot = replace(SNAPSHOT, relations=(*SNAPSHOT.relations, copy))
    report = classify("postgres", b"select * from renamed", LexingState())
    found = resolve(report, snapshot, ("app",), (("copy", ("hr.staff",)),))
    assert "hr.staff" in {each.object for each in found.reached}


def test_a_session_that_made_too_much_may_have_copied_anything() -> None:
    found = look("select * from app.now", derived=(("*", (ANYTHING,)),))
    assert ANYTHING in {each.object for each in found.reached}
