"""SECURITY_BAR J1, J2, J8: floods of connections and of logins, over all workers."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from support.figures import record, scaled
from support.processes import wait_until, whole_proxy
from support.proxy import Proxy
from support.raw_client import Left, RawClient, errors, logged_in
from support.servers import Database, PostgresServer, fresh_database

LOGIN_S = 3


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, "test_bar_j_caps") as fresh:
        yield fresh


@pytest.fixture(scope="module")
def proxy(postgres: PostgresServer, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """With room for everybody."""

    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {"max_sessions_per_address": 5000, "max_sessions": 5000}
        settings["timeouts"] = {"login_s": LOGIN_S}

    with whole_proxy(tmp_path_factory.mktemp("caps"), postgres, database, change=change) as roomy:
        yield roomy


def test_caps_hold_exactly_over_all_workers(make_proxy: Callable[..., Proxy], database: Database) -> None:
    """J2: per person, and per address, however the kernel spreads the connections."""

    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {"max_sessions_per_user": 7, "max_sessions_per_address": 20}

    proxy = make_proxy(database=database.name, change=change)
    rounds = scaled(3, 20)
    wrong = 0
    for _ in range(rounds):
        barrier = threading.Barrier(16)
        done = threading.Barrier(16)

        def attempt(_number: int, barrier: threading.Barrier = barrier, done: threading.Barrier = done) -> str:
            barrier.wait(20)
            try:
                with logged_in(proxy.address()):
                    done.wait(20)
                    return "in"
            except AssertionError as refused:
                done.wait(20)
                return str(refused)

        with ThreadPoolExecutor(16) as threads:
            words = list(threads.map(attempt, range(16)))
        wrong += words.count("in") != 7
        assert all("53300" in word for word in words if word != "in"), words
        wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(RawClient.open(proxy.host, proxy.port).stream) for _ in range(20)]
        wait_until(lambda: proxy.metric("dbproxy_connections_open") == 20)
        more = RawClient.open(proxy.host, proxy.port)
        assert more.to_the_end() == []  # turned away without a word
        more.close()
        idle[0].close()
        wait_until(lambda: proxy.metric("dbproxy_connections_open") == 19)
        with pytest.raises(AssertionError):  # one fits again, and this one is it
            stack.enter_context(logged_in(proxy.address("nobody")))
    record("J2.workers", "rounds in which a cap did not hold exactly", count=rounds, failures=wrong)


def test_connections_that_say_nothing_keep_nobody_out(proxy: Proxy) -> None:
    """J1: each sends a byte now and then; they are gone at the login deadline."""
    count = scaled(150, 2000)
    waits = []
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((proxy.host, proxy.port), 10)) for _ in range(count)]
        for each in slow:
            each.sendall(b"\0")
        began = time.monotonic()
        while time.monotonic() - began < LOGIN_S - 1:
            started = time.perf_counter()
            with logged_in(proxy.address()) as client:
                assert not errors(client.query("select 1"))
            waits.append(time.perf_counter() - started)
        time.sleep(max(0.0, LOGIN_S + 2 - (time.monotonic() - began)))
        left = 0
        for each in slow:
            each.settimeout(1)
            try:
                left += each.recv(1) != b""
            except TimeoutError:
                left += 1
            except OSError:
                pass
    p99 = sorted(waits)[int(len(waits) * 0.99)] * 1e3
    record(
        "J1",
        "silent connections that outlived the login deadline",
        count=count,
        failures=left,
        logins=len(waits),
        login_p99_ms=round(p99, 1),
    )


def test_clients_that_leave_at_the_end_of_their_login_leave_no_session(proxy: Proxy) -> None:
    """J8: the client's connection breaks while the session begins, whenever within the login that is."""
    wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0)
    before = len(proxy.records("session.start"))
    until = time.monotonic() + scaled(4, 60)

    def come_and_go(number: int) -> int:
        rng = Random(number)
        count = 0
        while time.monotonic() < until:
            client = RawClient.open(proxy.host, proxy.port)
            breaking = threading.Timer(rng.random() * 0.03, _break, [client.stream])
            breaking.start()
            with contextlib.suppress(OSError, AssertionError, Left):
                client.login(proxy.address())
            breaking.join()
            client.close()
            count += 1
        return count

    with ThreadPoolExecutor(6) as threads:
        count = sum(threads.map(come_and_go, range(6)))
    wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0)
    wait_until(lambda: len(proxy.records("session.start")) == len(proxy.records("session.end")))
    started = len(proxy.records("session.start")) - before
    assert started, "nobody came as far as a session"
    record(
        "J8.login",
        "sessions left over by clients that left at the end of their login",
        count=count,
        failures=int(proxy.metric("dbproxy_sessions_open")),
        sessions=started,
    )
    assert "crashed" not in proxy.stderr


def _break(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
