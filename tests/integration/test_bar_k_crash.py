"""A worker, or the supervisor with all there is, is killed: what is lost, what is not, and how soon it is back."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from support.figures import record
from support.processes import assert_whole, error_of, is_ready, sessions_in_both_workers, wait_until, zombies
from support.proxy import START_TIMEOUT_S, STOP_TIMEOUT_S, Proxy
from support.servers import Database
from support.usage import children, is_alive


def test_killed_worker_takes_only_its_sessions_and_is_back_at_once(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """Its chain goes on, what ran has an outcome, new connections meanwhile wait and are not refused."""
    proxy = make_proxy(database=database.name)
    with sessions_in_both_workers(proxy) as sessions, ThreadPoolExecutor(1) as threads:
        running = threads.submit(error_of, sessions[1][0], "select pg_sleep(60)")
        wait_until(lambda: [each for each in proxy.records_of(1) if each.get("sql") == "select pg_sleep(60)"])
        victim = proxy.processes("worker")[0]
        helpers = children(victim)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        tried = refused = 0
        while time.monotonic() - began < 1.5:
            tried += 1
            try:
                with proxy.connect() as connection:
                    connection.execute("select 1")
            except psycopg.OperationalError:
                refused += 1
        assert running.result()
        with pytest.raises(psycopg.OperationalError):
            sessions[1][1].execute("select 1")
        for connection in sessions[2]:
            assert connection.execute("select 1").fetchone() == (1,)
        wait_until(lambda: is_ready(proxy))
    back = proxy.wait_for_record(lambda each: each["type"] == "process.started" and each["trigger"] == "crash")
    crashed = next(each for each in proxy.records("process.crashed"))
    assert (crashed["role"], crashed["slot"], crashed["status"], back["slot"]) == ("worker", 1, -signal.SIGKILL, 1)
    chain = proxy.records_of(1)
    policies = [each for each in chain if each["type"] == "policy.loaded"]
    began_at = _seconds(proxy.records("proxy.start")[0]["at"])
    first, took = _seconds(policies[0]["at"]) - began_at, _seconds(policies[1]["at"]) - _seconds(crashed["at"])
    unknown = [each for each in chain if each["type"] == "statement.outcome" and each["status"] == "unknown"]
    assert [each["reason"] for each in unknown] == ["the proxy ended before the outcome was known"]
    assert [each["type"] for each in chain].count("recovery") == 1
    assert proxy.metric("dbproxy_process_restarts_total", process="worker 1") == 1
    assert not [pid for pid in [victim, *helpers] if is_alive(pid)]
    assert not zombies(proxy)
    record(
        "K.worker",
        "connections refused while a worker is killed and comes back",
        count=tried,
        failures=refused,
        back_after_s=round(took, 3),
    )
    assert took < 1 + 3 * first, "it is started at once; how long that takes, the first start has shown"
    proxy.stop()
    assert_whole(proxy)


def _seconds(at: str) -> float:
    return dt.datetime.fromisoformat(at).timestamp()


def test_nothing_outlives_a_killed_supervisor_and_the_next_proxy_starts_at_once(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(database=database.name, is_clean_end_expected=False)
    everyone = [pid for each in proxy.pids for pid in (each, *children(each))]
    everyone += [pid for each in everyone for pid in children(each)]
    with proxy.connect() as connection:
        connection.execute("select 1")
        proxy.kill()
        wait_until(lambda: not [pid for pid in everyone if is_alive(pid)], 3, "the end of every process")
    with running_again(proxy) as process:
        wait_until(lambda: is_ready(proxy), START_TIMEOUT_S)
        with proxy.connect() as connection:
            connection.execute("select 1")
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0
    assert_whole(proxy)


@contextlib.contextmanager
def running_again(proxy: Proxy) -> Iterator[subprocess.Popen[bytes]]:
    """The same settings, a new process."""
    with (proxy.folder / "stderr2.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dbproxy", "serve", "--settings", str(proxy.settings_path)], stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
