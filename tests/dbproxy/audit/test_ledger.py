"""The ledger writes a chain that a tiny independent reader can check, and recovers it after a crash."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbproxy.audit.ledger import OUTCOME_ROOM_BYTES, AuditDown, Ledger
from dbproxy.audit.recovery import LedgerDamaged
from dbproxy.audit.types import EventType
from dbproxy.audit.verify import Status, verify_directory
from dbproxy.errors import StartError

BODY = b'"person":"alice","act":"query","action":"allow","sql":"SELECT 1"'
OUTCOME = b'"status":"ok","rows":1'


def make_ledger(directory: Path, *, segment_bytes: int = 1 << 20, reserve_bytes: int = 64 << 10) -> Ledger:
    return Ledger(directory, segment_bytes=segment_bytes, reserve_bytes=reserve_bytes, now_ns=time.time_ns, node="test")


def open_ledger(directory: Path, **sizes: int) -> Ledger:
    ledger = make_ledger(directory, **sizes)
    ledger.open()
    return ledger


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("audit-*.jsonl"))


def read(directory: Path) -> list[dict]:
    """An independent verifier: every line JSON, numbered, linked and hashed. Raises AssertionError."""
    records = []
    prev = "0" * 64
    for path in segments(directory):
        for line in path.read_bytes().splitlines(keepends=True):
            hashed, _, rest = line.rpartition(b',"hash":"')
            record = json.loads(line)
            assert rest == record["hash"].encode() + b'"}\n'
            assert hashlib.sha256(hashed).hexdigest() == record["hash"]
            assert record["prev"] == prev
            assert record["seq"] == len(records) + 1
            assert list(record)[:5] == ["v", "seq", "prev", "at", "type"]
            prev = record["hash"]
            records.append(record)
    return records


def types(directory: Path) -> list[str]:
    return [record["type"] for record in read(directory)]


def ok(directory: Path) -> bool:
    return verify_directory(directory).status is Status.OK


def statements(ledger: Ledger, first: int, count: int) -> None:
    for number in range(first, first + count):
        ledger.intent(("s1", number), BODY)
        ledger.flush()
        ledger.outcome(("s1", number), OUTCOME)
        ledger.flush()


# --- writing -------------------------------------------------------------------------------------------------------------------


def test_chain_is_what_the_format_says(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "audit")
    ledger.append(EventType.PROXY_START, b'"version":"1"')
    statements(ledger, 1, 3)
    ledger.close("test")
    records = read(tmp_path / "audit")
    assert [record["type"] for record in records] == [
        "segment.start", "proxy.start", *["statement.intent", "statement.outcome"] * 3, "segment.end"
    ]  # fmt: skip
    assert records[2] | {"hash": "", "prev": "", "at": ""} == {
        "v": "dbproxy.audit/1", "seq": 3, "prev": "", "at": "", "type": "statement.intent", "session": "s1", "statement": 1, "person": "alice",
        "act": "query", "action": "allow", "sql": "SELECT 1", "hash": "",
    }  # fmt: skip
    assert ok(tmp_path / "audit")


def test_files_are_private(tmp_path: Path) -> None:
    open_ledger(tmp_path / "audit").close("test")
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "audit").iterdir()} == {0o600}


def test_returned_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    numbers = [
        ledger.intent(("s1", 1), BODY),
        ledger.append(EventType.SESSION_END, b'"session":"x"'),
        ledger.outcome(("s1", 1), OUTCOME),
    ]
    ledger.flush()
    assert [read(tmp_path)[number - 1]["type"] for number in numbers] == [
        "statement.intent",
        "session.end",
        "statement.outcome",
    ]


def test_a_flush_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(tmp_path)
    sizes = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or write(fd, data))
    for number in range(30):
        ledger.intent(("s1", number), BODY)
    assert ledger.pending == 30
    ledger.flush()
    assert len(sizes) == 1
    assert ledger.pending == 0
    ledger.flush()
    assert len(sizes) == 1


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:100])))
    statements(ledger, 1, 5)
    ledger.close("test")
    assert len(read(tmp_path)) == 12


def test_time_is_written_as_the_clock_shows_it_also_backwards(tmp_path: Path) -> None:
    times = [1_700_000_000_000_000_000, 1_700_000_000_000_001_999, 1_699_999_999_999_999_999, 0]
    clock = iter([times[0], *times])
    ledger = Ledger(tmp_path, segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=lambda: next(clock, 0))
    ledger.open()
    for _ in times:
        ledger.append(EventType.SESSION_END, b'"session":"s1"')
    ledger.flush()
    assert [record["at"] for record in read(tmp_path)[1:]] == [
        "2023-11-14T22:13:20.000000Z", "2023-11-14T22:13:20.000001Z", "2023-11-14T22:13:19.999999Z", "1970-01-01T00:00:00.000000Z",
    ]  # fmt: skip


def test_segments_rotate_and_link(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, segment_bytes=4096)
    ledger.intent(("open", 7), BODY)
    statements(ledger, 1, 100)
    files = segments(tmp_path)
    assert len(files) > 5
    ends = [json.loads(path.read_bytes().splitlines()[-1]) for path in files]
    for before, end, path in zip(files, ends, files[1:], strict=False):
        start = json.loads(path.read_bytes().splitlines()[0])
        assert end["type"] == "segment.end"
        assert start["predecessor"] == {
            "file": before.name,
            "seq": end["seq"],
            "hash": end["hash"],
            "size": before.stat().st_size,
        }
        assert ["open", 7] in start["open"]
        assert path.name == f"audit-0-{start['seq']:016d}.jsonl"
    ledger.close("test")
    assert read(tmp_path)[-2]["status"] == "unknown"
    assert ok(tmp_path)


def test_rotation_that_fails_goes_on_in_the_old_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(tmp_path, segment_bytes=4096)
    create = os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: (_ for _ in ()).throw(OSError(24, "Too many open files")))
    statements(ledger, 1, 30)
    monkeypatch.setattr(os, "open", create)
    assert len(segments(tmp_path)) == 1
    assert not ledger.is_down
    statements(ledger, 31, 30)
    assert len(segments(tmp_path)) > 1
    ledger.close("test")
    assert ok(tmp_path)
    assert sum(type_ == "statement.outcome" for type_ in types(tmp_path)) == 60


def test_a_statement_of_16_mib_is_stored_whole(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    sql = b"x" * (16 << 20)
    ledger.intent(("s1", 1), b'"sql":"%b"' % sql)
    ledger.flush()
    ledger.outcome(("s1", 1), OUTCOME)
    ledger.close("test")
    assert read(tmp_path)[1]["sql"].encode() == sql
    assert ok(tmp_path)


@pytest.mark.parametrize("body", [b"", b'"a":1\n'], ids=["empty", "newline"])
def test_a_body_that_would_break_the_log_is_a_mistake(tmp_path: Path, body: bytes) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(ValueError, match="members"):
        ledger.intent(("s1", 1), body)
    with pytest.raises(ValueError, match="members"):
        ledger.append(EventType.SESSION_END, body)
    ledger.close("test")
    assert ok(tmp_path)


def test_what_is_too_large_for_a_line_is_refused_and_an_outcome_loses_its_details(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    body = b'"a":"' + b"x" * (121 << 20) + b'"'
    with pytest.raises(AuditDown, match="larger than 120 MiB"):
        ledger.intent(("s1", 1), body)
    with pytest.raises(AuditDown, match="larger than 120 MiB"):
        ledger.append(EventType.SESSION_END, body)
    assert not ledger.is_down
    ledger.intent(("s1", 1), BODY)
    ledger.outcome(("s1", 1), body)
    ledger.close("test")
    assert read(tmp_path)[2]["status"] == "unknown"
    assert ok(tmp_path)


def test_two_intents_with_one_key_are_a_mistake(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.intent(("s1", 1), BODY)
    with pytest.raises(ValueError, match="key of its own"):
        ledger.intent(("s1", 1), BODY)


def test_an_outcome_without_intent_is_a_mistake(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(KeyError):
        ledger.outcome(("s1", 1), OUTCOME)


def test_an_intent_without_room_for_its_outcome_is_refused(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    room = (64 << 10) // OUTCOME_ROOM_BYTES
    for number in range(room):
        ledger.intent(("s1", number), BODY)
    with pytest.raises(AuditDown, match="reserved space"):
        ledger.intent(("s1", room), BODY)
    ledger.outcome(("s1", 0), OUTCOME)
    ledger.intent(("s1", room), BODY)


# --- opening -------------------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_so(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(StartError, match="in use by another process"):
        open_ledger(tmp_path)
    ledger.close("test")
    open_ledger(tmp_path).close("test")
    assert ok(tmp_path)


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StartError, match="written by others"):
        open_ledger(tmp_path)


def test_a_closed_ledger_goes_on_without_recovery(tmp_path: Path) -> None:
    for _ in range(3):
        ledger = open_ledger(tmp_path)
        statements(ledger, 1, 2)
        ledger.close("test")
    assert "recovery" not in types(tmp_path)
    assert ok(tmp_path)


def crash(ledger: Ledger) -> None:
    """What a kill leaves: the files as they are, the lock gone."""
    ledger._release_files()


def test_open_intents_get_an_unknown_outcome_after_a_crash(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, segment_bytes=4096)
    ledger.intent(("old", 1), BODY)
    statements(ledger, 1, 40)
    ledger.intent(("new", 2), BODY)
    ledger.flush()
    ledger.intent(("never written", 3), BODY)
    crash(ledger)
    ledger = make_ledger(tmp_path)
    assert ledger.open().unknown == (("new", 2), ("old", 1))
    ledger.close("test")
    tail = read(tmp_path)[-4:]
    assert [record["type"] for record in tail] == ["recovery", "statement.outcome", "statement.outcome", "segment.end"]
    assert [(record["session"], record["statement"], record["status"]) for record in tail[1:3]] == [
        ("new", 2, "unknown"),
        ("old", 1, "unknown"),
    ]
    assert ok(tmp_path)


def test_recovery_after_a_crash_during_recovery(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for number in range(3):
        ledger.intent(("s1", number), BODY)
    ledger.flush()
    crash(ledger)
    crash(open_ledger(tmp_path))
    last = segments(tmp_path)[-1]
    whole = last.read_bytes()
    for cut in range(0, len(whole), 7):
        last.write_bytes(whole[:cut])
        for path in tmp_path.glob("*.torn"):
            path.unlink()
        for path in segments(tmp_path):
            if path.name > last.name:
                path.unlink()
        ledger = open_ledger(tmp_path)
        ledger.close("test")
        assert ok(tmp_path), (cut, verify_directory(tmp_path).problem)
        outcomes = [record["statement"] for record in read(tmp_path) if record["type"] == "statement.outcome"]
        assert sorted(outcomes) == [0, 1, 2], cut


def test_last_segment_cut_at_every_byte_of_its_last_three_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    ledger = open_ledger(tmp_path)
    statements(ledger, 1, 3)
    crash(ledger)
    path = segments(tmp_path)[0]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    start = sum(len(line) for line in lines[:-3])
    boundaries = [sum(len(line) for line in lines[:count]) for count in range(len(lines) + 1)]
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        result = verify_directory(tmp_path)
        good = sum(boundary <= cut for boundary in boundaries) - 1
        torn = whole[boundaries[good] : cut]
        if torn:
            assert result.status is Status.TRUNCATED
            assert result.problem is not None
            assert (result.problem.file, result.problem.line, result.problem.seq) == (path.name, good + 1, good + 1)
        else:
            assert result.status is Status.OK  # a clean cut at the very end looks like a log that ended there
        recovery = (ledger := make_ledger(tmp_path)).open()
        ledger.close("test")
        assert recovery.seq == good
        assert [(item.offset, item.size, item.digest) for item in recovery.torn] == (
            [(boundaries[good], len(torn), hashlib.sha256(torn).hexdigest())] if torn else []
        )
        assert path.read_bytes() == whole[: boundaries[good]]
        assert b"".join(side.read_bytes() for side in tmp_path.glob("*.torn")) == torn
        assert len(read(tmp_path)) > good
        assert ok(tmp_path)
        for other in [*tmp_path.glob("*.torn"), *segments(tmp_path)[1:]]:
            other.unlink()


def test_last_line_with_a_wrong_hash_is_torn(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    statements(ledger, 1, 2)
    crash(ledger)
    path = segments(tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes(data[:-200] + bytes(100) + data[-100:])
    ledger = make_ledger(tmp_path)
    recovery = ledger.open()
    ledger.close("test")
    assert len(recovery.torn) == 1
    assert recovery.unknown == (("s1", 2),)
    assert ok(tmp_path)


def test_damage_before_the_end_is_not_repaired(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    statements(ledger, 1, 5)
    crash(ledger)
    path = segments(tmp_path)[0]
    data = path.read_bytes().replace(b"alice", b"mally", 2)
    path.write_bytes(data)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LedgerDamaged, match=rf"{path.name}, record 2: .*move the directory") as caught:
        open_ledger(tmp_path)
    assert caught.value.seq == 2
    assert sorted(tmp_path.iterdir()) == before
    assert path.read_bytes() == data


@pytest.mark.parametrize("change", ["delete", "swap", "header"])
def test_lines_moved_or_removed_before_the_end_stop_the_start(tmp_path: Path, change: str) -> None:
    ledger = open_ledger(tmp_path)
    statements(ledger, 1, 5)
    crash(ledger)
    path = segments(tmp_path)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "delete":
        del lines[3]
    elif change == "swap":
        lines[3], lines[4] = lines[4], lines[3]
    else:
        del lines[0]
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerDamaged):
        open_ledger(tmp_path)


def test_a_missing_successor_is_reported_at_the_next_start(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, segment_bytes=4096)
    statements(ledger, 1, 30)
    crash(ledger)
    segments(tmp_path)[-1].unlink()
    assert verify_directory(tmp_path).status is Status.TRUNCATED
    open_ledger(tmp_path).close("test")
    recoveries = [record for record in read(tmp_path) if record["type"] == "recovery"]
    assert [record["successor_missing"] for record in recoveries] == [True]


# --- kill -9 -------------------------------------------------------------------------------------------------------------------

_WRITER = """
import sys, time
from pathlib import Path
from dbproxy.audit.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), segment_bytes=20_000, reserve_bytes=1 << 20, now_ns=time.time_ns)
ledger.open()
number = 0
while True:
    batch = range(number, number + 5)
    for n in batch:
        ledger.intent((sys.argv[2], n), b'"act":"query","action":"allow","sql":"SELECT 1"')
    ledger.flush()
    sys.stdout.write("".join(f"sent {n}\\n" for n in batch)); sys.stdout.flush()
    for n in batch:
        ledger.outcome((sys.argv[2], n), b'"status":"ok"')
    ledger.flush()
    sys.stdout.write("".join(f"done {n}\\n" for n in batch)); sys.stdout.flush()
    number += 5
"""


def test_killed_writer_loses_nothing_that_was_forwarded(tmp_path: Path) -> None:
    sent: set[tuple[str, int]] = set()
    done: set[tuple[str, int]] = set()
    for run in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), f"run{run}"], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(300 + 37 * run)]
            child.send_signal(signal.SIGKILL)
            lines += [line for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        for line in lines:
            word, number = line.split()
            (sent if word == "sent" else done).add((f"run{run}", int(number)))
    open_ledger(tmp_path).close("test")
    records = read(tmp_path)
    assert ok(tmp_path)
    intents = {(r["session"], r["statement"]) for r in records if r["type"] == "statement.intent"}
    outcomes = {(r["session"], r["statement"]): r["status"] for r in records if r["type"] == "statement.outcome"}
    assert sent <= intents
    assert intents == set(outcomes)
    assert {key for key in done if outcomes[key] != "ok"} == set()
    assert sum(r["type"] == "recovery" for r in records) == 20
    assert len(sent) > 2000


def test_name_of_a_segment_sorts_as_its_number(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, segment_bytes=4096)
    statements(ledger, 1, 60)
    assert [int(re.fullmatch(r"audit-0-(\d{16})\.jsonl", path.name)[1]) for path in segments(tmp_path)] == sorted(  # type: ignore[index]
        record["seq"] for record in read(tmp_path) if record["type"] == "segment.start"
    )
