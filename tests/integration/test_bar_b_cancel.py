"""SECURITY_BAR B11, B12: a cancel request stops the statement it was meant for, or nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from random import Random
from typing import Any

import pytest
from support import pg_bytes as pg
from support.figures import record, scaled
from support.proxy import Proxy, running_proxy
from support.raw_client import RawClient, errors, logged_in
from support.servers import Database, PostgresServer

CANCELED = "57014"
_SOURCES = cycle(f"127.0.0.{number}" for number in range(2, 102))
"""Where cancels come from: the proxy looks at 50 a second and address."""


def many_sessions(settings: dict[str, Any]) -> None:
    settings["limits"] = {"max_sessions_per_user": 200, "max_sessions_per_address": 1000}


@pytest.fixture(scope="module")
def proxy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("cancel"), postgres, change=many_sessions) as proxy:
        yield proxy


def send_cancel(proxy: Proxy, process_id: int, secret: bytes) -> None:
    """Send it and wait until the proxy has closed the connection: it is dealt with."""
    client = RawClient.open(proxy.host, proxy.port, source=next(_SOURCES))
    client.send(pg.cancel_request(process_id, secret))
    client.to_the_end()
    client.close()


def start_sleep(client: RawClient, seconds: float) -> None:
    client.send(pg.query(f"select pg_sleep({seconds})"))


def wait_for_sleep(vault: Database, seconds: float) -> None:
    """Wait until the server runs that."""
    deadline = time.monotonic() + 10
    while not is_asleep(vault, seconds):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_asleep(vault: Database, seconds: float) -> bool:
    text = f"select 1 from pg_stat_activity where query = 'select pg_sleep({seconds})' and state = 'active'"
    return bool(vault.fetch(text))


def cancels_since(proxy: Proxy, before: int) -> Counter[str]:
    """Results of the cancel requests recorded after so many."""
    return Counter(each["result"] for each in proxy.records("cancel.request")[before:])


@pytest.mark.parametrize("minor", [0, 2], ids=["protocol 3.0", "protocol 3.2"])
def test_only_the_right_key_cancels_and_the_servers_key_is_not_shown(proxy: Proxy, vault: Database, minor: int) -> None:
    """B11: wrong, foreign, replayed, stale and guessed keys."""
    before = len(proxy.records("cancel.request"))
    alice, bob = (proxy.address(name, vault.name) for name in ("alice", "bob"))
    with logged_in(alice, minor=minor) as victim, logged_in(bob, minor=minor) as other:
        assert len(victim.secret) == (32 if minor else 4)
        wrong = [
            bytes(len(victim.secret)),
            victim.secret[:-1] + bytes([victim.secret[-1] ^ 1]),
            other.secret,
            victim.secret + b"\0",
            victim.secret[:-1] if minor else b"\1\2\3\4",
        ]
        start_sleep(victim, 30)
        wait_for_sleep(vault, 30)
        for secret in wrong:
            send_cancel(proxy, victim.process_id, secret)
        send_cancel(proxy, other.process_id, victim.secret)
        time.sleep(0.3)  # for a server that would act on it
        harmed = int(not is_asleep(vault, 30))
        # The right key works, and the same request again finds nothing to stop.
        send_cancel(proxy, victim.process_id, victim.secret)
        assert errors(victim.ready()) == [CANCELED]
        send_cancel(proxy, victim.process_id, victim.secret)
        harmed += errors(victim.query("select pg_sleep(0.2)")) != []
        # The server itself would not take the client's key.
        start_sleep(victim, 0.3)
        wait_for_sleep(vault, 0.3)
        direct = RawClient.open(vault.server.host, vault.server.port)
        direct.send(pg.cancel_request(victim.process_id, victim.secret))
        direct.to_the_end()
        direct.close()
        harmed += errors(victim.ready()) != []
        old = victim.process_id, victim.secret
    send_cancel(proxy, *old)
    assert cancels_since(proxy, before)["delivered"] == 1
    record(f"B11.3_{minor}", "cancels with a key that should not work that did", count=len(wrong) + 4, failures=harmed)


def test_guessed_keys_are_slowed_down_and_hit_nothing(proxy: Proxy, vault: Database) -> None:
    """B11: as fast as they come; the other sessions go on working."""
    count = scaled(1500, 20_000)
    before = len(proxy.records("cancel.request"))
    rng = Random(1)
    alice, bob = (proxy.address(name, vault.name) for name in ("alice", "bob"))
    with logged_in(alice) as victim, logged_in(bob) as other:
        start_sleep(victim, 600)
        wait_for_sleep(vault, 600)
        waits = []
        for number in range(count):
            client = RawClient.open(proxy.host, proxy.port)
            client.send(pg.cancel_request(victim.process_id, rng.randbytes(4)))
            client.close()
            if number % 100 == 0:
                started = time.perf_counter()
                assert not errors(other.query("select 1"))
                waits.append(time.perf_counter() - started)
        time.sleep(0.3)  # for a server that would act on it
        harmed = not is_asleep(vault, 600)
        send_cancel(proxy, victim.process_id, victim.secret)
        assert errors(victim.ready()) == [CANCELED]
    looked_at = cancels_since(proxy, before).total()
    assert max(waits) < 5
    assert looked_at < count
    record(
        "B11.guessed",
        "statements stopped by guessed keys",
        count=count,
        failures=int(harmed),
        looked_at=looked_at,
        slowest_other_query_ms=round(max(waits) * 1e3, 1),
    )


class Runner:
    """One session that runs short statements one after the other and knows which of them it wants stopped.

    asked: for each cancel the statements that were under way between its sending and its end. stopped: those that failed with 57014.
    """

    def __init__(self, proxy: Proxy, database: str, number: int, seed: int) -> None:
        self.client = RawClient.open(proxy.host, proxy.port, 60)
        self.client.login(proxy.address("alice" if number % 2 else "bob", database))
        self.number = number
        self.rng = Random(seed)
        self.serial = 0  # odd while a statement is under way
        self.asked: set[int] = set()
        self.stopped: set[int] = set()
        self.other_errors: list[str] = []
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            self.serial += 1
            mine = self.serial
            text = f"select pg_sleep({self.rng.choice((0, 0.001, 0.005, 0.02))})"
            if self.rng.random() < 0.5:
                self.client.send(pg.query(text))
            else:
                self.client.send(pg.parse("", text), pg.bind(), pg.execute(), pg.sync())
            codes = errors(self.client.ready())
            self.serial += 1
            if codes == [CANCELED]:
                self.stopped.add(mine)
            elif codes:
                self.other_errors += codes


@pytest.mark.timeout(900)
def test_cancels_at_random_moments_stop_no_other_statement(proxy: Proxy, vault: Database) -> None:
    """B12: 64 sessions; a statement that is stopped is one for which a cancel was sent while it ran."""
    sessions = scaled(16, 64)
    count = scaled(600, 10_000)
    before = len(proxy.records("cancel.request"))
    runners = [Runner(proxy, vault.name, number, number) for number in range(sessions)]
    threads = [threading.Thread(target=each.run) for each in runners]
    rng = Random(0)
    for thread in threads:
        thread.start()
    sent = 0
    while sent < count:
        runner = rng.choice(runners)
        serial = runner.serial
        send_cancel(proxy, runner.client.process_id, runner.client.secret)
        runner.asked |= set(range(serial, runner.serial + 1))
        sent += 1
    for runner in runners:
        runner.is_over = True
    for thread in threads:
        thread.join(60)
    for runner in runners:
        runner.client.close()
    stopped = sum(len(each.stopped) for each in runners)
    wrong = sum(len(each.stopped - each.asked) for each in runners)
    strange = [code for each in runners for code in each.other_errors]
    assert not strange
    assert stopped > 0
    assert cancels_since(proxy, before).total() == sent
    record(
        "B12", "cancels that stopped a statement they were not meant for", count=sent, failures=wrong, stopped=stopped
    )


def test_cancel_never_hits_the_next_statement_of_its_session(proxy: Proxy, vault: Database) -> None:
    """B12: once the cancel connection is closed, whatever begins afterwards must run to its end."""
    count = scaled(150, 5000)
    rng = Random(7)
    hit = 0
    with logged_in(proxy.address("alice", vault.name)) as client:
        for _ in range(count):
            start_sleep(client, rng.choice((0, 0.001, 0.003)))
            time.sleep(rng.choice((0, 0.0005, 0.001, 0.002, 0.004)))
            canceller = RawClient.open(proxy.host, proxy.port, source=next(_SOURCES))
            canceller.send(pg.cancel_request(client.process_id, client.secret))
            client.ready()  # perhaps stopped, perhaps not
            canceller.to_the_end()
            codes = errors(client.query("select pg_sleep(0.002)"))
            hit += codes != []
            canceller.close()
    record(
        "B12.next",
        "statements begun after their session's cancel was dealt with that it stopped",
        count=count,
        failures=hit,
    )
