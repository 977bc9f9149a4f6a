"""What the tests of the security bar share: a policy with something forbidden in it, tables for it, and the question
that decides every one of them: did the server begin to run it?
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from support.fake_postgres import FakePostgres
from support.proxy import Proxy
from support.servers import PASSWORDS, Database, PostgresServer

POLICY = """
version: 1
defaults: {action: allow, on_unparsable: block, on_dynamic: block, on_error: block}
rules:
  - {name: no-secrets, match: {table: ["*.secrets"]}, action: block, severity: high}
  - {name: no-destruction, match: {flag: [ddl_destructive, truncate]}, action: block, severity: high}
"""
OPEN_POLICY = """
version: 1
defaults: {action: allow, unsafe_on_unparsable: allow, unsafe_on_dynamic: allow, on_error: block}
rules:
  - {name: no-secrets, match: {table: ["*.secrets"]}, action: block, severity: high}
"""
"""Lets opaque code pass, so that what the proxy does with it can be watched."""
TABLES = (
    "set role app",
    "create table secrets (id integer, value text)",
    "insert into secrets select n, 'classified-' || n from generate_series(1, 20) n",
    "create table notes (id integer, body text)",
    "insert into notes select n, 'note ' || n from generate_series(1, 20) n",
)
BLOCKED = "42501"


def prepare(database: Database) -> Database:
    """Add the tables to a fresh database; `app` owns them."""
    with database.connect() as connection:
        for text in TABLES[1:]:
            connection.execute(text.encode())
    return database


def wait_for_session_ends(proxy: Proxy, session_count: int, timeout_s: float = 10, *, database: str = "") -> None:
    """Wait until that many sessions (of a database) have ended, so that every outcome is in the ledger."""

    def are_over() -> bool:
        ends = [each for each in proxy.records("session.end") if database in ("", each["database"])]
        return len(ends) >= session_count

    _retry(are_over, timeout_s)


def _retry(is_done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_done():
        assert time.monotonic() < deadline, "the ledger does not settle"
        time.sleep(0.02)


def reload_policy(proxy: Proxy, text: str) -> None:
    """Put another policy in force and wait until it is."""
    before = len(proxy.records("policy.loaded"))
    workers = len(proxy.processes("worker"))
    proxy.write_policy(text)
    proxy.reload()
    _retry(lambda: len(proxy.records("policy.loaded")) >= before + workers, 10)


def statements_of_clients(database: Database, since: int) -> list[str]:
    """What the server began to run in the database, without what the proxy puts in a refused statement's place."""
    return [sql for sql in database.statements(since) if not sql.startswith('SELECT "dbproxy refused ')]


@contextlib.contextmanager
def fake_server(real: PostgresServer, **options: Any) -> Iterator[tuple[FakePostgres, PostgresServer]]:
    """A scripted server in a thread of its own, and its address in the form that running_proxy takes."""
    fake = FakePostgres(password=PASSWORDS["app"], **options)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    is_up = threading.Event()

    async def serve() -> None:
        async with fake:
            is_up.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert is_up.wait(10)
        yield fake, dataclasses.replace(real, host="127.0.0.1", port=fake.port, ca=None, client=None)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
