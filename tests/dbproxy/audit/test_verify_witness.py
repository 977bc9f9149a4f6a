"""Whole files taken away, in every way there is: what notices it, with keys, without, and in a ledger that was never signed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.ledgers import SmallProxy

from dbproxy.audit.record import members
from dbproxy.audit.rollback import write_high_water
from dbproxy.audit.segment import find_segments
from dbproxy.audit.types import EventType
from dbproxy.audit.verify import verify_directory
from dbproxy.audit.verify_report import Result, Status

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


def segments(directory: Path, slot: int) -> list[Path]:
    return [path for _, path in find_segments(directory)[slot]]


def of_last_run(directory: Path, slot: int) -> list[Path]:
    """Segments since the chain's last process began."""
    found = segments(directory, slot)
    closed = [i for i, path in enumerate(found[:-1]) if b'"reason":"rotated"' not in path.read_bytes().splitlines()[-1]]
    return found[closed[-1] + 1 :]


Taken = Callable[[Path], list[Path]]
WAYS: dict[str, Taken] = {
    "all of slot 0": lambda d: segments(d, 0),
    "all of slot 1": lambda d: segments(d, 1),
    "the first of slot 0": lambda d: segments(d, 0)[:1],
    "the first of slot 1": lambda d: segments(d, 1)[:1],
    "one within slot 0": lambda d: segments(d, 0)[1:2],
    "one within slot 1": lambda d: segments(d, 1)[1:2],
    "all but the newest of slot 0": lambda d: segments(d, 0)[:-1],
    "all but the newest of slot 1": lambda d: segments(d, 1)[:-1],
    "the newest of slot 0": lambda d: segments(d, 0)[-1:],
    "the newest of slot 1": lambda d: segments(d, 1)[-1:],
    "the last run of slot 0": lambda d: of_last_run(d, 0),
    "the last run of slot 1": lambda d: of_last_run(d, 1),
    "the last runs of all workers": lambda d: [path for slot in (1, 2) for path in of_last_run(d, slot)],
    "all workers": lambda d: [path for slot in (1, 2) for path in segments(d, slot)],
    "everything but a worker": lambda d: [path for slot in (0, 2) for path in segments(d, slot)],
    "torn bytes": lambda d: list(d.glob("*.torn")),
}
"""All but the last run of all slots together, which is the ledger as it was before: see below."""


@dataclass
class Kept:
    """A ledger of two runs, with torn bytes of a crash before them, and what belongs to it."""

    proxy: SmallProxy
    files: dict[str, bytes]
    high_water: Path


def build(base: Path, *, is_signed: bool) -> Kept:
    proxy = SmallProxy(base, 18, segment_bytes=3000)
    proxy.start()
    proxy.work(20)
    proxy.ledgers[1].append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:1"')
    proxy.ledgers[1].flush()
    proxy.crash(is_torn=True)
    for _ in range(2):
        proxy.start()
        for _ in range(3):
            proxy.work(20)
            if is_signed:
                proxy.checkpoint()
            for slot in range(proxy.slots):
                proxy.beat(slot)
        if is_signed:
            proxy.stop()
        else:
            proxy.stop_unsigned()
    high_water = base / "audit-checkpoint.json"
    if proxy.last is not None:
        write_high_water(high_water, proxy.last)
    files = {path.name: path.read_bytes() for path in proxy.directory.iterdir() if path.suffix != ".lock"}
    return Kept(proxy, files, high_water)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return build(tmp_path_factory.mktemp("signed"), is_signed=True)


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return build(tmp_path_factory.mktemp("unsigned"), is_signed=False)


def without(kept: Kept, work: Path, way: Taken) -> list[str]:
    """Put the ledger's files there and take some away. Returns their names."""
    work.mkdir()
    for name, data in kept.files.items():
        (work / name).write_bytes(data)
    gone = way(work)
    assert gone
    for path in gone:
        path.unlink()
    return [path.name for path in gone]


def assert_named(result: Result, gone: list[str]) -> None:
    """The verdict names one of the files or its slot, and says it of each slot concerned."""
    slots = {int(name.split("-")[1]) for name in gone}
    problem = result.problem
    assert problem is not None
    assert problem.file.startswith(tuple(f"audit-{slot}-" for slot in slots)) or any(
        f"slot {slot}" in problem.what or f"audit-{slot}-" in problem.what for slot in slots
    ), problem


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("proof", ["nothing", "key", "key and anchor", "anchor"])
def test_files_that_are_taken_from_a_signed_ledger_are_missed(
    tmp_path: Path, signed: Kept, way: str, proof: str
) -> None:
    gone = without(signed, tmp_path / "work", WAYS[way])
    keys = signed.proxy.keys[:1] if "key" in proof else []
    anchors = [signed.proxy.anchor.path] if "anchor" in proof else []
    result = verify_directory(tmp_path / "work", keys=keys, anchors=anchors)
    is_end_of_control = way in ("the newest of slot 0", "the last run of slot 0") and "anchor" not in proof
    assert result.exit_code == (2 if is_end_of_control else 1), result.problem
    assert_named(result, gone)


@pytest.mark.parametrize("way", WAYS)
def test_files_that_are_taken_from_an_unsigned_ledger_are_missed(tmp_path: Path, unsigned: Kept, way: str) -> None:
    gone = without(unsigned, tmp_path / "work", WAYS[way])
    result = verify_directory(tmp_path / "work")
    if way in ("the newest of slot 0", "the last run of slot 0"):
        # The one way that leaves no trace without signatures: nobody but control itself says how far its chain goes.
        assert result.exit_code in (0, 2)
        return
    assert result.exit_code == 1
    assert_named(result, gone)


def test_a_ledger_put_back_as_it_was_is_missed_by_whatever_is_outside_of_it(tmp_path: Path, signed: Kept) -> None:
    """The last run of all slots: within, everything fits together."""
    work = tmp_path / "work"
    without(signed, work, lambda d: [path for slot in (0, 1, 2) for path in of_last_run(d, slot)])
    keys = signed.proxy.keys[:1]
    assert verify_directory(work).exit_code == 0
    assert verify_directory(work, keys=keys).exit_code == 0  # it ends with a final checkpoint
    for more in ({"anchors": [signed.proxy.anchor.path]}, {"high_water": signed.high_water}):
        for given in (keys, []):
            result = verify_directory(work, keys=given, **more)  # type: ignore[arg-type]  # paths, as they should be
            assert result.exit_code == 1, result.problem
            assert result.problem is not None
            assert result.problem.file.startswith("audit-0-")
            assert "the ledger ends with checkpoint" in result.problem.what
    shutil.rmtree(work)
    work.mkdir()
    assert verify_directory(work, keys=keys, high_water=signed.high_water).exit_code == 3


def test_the_note_of_the_last_checkpoint_proves_nothing(tmp_path: Path, signed: Kept) -> None:
    without(signed, tmp_path / "work", lambda d: [next(d.glob("audit-0.reserve"))])
    result = verify_directory(tmp_path / "work", high_water=signed.high_water)
    assert (result.exit_code, result.level.value) == (0, "chained")
    assert sum(chain.anchored for chain in result.chains) == 0


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([("started", 0)], Status.OK),  # it may be opening its chain at this moment
        ([("started", 0), ("crashed", 1)], Status.OK),  # it never came to that
        ([("started", 0), ("ended", 1)], Status.TAMPERED),
        ([("started", 0), ("crashed", 200)], Status.TAMPERED),
        ([("started", 0), ("other", 200)], Status.TAMPERED),
        ([("ended", 0)], Status.TAMPERED),
    ],
)
def test_a_worker_that_had_a_chain_has_files(tmp_path: Path, events: list[tuple[str, int]], status: Status) -> None:
    proxy = SmallProxy(tmp_path, 1, slots=1, is_counting=False)
    proxy.start()
    began = proxy.now_ns
    types = {
        "started": EventType.PROCESS_STARTED,
        "crashed": EventType.PROCESS_CRASHED,
        "ended": EventType.PROCESS_ENDED,
    }
    for kind, second in events:
        proxy.now_ns = began + second * 10**9
        fields = {"role": "worker", "slot": 4, "process": 77}
        proxy.ledgers[0].append(types.get(kind, EventType.USERS_LOADED), members(fields))
        proxy.ledgers[0].flush()
    proxy.ledgers[0].close("test")
    result = verify_directory(proxy.directory)
    assert result.status is status, result.problem
    if status is Status.TAMPERED:
        assert result.problem is not None
        assert result.problem.file == "audit-4-0000000000000001.jsonl"
        assert "all files of slot 4 are missing" in result.problem.what


# --- no false alarms -----------------------------------------------------------------------------------------------------------


def live(base: Path) -> SmallProxy:
    proxy = SmallProxy(base, 23)
    proxy.start()
    for _ in range(3):
        proxy.work(10)
        proxy.checkpoint()
        for slot in range(proxy.slots):
            proxy.beat(slot)
            proxy.ledgers[slot].flush()
    return proxy


def test_a_running_proxy_that_goes_on_while_it_is_verified_raises_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the end of slot 0 was read, an hour's worth of work, with heartbeats, checkpoints, and anchors."""
    from dbproxy.audit import verify_chain as module

    proxy = live(tmp_path)
    high_water = tmp_path / "note"
    finish = module.ChainCheck._finish

    def go_on(chain: module.ChainCheck) -> None:
        finish(chain)
        if chain.control is not None:
            for _ in range(3):
                proxy.now_ns += 1200 * 10**9
                proxy.work(10)
                write_high_water(high_water, proxy.checkpoint())
                for slot in range(proxy.slots):
                    proxy.beat(slot)
                    proxy.ledgers[slot].flush()

    monkeypatch.setattr(module.ChainCheck, "_finish", go_on)
    monkeypatch.setattr("time.time_ns", lambda: proxy.now_ns)
    result = verify_directory(proxy.directory, keys=proxy.keys, anchors=[tmp_path / "anchors"], high_water=high_water)
    assert result.status is Status.OK, result.problem


def test_files_copied_one_after_the_other_from_a_running_proxy_raise_no_alarm(tmp_path: Path) -> None:
    """Control's first, and a worker's half a minute later."""
    proxy = live(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    for slot in range(proxy.slots):
        for path in segments(proxy.directory, slot):
            shutil.copy(path, work)
        at = proxy.now_ns
        proxy.now_ns += 12 * 10**9
        proxy.work(10)
        proxy.checkpoint()
        for each in range(proxy.slots):
            proxy.beat(each)
            proxy.ledgers[each].flush()
    result = verify_directory(work, keys=proxy.keys, as_of_ns=at - 10 * 10**9)
    assert result.status is Status.OK, result.problem
    assert verify_directory(work).status is Status.OK


def test_the_end_of_slot_0_is_missed_when_a_worker_was_told_of_more(tmp_path: Path) -> None:
    proxy = live(tmp_path)
    control = segments(proxy.directory, 0)[-1]
    before = control.read_bytes()
    proxy.now_ns += 60 * 10**9
    proxy.work(10)
    proxy.checkpoint()
    proxy.beat(1)
    proxy.ledgers[1].flush()
    for path in segments(proxy.directory, 0):
        if path > control:
            path.unlink()
    control.write_bytes(before)
    result = verify_directory(proxy.directory)
    assert (result.status, result.exit_code) == (Status.TRUNCATED, 2)
    assert result.problem is not None
    assert result.problem.file == control.name
    assert "of slot 1; record" in result.problem.what


def test_an_anchor_that_is_newer_than_the_copy_raises_no_alarm_if_it_is_said_when_that_was_made(tmp_path: Path) -> None:
    proxy = live(tmp_path)
    work = tmp_path / "work"
    shutil.copytree(proxy.directory, work)
    at = proxy.now_ns
    proxy.now_ns += 600 * 10**9
    proxy.work(5)
    proxy.checkpoint()
    anchors = [tmp_path / "anchors"]
    assert verify_directory(work, keys=proxy.keys, anchors=anchors, as_of_ns=at).status is Status.OK
    assert verify_directory(work, keys=proxy.keys, anchors=anchors, as_of_ns=proxy.now_ns).status is Status.TAMPERED
    assert verify_directory(work, keys=proxy.keys, anchors=anchors).status is Status.TAMPERED


def test_heads_of_the_wrong_form_are_tampering_not_a_crash(tmp_path: Path) -> None:
    for number, heads in enumerate(([[1]], [["1", 2]], [[1, 2, 3]], 7, [[70000, 1]], [None])):
        proxy = SmallProxy(tmp_path / str(number), 1, slots=1)
        proxy.start()
        fields = {"slot": 0, "records": 1, "intents": 0, "outcomes": 0, "dropped": 0, "synced": 0, "uptime_s": 0}
        proxy.ledgers[0].append(EventType.HEARTBEAT, members(fields | {"heads": heads}))
        proxy.ledgers[0].close("test")
        assert verify_directory(proxy.directory).status is Status.TAMPERED
