"""SECURITY_BAR J7: sessions that do nothing: what they cost, and when they end.

With BAR=full 2,000 sessions stay idle for ten minutes in front of a PostgreSQL of their own that takes as many; else fewer for a moment.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import pg_bytes as pg
from support.bar import POLICY
from support.figures import IS_FULL, record, scaled
from support.processes import wait_until, whole_proxy
from support.proxy import Proxy
from support.raw_client import Left, RawClient, errors
from support.servers import Database, PostgresServer, fresh_database, postgres_with_tls
from support.usage import family, pss_kib

SESSIONS = scaled(60, 2000)
MOST_KIB = {"plain": 64, "tls": 192}
IDLE_S, TRANSACTION_S, SESSION_S, STATEMENT_S = 3.0, 2.0, 6.0, 2.0
SESSION_CODE = "57P05"
TICK_S = 1.0
"""How exact a limit must be."""


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """With TLS, and with room for all of them."""
    if not IS_FULL:
        yield request.getfixturevalue("postgres_tls")
        return
    with postgres_with_tls(
        tmp_path_factory.mktemp("roomy"), {"max_connections": "2100", "shared_buffers": "256MB"}
    ) as roomy:
        yield roomy


@pytest.fixture(scope="module")
def database(server: PostgresServer) -> Iterator[Database]:
    with fresh_database(server, "test_bar_j_idle") as fresh:
        yield fresh


def roomy(settings: dict[str, Any]) -> None:
    settings["limits"] = {"max_sessions": 5000, "max_sessions_per_user": 5000, "max_sessions_per_address": 5000}


def log_in(proxy: Proxy, context: ssl.SSLContext | None, user: str = "alice") -> RawClient:
    client = RawClient.open(proxy.host, proxy.port, 60)
    try:
        if context is not None:
            client.secure(context)
        client.login(proxy.address(user))
    except BaseException:
        client.close()
        raise
    return client


@contextlib.contextmanager
def sessions(proxy: Proxy, count: int, context: ssl.SSLContext | None) -> Iterator[list[RawClient]]:
    """Sessions that have all done a little: a query, and a statement with a parameter."""

    def begin(_: int) -> RawClient:
        client = log_in(proxy, context)
        assert not errors(client.query("select 1"))
        done = client.run(
            pg.parse("", "select item from orders where id = $1"), pg.bind("", "", [b"1"]), pg.execute(), pg.sync()
        )
        assert not errors(done)
        return client

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        clients = []
        for client in threads.map(begin, range(count)):
            stack.callback(client.close)
            clients.append(client)
        yield clients


def used_kib(proxy: Proxy) -> int:
    return sum(pss_kib(pid) for pid in family(proxy.process.pid))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", MOST_KIB)
def test_idle_session_costs_little_memory(server: PostgresServer, database: Database, tmp_path: Path, way: str) -> None:
    """With BAR=full also when as many have come and gone before: what they had is free, and must not count for later ones."""

    def change(settings: dict[str, Any]) -> None:
        roomy(settings)
        settings["timeouts"] = {"login_s": 60, "connect_s": 60}  # 2,000 servers on a busy machine take their time
        if way == "plain":
            settings["targets"][0]["tls"] = {"mode": "disable"}

    with whole_proxy(tmp_path / "proxy", server, database, change=change) as proxy:
        context = ssl.create_default_context(cafile=str(proxy.ca)) if way == "tls" else None
        with sessions(proxy, 10, context):
            pass  # what the first ones leave for good
        wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0)
        before = used_kib(proxy)
        each_kib = []
        for is_first in (True, False)[: scaled(1, 2)]:
            with sessions(proxy, SESSIONS, context) as clients:
                time.sleep(scaled(1, 600) if is_first else 2)
                each_kib.append((used_kib(proxy) - before) / SESSIONS)
                ended = [number for number, client in enumerate(clients) if errors(client.query("select 1"))]
                assert not ended, "sessions that do not work any more"
            wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0, 60)
            time.sleep(scaled(0, 11))  # memory is given back every ten seconds
        left_kib = (used_kib(proxy) - before) / SESSIONS
    record(
        f"J7.memory.{way}",
        f"idle sessions that cost more than {MOST_KIB[way]} KiB each, in all processes",
        count=SESSIONS,
        failures=sum(each > MOST_KIB[way] for each in each_kib),
        kib_each=round(each_kib[0], 1),
        kib_each_later=round(each_kib[-1], 1),
        kib_each_left_at_the_end=round(left_kib, 1),
    )


@pytest.fixture(scope="module")
def limited(server: PostgresServer, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    def change(settings: dict[str, Any]) -> None:
        roomy(settings)
        settings["targets"][0]["tls"] = {"mode": "disable"}
        settings["timeouts"] = {
            "idle_s": IDLE_S,
            "idle_in_transaction_s": TRANSACTION_S,
            "session_s": SESSION_S,
            "statement_s": STATEMENT_S,
        }

    with whole_proxy(tmp_path_factory.mktemp("limited"), server, database, policy=POLICY, change=change) as proxy:
        yield proxy


def _idle(client: RawClient) -> str:
    client.query("select 1")
    return _told(client)


def _in_transaction(client: RawClient) -> str:
    client.query("begin")
    client.query("select 1")
    return _told(client)


def _in_failed_transaction(client: RawClient) -> str:
    client.query("begin")
    client.query("select 1/0")
    return _told(client)


def _long_statement(client: RawClient) -> str:
    client.send(pg.query("select pg_sleep(60)"))
    return _told(client)


def _busy(client: RawClient) -> str:
    return _over_and_over(client, "select 1", [])


def _refused(client: RawClient) -> str:
    """Statements arrive, though none of them runs."""
    return _over_and_over(client, "drop table orders", ["42501"])


def _told(client: RawClient) -> str:
    return "".join(errors(client.to_the_end()))


def _over_and_over(client: RawClient, text: str, expected: list[str]) -> str:
    """A statement every half second until the session ends."""
    with contextlib.suppress(Left):
        while True:
            client.stream.settimeout(0.5)
            try:
                return "".join(errors([client.read()]))
            except TimeoutError:
                client.stream.settimeout(60)
                assert errors(client.query(text)) == expected
    return SESSION_CODE  # it was told, as a statement of its was on the way: its own kernel has thrown that away


LIMITS: dict[str, tuple[Callable[[RawClient], str], float, str, str]] = {
    "idle": (_idle, IDLE_S, "57P05", "idle"),
    "in a transaction": (_in_transaction, TRANSACTION_S, "25P03", "idle_in_transaction"),
    "in a failed transaction": (_in_failed_transaction, TRANSACTION_S, "25P03", "idle_in_transaction"),
    "in a statement": (_long_statement, STATEMENT_S, "57014", "too_long"),
    "busy": (_busy, SESSION_S, SESSION_CODE, "idle"),
    "refused": (_refused, SESSION_S, SESSION_CODE, "idle"),
}
"""What the client does, after what time its session ends, what it is told, what the trail says."""


def _at(record: dict[str, Any]) -> float:
    return dt.datetime.fromisoformat(record["at"]).timestamp()


def _after_s(kind: str, records: list[dict[str, Any]]) -> float:
    """How long after what the limit counts from the session has ended, by the trail's own clock."""
    ended = records[-1]
    assert ended["type"] == "session.end"
    if LIMITS[kind][1] == SESSION_S:
        return float(ended["duration_ms"] / 1000)
    kept = "statement.intent" if kind == "in a statement" else "statement.outcome"
    return _at(ended) - _at([each for each in records if each["type"] == kept][-1])


@pytest.mark.timeout(900)
def test_limits_end_sessions_on_time_and_are_recorded(limited: Proxy, database: Database) -> None:
    count = scaled(5, 60)  # of each kind, all at once

    def be(kind: str) -> tuple[str, int, str]:
        with contextlib.closing(log_in(limited, None)) as client:
            return kind, client.process_id, LIMITS[kind][0](client)

    kinds = [kind for kind in LIMITS for _ in range(count)]
    with ThreadPoolExecutor(len(kinds)) as threads:
        found = list(threads.map(be, kinds))
    wait_until(lambda: limited.metric("dbproxy_connections_open") == 0)
    by_session: dict[str, list[dict[str, Any]]] = {}
    for each in limited.records():
        if "session" in each:
            by_session.setdefault(each["session"], []).append(each)
    by_pid = {records[-1]["server_pid"]: records for records in by_session.values() if "server_pid" in records[-1]}
    wrong, off = [], []
    for kind, pid, code in found:
        records = by_pid[pid]
        off.append(_after_s(kind, records) - LIMITS[kind][1])
        if code != LIMITS[kind][2] or records[-1]["why"] != LIMITS[kind][3] or abs(off[-1]) > TICK_S:
            wrong.append((kind, code, records[-1]["why"], round(off[-1], 2)))
    still = "select 1 from pg_stat_activity where query like '%pg_sleep(60)%' and state = 'active' and pid <> pg_backend_pid()"
    wait_until(lambda: not database.fetch(still), 10, "the end of what runs for nobody")
    record(
        "J7.limits",
        "sessions that a limit did not end within 1 s of its time, told why and recorded",
        count=len(kinds),
        failures=len(wrong),
        examples=wrong[:5],
        earliest_s=round(min(off), 2),
        latest_s=round(max(off), 2),
    )


def test_limit_ends_a_session_whose_client_has_stopped_reading_within_a_message(limited: Proxy) -> None:
    """The client can be told nothing there, but its transaction must not stay."""
    mark = len(limited.records("session.end"))
    with contextlib.closing(log_in(limited, None)) as client:
        began = time.monotonic()
        client.send(pg.query("select repeat('x', 100000000)"))
        wait_until(lambda: len(limited.records("session.end")) > mark, STATEMENT_S + 3)
        took = time.monotonic() - began
    ended = limited.records("session.end")[mark]
    assert ended["why"] == "too_long"
    assert abs(took - STATEMENT_S) <= TICK_S + 0.7  # and what the end of the message is waited for
    outcome = limited.records("statement.outcome")[-1]
    assert outcome["status"] == "unknown"
