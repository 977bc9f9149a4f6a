"""Reading the newest records of a ledger, and following it across segments while a proxy writes it.

For people: nothing here checks the chain, see verify.py. What cannot be read is shown as such, never skipped silently.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import orjson

from dbproxy.audit.chain import MAX_LINE_BYTES
from dbproxy.audit.record import UNSAFE_CHARACTERS
from dbproxy.audit.segment import SegmentDamaged, find_segments, open_segment, parse_segment_name

Fields = dict[str, object]

DAMAGED = "damaged"
"""Type that a line gets which is not a JSON object."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a ledger. line: as stored, with its LF."""

    line: bytes
    fields: Fields

    @property
    def type(self) -> str:
        return str(self.fields.get("type", DAMAGED))


@dataclass(slots=True)
class Filter:
    """Which records to show; "" shows all. type: exact, or all that begin with it and a dot ("login").

    A person's outcomes carry only the session, so sessions seen with the person count as theirs.
    """

    session: str = ""
    type: str = ""
    person: str = ""
    _sessions: set[str] = field(default_factory=set)

    def matches(self, record: Record) -> bool:
        fields = record.fields
        if self.session and fields.get("session") != self.session:
            return False
        if self.type and record.type != self.type and not record.type.startswith(f"{self.type}."):
            return False
        if not self.person:
            return True
        session = str(fields.get("session", ""))
        if fields.get("person") == self.person:
            self._sessions.add(session)
            return True
        return bool(session) and session in self._sessions


class Tail:
    """A reader's place in every chain of a ledger."""

    def __init__(self, directory: Path, wanted: Filter) -> None:
        self._directory = directory
        self._wanted = wanted
        self._places: dict[int, tuple[Path, int]] = {}  # slot → segment and offset of the next line

    def read_last(self, count: int) -> list[Record]:
        """The last `count` matching records of all chains, by time; later calls of read_new go on after them. Raises OSError."""
        found: list[Record] = []
        for slot, segments in find_segments(self._directory).items():
            newest_first = [path for _, path in segments[::-1]]
            if not newest_first:
                continue
            mine: list[Record] = []
            for index, path in enumerate(newest_first):
                last: deque[Record] = deque(maxlen=max(count - len(mine), 0))
                end = self._read(path, 0, last)
                if index == 0:
                    self._places[slot] = (path, end)
                mine = [*last, *mine]
                if len(mine) >= count:
                    break
            found += mine
        found.sort(key=lambda record: str(record.fields.get("at", "")))
        return found[len(found) - min(count, len(found)) :]

    def read_new(self) -> list[Record]:
        """What was written since the last call, in each chain's order. Raises OSError."""
        found: deque[Record] = deque()
        for slot, segments in find_segments(self._directory).items():
            path, offset = self._places.get(slot, (segments[0][1], 0))
            newer = [other for _, other in segments if _number(other) > _number(path)]
            offset = self._read(path, offset, found)
            for path in newer:  # listed before the read above: the older segment has ended
                offset = self._read(path, 0, found)
            self._places[slot] = (newer[-1] if newer else path, offset)
        return list(found)

    def _read(self, path: Path, offset: int, into: deque[Record]) -> int:
        """Read whole lines from offset on; returns the offset after the last of them."""
        try:
            file = open_segment(path)
        except FileNotFoundError:
            return offset
        except SegmentDamaged as error:
            into.append(_damaged(str(error)))
            return offset
        with file:
            try:
                return self._read_lines(file, offset, into)
            except SegmentDamaged as error:
                into.append(_damaged(str(error)))
                return offset

    def _read_lines(self, file: BinaryIO, offset: int, into: deque[Record]) -> int:
        left = offset
        while left:  # a compressed segment can only be read up to there
            skipped = file.seek(offset) if file.seekable() else len(file.read(min(left, 1 << 20)))
            left -= skipped
            if not skipped:
                break
        while line := file.readline(MAX_LINE_BYTES):
            if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                break  # being written, or torn
            offset += len(line)
            record = _parse(line)
            if self._wanted.matches(record):
                into.append(record)
        return offset


def _number(path: Path) -> int:
    parsed = parse_segment_name(path.name)
    return parsed[1] if parsed else 0


def _damaged(what: str) -> Record:
    return Record(b"", {"type": DAMAGED, "reason": what})


def _parse(line: bytes) -> Record:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        fields = None
    return Record(line, fields if isinstance(fields, dict) else {"type": DAMAGED, "bytes": len(line)})


# --- one line for people -------------------------------------------------------------------------------------------------------

_SPACE = re.compile(r"\s+")
_UNPRINTABLE = re.compile(f"[\x00-\x1f\ud800-\udfff{UNSAFE_CHARACTERS}]")
_ENVELOPE = frozenset({"v", "seq", "prev", "hash", "at", "type", "session", "statement", "person", "person_base64"})
_RED = frozenset({"block", "terminate", "error", "refused", "unknown"})
_YELLOW = frozenset({"alert", "approve", "limit", "skipped", "bound_only"})
_BAD_TYPES = frozenset(
    {
        DAMAGED,
        "statement.refused",
        "login.failure",
        "connection.rejected",
        "segment.lost",
        "recovery",
        "server_auth_downgrade",
        "critical.server_truth",
    }
)

Piece = tuple[str, str]
"""Text and its style, in the words of rich."""


def describe(record: Record, *, max_text: int = 200) -> list[Piece]:
    """A record as pieces of one line for a terminal. Everything that came from outside is made harmless: no control or bidi characters.

    max_text: long values are cut to this many characters.
    """
    fields = record.fields
    type_ = record.type
    time = str(fields.get("at", ""))[11:23]
    pieces: list[Piece] = [
        (f"{time or '-':12} ", "dim"),
        (f"{clean(type_, 40):19} ", "bold red" if type_ in _BAD_TYPES else "cyan"),
    ]
    if "session" in fields:
        statement = f"#{fields['statement']}" if "statement" in fields else ""
        pieces.append((clean(f"{fields['session']}{statement}", 80) + " ", "dim"))
    person = fields.get("person", fields.get("person_base64"))
    if person is not None:
        pieces.append((clean(str(person), 80) + " ", "bold"))
    if type_.startswith("statement."):
        pieces += _describe_statement(fields, max_text)
    else:
        rest = {name: value for name, value in fields.items() if name not in _ENVELOPE}
        pieces.append(
            (" ".join(f"{clean(name, 40)}={clean(_short(value), max_text)}" for name, value in rest.items()), "")
        )
    return pieces


def _describe_statement(fields: Fields, max_text: int) -> list[Piece]:
    pieces: list[Piece] = []
    for name in ("action", "status"):
        if name in fields:
            word = clean(str(fields[name]), 20)
            pieces.append((f"{word} ", "bold red" if word in _RED else "yellow" if word in _YELLOW else "green"))
    rules = fields.get("rules")
    if isinstance(rules, list) and rules:
        names = ",".join(str(rule.get("name")) if isinstance(rule, dict) else str(rule) for rule in rules)
        pieces.append((f"[{clean(names, 120)}] ", "magenta"))
    if "rows" in fields:
        pieces.append((f"rows={clean(str(fields['rows']), 20)} ", ""))
    told = [name for name in ("code", "tag", "duration_ms", "reason") if fields.get(name) not in (None, "")]
    pieces += [(f"{name}={clean(str(fields[name]), max_text)} ", "dim") for name in told]
    sql = fields.get("sql", fields.get("sql_base64"))
    if sql is not None:
        pieces.append((clean(str(sql), max_text), ""))
    return pieces


def clean(text: str, max_text: int) -> str:
    """Untrusted text for one line of a terminal: white space as single blanks, what moves or reorders spelled out, cut to max_text."""
    text = _SPACE.sub(" ", text[: 4 * max_text])
    text = _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text if len(text) <= max_text else text[: max_text - 1] + "…"


def _short(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
