"""Ways around a label, on a real server, through the real proxy with a catalogue: each is seen as access to the label, or held as dynamic.

The policy lets everything pass and says what it saw, so that each way really leads to the table; a second one refuses.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.proxy import Proxy, running_proxy
from support.servers import Database, PostgresServer, fresh_database

pytestmark = pytest.mark.integration

WATCHING = """
version: 1
defaults: {action: allow, unsafe_on_unparsable: alert, unsafe_on_dynamic: alert, on_error: block}
labels: {pii: {tables: ["*.customers", "hidden.*", "pg_catalog.pg_shadow"]}}
rules:
  - {name: pii, match: {label: pii}, action: alert, severity: high}
"""
REFUSING = WATCHING.replace("unsafe_on_unparsable: alert, unsafe_on_dynamic: alert, ", "").replace(
    "action: alert", "action: block"
)
SETUP = """
create schema hidden; create schema other; create schema code;
create table hidden.keys(id int primary key, key text); insert into hidden.keys values (1, 'k1'), (2, 'k2');
create table other.keys(id int primary key, key text); insert into other.keys values (1, 'harmless');
create table notes(id int, body text); insert into notes values (1, 'n');
create table journal(id int, body text);
create table audited(id int, body text); create table guessed(id int, body text); create table quiet(id int, body text);
create view v_ssn as select id, ssn from customers;
create view v_over as select id, ssn as badge from v_ssn;
create view v_row as select c, c.id from customers c;
create view v_shadow as select * from pg_shadow;
create function ssn_like(o orders) returns text language sql as 'select ssn from public.customers limit 1';
create view v_orders as select id, item from orders;
create materialized view m_ssn as select ssn from customers;
create table events(id int); create table hidden.events_secret(ssn text) inherits (events); insert into hidden.events_secret values (1, 's');
create table hidden.parts(id int, at int) partition by range (at);
create table part_1 partition of hidden.parts for values from (0) to (10); insert into part_1 values (1, 1);
create function code.ssn_of(i int) returns text language sql as 'select ssn from customers where id = i';
create function code.ssn_definer(i int) returns text language sql security definer set search_path = public as 'select ssn from customers where id = i';
create function code.indirect(i int) returns text language sql as 'select code.ssn_of(i)';
create function code.with_default(t text default code.ssn_of(1)) returns text language sql as 'select $1';
create function code.atomic_(i int) returns text begin atomic select ssn from customers where id = i; end;
create function code.plain_(i int) returns text language plpgsql as 'declare r text; begin select c.ssn into r from public.customers as c where c.id = i; return r; end';
create function code.opaque(t text) returns bigint language plpgsql as 'declare r bigint; begin execute ''select count(*) from '' || t into r; return r; end';
create function code.add_up(s text, i int) returns text language sql as 'select coalesce(s, '''') || (select ssn from public.customers where id = i)';
create aggregate code.all_ssn(int) (sfunc = code.add_up, stype = text);
create operator code.@@@ (function = code.ssn_definer, rightarg = int);
create function code.count_orders() returns bigint language sql as 'select count(*) from orders';
create type mood as enum ('good', 'bad');
create domain known_ssn as int check (code.ssn_of(value) is not null);
create view v_function as select code.ssn_of(1) as x;
create view v_operator as select operator(code.@@@) 1 as x;
create table guarded(id int default length(code.ssn_of(1)), body text check (code.ssn_of(1) <> body));
create function code.log_ssn() returns trigger language plpgsql as 'begin insert into public.journal select id, ssn from public.customers limit 1; return new; end';
create trigger t_log after insert on audited for each row execute function code.log_ssn();
create function code.log_any() returns trigger language plpgsql as 'begin execute ''insert into public.journal select id, ssn from public.customers limit 1''; return new; end';
create trigger t_any after insert on guessed for each row execute function code.log_any();
create function code.log_quiet() returns trigger language plpgsql as 'begin insert into public.notes values (new.id, new.body); return new; end';
create trigger t_quiet after insert on quiet for each row execute function code.log_quiet();
create rule r_notes as on delete to notes do also insert into journal select id, ssn from customers limit 1;
create table owners(id int primary key); create table hidden.pets(id int, owner int references owners on delete cascade);
insert into owners values (1); insert into hidden.pets values (1, 1);
create table watched(id int); insert into watched values (1); alter table watched enable row level security; alter table watched force row level security;
create policy p on watched using (exists (select 1 from customers));
create foreign data wrapper nowhere; create server far foreign data wrapper nowhere;
create foreign table far_away(id int) server far options (schema_name 'hidden', table_name 'keys');
"""
SEEN = {
    "by its name": ["select count(*) from customers"],
    "view": ["select ssn from v_ssn limit 1"],
    "view over view": ["select badge from v_over limit 1"],
    "view of whole rows": ["select c from v_row limit 1"],
    "materialized view": ["select * from m_ssn limit 1"],
    "view of the server's own secrets": ["select * from v_shadow"],
    "function as a column": ["select o.ssn_like from orders o limit 1"],
    "view behind a CTE of the same name": ["with customers as (select * from v_ssn) select * from customers limit 1"],
    "copy of a view": ["copy (select * from v_over) to stdout"],
    "explain of a view": ["explain select * from v_over"],
    "write through a view": ["update v_ssn set ssn = ssn where id = 1"],
    "delete through a view": ["delete from v_ssn where id = -1"],
    "inherited table": ["select * from events"],
    "partition": ["select * from part_1"],
    "SQL function": ["select code.ssn_of(1)"],
    "SQL function by search_path": ["set search_path = code, public", "select ssn_of(1)"],
    "SQL function in FROM": ["select * from code.ssn_of(1)"],
    "security definer function": ["select code.ssn_definer(1)"],
    "function calling a function": ["select code.indirect(1)"],
    "function in an argument's default": ["select code.with_default()"],
    "function with a body of the standard": ["select code.atomic_(1)"],
    "PL/pgSQL function": ["select code.plain_(1)"],
    "PL/pgSQL function that runs text": ["select code.opaque('customers')"],
    "aggregate": ["select code.all_ssn(1)"],
    "operator": ["select operator(code.@@@) 1"],
    "domain": ["select 1::known_ssn"],
    "function in a view": ["select * from v_function"],
    "operator in a view": ["select * from v_operator"],
    "default and check": ["insert into guarded(body) values ('x')"],
    "trigger": ["insert into audited values (1, 'x')"],
    "trigger that runs text": ["insert into guessed values (1, 'x')"],
    "rule": ["delete from notes where id = 7"],
    "cascade": ["delete from owners where id = 1"],
    "policy": ["select * from watched"],
    "search_path": ["set search_path = hidden", "select count(*) from keys"],
    "search_path by a function": ["select set_config('search_path', 'other,hidden', false)", "select count(*) from events_secret"],
    "search_path in a transaction": ["begin", "set local search_path = hidden", "select count(*) from keys"],
    "prepared before the search_path": ["set search_path = other", "prepare p as select count(*) from keys", "set search_path = hidden", "execute p"],
    "cursor": ["begin", "declare c cursor for select * from v_over", "fetch 2 from c"],
    "cursor of a function": ["begin", "declare c cursor for select code.ssn_of(1)", "fetch 1 from c"],
    "temporary view": ["create temp view tv as select * from v_ssn", "select * from tv limit 1"],
    "temporary view over a temporary view": ["create temp view t1 as select * from customers", "create temp view t2 as select * from t1", "select * from t2 limit 1"],
    "temporary view that hides a table": ["create temp view orders as select * from customers", "select * from orders limit 1"],
    "temporary copy": ["create temp table tc as select * from v_ssn", "select count(*) from tc"],
    "copy of a copy": ["select * into temp x1 from customers", "create temp table x2 as select ssn from x1", "select count(*) from x2"],
    "copy into a table that was there": ["create temp table x3(id int, ssn text)", "insert into x3 select id, ssn from v_ssn", "select count(*) from x3"],
    "copy in a schema": ["create table other.copied as select * from v_ssn", "select count(*) from other.copied"],
    "table renamed in the session": ["begin", "alter table customers rename to boring", "select count(*) from boring"],
    "prepared by the protocol": ["select badge from v_over where id = %s limit 1"],
    "name that is not there": ["begin", "do 'begin execute ''create temp view unheard as select * from customers''; end'", "select count(*) from unheard"],
    "merge": ["merge into quiet using v_ssn s on quiet.id = s.id when matched then do nothing"],
    "truncate of a parent": ["begin", "truncate events", "rollback", "truncate events"],
}  # fmt: skip
UNSEEN = {
    "its own table": ["select count(*) from orders"],
    "a view of others": ["select * from v_orders limit 1"],
    "a function of others": ["select code.count_orders()"],
    "a trigger of others": ["insert into quiet values (1, 'x')"],
    "an enum": ["select 'good'::mood"],
    "the other schema's table": ["set search_path = other", "select count(*) from keys"],
    "prepared for the other schema": ["set search_path = other", "prepare p as select count(*) from keys", "execute p"],
    "a temporary table": ["create temp table tt(id int)", "insert into tt values (1)", "select * from tt"],
    "a temporary copy of others": ["create temp table to1 as select * from orders", "select count(*) from to1"],
    "the catalogue": ["select count(*) from pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"],
    "the standard's catalogue": ["select count(*) from information_schema.tables"],
    "a table made and left": ["create table made(id int)", "drop table made"],
    "a write": ["update orders set item = item where id = 1"],
    "a CTE": ["with x as (select 1 as a) select * from x"],
    "a function of the server": ["select lower('A'), count(*) from generate_series(1, 3) g"],
}  # fmt: skip


JUDGED = ("statement.intent", "statement.refused")
CHANGING = {"copy in a schema", "table renamed in the session"}
"""They change what others see."""


def monitored(settings: dict[str, Any], refresh_s: float = 300.0) -> None:
    settings["targets"][0]["monitor"] = "app"
    settings["catalogue"] = {"refresh_s": refresh_s}


@pytest.fixture(scope="module")
def watching(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("watching"), postgres, policy=WATCHING, change=monitored) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def refusing(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("refusing"), postgres, policy=REFUSING, change=monitored) as proxy:
        yield proxy


@contextlib.contextmanager
def arranged(server: PostgresServer) -> Iterator[Database]:
    name = f"ways_{os.urandom(4).hex()}"
    with fresh_database(server, name) as database:
        database.execute(SETUP, *_GRANTS)
        yield database


_GRANTS = (
    "do $$ declare s text; begin foreach s in array array['hidden', 'other', 'code'] loop execute format('grant all on schema %I to app; grant all on all tables in schema %I to app', s, s); end loop; end $$",
    "grant all on all tables in schema public to app",
    "alter table customers owner to app",
)


@pytest.fixture(scope="module")
def ways(postgres: PostgresServer) -> Iterator[Database]:
    with arranged(postgres) as database:
        yield database


def play(proxy: Proxy, database: Database, texts: list[str]) -> tuple[str, str]:
    """Run the texts in one session; only the last one may fail. A mark in the last one's text, and the error if there was one."""
    mark = f"/* {os.urandom(6).hex()} */"
    last = f"{texts[-1]} {mark}".encode()
    with proxy.connect("alice", database.name) as connection:
        for text in texts[:-1]:
            connection.execute(text.encode())
        try:
            if last.startswith(b"copy"):
                with connection.cursor() as cursor, cursor.copy(last) as rows:
                    list(rows)
            else:
                parameters = (1,) if b"%s" in last else None
                connection.execute(last, parameters, prepare=parameters is not None)
        except psycopg.Error as refused:
            return mark, str(refused)
    return mark, ""


def run(proxy: Proxy, database: Database, texts: list[str]) -> tuple[dict[str, Any], str]:
    """As play, with the last text's record."""
    mark, error = play(proxy, database, texts)
    return proxy.wait_for_record(lambda each: each["type"] in JUDGED and mark in each.get("sql", "")), error


def play_all(
    proxy: Proxy, server: PostgresServer, database: Database, ways: dict[str, list[str]]
) -> dict[str, tuple[dict[str, Any], str]]:
    """Each way in a session of its own; the ledger is read once."""
    played: dict[str, tuple[str, str]] = {}
    for way, texts in ways.items():
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(arranged(server)) if way in CHANGING else database
            played[way] = play(proxy, own, texts)
    last = list(played.values())[-1][0]
    proxy.wait_for_record(lambda each: each["type"] in JUDGED and last in each.get("sql", ""))
    records = proxy.records(*JUDGED)
    return {
        way: (next(each for each in records if mark in each.get("sql", "")), error)
        for way, (mark, error) in played.items()
    }


def rules(record: dict[str, Any]) -> set[str]:
    return {each["name"] for each in record["rules"]}


@pytest.fixture(scope="module")
def seen(watching: Proxy, postgres: PostgresServer, ways: Database) -> dict[str, tuple[dict[str, Any], str]]:
    return play_all(watching, postgres, ways, SEEN | UNSEEN)


@pytest.mark.parametrize("way", SEEN)
def test_each_way_to_a_labelled_table_is_seen(seen: dict[str, tuple[dict[str, Any], str]], way: str) -> None:
    record, error = seen[way]
    assert not error
    assert record["catalogue"] in ("full", "degraded")
    assert rules(record) & {"pii", "defaults.on_dynamic"}, record
    if way not in ("PL/pgSQL function that runs text", "trigger that runs text"):
        assert "pii" in rules(record), record


def test_a_foreign_table_is_another_server_s(watching: Proxy, ways: Database) -> None:
    record, error = run(watching, ways, ["select * from far_away"])
    assert "no handler" in error
    assert "pii" in rules(record)
    assert "foreign table public.far_away" in {each["via"] for each in record["resolved"]}


@pytest.mark.parametrize("way", UNSEEN)
def test_ordinary_work_is_not_taken_for_it(seen: dict[str, tuple[dict[str, Any], str]], way: str) -> None:
    record, error = seen[way]
    assert not error
    assert (record["catalogue"], rules(record)) == ("full", set()), record


@pytest.mark.parametrize("way", ["view over view", "PL/pgSQL function", "PL/pgSQL function that runs text", "trigger", "cascade", "rule", "domain"])  # fmt: skip
def test_what_is_refused_does_not_happen(refusing: Proxy, ways: Database, way: str) -> None:
    def state() -> list[Any]:
        return ways.fetch(
            "select (select count(*) from journal), (select count(*) from hidden.pets), (select count(*) from notes)"
        )

    before = state()
    record, error = run(refusing, ways, SEEN[way])
    assert 'blocked by rule "pii"' in error or 'blocked by rule "defaults.on_dynamic"' in error
    assert record["type"] == "statement.refused"
    assert state() == before


def test_the_record_says_what_is_reached_and_how(watching: Proxy, ways: Database) -> None:
    record, _ = run(watching, ways, ["select badge from v_over limit 1"])
    assert {(each["name"], each["mode"], each["via"]) for each in record["resolved"]} == {
        ("public.v_over", "read", "name"),
        ("public.v_ssn", "read", "view public.v_over"),
        ("public.customers", "read", "view public.v_ssn"),
    }


def settled(proxy: Proxy, database: Database, text: str, *, name: str) -> dict[str, Any]:
    """The statement's record once the catalogue has what the text names."""
    deadline = time.monotonic() + 20
    while True:
        record, _ = run(proxy, database, [text])
        if record["catalogue"] == "full" and any(each["name"] == name for each in record["resolved"]):
            return record
        assert time.monotonic() < deadline, record
        time.sleep(0.2)


def test_what_is_changed_behind_the_proxy_s_back_is_refused_until_it_is_known(
    refusing: Proxy, database: Database
) -> None:
    run(refusing, database, ["select 1 from orders limit 1"])
    database.execute("create view behind as select * from customers", "create view harmless as select * from orders")
    for view in ("behind", "harmless"):
        record, error = run(refusing, database, [f"select * from {view} limit 1"])
        assert (record["unresolved"], record["degraded_visibility"], record["catalogue"]) == ([view], True, "degraded")
        assert 'blocked by rule "pii"' in error
    # A miss has the catalogue read again.
    record = settled(refusing, database, "select * from harmless limit 1", name="public.orders")
    assert record["action"] == "allow"
    record = settled(refusing, database, "select * from behind limit 1", name="public.customers")
    assert record["action"] == "block"


def test_a_rule_follows_a_table_through_renames(refusing: Proxy, database: Database) -> None:
    run(refusing, database, ["select 1 from orders limit 1"])
    database.execute(
        "alter table customers rename to boring", "create schema attic", "alter table boring set schema attic"
    )
    record = settled(refusing, database, "select * from attic.boring limit 1", name="public.customers")
    assert record["action"] == "block"
    assert "former name of attic.boring" in {each["via"] for each in record["resolved"]}


def test_definitions_that_pass_through_the_proxy_are_known_to_other_sessions(
    refusing: Proxy, database: Database
) -> None:
    with refusing.connect("bob", database.name) as bob:
        bob.execute("create view of_orders as select * from orders")
        record = settled(refusing, database, "select * from of_orders limit 1", name="public.orders")
        assert record["action"] == "allow"


def test_a_trigger_counts_at_once_in_the_session_that_made_it(refusing: Proxy, database: Database) -> None:
    database.execute(
        "create table tray (id int)",
        "create function take() returns trigger language plpgsql as "
        "'begin delete from public.customers; return new; end'",
        "alter table tray owner to app",
    )
    settled(refusing, database, "select * from tray", name="public.tray")
    before = database.fetch("select count(*) from customers")
    with refusing.connect("alice", database.name) as alice:
        alice.execute("create trigger taking after insert on tray for each row execute function take()")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="pii"):
            alice.execute("insert into tray values (1)")
    assert database.fetch("select count(*) from customers") == before


def test_a_prepared_statement_is_judged_by_what_its_view_is_now(refusing: Proxy, database: Database) -> None:
    database.execute("set role app", "create view shifting as select id, item from orders")
    with refusing.connect("alice", database.name, prepare_threshold=0) as alice:
        assert alice.execute("select item from shifting limit 1").fetchall()
        database.execute("set role app", "create or replace view shifting as select id, ssn as item from customers")
        with contextlib.suppress(psycopg.Error):
            alice.execute("select 1 from a_miss")
        deadline = time.monotonic() + 20
        while True:
            try:
                alice.execute("select item from shifting limit 1").fetchall()
            except psycopg.Error as refused:
                answer = str(refused)
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert 'blocked by rule "pii"' in answer


def test_it_is_read_again_by_itself(make_proxy: Any, database: Database) -> None:
    proxy = make_proxy(policy=REFUSING, change=lambda settings: monitored(settings, 5.0))
    database.execute("set role app", "create view shifting as select id, item from orders")
    settled(proxy, database, "select id from shifting limit 1", name="public.orders")
    database.execute("set role app", "create or replace view shifting as select id, ssn as item from customers")
    deadline = time.monotonic() + 20  # nothing has passed through the proxy, and no name is missing: only time passes
    while not run(proxy, database, ["select item from shifting limit 1"])[1]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_control_may_be_started_again(make_proxy: Any, database: Database) -> None:
    proxy = make_proxy(policy=REFUSING, change=monitored)
    run(proxy, database, ["select 1 from orders limit 1"])
    database.execute("alter table customers rename to boring")
    settled(proxy, database, "select * from boring limit 1", name="public.customers")
    before = proxy.processes("control")
    os.kill(before[0], 9)
    assert run(proxy, database, ["select * from boring limit 1"])[0]["action"] == "block"  # by what the worker has
    deadline = time.monotonic() + 20
    while not proxy.processes("control") or proxy.processes("control") == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    database.execute("create view after_it as select * from boring")
    record = settled(
        proxy, database, "select * from after_it limit 1", name="public.customers"
    )  # the name that it had is not forgotten
    assert record["action"] == "block"


def test_an_account_that_may_see_less_degrades_visibly(make_proxy: Any, database: Database) -> None:
    database.execute(
        "create function f() returns bigint language sql as 'select count(*) from orders'",
        "create table t(id int)",
        "create function tg() returns trigger language plpgsql as 'begin return new; end'",
        "create trigger tr after insert on t for each row execute function tg()",
        "grant all on t to app",
        "revoke select on pg_catalog.pg_proc, pg_catalog.pg_trigger from public",
    )
    proxy = make_proxy(policy=REFUSING, change=monitored)
    record, error = run(proxy, database, ["select f()"])
    assert "defaults.on_dynamic" in error
    record, error = run(proxy, database, ["insert into t values (1)"])
    assert "defaults.on_dynamic" in error
    assert (record["catalogue"], record["degraded_visibility"]) == ("degraded", True)
    record, error = run(proxy, database, ["select count(*) from orders"])
    assert not error
    assert "functions cannot be read" in proxy.stderr
    assert "triggers cannot be read" in proxy.stderr


def test_without_a_catalogue_every_table_may_be_any(make_proxy: Any, database: Database) -> None:
    def broken(settings: dict[str, Any]) -> None:
        settings["targets"][0]["accounts"].append(
            {"name": "nobody", "user": "nobody_there", "password": "${env:NOBODY}"}
        )
        settings["targets"][0]["monitor"] = "nobody"

    proxy = make_proxy(policy=REFUSING, change=broken, environment={"NOBODY": "x"})
    record, error = run(proxy, database, ["select count(*) from orders"])
    assert 'blocked by rule "pii"' in error
    assert (record["catalogue"], record["degraded_visibility"]) == ("missing", True)
    status, text = proxy.get("/readyz")
    assert (status, json.loads(text)["warnings"]) == (200, ["catalogue of target shop cannot be read"])
    with proxy.connect("alice", database.name) as alice:
        assert alice.execute("select 1").fetchall() == [(1,)]


def test_without_a_monitor_account_nothing_is_different(strict_proxy: Proxy, database: Database) -> None:
    record, error = run(strict_proxy, database, ["select count(*) from orders"])
    assert not error
    assert {"catalogue", "resolved"} & record.keys() == set()


def test_files_of_the_catalogue_are_the_proxy_s_own(watching: Proxy, ways: Database) -> None:
    run(watching, ways, ["select 1 from orders limit 1"])
    folder: Path = watching.folder / "state" / "catalogue"
    found = list(folder.glob("*.json"))
    assert found
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    text = b"".join(path.read_bytes() for path in found)
    assert b"customers" in text
    assert b"begin insert" not in text  # no text of a function
