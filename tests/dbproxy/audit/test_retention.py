"""What may go, what stays, what is left of it, and what the verifier says to that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.ledger_mutations import hashed
from support.ledgers import BEGIN_S, DAY_S, SmallProxy

from dbproxy.audit.compress import compress_closed
from dbproxy.audit.retention import PrunePlan, delete_pruned, plan_pruning
from dbproxy.audit.schema import read_schema
from dbproxy.audit.segment import find_segments
from dbproxy.audit.types import EventType
from dbproxy.audit.verify import verify_directory
from dbproxy.audit.verify_report import Result, Status


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture
def proxy(tmp_path: Path) -> SmallProxy:
    """Three days of work, each with several segments in each slot; the fourth has begun."""
    proxy = SmallProxy(tmp_path, 1)
    for _ in range(3):
        proxy.start()
        proxy.checkpoint()
        proxy.work(60)
        proxy.stop()
    proxy.start()
    proxy.checkpoint()
    return proxy


def plan(proxy: SmallProxy, **policy: Any) -> PrunePlan:
    options: dict[str, Any] = {"max_age_days": None, "max_bytes": None} | policy
    covered = options.pop("covered", {head.slot: head.seq for head in proxy.checkpointer.heads})
    return plan_pruning(proxy.directory, now_s=BEGIN_S + 4 * DAY_S + 60, covered=covered, **options)


def verify(proxy: SmallProxy) -> Result:
    return verify_directory(proxy.directory, keys=proxy.keys, anchors=[proxy.anchor.path], as_of_ns=proxy.now_ns)


def record_and_delete(proxy: SmallProxy, planned: PrunePlan) -> None:
    proxy.ledgers[0].append(EventType.RETENTION_PRUNED, planned.body)
    proxy.checkpoint()
    delete_pruned(proxy.directory, planned)


def test_nothing_goes_without_a_policy(proxy: SmallProxy) -> None:
    assert plan(proxy).segments == ()


def test_by_age_whole_segments_go_and_the_newest_of_each_slot_stays(proxy: SmallProxy) -> None:
    planned = plan(proxy, max_age_days=1.5)
    ended = [each.ended_at for each in planned.segments]
    assert ended
    assert max(ended) < BEGIN_S + 2.5 * DAY_S + 60
    everything = plan(proxy, max_age_days=0.00001)
    newest = {segments[-1][1].name for segments in find_segments(proxy.directory).values()}
    assert newest.isdisjoint(each.file for each in everything.segments)
    assert len(everything.segments) + len(newest) == len(list(proxy.directory.glob("*.jsonl")))


def test_by_size_the_oldest_of_all_slots_go_first_until_it_fits(proxy: SmallProxy) -> None:
    total = sum(path.stat().st_size for path in proxy.directory.glob("*.jsonl"))
    planned = plan(proxy, max_bytes=total - 10_000)
    assert 10_000 <= planned.size < 10_000 + 6_000
    assert len({each.slot for each in planned.segments}) > 1
    order = [each.ended_at for each in planned.segments]
    assert order == sorted(order)


def test_only_what_a_checkpoint_covers_and_nobody_needs_goes(proxy: SmallProxy) -> None:
    assert plan(proxy, max_bytes=0, covered={}).segments == ()
    _, second = find_segments(proxy.directory)[1][1]
    first_of_second = find_segments(proxy.directory)[1][1][0]
    assert second.exists()
    planned = plan(proxy, max_bytes=0, covered={1: first_of_second - 2})
    assert planned.segments == ()
    planned = plan(proxy, max_bytes=0, covered={1: first_of_second - 1})
    assert [(each.slot, each.first_seq, each.last_seq) for each in planned.segments] == [(1, 1, first_of_second - 1)]


def test_pruned_records_are_called_pruned_by_the_verifier(proxy: SmallProxy) -> None:
    planned = plan(proxy, max_age_days=1.5)
    record_and_delete(proxy, planned)
    result = verify(proxy)
    assert result.status is Status.OK, result.problem
    for chain in result.chains:
        assert chain.pruned == max(each.last_seq for each in planned.segments if each.slot == chain.slot)
        assert chain.first_seq == chain.pruned + 1
    proxy.stop()
    validator = Draft202012Validator(json.loads(read_schema()))
    records = [
        json.loads(line) for path in proxy.directory.glob("audit-0-*.jsonl") for line in path.read_bytes().splitlines()
    ]
    (pruned,) = (each for each in records if each["type"] == "retention.pruned")
    assert [error.message for error in validator.iter_errors(pruned)] == []
    assert pruned["max_age_days"] == 1.5


def test_pruning_again_goes_on_where_it_ended(proxy: SmallProxy) -> None:
    for days in (2.5, 1.5, 0.5):
        record_and_delete(proxy, plan(proxy, max_age_days=days))
        assert verify(proxy).status is Status.OK
    proxy.stop()
    proxy.start()
    proxy.checkpoint()
    assert verify(proxy).status is Status.OK


def test_a_crash_between_record_and_deletion_is_made_good(proxy: SmallProxy) -> None:
    planned = plan(proxy, max_age_days=1.5)
    for _ in range(2):
        proxy.ledgers[0].append(EventType.RETENTION_PRUNED, planned.body)
        proxy.checkpoint()
        assert verify(proxy).status is Status.OK
    (proxy.directory / planned.segments[0].file).unlink()
    assert verify(proxy).status is Status.OK
    delete_pruned(proxy.directory, planned)
    assert verify(proxy).status is Status.OK


def test_what_was_pruned_of_an_idle_chain_is_still_told_when_the_record_of_it_is_pruned_too(tmp_path: Path) -> None:
    """A worker out of use, or idle, keeps its newest segment; control's chain goes on and loses its beginning again and again."""
    proxy = SmallProxy(tmp_path, 4, slots=3)
    proxy.start()
    proxy.checkpoint()
    proxy.work(60)
    proxy.crash(is_torn=True)
    proxy.start()
    proxy.work(10)
    assert proxy.prune()
    for _ in range(3):
        for _ in range(20):
            proxy.checkpoint()
        assert proxy.prune() > 3
        result = verify(proxy)
        assert result.status is Status.OK, result.problem
        assert [chain.pruned > 0 for chain in result.chains] == [True, True, True]
    proxy.stop()
    assert verify(proxy).status is Status.OK
    # What control itself has not pruned, it does not tell again.
    find_segments(proxy.directory)[0][0][1].unlink()
    assert verify(proxy).status is Status.TAMPERED


@pytest.mark.parametrize("change", ["forged", "another segment"])
def test_what_others_took_away_is_not_told_again(tmp_path: Path, change: str) -> None:
    """The record of a pruning that is told again is one of control's own chain, whose links were checked."""
    proxy = SmallProxy(tmp_path, 4, slots=2)
    proxy.start()
    proxy.checkpoint()
    proxy.work(60)
    assert proxy.prune(max_bytes=20_000)
    for _ in range(20):
        proxy.checkpoint()
    proxy.work(20)
    victim = find_segments(proxy.directory)[1][0]
    told = next(
        path for _, path in find_segments(proxy.directory)[0] if b'"type":"retention.pruned"' in path.read_bytes()
    )
    if change == "forged":
        data = told.read_bytes()
        line = next(each for each in data.splitlines() if b'"retention.pruned"' in each)
        record = json.loads(line)
        last = [each for each in record["segments"] if each["slot"] == 1][-1]
        before = [last["last_seq"], last["last_hash"]]
        header = json.loads(find_segments(proxy.directory)[1][1][1].read_bytes().splitlines()[0])
        last["last_seq"], last["last_hash"] = header["predecessor"]["seq"], header["predecessor"]["hash"]
        assert before != [last["last_seq"], last["last_hash"]]
        told.write_bytes(data.replace(line, hashed(record).rstrip(b"\n")))
    victim[1].unlink()
    proxy.prune()
    assert verify(proxy).status is Status.TAMPERED


@pytest.mark.parametrize("what", ["one more", "without a record", "unsigned record", "another end"])
def test_what_is_missing_and_was_not_pruned_is_tampering(proxy: SmallProxy, what: str) -> None:
    planned = plan(proxy, max_age_days=2.5)
    body = planned.body
    if what == "another end":
        body = body.replace(planned.segments[-1].last_hash.encode(), b"0" * 64)
    if what != "without a record":
        proxy.ledgers[0].append(EventType.RETENTION_PRUNED, body)
        proxy.ledgers[0].flush()
    if what in ("one more", "another end"):
        proxy.checkpoint()
    delete_pruned(proxy.directory, planned)
    if what == "one more":
        find_segments(proxy.directory)[1][0][1].unlink()
    result = verify(proxy)
    assert result.status is Status.TAMPERED
    expected = {
        "one more": "no record says that it was pruned", "without a record": "no record says that it was pruned",
        "unsigned record": "is not signed", "another end": "was pruned with another end",
    }  # fmt: skip
    assert result.problem is not None
    assert expected[what] in result.problem.what


def test_compressed_segments_and_torn_bytes_go_too(tmp_path: Path) -> None:
    proxy = SmallProxy(tmp_path, 2)
    proxy.start()
    proxy.checkpoint()
    proxy.work(40)
    proxy.crash(is_torn=True)
    proxy.start()
    proxy.work(40)
    proxy.checkpoint()
    for slot in range(3):
        compress_closed(proxy.directory, slot, limit=100)
    planned = plan(proxy, max_bytes=0)
    assert planned.side_files
    assert any(each.file.endswith(".gz") for each in planned.segments)
    assert verify(proxy).status is Status.OK
    record_and_delete(proxy, planned)
    assert not list(proxy.directory.glob("*.torn"))
    assert verify(proxy).status is Status.OK
    assert any(chain.pruned for chain in verify(proxy).chains)


def test_torn_bytes_that_just_vanish_are_missed(tmp_path: Path) -> None:
    proxy = SmallProxy(tmp_path, 2)
    proxy.start()
    proxy.checkpoint()
    proxy.work(40)
    proxy.crash(is_torn=True)
    proxy.start()
    proxy.checkpoint()
    next(proxy.directory.glob("*.torn")).unlink()
    result = verify(proxy)
    assert result.status is Status.TAMPERED
    assert "torn bytes" in (result.problem.what if result.problem else "")


def test_a_damaged_segment_stays_as_evidence(proxy: SmallProxy) -> None:
    segments = find_segments(proxy.directory)[1]
    path = segments[1][1]
    path.write_bytes(b"x" + path.read_bytes()[1:])
    planned = plan(proxy, max_bytes=0)
    assert 1 not in {each.slot for each in planned.segments}
    assert {each.slot for each in planned.segments} == {0, 2}


def test_a_pruned_ledger_verifies_with_the_first_key_through_its_anchor(tmp_path: Path) -> None:
    """The key changes are pruned from the ledger; the anchor still has them."""
    proxy = SmallProxy(tmp_path, 3)
    proxy.start()
    proxy.checkpoint()
    for _ in range(5):
        proxy.work(30)
        proxy.rotate_key()
    proxy.prune()
    first = proxy.keys[:1]
    anchored = verify_directory(proxy.directory, keys=first, anchors=[tmp_path / "anchors"], as_of_ns=proxy.now_ns)
    assert (anchored.status, anchored.seals.rotations < 5) == (Status.OK, True)
    assert anchored.seals.last_signed == anchored.seals.last_number
    assert verify_directory(proxy.directory, keys=first, as_of_ns=proxy.now_ns).status is Status.UNANCHORED
    assert verify_directory(proxy.directory, keys=proxy.keys, as_of_ns=proxy.now_ns).status is Status.OK
