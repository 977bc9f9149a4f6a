"""The ledger when the disk fails under it: nothing forwarded loses its record, the chain stays whole, it resumes by itself."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fake_disk import FakeDisk
from support.requirements import go_without

from dbproxy.audit.ledger import AuditDown, Ledger
from dbproxy.audit.types import EventType
from dbproxy.audit.verify import Status, verify_directory

BODY = b'"person":"alice","act":"query","action":"allow","sql":"SELECT 1"'
OUTCOME = b'"status":"ok","rows":1'
EVENT = b'"session":"s1"'


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FakeDisk:
    return FakeDisk(monkeypatch)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "audit", segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=clock, node="test")
    ledger.open()
    yield ledger
    ledger._release_files()


def records(directory: Path) -> list[dict]:
    """All records that count; where a write failed halfway, a segment the ledger gave up ends in part of one."""
    lines = [line for path in sorted(directory.glob("audit-*.jsonl")) for line in path.read_bytes().splitlines()]
    found = {(r := json.loads(line))["seq"]: r for line in lines if line.endswith(b'"}')}
    return [found[seq] for seq in sorted(found)]


def forward(ledger: Ledger, number: int) -> None:
    ledger.intent(("s1", number), BODY)
    ledger.flush()


def check(directory: Path) -> None:
    result = verify_directory(directory)
    assert result.status is Status.OK, result.problem


def outcomes(directory: Path) -> dict[int, str]:
    return {r["statement"]: r["status"] for r in records(directory) if r["type"] == "statement.outcome"}


# --- errors of write -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.EFBIG])
@pytest.mark.parametrize("partial", [0, 1, 200, 500])
@pytest.mark.parametrize("can_truncate", [True, False])
def test_a_failed_write_is_raised_and_resumed_from(
    ledger: Ledger, tmp_path: Path, disk: FakeDisk, error: int, partial: int, can_truncate: bool
) -> None:
    forward(ledger, 1)
    disk.space, disk.error, disk.can_truncate = partial, error, can_truncate
    ledger.outcome(("s1", 1), OUTCOME)
    ledger.intent(("s1", 2), BODY)
    with pytest.raises(AuditDown) as down:
        ledger.flush()
    assert down.value.intents == (("s1", 2),)
    assert ledger.is_down
    assert os.strerror(error) in ledger.down_reason
    ledger.outcome(("s1", 2), b'"status":"refused"')
    with pytest.raises(AuditDown):
        ledger.intent(("s1", 3), BODY)
    with pytest.raises(AuditDown) as again:
        ledger.flush()
    assert again.value.intents == ()
    assert not ledger.try_resume()
    disk.space = None
    disk.can_truncate = True
    assert ledger.try_resume()
    assert not ledger.is_down
    forward(ledger, 4)
    ledger.close("test")
    check(tmp_path / "audit")
    assert outcomes(tmp_path / "audit") == {1: "ok", 2: "refused", 4: "unknown"}
    second = max((tmp_path / "audit").glob("audit-*.jsonl"))
    first_of_second = [json.loads(line)["type"] for line in second.read_bytes().splitlines()][:5]
    assert first_of_second == [
        "segment.start",
        "statement.outcome",
        "statement.intent",
        "statement.outcome",
        "audit.resumed",
    ]


def test_a_crash_while_down_leaves_a_chain_that_recovers(
    ledger: Ledger, tmp_path: Path, disk: FakeDisk, clock: Clock
) -> None:
    forward(ledger, 1)
    disk.space, disk.error, disk.can_truncate = 100, errno.EIO, False
    ledger.outcome(("s1", 1), OUTCOME)
    ledger.intent(("s1", 2), BODY)
    with pytest.raises(AuditDown):
        ledger.flush()
    ledger._release_files()
    disk.space, disk.can_truncate = None, True
    again = Ledger(tmp_path / "audit", segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=clock)
    recovery = again.open()
    assert recovery.unknown == (("s1", 1),)
    assert [item.size for item in recovery.torn] == [100]
    again.close("test")
    check(tmp_path / "audit")


def test_failed_fsync_gives_the_segment_up(ledger: Ledger, tmp_path: Path, disk: FakeDisk) -> None:
    forward(ledger, 1)
    disk.sync_error = errno.EIO
    with pytest.raises(AuditDown):
        ledger.sync()
    path = tmp_path / "audit" / "audit-0-0000000000000001.jsonl"
    before, inode = path.read_bytes(), path.stat().st_ino
    assert not ledger.try_resume()  # the new segment must reach the disk before anything counts as written again
    disk.sync_error = 0
    assert ledger.try_resume()
    ledger.outcome(("s1", 1), OUTCOME)
    ledger.close("test")
    assert path.read_bytes() == before
    assert path.stat().st_ino != inode, "its pages may be lost: the records must be written again, to another file"
    starts = [record for record in records(tmp_path / "audit") if record["type"] == "segment.start"]
    assert starts[-1]["predecessor"]["abandoned"].startswith("fsync failed")
    assert "written again" in starts[-1]["predecessor"]["abandoned"]
    check(tmp_path / "audit")


def test_records_that_cannot_be_read_back_after_a_failed_fsync_stay_where_they_are(
    ledger: Ledger, tmp_path: Path, disk: FakeDisk
) -> None:
    forward(ledger, 1)
    disk.sync_error = errno.EIO
    with pytest.raises(AuditDown):
        ledger.sync()
    path = tmp_path / "audit" / "audit-0-0000000000000001.jsonl"
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    disk.sync_error = 0
    assert ledger.try_resume()
    starts = [json.loads(line) for line in max((tmp_path / "audit").glob("*.jsonl")).read_bytes().splitlines()]
    assert "written again" not in starts[0]["predecessor"]["abandoned"]
    assert path.read_bytes() == data
    assert verify_directory(tmp_path / "audit").status is Status.TAMPERED


def test_intents_waiting_when_a_sync_fails_are_named_by_the_next_flush(ledger: Ledger, disk: FakeDisk) -> None:
    forward(ledger, 0)
    ledger.intent(("s1", 1), BODY)
    disk.sync_error = errno.EIO
    with pytest.raises(AuditDown) as from_sync:
        ledger.sync()
    assert from_sync.value.intents == ()
    with pytest.raises(AuditDown) as from_flush:
        ledger.flush()
    assert from_flush.value.intents == (("s1", 1),)


# --- a full volume -------------------------------------------------------------------------------------------------------------


def test_full_volume_completes_the_turn_on_the_ballast(
    ledger: Ledger, tmp_path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward(ledger, 1)
    disk.space = 100
    released = []
    release = ledger._reserve.release

    def release_and_give_room() -> None:
        release()
        released.append(1)
        disk.space = 64 << 10

    monkeypatch.setattr(ledger._reserve, "release", release_and_give_room)
    ledger.outcome(("s1", 1), OUTCOME)
    ledger.intent(("s1", 2), BODY)
    ledger.flush()  # does not raise: everything is written
    assert released == [1]
    assert ledger.is_down
    with pytest.raises(AuditDown):
        ledger.intent(("s1", 3), BODY)
    ledger.outcome(("s1", 2), OUTCOME)
    ledger.flush()
    assert outcomes(tmp_path / "audit") == {1: "ok", 2: "ok"}
    disk.space = None
    assert ledger.try_resume()
    forward(ledger, 3)
    ledger.close("test")
    check(tmp_path / "audit")


def test_large_intents_do_not_eat_the_room_of_owed_outcomes(
    ledger: Ledger, tmp_path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        forward(ledger, number)
    disk.space = 10
    release = ledger._reserve.release

    def release_and_give_room() -> None:
        release()
        disk.space = 64 << 10

    monkeypatch.setattr(ledger._reserve, "release", release_and_give_room)
    ledger.intent(("s1", 100), b'"sql":"%b"' % (b"x" * 60_000))
    ledger.outcome(("s1", 0), OUTCOME)
    with pytest.raises(AuditDown) as down:
        ledger.flush()
    assert down.value.intents == (("s1", 100),)
    for number in range(1, 10):
        ledger.outcome(("s1", number), OUTCOME)
    ledger.outcome(("s1", 100), b'"status":"refused"')
    with pytest.raises(AuditDown):
        ledger.flush()
    assert outcomes(tmp_path / "audit") == dict.fromkeys(range(10), "ok")
    disk.space = None
    assert ledger.try_resume()
    ledger.close("test")
    assert outcomes(tmp_path / "audit")[100] == "refused"
    check(tmp_path / "audit")


def test_events_wait_in_bounded_memory_while_down(ledger: Ledger, tmp_path: Path, disk: FakeDisk) -> None:
    disk.space, disk.error = 0, errno.EIO
    ledger.append(EventType.SESSION_END, EVENT)
    with pytest.raises(AuditDown):
        ledger.flush()
    body = b'"session":"s1","detail":"%b"' % (b"x" * 100_000)
    taken = 0
    with pytest.raises(AuditDown):
        for _ in range(1000):
            ledger.append(EventType.LOGIN_FAILURE, body)
            taken += 1
    assert 50 < taken < 100
    ledger.unrecorded += 5
    disk.space = None
    assert ledger.try_resume()
    resumed = [record for record in records(tmp_path / "audit") if record["type"] == "audit.resumed"]
    assert [(r["refused"], r["dropped"], r["delayed"]) for r in resumed] == [(5, 1, taken + 1)]
    ledger.append(EventType.SESSION_END, EVENT)
    ledger.flush()
    check(tmp_path / "audit")


def test_resume_needs_the_ballast_back_first(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, disk: FakeDisk) -> None:
    disk.space, disk.error = 0, errno.ENOSPC
    ledger.intent(("s1", 1), BODY)
    with pytest.raises(AuditDown):
        ledger.flush()
    disk.space = None

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    allocate = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert not ledger.try_resume()
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    assert ledger.try_resume()


def _mount(path: Path, size: int) -> bool:
    return shutil.which("mount") is not None and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, check=False
        ).returncode
        == 0
    )


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A real volume of 1 MiB. Where mounting is not allowed, the fake disk above covers the same paths."""
    path = tmp_path / "volume"
    path.mkdir(mode=0o700)
    if not _mount(path, 1 << 20):
        go_without("mounting a tmpfs is not allowed here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_real_full_volume_loses_nothing_and_resumes(volume: Path) -> None:
    ledger = Ledger(volume / "audit", segment_bytes=1 << 30, reserve_bytes=256 << 10, now_ns=time.time_ns)
    ledger.open()
    forwarded: set[int] = set()
    open_: list[int] = []
    number = 0
    while not ledger.is_down:
        turn = range(number, number + 3)
        number += 3
        for n in turn:
            ledger.intent(("s1", n), BODY)
        refused: set[int] = set()
        try:
            ledger.flush()
        except AuditDown as down:
            refused = {key[1] for key in down.intents}
            for n in refused:
                ledger.outcome(("s1", n), b'"status":"refused"')
        forwarded.update(set(turn) - refused)
        open_ += [n for n in turn if n not in refused]
        while len(open_) > 40:
            ledger.outcome(("s1", open_.pop(0)), OUTCOME)
    assert len(forwarded) > 300
    for n in open_:
        ledger.outcome(("s1", n), OUTCOME)
    ledger.flush()  # the ballast has room for every outcome that is owed
    assert ledger.pending == 0
    assert not ledger.try_resume()
    check(volume / "audit")
    subprocess.run(["mount", "-o", "remount,size=3m", str(volume)], check=True)
    assert ledger.try_resume()
    forward(ledger, number)
    ledger.outcome(("s1", number), OUTCOME)
    ledger.close("test")
    check(volume / "audit")
    assert {n for n, status in outcomes(volume / "audit").items() if status == "ok"} == forwarded | {number}


_LIMITED = """
import resource, sys, time, json
from pathlib import Path
from dbproxy.audit.ledger import AuditDown, Ledger
ledger = Ledger(Path(sys.argv[1]), segment_bytes=1 << 30, reserve_bytes=64 << 10, now_ns=time.time_ns)
ledger.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
number = downs = 0
while downs < 3:
    try:
        ledger.intent(("s1", number), b'"act":"query","action":"allow","sql":"SELECT 1"')
        ledger.flush()
        print("sent", number)
        ledger.outcome(("s1", number), b'"status":"ok"')
        ledger.flush()
    except AuditDown as down:
        downs += 1
        for key in down.intents:
            ledger.outcome(key, b'"status":"refused"')
        assert ledger.try_resume()
    number += 1
ledger.close("test")
"""


def test_a_file_size_limit_is_got_over_by_a_new_segment(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    sent = {int(line.split()[1]) for line in child.stdout.splitlines()}
    check(tmp_path)
    assert {n for n, status in outcomes(tmp_path).items() if status == "ok"} == sent
    assert len(list(tmp_path.glob("*.jsonl"))) == 4
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000


# --- somebody changes the files ------------------------------------------------------------------------------------------------


def _delete(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_suffix(".jsonl.1"))


def _replace(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    os.truncate(path, 100)


def _copytruncate(path: Path) -> None:
    path.with_suffix(".jsonl.1").write_bytes(path.read_bytes())
    os.truncate(path, 0)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"something else\n")


@pytest.mark.parametrize(
    ("change", "reason", "status"),
    [
        (_delete, "deleted", Status.OK),
        (_rename, "deleted", Status.OK),
        (_replace, "replaced", Status.OK),
        (_truncate, "truncated", Status.TAMPERED),
        (_copytruncate, "truncated", Status.TAMPERED),
        (_grow, "grown", Status.OK),
    ],
)
def test_a_changed_segment_is_noticed_within_a_second(
    ledger: Ledger, tmp_path: Path, clock: Clock, change: Callable[[Path], None], reason: str, status: Status
) -> None:
    forward(ledger, 1)
    path = tmp_path / "audit" / "audit-0-0000000000000001.jsonl"
    change(path)
    clock.now += 1_000_000_000
    ledger.outcome(("s1", 1), OUTCOME)
    forward(ledger, 2)
    assert not ledger.is_down
    ledger.close("test")
    assert verify_directory(tmp_path / "audit").status is status
    last = max((tmp_path / "audit").glob("audit-*.jsonl"))
    found = [json.loads(line) for line in last.read_bytes().splitlines()]
    assert [record["type"] for record in found[:4]] == [
        "segment.start",
        "segment.lost",
        "statement.outcome",
        "statement.intent",
    ]
    assert found[1]["reason"] == reason


def test_a_directory_moved_away_stops_statements_until_it_is_back(ledger: Ledger, tmp_path: Path, clock: Clock) -> None:
    directory = tmp_path / "audit"
    forward(ledger, 1)
    directory.rename(tmp_path / "elsewhere")
    clock.now += 1_000_000_000
    ledger.intent(("s1", 2), BODY)
    with pytest.raises(AuditDown) as down:
        ledger.flush()
    assert down.value.intents == (("s1", 2),)
    ledger.outcome(("s1", 2), b'"status":"refused"')
    assert not ledger.try_resume()
    directory.mkdir(mode=0o700)
    assert not ledger.try_resume()
    assert "replaced" in ledger.down_reason
    directory.rmdir()
    (tmp_path / "elsewhere").rename(directory)
    assert ledger.try_resume()
    ledger.outcome(("s1", 1), OUTCOME)
    ledger.close("test")
    check(directory)
    assert outcomes(directory) == {1: "ok", 2: "refused"}


def test_a_volume_turned_read_only_is_resumed_from(ledger: Ledger, tmp_path: Path, disk: FakeDisk) -> None:
    disk.space, disk.error, disk.can_create, disk.can_truncate = 0, errno.EROFS, False, False
    ledger.intent(("s1", 1), BODY)
    with pytest.raises(AuditDown):
        ledger.flush()
    ledger.outcome(("s1", 1), b'"status":"refused"')
    assert not ledger.try_resume()
    disk.space, disk.can_create, disk.can_truncate = None, True, True
    assert ledger.try_resume()
    ledger.close("test")
    check(tmp_path / "audit")


def test_close_while_down_leaves_the_truth_to_the_next_open(
    ledger: Ledger, tmp_path: Path, disk: FakeDisk, clock: Clock
) -> None:
    forward(ledger, 1)
    disk.space, disk.error = 0, errno.EIO
    ledger.outcome(("s1", 1), OUTCOME)
    with pytest.raises(AuditDown):
        ledger.flush()
    ledger.close("test")
    disk.space = None
    again = Ledger(tmp_path / "audit", segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=clock)
    assert again.open().unknown == (("s1", 1),)
    again.close("test")
    check(tmp_path / "audit")
