"""Bound parameters: where each binary value ends, and what it says as text for the audit trail.

Splitting is strict: a value that is not as long as its type says ends the session, because the server might read it otherwise.
Showing never raises. Contents of blobs are never shown.
Source: MySQL Internals, "Binary Protocol Value"; MySQL's sql_prepare.cc (setup_one_conversion).
"""

from __future__ import annotations

import hashlib
import struct

from protocol.contract import Side
from protocol.errors import MalformedMessage
from protocol.mysql.wire import read_length

CLIENT = Side.CLIENT

MAX_TEXT = 4096
"""Bytes shown of one value; the rest is replaced by a note of its size."""

UNSIGNED = 0x8000
"""Added to a type number where the client says that the value has no sign."""
LONG_DATA = 0x1000
"""In place of a type: the value came in pieces and is too long to keep; what is bound says how long it was, and its digest."""
DEFAULT = 0x1001
"""MariaDB's bulk: no value, the column's default."""
IGNORE = 0x1002
"""MariaDB's bulk: no value, the column stays as it is."""
MORE_ROWS = 0x1003
"""MariaDB's bulk: in place of all further values; what is bound says how many there were, and their digest."""

_NULL = 6
_FIXED = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8, 9: 4, 13: 2}
_DATES = {7, 10, 12}
_TIME = 11
_STRINGS = {0, 15, 16, 242, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255}
_BLOBS = {16, 242, 249, 250, 251, 252, 255}
_NAMES = {
    0: "decimal",
    1: "tinyint",
    2: "smallint",
    3: "int",
    4: "float",
    5: "double",
    6: "null",
    7: "timestamp",
    8: "bigint",
    9: "mediumint",
    10: "date",
    11: "time",
    12: "datetime",
    13: "year",
    15: "varchar",
    16: "bit",
    242: "vector",
    245: "json",
    246: "decimal",
    247: "enum",
    248: "set",
    249: "tinyblob",
    250: "mediumblob",
    251: "longblob",
    252: "blob",
    253: "varchar",
    254: "char",
    255: "geometry",
    LONG_DATA: "long_data",
    DEFAULT: "default",
    IGNORE: "ignore",
    MORE_ROWS: "more_rows",
}
_INTEGERS = {1: "b", 2: "h", 3: "i", 8: "q", 9: "i", 13: "h"}
_NOTES = {LONG_DATA, MORE_ROWS}


def read_value(kind: int, data: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    """The value of this type at position, within data[:end]. Returns (raw value, where it ends).

    kind: a type number, with or without UNSIGNED. Raises MalformedMessage for types that no value has on the wire.
    """
    number = kind & ~UNSIGNED
    size = _FIXED.get(number)
    if size is not None:
        start = position
    elif number in _STRINGS:
        size, start = read_length(data, position, end, CLIENT)
    elif number in _DATES or number == _TIME:
        size, start = read_length(data, position, end, CLIENT)
        if size not in ((0, 8, 12) if number == _TIME else (0, 4, 7, 11)):
            raise MalformedMessage(CLIENT, "a date or time of impossible size")
    elif number == _NULL:
        return None, position
    else:
        raise MalformedMessage(CLIENT, "a parameter type that no value has")
    if size > end - start:
        raise MalformedMessage(CLIENT, "a parameter is longer than its message")
    return data[start : start + size], start + size


def parse_parameter(kind: int, format_code: int, raw: bytes | None) -> tuple[str, str | None]:
    """Name and text of a bound value; None for SQL NULL. A value that cannot be decoded gives "<n bytes>".

    kind: a type number, with UNSIGNED added for values without sign. format_code: always binary, not looked at.
    """
    number = kind & ~UNSIGNED
    name = _NAMES.get(number) or f"type {number}"
    if kind & UNSIGNED and number in _INTEGERS:
        name += " unsigned"
    if raw is None:
        return name, None
    try:
        return name, _show(number, kind, raw)
    except (ValueError, struct.error, IndexError):
        return name, f"<{len(raw)} bytes>"


def _show(number: int, kind: int, raw: bytes) -> str:
    if number in _INTEGERS:
        layout = _INTEGERS[number]
        return str(struct.unpack("<" + (layout.upper() if kind & UNSIGNED else layout), raw)[0])
    if number in (4, 5):
        return str(struct.unpack("<f" if number == 4 else "<d", raw)[0])
    if number in _DATES:
        return _date(number, raw)
    if number == _TIME:
        return _time(raw)
    if number in _BLOBS:
        return f"<{len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()}>"
    if number in _STRINGS or number in _NOTES:
        return _text(raw)
    return f"<{len(raw)} bytes>" if raw else ""


def _date(number: int, raw: bytes) -> str:
    """`year(2) month day [hour minute second [microsecond(4)]]`; parts that are missing are zero."""
    year, month, day = struct.unpack_from("<HBB", raw) if raw else (0, 0, 0)
    text = f"{year:04d}-{month:02d}-{day:02d}"
    if number == 10 and len(raw) <= 4:
        return text
    hour, minute, second = raw[4:7] if len(raw) > 4 else (0, 0, 0)
    text += f" {hour:02d}:{minute:02d}:{second:02d}"
    return text + (f".{struct.unpack_from('<I', raw, 7)[0]:06d}" if len(raw) == 11 else "")


def _time(raw: bytes) -> str:
    """`negative days(4) hour minute second [microsecond(4)]`."""
    if not raw:
        return "00:00:00"
    negative, days, hour, minute, second = struct.unpack_from("<BIBBB", raw)
    text = f"{'-' if negative else ''}{days * 24 + hour:02d}:{minute:02d}:{second:02d}"
    return text + (f".{struct.unpack_from('<I', raw, 8)[0]:06d}" if len(raw) == 12 else "")


def _text(raw: bytes) -> str:
    """Text in the client's character set, cut to a bounded length; bytes that are not UTF-8 are shown in hexadecimal."""
    if len(raw) <= MAX_TEXT:
        return raw.decode("utf-8", "backslashreplace")
    cut = MAX_TEXT
    while cut > MAX_TEXT - 3 and raw[cut] & 0xC0 == 0x80:  # not inside a character
        cut -= 1
    return f"{raw[:cut].decode('utf-8', 'backslashreplace')}… <{len(raw)} bytes>"
