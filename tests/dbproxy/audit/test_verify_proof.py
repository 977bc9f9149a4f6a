"""Checkpoints, keys and anchors in the verifier, case by case; hostile input stays bounded. The random part is tests/integration/test_bar_h_proof.py."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
import zlib
from hashlib import sha256
from pathlib import Path

import pytest
from support.ledger_mutations import dumps
from support.ledgers import SmallProxy, write_ledger

from dbproxy.audit.anchor_lines import short_line
from dbproxy.audit.compress import compress_closed
from dbproxy.audit.segment import GZIP_HEADER
from dbproxy.audit.signing import SigningKey
from dbproxy.audit.verify import verify_directory, verify_files
from dbproxy.audit.verify_report import Level, Status


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


def test_each_record_is_counted_once_in_the_best_way(tmp_path: Path) -> None:
    proxy = SmallProxy(tmp_path, 1)
    proxy.start()
    proxy.work(10)
    anchored = proxy.checkpoint()
    proxy.work(10)
    signed = proxy.checkpoint(is_anchored=False)
    proxy.work(10)
    result = verify_directory(proxy.directory, keys=proxy.keys, anchors=[tmp_path / "anchors"], as_of_ns=proxy.now_ns)
    assert (result.status, result.level) == (Status.OK, Level.ANCHORED)
    for chain, first, second in zip(result.chains, anchored.heads, signed.heads, strict=True):
        assert (chain.anchored, chain.signed, chain.chained) == (
            first.seq,
            second.seq - first.seq,
            chain.last_seq - second.seq,
        )
    assert (result.seals.last_anchored, result.seals.last_signed) == (1, 2)
    assert "anchored (up to 2026-01-02T00:00:00" in result.proof
    plain = verify_directory(proxy.directory)
    assert (plain.status, plain.level) == (Status.OK, Level.CHAINED)
    assert "not signed" in plain.proof
    assert "2 checkpoints were not checked" in plain.proof


def test_anchors_alone_are_enough_to_find_a_change(tmp_path: Path) -> None:
    """Without a key: the anchor says what the checkpoint was."""
    proxy = write_ledger(tmp_path, 2, runs=1)
    result = verify_directory(proxy.directory, anchors=[tmp_path / "anchors"])
    assert (result.status, result.seals.keys) == (Status.OK, [])
    other = write_ledger(tmp_path / "other", 2, runs=1)  # the same but for its key
    forged = verify_directory(other.directory, anchors=[tmp_path / "anchors"])
    assert forged.status is Status.TAMPERED
    assert "was anchored at" in (forged.problem.what if forged.problem else "")


def test_a_syslog_file_with_short_lines_of_several_ledgers_is_an_anchor_too(tmp_path: Path) -> None:
    proxy = write_ledger(tmp_path, 3, runs=2)
    other = write_ledger(tmp_path / "other", 4, runs=2)
    lines = []
    for ours, theirs in zip(proxy.seals, other.seals, strict=False):
        lines += [b"<109>1 t h dbproxy - checkpoint - " + short_line(seal) for seal in (theirs, ours, ours)]
    lines += [b"<109>1 t h dbproxy - checkpoint - " + short_line(seal) for seal in proxy.seals[len(other.seals) :]]
    path = tmp_path / "syslog"
    path.write_bytes(b"hello\n" + b"\n".join(lines) + b"\n")
    result = verify_directory(proxy.directory, keys=proxy.keys[:1], anchors=[path])
    assert (result.status, result.seals.anchors) == (Status.OK, {str(path): len(proxy.seals)})
    path.write_bytes(b"\n".join(short_line(seal) for seal in other.seals))
    result = verify_directory(proxy.directory, keys=proxy.keys[:1], anchors=[path])
    assert result.status is Status.UNANCHORED
    assert any("other ledgers only" in note for note in result.seals.notes)


def test_one_of_several_anchors_that_has_the_end_is_enough(tmp_path: Path) -> None:
    proxy = write_ledger(tmp_path, 5, runs=1)
    lines = (tmp_path / "anchors").read_bytes().splitlines(keepends=True)
    (tmp_path / "early").write_bytes(b"".join(lines[:2]))
    anchors = [tmp_path / "early", tmp_path / "anchors"]
    assert verify_directory(proxy.directory, anchors=anchors).status is Status.OK
    assert verify_directory(proxy.directory, anchors=anchors[:1]).status is Status.UNANCHORED


def test_somebody_who_writes_nonsense_into_an_anchor_raises_no_alarm(tmp_path: Path) -> None:
    """With the key, a line that nobody signed is told from the ledger's fault."""
    proxy = write_ledger(tmp_path, 6, runs=1)
    seal = json.loads(proxy.seals[-1].line)
    forged = dumps(seal | {"payload": seal["payload"].replace('"number":', '"number":1')})
    path = tmp_path / "anchors"
    good = path.read_bytes()
    path.write_bytes(good + forged + b"\n" + b'{"type":"checkpoint",garbage\n')
    result = verify_directory(proxy.directory, keys=proxy.keys[:1], anchors=[path])
    assert result.status is Status.OK, result.problem
    assert any("2 damaged or forged lines" in note for note in result.seals.notes)
    path.write_bytes(good.replace(b"final", b"fimal"))
    assert verify_directory(proxy.directory, keys=proxy.keys[:1], anchors=[path]).status is Status.UNANCHORED


def test_an_anchor_that_cannot_be_read_is_unreadable(tmp_path: Path) -> None:
    proxy = write_ledger(tmp_path, 7, runs=1)
    result = verify_directory(proxy.directory, anchors=[tmp_path / "missing"])
    assert (result.status, result.exit_code) == (Status.UNREADABLE, 3)


def test_a_key_that_was_not_given_is_named(tmp_path: Path) -> None:
    proxy = write_ledger(tmp_path, 8, runs=1)
    result = verify_directory(proxy.directory, keys=[SigningKey.generate().public])
    assert result.status is Status.UNANCHORED
    assert result.problem is not None
    assert f"the first is of key {proxy.keys[0].id}" in result.problem.what
    assert result.problem.seq > 0


def test_a_ledger_without_checkpoints_is_not_ok_with_a_key(tmp_path: Path) -> None:
    proxy = SmallProxy(tmp_path, 9)
    proxy.start()
    proxy.work(5)
    for ledger in proxy.ledgers:
        ledger.close("test")
    assert verify_directory(proxy.directory).status is Status.OK
    result = verify_directory(proxy.directory, keys=proxy.keys)
    assert (result.status, result.exit_code) == (Status.UNANCHORED, 4)


def test_control_records_of_a_worker_are_refused(tmp_path: Path) -> None:
    proxy = SmallProxy(tmp_path, 10)
    proxy.start()
    seal = proxy.checkpoint()
    proxy.ledgers[1].append(seal.type, seal.body)
    proxy.checkpoint()
    result = verify_directory(proxy.directory, keys=proxy.keys, as_of_ns=proxy.now_ns)
    assert result.status is Status.TAMPERED
    assert "only the control process" in (result.problem.what if result.problem else "")


def test_some_files_alone_are_compared_as_far_as_they_go(tmp_path: Path) -> None:
    proxy = write_ledger(tmp_path, 11, runs=2)
    control = sorted(proxy.directory.glob("audit-0-*.jsonl"))
    worker = sorted(proxy.directory.glob("audit-1-*.jsonl"))
    result = verify_files([*control, *worker[-1:]], keys=proxy.keys[:1], anchors=[tmp_path / "anchors"])
    assert result.status is Status.OK, result.problem
    assert result.chains[1].anchored == result.chains[1].records
    assert verify_files(worker, keys=proxy.keys[:1]).status is Status.OK
    worker[0].write_bytes(worker[0].read_bytes().replace(b"alice", b"malic", 1))
    assert verify_files([*control, *worker], keys=proxy.keys[:1]).status is Status.TAMPERED


def test_a_slot_that_comes_into_use_while_verifying_is_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbproxy.audit import verify as module

    proxy = write_ledger(tmp_path, 12, runs=1, slots=4)
    find = module.find_segments
    calls = []

    def first_without_the_last_slot(directory: Path) -> dict[int, list[tuple[int, Path]]]:
        calls.append(directory)
        found = find(directory)
        return {slot: found[slot] for slot in found if slot < 3 or len(calls) > 1}

    monkeypatch.setattr(module, "find_segments", first_without_the_last_slot)
    result = verify_directory(proxy.directory, keys=proxy.keys[:1])
    assert result.status is Status.OK, result.problem
    assert [chain.slot for chain in result.chains] == [0, 1, 2, 3]


def test_a_segment_that_is_compressed_while_verifying_is_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbproxy.audit import verify as module

    proxy = write_ledger(tmp_path, 13, runs=2)
    find = module.find_segments

    def list_and_compress(directory: Path) -> dict[int, list[tuple[int, Path]]]:
        found = find(directory)
        for slot in found:
            compress_closed(directory, slot, limit=100)
        return found

    monkeypatch.setattr(module, "find_segments", list_and_compress)
    result = verify_directory(proxy.directory, keys=proxy.keys[:1])
    assert result.status is Status.OK, result.problem
    assert list(proxy.directory.glob("*.gz"))


def test_without_the_files_of_slot_0_nothing_is_ok_with_no_key_either(tmp_path: Path) -> None:
    """Every proxy has slot 0: whoever takes its files away takes every checkpoint along."""
    proxy = write_ledger(tmp_path, 14, runs=1)
    for path in proxy.directory.glob("audit-0-*"):
        path.unlink()
    result = verify_directory(proxy.directory)
    assert (result.status, result.exit_code) == (Status.TAMPERED, 1)
    assert result.problem is not None
    assert result.problem.file == "audit-0-0000000000000001.jsonl"
    assert "slot 0" in result.problem.what


# --- hostile input -------------------------------------------------------------------------------------------------------------


def segment(directory: Path, *bodies: bytes) -> Path:
    """A chain with right hashes around any bodies."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "audit-0-0000000000000001.jsonl"
    head = (
        b'"type":"segment.start","segment":"%b","slot":0,"node":"x","predecessor":null,"open":[]' % path.name.encode()
    )
    prev = b"0" * 64
    with path.open("wb") as file:
        for seq, body in enumerate((head, *bodies), 1):
            text = b'{"v":"dbproxy.audit/1","seq":%d,"prev":"%b","at":"2026-01-01T00:00:00.000000Z",%b' % (
                seq,
                prev,
                body,
            )
            prev = sha256(text).hexdigest().encode()
            file.write(text + b',"hash":"' + prev + b'"}\n')
    return path


@pytest.mark.parametrize("filling", [b"{},", b"[],", b"1,", b'"",'])
def test_a_record_of_countless_members_is_not_built_in_memory(tmp_path: Path, filling: bytes) -> None:
    segment(tmp_path, b'"type":"session.end","x":[%b1]' % (filling * (24_000_000 // len(filling))))
    tracemalloc.start()
    result = verify_directory(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.status is Status.TAMPERED
    assert "more members than any record" in (result.problem.what if result.problem else "")
    assert peak < 120 << 20


def test_a_long_statement_of_any_characters_is_no_record_of_countless_members(tmp_path: Path) -> None:
    for text in (b"\\\\" * 6_000_000, b"[{,}]" * 2_000_000, b"\\u0001" * 2_000_000):
        segment(tmp_path, b'"type":"statement.refused","session":"s","sql":"%b"' % text)
        assert verify_directory(tmp_path).status is Status.OK


def test_millions_of_open_intents_end_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbproxy.audit.verify_chain.MAX_OPEN_INTENTS", 1000)
    intents = (b'"type":"statement.intent","session":"s","statement":%d,"sql":""' % number for number in range(2000))
    segment(tmp_path, *intents)
    result = verify_directory(tmp_path)
    assert (result.status, result.problem.seq if result.problem else 0) == (Status.TAMPERED, 1002)


def test_a_session_id_without_bounds_is_refused(tmp_path: Path) -> None:
    segment(tmp_path, b'"type":"statement.intent","session":"%b","statement":1' % (b"s" * 1000))
    assert verify_directory(tmp_path).status is Status.TAMPERED


@pytest.mark.parametrize("size", [1 << 30, 1 << 60])
def test_a_compressed_bomb_costs_neither_memory_nor_belief(tmp_path: Path, size: int) -> None:
    """One line without end, of which a kilobyte of file makes a megabyte."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = b"".join(deflate.compress(b"x" * (1 << 20)) for _ in range(300)) + deflate.flush()
    header = GZIP_HEADER + size.to_bytes(8, "little") + sha256(data).digest()
    (tmp_path / "audit-0-0000000000000001.jsonl.gz").write_bytes(header + data + bytes(8))
    tracemalloc.start()
    result = verify_directory(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.status is Status.TAMPERED
    assert peak < 300 << 20


def test_pipes_and_too_many_slots_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "audit-0-0000000000000001.jsonl")
    assert verify_directory(tmp_path).status is Status.UNREADABLE
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    for slot in range(600):
        (tmp_path / f"audit-{slot}-0000000000000001.jsonl").touch()
    result = verify_directory(tmp_path)
    assert result.status is Status.UNREADABLE
    assert "600 slots" in (result.problem.what if result.problem else "")
