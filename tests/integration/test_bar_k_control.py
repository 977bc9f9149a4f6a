"""The control process is killed, frozen or away: sessions do not notice, caps and the login throttle hold. SECURITY_BAR B7."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from support.figures import record, scaled
from support.processes import admin, is_ready, sessions_in_both_workers, wait_until, whole_proxy
from support.proxy import Proxy
from support.raw_client import logged_in
from support.servers import Database, PostgresServer, fresh_database

from dbproxy.operations import ADMIN_SOCKET

SESSIONS = 6
FAILURES = 5


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, "test_bar_k_control") as fresh:
        yield fresh


@pytest.fixture(scope="module")
def one_proxy(
    postgres: PostgresServer, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    def change(settings: dict[str, Any]) -> None:
        failures = {"per_user": FAILURES, "per_address": 10_000, "window_s": 3600}
        settings["limits"] = {"max_sessions_per_user": SESSIONS, "login_failures": failures}
        settings["timeouts"] = {"login_s": 30}

    with whole_proxy(tmp_path_factory.mktemp("control"), postgres, database, change=change) as proxy:
        yield proxy


@pytest.fixture
def proxy(one_proxy: Proxy) -> Proxy:
    """With control there, and nobody connected any more."""
    wait_until(lambda: is_ready(one_proxy), 20)
    wait_until(lambda: not one_proxy.metric("dbproxy_connections_open"), what="the end of the last test's sessions")
    return one_proxy


@pytest.fixture(scope="module")
def hasty_proxy(
    postgres: PostgresServer, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """One that refuses logins after a bit more than the time that a worker waits for control to count a connection."""

    def change(settings: dict[str, Any]) -> None:
        settings["timeouts"] = {"login_s": 4}

    with whole_proxy(tmp_path_factory.mktemp("hasty"), postgres, database, change=change) as proxy:
        yield proxy


def kill_control(proxy: Proxy) -> int:
    """Returns which process it was. The supervisor waits ever longer before it starts the next: not too often in one file."""
    (control,) = proxy.processes("control")
    os.kill(control, signal.SIGKILL)
    return control


def test_killed_control_is_not_noticed_by_sessions_and_caps_still_hold(proxy: Proxy) -> None:
    noticed = 0
    with sessions_in_both_workers(proxy) as sessions:
        mine = [each for both in sessions.values() for each in both]
        control = kill_control(proxy)
        began = time.monotonic()
        noticed += _failures(mine)
        with contextlib.ExitStack() as stack:  # a login waits, and succeeds
            for _ in range(SESSIONS - len(mine)):
                stack.enter_context(proxy.connect())
            waited = time.monotonic() - began
            with pytest.raises(psycopg.OperationalError, match="too many sessions"):
                stack.enter_context(proxy.connect())
            stack.enter_context(proxy.connect("bob"))
        wait_until(lambda: is_ready(proxy), 20)
        assert proxy.metric("dbproxy_sessions_open") >= len(mine)
        assert proxy.processes("control") != [control]
        noticed += _failures(mine)
    crashed = proxy.wait_for_record(lambda each: each["type"] == "process.crashed" and each["process"] == control)
    assert (crashed["role"], crashed["slot"]) == ("control", 0)
    record(
        "K.control",
        "statements that failed because control had ended",
        count=2 * len(mine),
        failures=noticed,
        login_waited_s=round(waited, 3),
    )


def _failures(connections: list[psycopg.Connection[Any]]) -> int:
    """How many cannot run a statement."""
    failed = 0
    for connection in connections:
        try:
            connection.execute("select 1")
        except psycopg.Error:
            failed += 1
    return failed


def test_without_control_logins_are_refused_when_their_time_is_over(hasty_proxy: Proxy) -> None:
    with hasty_proxy.connect() as connection:
        hasty_proxy.process.send_signal(signal.SIGSTOP)  # nobody starts it again
        try:
            kill_control(hasty_proxy)
            began = time.monotonic()
            with (
                pytest.raises(psycopg.OperationalError, match="cannot take logins at the moment"),
                hasty_proxy.connect(),
            ):
                pass
            assert 0.5 < time.monotonic() - began < 6
            assert connection.execute("select 1").fetchone() == (1,)
        finally:
            hasty_proxy.process.send_signal(signal.SIGCONT)
        wait_until(lambda: is_ready(hasty_proxy), 20)
        with hasty_proxy.connect() as other:
            assert other.execute("select 1").fetchone() == (1,)


def test_logins_that_meet_a_frozen_control_are_told_so_and_sessions_go_on(hasty_proxy: Proxy) -> None:
    (control,) = hasty_proxy.processes("control")
    with hasty_proxy.connect() as connection:
        os.kill(control, signal.SIGSTOP)
        try:
            with (
                pytest.raises(psycopg.OperationalError, match="cannot take logins at the moment"),
                hasty_proxy.connect(),
            ):
                pass
            assert connection.execute("select 1").fetchone() == (1,)
        finally:
            os.kill(control, signal.SIGCONT)
        wait_until(lambda: is_ready(hasty_proxy), 20)
        with hasty_proxy.connect() as other:
            assert other.execute("select 1").fetchone() == (1,)


def test_crash_that_only_a_dying_control_was_told_of_is_recorded(proxy: Proxy) -> None:
    """Once: the next control process is told again of what the last one did not confirm."""
    (control,) = proxy.processes("control")
    worker = proxy.processes("worker")[0]
    os.kill(control, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: worker not in proxy.processes("worker"))
    os.kill(control, signal.SIGKILL)
    for pid in (worker, control):
        proxy.wait_for_record(lambda each, pid=pid: each["type"] == "process.crashed" and each["process"] == pid)  # type: ignore[misc] # bound now
    wait_until(lambda: is_ready(proxy), 20)
    assert Counter(each["process"] for each in proxy.records("process.crashed"))[worker] == 1


def test_admin_socket_that_cannot_be_made_keeps_nobody_out(proxy: Proxy) -> None:
    """As when the state directory's disk is full or read-only while control is started again."""
    path = proxy.folder / "state" / ADMIN_SOCKET
    proxy.process.send_signal(signal.SIGSTOP)
    try:
        kill_control(proxy)
        path.unlink()
        path.mkdir()
    finally:
        proxy.process.send_signal(signal.SIGCONT)
    with proxy.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    wait_until(lambda: is_ready(proxy), 20)
    assert json.loads(proxy.get("/readyz")[1])["warnings"] == ["no admin API"]
    assert f"the admin API does not answer: {path.resolve()}" in proxy.stderr
    path.rmdir()
    wait_until(lambda: json.loads(proxy.get("/readyz")[1])["warnings"] == [])
    assert admin(proxy).get("/v1/status")["ready"]


def test_throttle_counts_failures_of_all_workers(proxy: Proxy) -> None:
    """B7: tries at once in both workers: as many are looked at as the limit allows, no more."""

    def attempt(_number: int) -> None:
        with pytest.raises(AssertionError), logged_in({**proxy.address("carol"), "password": "wrong"}):
            pass

    count = scaled(40, 400)
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(attempt, range(count)))
    wait_until(lambda: len(_refusals(proxy, "carol")) >= FAILURES + 1)
    reasons = Counter(_refusals(proxy, "carol"))
    record(
        "B7.workers",
        "wrong passwords looked at beyond the limit",
        count=count,
        failures=abs(reasons["login_failed"] - FAILURES),
        told=reasons["login_throttled"],
    )


def test_restart_of_control_forgets_no_failed_login(proxy: Proxy) -> None:
    """B7: whoever could end control would gain no tries."""
    for _ in range(FAILURES):
        with pytest.raises(psycopg.OperationalError), proxy.connect("bob", password="wrong"):
            pass
    with pytest.raises(psycopg.OperationalError), proxy.connect("bob"):
        pass
    control = kill_control(proxy)
    wait_until(lambda: proxy.processes("control") not in ([], [control]), 20)
    wait_until(lambda: is_ready(proxy), 20)
    with pytest.raises(psycopg.OperationalError), proxy.connect("bob"):
        pass
    with proxy.connect() as other:
        assert other.execute("select 1").fetchone() == (1,)
    assert set(_refusals(proxy, "bob")) == {"login_failed", "login_throttled"}


def _refusals(proxy: Proxy, person: str) -> list[str]:
    return [each.get("reason", "") for each in proxy.records("login.failure") if each["person"] == person]
