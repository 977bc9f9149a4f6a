"""Bound values: where each ends, and how it reads in the audit trail."""

import struct
from random import Random

import pytest
from support import my_bytes as my

from protocol.errors import MalformedMessage
from protocol.mysql.parameters import UNSIGNED, parse_parameter, read_value

SHOWN = [
    (1, b"\xff", "tinyint", "-1"),
    (1 | UNSIGNED, b"\xff", "tinyint unsigned", "255"),
    (2, b"\xfe\xff", "smallint", "-2"),
    (3, b"\5\0\0\0", "int", "5"),
    (9, b"\5\0\0\0", "mediumint", "5"),
    (8 | UNSIGNED, b"\xff" * 8, "bigint unsigned", "18446744073709551615"),
    (13, b"\xe4\x07", "year", "2020"),
    (4, struct.pack("<f", 1.5), "float", "1.5"),
    (5, struct.pack("<d", -2.25), "double", "-2.25"),
    (246, b"-12.50", "decimal", "-12.50"),
    (253, "é".encode(), "varchar", "é"),
    (254, b"\xff", "char", "\\xff"),
    (245, b"{}", "json", "{}"),
    (10, b"", "date", "0000-00-00"),
    (10, b"\xe4\x07\1\2", "date", "2020-01-02"),
    (12, b"\xe4\x07\1\2\3\4\5", "datetime", "2020-01-02 03:04:05"),
    (7, b"\xe4\x07\1\2\3\4\5\6\0\0\0", "timestamp", "2020-01-02 03:04:05.000006"),
    (12, b"\xe4\x07\1\2", "datetime", "2020-01-02 00:00:00"),
    (11, b"", "time", "00:00:00"),
    (11, b"\1\1\0\0\0\2\3\4", "time", "-26:03:04"),
    (11, b"\0\0\0\0\0\2\3\4\7\0\0\0", "time", "02:03:04.000007"),
    (252, b"abc", "blob", "<3 bytes, sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad>"),
    (3, b"\5", "int", "<1 bytes>"),
    (0x1000, b"<5 bytes>", "long_data", "<5 bytes>"),
    (0x1001, b"", "default", ""),
    (200, b"x", "type 200", "<1 bytes>"),
]


@pytest.mark.parametrize(("kind", "raw", "name", "text"), SHOWN)
def test_values_read_as_sql_would_write_them(kind: int, raw: bytes, name: str, text: str) -> None:
    assert parse_parameter(kind, 1, raw) == (name, text)
    assert parse_parameter(kind, 1, None) == (name, None)


def test_long_texts_are_cut_at_a_character() -> None:
    shown = parse_parameter(253, 1, "é".encode() * 3000)[1] or ""
    assert shown == "é" * 2048 + "… <6000 bytes>"


def test_showing_never_raises() -> None:
    rng = Random(1)
    for _ in range(5000):
        parse_parameter(rng.randrange(1 << 16), 1, rng.randbytes(rng.randrange(16)))


SIZES = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8, 9: 4, 13: 2}


@pytest.mark.parametrize("kind", [*range(256)])
def test_every_type_has_one_length_or_is_refused(kind: int) -> None:
    strings = {0, 15, 16, 242, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255}
    data = (
        my.string(b"\xe4\x07\1\2") if kind in (7, 10, 12) else my.string(b"\0" * 8) if kind == 11 else my.string(b"abc")
    )
    if kind in SIZES:
        assert read_value(kind, b"12345678", 0, 8) == (b"12345678"[: SIZES[kind]], SIZES[kind])
        with pytest.raises(MalformedMessage):
            read_value(kind, b"12345678", 0, SIZES[kind] - 1)
    elif kind == 6:
        assert read_value(kind, b"", 0, 0) == (None, 0)
    elif kind in strings or kind in (7, 10, 11, 12):
        assert read_value(kind, data + b"x", 0, len(data) + 1) == (data[1:], len(data))
        with pytest.raises(MalformedMessage):
            read_value(kind, data, 0, len(data) - 1)
    else:
        with pytest.raises(MalformedMessage):
            read_value(kind, b"\0" * 16, 0, 16)


@pytest.mark.parametrize("prefix", [b"\xfb", b"\xff", b"\xfc\5", b"\xfe" + b"\xff" * 8])
def test_lengths_that_no_length_can_have_are_refused(prefix: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_value(253, prefix, 0, len(prefix))
