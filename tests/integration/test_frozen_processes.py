"""Processes that are stopped, not ended (SIGSTOP, a debugger, a hanging file system): the supervisor notices and puts others in their place."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.impatient import launcher
from support.processes import admin, is_ready, sessions_in_both_workers, wait_until, whole_proxy
from support.proxy import Proxy
from support.servers import Database, PostgresServer, fresh_database

PATIENCE_S = 4.0


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, "test_frozen_processes") as fresh:
        yield fresh


@pytest.fixture(scope="module")
def proxy(postgres: PostgresServer, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    options = {"change": _change, "launcher": launcher(patience_s=PATIENCE_S)}
    with whole_proxy(tmp_path_factory.mktemp("frozen"), postgres, database, **options) as impatient:
        yield impatient


def _change(settings: dict[str, Any]) -> None:
    settings["timeouts"] = {"login_s": 60, "drain_s": 60}


def test_frozen_processes_are_replaced_and_who_waits_for_them_is_served(proxy: Proxy) -> None:
    (control,), (worker, other) = proxy.processes("control"), proxy.processes("worker")
    with sessions_in_both_workers(proxy) as sessions, contextlib.ExitStack() as stack:
        for pid in (worker, control):
            os.kill(pid, signal.SIGSTOP)
        for connection in sessions[2]:
            assert connection.execute("select 1").fetchone() == (1,)
        for _ in range(12):  # the kernel gives the frozen worker its share of them
            connection = stack.enter_context(proxy.connect(connect_timeout=60))
            assert connection.execute("select 1").fetchone() == (1,)
        for connection in sessions[2]:
            assert connection.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            sessions[1][0].execute("select 1")
    why = f"did not answer for {PATIENCE_S:g} s"
    for name, pid in (("worker 1", worker), ("control", control)):
        crashed = proxy.wait_for_record(
            lambda each, pid=pid: each["type"] == "process.crashed" and each["process"] == pid
        )  # type: ignore[misc] # bound now
        assert (crashed["status"], crashed["reason"]) == (-signal.SIGKILL, why)
        assert f"{name} (process {pid}) ended, signal 9 ({why}); it is started again" in proxy.stderr
    assert proxy.processes("worker")[1] == other
    wait_until(lambda: is_ready(proxy))


def test_everybody_frozen_and_thawed_together_goes_on(proxy: Proxy) -> None:
    """As when a container is paused: nobody is ended for it."""
    before = proxy.pids
    for pid in before:  # the supervisor first: it must not see the others stand still
        os.kill(pid, signal.SIGSTOP)
    time.sleep(PATIENCE_S * 1.5)
    for pid in before:
        os.kill(pid, signal.SIGCONT)
    time.sleep(PATIENCE_S / 2)
    assert proxy.pids == before
    wait_until(lambda: is_ready(proxy))
    with proxy.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_worker_that_was_ended_in_a_rolling_restart_does_not_count_when_the_proxy_ends(proxy: Proxy) -> None:
    """Days later an orderly end is one. The last test here: the proxy ends with it."""
    with sessions_in_both_workers(proxy):  # the drained worker stays for as long as its sessions
        old = proxy.processes("worker")[0]
        proxy.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: ("draining", old) in _workers(proxy), 30)
        os.kill(old, signal.SIGSTOP)
        proxy.wait_for_record(lambda each: each["type"] == "process.crashed" and each["process"] == old, 30)
    assert proxy.stop() == 0


def _workers(proxy: Proxy) -> list[tuple[str, int]]:
    """State and process number of each."""
    return [(each["state"], each["pid"]) for each in admin(proxy).get("/v1/status")["processes"]]
