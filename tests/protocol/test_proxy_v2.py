"""PROXY protocol version 2 headers."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MalformedMessage, ProtocolError
from protocol.proxy_v2 import Source, parse_source, rest_size

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
V4 = bytes([10, 1, 2, 3, 10, 0, 0, 1]) + (40000).to_bytes(2, "big") + (5432).to_bytes(2, "big")
V6 = bytes(15) + b"\1" + bytes(15) + b"\2" + (40000).to_bytes(2, "big") + (5432).to_bytes(2, "big")
MAPPED = bytes(10) + b"\xff\xff" + bytes([10, 1, 2, 3]) + V6[16:]


def header(rest: bytes, command: int = 0x21, family: int = 0x11, *, length: int | None = None) -> bytes:
    return SIGNATURE + bytes([command, family]) + (len(rest) if length is None else length).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("command", "family", "rest", "source"),
    [
        (0x21, 0x11, V4, Source("10.1.2.3", 40000)),
        (0x21, 0x21, V6, Source("::1", 40000)),
        (0x21, 0x21, MAPPED, Source("10.1.2.3", 40000)),
        (0x21, 0x11, V4 + b"\x03\x00\x04abcd", Source("10.1.2.3", 40000)),
        (0x20, 0x00, b"", None),
        (0x20, 0x11, V4, None),
    ],
)
def test_addresses_are_read(command: int, family: int, rest: bytes, source: Source | None) -> None:
    head = header(rest, command, family)
    assert rest_size(head) == len(rest)
    assert parse_source(head, rest) == source


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"PROXY TCP4 10.1.",
        header(V4)[:15],
        header(V4, 0x11),
        header(V4, 0x31),
        b"\0" + header(V4)[1:],
        header(V4, length=2049),
        header(V4, length=65535),
    ],
)
def test_other_headers_are_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        rest_size(head)


@pytest.mark.parametrize(
    ("command", "family", "rest"),
    [
        (0x22, 0x11, V4),
        (0x21, 0x11, V4[:11]),
        (0x21, 0x21, V6[:35]),
        (0x21, 0x12, V4),
        (0x21, 0x31, bytes(216)),
        (0x21, 0x00, b""),
    ],
)
def test_addresses_that_are_not_tcp_over_ip_are_refused(command: int, family: int, rest: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_source(header(rest, command, family), rest)


def test_rest_of_another_size_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        parse_source(header(V4), V4[:-1])


@given(st.binary(max_size=20), st.binary(max_size=60))
def test_random_bytes_only_give_protocol_errors(head: bytes, rest: bytes) -> None:
    for candidate in (head, SIGNATURE + head[:4], SIGNATURE + head[:2] + len(rest).to_bytes(2, "big")):
        with contextlib.suppress(ProtocolError):
            parse_source(candidate, rest)
