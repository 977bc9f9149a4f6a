"""psycopg 3 sees the same direct and through the proxy: pipelines, cursors, prepared statements, COPY, notifications."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql
from support.two_ways import WAYS, TwoWays, Way

Seen = list[Any]
Scenario = Callable[["Connection[Any]"], Seen]


def _fails(run: Callable[[], object]) -> str:
    """How a call failed: class, SQLSTATE and text."""
    try:
        run()
    except psycopg.Error as error:
        return f"{type(error).__name__} {error.sqlstate} {error}"
    return "no error"


def pipeline(connection: Connection[Any]) -> Seen:
    seen: Seen = []
    connection.execute("create table t (a int primary key, b text)")
    with connection.pipeline() as queue:
        cursors = [connection.execute("insert into t values (%s, %s) returning a", (n, f"row {n}")) for n in range(200)]
        queue.sync()
        seen.append([cursor.fetchone() for cursor in cursors])
        seen.append(connection.execute("select count(*), sum(a) from t").fetchone())
    with connection.pipeline():
        cursor = connection.cursor()
        cursor.executemany(
            "insert into t values (%s, %s) returning a", [(n, "more") for n in range(200, 1200)], returning=True
        )
        total = 0
        while True:
            total += sum(row[0] for row in cursor.fetchall())
            if not cursor.nextset():
                break
        seen.append(total)
    seen.append(connection.info.transaction_status.name)
    return seen


def pipeline_errors(connection: Connection[Any]) -> Seen:
    connection.execute("create table t (a int primary key)")
    seen: Seen = []

    def duplicate() -> None:
        with connection.pipeline():
            for n in (1, 2, 2, 3):
                connection.execute("insert into t values (%s)", (n,))

    seen.append(_fails(duplicate))
    seen.append(connection.execute("select a from t order by a").fetchall())
    with connection.pipeline() as queue:
        connection.execute("insert into t values (10)")
        queue.sync()

        def group() -> None:
            connection.execute("insert into t values (10)")
            connection.execute("insert into t values (11)")  # raises already, if the answer was quick
            queue.sync()

        seen.append(_fails(group))
        with contextlib.suppress(psycopg.Error):
            queue.sync()
        connection.execute("insert into t values (12)")
        queue.sync()
    seen.append(connection.execute("select a from t order by a").fetchall())

    def broken_transaction() -> None:
        with connection.pipeline(), connection.transaction():
            connection.execute("insert into t values (20)")
            connection.execute("select 1/0")
            connection.execute("insert into t values (21)")

    seen.append(_fails(broken_transaction))

    def nested() -> None:
        with connection.pipeline(), connection.transaction():
            connection.execute("insert into t values (30)")
            with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
                connection.execute("insert into t values (30)").fetchone()
            connection.execute("insert into t values (31)")

    seen.append(_fails(nested))
    seen.append(
        _fails(lambda: connection.cursor().executemany("insert into t values (%s)", [(n,) for n in (40, 41, 40, 42)]))
    )
    seen.append(connection.execute("select a from t order by a").fetchall())
    seen.append(connection.info.transaction_status.name)
    return seen


def cursors(connection: Connection[Any]) -> Seen:
    seen: Seen = []
    with connection.transaction():
        for is_scrollable in (False, True):
            with connection.cursor("named", scrollable=is_scrollable) as cursor:
                cursor.itersize = 37
                cursor.execute("select id, item from orders order by id")
                seen.append(hashlib.sha256(repr(list(cursor)).encode()).hexdigest())
                if is_scrollable:
                    cursor.scroll(10, "absolute")
                    seen.append(cursor.fetchmany(3))
                    seen.append(_fails(lambda: cursor.scroll(-100)))
        with connection.cursor("held", withhold=True) as kept:
            kept.execute("select generate_series(1, 10)")
            seen.append(kept.fetchmany(4))
    with connection.cursor() as client:
        seen.append(sum(len(row[1]) for row in client.stream("select id, repeat('x', id) from orders order by id")))
    with connection.cursor(binary=True) as binary:
        seen.append(binary.execute("select id, amount, placed_at, item from orders order by id limit 5").fetchall())
    raw = psycopg.RawCursor(connection)
    seen.append(raw.execute("select $1::int + $2", [1, 2]).fetchone())
    return seen


def prepared(connection: Connection[Any]) -> Seen:
    seen: Seen = []
    connection.prepare_threshold = 2
    connection.prepared_max = 5
    for turn in range(40):
        query = sql.SQL("select {}::int, count(*) from orders where id > %s").format(sql.Literal(turn % 8))
        seen.append(connection.execute(query, (turn,)).fetchone())
    seen.append(connection.execute("select count(*) from pg_prepared_statements").fetchone())
    connection.execute("create table t (a int)")
    for _ in range(4):
        seen.append(connection.execute("select * from t where a = %s", (1,), prepare=True).fetchall())
    connection.execute("alter table t add column b text")
    seen.append(_fails(lambda: connection.execute("select * from t where a = %s", (1,), prepare=True).fetchall()))
    connection.execute("deallocate all")
    seen.append(_fails(lambda: connection.execute("select * from t where a = %s", (2,), prepare=True)))
    connection.execute("discard all")
    seen.append(_fails(lambda: connection.execute("select * from t where a = %s", (3,), prepare=True)))
    for kind in ("null", "1", "'x'", "array[1,2]", "'{}'::json", "now() - now()", "'\\x00'::bytea", "1.5", "true"):
        for is_binary in (False, True):
            found = connection.execute(f"select {kind}", prepare=True, binary=is_binary).fetchone()  # type: ignore[arg-type] # not a literal
            seen.append(repr(found))
    return seen


def copies(connection: Connection[Any]) -> Seen:
    seen: Seen = []
    connection.execute("create table t (a int primary key, b text, c timestamptz)")
    cursor = connection.cursor()
    with cursor.copy("copy t from stdin") as copy:
        for n in range(20_000):
            copy.write_row((n, f"text\t{n}\n" if n % 3 else None, "2026-01-01 00:00:00+00"))
    seen.append(cursor.statusmessage)
    with cursor.copy("copy t to stdout (format binary)") as copy:
        data = b"".join(bytes(each) for each in copy)
    seen.append(hashlib.sha256(data).hexdigest())
    connection.execute("create table u (like t)")
    with cursor.copy("copy u from stdin (format binary)") as copy:
        for start in range(0, len(data), 7777):
            copy.write(data[start : start + 7777])
    seen.append(cursor.statusmessage)
    with cursor.copy("copy (table u) to stdout") as copy:
        copy.set_types(["int4", "text", "timestamptz"])
        seen.append(sum(row[0] for row in copy.rows()))

    def copy_rows(*rows: tuple[Any, ...], fault: Exception | None = None) -> None:
        with cursor.copy("copy t (a, b) from stdin") as copy:
            for row in rows:
                copy.write_row(row)
            if fault:
                raise fault

    seen.append(_fails(lambda: copy_rows((1, "again"))))
    seen.append(_fails(lambda: copy_rows(("x", "y"))))
    with pytest.raises(ZeroDivisionError):
        copy_rows((90_000, "given up"), fault=ZeroDivisionError())
    with (
        pytest.raises(ZeroDivisionError),  # leaves in the middle: psycopg cancels the statement
        cursor.copy("copy (select generate_series(1, 10000000)) to stdout") as copy,
    ):
        seen.append(bytes(copy.read()))
        raise ZeroDivisionError
    seen.append(connection.execute("select count(*) from t").fetchone())
    return seen


def transactions(connection: Connection[Any]) -> Seen:
    seen: Seen = []
    notices: list[str] = []
    connection.add_notice_handler(
        lambda each: notices.append(f"{each.severity} {each.sqlstate} {each.message_primary}")
    )
    connection.execute("do $$ begin raise notice 'hello %', 1; raise warning 'careful'; end $$")
    connection.execute("create table t (a int primary key deferrable initially deferred)")
    with connection.transaction():
        connection.execute("insert into t values (1)")
        with connection.transaction(force_rollback=True):
            connection.execute("insert into t values (2)")
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction("named"):
            connection.execute("select 1/0")

    def late() -> None:
        with connection.transaction():
            connection.execute("insert into t values (1)")

    seen.append(_fails(late))
    connection.execute("begin")
    seen.append(_fails(lambda: connection.execute("nonsense")))
    seen.append(_fails(lambda: connection.execute("select 1")))
    seen.append(connection.info.transaction_status.name)
    connection.execute("rollback")
    seen.append(connection.execute("select a from t").fetchall())
    seen.append(_fails(lambda: connection.execute("select 1; select 2; select 1/0; select 3")))
    cursor = connection.execute("select 1; select 2; values (3), (4)")
    while True:
        seen.append(cursor.fetchall())
        if not cursor.nextset():
            break
    connection.autocommit = False
    identifier = connection.xid(1, "global", "branch")
    connection.tpc_begin(identifier)
    connection.execute("insert into t values (50)")
    connection.tpc_prepare()
    connection.tpc_rollback()
    seen.append(connection.tpc_recover())
    connection.rollback()
    connection.autocommit = True
    seen.append(connection.execute("").statusmessage)
    connection.execute("set application_name to 'seen'")
    connection.execute("set timezone to 'UTC'")
    seen += [
        connection.info.parameter_status(each)
        for each in ("application_name", "TimeZone", "server_version", "client_encoding")
    ]
    seen.append(connection.info.backend_pid == (connection.execute("select pg_backend_pid()").fetchone() or [0])[0])
    return seen + notices


def cancels(connection: Connection[Any]) -> Seen:
    seen: Seen = []
    for cancel in (connection.cancel, lambda: connection.cancel_safe(timeout=10)):
        timer = threading.Timer(0.3, cancel)
        timer.start()
        seen.append(_fails(lambda: connection.execute("select pg_sleep(30)")))
        timer.join()
        seen.append(connection.execute("select 1").fetchone())
    connection.cancel()  # nothing runs: nothing happens
    seen.append(connection.execute("select 2").fetchone())
    connection.execute("set statement_timeout to '200ms'")
    seen.append(_fails(lambda: connection.execute("select pg_sleep(30)")))
    return seen


SCENARIOS: tuple[Scenario, ...] = (pipeline, pipeline_errors, cursors, prepared, copies, transactions, cancels)


def _run(scenario: Scenario, way: Way) -> Seen:
    with psycopg.connect(**way.psycopg(), autocommit=True) as connection:
        return scenario(connection)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_psycopg_sees_the_same(two_ways: TwoWays, scenario: Scenario) -> None:
    assert two_ways.compare("psycopg", lambda way: _run(scenario, way))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_psycopg_sees_the_same_over_tls(two_ways_tls: TwoWays, scenario: Scenario) -> None:
    assert two_ways_tls.compare("psycopg_tls", lambda way: _run(scenario, way))


def test_notifications_reach_idle_sessions_with_the_senders_pid(two_ways: TwoWays) -> None:
    with two_ways.open("proxied", "notify") as way:
        direct = way.psycopg() | {"host": way.server.host, "port": way.server.port}
        with (
            psycopg.connect(**way.psycopg(), autocommit=True) as listener,
            psycopg.connect(**way.psycopg(), autocommit=True) as sender,
            psycopg.connect(**direct, autocommit=True) as outsider,
        ):
            listener.execute("listen news")
            for number, connection in enumerate((sender, outsider, listener)):
                connection.execute("select pg_notify('news', %s)", (f"item {number} " + "x" * 7000,))
            found = []
            for notice in listener.notifies(timeout=10, stop_after=3):
                found.append((notice.pid, notice.channel, notice.payload[:6], len(notice.payload)))
            pids = [each.info.backend_pid for each in (sender, outsider, listener)]
            assert found == [(pid, "news", f"item {n}", 7007) for n, pid in enumerate(pids)]
            with sender.transaction():
                sender.execute("notify news, 'kept back'")
                assert list(listener.notifies(timeout=0.3)) == []
            assert [each.payload for each in listener.notifies(timeout=10, stop_after=1)] == ["kept back"]
            listener.execute("unlisten *")
            sender.execute("notify news, 'nobody hears'")
            assert listener.execute("select 1").fetchone() == (1,)
            assert list(listener.notifies(timeout=0.2)) == []


@pytest.mark.parametrize("name", WAYS)
def test_cancel_reaches_exactly_the_session_that_asked(two_ways: TwoWays, name: str) -> None:
    with two_ways.open(name, "cancel_one") as way:
        results: dict[int, str] = {}
        connections = [psycopg.connect(**way.psycopg(), autocommit=True) for _ in range(4)]

        def sleep(number: int) -> None:
            results[number] = _fails(lambda: connections[number].execute("select pg_sleep(2)"))

        threads = [threading.Thread(target=sleep, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        query = (
            f"select count(*) from pg_stat_activity where datname = '{way.database.name}' and wait_event = 'PgSleep'"
        )
        while way.server.fetch(query) != [(4,)]:
            assert time.monotonic() < deadline
        connections[1].cancel_safe(timeout=10)
        for thread in threads:
            thread.join()
        for connection in connections:
            assert connection.execute("select 1").fetchone() == (1,)
            connection.close()
        assert results[1].startswith("QueryCanceled 57014")
        assert [results[number] for number in (0, 2, 3)] == ["no error"] * 3
