"""What may leave after a turn's records are written, what waits for the disk, and what never leaves."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbproxy import turn as turn_module
from dbproxy.audit.ledger import Ledger
from dbproxy.audit.types import EventType
from dbproxy.audit.verify import Status, verify_directory
from dbproxy.metrics import Counters
from dbproxy.turn import Turn

BODY = b'"person":"alice","act":"query","action":"allow","sql":"SELECT 1"'
OUTCOME = b'"status":"ok","rows":1'


class SlowDisk:
    """Stands in for os.fdatasync. Holds every call until `answer`, or lets it through after delay_s where that is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.delay_s: float | None = 0.0
        self.error = 0
        self.calls = 0
        self.waiting = threading.Semaphore(0)
        self._answers = threading.Semaphore(0)
        self._sync = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)

    def fdatasync(self, fd: int) -> None:
        self.calls += 1
        if self.delay_s is None:
            self.waiting.release()
            assert self._answers.acquire(timeout=20)
        elif self.delay_s:
            time.sleep(self.delay_s)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self._sync(fd)

    async def begun(self) -> None:
        """Wait until a sync is at the disk."""
        assert await asyncio.to_thread(self.waiting.acquire, timeout=5), "no sync was begun"

    def answer(self, error: int = 0) -> None:
        self.error = error
        self._answers.release()


class Session:
    """A sender like dbproxy's session: what it would have sent, and what was taken back."""

    def __init__(self, turn: Turn, name: str) -> None:
        self.turn = turn
        self.name = name
        self.sent: list[bytes] = []
        self.revoked: list[bytes] = []
        self.statements: tuple[int, ...] = ()
        self.is_reading = True
        self._outgoing: list[bytes] = []

    def send(self, data: bytes) -> None:
        if self._outgoing:
            self._outgoing.append(data)
        elif self.turn.is_open:
            self._outgoing.append(data)
            self.turn.waiting[self.name] = self
        else:
            self.sent.append(data)

    def run(self, statement: int, *, must_sync: bool) -> None:
        self.turn.intent((self.name, statement), BODY)
        if must_sync:
            self.turn.must_sync(self.name, statement)
        self.send(b"%d " % statement)

    def release(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        self.sent += [data for data in outgoing if data]

    def hold(self) -> bytes:
        data = b"".join(self._outgoing)
        self._outgoing = [b""]
        self.is_reading = False
        return data

    def deliver(self, data: bytes) -> None:
        self.sent.append(data)

    def unhold(self) -> None:
        self.is_reading = True

    def revoke(self, reason: str, statements: tuple[int, ...], data: bytes) -> None:
        assert reason
        self.revoked.append(data + b"".join(self._outgoing))
        self._outgoing = []
        self.statements += statements


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


class Stage:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ledger = Ledger(directory, segment_bytes=1 << 20, reserve_bytes=1 << 20, now_ns=time.time_ns, node="test")
        self.ledger.open()
        self.counters = Counters()
        self.turn: Turn

    def run(self, play: Callable[[Turn], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            self.turn = Turn(self.ledger, asyncio.get_running_loop(), self.counters, time.monotonic_ns)
            await play(self.turn)
            await self.turn.close()

        asyncio.run(main())
        self.ledger.close("test")
        result = verify_directory(self.directory)
        assert result.status is Status.OK, result.problem


@pytest.fixture
def stage(tmp_path: Path, disk: SlowDisk) -> Iterator[Stage]:
    stage = Stage(tmp_path / "audit")
    yield stage
    stage.ledger._release_files()


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_plain_reads_leave_when_written_and_are_synced_soon(stage: Stage, disk: SlowDisk) -> None:
    async def play(turn: Turn) -> None:
        session = Session(turn, "s1")
        before = disk.calls
        session.run(1, must_sync=False)
        assert session.sent == []
        await turns()
        assert session.sent == [b"1 "]
        assert disk.calls == before
        async with asyncio.timeout(1.0):
            while stage.ledger.synced.seq < stage.ledger.written_seq:
                await asyncio.sleep(0.01)
        turn.outcome(("s1", 1), OUTCOME)

    stage.run(play)


def test_what_must_be_on_the_disk_waits_and_others_do_not(stage: Stage, disk: SlowDisk) -> None:
    async def play(turn: Turn) -> None:
        disk.delay_s = None
        writer, reader = Session(turn, "writer"), Session(turn, "reader")
        writer.run(1, must_sync=True)
        reader.run(1, must_sync=False)
        await disk.begun()
        assert (writer.sent, reader.sent) == ([], [b"1 "])
        assert not writer.is_reading
        disk.answer()
        async with asyncio.timeout(5):
            while not writer.sent:
                await asyncio.sleep(0.001)
        assert writer.sent == [b"1 "]
        assert writer.is_reading
        disk.delay_s = 0.0

    stage.run(play)


def test_later_bytes_of_a_session_stay_behind_those_that_wait(stage: Stage, disk: SlowDisk) -> None:
    async def play(turn: Turn) -> None:
        disk.delay_s = None
        session = Session(turn, "s1")
        session.run(1, must_sync=True)
        await disk.begun()
        session.run(2, must_sync=False)
        await turns()
        session.send(b"no record ")
        session.run(3, must_sync=True)
        await turns()
        session.run(4, must_sync=False)
        await turns()
        assert session.sent == []
        disk.answer()  # covers 1 only: 3 was written after this sync began
        await disk.begun()
        assert b"".join(session.sent) == b"1 "
        session.run(5, must_sync=False)
        await turns()
        disk.answer()
        async with asyncio.timeout(5):
            while len(b"".join(session.sent)) < 20:
                await asyncio.sleep(0.001)
        assert b"".join(session.sent) == b"1 2 no record 3 4 5 "
        disk.delay_s = 0.0

    stage.run(play)


def test_bytes_with_unwritten_records_do_not_slip_out_with_those_that_waited(stage: Stage, disk: SlowDisk) -> None:
    async def play(turn: Turn) -> None:
        disk.delay_s = None
        session = Session(turn, "s1")
        session.run(1, must_sync=True)
        await disk.begun()
        disk.answer()
        await asyncio.to_thread(time.sleep, 0.05)  # its result is on the way to the loop
        written: list[int] = []
        deliver = session.deliver

        def note(data: bytes) -> None:
            deliver(data)
            written.append(stage.ledger.pending)

        session.deliver = note  # type: ignore[method-assign] # to look at the moment of delivery
        session.run(2, must_sync=False)
        assert session.sent in ([], [b"1 "])
        await turns(6)
        assert b"".join(session.sent) == b"1 2 "
        disk.delay_s = 0.0

    stage.run(play)


def test_one_sync_serves_all_that_was_written_before_it_began(stage: Stage, disk: SlowDisk) -> None:
    async def play(turn: Turn) -> None:
        disk.delay_s = None
        sessions = [Session(turn, f"s{number}") for number in range(64)]
        sessions[0].run(1, must_sync=True)
        await disk.begun()
        calls = disk.calls
        for session in sessions[1:]:
            session.run(1, must_sync=True)
            await turns(1)
        disk.answer()
        await disk.begun()
        disk.answer()
        async with asyncio.timeout(5):
            while not all(session.sent for session in sessions):
                await asyncio.sleep(0.001)
        assert disk.calls == calls + 1, "63 sessions shared one sync"
        disk.delay_s = 0.0

    stage.run(play)


def test_after_a_failed_sync_what_waited_never_leaves_and_is_refused(stage: Stage, disk: SlowDisk) -> None:
    async def play(turn: Turn) -> None:
        disk.delay_s = None
        first, second, reader = (Session(turn, name) for name in ("first", "second", "reader"))
        first.run(1, must_sync=True)
        await disk.begun()
        reader.run(1, must_sync=False)
        second.run(7, must_sync=True)
        await turns()
        first.run(2, must_sync=False)
        disk.answer(errno.EIO)
        async with asyncio.timeout(5):
            while not stage.ledger.is_down:
                await asyncio.sleep(0.001)
        await turns()
        assert (first.sent, second.sent) == ([], [])
        assert b"".join(first.revoked).startswith(b"1 ")
        assert b"".join(second.revoked) == b"7 "
        assert second.statements == (7,)
        assert reader.sent == [b"1 "]
        for key in (("first", 1), ("first", 2), ("second", 7)):
            if key in stage.ledger._open:
                turn.outcome(key, b'"status":"refused"')
        calls = disk.calls
        await turns(10)
        assert disk.calls == calls, "a failed sync is not tried again"
        disk.delay_s, disk.error = 0.0, 0
        assert await turn.probe() is None
        assert stage.ledger.try_resume(True)
        turn.schedule()
        first.run(3, must_sync=True)
        async with asyncio.timeout(5):
            while not first.sent:
                await asyncio.sleep(0.001)
        assert first.sent == [b"3 "]

    stage.run(play)


def test_a_failed_write_takes_back_what_the_session_had_waiting(stage: Stage, disk: SlowDisk) -> None:
    async def play(turn: Turn) -> None:
        session = Session(turn, "s1")
        disk.delay_s = None
        session.run(1, must_sync=True)
        await disk.begun()
        os.close(stage.ledger._fd)  # the next write fails with EBADF
        session.run(2, must_sync=True)
        await turns()
        assert session.sent == []
        assert b"".join(session.revoked) == b"1 2 "
        assert session.is_reading
        stage.ledger._fd = -1
        disk.answer(errno.EBADF)
        disk.delay_s = 0.0
        for statement in (1, 2):
            turn.outcome(("s1", statement), b'"status":"refused"')
        await asyncio.to_thread(time.sleep, 0.05)
        await turns()
        disk.error = 0
        assert await turn.probe() is None
        assert stage.ledger.try_resume(True)

    stage.run(play)


def test_a_disk_that_does_not_answer_is_given_up(stage: Stage, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_module, "SYNC_TIMEOUT_S", 0.2)
    monkeypatch.setattr(turn_module, "_LAZY_SYNC_S", 0.05)

    async def play(turn: Turn) -> None:
        disk.delay_s = None
        session = Session(turn, "s1")
        session.run(1, must_sync=True)
        await disk.begun()
        async with asyncio.timeout(5):
            while not session.revoked:
                await asyncio.sleep(0.01)
        assert stage.ledger.is_down
        assert "not answered" in stage.ledger.down_reason
        turn.outcome(("s1", 1), b'"status":"refused"')
        disk.delay_s = 0.0
        disk.answer()  # much too late: it does not count
        assert await turn.probe() is None
        assert session.sent == []
        assert stage.ledger.try_resume(True)

    stage.run(play)


def test_the_loop_is_not_held_up_by_a_slow_disk_and_nothing_piles_up(stage: Stage, disk: SlowDisk) -> None:
    """Each sync takes 200 ms; 64 sessions write all the time, each has one statement under way at most."""

    async def play(turn: Turn) -> None:
        disk.delay_s = 0.2
        sessions = [Session(turn, f"s{number}") for number in range(64)]
        done = 0
        worst_s = 0.0
        most_pending = 0
        ends = asyncio.get_running_loop().time() + 1.0

        async def write(session: Session) -> None:
            nonlocal done, most_pending
            number = 0
            while asyncio.get_running_loop().time() < ends:
                number += 1
                session.run(number, must_sync=True)
                while len(session.sent) < number:
                    await asyncio.sleep(0.01)
                turn.outcome((session.name, number), OUTCOME)
                most_pending = max(most_pending, stage.ledger.pending)
                done += 1

        async def watch() -> None:
            nonlocal worst_s
            loop = asyncio.get_running_loop()
            while loop.time() < ends:
                before = loop.time()
                await asyncio.sleep(0.005)
                worst_s = max(worst_s, loop.time() - before - 0.005)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(write(session) for session in sessions))
        await watching
        assert done >= 64 * 2
        assert worst_s < 0.1, f"the loop was {worst_s * 1000:.0f} ms late"
        assert most_pending <= 3 * 64

    stage.run(play)


def test_events_nobody_waits_for_are_synced_within_a_second(stage: Stage, disk: SlowDisk) -> None:
    async def play(turn: Turn) -> None:
        turn.append(EventType.USERS_LOADED, b'"file":"x","trigger":"start"')
        began = time.monotonic()
        while stage.ledger.synced.seq < stage.ledger.written_seq or stage.ledger.pending:
            await asyncio.sleep(0.01)
        assert time.monotonic() - began < 1.0

    stage.run(play)
