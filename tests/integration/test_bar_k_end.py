"""SECURITY_BAR K3, K4: drain, and rolling restarts of the workers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support import pg_bytes as pg
from support.figures import record, scaled
from support.processes import Load, admin, assert_whole, is_ready, wait_until
from support.proxy import Proxy
from support.raw_client import errors, logged_in
from support.servers import Database


def test_drain_lets_what_runs_end_and_then_ends_the_rest(make_proxy: Callable[..., Proxy], database: Database) -> None:
    """K3: idle sessions, open transactions, a long COPY and a statement that takes too long."""
    sessions = scaled(20, 200)

    def change(settings: dict[str, Any]) -> None:
        settings["timeouts"] = {"drain_s": 4}
        settings["limits"] = {"max_sessions_per_user": 500, "max_sessions_per_address": 500}

    proxy = make_proxy(database=database.name, change=change)
    database.execute("set role app", "create table drained (note text)")
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(sessions + 8) as threads:
        idle = [stack.enter_context(logged_in(proxy.address())) for _ in range(sessions - 7)]
        committing = [stack.enter_context(logged_in(proxy.address())) for _ in range(3)]
        for number, client in enumerate(committing):
            client.query("begin")
            assert not errors(client.query(f"insert into drained values ('committed {number}')"))
        staying = stack.enter_context(logged_in(proxy.address()))
        staying.query("begin")
        assert not errors(staying.query("insert into drained values ('never committed')"))
        slow = stack.enter_context(logged_in(proxy.address()))
        slow.send(pg.query("select pg_sleep(60)"))
        copying = stack.enter_context(logged_in(proxy.address()))
        copying.send(
            pg.query("copy (select repeat('x', 1000), pg_sleep(0.002) from generate_series(1, 1000)) to stdout")
        )
        copying_began = copying.read()
        wait_until(lambda: proxy.metric("dbproxy_sessions_open") == sessions - 1)
        proxy.process.terminate()
        ended = [threads.submit(client.to_the_end) for client in idle]
        # Within the grace, work can be finished.
        wait_until(lambda: _is_refused(proxy))
        committed = [errors(client.query("commit")) for client in committing]
        copied = copying.ready()
        copied_whole = [kind for kind, _ in copied].count("d") == 1000 - 1 + (copying_began[0] != "d")
        wrong = [
            *(codes for codes in committed if codes),
            *([] if copied_whole and not errors(copied) else ["the copy was not finished"]),
            *(codes for each in ended if (codes := errors(each.result(20))) != ["57P01"]),
            *(codes for client in (slow, staying) if (codes := errors(client.to_the_end())) != ["57P01"]),
        ]
    assert proxy.process.wait(20) == 0
    assert database.fetch("select note from drained order by note") == [(f"committed {number}",) for number in range(3)]
    assert [each["type"] for each in proxy.records_of(0)][-3:] == ["proxy.stop", "checkpoint", "segment.end"]
    for slot in (0, 1, 2):
        assert proxy.records_of(slot)[-1]["type"] == "segment.end"
    assert_whole(proxy)
    assert not [each.name for each in (proxy.folder / "state").iterdir() if each.is_socket()]
    record(
        "K3",
        "sessions that a drain did not treat as promised",
        count=sessions - 1,
        failures=len(wrong),
        examples=wrong[:3],
    )


def _is_refused(proxy: Proxy) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((proxy.host, proxy.port), 5).close()
        return False
    return True


def test_proxy_that_ends_while_control_is_away_is_signed_to_its_end(make_proxy: Callable[..., Proxy]) -> None:
    """K3: workers wait for the next control process, and tell it where their chains end."""
    proxy = make_proxy()
    os.kill(proxy.processes("control")[0], signal.SIGKILL)
    assert proxy.stop() == 0
    assert_whole(proxy)


def quick(settings: dict[str, Any]) -> None:
    settings["timeouts"] = {"drain_s": 2}


def test_rolling_restart_refuses_no_connection_and_leaves_no_gap(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """K4: twice, so that the second brings the slots back."""
    proxy = make_proxy(database=database.name, change=quick)
    before = proxy.processes("worker")
    with Load(proxy, 4, connects=True) as load:
        wait_until(lambda: load.connections > 20)
        for expected in ([3, 4], [1, 2]):
            proxy.process.send_signal(signal.SIGUSR2)
            began = time.monotonic()
            wait_until(lambda expected=expected: slots(proxy) == expected, 60, f"workers {expected}")  # type: ignore[misc] # bound now
            took = time.monotonic() - began
    assert not set(before) & set(proxy.processes("worker"))
    ended = proxy.records("process.ended")
    assert len(ended) == 4
    record(
        "K4",
        "connections refused or broken during rolling restarts",
        count=load.connections,
        failures=len(load.failures),
        examples=load.failures[:3],
        seconds=round(took, 2),
    )
    assert proxy.stop() == 0
    assert_whole(proxy)
    for slot in (1, 2, 3, 4):
        assert proxy.records_of(slot)[-1]["type"] == "segment.end"


def test_worker_that_crashes_while_its_successor_starts_has_only_that_one(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(database=database.name, change=quick)
    first = proxy.processes("worker")[0]
    proxy.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: len(proxy.processes("worker")) == 3)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: "rolling restart done" in proxy.stderr, 60)
    wait_until(lambda: is_ready(proxy), 20)
    team = [each["pid"] for each in admin(proxy).get("/v1/status")["processes"] if each["role"] == "worker"]
    assert sorted(team) == sorted(proxy.processes("worker"))
    assert slots(proxy) == [3, 4]


def slots(proxy: Proxy) -> list[int]:
    """Of the workers that work."""
    processes = admin(proxy).get("/v1/status")["processes"]
    return sorted(
        each["slot"] for each in processes if each["role"] == "worker" and each["state"] in ("ready", "draining")
    )
