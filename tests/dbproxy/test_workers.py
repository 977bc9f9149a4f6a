"""Workers and control, both ends over a real socket: who is let in, what is asked of all, what a restart of either end leaves."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support.fake_clock import FakeClock

from config.settings import Limits, LoginFailures
from dbproxy import ipc, unix_socket
from dbproxy.admission import Admission
from dbproxy.control_link import ControlLink
from dbproxy.doorkeeper import DELIVERED, TOO_MANY_SESSIONS, TOO_OFTEN, UNKNOWN_KEY, UnreachableError
from dbproxy.figures import Snapshot
from dbproxy.sessions_view import SessionInfo
from dbproxy.throttle_memory import ThrottleMemory
from dbproxy.workers import Workers

ME = os.getpid()


def member(slot: int, state: str = "ready", pid: int = ME) -> ipc.Member:
    return ipc.Member("worker", slot, pid, state, 1, 0)


def info(session: str, slot: int, started: int = 0) -> SessionInfo:
    return SessionInfo(session, slot, "alice", "app", "app", "shop", "shop", "127.0.0.1:1", "", started, started)


class Worker:
    """The worker's end: answers as a real one does, from lists. Implements control_link.Duties."""

    def __init__(self, path: Path, slot: int) -> None:
        self.slot = slot
        self.in_force = "old"
        self.sessions: list[SessionInfo] = []
        self.keys: dict[tuple[int, bytes], str] = {}
        self.rows = 0
        self.is_silent = False
        self.orders: list[ipc.Message] = []
        self.welcomes = 0
        self.link = ControlLink(path, slot, ME, self)

    def on_welcome(self, welcome: ipc.Welcome) -> None:
        self.welcomes += 1

    def on_order(self, order: ipc.Message) -> None:
        self.orders.append(order)
        if self.is_silent:
            return
        tell = self.link.tell
        match order:
            case ipc.Report():
                tell(
                    ipc.Figures(
                        order.number,
                        Snapshot({"rows": self.rows}, {"sessions_open": 1}, (), {}, {}, (), 0.0, 0.0, "", ()),
                    )
                )
            case ipc.ListSessions():
                found = [each for each in self.sessions if order.session in ("", each.id)]
                for each in found[1:]:  # one at a time, as if there were many
                    tell(ipc.Sessions(order.number, (each,), is_last=False))
                tell(ipc.Sessions(order.number, tuple(found[:1]), is_last=True))
            case ipc.Kill():
                killed = tuple(each for each in self.sessions if each.id == order.session)
                tell(ipc.Killed(order.number, killed, is_over=order.message != "stubborn"))
            case ipc.CancelHere():
                session = self.keys.get((order.process_id, order.secret), "")
                tell(ipc.Cancelled(order.number, DELIVERED if session else UNKNOWN_KEY, session))
            case ipc.TakeOver():
                self.in_force = order.in_force
                tell(ipc.TakenOver(order.number, order.in_force, ("broken certificate",) if self.slot == 2 else ()))


class Stage:
    """Control with two workers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listening = unix_socket.listen(path)
        self.heads: list[tuple[int, ipc.Heads]] = []
        self.workers = [Worker(path, 1), Worker(path, 2)]
        self.throttle = ThrottleMemory.create()
        self.control = self.make_control()

    def make_control(self) -> Workers:
        limits = Limits(max_sessions_per_user=3, login_failures=LoginFailures(per_user=2))
        listening = socket.socket(fileno=os.dup(self.listening.fileno()))
        admission = Admission(limits, FakeClock(), self.throttle)
        control = Workers(listening, admission, lambda *heads: self.heads.append(heads), lambda _: None)
        control.in_force = "new"
        return control

    async def start(self, *team: ipc.Member) -> None:
        self.control.start()
        self.control.set_team(team or (member(1), member(2)))
        for worker in self.workers:
            worker.link.start()
            assert await worker.link.wait_up(5)

    async def restart_control(self) -> None:
        await self.control.stop()
        await until(lambda: not any(worker.link.is_up for worker in self.workers))
        await self.start_control()

    async def start_control(self) -> None:
        self.control = self.make_control()
        self.control.start()
        self.control.set_team((member(1), member(2)))
        for worker in self.workers:
            assert await worker.link.wait_up(5)

    async def stop(self) -> None:
        for worker in self.workers:
            await worker.link.stop()
        await self.control.stop()
        self.listening.close()
        self.throttle.close()


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.005)


def play(tmp_path: Path, scenario: Callable[[Stage], Awaitable[Any]], *team: ipc.Member) -> None:
    async def main() -> None:
        stage = Stage(tmp_path / "ipc.sock")
        try:
            await stage.start(*team)
            await scenario(stage)
        finally:
            await stage.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_worker_that_is_behind_is_brought_up_to_date(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await until(lambda: [worker.in_force for worker in stage.workers] == ["new", "new"])

    play(tmp_path, scenario)


def test_caps_are_counted_over_workers_and_again_after_a_restart_of_control(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        one, two = (worker.link for worker in stage.workers)
        for claim, link in ((1, one), (2, one), (1, two), (2, two)):
            assert await link.enter(claim, "10.0.0.1") == ""
        assert [await link.take(claim, "alice", None) for claim, link in ((1, one), (2, one), (1, two), (2, two))] == [
            "", "", "", TOO_MANY_SESSIONS,
        ]  # fmt: skip
        await stage.restart_control()
        assert await two.take(2, "alice", None) == TOO_MANY_SESSIONS
        assert await two.take(2, "bob", None) == ""
        one.leave(1)
        assert await one.enter(3, "10.0.0.1") == ""
        assert await one.take(3, "alice", None) == ""

    play(tmp_path, scenario)


def test_without_control_connections_are_taken_and_logins_wait(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        link = stage.workers[0].link
        await stage.control.stop()
        await until(lambda: not link.is_up)
        assert await link.enter(1, "10.0.0.1") == ""
        with pytest.raises(UnreachableError):
            await link.take(1, "alice", loop.time() + 0.1)
        with pytest.raises(UnreachableError):
            await link.throttled("10.0.0.1", "alice", loop.time() + 0.1, begins_proof=True)
        waiting = asyncio.ensure_future(link.take(1, "alice", loop.time() + 5))
        await asyncio.sleep(0.05)
        stage.control = stage.make_control()
        stage.control.start()
        stage.control.set_team((member(1), member(2)))
        assert await waiting == ""
        assert stage.control._admission.sessions == 1

    play(tmp_path, scenario)


def test_throttle_is_shared_and_a_login_that_gives_up_counts(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        one, two = (worker.link for worker in stage.workers)
        assert await one.throttled("10.0.0.1", "alice", None, begins_proof=True) == ""
        assert await two.throttled("10.0.0.1", "alice", None, begins_proof=True) == ""
        # The limit is 2: a third proof waits, and its login ends before there is an answer.
        third = asyncio.ensure_future(two.throttled("10.0.0.1", "alice", None, begins_proof=True))
        await asyncio.sleep(0.05)
        third.cancel()
        one.proved("10.0.0.1", "alice", is_right=True, was_begun=True)
        two.proved("10.0.0.1", "alice", is_right=True, was_begun=True)
        await asyncio.sleep(0.1)
        assert not stage.control._admission._proofs, "a proof of nobody is under way"

    play(tmp_path, scenario)


def test_proofs_that_end_while_control_is_away_are_told_to_the_next_one(tmp_path: Path) -> None:
    """Before anybody may try again: the limit is 2."""

    async def scenario(stage: Stage) -> None:
        one, two = (worker.link for worker in stage.workers)
        assert await one.throttled("10.0.0.1", "alice", None, begins_proof=True) == ""
        assert await two.throttled("10.0.0.1", "alice", None, begins_proof=True) == ""
        assert await one.throttled("10.0.0.1", "bob", None, begins_proof=False) == ""
        await stage.control.stop()
        await until(lambda: not one.is_up and not two.is_up)
        one.proved("10.0.0.1", "alice", is_right=False, was_begun=True)
        two.proved("10.0.0.1", "alice", is_right=True, was_begun=True)
        for _ in range(2):  # the server has refused them: nothing was announced
            one.proved("10.0.0.1", "bob", is_right=False, was_begun=False)
        waiting = asyncio.ensure_future(two.throttled("10.0.0.1", "bob", None, begins_proof=True))
        await asyncio.sleep(0.05)
        await stage.start_control()
        assert await waiting == "first"
        assert await two.throttled("10.0.0.1", "alice", None, begins_proof=True) == ""
        await stage.restart_control()  # and they are told once
        assert await two.throttled("10.0.0.1", "carol", None, begins_proof=True) == ""

    play(tmp_path, scenario)


def test_last_word_is_said_until_it_is_heard(tmp_path: Path) -> None:
    """Control goes away with it; that it has gone, the worker has not noticed when it speaks."""

    async def scenario(stage: Stage) -> None:
        last = ipc.Heads(5, "ab" * 32, "audit-1-0000000000000001.jsonl", 5, 2, 1)
        link = stage.workers[0].link
        for peer in stage.control._peers.values():
            assert peer.channel is not None
            peer.channel.close("killed")
        assert link.is_up
        saying = asyncio.ensure_future(link.tell_surely(last, 5))
        await stage.control.stop()
        assert not stage.heads
        await stage.start_control()
        assert await saying
        assert stage.heads == [(1, last)]
        await stage.control.stop()
        assert not await link.tell_surely(last, 0.1)

    play(tmp_path, scenario)


def test_key_is_found_in_another_worker_and_only_so_often(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        one, two = stage.workers
        two.keys[77, b"\1\2\3\4"] = "s2"
        assert await one.link.cancel_elsewhere("10.0.0.1", 77, b"\1\2\3\4") == (DELIVERED, "s2")
        assert await two.link.cancel_elsewhere("10.0.0.1", 77, b"\1\2\3\4") == (
            UNKNOWN_KEY,
            "",
        )  # its own it knows itself
        words = [(await one.link.cancel_elsewhere("10.0.0.2", 77, bytes(4)))[0] for _ in range(200)]
        assert TOO_OFTEN in words
        assert words.count(UNKNOWN_KEY) <= 100  # two seconds' worth, should the clock turn in between
        assert (await one.link.cancel_elsewhere("10.0.0.3", 77, b"\1\2\3\4"))[0] == DELIVERED

    play(tmp_path, scenario)


def test_sessions_of_all_are_listed_oldest_first_found_and_killed(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        one, two = stage.workers
        one.sessions = [info("a", 1, 5), info("c", 1, 1)]
        two.sessions = [info("b", 2, 3)]
        assert [each.id for each in await stage.control.sessions()] == ["c", "b", "a"]
        assert await stage.control.find_session("b") == info("b", 2, 3)
        assert await stage.control.find_session("x") is None
        assert await stage.control.kill_session("b", "because") == info("b", 2, 3)
        assert await stage.control.kill_session("x", "because") is None
        with pytest.raises(TimeoutError):
            await stage.control.kill_session("a", "stubborn")

    play(tmp_path, scenario)


def test_worker_that_does_not_answer_is_shown_as_it_last_was(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        one, two = stage.workers
        one.rows, two.rows = 3, 4
        totals, each = await stage.control.figures()
        assert (totals.counts["rows"], [(one.slot, one.is_fresh) for one in each]) == (7, [(1, True), (2, True)])
        two.is_silent, one.rows = True, 5
        totals, each = await stage.control.figures()
        assert (totals.counts["rows"], [(one.slot, one.is_fresh) for one in each]) == (9, [(1, True), (2, False)])

    play(tmp_path, scenario)


def test_what_a_worker_counted_stays_when_another_takes_its_slot(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        one, two = stage.workers
        one.rows, two.rows = 3, 4
        await stage.control.figures()
        await one.link.stop()
        stage.control.set_team((member(1, "down", 0), member(2)))
        totals, each = await stage.control.figures()
        assert (totals.counts["rows"], totals.levels["sessions_open"], len(each)) == (7, 1, 1)
        stage.control.set_team((member(1), member(2)))
        again = Worker(stage.path, 1)
        stage.workers[0] = again
        again.link.start()
        assert await again.link.wait_up(5)
        again.rows = 10
        totals, each = await stage.control.figures()
        assert (totals.counts["rows"], totals.levels["sessions_open"], len(each)) == (17, 2, 2)

    play(tmp_path, scenario)


def test_all_take_over_and_their_problems_are_gathered(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        stage.control.in_force = "newer"
        found = dict(await stage.control.take_over("change"))
        assert found == {1: (), 2: ("broken certificate",)}
        assert [worker.in_force for worker in stage.workers] == ["newer", "newer"]

    play(tmp_path, scenario)


def test_heads_are_handed_on_with_their_slot(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        heads = ipc.Heads(5, "ab" * 32, "audit-2-0000000000000001.jsonl", 5, 2, 1)
        stage.workers[1].link.tell(heads)
        await until(lambda: stage.heads)
        assert stage.heads == [(2, heads)]

    play(tmp_path, scenario)


# ---- who is let in --------------------------------------------------------------------------------------------------


def test_process_that_the_supervisor_did_not_name_is_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbproxy.workers._ANNOUNCED_S", 0.2)

    async def main() -> None:
        stage = Stage(tmp_path / "ipc.sock")
        try:
            stage.control.start()
            stage.control.set_team((member(1, pid=1), member(2)))
            for worker in stage.workers:
                worker.link.start()
            assert await stage.workers[1].link.wait_up(5)
            assert not await stage.workers[0].link.wait_up(0.5)
            assert await stage.control.sessions() == ()
        finally:
            await stage.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    "first",
    [
        ipc.Hello(ipc.VERSION + 1, 1, ME),
        ipc.Hello(ipc.VERSION, 1, ME + 1),
        ipc.Enrolled("x"),
        ipc.Question(1, ipc.Ask.ENTER, 1, "10.0.0.1", ""),
    ],
    ids=["other version", "other process", "no hello", "a question at once"],
)
def test_whoever_begins_otherwise_is_cut_off(tmp_path: Path, first: ipc.Message) -> None:
    async def scenario(stage: Stage) -> None:
        raw = unix_socket.connect(stage.path, timeout_s=5)
        with raw:
            raw.sendall(ipc.encode(first))
            assert await asyncio.to_thread(raw.recv, 1) == b""
        assert all(worker.link.is_up for worker in stage.workers)

    play(tmp_path, scenario)


def test_second_connection_of_a_worker_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        assert await stage.workers[0].link.enter(1, "10.0.0.1") == ""
        again = Worker(stage.path, 1)
        again.link.start()
        await until(lambda: again.welcomes)
        await stage.workers[0].link.stop()
        assert await again.link.enter(1, "10.0.0.9") == ""
        await again.link.stop()

    play(tmp_path, scenario)
