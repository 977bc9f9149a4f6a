"""One chain for each slot in one directory: locks, clocks, age of segments, and the end of a chain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbproxy.audit.ledger import Ledger
from dbproxy.audit.locks import DirectoryLock, SlotLock
from dbproxy.audit.recovery import LedgerDamaged
from dbproxy.audit.segment import find_segments
from dbproxy.audit.slots import end_chain, end_unused_chains, settle_chain
from dbproxy.audit.types import EventType
from dbproxy.audit.verify import Status, verify_directory
from dbproxy.errors import StartError

BODY = b'"person":"alice","act":"query","action":"allow","sql":"SELECT 1"'
SECOND = 1_000_000_000


class Clocks:
    """A wall clock and a monotonic one that can be turned apart."""

    def __init__(self) -> None:
        self.wall = 1_750_000_000 * SECOND
        self.monotonic = 5 * SECOND

    def tick(self, seconds: float, *, jump: float = 0.0) -> None:
        self.monotonic += int(seconds * SECOND)
        self.wall += int((seconds + jump) * SECOND)


def make(directory: Path, slot: int = 0, clocks: Clocks | None = None, age_s: float | None = None) -> Ledger:
    clocks = clocks or Clocks()
    ledger = Ledger(
        directory,
        segment_bytes=1 << 20,
        reserve_bytes=64 << 10,
        now_ns=lambda: clocks.wall,
        monotonic_ns=lambda: clocks.monotonic,
        slot=slot,
        node="test",
        segment_age_s=age_s,
    )
    ledger.open()
    return ledger


def records(directory: Path, slot: int = 0) -> list[dict]:
    return [json.loads(line) for _, path in find_segments(directory)[slot] for line in path.read_bytes().splitlines()]


def note(ledger: Ledger) -> None:
    ledger.append(EventType.USERS_LOADED, b'"file":"x","trigger":"start"')
    ledger.flush()


# --- locks ---------------------------------------------------------------------------------------------------------------------


def test_slots_share_a_directory_and_each_has_one_writer(tmp_path: Path) -> None:
    ledgers = [make(tmp_path, slot) for slot in range(3)]
    with pytest.raises(StartError, match="in use by another process"):
        make(tmp_path, 1)
    for ledger in ledgers:
        note(ledger)
        ledger.close("test")
    assert sorted(find_segments(tmp_path)) == [0, 1, 2]
    assert verify_directory(tmp_path).problem is None


def test_one_proxy_to_a_directory(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path / "audit"), DirectoryLock(tmp_path / "audit")
    first.acquire()
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
    with pytest.raises(StartError, match="in use"):
        second.acquire()
    make(tmp_path / "audit", 1).close("the directory's lock does not keep its own processes out")
    first.release()
    second.acquire()
    second.release()


def test_who_inherits_the_directorys_lock_holds_it(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[lock.fd]
    )
    lock.release()
    with pytest.raises(StartError):
        DirectoryLock(tmp_path).acquire()
    child.communicate()
    again = DirectoryLock(tmp_path)
    again.acquire()
    again.release()


def test_a_slots_lock_waits_for_a_predecessor_that_is_ending(tmp_path: Path) -> None:
    held = SlotLock(tmp_path, 3)
    held.acquire()
    waiting = SlotLock(tmp_path, 3)
    with pytest.raises(StartError):
        waiting.acquire(wait_s=0.05)
    held.release()
    waiting.acquire(wait_s=0.05)
    waiting.release(remove=True)
    assert not waiting.path.exists()


# --- clocks --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0, 1.5, -1.0000001])
def test_a_jump_of_the_clock_is_recorded_and_the_order_stays(tmp_path: Path, jump: float) -> None:
    clocks = Clocks()
    ledger = make(tmp_path, clocks=clocks)
    for _ in range(3):
        note(ledger)
        clocks.tick(1.0)
    expected = clocks.wall
    clocks.tick(0, jump=jump)
    note(ledger)
    clocks.tick(1.0)
    note(ledger)
    ledger.close("test")
    found = records(tmp_path)
    jumps = [each for each in found if each["type"] == "clock.jump"]
    assert [each["shift_ms"] for each in jumps] == [round(jump * 1000)]
    assert jumps[0]["expected"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(expected // SECOND)))
    assert [each["seq"] for each in found] == list(range(1, len(found) + 1))
    assert verify_directory(tmp_path).status is Status.OK


def test_slewing_and_leap_second_smearing_are_no_jumps(tmp_path: Path) -> None:
    clocks = Clocks()
    ledger = make(tmp_path, clocks=clocks)
    for _ in range(3000):  # 500 ppm, as adjtime does at most: 1.5 s in all
        clocks.tick(1.0, jump=0.0005)
        ledger.tick()
        note(ledger)
    ledger.close("test")
    assert not [each for each in records(tmp_path) if each["type"] == "clock.jump"]


def test_a_jump_is_noticed_though_nothing_is_written(tmp_path: Path) -> None:
    clocks = Clocks()
    ledger = make(tmp_path, clocks=clocks)
    ledger.tick()
    clocks.tick(1.0, jump=3600)
    ledger.tick()
    assert ledger.pending == 1
    ledger.flush()
    ledger.close("test")
    assert [each["shift_ms"] for each in records(tmp_path) if each["type"] == "clock.jump"] == [3_600_000]


# --- age -----------------------------------------------------------------------------------------------------------------------


def test_an_old_segment_is_rotated_by_the_monotonic_clock(tmp_path: Path) -> None:
    clocks = Clocks()
    ledger = make(tmp_path, clocks=clocks, age_s=60)
    note(ledger)
    clocks.tick(59, jump=86_400)
    ledger.tick()
    ledger.flush()
    assert len(find_segments(tmp_path)[0]) == 1
    clocks.tick(2)
    ledger.tick()
    assert len(find_segments(tmp_path)[0]) == 2
    note(ledger)
    ledger.close("test")
    assert verify_directory(tmp_path).status is Status.OK


def test_rotation_on_demand(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    for number in range(100):
        ledger.intent(("s1", number), BODY)
        ledger.flush()
        assert ledger.rotate()
        ledger.outcome(("s1", number), b'"status":"ok"')
        ledger.flush()
        ledger.sync()
    assert len(find_segments(tmp_path)[0]) == 101
    ledger.close("test")
    assert verify_directory(tmp_path).status is Status.OK


def test_rotation_asked_for_within_a_turn_comes_at_its_end(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.append(EventType.USERS_LOADED, b'"file":"x","trigger":"start"')
    assert not ledger.rotate()
    ledger.flush()
    assert len(find_segments(tmp_path)[0]) == 2
    ledger.close("test")


def test_segments_that_cannot_be_synced_do_not_pile_up_descriptors(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ledger = make(tmp_path)
    for _ in range(100):
        note(ledger)
        ledger.rotate()
    assert len(os.listdir("/proc/self/fd")) < before + 25
    ledger.close("test")
    assert len(os.listdir("/proc/self/fd")) == before
    assert verify_directory(tmp_path).status is Status.OK


def test_synced_is_the_last_record_on_the_disk(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    note(ledger)
    assert ledger.synced.seq < ledger.written_seq
    sync = ledger.begin_sync()
    assert sync is not None
    assert ledger.begin_sync() is None, "one at a time"
    covered = ledger.written_seq
    note(ledger)
    ledger.rotate()
    note(ledger)
    assert ledger.end_sync(sync, sync.run())
    assert ledger.synced.seq == covered
    assert ledger.synced.hash == records(tmp_path)[covered - 1]["hash"]
    assert ledger.synced.file == "audit-0-0000000000000001.jsonl"
    ledger.sync()
    assert ledger.synced.seq == ledger.written_seq
    assert ledger.begin_sync() is None, "nothing to do"
    ledger.close("test")


# --- the end of a chain --------------------------------------------------------------------------------------------------------


def clock() -> int:
    return 1_750_000_000 * SECOND


def test_slots_out_of_use_are_ended_once(tmp_path: Path) -> None:
    for slot in range(4):
        ledger = make(tmp_path, slot)
        note(ledger)
        ledger.close("test")
    assert end_unused_chains(tmp_path, {0, 1}, now_ns=clock, reason="not configured") == [2, 3]
    assert end_unused_chains(tmp_path, {0, 1}, now_ns=clock, reason="not configured") == []
    assert [each["type"] for each in records(tmp_path, 2)[-2:]] == ["chain_end", "segment.end"]
    assert [each["type"] for each in records(tmp_path, 1)[-1:]] == ["segment.end"]
    assert not (tmp_path / "audit-2.lock").exists()
    assert not (tmp_path / "audit-2.reserve").exists()
    assert verify_directory(tmp_path).status is Status.OK


def test_a_chain_that_crashed_is_recovered_before_it_is_ended(tmp_path: Path) -> None:
    make(tmp_path, 0).close("test")  # every proxy has it
    ledger = make(tmp_path, 2)
    ledger.intent(("s1", 1), BODY)
    ledger.flush()
    ledger._release_files()
    path = find_segments(tmp_path)[2][-1][1]
    with path.open("ab") as file:
        file.write(b'{"v":"dbproxy.audit/1","seq":3,')
    assert end_chain(tmp_path, 2, now_ns=clock, reason="not configured")
    assert [each["type"] for each in records(tmp_path, 2)[-4:]] == [
        "recovery",
        "statement.outcome",
        "chain_end",
        "segment.end",
    ]
    assert verify_directory(tmp_path).status is Status.OK


def test_a_slot_in_use_is_not_ended(tmp_path: Path) -> None:
    ledger = make(tmp_path, 2)
    with pytest.raises(StartError, match="in use"):
        end_chain(tmp_path, 2, now_ns=clock, reason="not configured")
    ledger.close("test")
    assert not end_chain(tmp_path, 7, now_ns=clock, reason="not configured"), "there is no such chain"


def test_a_slot_used_again_says_so(tmp_path: Path) -> None:
    make(tmp_path, 0).close("test")  # every proxy has it
    make(tmp_path, 2).close("test")
    end_chain(tmp_path, 2, now_ns=clock, reason="not configured")
    ledger = make(tmp_path, 2)
    note(ledger)
    ledger.rotate()
    ledger.close("test")
    starts = [each for each in records(tmp_path, 2) if each["type"] == "segment.start"]
    assert [each.get("reopened") for each in starts] == [None, None, True, None]
    assert verify_directory(tmp_path).status is Status.OK


def test_records_after_the_end_of_a_chain_are_damage(tmp_path: Path) -> None:
    ledger = make(tmp_path, 2)
    ledger.append(EventType.CHAIN_END, b'"slot":2,"reason":"by hand"')
    note(ledger)
    ledger._release_files()
    with pytest.raises(LedgerDamaged, match="end of the chain"):
        make(tmp_path, 2)


def test_chain_of_a_killed_writer_is_settled_and_one_that_was_ended_is_left_alone(tmp_path: Path) -> None:
    ledger = make(tmp_path, 1)
    ledger.intent(("s", 1), BODY)
    ledger.flush()
    ledger._release_files()  # as when the kernel does it
    make(tmp_path, 0).close("stopped")
    before = records(tmp_path, 1)
    end = settle_chain(tmp_path, 1, now_ns=time.time_ns, reason="its process was ended")
    after = records(tmp_path, 1)
    assert end is not None
    assert (end.seq, end.hash) == (after[-1]["seq"], after[-1]["hash"])
    assert [each["type"] for each in after[len(before) :]] == [
        "segment.start",
        "recovery",
        "statement.outcome",
        "segment.end",
    ]
    assert settle_chain(tmp_path, 1, now_ns=time.time_ns, reason="again") is None
    assert settle_chain(tmp_path, 7, now_ns=time.time_ns, reason="never there") is None
    assert records(tmp_path, 1) == after
    assert verify_directory(tmp_path).problem is None
