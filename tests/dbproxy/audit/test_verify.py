"""The verifier finds every change and raises no false alarm."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dbproxy.audit.ledger import AuditDown, Ledger
from dbproxy.audit.types import EventType
from dbproxy.audit.verify import verify_directory, verify_files
from dbproxy.audit.verify_report import Result, Status

INTENT = b'"person":"alice","act":"query","action":"allow","sql":"SELECT 1"'


def write_log(
    directory: Path, seed: int, *, runs: int = 2, statements: int = 12, segment_bytes: int = 4096, node: str = "test"
) -> None:
    """A log of several runs, some ended by a crash, some with a torn tail, with intents that stay open across segments."""
    rng = random.Random(seed)
    for run in range(runs):
        ledger = Ledger(directory, segment_bytes=segment_bytes, reserve_bytes=64 << 10, now_ns=time.time_ns, node=node)
        ledger.open()
        open_: list[tuple[str, int]] = []
        for number in range(statements):
            key = (f"s{seed}-{run}-{rng.randrange(3)}", number)
            ledger.intent(key, INTENT)
            open_.append(key)
            if rng.random() < 0.3:
                ledger.append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:%d"' % rng.randrange(65536))
            ledger.flush()
            while len(open_) > rng.randrange(1, 5):
                ledger.outcome(open_.pop(rng.randrange(len(open_))), b'"status":"ok","rows":%d' % rng.randrange(1000))
            ledger.flush()
        if rng.random() < 0.5:
            ledger.close("test")
        else:
            ledger._release_files()
            if rng.random() < 0.5:
                last = max(directory.glob("*.jsonl"))
                os.truncate(last, last.stat().st_size - rng.randrange(1, 200))
    ledger = Ledger(directory, segment_bytes=segment_bytes, reserve_bytes=64 << 10, now_ns=time.time_ns, node=node)
    ledger.open()
    ledger.close("test")
    (directory / "audit-0.reserve").unlink()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("log")
    write_log(directory, 1, statements=16)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def other_log(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The log of another node, with the same numbers."""
    directory = tmp_path_factory.mktemp("other")
    write_log(directory, 2, statements=16, node="other")
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def put(directory: Path, files: dict[str, bytes]) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)


def segment_names(files: dict[str, bytes]) -> list[str]:
    return sorted(name for name in files if name.endswith(".jsonl"))


def verify(directory: Path, files: dict[str, bytes]) -> Result:
    put(directory, files)
    return verify_directory(directory)


# --- no false alarms -----------------------------------------------------------------------------------------------------------


def test_200_clean_logs_raise_no_alarm(tmp_path: Path) -> None:
    recoveries = unknown = 0
    for seed in range(200):
        directory = tmp_path / str(seed)
        write_log(directory, seed, runs=1 + seed % 3, statements=6)
        result = verify_directory(directory)
        assert result.status is Status.OK, (seed, result.problem)
        chain = result.chains[0]
        assert chain.intents == chain.outcomes
        assert chain.open_intents == 0
        recoveries += chain.recoveries
        unknown += chain.unknown_outcomes
    assert recoveries > 50
    assert unknown > 50


def test_a_running_proxy_raises_no_alarm(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, segment_bytes=4096, reserve_bytes=64 << 10, now_ns=time.time_ns)
    ledger.open()
    for number in range(40):
        ledger.intent(("s1", number), INTENT)
        ledger.flush()
        result = verify_directory(tmp_path)
        assert result.status is Status.OK
        assert result.chains[0].open_intents == 1
        assert not result.chains[0].is_closed
        ledger.outcome(("s1", number), b'"status":"ok"')
    ledger.close("test")
    assert verify_directory(tmp_path).chains[0].is_closed


def test_a_record_that_is_being_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, 3)
    last = max(tmp_path.glob("*.jsonl"))
    data = last.read_bytes()
    last.write_bytes(data[:-50])
    monkeypatch.setattr(time, "sleep", lambda _: last.write_bytes(data))
    assert verify_directory(tmp_path, settle_s=1.0).status is Status.OK
    last.write_bytes(data[:-50])
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert verify_directory(tmp_path, settle_s=1.0).status is Status.TRUNCATED


# --- every change is found -----------------------------------------------------------------------------------------------------

Files = dict[str, bytes]
Mutation = Callable[[random.Random, Files, Files], None]


def pick(rng: random.Random, files: Files) -> tuple[str, list[bytes]]:
    name = rng.choice(segment_names(files))
    return name, files[name].splitlines(keepends=True)


def flip_bit(rng: random.Random, files: Files, _: Files) -> None:
    name = rng.choice(segment_names(files))
    data = bytearray(files[name])
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    files[name] = bytes(data)


def flip_bit_of_a_torn_file(rng: random.Random, files: Files, _: Files) -> None:
    name = rng.choice([name for name in files if name.endswith(".torn") and files[name]])
    data = bytearray(files[name])
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    files[name] = bytes(data)


def edit_field(rng: random.Random, files: Files, _: Files) -> None:
    name, lines = pick(rng, files)
    index = rng.randrange(len(lines))
    record = json.loads(lines[index])
    field = rng.choice([key for key in record if key != "hash"])
    record[field] = rng.choice(["mallory", 7, None, True, []])
    lines[index] = json.dumps(record, separators=(",", ":")).encode() + b"\n"
    files[name] = b"".join(lines)


def edit_and_rehash(rng: random.Random, files: Files, _: Files) -> None:
    """Change a record and give it a right hash again; the next one does not link to it."""
    names = segment_names(files)
    name = rng.choice(names)
    lines = files[name].splitlines(keepends=True)
    index = rng.randrange(len(lines) - (name == names[-1]))
    text = lines[index][:-76] + b',"extra":%d' % rng.randrange(99)
    lines[index] = text + b',"hash":"' + hashlib.sha256(text).hexdigest().encode() + b'"}\n'
    files[name] = b"".join(lines)


def delete_record(rng: random.Random, files: Files, _: Files) -> None:
    names = segment_names(files)
    name = rng.choice(names)
    lines = files[name].splitlines(keepends=True)
    del lines[rng.randrange(len(lines) - (name == names[-1]))]  # the very last one of all is the clean cut
    files[name] = b"".join(lines)


def delete_bytes(rng: random.Random, files: Files, _: Files) -> None:
    name = rng.choice(segment_names(files))
    data = files[name]
    start = rng.randrange(len(data) - 20)
    files[name] = data[:start] + data[start + rng.randrange(1, 20) :]


def duplicate_record(rng: random.Random, files: Files, _: Files) -> None:
    name, lines = pick(rng, files)
    index = rng.randrange(len(lines))
    lines.insert(rng.randrange(len(lines) + 1), lines[index])
    files[name] = b"".join(lines)


def swap_records(rng: random.Random, files: Files, _: Files) -> None:
    name, lines = pick(rng, files)
    while len(lines) < 2:
        name, lines = pick(rng, files)
    a, b = rng.sample(range(len(lines)), 2)
    lines[a], lines[b] = lines[b], lines[a]
    files[name] = b"".join(lines)


def insert_bytes(rng: random.Random, files: Files, _: Files) -> None:
    name = rng.choice(segment_names(files))
    data = files[name]
    at = rng.randrange(len(data) + 1)
    files[name] = data[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20))) + data[at:]


def insert_forged_record(rng: random.Random, files: Files, _: Files) -> None:
    """A record with a right hash and link, put between two others."""
    names = segment_names(files)
    name = rng.choice(names)
    lines = files[name].splitlines(keepends=True)
    index = rng.randrange(1, len(lines))
    before = json.loads(lines[index - 1])
    text = b'{"v":"dbproxy.audit/1","seq":%d,"prev":"%b","at":"%b","type":"session.end","session":"x"' % (
        before["seq"] + 1,
        before["hash"].encode(),
        before["at"].encode(),
    )
    lines.insert(index, text + b',"hash":"' + hashlib.sha256(text).hexdigest().encode() + b'"}\n')
    files[name] = b"".join(lines)


def splice_record(rng: random.Random, files: Files, other: Files) -> None:
    name, lines = pick(rng, files)
    _, theirs = pick(rng, other)
    lines[rng.randrange(len(lines))] = rng.choice(theirs)
    files[name] = b"".join(lines)


def splice_segment(rng: random.Random, files: Files, other: Files) -> None:
    """A whole segment of the other node; all of them would be a log of its own."""
    source = rng.choice(segment_names(other))
    if rng.random() < 0.5:
        target = source
    else:
        target = rng.choice(segment_names(files))
    files[target] = other[source]


def remove_segment(rng: random.Random, files: Files, _: Files) -> None:
    """Any but the newest, whose removal is a cut at the end."""
    del files[rng.choice(segment_names(files)[:-1])]


def rename_segment(rng: random.Random, files: Files, _: Files) -> None:
    name = rng.choice(segment_names(files))
    seq = int(name[8:24]) + rng.randrange(1, 1000)
    files[f"audit-{rng.randrange(2)}-{seq:016d}.jsonl"] = files.pop(name)


def cut_head(rng: random.Random, files: Files, _: Files) -> None:
    name, lines = pick(rng, files)
    files[name] = b"".join(lines[rng.randrange(1, len(lines)) :]) if len(lines) > 1 else b""


def cut_tail_of_an_older_segment(rng: random.Random, files: Files, _: Files) -> None:
    name = rng.choice(segment_names(files)[:-1])
    files[name] = files[name][: rng.randrange(len(files[name]))]


def cut_tail_within_a_record(rng: random.Random, files: Files, _: Files) -> None:
    name = segment_names(files)[-1]
    lines = files[name].splitlines(keepends=True)
    index = rng.randrange(len(lines))
    files[name] = b"".join(lines[:index]) + lines[index][: rng.randrange(1, len(lines[index]))]


MUTATIONS: list[Mutation] = [
    flip_bit, flip_bit_of_a_torn_file, edit_field, edit_and_rehash, delete_record, delete_bytes, duplicate_record, swap_records, insert_bytes,
    insert_forged_record, splice_record, splice_segment, remove_segment, rename_segment, cut_head, cut_tail_of_an_older_segment,
    cut_tail_within_a_record,
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_every_mutation_is_found(tmp_path: Path, log: Files, other_log: Files, mutation: Mutation) -> None:
    """With those of the other kinds some 2,000; the one change that cannot be found is tested below."""
    base = {"log": log}
    if mutation is flip_bit_of_a_torn_file:
        base["log"] = torn_log(tmp_path / "torn")
    for seed in range(120):
        rng = random.Random(seed)
        files = dict(base["log"])
        while files == base["log"]:  # a swap of equal bytes is no mutation
            mutation(rng, files, other_log)
        result = verify(tmp_path / "work", files)
        assert result.status in (Status.TAMPERED, Status.TRUNCATED), (seed, result)
        assert result.problem is not None
        assert result.problem.file in files
        assert result.problem.seq > 0


def torn_log(directory: Path) -> Files:
    ledger = Ledger(directory, segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=time.time_ns)
    ledger.open()
    ledger.intent(("s1", 1), INTENT)
    ledger.flush()
    ledger._release_files()
    path = next(directory.glob("*.jsonl"))
    os.truncate(path, path.stat().st_size - 20)
    ledger = Ledger(directory, segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=time.time_ns)
    ledger.open()
    ledger.close("test")
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_first_bad_record_is_named(tmp_path: Path, log: Files) -> None:
    for name in segment_names(log):
        lines = log[name].splitlines(keepends=True)
        for index, line in enumerate(lines):
            seq = json.loads(line)["seq"]
            changed = [*lines[:index], line.replace(b'"type":"', b'"type":"x', 1), *lines[index + 1 :]]
            problem = verify(tmp_path / "work", log | {name: b"".join(changed)}).problem
            assert problem is not None
            assert (problem.file, problem.line, problem.seq, problem.status) == (name, index + 1, seq, Status.TAMPERED)


def test_a_clean_cut_at_the_very_end_cannot_be_found_and_is_not_called_proven(tmp_path: Path, log: Files) -> None:
    name = segment_names(log)[-1]
    lines = log[name].splitlines(keepends=True)
    result = verify(tmp_path / "work", log | {name: b"".join(lines[:-1])})
    assert result.status is Status.OK
    assert not result.chains[0].is_closed
    assert "not signed" in result.proof
    assert "cut off" in result.proof


def test_a_missing_torn_file_is_found(tmp_path: Path) -> None:
    files = torn_log(tmp_path / "torn")
    kept = {name: data for name, data in files.items() if not name.endswith(".torn")}
    result = verify(tmp_path / "work", kept)
    assert result.status is Status.TAMPERED
    assert "torn bytes" in (result.problem.what if result.problem else "")


# --- the rest ------------------------------------------------------------------------------------------------------------------


def test_single_segments_can_be_verified(tmp_path: Path, log: Files) -> None:
    put(tmp_path / "work", log)
    for name in segment_names(log):
        assert verify_files([tmp_path / "work" / name]).status is Status.OK
    result = verify_files([tmp_path / "work" / name for name in segment_names(log)[1:]])
    assert result.status is Status.OK
    assert "not given" in result.chains[0].notes[0]


def test_nothing_there_is_unreadable_not_ok(tmp_path: Path) -> None:
    assert verify_directory(tmp_path).status is Status.UNREADABLE
    assert verify_directory(tmp_path / "missing").status is Status.UNREADABLE
    assert verify_files([tmp_path / "x.txt"]).status is Status.UNREADABLE
    assert verify_files([tmp_path / "audit-0-0000000000000001.jsonl"]).status is Status.UNREADABLE


def test_foreign_files_are_listed(tmp_path: Path, log: Files) -> None:
    result = verify(tmp_path / "work", log | {"notes.txt": b"x"})
    assert result.status is Status.OK
    assert any("notes.txt" in note for note in result.chains[0].notes)


@pytest.mark.parametrize(
    "line",
    [
        b"{" * 100_000,
        b'{"v":"dbproxy.audit/1"}',
        b"\x00" * 5000,
        b"[" * 5000 + b"]" * 5000,
        b"\xff\xfe",
        b'{"v":"dbproxy.audit/1","seq":1,"prev":"'
        + b"0" * 64
        + b'","at":"2026-01-01T00:00:00.000000Z","type":"segment.start",'
        + b'"x":'
        + b"[" * 3000,
    ],
)
def test_hostile_lines_are_tampering_not_a_crash(tmp_path: Path, line: bytes) -> None:
    text = line
    hashed = text + b',"hash":"' + hashlib.sha256(text).hexdigest().encode() + b'"}\n'
    for data in (line + b"\n", hashed):
        assert verify(tmp_path / "work", {"audit-0-0000000000000001.jsonl": data}).status is Status.TAMPERED


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbproxy.audit.verify_chain.MAX_LINE_BYTES", 1000)
    result = verify(tmp_path / "work", {"audit-0-0000000000000001.jsonl": b"x" * 5000})
    assert result.status is Status.TAMPERED
    assert "more than 1000 bytes" in (result.problem.what if result.problem else "")


@pytest.mark.parametrize(
    ("members", "what"),
    [
        (b'"type":"session.end","seq":9,"session":"a"', "twice"),
        (b'"type":"statement.intent","session":"a","statement":1', ""),
        (b'"type":"statement.outcome","session":"a","statement":1,"status":"ok"', "without intent"),
        (b'"type":"statement.outcome","session":["a"],"statement":1', "members"),
        (b'"type":"recovery","torn":[{"file":"../../etc/passwd"}]', "members"),
        (b'"type":"segment.start","segment":"x"', "not the first record"),
        (b'"type":"not.known","x":1', ""),
    ],
)
def test_records_with_a_right_hash_and_wrong_meaning(tmp_path: Path, members: bytes, what: str) -> None:
    """Whoever changes a record may also repair the chain; what the records say must still fit together."""
    directory = tmp_path / "log"
    ledger = Ledger(directory, segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=time.time_ns)
    ledger.open()
    ledger._release_files()
    path = next(directory.glob("*.jsonl"))
    first = json.loads(path.read_bytes())
    text = b'{"v":"dbproxy.audit/1","seq":2,"prev":"%b","at":"%b",%b' % (
        first["hash"].encode(),
        first["at"].encode(),
        members,
    )
    with path.open("ab") as file:
        file.write(text + b',"hash":"' + hashlib.sha256(text).hexdigest().encode() + b'"}\n')
    result = verify_directory(directory)
    if what:
        assert result.status is Status.TAMPERED
        assert result.problem is not None
        assert what in result.problem.what
    else:
        assert result.status is Status.OK


def test_an_abandoned_segment_counts_up_to_where_it_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path, segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=time.time_ns)
    ledger.open()
    ledger.intent(("s1", 1), INTENT)
    write = os.write

    def fail(fd: int, data: bytes) -> int:
        write(fd, bytes(data[:50]))
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        patch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(AuditDown):
            ledger.flush()
    assert ledger.try_resume()
    ledger.close("test")
    result = verify_directory(tmp_path)
    assert result.status is Status.OK
    assert any("given up" in note for note in result.chains[0].notes)
