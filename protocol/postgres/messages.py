"""Decoders of the client's messages after login. Encoders are in wire.py; start-up packets in startup.py.

All take the body: everything after the 5-byte header (type, length). All raise MalformedMessage when counts, lengths or
terminators disagree with the body, so that the proxy and the server can never read one message in two ways.
Source: PostgreSQL manual, "Message Formats".
"""

from __future__ import annotations

import struct
from struct import unpack_from

from protocol.contract import Side
from protocol.errors import MalformedMessage
from protocol.postgres.scan import read_int32, read_uint16


def parse_query(body: bytes) -> bytes:
    """Text of a Query: one NUL, and it is the last byte. NUL inside is what the server would cut the text at."""
    if not body or body.find(0) != len(body) - 1:
        raise MalformedMessage(Side.CLIENT, "Query text is not terminated by its only NUL")
    return body[:-1]


def parse_parse(body: bytes) -> tuple[bytes, bytes, tuple[int, ...]]:
    """Parse → (statement name, text, parameter type OIDs, 0 where unspecified)."""
    name_end = body.find(0)
    text_end = body.find(0, name_end + 1)
    if name_end < 0 or text_end < 0 or len(body) < text_end + 3:
        raise MalformedMessage(Side.CLIENT, "Parse is cut short")
    (count,) = unpack_from(">H", body, text_end + 1)
    if len(body) != text_end + 3 + 4 * count:
        raise MalformedMessage(Side.CLIENT, "Parse names a wrong number of parameter types")
    types = unpack_from(f">{count}I", body, text_end + 3) if count else ()
    return body[:name_end], body[name_end + 1 : text_end], types


def parse_bind(body: bytes) -> tuple[bytes, bytes, tuple[int, ...], tuple[bytes | None, ...]]:
    """Bind → (portal, statement name, parameter formats one per parameter, values with None for NULL)."""
    portal_end = body.find(0)
    name_end = body.find(0, portal_end + 1)
    if portal_end < 0 or name_end < 0:
        raise MalformedMessage(Side.CLIENT, "Bind is cut short")
    position = name_end + 1
    size = len(body)
    try:
        format_count = read_uint16(body, position)
        formats: tuple[int, ...] = unpack_from(f">{format_count}H", body, position + 2) if format_count else ()
        position += 2 + 2 * format_count
        count = read_uint16(body, position)
        position += 2
        values: list[bytes | None] = []
        for _ in range(count):
            length = read_int32(body, position)
            position += 4
            if length == -1:
                values.append(None)
                continue
            following = position + length
            if length < 0 or following > size:
                raise MalformedMessage(Side.CLIENT, "Bind parameter has an impossible length")
            values.append(body[position:following])
            position = following
        result_count = read_uint16(body, position)
    except (struct.error, IndexError) as fault:
        raise MalformedMessage(Side.CLIENT, "Bind is cut short") from fault
    if position + 2 + 2 * result_count != size:
        raise MalformedMessage(Side.CLIENT, "Bind has bytes left over or missing")
    if format_count != count:
        if format_count == 0:
            formats = (0,) * count
        elif format_count == 1:
            formats = formats * count
        else:
            raise MalformedMessage(Side.CLIENT, "Bind has a wrong number of formats")
    if formats and max(formats) > 1:
        raise MalformedMessage(Side.CLIENT, "Bind uses an unknown parameter format")
    return body[:portal_end], body[portal_end + 1 : name_end], formats, tuple(values)


def parse_execute(body: bytes) -> bytes:
    """Execute → portal. The row limit is not looked at: the server's answer says whether it was reached."""
    end = body.find(0)
    if end < 0 or len(body) != end + 5:
        raise MalformedMessage(Side.CLIENT, "Execute has a wrong size")
    return body[:end]


def parse_target(body: bytes) -> tuple[int, bytes]:
    """Describe or Close → (ord("S") statement or ord("P") portal, name)."""
    if len(body) < 2 or body[0] not in b"SP" or body.find(0, 1) != len(body) - 1:
        raise MalformedMessage(Side.CLIENT, "Describe or Close names neither a statement nor a portal")
    return body[0], body[1:-1]


def parse_function_call(body: bytes) -> tuple[int, tuple[int, ...], tuple[bytes | None, ...]]:
    """FunctionCall → (function OID, argument formats one per argument, values)."""
    try:
        (oid, format_count) = unpack_from(">IH", body, 0)
        formats: tuple[int, ...] = unpack_from(f">{format_count}H", body, 6)
        position = 6 + 2 * format_count
        (count,) = unpack_from(">H", body, position)
        position += 2
        values: list[bytes | None] = []
        for _ in range(count):
            (length,) = unpack_from(">i", body, position)
            position += 4
            if length == -1:
                values.append(None)
                continue
            if length < 0 or position + length > len(body):
                raise MalformedMessage(Side.CLIENT, "FunctionCall argument has an impossible length")
            values.append(body[position : position + length])
            position += length
    except struct.error as fault:
        raise MalformedMessage(Side.CLIENT, "FunctionCall is cut short") from fault
    if position + 2 != len(body) or format_count not in (0, 1, count):
        raise MalformedMessage(Side.CLIENT, "FunctionCall counts disagree with its size")
    if format_count != count:
        formats = (formats[0] if format_count else 0,) * count
    return oid, formats, tuple(values)


def parse_parameter_status(body: bytes) -> tuple[str, str]:
    """ParameterStatus → (name, value)."""
    parts = body.split(b"\0")
    if len(parts) != 3 or parts[2] or not parts[0]:
        raise MalformedMessage(Side.SERVER, "ParameterStatus is not two terminated strings")
    return parts[0].decode("utf-8", "replace"), parts[1].decode("utf-8", "replace")


def parse_parameter_description(body: bytes) -> tuple[int, ...]:
    """ParameterDescription → type OIDs."""
    if len(body) < 2 or len(body) != 2 + 4 * int.from_bytes(body[:2], "big"):
        raise MalformedMessage(Side.SERVER, "ParameterDescription count disagrees with its size")
    return unpack_from(f">{(len(body) - 2) // 4}I", body, 2)


def parse_row(body: bytes) -> tuple[bytes | None, ...]:
    """DataRow → field values, None for NULL. Only for the proxy's own queries: other people's rows are not decoded."""
    check_row(body, 0, len(body))
    values: list[bytes | None] = []
    position = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        (length,) = unpack_from(">i", body, position)
        position += 4
        values.append(None if length < 0 else body[position : position + length])
        position += max(length, 0)
    return tuple(values)


def check_row(data: bytes, position: int, end: int) -> None:
    """Raise MalformedMessage unless data[position:end] is a DataRow body whose field lengths add up."""
    try:
        count = read_uint16(data, position)
        position += 2
        for _ in range(count):
            length = read_int32(data, position)
            position += 4
            if length > 0:
                position += length
            elif length < -1:
                raise MalformedMessage(Side.SERVER, "DataRow field has a negative length")
    except IndexError as fault:
        raise MalformedMessage(Side.SERVER, "DataRow is cut short") from fault
    if position != end:
        raise MalformedMessage(Side.SERVER, "DataRow fields disagree with its size")
