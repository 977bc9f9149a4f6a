"""The offline verifier: checks ledger files against the format in chain.py, with nothing but the files.

It streams: memory is bounded by the longest line and by the number of intents open at once, both capped, also on a hostile log.
It says what was proven and no more: an unsigned chain shows that nothing inside was changed, not that the whole was not replaced or its end cut.
Counterpart: ledger.py, which writes; recovery.py, which repairs a torn end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import orjson

from dbproxy.audit.chain import MAX_LINE_BYTES, NO_HASH, SCHEMA, Key, check_line
from dbproxy.audit.segment import find_segments, parse_segment_name
from dbproxy.audit.types import EventType

MAX_OPEN_INTENTS = 1_000_000
"""More can never be open at once: the writer's ballast, at most 1 GiB, has room for half as many."""
_PROGRESS_BYTES = 8 << 20
_SETTLE_STEP_S = 0.02
_MAX_NOTES = 100

PROOF = "chained, not signed: proves internal consistency, not that the whole log was not replaced or that records after the last one were not cut off"

_TYPES = frozenset(type_.value for type_ in EventType)

Progress = Callable[[int, int], None]
"""Called now and then with bytes read so far and bytes in all."""


class Status(IntEnum):
    """The result; its value is the exit code."""

    OK = 0
    """Everything fits together."""
    TAMPERED = 1
    """Something was changed, removed or added."""
    TRUNCATED = 2
    """The end is torn or missing: a crash, or a cut. The next start of the proxy keeps the torn bytes and says so in the chain."""
    UNREADABLE = 3
    """There is no ledger, or it could not be read to the end."""


_SEVERITY = (Status.OK, Status.TRUNCATED, Status.UNREADABLE, Status.TAMPERED)


@dataclass(frozen=True, slots=True)
class Problem:
    """The first bad record of a chain. line counts from 1, 0 is the file as a whole; seq: the number the record has or should have."""

    status: Status
    file: str
    line: int
    seq: int
    what: str


@dataclass(slots=True)
class ChainResult:
    """What was found in the chain of one slot, up to its first problem. open_intents: at its end; extra: other files beside it."""

    slot: int
    segments: int = 0
    records: int = 0
    size: int = 0
    first_seq: int = 0
    last_seq: int = 0
    last_hash: str = ""
    first_at: str = ""
    last_at: str = ""
    intents: int = 0
    outcomes: int = 0
    unknown_outcomes: int = 0
    open_intents: int = 0
    recoveries: int = 0
    is_closed: bool = False
    notes: list[str] = field(default_factory=list)
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on all chains together; problem: that of the worst chain."""

    status: Status
    chains: tuple[ChainResult, ...]
    problem: Problem | None
    proof: str = PROOF

    @property
    def exit_code(self) -> int:
        return int(self.status)


def verify_directory(directory: Path, *, progress: Progress | None = None, settle_s: float = 0.0) -> Result:
    """Verify every chain in a ledger's directory, from its very first record.

    settle_s: how long to wait for a half-written last line to be completed by a running proxy.
    """
    try:
        slots = find_segments(directory)
        total = sum(path.stat().st_size for segments in slots.values() for _, path in segments)
    except OSError as error:
        return _unreadable(str(directory), error.strerror or str(error))
    if not slots:
        return _unreadable(str(directory), "there is no ledger here (no file audit-<slot>-<number>.jsonl)")
    meter = _Meter(progress, total)
    chains = []
    for slot in sorted(slots):
        check = _ChainCheck(slot, meter, is_whole=True, settle_s=settle_s)
        chains.append(check.run([path for _, path in slots[slot]], directory))
    return _summed(chains)


def verify_files(paths: Sequence[Path], *, progress: Progress | None = None, settle_s: float = 0.0) -> Result:
    """Verify some segments of a ledger. What came before the first of them is taken from its header, and said so in the notes."""
    slots: dict[int, list[tuple[int, Path]]] = {}
    for path in paths:
        parsed = parse_segment_name(path.name)
        if parsed is None:
            return _unreadable(str(path), "not the name of a segment (audit-<slot>-<number>.jsonl)")
        slots.setdefault(parsed[0], []).append((parsed[1], path))
    try:
        total = sum(path.stat().st_size for path in paths)
    except OSError as error:
        return _unreadable(str(error.filename), error.strerror or str(error))
    meter = _Meter(progress, total)
    chains = [
        _ChainCheck(slot, meter, is_whole=False, settle_s=settle_s).run([path for _, path in sorted(segments)], None)
        for slot, segments in sorted(slots.items())
    ]
    return _summed(chains)


def _summed(chains: list[ChainResult]) -> Result:
    worst = max(
        (chain.problem for chain in chains if chain.problem),
        key=lambda problem: _SEVERITY.index(problem.status),
        default=None,
    )
    return Result(worst.status if worst else Status.OK, tuple(chains), worst)


def _unreadable(name: str, what: str) -> Result:
    return Result(Status.UNREADABLE, (), Problem(Status.UNREADABLE, name, 0, 0, what))


class _Meter:
    """Counts bytes for the progress display."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._shown = 0

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None and self._done - self._shown >= _PROGRESS_BYTES:
            self._shown = self._done
            self._progress(self._done, max(self._total, self._done))


class _Bad(Exception):  # noqa: N818 - carries the first problem out of the loops, never leaves this module
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


class _ChainCheck:
    """The walk through one chain."""

    def __init__(self, slot: int, meter: _Meter, *, is_whole: bool, settle_s: float) -> None:
        self._result = ChainResult(slot)
        self._meter = meter
        self._is_whole = is_whole
        self._settle_s = settle_s
        self._seq = 0
        self._hash = NO_HASH
        self._at = b""
        self._open: set[Key] = set()
        self._file = ""
        self._line = 0
        self._size = 0  # good bytes of the current segment
        self._ended = ""  # reason of the segment.end that was read, "" if none
        self._before: tuple[str, int] | None = None  # name and good bytes of the segment before

    def run(self, paths: list[Path], directory: Path | None) -> ChainResult:
        """Walk through the segments in order; directory: look there for newer ones at the end."""
        result = self._result
        try:
            index = 0
            while index < len(paths):
                path = paths[index]
                following = paths[index + 1] if index + 1 < len(paths) else None
                self._segment(path, following)
                index += 1
                if index == len(paths) and directory is not None:  # a running proxy may have rotated meanwhile
                    if self._ended == "rotated" and self._settle_s:
                        time.sleep(self._settle_s)
                    newer = find_segments(directory).get(result.slot, [])
                    paths += [other for _, other in newer if other.name > path.name]
            self._finish(paths[-1].parent)
        except _Bad as bad:
            result.problem = bad.problem
        except OSError as error:
            result.problem = Problem(
                Status.UNREADABLE, self._file, self._line, self._seq + 1, error.strerror or str(error)
            )
        result.last_seq = self._seq
        result.last_hash = self._hash.decode()
        result.last_at = self._at.decode()
        result.open_intents = len(self._open)
        result.is_closed = self._ended not in ("", "rotated")
        return result

    def _bad(self, what: str, *, status: Status = Status.TAMPERED, seq: int | None = None) -> _Bad:
        return _Bad(Problem(status, self._file, self._line, self._seq + 1 if seq is None else seq, what))

    def _note(self, text: str) -> None:
        if len(self._result.notes) < _MAX_NOTES:
            self._result.notes.append(text)

    # --- a segment -------------------------------------------------------------------------------------------------------------

    def _segment(self, path: Path, following: Path | None) -> None:
        self._before = (self._file, self._size) if self._file else None
        self._file = path.name
        self._line = 0
        self._size = 0
        self._ended = ""
        given_up_at = _find_given_up_size(following, path.name) if following else None
        with path.open("rb", buffering=1 << 20) as file:
            while given_up_at is None or self._size < given_up_at:
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    break
                self._line += 1
                self._meter.add(len(line))
                if not line.endswith(b"\n"):
                    line = self._whole_line(file, line, is_last=following is None)
                self._record(line, path)
                self._size += len(line)
        if self._line == 0:
            raise self._bad("the segment is empty", status=Status.TAMPERED if following else Status.TRUNCATED)
        if following is not None and given_up_at is None and not self._ended:
            # After a crash the end record is missing; then the header of the next segment says where the records end.
            self._note(f"{path.name} has no end record (the proxy ended without closing it)")
        self._result.segments += 1
        self._result.size += self._size

    def _whole_line(self, file: BinaryIO, line: bytes, *, is_last: bool) -> bytes:
        """The line without LF that is read last: wait for its rest if a proxy is still writing, else it is torn."""
        if len(line) > MAX_LINE_BYTES:
            raise self._bad(f"a line of more than {MAX_LINE_BYTES} bytes")
        waited = 0.0
        while is_last and waited < self._settle_s:
            time.sleep(_SETTLE_STEP_S)
            waited += _SETTLE_STEP_S
            line += file.readline(MAX_LINE_BYTES + 1 - len(line))
            if line.endswith(b"\n"):
                return line
        if is_last:
            raise self._bad(f"torn record: the file ends after {len(line)} bytes of it", status=Status.TRUNCATED)
        raise self._bad(f"the file ends after {len(line)} bytes of this record, and a newer segment exists")

    # --- a record --------------------------------------------------------------------------------------------------------------

    def _record(self, line: bytes, path: Path) -> None:
        checked = check_line(line)
        if isinstance(checked, str):
            raise self._bad(checked)
        seq, prev, at, type_, digest = checked
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise self._bad(f"not valid JSON ({error.msg})", seq=seq) from None
        # A reader of the JSON must see what the chain is made of: a second member of the same name would win.
        if (
            record["seq"] != seq
            or record["prev"] != prev.decode()
            or record["type"] != type_.decode()
            or record["hash"] != digest.decode()
            or record["v"] != SCHEMA
            or record["at"] != at.decode()
        ):
            raise self._bad("a member of the chain appears twice", seq=seq)
        is_first = self._line == 1
        if is_first != (type_ == EventType.SEGMENT_START):
            raise self._bad("segment.start is not the first record, or not the only one", seq=seq)
        if self._ended:
            raise self._bad("a record after the end of the segment", seq=seq)
        if is_first:
            self._begin(record, seq, path)
        if seq != self._seq + 1:
            raise self._bad(f"record {self._seq + 1} expected, {seq} found", seq=seq)
        if prev != self._hash:
            raise self._bad("it does not link to the record before", seq=seq)
        try:
            self._follow(type_, record, path)
        except (KeyError, TypeError, ValueError):
            raise self._bad("its members are not those of its type", seq=seq) from None
        self._seq = seq
        self._hash = digest
        self._at = at
        result = self._result
        result.records += 1
        if result.records == 1:
            result.first_seq = seq
            result.first_at = at.decode()

    def _begin(self, record: dict[str, object], seq: int, path: Path) -> None:
        """Check a segment's header against its name and the segment before."""
        if parse_segment_name(path.name) != (record.get("slot"), seq) or record.get("segment") != path.name:
            raise self._bad("the header is that of another file", seq=seq)
        predecessor = record.get("predecessor")
        open_ = record.get("open")
        if not isinstance(open_, list) or not (predecessor is None or isinstance(predecessor, dict)):
            raise self._bad("its members are not those of its type", seq=seq)
        listed = {(item[0], item[1]) for item in open_ if isinstance(item, list) and len(item) == 2}
        if self._before is None:
            if predecessor is None:
                if seq != 1:
                    raise self._bad("a chain begins with record 1", seq=seq)
                return
            if self._is_whole:
                raise self._bad(f"the segment before it is missing: {predecessor.get('file')}", seq=seq)
            self._seq = seq - 1
            self._hash = str(record["prev"]).encode()
            self._open = listed
            self._note(f"what came before {path.name} was not given; it is taken from the header")
            return
        if predecessor is None:
            raise self._bad("a second beginning of the chain", seq=seq)
        name, size = self._before
        if predecessor.get("file") != name:
            raise self._bad(f"the segment before it is missing: {predecessor.get('file')}", seq=seq)
        if predecessor.get("size") != size:
            raise self._bad(
                f"{name} has {size} bytes of records where this header says {predecessor.get('size')}", seq=seq
            )
        if predecessor.get("seq") != self._seq or predecessor.get("hash") != self._hash.decode():
            raise self._bad(f"its link to {name} is wrong", seq=seq)
        if "abandoned" in predecessor:
            self._note(f"{name} was given up by the proxy after record {self._seq}: {predecessor['abandoned']}")
        if listed != self._open:
            raise self._bad("its list of open intents is not that of the records before", seq=seq)

    def _follow(self, type_: bytes, record: dict[str, object], path: Path) -> None:
        """Pair intents and outcomes, and check what special records say."""
        result = self._result
        if type_ == b"statement.intent":
            key = self._key(record)
            if key in self._open:
                raise self._bad(f"a second intent for statement {key[1]} of session {key[0]}")
            if len(self._open) >= MAX_OPEN_INTENTS:
                raise self._bad(f"more than {MAX_OPEN_INTENTS} intents without outcome")
            self._open.add(key)
            result.intents += 1
        elif type_ == b"statement.outcome":
            key = self._key(record)
            if key not in self._open:
                raise self._bad(f"an outcome without intent: statement {key[1]} of session {key[0]}")
            self._open.remove(key)
            result.outcomes += 1
            result.unknown_outcomes += record["status"] == "unknown"
        elif type_ == b"segment.end":
            self._ended = str(record["reason"])
        elif type_ == b"recovery":
            result.recoveries += 1
            self._check_side_files(record, path.parent)
        elif type_ not in _TYPES:
            self._note(f"record {record['seq']} has a type that this version does not know")

    def _key(self, record: dict[str, object]) -> Key:
        session = record["session"]
        statement = record["statement"]
        if not isinstance(session, str) or not isinstance(statement, int):
            raise TypeError
        return session, statement

    def _check_side_files(self, record: dict[str, object], directory: Path) -> None:
        torn = record["torn"]
        if not isinstance(torn, list):
            raise TypeError
        for item in torn:
            name = item["file"]
            if Path(name).name != name:
                raise ValueError
            if not self._is_whole:
                continue
            try:
                digest = _digest_file(directory / name)
            except FileNotFoundError:
                raise self._bad(f"the torn bytes kept in {name} are missing") from None
            if digest != item["sha256"]:
                raise self._bad(f"the torn bytes kept in {name} were changed")

    # --- the end ---------------------------------------------------------------------------------------------------------------

    def _finish(self, directory: Path) -> None:
        if self._ended == "rotated" and not self._is_whole:
            self._note(f"what follows {self._file} was not given")
        elif self._ended == "rotated":
            raise self._bad("the segment says that another follows, and there is none", status=Status.TRUNCATED)
        if self._is_whole:
            known = (f"audit-{self._result.slot}.reserve", "digest.key")
            extra = [
                path.name
                for path in sorted(directory.iterdir())
                if path.name not in known and parse_segment_name(path.name) is None and not path.name.endswith(".torn")
            ]
            if extra:
                self._note(f"files that are not part of the ledger: {', '.join(extra[:20])}")


def _find_given_up_size(following: Path, name: str) -> int | None:
    """If the next segment's header says that the writer gave this one up: how many bytes of it count. That header is checked in its turn."""
    with following.open("rb") as file:
        line = file.readline(MAX_LINE_BYTES + 1)
    if isinstance(check_line(line), str):
        return None
    try:
        predecessor = orjson.loads(line)["predecessor"]
        if predecessor["file"] == name and predecessor.get("abandoned"):
            return int(predecessor["size"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        pass
    return None


def _digest_file(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
