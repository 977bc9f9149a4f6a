"""Totals against records: what is missing shows without any key, and no real log, whatever failed, raises an alarm."""

from __future__ import annotations

import errno
import json
import os
import random
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from support import figures
from support.fake_disk import FakeDisk
from support.ledger_mutations import Log, Record, _forge, seq_of
from support.ledgers import SmallProxy, watch_of

from dbproxy.audit.ledger import AuditDown, Ledger
from dbproxy.audit.record import members
from dbproxy.audit.segment import find_segments
from dbproxy.audit.types import EventType
from dbproxy.audit.verify import verify_directory, verify_files
from dbproxy.audit.verify_counts import ChainCounts
from dbproxy.audit.verify_limits import Meter
from dbproxy.audit.verify_report import Result, Status
from dbproxy.metrics import Counters

INTENT = b'"person":"alice","act":"query","action":"allow","sql":"SELECT 1"'


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


def read_log(directory: Path) -> Log:
    return Log({path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".lock"}, {})


def verify(directory: Path, log: Log) -> Result:
    directory.mkdir(exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    for name, data in log.files.items():
        (directory / name).write_bytes(data)
    return verify_directory(directory)


# --- what is missing shows -----------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(tmp_path: Path) -> Log:
    """Two chains without any checkpoint; every process has ended in good order."""
    proxy = SmallProxy(tmp_path / "one", 3, slots=2)
    proxy.start()
    proxy.work(120)
    proxy.stop_unsigned()
    return read_log(proxy.directory)


@pytest.mark.slow
def test_no_record_can_be_taken_out_of_a_chain_that_is_made_anew_around_it(tmp_path: Path, counted: Log) -> None:
    """Whoever does it must change all totals that follow. Nothing else would show it: there is no signature here."""
    assert verify(tmp_path / "work", counted).status is Status.OK
    missed = []
    tried: Counter[str] = Counter()
    for slot in counted.slots():
        lines = [line for name in counted.names(slot) for line in counted.lines(name)]
        types = [json.loads(line)["type"] for line in lines]
        for index, type_ in enumerate(types):
            if type_ in ("segment.start", "segment.end"):
                continue  # without them the chain's own form is wrong
            log = counted.copy()

            def take_out(records: list[Record], index: int = index) -> int:
                gone = records.pop(index)
                for record in records:
                    key = [gone.get("session"), gone.get("statement")]
                    if (
                        record["type"] == "segment.start"
                        and gone["type"] == "statement.intent"
                        and key in record["open"]
                    ):
                        record["open"].remove(key)
                return int(gone["seq"])

            place = _forge(log, slot, take_out)
            assert place is not None
            result = verify(tmp_path / "work", log)
            tried[type_] += 1
            problem = result.problem
            if result.status is not Status.TAMPERED or problem is None:
                missed.append((slot, type_, index, len(types)))
                continue
            if problem.until:  # else it is the chain's own form that is wrong, further on
                assert problem.seq <= place[1] + 1, (slot, type_, index, problem)
                assert place[1] <= max(problem.seq, problem.until), (slot, type_, index, problem)
    assert (
        min(tried[each] for each in ("statement.intent", "statement.outcome", "statement.refused", "session.start")) > 3
    )
    # Of control's chain nothing is counted after its last heartbeat, and that one is by no other.
    control = [json.loads(line) for name in counted.names(0) for line in counted.lines(name)]
    assert missed == [(0, "heartbeat", len(control) - 2, len(control))]


def test_a_statement_taken_out_whole_is_missed_and_the_span_is_named(tmp_path: Path, counted: Log) -> None:
    log = counted.copy()

    def take_out(records: list[Record]) -> int:
        first = next(each for each in records if each["type"] == "statement.intent")
        key = (first["session"], first["statement"])
        for record in records:
            if record["type"] == "segment.start":
                record["open"] = [each for each in record["open"] if tuple(each) != key]
        records[:] = [each for each in records if (each.get("session"), each.get("statement")) != key]
        return int(first["seq"])

    place = _forge(log, 1, take_out)
    result = verify(tmp_path / "work", log)
    assert place is not None
    assert result.status is Status.TAMPERED
    problem = result.problem
    assert problem is not None
    assert problem.seq <= place[1] <= problem.until
    assert "records are missing, or were made up" in problem.what


def test_a_statement_put_into_another_session_is_noticed_at_its_end(tmp_path: Path) -> None:
    ledger, counters = small_ledger(tmp_path / "log")
    for name in ("a", "b"):
        begin(ledger, counters, name)
    run(ledger, "a", 1)
    run(ledger, "b", 1)
    end(ledger, counters, "a", statements=2)
    end(ledger, counters, "b", statements=0)
    ledger.close("test")
    result = verify_directory(tmp_path / "log")
    assert result.status is Status.TAMPERED
    assert "session a counts 2 statements, and its records have 1" in (result.problem.what if result.problem else "")


def test_a_number_without_a_record_is_an_alarm_unless_the_totals_say_so(tmp_path: Path) -> None:
    for unrecorded, status in ((0, Status.TAMPERED), (1, Status.OK)):
        directory = tmp_path / str(unrecorded)
        ledger, counters = small_ledger(directory)
        begin(ledger, counters, "a")
        run(ledger, "a", 1)
        run(ledger, "a", 3)
        ledger.unrecorded += unrecorded
        watch_of(ledger, counters).beat()
        ledger.close("test")
        result = verify_directory(directory)
        assert result.status is status, result.problem
        if status is Status.TAMPERED:
            assert "the first number 2 of session a" in (result.problem.what if result.problem else "")
        else:
            assert result.chains[0].unrecorded == 1


def test_a_heartbeat_of_another_slot_is_an_alarm(tmp_path: Path) -> None:
    ledger, _ = small_ledger(tmp_path)
    ledger.append(
        EventType.HEARTBEAT,
        members({"slot": 3, "records": 1, "intents": 0, "outcomes": 0, "dropped": 0, "synced": 0, "uptime_s": 1}),
    )
    ledger.close("test")
    assert "a heartbeat of slot 3" in (getattr(verify_directory(tmp_path).problem, "what", ""))


def small_ledger(directory: Path, **more: object) -> tuple[Ledger, Counters]:
    options = {"segment_bytes": 1 << 20, "reserve_bytes": 64 << 10, "now_ns": time.time_ns, "node": "test"} | more
    ledger = Ledger(directory, **options)  # type: ignore[arg-type]  # handed on as they are
    ledger.open()
    return ledger, Counters()


def begin(ledger: Ledger, counters: Counters, session: str) -> None:
    ledger.append(EventType.SESSION_START, members({"session": session}))
    counters.sessions += 1
    counters.sessions_open += 1


def run(ledger: Ledger, session: str, number: int) -> None:
    ledger.intent((session, number), INTENT)
    ledger.outcome((session, number), b'"status":"ok","rows":1,"received_bytes":10,"sent_bytes":0')
    ledger.flush()


def end(ledger: Ledger, counters: Counters, session: str, *, statements: int) -> None:
    totals = {"statements": statements, "refused": 0, "unrecorded": 0, "rows": statements}
    ledger.append(
        EventType.SESSION_END,
        members({"session": session, **totals, "received_bytes": 10 * statements, "sent_bytes": 0}),
    )
    counters.sessions_open -= 1
    ledger.flush()


# --- no false alarms -----------------------------------------------------------------------------------------------------------


class Life:
    """A ledger used as a worker uses it, on a disk that fails, with heartbeats at any moment."""

    def __init__(self, directory: Path, seed: int, disk: FakeDisk) -> None:
        self.rng = random.Random(seed)
        self.directory = directory
        self.disk = disk
        self.seen: Counter[str] = Counter()
        self.names = 0
        self.now = time.time_ns()

    def start(self) -> None:
        self.ledger, self.counters = small_ledger(
            self.directory,
            segment_bytes=self.rng.choice([2048, 1 << 20]),
            now_ns=self.tick,
            monotonic_ns=lambda: self.now,
        )
        self.watch = watch_of(self.ledger, self.counters)
        self.last: dict[str, int] = {}
        self.totals: dict[str, Counter[str]] = {}
        self.open: list[tuple[str, int]] = []

    def tick(self) -> int:
        self.now += self.rng.randrange(1, 400_000_000)
        return self.now

    def step(self) -> None:
        rng = self.rng
        kind = rng.choice(("session", "statement", "statement", "statement", "outcome", "outcome", "event", "end", "beat", "flush", "flush", "trouble", "rotate"))  # fmt: skip
        getattr(self, kind)()

    def session(self) -> None:
        self.names += 1
        name = f"s{self.names}"
        try:
            self.ledger.append(EventType.SESSION_START, members({"session": name}))
        except AuditDown:
            return  # nobody is let in
        self.counters.sessions += 1
        self.counters.sessions_open += 1
        self.last[name], self.totals[name] = 0, Counter()

    def statement(self) -> None:
        if not self.last:
            return
        name = self.rng.choice(list(self.last))
        self.last[name] += 1
        key = (name, self.last[name])
        is_refused = self.rng.random() < 0.3
        try:
            if is_refused:
                self.ledger.append(EventType.STATEMENT_REFUSED, members({"session": name, "statement": key[1]}))
            else:
                self.ledger.intent(key, INTENT)
                self.open.append(key)
        except AuditDown:
            self.seen["statements refused unrecorded"] += 1
            self.totals[name]["unrecorded"] += 1
            self.totals[name]["refused"] += not is_refused
            self.ledger.unrecorded += 1
        if is_refused:
            self.totals[name]["refused"] += 1
            self.counters.count_statement("SELECT", "block")

    def outcome(self, key: tuple[str, int] | None = None) -> None:
        if key is None:
            if not self.open:
                return
            key = self.rng.choice(self.open)
        self.open.remove(key)
        rows = self.rng.randrange(100)
        self.totals[key[0]]["rows"] += rows
        self.totals[key[0]]["statements"] += 1
        self.ledger.outcome(key, members({"status": "ok", "rows": rows, "received_bytes": rows, "sent_bytes": 0}))

    def event(self) -> None:
        try:
            self.ledger.append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:1"')
        except AuditDown:
            self.seen["events dropped"] += 1

    def end(self) -> None:
        if not self.last:
            return
        name = self.rng.choice(list(self.last))
        for key in [each for each in self.open if each[0] == name]:
            self.outcome(key)
        del self.last[name]
        totals = self.totals.pop(name)
        fields = {each: totals[each] for each in ("statements", "refused", "unrecorded", "rows")}
        try:
            self.ledger.append(
                EventType.SESSION_END,
                members({"session": name, **fields, "received_bytes": totals["rows"], "sent_bytes": 0}),
            )
        except AuditDown:
            self.seen["ends dropped"] += 1
        self.counters.sessions_open -= 1

    def beat(self) -> None:
        self.seen["beats"] += 1
        if self.rng.random() < 0.3:  # an event in the same turn, whose flush may fail
            self.event()
        self.watch.beat()
        if self.rng.random() < 0.3:
            self.outcome()

    def flush(self) -> None:
        try:
            self.ledger.flush()
        except AuditDown as down:
            self.seen["failed flushes"] += 1
            for key in down.intents:  # their sessions take them back
                if key in self.open:
                    self.outcome(key)
        if self.ledger.is_down and self.rng.random() < 0.3:
            self.disk.space, self.disk.can_truncate, self.disk.can_create = None, True, True
            assert self.ledger.try_resume()
            self.seen["resumed"] += 1

    def trouble(self) -> None:
        rng = self.rng
        what = rng.choice(("space", "error", "partial", "create", "lost", "grown", "sync"))
        if rng.random() < 0.5:
            return
        self.seen[what] += 1
        if what == "create":
            self.disk.can_create = rng.random() < 0.5
        elif what in ("lost", "grown"):
            if self.ledger.is_down or self.disk.space is not None or not self.disk.can_create:
                return  # both at once, and records are gone: that is an alarm
            path = find_segments(self.directory)[0][-1][1]
            self.now += 1_000_000_000  # it is looked at once a second
            if what == "lost":
                path.unlink()
            else:
                with path.open("ab") as file:
                    file.write(b"x")
            self.beat()
            self.flush()
        elif what == "sync" and not self.ledger.is_down:
            sync = self.ledger.begin_sync()
            if sync is not None:
                self.ledger.end_sync(sync, OSError(errno.EIO, "Input/output error") if rng.random() < 0.3 else None)
        else:
            self.disk.space = rng.randrange(0, 3000)
            self.disk.error = errno.ENOSPC if what == "space" else errno.EIO
            self.disk.can_truncate = what != "partial"

    def rotate(self) -> None:
        if self.rng.random() < 0.3:
            self.ledger.rotate()

    def finish(self) -> None:
        self.disk.space, self.disk.can_truncate, self.disk.can_create = None, True, True
        if self.rng.random() < 0.4:
            self.ledger._release_files()
            self.seen["crashes"] += 1
            return
        if self.ledger.is_down:
            assert self.ledger.try_resume()
        while self.last:
            self.end()
        self.watch.beat()
        self.ledger.close("test")


@pytest.mark.slow
def test_lives_on_a_failing_disk_raise_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    compared = 0
    alarms: list[object] = []
    count = figures.scaled(150, 3_000)
    for seed in range(count):
        directory = tmp_path / str(seed)
        with monkeypatch.context() as patch:
            if seed % 2:
                patch.setattr(
                    "dbproxy.audit.ledger.PARKED_MAX_BYTES", 1500
                )  # little may wait while the disk has failed
            life = Life(directory, seed, FakeDisk(patch))
            for _ in range(life.rng.randrange(1, 4)):
                life.start()
                for _ in range(life.rng.randrange(60)):
                    life.step()
                life.finish()
            small_ledger(directory, now_ns=life.tick)[0].close("test")  # a torn end is repaired
        result = verify_directory(directory)
        if result.status is not Status.OK:
            alarms.append((seed, result.problem))
        compared += sum(chain.heartbeats for chain in result.chains)
        seen += life.seen
    assert compared > count * 2
    assert len(seen) == 14, seen  # everything that can happen has
    figures.record("H7.totals", "false alarms on ledgers whose disk failed", count=count, failures=len(alarms), alarms=alarms[:5], heartbeats=compared, seen=dict(seen))  # fmt: skip


def test_heartbeats_of_a_chain_whose_beginning_is_not_there_are_compared_with_each_other(tmp_path: Path) -> None:
    proxy = SmallProxy(tmp_path, 5, slots=2, segment_bytes=2048)
    proxy.start()
    for _ in range(20):
        proxy.work(6)
        proxy.beat(1)
    proxy.stop_unsigned()
    segments = [path for _, path in find_segments(proxy.directory)[1]]
    assert len(segments) > 4
    for first in range(len(segments)):
        result = verify_files(segments[first:])
        assert result.status is Status.OK, result.problem
        assert result.chains[0].heartbeats or first > len(segments) - 3
    log = read_log(proxy.directory)
    for path in segments[:2]:
        del log.files[path.name]

    def take_out(records: list[Record]) -> int:
        index = next(i for i in range(len(records) // 2, len(records)) if records[i]["type"] == "session.start")
        return int(records.pop(index)["seq"])

    _forge(log, 1, take_out)
    work = tmp_path / "work"
    verify(work, log)
    result = verify_files(sorted(work.glob("audit-1-*.jsonl")))
    assert result.status is Status.TAMPERED
    assert "the heartbeat counts" in (result.problem.what if result.problem else "")


def test_a_rotation_that_failed_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, counters = small_ledger(tmp_path / "log", segment_bytes=2048)
    disk = FakeDisk(monkeypatch)
    disk.can_create = False
    begin(ledger, counters, "a")
    for number in range(1, 30):
        run(ledger, "a", number)
    watch_of(ledger, counters).beat()
    ledger.flush()
    disk.can_create = True
    ledger.close("test")
    result = verify_directory(tmp_path / "log")
    assert (result.status, result.chains[0].heartbeats) == (Status.OK, 1), result.problem


def test_what_was_dropped_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FakeDisk(monkeypatch)
    ledger, counters = small_ledger(tmp_path / "log")
    disk.space, disk.error = 0, errno.EIO
    ledger.append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:1"')
    with pytest.raises(AuditDown):
        ledger.flush()
    with pytest.raises(AuditDown):
        for _ in range(1000):
            ledger.append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:1","detail":"%b"' % (b"x" * 100_000))
    disk.space = None
    assert ledger.try_resume()
    watch_of(ledger, counters).beat()
    ledger.close("test")
    result = verify_directory(tmp_path / "log")
    assert (result.status, result.chains[0].dropped, result.chains[0].heartbeats) == (Status.OK, 1, 1)
    assert any("1 events have no record" in note for note in result.chains[0].notes)


# --- hostile input -------------------------------------------------------------------------------------------------------------


def test_sessions_without_end_do_not_fill_the_memory() -> None:
    meter = Meter(None, 0)
    meter.sessions_left = 10
    counts = ChainCounts(1, meter)
    for number in range(1000):
        counts.begin_session({"session": f"s{number}"})
        counts.intent(f"t{number}", 1)
    assert len(counts._sessions) == 10
    assert meter.sessions_left == 0
    counts.begin_process(2000, 0)
    assert meter.sessions_left == 10


@pytest.mark.parametrize(
    "members",
    [
        b'"type":"heartbeat","slot":0',
        b'"type":"heartbeat","slot":0,"records":"1","intents":0,"outcomes":0,"dropped":0',
        b'"type":"session.start","session":"%b"' % (b"s" * 1000),
        b'"type":"session.start","session":7',
        b'"type":"statement.refused","session":["s"],"statement":1',
        b'"type":"audit.resumed","dropped":null',
    ],
)
def test_members_of_the_wrong_form_are_tampering_not_a_crash(tmp_path: Path, members: bytes) -> None:
    ledger, _ = small_ledger(tmp_path)
    ledger._release_files()
    path = next(tmp_path.glob("*.jsonl"))
    first = json.loads(path.read_bytes())
    text = b'{"v":"dbproxy.audit/1","seq":2,"prev":"%b","at":"%b",%b' % (first["hash"].encode(), first["at"].encode(), members)  # fmt: skip
    with path.open("ab") as file:
        file.write(text + b',"hash":"' + sha256(text).hexdigest().encode() + b'"}\n')
    result = verify_directory(tmp_path)
    assert (result.status, result.problem.seq if result.problem else 0) == (Status.TAMPERED, 2)
    assert seq_of(path.read_bytes().splitlines()[1]) == 2
