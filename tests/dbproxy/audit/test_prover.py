"""The key's life, anchors that fail, and a ledger that was put back in time."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dbproxy.audit.anchor import Anchor, AnchorFailed, FileAnchor
from dbproxy.audit.checkpoint import Seal
from dbproxy.audit.ledger import Ledger
from dbproxy.audit.prover import Prover, open_prover
from dbproxy.audit.rollback import find_last_seal
from dbproxy.audit.schema import read_schema
from dbproxy.audit.signing import (
    SigningKey,
    load_public_key,
    load_signing_key,
    next_path,
    public_path,
    save_signing_key,
)
from dbproxy.audit.types import EventType
from dbproxy.errors import StartError

S = 1_000_000_000


class Proxy:
    """A control process in small: its own chain, and a prover beside it."""

    def __init__(self, base: Path, anchors: list[Anchor] | None = None, **options: Any) -> None:
        self.base = base
        self.now = 0
        (base / "state").mkdir(exist_ok=True, parents=True)
        self.prover = open_prover(
            base / "audit",
            key_path=base / "state/signing.key",
            high_water_path=base / "state/audit-checkpoint.json",
            anchors=[FileAnchor(base / "anchors")] if anchors is None else anchors,
            node="test",
            ledger_id="cd" * 16,
            now_ns=0,
            **options,
        )
        self.ledger = Ledger(
            base / "audit", segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=time.time_ns, node="test"
        )
        self.ledger.open()
        self.events()

    def events(self) -> list[EventType]:
        types = []
        for type_, body in self.prover.take_events():
            self.ledger.append(type_, body)
            types.append(type_)
        self.ledger.flush()
        return types

    def checkpoint(self, *, is_final: bool = False) -> Seal:
        self.ledger.flush()
        chain = self.ledger._chain
        self.prover.take_head(0, chain.seq, chain.hash.decode(), max((self.base / "audit").glob("*.jsonl")).name)
        seal = self.prover.make(self.now, 1_767_225_600 * S + self.now, is_final=is_final)
        self.ledger.append(seal.type, seal.body)
        self.ledger.flush()
        self.prover.written(seal, self.now)
        return seal

    def login(self) -> None:
        self.ledger.append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:1"')
        self.ledger.flush()

    def stop(self) -> None:
        self.checkpoint(is_final=True)
        self.prover.close(10)
        self.ledger.close("test")


def read_records(directory: Path) -> list[dict[str, Any]]:
    paths = sorted(directory.glob("audit-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def settle(prover: Prover, now: int, *, until: int) -> None:
    deadline = time.monotonic() + 10
    while prover.anchored_number < until:
        assert time.monotonic() < deadline
        time.sleep(0.002)
        prover.poll(now)


def test_checkpoints_go_on_after_a_restart(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    assert proxy.checkpoint().number == 1
    settle(proxy.prover, 0, until=1)
    assert proxy.prover.is_anchored
    proxy.stop()
    again = Proxy(tmp_path)
    seal = again.checkpoint()
    assert (seal.number, seal.epoch, seal.ledger) == (3, 1, "cd" * 16)
    again.stop()
    last = find_last_seal(tmp_path / "audit")
    assert last is not None
    assert (last.number, last.is_final) == (4, True)
    assert len((tmp_path / "anchors").read_text().splitlines()) == 4


def test_the_key_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    path = tmp_path / "state/signing.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_public_key(public_path(path)).id == proxy.prover.key_id
    proxy.stop()
    path.chmod(0o640)
    with pytest.raises(StartError, match="chmod 600"):
        Proxy(tmp_path)


@pytest.mark.parametrize("loss", ["missing", "other"])
def test_a_lost_key_is_not_replaced_in_silence(tmp_path: Path, loss: str) -> None:
    Proxy(tmp_path).stop()
    path = tmp_path / "state/signing.key"
    path.unlink()
    if loss == "other":
        save_signing_key(SigningKey.generate(), path)
    with pytest.raises(StartError, match=r"put (it|that key) back"):
        Proxy(tmp_path)


def test_a_waiting_key_takes_over_with_the_next_checkpoint(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    old = proxy.checkpoint()
    path = tmp_path / "state/signing.key"
    key = SigningKey.generate()
    save_signing_key(key, next_path(path))
    rotation, after = proxy.checkpoint(), proxy.checkpoint()
    assert (rotation.type, rotation.key, rotation.epoch) == (EventType.KEY_ROTATED, old.key, 1)
    assert (after.type, after.key, after.epoch) == (EventType.CHECKPOINT, key.id, 2)
    assert load_signing_key(path).id == load_public_key(public_path(path)).id == key.id
    assert load_public_key(path.with_name(f"signing.key.{old.key}.pub")).id == old.key
    assert sorted(each.name for each in path.parent.iterdir() if "next" in each.name) == []
    proxy.stop()
    Proxy(tmp_path).stop()


@pytest.mark.parametrize("step", ["nothing", "public"])
def test_a_rotation_that_a_crash_cut_short_is_finished_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    proxy = Proxy(tmp_path)
    proxy.checkpoint()
    path = tmp_path / "state/signing.key"
    key = SigningKey.generate()
    save_signing_key(key, next_path(path))
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".next") or step == "nothing":
            raise OSError(5, "Input/output error")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        proxy.checkpoint()
    proxy.ledger._release_files()
    again = Proxy(tmp_path)
    assert again.prover.key_id == key.id
    assert again.checkpoint().epoch == 2
    assert load_signing_key(path).id == key.id
    again.stop()


def test_a_waiting_key_that_others_may_read_is_left_aside(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    path = next_path(tmp_path / "state/signing.key")
    save_signing_key(SigningKey.generate(), path)
    path.chmod(0o644)
    assert proxy.checkpoint().type is EventType.CHECKPOINT
    path.chmod(0o600)
    assert proxy.checkpoint().type is EventType.KEY_ROTATED
    proxy.stop()


class Broken:
    name = "broken"

    def __init__(self) -> None:
        self.is_broken = True

    def keep(self, seal: Seal) -> None:
        if self.is_broken:
            raise AnchorFailed("no route")


def test_an_anchor_that_fails_is_reported_once_and_so_is_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbproxy.audit.anchor_sender.ATTEMPTS", 1)
    broken = Broken()
    proxy = Proxy(tmp_path, [broken])
    events: list[EventType] = []
    for is_broken in (True, True, False):
        broken.is_broken = is_broken
        seal = proxy.checkpoint()
        deadline = time.monotonic() + 10
        while len(proxy.prover._failed) + sum(proxy.prover._failed.values()) != (seal.number + 1 if is_broken else 0):
            proxy.prover.poll(0)
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert proxy.prover.failing_anchors == (("broken",) if is_broken else ())
        events += proxy.events()
    assert events == [EventType.ANCHOR_FAILED, EventType.ANCHOR_RESTORED]
    records = read_records(tmp_path / "audit")
    failed, restored = (
        next(each for each in records if each["type"] == name) for name in ("anchor.failed", "anchor.restored")
    )
    assert (failed["anchor"], failed["reason"], failed["number"]) == ("broken", "no route", 1)
    assert (restored["failed"], restored["number"]) == (2, 3)
    proxy.stop()


def test_checkpoints_that_nobody_takes_are_trouble_after_forty_seconds(tmp_path: Path) -> None:
    broken = Broken()
    proxy = Proxy(tmp_path, [broken])
    for second in range(0, 41, 10):
        proxy.now = second * S
        proxy.checkpoint()
        assert proxy.prover.trouble(proxy.now) == ""
    assert "no anchor has taken a checkpoint for 41 s" in proxy.prover.trouble(41 * S)
    broken.is_broken = False
    settle_from = proxy.checkpoint().number
    settle(proxy.prover, 41 * S, until=settle_from)
    assert proxy.prover.trouble(41 * S) == ""
    assert "the last signed checkpoint is 41 s old" in proxy.prover.trouble(81 * S + 1)
    proxy.stop()


def test_without_anchors_only_late_checkpoints_are_trouble(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, [])
    proxy.checkpoint()
    assert proxy.prover.trouble(40 * S) == ""
    assert "41 s old" in proxy.prover.trouble(41 * S)
    proxy.stop()


# --- a ledger put back in time -------------------------------------------------------------------------------------------------


def two_copies(base: Path) -> Path:
    """A ledger, and an older copy of it."""
    proxy = Proxy(base)
    proxy.checkpoint()
    settle(proxy.prover, 0, until=1)
    shutil.copytree(base / "audit", base / "older")
    proxy.login()
    proxy.stop()
    return base / "older"


def put_back(base: Path, copy: Path | None) -> None:
    shutil.rmtree(base / "audit")
    if copy is not None:
        shutil.copytree(copy, base / "audit", copy_function=shutil.copy2)
        (base / "audit").chmod(0o700)


@pytest.mark.parametrize("witness", ["anchors", "state/audit-checkpoint.json"])
@pytest.mark.parametrize("is_emptied", [False, True])
def test_an_older_ledger_is_refused(tmp_path: Path, witness: str, is_emptied: bool) -> None:
    older = two_copies(tmp_path)
    put_back(tmp_path, None if is_emptied else older)
    other = {"anchors": "state/audit-checkpoint.json", "state/audit-checkpoint.json": "anchors"}[witness]
    (tmp_path / other).unlink()
    with pytest.raises(StartError) as caught:
        Proxy(tmp_path)
    assert "checkpoint 2 of 2026-01-01T00:00:00.000000Z is in" in str(caught.value)
    assert "unsafe_accept_rollback" in str(caught.value)
    assert not (tmp_path / "audit").exists() or len(list((tmp_path / "audit").iterdir())) > 0


def test_an_older_ledger_can_be_accepted_once_and_says_so(tmp_path: Path) -> None:
    older = two_copies(tmp_path)
    put_back(tmp_path, older)
    proxy = Proxy(tmp_path, accept_rollback=True)
    assert proxy.checkpoint().number == 2
    proxy.checkpoint()
    proxy.stop()
    records = read_records(tmp_path / "audit")
    (accepted,) = (each for each in records if each["type"] == "rollback.accepted")
    assert "checkpoint 2" in accepted["problem"]
    Proxy(tmp_path).stop()


def test_another_ledger_in_its_place_is_refused(tmp_path: Path) -> None:
    two_copies(tmp_path)
    last = find_last_seal(tmp_path / "audit")
    path = next((tmp_path / "audit").glob("*.jsonl"))
    shutil.rmtree(tmp_path / "audit")
    (tmp_path / "anchors").rename(tmp_path / "anchors.old")
    (tmp_path / "state/audit-checkpoint.json").rename(tmp_path / "note")
    monkey = Proxy(tmp_path)
    monkey.prover._checkpointer.ledger = "ef" * 16
    monkey.checkpoint()
    monkey.ledger.close("test")
    (tmp_path / "anchors.old").replace(tmp_path / "anchors")
    with pytest.raises(StartError, match="another ledger"):
        Proxy(tmp_path)
    assert last is not None
    assert path.exists()


def test_missing_records_of_any_slot_are_found_at_start(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    worker = Ledger(tmp_path / "w", segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=time.time_ns, slot=1)
    worker.open()
    worker.append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:1"')
    worker.flush()
    source = next((tmp_path / "w").glob("audit-1-*.jsonl"))
    target = tmp_path / "audit" / source.name
    shutil.copy(source, target)
    proxy.prover.take_head(1, worker._chain.seq, worker._chain.hash.decode(), source.name)
    proxy.stop()
    worker._release_files()
    Proxy(tmp_path).stop()
    lines = source.read_bytes().splitlines(keepends=True)
    for change in (lines[0], lines[0] + lines[1].replace(b"127", b"128"), None):
        target.unlink()
        if change is not None:
            target.write_bytes(change)
        with pytest.raises(StartError, match="record 2 of slot 1"):
            Proxy(tmp_path)
        shutil.copy(source, target)


def test_records_of_the_prover_fit_the_schema(tmp_path: Path) -> None:
    older = two_copies(tmp_path)
    put_back(tmp_path, older)
    proxy = Proxy(tmp_path, accept_rollback=True)
    save_signing_key(SigningKey.generate(), next_path(tmp_path / "state/signing.key"))
    proxy.checkpoint()
    proxy.stop()
    validator = Draft202012Validator(json.loads(read_schema()))
    types = set()
    for record in read_records(tmp_path / "audit"):
        assert [error.message for error in validator.iter_errors(record)] == []
        types.add(record["type"])
    assert {"checkpoint", "key.rotated", "rollback.accepted"} <= types
