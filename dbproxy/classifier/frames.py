"""What the proxy and its classifier processes say to each other: framed JSON, never pickle.

The child reads hostile text, so it counts as hostile itself: read_report believes nothing it says. A child that was taken over can lie about
its one statement; it cannot make the proxy run code, allocate without bound, or store a value of a type that nobody expects.

    request   length u32 | sequence u32 | header (JSON, one line) | LF | text
    answer    length u32 | sequence u32 | JSON                            length counts what follows the 8 bytes

Counterparts: processes.py (parent), child.py (child).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import orjson

from classifiers.effects import FLAGS, Effect, Kind, LexingState, Report

FRAME = struct.Struct("!II")
MAX_ANSWER_BYTES = 1 << 20
"""A report of 256 KB of text with a column name every 4 bytes fits; larger ones are refused by the child itself."""
OUT_OF_MEMORY = "reading it takes too much memory"
"""The reason that also says: this process is worn out, replace it."""
CLASSIFY, SCRUB = "classify", "scrub"
"""Operations: say what a text does; only find the secrets in it, and say that it is unparsable."""
MAX_NESTING = 4
"""Reports inside reports (a PREPARE inside a PREPARE does not parse; cursors and functions may nest a little)."""
Spans = tuple[tuple[int, int], ...]
_KINDS = {kind.value: kind for kind in Kind}
_MODES = frozenset({"", "read", "write"})


class BadAnswerError(Exception):
    """A child's answer breaks the rules. The text says which rule, never the data."""


def unparsable(reason: str, secret_spans: Spans) -> Report:
    """The report of a text that could not be read.

    reason: one short sentence. secret_spans: what must be kept out of every record; all of the text if nothing has looked for passwords.
    """
    flags = frozenset({"secret_literal"}) if secret_spans else frozenset[str]()
    return Report(effects=(Effect(Kind.UNPARSABLE, flags=flags),), reason=reason, secret_spans=secret_spans)


def whole(text: bytes) -> Spans:
    """The span of all of the text."""
    return ((0, len(text)),) if text else ()


def request_frame(
    sequence: int, operation: str, dialect: str, state: LexingState, server_version: int, text: bytes
) -> bytes:
    """Encode one request for a child."""
    header = orjson.dumps({"operation": operation, "dialect": dialect, "state": state, "server": server_version})
    return b"%b%b\n%b" % (FRAME.pack(len(header) + 1 + len(text), sequence), header, text)


def report_fields(report: Report) -> dict[str, Any]:
    """A report as JSON values, field by field; the child's side of read_report."""
    answer: dict[str, Any] = {name: getattr(report, name) for name in _READERS}
    answer["effects"] = [[e.kind.value, e.object, e.mode, e.columns, sorted(e.flags)] for e in report.effects]
    answer["prepares"] = [[name, report_fields(inner)] for name, inner in report.prepares]
    answer["cursors"] = [[name, report_fields(inner)] for name, inner in report.cursors]
    return answer


def read_report(body: bytes, text_bytes: int) -> Report:
    """Decode an answer strictly.

    text_bytes: length of the text that was asked about; secret spans must lie inside it.
    Raises BadAnswerError if anything is missing, too much, of another type or out of range.
    """
    try:
        value = orjson.loads(body)
    except ValueError:
        raise BadAnswerError("not JSON") from None
    return _report(value, text_bytes, MAX_NESTING)


def _report(value: object, text_bytes: int, depth: int) -> Report:
    if depth == 0:
        raise BadAnswerError("nested too deep")
    if not isinstance(value, dict) or value.keys() != _READERS.keys():
        raise BadAnswerError("wrong fields")
    return Report(**{name: read(value[name], text_bytes, depth) for name, read in _READERS.items()})


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise BadAnswerError("not a list")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise BadAnswerError("not a string")
    return value


def _strings(value: object, _text_bytes: int = 0, _depth: int = 0) -> tuple[str, ...]:
    return tuple(_string(item) for item in _list(value))


def _effect(value: object) -> Effect:
    row = _list(value)
    if len(row) != 5:
        raise BadAnswerError("wrong effect")
    kind = _KINDS.get(_string(row[0]))
    name, mode, flags = _string(row[1]), _string(row[2]), frozenset(_strings(row[4]))
    if kind is None or mode not in _MODES or not flags <= FLAGS:
        raise BadAnswerError("unknown kind, mode or flag")
    return Effect(kind, name, mode, _strings(row[3]), flags)


def _effects(value: object, _text_bytes: int, _depth: int) -> tuple[Effect, ...]:
    effects = tuple(_effect(row) for row in _list(value))
    if not effects:
        # A text without any effect would match no rule: an empty message has an effect of kind "empty".
        raise BadAnswerError("no effect")
    return effects


def _reports(value: object, text_bytes: int, depth: int) -> tuple[tuple[str, Report], ...]:
    pairs = []
    for item in _list(value):
        pair = _list(item)
        if len(pair) != 2:
            raise BadAnswerError("wrong pair")
        pairs.append((_string(pair[0]), _report(pair[1], text_bytes, depth - 1)))
    return tuple(pairs)


def _count(value: object, text_bytes: int = 0, _depth: int = 0) -> int:
    if type(value) is not int or not 0 <= value <= text_bytes + 1:
        raise BadAnswerError("number out of range")
    return value


def _truth(value: object, _text_bytes: int, _depth: int) -> bool:
    if not isinstance(value, bool):
        raise BadAnswerError("not a truth value")
    return value


def _spans(value: object, text_bytes: int, _depth: int) -> tuple[tuple[int, int], ...]:
    spans = []
    for item in _list(value):
        span = _list(item)
        if len(span) != 2:
            raise BadAnswerError("wrong span")
        start, end = _count(span[0], text_bytes), _count(span[1], text_bytes)
        if not start <= end <= text_bytes:
            raise BadAnswerError("span outside the text")
        spans.append((start, end))
    return tuple(spans)


def _command(value: object, _text_bytes: int, _depth: int) -> str:
    command = _string(value)
    if command and not (
        len(command) <= 32 and command.isascii() and command.replace(" ", "").replace("_", "").isalpha()
    ):
        raise BadAnswerError("not a command word")
    return command


def _reason(value: object, _text_bytes: int, _depth: int) -> str:
    reason = _string(value)
    if len(reason) > 300 or not reason.isprintable():
        raise BadAnswerError("not a short sentence")
    return reason


_READERS: dict[str, Callable[[object, int, int], Any]] = {
    "effects": _effects,
    "command": _command,
    "statements": _count,
    "functions": _strings,
    "prepares": _reports,
    "cursors": _reports,
    "uses": _strings,
    "deallocates": _strings,
    "is_neutral": _truth,
    "secret_spans": _spans,
    "reason": _reason,
}
if _READERS.keys() != {field.name for field in fields(Report)}:
    # A field that does not cross the border would silently be a default in the proxy: better no start than that.
    raise ImportError("dbproxy.classifier.frames does not know every field of classifiers.effects.Report")
