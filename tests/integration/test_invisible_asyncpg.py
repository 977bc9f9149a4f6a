"""asyncpg sees the same direct and through the proxy: prepared statements, cursors, introspection, COPY, cancels."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.two_ways import TwoWays, Way

Seen = list[Any]
Scenario = Callable[[Any], Awaitable[Seen]]
ROWS = 1_000_000


async def _fails(call: Awaitable[object]) -> str:
    try:
        await call
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        text = re.sub(r"__asyncpg_stmt_\w+", "statement", str(error))  # numbered on, whatever the connection
        return f"{type(error).__name__} {getattr(error, 'sqlstate', '')} {text}"
    return "no error"


async def queries(connection: Any) -> Seen:
    seen: Seen = [await connection.execute("create table t (a int primary key, b text); insert into t values (1, 'x')")]
    seen.append([tuple(row) for row in await connection.fetch("select * from t where a = $1", 1)])
    seen.append(await connection.fetchval("select $1::text || $2::int8::text", "n", 2**40))
    await connection.executemany("insert into t values ($1, $2)", [(n, "y" * n) for n in range(2, 500)])
    seen.append(await connection.fetchval("select sum(length(b)) from t"))
    seen.append(
        await _fails(connection.executemany("insert into t values ($1, $2)", [(n, "") for n in (500, 501, 500, 502)]))
    )
    seen.append(await connection.fetchval("select count(*) from t"))
    many = await connection.fetchmany("insert into t values ($1, 'm') returning a", [(n,) for n in range(900, 910)])
    seen.append([tuple(row) for row in many])
    seen.append(await _fails(connection.fetch("select nonsense from t")))
    seen.append(await _fails(connection.fetch("select $1::int / 0", 1)))
    seen.append(await _fails(connection.execute("select 1; select 1/0; select 2")))
    return seen


async def prepared(connection: Any) -> Seen:
    statement = await connection.prepare("select id, item from orders where id > $1 and item = any($2) order by id")
    seen: Seen = [
        [(each.name, each.type.name) for each in statement.get_attributes()],
        [each.name for each in statement.get_parameters()],
        statement.get_statusmsg(),
    ]
    for start in range(5):
        seen.append(len(await statement.fetch(start * 100, ["lamp", "desk"])))
    seen.append(await statement.fetchval(10, ["lamp"], column=1))
    seen.append(list((await statement.explain(1, ["lamp"]))[0])[:1])
    await connection.execute("create table t (a int)")
    changed = await connection.prepare("select * from t")
    await connection.execute("alter table t add b int default 1; insert into t values (1)")
    seen.append(await _fails(changed.fetch()))
    seen.append([tuple(row) for row in await connection.fetch("select * from t")])
    await connection.execute("deallocate all")
    seen.append(await _fails(connection.fetch("select * from t")))
    await connection.reload_schema_state()  # forgets what it had prepared
    seen.append([tuple(row) for row in await connection.fetch("select * from t")])
    await connection.reset()
    return seen


async def cursors(connection: Any) -> Seen:
    seen: Seen = []
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("select id from orders order by id", prefetch=33):
            total += row["id"]
        seen.append(total)
        cursor = await connection.cursor("select id from orders order by id")
        seen.append([row["id"] for row in await cursor.fetch(5)])
        seen.append(await cursor.forward(100))
        seen.append((await cursor.fetchrow())["id"])
        # Two portals at once, each suspended while the other goes on.
        other = await connection.cursor("select id from customers order by id desc")
        seen += [[row["id"] for row in await each.fetch(3)] for each in (other, cursor, other, cursor)]
    return seen


async def transactions(connection: Any) -> Seen:
    seen: Seen = []
    notices: list[str] = []
    connection.add_log_listener(lambda _, message: notices.append(f"{message.severity} {message.message}"))
    await connection.execute("create table t (a int); do $$ begin raise notice 'hello'; end $$")
    async with connection.transaction(isolation="serializable"):
        await connection.execute("insert into t values (1)")
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with connection.transaction():
                await connection.execute("insert into t values (2)")
                await connection.fetch("select 1/0")
        await connection.execute("insert into t values (3)")
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    seen.append(await _fails(connection.execute("insert into t values (4)")))
    seen.append(await _fails(connection.fetch("select 1")))
    await transaction.rollback()
    seen.append([row["a"] for row in await connection.fetch("select a from t order by a")])
    return seen + notices


async def introspection(connection: Any) -> Seen:
    await connection.execute(
        "create type mood as enum ('sad', 'ok'); create type pair as (a int, b mood[]); create domain short as varchar(5); create type span as range (subtype = float8)"
    )
    seen: Seen = [
        tuple(await connection.fetchval("select row(1, array['sad', 'ok']::mood[])::pair")),
        await connection.fetchval("select $1::mood[]", ["ok", "sad"]),
        await connection.fetchval("select array[row(1, null)::pair, row(2, '{ok}')::pair]"),
        repr(await connection.fetchval("select span(1, 2)")),
        await connection.fetchval("select 'abc'::short"),
        str(await connection.fetchval("select '2026-01-01 10:00+00'::timestamptz")),
        str(await connection.fetchval("select 123456789.000001::numeric")),
        await connection.fetchval("select '\\x00ff'::bytea"),
        str(await connection.fetchval("select '10.1.0.0/16'::cidr")),
    ]
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=len)
    seen.append(await connection.fetchval("select '{\"a\": 1}'::jsonb"))
    return seen


async def cancels(connection: Any) -> Seen:
    seen: Seen = []
    for _ in range(3):
        seen.append(await _fails(connection.execute("select pg_sleep(20)", timeout=0.2)))
        seen.append(await connection.fetchval("select 1"))
    task = asyncio.ensure_future(connection.fetch("select pg_sleep($1)", 20))
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.wait([task])
    seen.append(await connection.fetchval("select 2"))
    return seen


async def notifications(connection: Any) -> Seen:
    heard: asyncio.Queue[tuple[bool, str, str]] = asyncio.Queue()
    pid = connection.get_server_pid()

    def hear(_: Any, sender: int, channel: str, payload: str) -> None:
        heard.put_nowait((sender == pid, channel, payload))

    await connection.add_listener("news", hear)
    await connection.execute("notify news, 'one'; select pg_notify('news', 'two')")
    found: Seen = [await asyncio.wait_for(heard.get(), 10) for _ in range(2)]
    await connection.remove_listener("news", hear)
    return found


SCENARIOS: tuple[Scenario, ...] = (queries, prepared, cursors, transactions, introspection, cancels, notifications)


def _run(scenario: Scenario, way: Way) -> Seen:
    async def run() -> Seen:
        context: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(way.ca)) if way.ca else False
        connection = await asyncpg.connect(
            host=way.host,
            port=way.port,
            user="app",
            password=way.password(),
            database=way.database.name,
            ssl=context,
            timeout=20,
        )
        try:
            return await scenario(connection)
        finally:
            await connection.close(timeout=10)

    return asyncio.run(run())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_asyncpg_sees_the_same(two_ways: TwoWays, scenario: Scenario) -> None:
    assert two_ways.compare("asyncpg", lambda way: _run(scenario, way))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_asyncpg_sees_the_same_over_tls(two_ways_tls: TwoWays, scenario: Scenario) -> None:
    assert two_ways_tls.compare("asyncpg_tls", lambda way: _run(scenario, way))


@pytest.mark.parametrize("form", ["binary", "csv"])
def test_million_rows_copied_by_asyncpg_are_the_same(two_ways: TwoWays, tmp_path: Path, form: str) -> None:
    async def copy(connection: Any, file: Path) -> Seen:
        query = f"select n::int as id, md5(n::text) as word, n * 1.5 as price from generate_series(1, {ROWS}) n"
        seen: Seen = [await connection.copy_from_query(query, output=str(file), format=form)]
        await connection.execute("create unlogged table big (id int, word text, price numeric)")
        seen.append(await connection.copy_to_table("big", source=str(file), format=form))
        seen.append(tuple(await connection.fetchrow("select count(*), sum(hashtextextended(b::text, 0)) from big b")))
        with file.open("rb") as stream:
            seen.append(hashlib.file_digest(stream, "sha256").hexdigest())
        file.unlink()
        seen.append(await connection.copy_records_to_table("big", records=((n, str(n), None) for n in range(1000))))
        return seen

    seen = two_ways.compare("asyncpg_copy", lambda way: _run(lambda each: copy(each, tmp_path / way.name), way))
    assert seen[:2] == [f"COPY {ROWS}"] * 2
    assert seen[2][0] == ROWS
