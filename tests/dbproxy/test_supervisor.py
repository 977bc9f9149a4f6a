"""Starting, hearing and ending children; sockets that outlive them; how long to wait before trying again."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.settings_files import good_directory
from support.usage import is_alive

from config.load import load_settings
from dbproxy import ipc
from dbproxy.children import Child, Children, interpreter
from dbproxy.clock import SystemClock
from dbproxy.listening import listen_shared
from dbproxy.operations import ProcessState
from dbproxy.orders import HOME, Orders, receive_orders, send_orders
from dbproxy.supervisor import other_slot, restart_delay_s


def test_first_crash_is_repaired_at_once_and_a_row_of_them_ever_later() -> None:
    delays = [restart_delay_s(crashes) for crashes in range(1, 20)]
    assert delays[:5] == [0, 0.25, 0.5, 1, 2]
    assert delays == sorted(delays)
    assert delays[-1] == 30


@pytest.mark.parametrize("workers", [1, 2, 5, 64])
def test_successors_have_the_other_slot_of_the_pair(workers: int) -> None:
    slots = range(1, 2 * workers + 1)
    assert sorted(other_slot(slot, workers) for slot in slots) == list(slots)
    assert all(other_slot(other_slot(slot, workers), workers) == slot for slot in slots)
    assert all((other_slot(slot, workers) - slot) % workers == 0 for slot in slots)


def test_connections_spread_over_the_sockets_of_one_address() -> None:
    listening = listen_shared("127.0.0.1", 0, 3)
    address = listening[0].getsockname()
    assert {each.getsockname() for each in listening} == {address}
    clients, taken = [], Counter[int]()
    for _ in range(90):
        clients.append(socket.create_connection(address, 5))
        ready, _, _ = select.select(listening, [], [], 5)
        accepted, _ = ready[0].accept()
        accepted.close()
        taken[listening.index(ready[0])] += 1
    for each in (*clients, *listening):
        each.close()
    assert min(taken[number] for number in range(3)) > 5


def test_address_that_is_shared_by_somebody_else_is_taken() -> None:
    """Also by another proxy of the same user, which has it with SO_REUSEPORT itself."""
    listening = listen_shared("127.0.0.1", 0, 2)
    with pytest.raises(OSError, match="Address already in use"):
        listen_shared("127.0.0.1", listening[0].getsockname()[1], 2)
    for each in listening:
        each.close()


def test_what_waits_in_a_socket_is_there_for_the_next_process() -> None:
    """The worker's copy is closed, the supervisor's is not."""
    (ours,) = listen_shared("127.0.0.1", 0, 1)
    theirs = socket.socket(fileno=os.dup(ours.fileno()))
    client = socket.create_connection(ours.getsockname(), 5)
    theirs.close()
    successor = socket.socket(fileno=os.dup(ours.fileno()))
    select.select([successor], [], [], 5)
    accepted, _ = successor.accept()
    for each in (client, accepted, successor, ours):
        each.close()


def make_orders(folder: Path, role: str = "worker", slot: int = 1) -> Orders:
    path = good_directory(folder)
    return Orders(
        role=role,
        slot=slot,
        trigger="start",
        is_first=True,
        supervisor_pid=os.getpid(),
        home=HOME,
        settings=load_settings(path),
        settings_path=path,
        settings_sha256="ab",
        proxy_started_at_ns=1,
        memory=(8, 9),
        listeners=(("main", 7),),
    )


def test_orders_arrive_as_they_were_given(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    orders = make_orders(tmp_path)
    with ours, theirs:
        send_orders(ours, orders)
        assert receive_orders(theirs) == orders
        assert orders.name == "worker 1"


def test_orders_that_do_not_come_are_an_error() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"\0\0")
        ours.close()
        with pytest.raises(ConnectionError):
            receive_orders(theirs)


def test_interpreter_keeps_what_the_program_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "error", "sampler.py", "out", "-m", "dbproxy", "serve"])
    assert interpreter() == (sys.executable, "-W", "error", "sampler.py", "out")
    monkeypatch.setattr(sys, "orig_argv", ["python", "/venv/bin/dbproxy", "serve"])
    assert interpreter()[0] == sys.executable
    assert "/venv/bin/dbproxy" not in interpreter()


# ---- children -------------------------------------------------------------------------------------------------------

_BEGIN = (
    "import os, socket, sys, time, signal; from dbproxy import ipc, orders; s = socket.socket(fileno=int(sys.argv[5]));"
    "o = orders.receive_orders(s);"
)
READY = _BEGIN + "s.sendall(ipc.encode(ipc.Ready())); s.recv(1)"
CANNOT = _BEGIN + "s.sendall(ipc.encode(ipc.CannotStart('no such ' + o.role))); sys.exit(2)"
DIES = "import sys; sys.exit(7)"
STUBBORN = (
    _BEGIN + "[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; s.sendall(ipc.encode(ipc.Ready())); time.sleep(60)"
)
TALKS = _BEGIN + "s.sendall(b'\\0\\0\\0\\2{}'); s.recv(1)"


def run_child(tmp_path: Path, program: str, scenario: Any) -> list[tuple[str, int]]:
    """Start one child and play the scenario with it. Returns who ended how."""
    ended: list[tuple[str, int]] = []

    async def main() -> None:
        children = Children(
            SystemClock(),
            lambda child, status: ended.append((child.name, status)),
            (sys.executable, "-W", "error", "-c", program),
        )
        children.start()
        try:
            child = await children.spawn(make_orders(tmp_path), [])
            async with asyncio.timeout(20):
                await child.started.wait()
                await scenario(children, child)
                await child.ended
            assert not children.running
        finally:
            await children.kill_all(5)
            children.stop()

    asyncio.run(main())
    return ended


def test_child_that_is_ready_says_so_and_ends_with_its_channel(tmp_path: Path) -> None:
    async def scenario(_: Children, child: Child) -> None:
        assert (child.state, child.problem) == (ProcessState.READY, "")
        assert is_alive(child.pid)
        assert child.channel is not None
        child.channel.close("test")

    assert run_child(tmp_path, READY, scenario) == [("worker 1", 0)]


def test_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def scenario(_: Children, child: Child) -> None:
        await child.ended
        assert (child.state, child.problem) == (ProcessState.DOWN, "no such worker")

    assert run_child(tmp_path, CANNOT, scenario) == [("worker 1", 2)]


def test_child_that_just_dies_is_noticed(tmp_path: Path) -> None:
    async def scenario(_: Children, child: Child) -> None:
        assert (await child.ended, child.problem, child.state) == (7, "", ProcessState.DOWN)
        assert not child.say(ipc.Finish("x"))

    assert run_child(tmp_path, DIES, scenario) == [("worker 1", 7)]


def test_child_that_ignores_signals_is_killed_and_leaves_no_zombie(tmp_path: Path) -> None:
    async def scenario(children: Children, child: Child) -> None:
        os.kill(child.pid, signal.SIGTERM)
        os.kill(child.pid, signal.SIGINT)
        await children.kill_all(5)
        assert not Path(f"/proc/{child.pid}").exists()
        child.kill()  # nobody else is hit

    assert run_child(tmp_path, STUBBORN, scenario) == [("worker 1", -signal.SIGKILL)]


def test_child_that_speaks_nonsense_is_cut_off(tmp_path: Path) -> None:
    async def scenario(_: Children, child: Child) -> None:
        await child.ended

    assert run_child(tmp_path, TALKS, scenario) == [("worker 1", 0)]
