"""Constants and small encoders of the MySQL protocol: packets, length-encoded values, capabilities, OK, ERR and EOF.

A packet is `length(3) sequence(1) payload`, integers little endian. A payload of 2^24-1 bytes goes on in the next packet.
Decoders of whole answers are in answers.py, of commands in commands.py, the packets of a login in greeting.py.
Source: MySQL Internals, "MySQL Protocol"; MariaDB documentation, "Client/Server Protocol".
"""

from __future__ import annotations

from enum import IntFlag
from struct import Struct

from protocol.contract import Refusal, Side, Why
from protocol.errors import MalformedMessage

HEADER = Struct("<I")
"""Length in the low three bytes, sequence id in the high one."""
HEADER_BYTES = 4
MAX_PAYLOAD = 0xFFFFFF
"""A packet of this size is followed by another one of the same payload, which may be empty."""
UINT16 = Struct("<H")
UINT32 = Struct("<I")
UINT64 = Struct("<Q")

OK = 0x00
EOF = 0xFE
ERR = 0xFF
LOCAL_INFILE = 0xFB
MAX_EOF_BYTES = 9
"""A packet that begins with 0xFE and is longer is a row, unless EOF packets are deprecated."""
PROGRESS = 0xFFFF
"""MariaDB: an ERR packet with this number reports progress; the answer goes on."""


class Capability(IntFlag):
    """Of the handshake. Source: mysql_com.h of both servers."""

    LONG_PASSWORD = 1 << 0
    """MariaDB: CLIENT_MYSQL, unset by a peer that speaks MariaDB's extension."""
    FOUND_ROWS = 1 << 1
    LONG_FLAG = 1 << 2
    CONNECT_WITH_DB = 1 << 3
    NO_SCHEMA = 1 << 4
    COMPRESS = 1 << 5
    ODBC = 1 << 6
    LOCAL_FILES = 1 << 7
    IGNORE_SPACE = 1 << 8
    PROTOCOL_41 = 1 << 9
    INTERACTIVE = 1 << 10
    SSL = 1 << 11
    IGNORE_SIGPIPE = 1 << 12
    TRANSACTIONS = 1 << 13
    RESERVED = 1 << 14
    SECURE_CONNECTION = 1 << 15
    MULTI_STATEMENTS = 1 << 16
    MULTI_RESULTS = 1 << 17
    PS_MULTI_RESULTS = 1 << 18
    PLUGIN_AUTH = 1 << 19
    CONNECT_ATTRS = 1 << 20
    PLUGIN_AUTH_LENENC = 1 << 21
    CAN_HANDLE_EXPIRED_PASSWORDS = 1 << 22
    SESSION_TRACK = 1 << 23
    DEPRECATE_EOF = 1 << 24
    OPTIONAL_RESULTSET_METADATA = 1 << 25
    ZSTD_COMPRESSION = 1 << 26
    QUERY_ATTRIBUTES = 1 << 27
    MULTI_FACTOR = 1 << 28
    CAPABILITY_EXTENSION = 1 << 29
    """MySQL: reserved; MariaDB: an obsolete form of progress reports."""
    SSL_VERIFY_SERVER_CERT = 1 << 30
    REMEMBER_OPTIONS = 1 << 31
    # MariaDB's extension, in four bytes of their own.
    MARIADB_PROGRESS = 1 << 32
    MARIADB_COM_MULTI = 1 << 33
    MARIADB_BULK = 1 << 34
    MARIADB_EXTENDED_METADATA = 1 << 35
    MARIADB_CACHE_METADATA = 1 << 36
    MARIADB_BULK_UNIT_RESULTS = 1 << 37


class Status(IntFlag):
    """SERVER_STATUS_ flags of OK and EOF packets that matter here."""

    IN_TRANS = 0x0001
    AUTOCOMMIT = 0x0002
    MORE_RESULTS = 0x0008
    CURSOR_EXISTS = 0x0040
    LAST_ROW_SENT = 0x0080
    SESSION_STATE_CHANGED = 0x4000


ERRNO = {
    Why.BLOCKED: 1142,  # ER_TABLEACCESS_DENIED_ERROR
    Why.LIMIT: 1226,  # ER_USER_LIMIT_REACHED
    Why.AUDIT_DOWN: 1105,  # ER_UNKNOWN_ERROR
    Why.POLICY_ERROR: 1105,
    Why.CAPACITY: 1040,  # ER_CON_COUNT_ERROR
    Why.SHUTDOWN: 1053,  # ER_SERVER_SHUTDOWN
    Why.IDLE: 4031,  # ER_CLIENT_INTERACTION_TIMEOUT
    Why.IDLE_IN_TRANSACTION: 4031,
    Why.TOO_LONG: 1317,  # ER_QUERY_INTERRUPTED
    Why.PROTOCOL: 1835,  # ER_MALFORMED_PACKET
    Why.TOO_LARGE: 1153,  # ER_NET_PACKET_TOO_LARGE
    Why.LOGIN: 1045,  # ER_ACCESS_DENIED_ERROR
    Why.UNKNOWN_PREPARED: 1243,  # ER_UNKNOWN_STMT_HANDLER
    Why.UNKNOWN_CURSOR: 1325,  # ER_SP_CURSOR_NOT_OPEN
    Why.UNSUPPORTED: 1235,  # ER_NOT_SUPPORTED_YET
    Why.SERVER_LOST: 1158,  # ER_NET_READ_ERROR
}
"""What the client sees for each reason: the error table of the design."""
UNKNOWN_STATEMENT = 1243  # ER_UNKNOWN_STMT_HANDLER
_SQLSTATE = {
    1040: "08004",
    1044: "42000",
    1045: "28000",
    1049: "42000",
    1053: "08S01",
    1142: "42000",
    1153: "08S01",
    1158: "08S01",
    1226: "42000",
    1227: "42000",
    1235: "42000",
    1317: "70100",
}
_MAX_MESSAGE_BYTES = 510
"""MYSQL_ERRMSG_SIZE of the client libraries is 512: they cut what is longer."""


def packet(sequence: int, payload: bytes) -> bytes:
    """One payload as packets, cut where the protocol demands. sequence: of the first one."""
    if len(payload) < MAX_PAYLOAD:
        return HEADER.pack(len(payload) | (sequence & 0xFF) << 24) + payload
    parts: list[bytes] = []
    for at in range(0, len(payload) + 1, MAX_PAYLOAD):
        part = payload[at : at + MAX_PAYLOAD]
        parts.append(HEADER.pack(len(part) | (sequence & 0xFF) << 24) + part)
        sequence += 1
    return b"".join(parts)


def error(sequence: int, number: int, text: str, sqlstate: str = "") -> bytes:
    """An ERR packet. The text is cut to what clients take; NUL bytes in it are dropped."""
    state = sqlstate or _SQLSTATE.get(number, "HY000")
    encoded = text.replace("\0", "").encode("utf-8", "replace")
    if len(encoded) > _MAX_MESSAGE_BYTES:
        encoded = encoded[: _MAX_MESSAGE_BYTES - 3].decode("utf-8", "ignore").encode() + b"..."
    return packet(sequence, b"\xff" + UINT16.pack(number) + b"#" + state.encode() + encoded)


def refusal_text(refusal: Refusal) -> str:
    """Message, detail and hint in one: there is one text in an ERR packet."""
    text = refusal.message
    if refusal.detail:
        text += f": {refusal.detail}"
    if refusal.hint:
        text += ("" if text.endswith(".") else ".") + f" {refusal.hint}"
    return text


def refusal_error(sequence: int, refusal: Refusal) -> bytes:
    """The ERR packet for a refusal."""
    return error(sequence, ERRNO[refusal.why], refusal_text(refusal))


def encode_length(number: int) -> bytes:
    """A length-encoded integer."""
    if number < 0xFB:
        return bytes((number,))
    if number <= 0xFFFF:
        return b"\xfc" + number.to_bytes(2, "little")
    if number <= 0xFFFFFF:
        return b"\xfd" + number.to_bytes(3, "little")
    return b"\xfe" + number.to_bytes(8, "little")


def encode_text(value: bytes) -> bytes:
    """A length-encoded string."""
    return encode_length(len(value)) + value


def read_length(data: bytes, position: int, end: int, side: Side) -> tuple[int, int]:
    """A length-encoded integer at position, within data[:end]. Returns (value, where it ends). Raises MalformedMessage.

    0xFB (NULL in text rows) and 0xFF have no meaning here and are refused.
    """
    if position >= end:
        raise MalformedMessage(side, "a length is missing")
    first = data[position]
    if first < 0xFB:
        return first, position + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    following = position + 1 + size
    if not size or following > end:
        raise MalformedMessage(side, "a length that no length can have")
    return int.from_bytes(data[position + 1 : following], "little"), following


def read_text(data: bytes, position: int, end: int, side: Side) -> tuple[bytes, int]:
    """A length-encoded string at position, within data[:end]. Returns (value, where it ends). Raises MalformedMessage."""
    size, start = read_length(data, position, end, side)
    if size > end - start:
        raise MalformedMessage(side, "a string is longer than its packet")
    return data[start : start + size], start + size
