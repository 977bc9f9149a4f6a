"""The verifier's walk through one chain: form, hashes, links, numbering, headers, intents with their outcomes. In steps, so that several chains can be
walked side by side and compared with the checkpoints that name them.

It streams: memory is bounded by the longest line and by the number of intents and sessions open at once, all capped, also on a hostile log.
Not here: totals (verify_counts.py), signatures and anchors (verify_seals.py), what other chains say of this one (verify_witness.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from dbproxy.audit.chain import MAX_LINE_BYTES, NO_HASH, SCHEMA, Key, check_line
from dbproxy.audit.segment import SegmentDamaged, find_segments, open_segment, parse_segment_name, raw_name
from dbproxy.audit.types import EventType
from dbproxy.audit.verify_counts import ChainCounts
from dbproxy.audit.verify_files import (
    LARGE_LINE_BYTES,
    digest_file,
    find_given_up_size,
    has_too_many_members,
    measure_segment,
)
from dbproxy.audit.verify_limits import MAX_OPEN_INTENTS, MAX_SESSION_LENGTH, Meter
from dbproxy.audit.verify_report import ChainResult, Problem, Status

MAX_SEGMENT_BYTES = 32 << 30
"""A compressed segment that claims to be larger was not made by the writer: segments end at 16 GiB and one flush."""
MAX_SIDE_FILES = 10_000
KEPT_HASHES = 65_536
"""Of so many records of control's chain the hash is kept: a checkpoint's head of its own chain stands among the last few before it."""
_SETTLE_STEP_S = 0.02
_FOREVER = 1 << 62

_TYPES = frozenset(type_.value for type_ in EventType)
_CONTROL_TYPES = (
    EventType.CHECKPOINT.value,
    EventType.KEY_ROTATED.value,
    EventType.RETENTION_PRUNED.value,
)
_PROCESS_TYPES = (
    EventType.PROCESS_STARTED.value,
    EventType.PROCESS_CRASHED.value,
    EventType.PROCESS_ENDED.value,
)
_COUNTED_TYPES = frozenset(
    type_.value
    for type_ in (
        EventType.STATEMENT_PREPARED,
        EventType.STATEMENT_SKIPPED,
        EventType.STATEMENT_REFUSED,
        EventType.SESSION_START,
        EventType.SESSION_END,
        EventType.HEARTBEAT,
        EventType.AUDIT_RESUMED,
        EventType.SEGMENT_LOST,
    )
)
_FRAME_TYPES = (EventType.SEGMENT_START.value, EventType.SEGMENT_END.value)

Control = Callable[[bytes, dict[str, Any]], None]
"""Takes type and members of control's own records about the ledger; raises Bad."""


class Bad(Exception):  # noqa: N818 - carries the first problem out of the loops, never leaves the verifier
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


class ChainCheck:
    """The walk through the chain of one slot.

    paths: its segments in order. directory: where to look for newer ones at the end; None if only some files were given. settle_s: how long
    to wait for a half-written last line to be completed. control: set for the slot of the control process.

    result: filled while walking; its problem, if any, is the first one, and the walk ends there. seq, hash: of the last good record.
    """

    def __init__(
        self,
        slot: int,
        paths: list[Path],
        meter: Meter,
        *,
        directory: Path | None,
        settle_s: float = 0.0,
    ) -> None:
        self.result = ChainResult(slot)
        self.seq = 0
        self.hash = NO_HASH
        self.control: Control | None = None
        self.begins_after: tuple[int, str, str] | None = None
        """If the first segment is not the chain's first: number and hash of the record before it, and its file."""
        self.missing_side_files: dict[str, Problem] = {}
        """Torn bytes that are told of and not there; forgiven if they were pruned."""
        self.first_file = raw_name(paths[0].name)
        self.last_content_seq = 0
        """Of control's chain: the last record that is not the beginning or end of a segment."""
        self.read_ns = 0
        """Wall time when the end of the newest segment was seen."""
        self.signed_seq = 0
        self.anchored_seq = 0
        self.counts = ChainCounts(slot, meter)
        self._recent: deque[bytes] = deque(maxlen=KEPT_HASHES)
        self._meter = meter
        self._paths = paths
        self._directory = directory
        self._settle_s = settle_s
        self._at = b""
        self._open: set[Key] = set()
        self._file = ""
        self._line = 0
        self._size = 0  # good bytes of the current segment
        self._ended = ""  # reason of the segment.end that was read, "" if none
        self._ended_before = ""  # likewise, of the segment before
        self._agreed = ("", 0, 0)  # file, line and number of the last record up to which the totals are right
        self._before: tuple[str, int] | None = None  # name and good bytes of the segment before
        self._confirmed_seq = 0
        self._unconfirmed: tuple[str, int, int] | None = (
            None  # file, line and seq of the first record after the last confirmed
        )
        self._target = 0
        self._steps: Generator[None, None, None] | None = None
        self.is_done = False

    # --- for verify.py and verify_seals.py ------------------------------------------------------------------------------------

    def advance(self, target: int = _FOREVER) -> None:
        """Walk until record `target`, or to the end or the first problem."""
        if self.is_done or (self.seq >= target and self._steps is not None):
            return
        if self._steps is None:
            self._steps = self._walk()
        self._target = target
        try:
            next(self._steps)
        except StopIteration:
            self.is_done = True
        except Bad as bad:
            self.fail(bad.problem)
        except SegmentDamaged as error:
            self.fail(
                Problem(
                    Status.TAMPERED,
                    self._file,
                    self._line + 1,
                    self.seq + 1,
                    str(error),
                )
            )
        except OSError as error:
            what = error.strerror or str(error)
            self.fail(Problem(Status.UNREADABLE, self._file, self._line, self.seq + 1, what))

    def hash_of(self, seq: int) -> bytes | None:
        """The hash of one of the last good records, or of the one before the first; None if it is not known any more."""
        if seq == self.seq:
            return self.hash
        if self.begins_after is not None and seq == self.begins_after[0]:
            return self.begins_after[1].encode()
        index = seq - self.seq + len(self._recent)
        return self._recent[index] if 0 <= index < len(self._recent) else None

    def confirm(self, seq: int) -> None:
        """Everything up to this record is as it was when it was signed, or anchored."""
        if seq > self._confirmed_seq:
            self._confirmed_seq = seq
            if self._unconfirmed is not None and self._unconfirmed[2] <= seq:
                self._unconfirmed = None

    def problem_since_confirmed(self, until: int, what: str) -> Problem:
        """The records after the last confirmed one, up to `until`, are not those that were signed."""
        file, line, seq = self._unconfirmed or (
            self._file,
            self._line,
            self._confirmed_seq + 1,
        )
        return Problem(Status.TAMPERED, file, line, seq, what, until)

    def problem_missing(self, until: int, what: str) -> Problem:
        """The chain ends here, and records up to `until` were signed."""
        return Problem(Status.TAMPERED, self._file, self._line, self.seq + 1, what, until)

    def problem_missing_end(self, what: str) -> Problem:
        """The chain was ended in good order, and its last record is gone."""
        return Problem(Status.TRUNCATED, self._file, self._line, self.seq + 1, what)

    def fail(self, problem: Problem) -> None:
        """End the walk with a problem, unless it has ended with one that says as much."""
        self.is_done = True
        old = self.result.problem
        if old is None or (old.status is Status.TRUNCATED and problem.status is Status.TAMPERED):
            self.result.problem = problem

    @property
    def at(self) -> str:
        """Of the last good record, "" if there is none."""
        return self._at.decode()

    def has_grown(self) -> bool:
        """Whether there is more now than when the walk came to the end: a proxy is writing. Raises OSError."""
        newest = find_segments(self._directory).get(self.result.slot, []) if self._directory is not None else []
        return bool(newest) and (
            raw_name(newest[-1][1].name) != self._file or measure_segment(newest[-1][1]) > self._size
        )

    @property
    def place(self) -> tuple[str, int, int]:
        """File, line and number of the record that is being looked at."""
        return self._file, self._line, self.seq + 1

    def bad(self, what: str, *, status: Status = Status.TAMPERED) -> Bad:
        """The record that is being looked at is bad; named by the number it should have."""
        seq = self.seq + 1
        if self._line <= 1 and self._before is None:  # the first there is, of a chain that may have been pruned
            parsed = parse_segment_name(self._file)
            seq = parsed[1] if parsed else seq
        return Bad(Problem(status, self._file, self._line, seq, what))

    def end(self) -> ChainResult:
        """Fill in what is known at the end only."""
        self.is_done = True
        if self._steps is not None:
            self._steps.close()
        result = self.result
        result.last_seq = self.seq
        result.last_hash = self.hash.decode()
        result.last_at = self.at
        result.open_intents = len(self._open)
        result.is_closed = self._ended not in ("", "rotated")
        result.heartbeats, result.dropped = self.counts.heartbeats, self.counts.dropped
        result.unrecorded = self.counts.unrecorded
        if result.dropped:
            result.note(
                f"{result.dropped} events have no record: they came while the ledger could not be written, and found no room to wait"
            )
        if result.records:
            result.anchored = max(0, min(self.anchored_seq, self.seq) - result.first_seq + 1)
            result.signed = max(
                0,
                min(self.signed_seq, self.seq) - result.first_seq + 1 - result.anchored,
            )
            result.chained = result.records - result.anchored - result.signed
        return result

    # --- segments --------------------------------------------------------------------------------------------------------------

    def _walk(self) -> Generator[None, None, None]:
        index = 0
        while index < len(self._paths):
            path = self._paths[index]
            following = self._paths[index + 1] if index + 1 < len(self._paths) else None
            yield from self._segment(path, following)
            index += 1
            if index == len(self._paths) and self._directory is not None:  # a running proxy may have rotated meanwhile
                if self._ended == "rotated" and self._settle_s:
                    time.sleep(self._settle_s)
                newer = find_segments(self._directory).get(self.result.slot, [])
                self._paths += [other for _, other in newer if raw_name(other.name) > raw_name(path.name)]
        self._finish()

    def _segment(self, path: Path, following: Path | None) -> Iterator[None]:
        self._before = (self._file, self._size) if self._file else None
        self._file = raw_name(path.name)
        self._line = 0
        self._size = 0
        self._ended, self._ended_before = "", self._ended
        if not path.is_file() and path.exists():
            raise self.bad("not a regular file", status=Status.UNREADABLE)
        if measure_segment(path) > MAX_SEGMENT_BYTES:
            raise self.bad(f"it claims to hold more than {MAX_SEGMENT_BYTES} bytes")
        given_up_at = find_given_up_size(following, self._file) if following else None
        record, add = self._record, self._meter.add
        with open_segment(path) as file:
            while given_up_at is None or self._size < given_up_at:
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    self.read_ns = time.time_ns()
                    break
                self._line += 1
                add(len(line))
                if line[-1] != 10:
                    line = self._whole_line(file, line, is_last=following is None)
                record(line, path)
                self._size += len(line)
                if self.seq >= self._target:
                    yield
        if self._line == 0:
            raise self.bad(
                "the segment is empty",
                status=Status.TAMPERED if following else Status.TRUNCATED,
            )
        if following is not None and given_up_at is None and not self._ended:
            # After a crash the end record is missing; then the header of the next segment says where the records end.
            self.result.note(f"{self._file} has no end record (the proxy ended without closing it)")
        self.result.segments += 1
        self.result.size += self._size

    def _whole_line(self, file: BinaryIO, line: bytes, *, is_last: bool) -> bytes:
        """The line without LF that is read last: wait for its rest if a proxy is still writing, else it is torn."""
        if len(line) > MAX_LINE_BYTES:
            raise self.bad(f"a line of more than {MAX_LINE_BYTES} bytes")
        waited = 0.0
        while is_last and waited < self._settle_s:
            time.sleep(_SETTLE_STEP_S)
            waited += _SETTLE_STEP_S
            line += file.readline(MAX_LINE_BYTES + 1 - len(line))
            if line.endswith(b"\n"):
                return line
        if is_last:
            raise self.bad(
                f"torn record: the file ends after {len(line)} bytes of it",
                status=Status.TRUNCATED,
            )
        raise self.bad(f"the file ends after {len(line)} bytes of this record, and a newer segment exists")

    # --- a record --------------------------------------------------------------------------------------------------------------

    def _record(self, line: bytes, path: Path) -> None:
        checked = check_line(line)
        if isinstance(checked, str):
            raise self.bad(checked)
        seq, prev, at, type_, digest = checked
        if len(line) > LARGE_LINE_BYTES and has_too_many_members(line):
            raise self.bad("it has more members than any record")
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise self.bad(f"not valid JSON ({error.msg})") from None
        # A reader of the JSON must see what the chain is made of: a second member of the same name would win.
        if (
            record["seq"] != seq
            or record["prev"] != prev.decode()
            or record["type"] != type_.decode()
            or record["hash"] != digest.decode()
            or record["v"] != SCHEMA
            or record["at"] != at.decode()
        ):
            raise self.bad("a member of the chain appears twice")
        is_first = self._line == 1
        if is_first != (type_ == b"segment.start"):
            raise self.bad("segment.start is not the first record, or not the only one")
        if self._ended:
            raise self.bad("a record after the end of the segment")
        result = self.result
        if result.has_ended and type_ != b"segment.end" and not (is_first and record.get("reopened") is True):
            raise self.bad("a record after the end of the chain")
        if is_first:
            self._begin(record, seq, path)
        if seq != self.seq + 1:
            raise self.bad(f"record {self.seq + 1} expected, {seq} found")
        if prev != self.hash:
            raise self.bad("it does not link to the record before")
        if self._unconfirmed is None and seq > self._confirmed_seq:
            self._unconfirmed = (self._file, self._line, seq)
        try:
            self._follow(type_, record, path)
        except (KeyError, TypeError, ValueError):
            raise self.bad("its members are not those of its type") from None
        if self.control is not None:
            self._recent.append(self.hash)
            if type_ not in _FRAME_TYPES:
                self.last_content_seq = seq
        self.seq = seq
        self.hash = digest
        self._at = at
        result.records += 1
        if result.records == 1:
            result.first_seq = seq
            result.first_at = at.decode()

    def _begin(self, record: dict[str, Any], seq: int, path: Path) -> None:
        """Check a segment's header against its name and the segment before."""
        if parse_segment_name(path.name) != (record.get("slot"), seq) or record.get("segment") != self._file:
            raise self.bad("the header is that of another file")
        predecessor = record.get("predecessor")
        open_ = record.get("open")
        if not isinstance(open_, list) or not (predecessor is None or isinstance(predecessor, dict)):
            raise self.bad("its members are not those of its type")
        try:
            listed = {_key(item[0], item[1]) for item in open_ if isinstance(item, list) and len(item) == 2}
        except TypeError:
            raise self.bad("its members are not those of its type") from None
        self.result.has_ended = False
        self.counts.begin_segment(is_first=self._before is None, was_ended=self._ended_before != "")
        if self._before is None:
            self._begin_chain(record, predecessor, listed, seq)
            return
        if predecessor is None:
            raise self.bad("a second beginning of the chain")
        name, size = self._before
        if predecessor.get("file") != name:
            raise self.bad(f"the segment before it is missing: {predecessor.get('file')}")
        if predecessor.get("size") != size:
            told = predecessor.get("size")
            raise self.bad(f"{name} has {size} bytes of records where this header says {told}")
        if predecessor.get("seq") != self.seq or predecessor.get("hash") != self.hash.decode():
            raise self.bad(f"its link to {name} is wrong")
        if "abandoned" in predecessor:
            self.result.note(f"{name} was given up by the proxy after record {self.seq}: {predecessor['abandoned']}")
        if listed != self._open:
            raise self.bad("its list of open intents is not that of the records before")
        if self._ended_before not in ("", "rotated"):
            self._begin_process(seq)

    def _begin_chain(
        self,
        record: dict[str, Any],
        predecessor: dict[str, Any] | None,
        listed: set[Key],
        seq: int,
    ) -> None:
        if predecessor is None:
            if seq != 1:
                raise self.bad("a chain begins with record 1")
            self._begin_process(seq)
            return
        file = predecessor.get("file")
        if predecessor.get("seq") != seq - 1 or predecessor.get("hash") != record["prev"] or not isinstance(file, str):
            raise self.bad("its link to the segment before is wrong")
        self._count_open(len(listed))
        self.seq = self._confirmed_seq = seq - 1
        self._agreed = (self._file, 0, seq - 1)
        self.hash = str(record["prev"]).encode()
        self.begins_after = (self.seq, str(record["prev"]), file)
        self._open = listed
        if self._directory is None:
            self.result.note(f"what came before {self._file} was not given; it is taken from the header")

    def _begin_process(self, seq: int) -> None:
        """The segment whose header is record `seq` was begun by another process than the one before."""
        self.counts.begin_process(seq - 1, len(self._open))
        self._agreed = (self._file, 0, seq - 1)

    def _follow(self, type_: bytes, record: dict[str, Any], path: Path) -> None:
        """Pair intents and outcomes, and check what special records say."""
        result = self.result
        if type_ == b"statement.intent":
            key = _key(record["session"], record["statement"])
            if key in self._open:
                raise self.bad(f"a second intent for statement {key[1]} of session {key[0]}")
            self._count_open(1)
            self._open.add(key)
            self.counts.intent(*key)
            result.intents += 1
        elif type_ == b"statement.outcome":
            key = _key(record["session"], record["statement"])
            if key not in self._open:
                raise self.bad(f"an outcome without intent: statement {key[1]} of session {key[0]}")
            self._open.remove(key)
            self._meter.open_intents -= 1
            self.counts.outcome(key[0], record)
            result.outcomes += 1
            result.unknown_outcomes += record["status"] == "unknown"
        elif type_ in _COUNTED_TYPES:
            self._count(type_, record)
        elif type_ == b"segment.end":
            self._ended = str(record["reason"])
        elif type_ == b"recovery":
            result.recoveries += 1
            if self._line == 2:
                self._begin_process(self.seq)
            self._check_side_files(record, path.parent)
        elif type_ == b"chain_end":
            result.has_ended = True
        elif type_ in _CONTROL_TYPES:
            if self.control is None:
                raise self.bad("only the control process writes such records, in slot 0")
            self.control(type_, record)
        elif type_ in _PROCESS_TYPES:
            if self.control is not None:
                self.control(type_, record)
        elif type_ not in _TYPES:
            result.note(f"record {record['seq']} has a type that this version does not know")

    def _count(self, type_: bytes, record: dict[str, Any]) -> None:
        """What is counted, or says how much there is."""
        counts = self.counts
        wrong = ""
        if type_ == b"statement.refused":
            counts.numbered(record, is_refused=True)
        elif type_ in (b"statement.prepared", b"statement.skipped"):
            counts.numbered(record)
        elif type_ == b"session.start":
            counts.begin_session(record)
        elif type_ == b"session.end":
            wrong = counts.end_session(record)
        elif type_ == b"audit.resumed":
            counts.resumed(record)
        elif type_ == b"segment.lost":
            counts.lost_segment()
        else:
            wrong = counts.heartbeat(record, self.seq + 1)
            if self.control is not None and not wrong:
                self.control(type_, record)
            if counts.counted_seq == self.seq + 1:
                self._agreed = self.place
        if wrong:
            file, line, seq = self._agreed
            what = f"{wrong}: records are missing, or were made up"
            raise Bad(Problem(Status.TAMPERED, file, line + 1, seq + 1, what, self.seq + 1))

    def _count_open(self, more: int) -> None:
        self._meter.open_intents += more
        if self._meter.open_intents > MAX_OPEN_INTENTS:
            raise self.bad(f"more than {MAX_OPEN_INTENTS} intents without outcome")

    def _check_side_files(self, record: dict[str, Any], directory: Path) -> None:
        torn = record["torn"]
        if not isinstance(torn, list):
            raise TypeError
        for item in torn:
            name = item["file"]
            if Path(name).name != name:
                raise ValueError
            if self._directory is None:
                continue
            try:
                digest = digest_file(directory / name)
            except FileNotFoundError:
                if len(self.missing_side_files) >= MAX_SIDE_FILES:
                    raise self.bad("too many files of torn bytes are missing") from None
                self.missing_side_files[name] = self.bad(f"the torn bytes kept in {name} are missing").problem
                continue
            if digest != item["sha256"]:
                raise self.bad(f"the torn bytes kept in {name} were changed")

    # --- the end ---------------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self._ended == "rotated" and self._directory is None:
            self.result.note(f"what follows {self._file} was not given")
        elif self._ended == "rotated":
            raise self.bad(
                "the segment says that another follows, and there is none",
                status=Status.TRUNCATED,
            )


def _key(session: object, statement: object) -> Key:
    if not isinstance(session, str) or not isinstance(statement, int) or len(session) > MAX_SESSION_LENGTH:
        raise TypeError
    return session, statement
