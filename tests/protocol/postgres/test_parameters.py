"""Bound parameters as text. psycopg's binary dumpers are the oracle for the encodings."""

from __future__ import annotations

import datetime as dt
import ipaddress
import struct
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import adapt
from psycopg.pq import Format
from psycopg.types.json import Json, Jsonb

from protocol.postgres.parameters import _ARRAYS, _TYPES, MAX_TEXT, parse_parameter


def dump(value: Any) -> tuple[int, bytes]:
    """What psycopg would bind in binary: type OID and bytes."""
    transformer = adapt.Transformer()
    dumper = transformer.get_dumper(value, adapt.PyFormat.BINARY)
    raw = dumper.dump(value)
    assert dumper.format is Format.BINARY
    assert raw is not None
    return dumper.oid, bytes(raw)


def decode(value: Any) -> tuple[str, str | None]:
    oid, raw = dump(value)
    return parse_parameter(oid, 1, raw)


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (True, "bool", "true"),
        (False, "bool", "false"),
        (7, "int2", "7"),
        (-70_000, "int4", "-70000"),
        (2**40, "int8", str(2**40)),
        (1.5, "float8", "1.5"),
        (Decimal("-12345.6700"), "numeric", "-12345.6700"),
        (Decimal("NaN"), "numeric", "NaN"),
        (uuid.UUID(int=5), "uuid", "00000000-0000-0000-0000-000000000005"),
        (dt.date(1999, 12, 31), "date", "1999-12-31"),
        (dt.time(1, 2, 3, 400_000), "time", "01:02:03.4"),
        (dt.datetime(2024, 2, 29, 1, 2, 3), "timestamp", "2024-02-29 01:02:03"),
        (dt.datetime(2024, 2, 29, tzinfo=dt.UTC), "timestamptz", "2024-02-29 00:00:00+00:00"),
        (dt.time(1, 2, tzinfo=dt.timezone(dt.timedelta(hours=-3))), "timetz", "01:02:00-03:00"),
        (dt.timedelta(days=2, seconds=3), "interval", "2 days 3 secs"),
        (ipaddress.ip_address("10.0.0.1"), "inet", "10.0.0.1"),
        (ipaddress.ip_interface("10.0.0.1/8"), "inet", "10.0.0.1/8"),
        (ipaddress.ip_network("fe80::/10"), "cidr", "fe80::/10"),
        (Jsonb({"a": 1}), "jsonb", '{"a": 1}'),
        (Json([1]), "json", "[1]"),
        ([1, 2, None], "int2[]", "{1, 2, NULL}"),
        (['a"b', "c"], "text[]", '{"a\\"b", "c"}'),
        ([[1, 2], [3, 4]], "int2[]", "2x2:{1, 2, 3, 4}"),
        (list(range(200)), "int2[]", "{" + ", ".join(str(n) for n in range(100)) + ", … <200 elements>}"),
    ],
)
def test_binary_values_become_text(value: Any, name: str, text: str) -> None:
    assert decode(value) == (name, text)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_numeric_agrees_with_psycopg(value: Decimal) -> None:
    _, text = decode(value)
    assert text is not None
    assert Decimal(text) == value


@given(st.datetimes())
def test_timestamp_agrees_with_psycopg(value: dt.datetime) -> None:
    assert decode(value)[1] == value.isoformat(" ")


@given(st.floats())
def test_float_agrees_with_psycopg(value: float) -> None:
    assert decode(value)[1] == str(value)


@pytest.mark.parametrize(
    ("oid", "raw", "text"),
    [
        (1082, struct.pack(">i", 2**31 - 1), "infinity"),
        (1114, struct.pack(">q", -(2**63)), "-infinity"),
        (1184, struct.pack(">q", 2**63 - 1), "infinity"),
        (1186, struct.pack(">qii", -1_500_000, 0, 14), "14 mons -1.5 secs"),
        (1186, bytes(16), "0 secs"),
        (1700, struct.pack(">HhHH", 0, 0, 0xD000, 0), "Infinity"),
        (1700, struct.pack(">HhHHH", 1, -2, 0, 8, 5), "0.00000005"),
        (1700, struct.pack(">HhHHH", 1, 2, 0, 0, 7), "700000000"),
        (829, bytes(range(6)), "00:01:02:03:04:05"),
        (26, b"\xff\xff\xff\xff", "4294967295"),
        (18, b"x", "x"),
        (1007, struct.pack(">iiI", 0, 0, 23), "{}"),
    ],
)
def test_further_binary_values(oid: int, raw: bytes, text: str) -> None:
    assert parse_parameter(oid, 1, raw)[1] == text


@pytest.mark.parametrize("oid", [0, 23, 25, 1007, 3802, 99_999])
def test_text_format_is_shown_as_it_came(oid: int) -> None:
    assert parse_parameter(oid, 0, b"caf\xc3\xa9 \xff")[1] == "café \\xff"


def test_null_is_none() -> None:
    assert parse_parameter(23, 0, None) == ("int4", None)
    assert parse_parameter(0, 1, None) == ("unknown", None)


@pytest.mark.parametrize("format_code", [0, 1])
def test_bytea_shows_size_and_digest_only(format_code: int) -> None:
    name, text = parse_parameter(17, format_code, b"canary-bytes")
    assert name == "bytea"
    assert text is not None
    assert text.startswith("<12 bytes, sha256 ")
    assert "canary" not in text
    array = struct.pack(">iiIii", 1, 0, 17, 1, 1) + struct.pack(">i", 6) + b"canary"
    assert "canary" not in (parse_parameter(1001, 1, array)[1] or "")


def test_unknown_type_shows_its_size_only() -> None:
    assert parse_parameter(600, 1, b"canary-16-bytes.") == ("oid 600", "<16 bytes>")
    assert parse_parameter(0, 1, b"canary") == ("unknown", "<6 bytes>")


def test_long_text_is_cut_with_a_note() -> None:
    _, text = parse_parameter(25, 0, b"x" * 10_000)
    assert text == "x" * MAX_TEXT + "… <10000 bytes>"
    _, text = parse_parameter(25, 1, b"x" + "é".encode() * 5000)
    assert text == "x" + "é" * 2047 + "… <10001 bytes>"
    _, text = decode(["y" * 3000] * 50)
    assert text is not None
    assert text.endswith(", … <50 elements>}")
    assert len(text) < 3 * MAX_TEXT


@pytest.mark.parametrize(
    ("oid", "raw"),
    [
        (23, b"\0\0\0"),
        (16, b"\2"),
        (1700, struct.pack(">HhHH", 65535, 0, 0, 0)),
        (1700, struct.pack(">HhHHH", 1, 32767, 0, 0, 1)),
        (1700, struct.pack(">HhHHH", 1, 0, 0, 0, 10_000)),
        (1114, struct.pack(">q", 2**62)),
        (1083, struct.pack(">q", -1)),
        (1266, struct.pack(">qi", 0, 2**31 - 1)),
        (869, b"\2\x21\0\4\1\2\3\4"),
        (2950, bytes(15)),
        (3802, b"\2{}"),
        (1007, struct.pack(">iiI", 7, 0, 23)),
        (1007, struct.pack(">iiIiiii", 2, 0, 23, 2**31 - 1, 1, 2**31 - 1, 1)),
        (1007, struct.pack(">iiIiii", 1, 0, 23, 1, 1, 2**31 - 1)),
        (1007, struct.pack(">iiIiii", 1, 0, 1007, 1, 1, 0)),
        (1007, struct.pack(">iiIiii", 1, 0, 23, -1, 1, 0)),
    ],
)
def test_garbage_shows_its_size(oid: int, raw: bytes) -> None:
    assert parse_parameter(oid, 1, raw)[1] == f"<{len(raw)} bytes>"


def test_every_array_has_a_known_element() -> None:
    assert set(_ARRAYS.values()) <= set(_TYPES)


@given(
    st.one_of(st.sampled_from([*_TYPES, *_ARRAYS]), st.integers(0, 2**32 - 1)),
    st.integers(0, 3),
    st.one_of(
        st.binary(max_size=64),
        st.tuples(st.integers(0, 7), st.integers(0, 1), st.sampled_from(list(_TYPES)), st.binary(max_size=64)).map(
            lambda parts: struct.pack(">iiI", *parts[:3]) + parts[3]
        ),
    ),
)
def test_random_bytes_never_raise(oid: int, format_code: int, raw: bytes) -> None:
    name, text = parse_parameter(oid, format_code, raw)
    assert name
    assert text is not None
    text.encode()
