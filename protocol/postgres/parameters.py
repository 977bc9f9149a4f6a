"""Bound parameters as text for the audit trail: known types are decoded, of all others only the size is told.

Never raises: what cannot be decoded is garbage that the server will refuse. Contents of bytea are never shown.
Source: PostgreSQL's src/include/catalog/pg_type.dat (OIDs) and the send functions of each type.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

MAX_TEXT = 4096
"""Bytes shown of one value; the rest is replaced by a note of its size."""
MAX_ELEMENTS = 100
MAX_DIMENSIONS = 6
"""MAXDIM in the server's source."""

_EPOCH = dt.datetime(2000, 1, 1)  # noqa: DTZ001 - timestamp without time zone
_EPOCH_DAY = dt.date(2000, 1, 1)


def parse_parameter(type_oid: int, format_code: int, raw: bytes | None) -> tuple[str, str | None]:
    """Name and text of a bound value; None for SQL NULL.

    type_oid: 0 if it is not known; format_code: 0 text, 1 binary. An unknown type is named by its OID, "unknown" for 0.
    A binary value that cannot be decoded gives "<n bytes>".
    """
    name = _name(type_oid)
    if raw is None:
        return name, None
    if type_oid == _BYTEA:
        return name, f"<{len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()}>"
    if format_code == 0:
        return name, _text(raw)
    try:
        decode = _decoder(type_oid)
        return name, decode(raw) if decode is not None else _size(raw)
    except (ValueError, struct.error, OverflowError, IndexError):
        return name, _size(raw)


def _name(type_oid: int) -> str:
    known = _TYPES.get(type_oid)
    if known is not None:
        return known[0]
    element = _ARRAYS.get(type_oid)
    if element is not None:
        return _TYPES[element][0] + "[]"
    return f"oid {type_oid}" if type_oid else "unknown"


def _decoder(type_oid: int) -> Callable[[bytes], str] | None:
    known = _TYPES.get(type_oid)
    if known is not None:
        return known[1]
    return _array if type_oid in _ARRAYS else None


def _size(raw: bytes) -> str:
    return f"<{len(raw)} bytes>"


def _text(raw: bytes) -> str:
    """Text in the client's encoding, cut to a bounded length; bytes that are not UTF-8 are shown in hexadecimal."""
    if len(raw) <= MAX_TEXT:
        return raw.decode("utf-8", "backslashreplace")
    cut = MAX_TEXT
    while cut > MAX_TEXT - 3 and raw[cut] & 0xC0 == 0x80:  # not inside a character
        cut -= 1
    return f"{raw[:cut].decode('utf-8', 'backslashreplace')}… <{len(raw)} bytes>"


def _fixed(layout: str) -> Callable[[bytes], str]:
    parse = struct.Struct(layout).unpack

    def decode(raw: bytes) -> str:
        return str(parse(raw)[0])

    return decode


def _bool(raw: bytes) -> str:
    return {b"\0": "false", b"\1": "true"}.get(raw) or _size(raw)


def _jsonb(raw: bytes) -> str:
    if raw[:1] != b"\1":
        raise ValueError("unknown version of jsonb")
    return _text(raw[1:])


def _uuid(raw: bytes) -> str:
    return str(UUID(bytes=raw))


def _numeric(raw: bytes) -> str:
    """Base-10,000 digits: `count weight sign scale digits…`, each 16 bits. Source: numeric_send()."""
    count, weight, sign, scale = struct.unpack_from(">HhHH", raw)
    special = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}.get(sign)
    if special is not None:
        return special
    digits = struct.unpack(f">{count}H", raw[8:])
    if sign not in (0, 0x4000) or scale > 0x3FFF or any(digit > 9999 for digit in digits):
        raise ValueError("not a numeric")
    if abs(weight) > MAX_TEXT or count > MAX_TEXT:
        raise ValueError("more digits than anybody wants to read")
    groups = [f"{digit:04}" for digit in digits]
    whole = "".join(groups[: max(weight + 1, 0)]) + "0000" * max(weight + 1 - count, 0)
    fraction = "0000" * max(-weight - 1, 0) + "".join(groups[max(weight + 1, 0) :])
    text = whole.lstrip("0") or "0"
    if scale:
        text += "." + fraction[:scale].ljust(scale, "0")
    return "-" + text if sign else text


def _date(raw: bytes) -> str:
    (days,) = struct.unpack(">i", raw)
    if days in (2**31 - 1, -(2**31)):
        return "infinity" if days > 0 else "-infinity"
    return (_EPOCH_DAY + dt.timedelta(days=days)).isoformat()


def _time(raw: bytes) -> str:
    (micros,) = struct.unpack(">q", raw)
    return _clock(micros)


def _time_tz(raw: bytes) -> str:
    micros, zone = struct.unpack(">qi", raw)
    return _clock(micros) + _offset(-zone)


def _clock(micros: int) -> str:
    if not 0 <= micros <= 86_400_000_000:
        raise ValueError("not a time of day")
    seconds, micros = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{micros:06}".rstrip("0") if micros else text


def _offset(seconds: int) -> str:
    sign, seconds = ("-", -seconds) if seconds < 0 else ("+", seconds)
    if seconds >= 86_400:
        raise ValueError("not a time zone")
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}"


def _timestamp(raw: bytes) -> str:
    (micros,) = struct.unpack(">q", raw)
    if micros in (2**63 - 1, -(2**63)):
        return "infinity" if micros > 0 else "-infinity"
    return (_EPOCH + dt.timedelta(microseconds=micros)).isoformat(" ")


def _timestamp_tz(raw: bytes) -> str:
    text = _timestamp(raw)
    return text if text.endswith("infinity") else text + "+00:00"


def _interval(raw: bytes) -> str:
    micros, days, months = struct.unpack(">qii", raw)
    seconds, micros = divmod(abs(micros), 1_000_000)
    sign = "-" if struct.unpack_from(">q", raw)[0] < 0 else ""
    rest = f"{seconds}.{micros:06}".rstrip("0").rstrip(".") if micros else str(seconds)
    parts = (f"{months} mons" if months else "", f"{days} days" if days else "", f"{sign}{rest} secs")
    return " ".join(part for part in parts if part)


def _network(raw: bytes) -> str:
    """`family bits is_cidr length address`. Source: network_send()."""
    family, bits, is_cidr, size = struct.unpack_from(">BBBB", raw)
    if (family, size) not in ((2, 4), (3, 16)) or len(raw) != 4 + size or bits > 8 * size or is_cidr > 1:
        raise ValueError("not an address")
    address = str(IPv4Address(raw[4:]) if size == 4 else IPv6Address(raw[4:]))
    return f"{address}/{bits}" if is_cidr or bits != 8 * size else address


def _mac_address(raw: bytes) -> str:
    if len(raw) not in (6, 8):
        raise ValueError("not a MAC address")
    return raw.hex(":")


def _array(raw: bytes) -> str:
    """`dimensions flags element_oid (size lower_bound)… (length value)…`. Source: array_send()."""
    dimensions, flags, element_oid = struct.unpack_from(">iiI", raw)
    if not 0 <= dimensions <= MAX_DIMENSIONS or flags not in (0, 1):
        raise ValueError("not an array")
    sizes = [struct.unpack_from(">i", raw, 12 + 8 * number)[0] for number in range(dimensions)]
    if dimensions == 0:
        return "{}"
    total = 1
    for size in sizes:
        total *= size
        if size < 0 or total > len(raw):
            raise ValueError("more elements than bytes")
    at = 12 + 8 * dimensions
    shown: list[str] = []
    room = MAX_TEXT
    while len(shown) < min(total, MAX_ELEMENTS) and room > 0:
        (length,) = struct.unpack_from(">i", raw, at)
        at += 4
        if length < -1 or at + max(length, 0) > len(raw):
            raise ValueError("element is longer than the array")
        value = raw[at : at + length] if length >= 0 else None
        at += max(length, 0)
        shown.append(_element(element_oid, value))
        room -= len(shown[-1])
    more = f", … <{total} elements>" if total > len(shown) else ""
    shape = "" if dimensions == 1 else "x".join(str(size) for size in sizes) + ":"
    return f"{shape}{{{', '.join(shown)}{more}}}"


def _element(element_oid: int, value: bytes | None) -> str:
    if value is None:
        return "NULL"
    if element_oid in _ARRAYS:
        raise ValueError("an array of arrays is one array with more dimensions")
    text = parse_parameter(element_oid, 1, value)[1] or ""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if element_oid in _TEXTS else text


_BYTEA = 17
_TYPES: dict[int, tuple[str, Callable[[bytes], str] | None]] = {
    16: ("bool", _bool),
    _BYTEA: ("bytea", None),
    18: ("char", _text),
    19: ("name", _text),
    20: ("int8", _fixed(">q")),
    21: ("int2", _fixed(">h")),
    23: ("int4", _fixed(">i")),
    25: ("text", _text),
    26: ("oid", _fixed(">I")),
    114: ("json", _text),
    142: ("xml", _text),
    650: ("cidr", _network),
    700: ("float4", _fixed(">f")),
    701: ("float8", _fixed(">d")),
    705: ("unknown", _text),
    774: ("macaddr8", _mac_address),
    829: ("macaddr", _mac_address),
    869: ("inet", _network),
    1042: ("bpchar", _text),
    1043: ("varchar", _text),
    1082: ("date", _date),
    1083: ("time", _time),
    1114: ("timestamp", _timestamp),
    1184: ("timestamptz", _timestamp_tz),
    1186: ("interval", _interval),
    1266: ("timetz", _time_tz),
    1700: ("numeric", _numeric),
    2950: ("uuid", _uuid),
    3802: ("jsonb", _jsonb),
}
_TEXTS = frozenset({18, 19, 25, 114, 142, 705, 1042, 1043, 3802})
_ARRAYS = {
    1000: 16,
    1001: _BYTEA,
    1002: 18,
    1003: 19,
    1016: 20,
    1005: 21,
    1007: 23,
    1009: 25,
    1028: 26,
    199: 114,
    143: 142,
    651: 650,
    1021: 700,
    1022: 701,
    1040: 829,
    775: 774,
    1041: 869,
    1014: 1042,
    1015: 1043,
    1182: 1082,
    1183: 1083,
    1115: 1114,
    1185: 1184,
    1187: 1186,
    1270: 1266,
    1231: 1700,
    2951: 2950,
    3807: 3802,
}
"""Array type → element type."""
