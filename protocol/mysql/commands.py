"""The commands a client sends, decoded: one function for each payload that has a layout of its own.

A payload is `command(1) body`; positions here are those of the body within the bytes that hold it. Nothing is judged here.
Source: MySQL Internals, "Command Phase"; MariaDB documentation, "COM_STMT_BULK_EXECUTE".
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

from protocol.contract import Side
from protocol.errors import MalformedMessage
from protocol.mysql.parameters import DEFAULT, IGNORE, MORE_ROWS, read_value
from protocol.mysql.wire import UINT16, UINT32, Capability, read_length, read_text

CLIENT = Side.CLIENT
LAST_PREPARED = 0xFFFFFFFF
"""MariaDB: the statement that was prepared last."""

_QUERY_ATTRIBUTES = int(Capability.QUERY_ATTRIBUTES)
_PARAMETER_COUNT_AVAILABLE = 0x08
_CURSORS = 0x07
_SEND_TYPES = 128
_UNIT_RESULTS = 64
_MAX_BULK_VALUES = 1000
"""Of a bulk execution, kept for the audit trail one by one; the rest as a number and a digest."""

Values = tuple[bytes | None, ...]
Types = tuple[int, ...]


class Command(IntEnum):
    """First byte of what a client sends in the command phase."""

    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    FIELD_LIST = 0x04
    CREATE_DB = 0x05
    DROP_DB = 0x06
    REFRESH = 0x07
    SHUTDOWN = 0x08
    STATISTICS = 0x09
    PROCESS_INFO = 0x0A
    PROCESS_KILL = 0x0C
    DEBUG = 0x0D
    PING = 0x0E
    CHANGE_USER = 0x11
    BINLOG_DUMP = 0x12
    TABLE_DUMP = 0x13
    CONNECT_OUT = 0x14
    REGISTER_SLAVE = 0x15
    STMT_PREPARE = 0x16
    STMT_EXECUTE = 0x17
    STMT_SEND_LONG_DATA = 0x18
    STMT_CLOSE = 0x19
    STMT_RESET = 0x1A
    SET_OPTION = 0x1B
    STMT_FETCH = 0x1C
    DAEMON = 0x1D
    BINLOG_DUMP_GTID = 0x1E
    RESET_CONNECTION = 0x1F
    CLONE = 0x20
    SUBSCRIBE_GROUP_REPLICATION_STREAM = 0x21
    STMT_BULK_EXECUTE = 0xFA
    MULTI = 0xFE


class LongData:
    """What COM_STMT_SEND_LONG_DATA gave for one parameter. head: all of it while it is short enough to keep, else None."""

    __slots__ = ("digest", "head", "size")

    def __init__(self) -> None:
        self.head: bytes | None = b""
        self.size = 0
        self.digest = hashlib.sha256()

    def add(self, piece: bytes, keep: int) -> None:
        """keep: bytes that are kept as they are; beyond that only size and digest are known."""
        self.size += len(piece)
        self.digest.update(piece)
        if self.head is not None:
            self.head = self.head + piece if self.size <= keep else None

    def describe(self) -> bytes:
        return b"<%d bytes, sha256 %b>" % (self.size, self.digest.hexdigest().encode())


def parse_statement_id(data: bytes, position: int, end: int, size: int) -> int:
    """The id at the start of a body of exactly this size. Raises MalformedMessage."""
    if end - position != size:
        raise MalformedMessage(CLIENT, "a command of impossible size")
    (statement_id,) = UINT32.unpack_from(data, position)
    return int(statement_id)


def parse_query(data: bytes, position: int, end: int, capabilities: int) -> tuple[bytes, Values, Types]:
    """(text, query attributes, their types) of a COM_QUERY body."""
    if not capabilities & _QUERY_ATTRIBUTES:
        return data[position:end], (), ()
    count, position = read_length(data, position, end, CLIENT)
    sets, position = read_length(data, position, end, CLIENT)
    if sets != 1:
        raise MalformedMessage(CLIENT, "a query with more or less than one set of attributes")
    if not count:
        return data[position:end], (), ()
    values, types, position = _read_bound(data, position, end, count, None, {}, has_names=True)
    return data[position:end], values, types


def parse_execute(
    data: bytes,
    position: int,
    end: int,
    capabilities: int,
    count: int,
    known: Types | None,
    long_data: dict[int, LongData],
) -> tuple[Values, Types, int]:
    """(values, types, where the types would be if they are not in it, else 0) of a COM_STMT_EXECUTE body, with the id at its beginning.

    count: parameters of the statement; known: their types as sent before, None if they never were. With query attributes the
    message may bind more values than the statement has parameters: they come last and are returned like the others.
    Raises MalformedMessage.
    """
    if end - position < 9:
        raise MalformedMessage(CLIENT, "an execution without flags")
    flags = data[position + 4]
    position += 9
    bound = count
    has_names = bool(capabilities & _QUERY_ATTRIBUTES)
    if flags & ~(_CURSORS | (_PARAMETER_COUNT_AVAILABLE if has_names else 0)):
        raise MalformedMessage(CLIENT, "unknown flags of an execution")
    if has_names and (count or flags & _PARAMETER_COUNT_AVAILABLE):
        bound, position = read_length(data, position, end, CLIENT)
        if bound < count:
            raise MalformedMessage(CLIENT, "fewer values than the statement has parameters")
    if not bound:
        if position != end:
            raise MalformedMessage(CLIENT, "values for a statement without parameters")
        return (), (), 0
    fresh = position + ((bound + 7) >> 3)
    values, types, position = _read_bound(data, position, end, bound, known, long_data, has_names=has_names)
    if position != end:
        raise MalformedMessage(CLIENT, "bytes after the last parameter")
    return values, types, 0 if data[fresh] else fresh


def _read_bound(
    data: bytes,
    position: int,
    end: int,
    count: int,
    known: Types | None,
    long_data: dict[int, LongData],
    *,
    has_names: bool,
) -> tuple[Values, Types, int]:
    """`null bitmap, new types(1), [type(2) [name]]…, value…`. Returns (values, types, where it ends)."""
    bitmap = position
    position += (count + 7) >> 3
    if position >= end:
        raise MalformedMessage(CLIENT, "more parameters than the message holds")
    fresh = data[position]
    position += 1
    if fresh == 1:
        kinds: list[int] = []
        for _ in range(count):
            if position + 2 > end:
                raise MalformedMessage(CLIENT, "more parameters than the message holds")
            (kind,) = UINT16.unpack_from(data, position)
            if kind & 0x7F00:
                raise MalformedMessage(CLIENT, "unknown flags of a parameter")
            kinds.append(kind)
            position += 2
            if has_names:
                _, position = read_text(data, position, end, CLIENT)
        types = tuple(kinds)
    elif fresh == 0 and known is not None and len(known) == count:
        types = known
    else:
        raise MalformedMessage(CLIENT, "parameters whose types were never sent")
    values: list[bytes | None] = []
    for index in range(count):
        if index in long_data:
            sent = long_data[index]
            values.append(sent.head if sent.head is not None else sent.describe())
        elif data[bitmap + (index >> 3)] >> (index & 7) & 1:
            values.append(None)
        else:
            value, position = read_value(types[index], data, position, end)
            values.append(value)
    return tuple(values), types, position


def insert_types(payload: bytes, at: int, types: Types, *, has_names: bool) -> bytes:
    """The payload of a COM_STMT_EXECUTE whose types are left out, with them. at: see parse_execute, within this payload."""
    name = b"\0" if has_names else b""
    return payload[:at] + b"\1" + b"".join(UINT16.pack(kind) + name for kind in types) + payload[at + 1 :]


def parse_bulk(
    data: bytes, position: int, end: int, count: int, known: Types | None
) -> tuple[int, Values, Types, Types]:
    """(row sets, values, their types, types of one row set) of a COM_STMT_BULK_EXECUTE body, with the id at its beginning.

    All row sets are decoded; of a long list the first values are returned one by one and a note about the rest.
    Raises MalformedMessage.
    """
    if end - position < 6 or not count:
        raise MalformedMessage(CLIENT, "a bulk execution without flags or without parameters")
    (flags,) = UINT16.unpack_from(data, position + 4)
    position += 6
    if flags & ~(_SEND_TYPES | _UNIT_RESULTS):
        raise MalformedMessage(CLIENT, "unknown flags of a bulk execution")
    if flags & _SEND_TYPES:
        if position + 2 * count > end:
            raise MalformedMessage(CLIENT, "more parameters than the message holds")
        row = tuple(UINT16.unpack_from(data, position + 2 * index)[0] for index in range(count))
        position += 2 * count
        if any(kind & 0x7F00 for kind in row):
            raise MalformedMessage(CLIENT, "unknown flags of a parameter")
    elif known is not None and len(known) == count:
        row = known
    else:
        raise MalformedMessage(CLIENT, "parameters whose types were never sent")
    rows = 0
    values: list[bytes | None] = []
    types: list[int] = []
    rest = 0
    while position < end:
        rows += 1
        for kind in row:
            if position >= end:
                raise MalformedMessage(CLIENT, "a row set that is not complete")
            indicator = data[position]
            position += 1
            value: bytes | None = None
            shown = kind
            if indicator == 0:
                value, position = read_value(kind, data, position, end)
            elif indicator in (2, 3):
                shown = DEFAULT if indicator == 2 else IGNORE
                value = b""
            elif indicator != 1:
                raise MalformedMessage(CLIENT, "unknown indicator of a parameter")
            if len(values) < _MAX_BULK_VALUES:
                values.append(value)
                types.append(shown)
                rest = position
    if not rows:
        raise MalformedMessage(CLIENT, "a bulk execution without values")
    if rows * count > len(values):
        digest = hashlib.sha256(data[rest:end]).hexdigest().encode()
        values.append(b"<%d more values of %d row sets, sha256 %b>" % (rows * count - len(values), rows, digest))
        types.append(MORE_ROWS)
    return rows, tuple(values), tuple(types), row


def use_text(name: bytes) -> bytes | None:
    """COM_INIT_DB as SQL. None if the name cannot be written as SQL with certainty."""
    quoted = quote(name)
    return None if quoted is None else b"USE " + quoted


def field_list_text(body: bytes) -> bytes | None:
    """COM_FIELD_LIST as SQL: `table NUL [pattern]`. None if it cannot be written as SQL with certainty."""
    table, found, pattern = body.partition(b"\0")
    quoted = quote(table)
    if not found or quoted is None:
        return None
    pattern = pattern.rstrip(b"\0")
    if not pattern or pattern == b"%":
        return b"SHOW COLUMNS FROM " + quoted
    if not pattern.isascii() or b"'" in pattern or b"\\" in pattern or b"\0" in pattern:
        return None
    return b"SHOW COLUMNS FROM " + quoted + b" LIKE '" + pattern + b"'"


def quote(name: bytes) -> bytes | None:
    """A name in backticks. None if it is empty, or if a backtick in it may be half of a character.

    Where the last byte of the name and our backtick would be one character, the text ends within a name: it cannot be read,
    and is refused like any other such text.
    """
    if not name or b"\0" in name or (b"`" in name and not name.isascii()):
        return None
    return b"`" + name.replace(b"`", b"``") + b"`"


_REFRESH = (
    (1, b"PRIVILEGES"),
    (2, b"LOGS"),
    (4, b"TABLES"),
    (8, b"HOSTS"),
    (16, b"STATUS"),
    (32, b"THREADS"),
    (64, b"SLAVE"),
    (128, b"MASTER"),
)


def refresh_text(body: bytes) -> bytes | None:
    """COM_REFRESH as SQL; None if there is no such SQL."""
    flags = int.from_bytes(body, "little")
    words = [word for bit, word in _REFRESH if flags & bit]
    return b"FLUSH " + b", ".join(words) if words and flags < 256 else None
