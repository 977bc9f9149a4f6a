"""Every session can be reached, whichever worker has it: cancelled, listed, killed, ended with its person's account. SECURITY_BAR B11."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import yaml
from support import pg_bytes as pg
from support.figures import record, scaled
from support.processes import admin, error_of, sessions_in_both_workers, wait_until, whole_proxy
from support.proxy import Proxy
from support.raw_client import RawClient, errors, logged_in
from support.servers import Database, PostgresServer, fresh_database


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, "test_bar_b_workers") as fresh:
        yield fresh


@pytest.fixture(scope="module")
def one_proxy(
    postgres: PostgresServer, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    with whole_proxy(tmp_path_factory.mktemp("workers"), postgres, database) as proxy:
        yield proxy


@pytest.fixture
def proxy(one_proxy: Proxy) -> Proxy:
    """With nobody connected any more."""
    wait_until(lambda: not one_proxy.metric("dbproxy_connections_open"), what="the end of the last test's sessions")
    return one_proxy


def requests(proxy: Proxy, result: str, slot: int | None = None) -> int:
    """How many cancel requests had this result, as recorded by one worker or by all."""
    records = proxy.records() if slot is None else proxy.records_of(slot)
    return sum(each["type"] == "cancel.request" and each["result"] == result for each in records)


def test_cancel_works_at_whichever_worker_it_arrives(proxy: Proxy, database: Database) -> None:
    """B11: found across workers, whoever has the session; a wrong key is not."""
    rounds = scaled(16, 200)
    unknown, delivered = (
        requests(proxy, "unknown key"),
        Counter({slot: requests(proxy, "delivered", slot) for slot in (1, 2)}),
    )
    throttled = proxy.metric("dbproxy_connections_refused_total", reason="throttled")
    with logged_in(proxy.address()) as victim:
        for _ in range(rounds):
            victim.send(pg.query("select pg_sleep(30)"))
            wait_until(
                lambda: database.fetch(
                    "select 1 from pg_stat_activity where query like '%pg_sleep(30)' and state = 'active' and pid <> pg_backend_pid()"
                )
            )
            wrong = RawClient.open(proxy.host, proxy.port)
            wrong.send(pg.cancel_request(victim.process_id, bytes(4)))
            wrong.to_the_end()
            wrong.close()
            right = RawClient.open(proxy.host, proxy.port)
            right.send(pg.cancel_request(victim.process_id, victim.secret))
            assert errors(victim.ready()) == ["57014"]
            right.to_the_end()
            right.close()
            time.sleep(0.05)  # two requests a round: more than 50 a second are not looked at
        assert proxy.metric("dbproxy_connections_refused_total", reason="throttled") == throttled
    by_slot = Counter({slot: requests(proxy, "delivered", slot) for slot in (1, 2)}) - delivered
    assert min(by_slot[1], by_slot[2]) > 0, "one worker got every cancel"
    assert requests(proxy, "unknown key") - unknown == rounds
    record(
        "B11.workers",
        "cancels at either worker that did not stop their statement",
        count=rounds,
        failures=rounds - by_slot.total(),
    )


def test_guessed_keys_are_rate_limited_over_all_workers(proxy: Proxy) -> None:
    count = scaled(400, 5000)
    before = len(proxy.records("cancel.request"))
    came = proxy.metric("dbproxy_connections_total")
    with logged_in(proxy.address()) as victim:
        began = time.monotonic()
        for number in range(count):
            guess = RawClient.open(proxy.host, proxy.port)
            guess.send(pg.cancel_request(victim.process_id, number.to_bytes(4, "big")))
            guess.close()
        took = time.monotonic() - began
        assert not errors(victim.query("select 1"))
    wait_until(lambda: proxy.metric("dbproxy_connections_total") - came == count + 1)
    wait_until(lambda: not proxy.metric("dbproxy_connections_open"), what="a look at the last request")
    looked_at = len(proxy.records("cancel.request")) - before
    assert looked_at
    record(
        "B11.rate",
        "keys looked at beyond 50 a second",
        count=count,
        failures=max(0, looked_at - int(50 * (took + 2))),
        looked_at=looked_at,
    )


def test_sessions_of_all_workers_are_listed_and_any_can_be_killed(proxy: Proxy, database: Database) -> None:
    before = len(proxy.records("session.killed"))
    with sessions_in_both_workers(proxy) as sessions:
        wait_until(lambda: proxy.metric("dbproxy_sessions_open") == sum(map(len, sessions.values())))
        listed = admin(proxy).get("/v1/sessions")["sessions"]
        assert len(listed) == sum(map(len, sessions.values()))
        assert {each["worker"] for each in listed} == {1, 2}
        assert all(each["statements"] == 0 and each["person"] == "alice" for each in listed)
        for victim, *others in sessions.values():
            session = _session_of(proxy, victim)
            with ThreadPoolExecutor(1) as threads:
                running = threads.submit(error_of, victim, "select pg_sleep(60)")
                wait_until(lambda session=session: admin(proxy).get(f"/v1/sessions/{session}")["state"] == "running")  # type: ignore[misc] # bound now
                killed = admin(proxy).post(f"/v1/sessions/{session}/kill", {"reason": "test of it"})
                assert killed["ended"]["id"] == session
                assert "57P01" in running.result(10)
            pid = victim.info.backend_pid
            wait_until(lambda pid=pid: not database.fetch(f"select 1 from pg_stat_activity where pid = {pid}"))  # type: ignore[misc] # bound now
            assert all(each.execute("select 1").fetchone() == (1,) for each in others)
        assert len(proxy.records("session.killed")) - before == 2


def _session_of(proxy: Proxy, connection: psycopg.Connection[Any]) -> str:
    pid = connection.info.backend_pid
    session: str = next(each["session"] for each in proxy.records("session.start") if each["server_pid"] == pid)
    return session


def test_disabled_person_loses_their_sessions_in_every_worker(proxy: Proxy) -> None:
    with sessions_in_both_workers(proxy) as sessions, proxy.connect("bob") as bob:
        try:
            _disable(proxy, "alice")
            for connection in (each for both in sessions.values() for each in both):
                wait_until(lambda connection=connection: error_of(connection, "select 1"))  # type: ignore[misc] # bound now
            assert bob.execute("select 1").fetchone() == (1,)
            with pytest.raises(psycopg.OperationalError), proxy.connect():
                pass
        finally:
            _disable(proxy, "")


def _disable(proxy: Proxy, name: str) -> None:
    """This person, and nobody else; returns when all workers know."""
    users = yaml.safe_load((proxy.folder / "users.yaml").read_text())
    for person in users["people"]:
        person["disabled"] = person["name"] == name
    (proxy.folder / "users.new").write_text(yaml.safe_dump(users))
    (proxy.folder / "users.new").chmod(0o600)
    (proxy.folder / "users.new").replace(proxy.folder / "users.yaml")
    loaded = len(proxy.records("users.loaded"))
    proxy.reload()
    wait_until(lambda: len(proxy.records("users.loaded")) > loaded)
