"""Builders for MySQL protocol packets, for tests. Written from the manual alone: nothing here imports the code under test.

Builders do not validate; tests use `frame` to build broken packets. A conversation is easiest with `answer`, which numbers packets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

PROTOCOL_41 = 1 << 9
LOCAL_FILES = 1 << 7
SESSION_TRACK = 1 << 23
DEPRECATE_EOF = 1 << 24
OPTIONAL_METADATA = 1 << 25
QUERY_ATTRIBUTES = 1 << 27
PROGRESS = 1 << 32
BULK = 1 << 34
CACHE_METADATA = 1 << 36

IN_TRANS, AUTOCOMMIT, MORE, CURSOR, LAST_ROW, STATE = 1, 2, 8, 0x40, 0x80, 0x4000
BIG = 0xFFFFFF


def raw(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def frame(payload: bytes, sequence: int = 0, *, length: int | None = None) -> bytes:
    """One packet; length overrides the declared one."""
    return struct.pack("<I", (len(payload) if length is None else length) & BIG | (sequence & 255) << 24) + payload


def frames(payload: bytes, sequence: int = 0) -> bytes:
    """A payload of any size: cut at 2^24-1 bytes, ended by a shorter packet."""
    out = b""
    while True:
        piece, payload = payload[:BIG], payload[BIG:]
        out += frame(piece, sequence)
        sequence += 1
        if len(piece) < BIG:
            return out


def lenenc(number: int) -> bytes:
    if number < 251:
        return bytes([number])
    if number < 1 << 16:
        return b"\xfc" + struct.pack("<H", number)
    if number < 1 << 24:
        return b"\xfd" + struct.pack("<I", number)[:3]
    return b"\xfe" + struct.pack("<Q", number)


def string(value: bytes | str) -> bytes:
    return lenenc(len(raw(value))) + raw(value)


# ------------------------------------------------------------------------------------------------------------ commands


def command(code: int, body: bytes | str = b"") -> bytes:
    return frames(bytes([code]) + raw(body))


def query(text: bytes | str, *, attributes: bool = False) -> bytes:
    return command(3, (b"\0\1" if attributes else b"") + raw(text))


def prepare(text: bytes | str) -> bytes:
    return command(0x16, text)


def execute(
    statement_id: int,
    params: Sequence[tuple[int, bytes | None]] = (),
    *,
    types: bool = True,
    flags: int = 0,
    skip: Iterable[int] = (),
) -> bytes:
    """params: type and binary value (with its length, where it has one). skip: values that were sent as long data."""
    body = struct.pack("<IBI", statement_id, flags, 1)
    if params:
        bitmap = bytearray((len(params) + 7) // 8)
        for index, (_, value) in enumerate(params):
            if value is None:
                bitmap[index // 8] |= 1 << index % 8
        body += bytes(bitmap) + (b"\1" if types else b"\0")
        if types:
            body += b"".join(struct.pack("<H", kind) for kind, _ in params)
        body += b"".join(value for index, (_, value) in enumerate(params) if value is not None and index not in skip)
    return command(0x17, body)


def long_data(statement_id: int, index: int, piece: bytes) -> bytes:
    return command(0x18, struct.pack("<IH", statement_id, index) + piece)


def by_id(code: int, statement_id: int) -> bytes:
    """CLOSE, RESET, PROCESS_KILL."""
    return command(code, struct.pack("<I", statement_id))


def fetch(statement_id: int, rows: int) -> bytes:
    return command(0x1C, struct.pack("<II", statement_id, rows))


# ------------------------------------------------------------------------------------------------------------- answers


def ok(affected: int = 0, status: int = AUTOCOMMIT, *, insert_id: int = 0, warnings: int = 0, info: bytes = b"", head: int = 0) -> bytes:  # fmt: skip
    return bytes([head]) + lenenc(affected) + lenenc(insert_id) + struct.pack("<HH", status, warnings) + info


def ok_tracked(changes: Sequence[tuple[int, bytes]], status: int = AUTOCOMMIT, info: bytes = b"", *, head: int = 0) -> bytes:  # fmt: skip
    """With SESSION_TRACK: entries of (type, data)."""
    state = b"".join(bytes([kind]) + string(data) for kind, data in changes)
    tail = string(info) + (string(state) if changes else b"")
    return ok(0, status | (STATE if changes else 0), head=head) + tail


def variable(name: str, value: str) -> tuple[int, bytes]:
    return 0, string(name) + string(value)


def schema(name: str) -> tuple[int, bytes]:
    return 1, string(name)


def eof(status: int = AUTOCOMMIT, warnings: int = 0) -> bytes:
    return b"\xfe" + struct.pack("<HH", warnings, status)


def err(number: int = 1064, text: str = "You have an error", state: str = "42000") -> bytes:
    return b"\xff" + struct.pack("<H", number) + b"#" + state.encode() + text.encode()


def column(name: str = "a", kind: int = 253) -> bytes:
    texts = b"".join(string(part) for part in ("def", "s", "t", "t", name, name))
    return texts + b"\x0c" + struct.pack("<HIBHB", 45, 255, kind, 0, 0) + b"\0\0"


def row(*values: bytes | str | None) -> bytes:
    return b"".join(b"\xfb" if value is None else string(value) for value in values)


def prepared(statement_id: int, columns: int, parameters: int) -> bytes:
    return b"\0" + struct.pack("<IHHBH", statement_id, columns, parameters, 0, 0)


def answer(*payloads: bytes, sequence: int = 1) -> bytes:
    """Payloads as consecutive packets."""
    out = b""
    for payload in payloads:
        out += frames(payload, sequence)
        sequence += len(payload) // BIG + 1
    return out


def result(*rows: bytes, columns: int = 1, caps: int = 0, status: int = AUTOCOMMIT, warnings: int = 0) -> list[bytes]:
    """The payloads of a whole result set."""
    says = b"\1" if caps & (OPTIONAL_METADATA | CACHE_METADATA) else b""
    head = [lenenc(columns) + says, *(column(f"c{number}") for number in range(columns))]
    if caps & DEPRECATE_EOF:
        return [*head, *rows, ok(0, status, warnings=warnings, head=0xFE)]
    return [*head, eof(), *rows, eof(status, warnings)]


def split(data: bytes) -> list[tuple[int, bytes]]:
    """(sequence, payload) of whole packets. Raises ValueError if bytes are left."""
    out = []
    while data:
        if len(data) < 4:
            raise ValueError("half a header")
        (head,) = struct.unpack("<I", data[:4])
        size = head & BIG
        if len(data) < 4 + size:
            raise ValueError("half a packet")
        out.append((head >> 24, data[4 : 4 + size]))
        data = data[4 + size :]
    return out
