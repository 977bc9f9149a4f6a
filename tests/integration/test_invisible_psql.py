"""psql says the same, byte for byte, direct and through the proxy: output, messages, exit status."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest
from support.servers import PostgresServer
from support.two_ways import WAYS, TwoWays, Way, said

Said = tuple[int, bytes, bytes]

SCRIPTS = {
    "describes": r"""
create schema sales;
create type mood as enum ('sad', 'ok');
create domain positive as int check (value > 0);
create table sales.visits (id int generated always as identity primary key, who text not null default 'nobody', how mood, n positive, at timestamptz) partition by range (id);
create table sales.visits_1 partition of sales.visits for values from (1) to (1000);
create index visits_who on sales.visits (who) include (how);
create view sales.recent as select * from sales.visits where at > now() - interval '1 day';
create materialized view sales.counts as select how, count(*) from sales.visits group by how;
create function sales.twice(int) returns int language sql immutable as 'select $1 * 2';
create trigger keep before update on sales.visits_1 for each row execute function suppress_redundant_updates_trigger();
comment on table sales.visits is 'who came';
alter table customers enable row level security;
create policy own on customers using (name = current_user);
\d
\d+ sales.visits
\d sales.visits_1
\d customers
\d+ orders
\dt *.*visits*
\di+ sales.*
\dv sales.*
\dm sales.*
\ds
\df sales.*
\df+ sales.twice
\sf sales.twice
\sv sales.recent
\dT+ mood
\dD
\dn+
\du app
\dp customers
\ddp
\l template1
\dx
\dy
\drds
\dconfig search_path
\dO
\db
\dF
\do public.*
\d nothing_of_the_kind
""",
    "formats": r"""
\pset format unaligned
select * from orders order by id limit 20;
\pset format csv
select id, item, amount, null as nothing, 'a,"b"' as quoted from orders order by id limit 20;
\pset format html
select * from customers order by id limit 3;
\pset format aligned
\x
select * from customers order by id limit 3;
\x off
\pset null '(null)'
\pset border 2
select null, true, 1.5::float8, '2026-01-01 00:00+00'::timestamptz at time zone 'utc', array[1,2,null], row(1,'x'), '\x00ff80'::bytea, '{"a": [1, {"b": null}]}'::jsonb, '1 day 02:03:04'::interval, 'infinity'::timestamp;
\a \t
select repeat('wide ', 2000);
select E'tab\there', 'naïve ☃ 𝄞', U&'\0041', $$dollar 'quoted'$$, $tag$it's$tag$;
""",
    "variables": r"""
\set item lamp
select count(*) from orders where item = :'item';
select count(*) as number, max(amount) as top from orders where item = :'item' \gset
\echo :number :top
select :number + 1 as next;
\if :{?number}
select 'there' as variable;
\else
select 'not there' as variable;
\endif
select 'select ' || n || ' as n' from generate_series(1, 5) n \gexec
select format('create table made_%s (a int)', n) from generate_series(1, 3) n \gexec
\dt made_*
select n, n * n as square from generate_series(1, 3) n \crosstabview n square
select item, extract(year from placed_at) y, count(*) c from orders group by 1, 2 order by 1 \crosstabview
select 1 as a \gdesc
select $1::int + $2::int as sum \bind 40 2 \g
select now() - now() as zero \gx
\echo :ROW_COUNT :SQLSTATE :ERROR
select 1/0;
\echo :ROW_COUNT :SQLSTATE :ERROR
\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
""",
    "several statements": r"""
select 1 \; select 2 \; select 3;
create table t (a int primary key) \; insert into t values (1), (2) \; select * from t order by a;
insert into t values (3) \; insert into t values (3) \; insert into t values (4);
select * from t order by a;
begin \; insert into t values (5) \; commit \; insert into t values (6) \; select 1/0;
select * from t order by a;
begin \; insert into t values (7);
\echo :SQLSTATE
rollback;
select count(*) from t;
;
;;
""",
    "errors": r"""
select * from no_such_table;
select no_such_column from orders;
selct 1;
select 1/0;
select 'x'::int;
insert into orders (id) values (1);
insert into customers values (1, 'x', 'y', 'z');
select
  count(*),
  nonsense
from orders;
do $$ begin raise notice 'a notice %', 1; raise warning 'a warning' using detail = 'the detail', hint = 'the hint'; end $$;
do $$ begin raise exception 'a failure' using errcode = 'P0042', detail = 'the detail', hint = 'the hint', column = 'c', table = 't', constraint = 'k'; end $$;
\set VERBOSITY verbose
select 1/0;
delete from customers where id = 1;
\errverbose
\set VERBOSITY sqlstate
select 1/0;
\set SHOW_CONTEXT always
do $$ begin raise notice 'with context'; perform 1/0; end $$;
set client_min_messages = debug1;
create table noisy (a int primary key);
reset client_min_messages;
drop table if exists never_was;
\copy orders from /no/such/file
\i /no/such/script
""",
    "transactions": r"""
begin;
insert into customers values (1001, 'Zoe', 'zoe@example.com', '1');
savepoint a;
insert into customers values (1001, 'Zoe', 'zoe@example.com', '1');
select 1;
rollback to a;
insert into customers values (1002, 'Yan', 'yan@example.com', '2');
release a;
commit;
select count(*) from customers;
begin;
select 1/0;
select 1;
commit;
select count(*) from customers;
\set AUTOCOMMIT off
update customers set name = 'X' where id = 1;
rollback;
select count(*) from customers where name = 'X';
\set AUTOCOMMIT on
\set ON_ERROR_ROLLBACK on
begin;
select 1/0;
select 'still alive';
commit;
begin isolation level serializable read only deferrable;
show transaction_isolation;
insert into customers values (1003, 'W', 'w', '3');
rollback;
prepare find (int) as select name from customers where id = $1;
execute find(1);
execute find(2);
deallocate find;
execute find(1);
begin;
declare c scroll cursor for select id from orders order by id;
fetch 3 from c;
fetch last from c;
fetch backward 2 from c;
move absolute 10 in c;
fetch next from c;
close c;
commit;
start transaction;
prepare transaction 'two-phase';
rollback prepared 'two-phase';
set local work_mem = '4MB';
set search_path = pg_catalog;
show search_path;
reset search_path;
discard all;
\set FETCH_COUNT 100
select count(*), sum(length(x)) from (select repeat('y', id) x from orders) s;
select id from orders order by id limit 250;
""",
    "copy": r'''
copy (select * from orders order by id limit 5) to stdout;
copy (select * from orders order by id limit 5) to stdout with (format csv, header, quote $$'$$);
\copy (select id, item from orders order by id limit 5) to stdout csv
create table loaded (id int primary key, t text);
copy loaded from stdin;
1	one
2	two \\ with a backslash
3	\N
\.
copy loaded from stdin with (format csv);
4,"four, with ""quotes"""
\.
copy loaded from stdin;
5	five
five	5
\.
copy loaded from stdin;
1	again
\.
select * from loaded order by id;
begin;
copy loaded from stdin;
nonsense
\.
select 1;
rollback;
copy loaded to stdout \; select 'after' as copy;
copy no_such_table to stdout;
copy no_such_table from stdin;
copy loaded to '/no/such/folder/file';
copy loaded to program 'true';
''',
    "sessions": r"""
set application_name = 'two ways';
show application_name;
\connect - - - -
select current_user, session_user, current_database();
set role clear_user;
set time zone 'Asia/Kolkata';
set datestyle = 'SQL, DMY';
select '2026-02-03 04:05:06+00'::timestamptz;
set client_encoding = 'LATIN1';
select 'plain';
\encoding UTF8
set standard_conforming_strings = off;
select 'back\\slash', E'back\\slash';
set standard_conforming_strings = on;
select 'back\\slash';
\timing off
\password_is_no_command
listen here;
notify here, 'said to myself';
select 1;
unlisten *;
""",
}


def _psql(two_ways: TwoWays) -> Path:
    return two_ways.program("psql")


def _hidden(way: Way) -> list[tuple[str, str]]:
    return [(f'port "{way.port}"', "port"), (f"port {way.port} ", "port ")]


def _plain(result: Said) -> Said:
    """Without the numbers of server processes."""
    status, out, err = result
    return status, re.sub(rb"(process with PID |PID=?)\d+", rb"\1N", out), re.sub(rb"\bPID \d+", b"PID N", err)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("options", [(), ("-v", "ON_ERROR_STOP=1"), ("--single-transaction",)], ids=["", "stop", "one"])
def test_script_says_the_same(two_ways: TwoWays, tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    script = tmp_path / "script.sql"
    script.write_text(SCRIPTS[name])

    def scenario(way: Way) -> Said:
        return _plain(said(way.run(_psql(two_ways), "-X", *options, "-f", script), _hidden(way)))

    status, out, messages = two_ways.compare("psql_script", scenario)
    assert status == 0 or options
    assert out or messages


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_says_the_same_over_tls(two_ways_tls: TwoWays, name: str) -> None:
    def scenario(way: Way) -> Said:
        done = way.run(_psql(two_ways_tls), "-X", "-a", "-e", stdin=SCRIPTS[name].encode())
        return _plain(said(done, _hidden(way)))

    assert two_ways_tls.compare("psql_script_tls", scenario)[1]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["-c", "select 1"], 0),
        (["-c", "select 1", "-c", "select 2/0", "-c", "select 3"], 0),
        (["-c", "select 1; select 2/0; select 3"], 1),
        (["-c", "\\d nothing"], 1),
        (["-v", "ON_ERROR_STOP=1", "-f", "-"], 3),
        (["-f", "/no/such/file"], 1),
        (["-d", "no_such_database", "-c", "select 1"], 2),
        (["-1", "-c", "create table x (a int)", "-c", "select 1/0"], 1),
        (["-l"], 0),
        (["-At", "-R", "|", "-F", "~", "-c", "table orders"], 0),
        (["-At0", "-c", "select id from orders"], 0),
        (["-c", "\\watch c=2 i=0.01"], 1),
        (["-c", "select pg_terminate_backend(pg_backend_pid())"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_psql_ends_with_the_same_status(two_ways: TwoWays, arguments: list[str], status: int) -> None:
    def scenario(way: Way) -> Said:
        done = way.run(_psql(two_ways), "-X", *arguments, stdin=b"select 1;\nselect 2/0;\nselect 3;\n")
        return said(done, _hidden(way))

    assert two_ways.compare("psql_status", scenario)[0] == status


def test_large_objects_go_in_and_out_by_function_calls(two_ways: TwoWays, tmp_path: Path) -> None:
    # libpq's large object functions use the protocol's FunctionCall.
    original = tmp_path / "original"
    original.write_bytes(os.urandom(300_000) + bytes(range(256)))

    def scenario(way: Way) -> tuple[int, bytes, bytes]:
        copy = tmp_path / way.name
        script = (
            f"\\lo_import {original} 'kept'\nselect length(lo_get(:LASTOID));\n"
            f"\\lo_export :LASTOID {copy}\n\\lo_unlink :LASTOID\n\\lo_export :LASTOID {copy}.gone\n\\lo_list\n"
        )
        done = way.run(_psql(two_ways), "-X", "-q", stdin=script.encode())
        assert copy.read_bytes() == original.read_bytes()
        found = said(done, [(str(copy), "copy")])
        return found[0], re.sub(rb"\d{5,}", b"N", found[1]), re.sub(rb"\b\d{5,}\b", b"N", found[2])

    assert two_ways.compare("lo", scenario)[0] == 0


def test_interrupt_cancels_the_running_statement_and_the_next_one_works(
    two_ways: TwoWays, postgres: PostgresServer
) -> None:
    def scenario(way: Way) -> str:
        with _Terminal(way, _psql(two_ways)) as terminal:
            terminal.say("select 'begin', 40 + 2;", until="42")
            for number in (1, 2):
                terminal.say(f"select pg_sleep(60) /* {number} */;")
                _wait_until_sleeping(postgres, way.database.name)
                terminal.process.send_signal(signal.SIGINT)
                terminal.wait_for("canceling statement due to user request")
                terminal.say("select 'next', 900 + 9;", until="909")
            return "cancelled"

    assert two_ways.compare("psql_interrupt", scenario) == "cancelled"


@pytest.mark.parametrize("name", WAYS)
def test_interrupt_leaves_other_sessions_of_the_same_person_alone(
    two_ways: TwoWays, postgres: PostgresServer, name: str
) -> None:
    with (
        two_ways.open(name, "psql_interrupt_one") as way,
        _Terminal(way, _psql(two_ways)) as one,
        _Terminal(way, _psql(two_ways)) as other,
    ):
        other.say("select pg_sleep(2), 500 + 55;")
        one.say("select pg_sleep(60);")
        _wait_until_sleeping(postgres, way.database.name, 2)
        one.process.send_signal(signal.SIGINT)
        one.wait_for("canceling statement due to user request")
        other.wait_for("555")
        assert "canceling" not in other.shown


def _wait_until_sleeping(server: PostgresServer, database: str, number: int = 1) -> None:
    query = f"select count(*) from pg_stat_activity where datname = '{database}' and wait_event = 'PgSleep'"
    deadline = time.monotonic() + 20
    while server.fetch(query)[0][0] < number:
        assert time.monotonic() < deadline, "the statement never slept"
        time.sleep(0.02)


class _Terminal:
    """psql on a terminal of its own, as a person sees it."""

    def __init__(self, way: Way, psql: Path) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [str(psql), "-X", "-n", "-P", "pager=off"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=way.environment() | {"TERM": "dumb"},
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        self.wait_for("=> ")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ours)
        self.process.kill()
        self.process.wait(10)

    def say(self, line: str, until: str = "") -> None:
        self.shown = ""
        os.write(self._ours, line.encode() + b"\n")
        if until:
            self.wait_for(until)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} never came; shown: {self.shown!r}"
            if select.select([self._ours], [], [], 0.2)[0]:
                self.shown += os.read(self._ours, 65536).decode(errors="replace")
