"""The packets that open a MySQL connection: greeting, SSLRequest, HandshakeResponse41, AuthSwitchRequest; and the capabilities to agree on.

Only what the relay decodes is offered, and only what the target's own greeting offers, so that results can pass byte by byte.
Counterpart: client_login.py and server_login.py, which say them in order.
Source: MySQL Internals, "Connection Phase Packets"; MariaDB documentation, "Connecting".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct

from protocol.contract import Side
from protocol.errors import MalformedMessage
from protocol.mysql.wire import Capability, encode_text, read_text

NONCE_BYTES = 20
SSL_REQUEST_BYTES = 32
CACHING_SHA2 = "caching_sha2_password"
_PROTOCOL_VERSION = 10
_HEAD = Struct("<HBHHB")
_RESPONSE = Struct("<IIB")

DECODED = (
    Capability.LONG_PASSWORD
    | Capability.FOUND_ROWS
    | Capability.LONG_FLAG
    | Capability.CONNECT_WITH_DB
    | Capability.NO_SCHEMA
    | Capability.ODBC
    | Capability.IGNORE_SPACE
    | Capability.PROTOCOL_41
    | Capability.INTERACTIVE
    | Capability.IGNORE_SIGPIPE
    | Capability.TRANSACTIONS
    | Capability.RESERVED
    | Capability.SECURE_CONNECTION
    | Capability.MULTI_STATEMENTS
    | Capability.MULTI_RESULTS
    | Capability.PS_MULTI_RESULTS
    | Capability.PLUGIN_AUTH
    | Capability.CONNECT_ATTRS
    | Capability.PLUGIN_AUTH_LENENC
    | Capability.CAN_HANDLE_EXPIRED_PASSWORDS
    | Capability.SESSION_TRACK
    | Capability.DEPRECATE_EOF
    | Capability.OPTIONAL_RESULTSET_METADATA
    | Capability.QUERY_ATTRIBUTES
    | Capability.SSL_VERIFY_SERVER_CERT
    | Capability.REMEMBER_OPTIONS
    | Capability.MARIADB_PROGRESS
    | Capability.MARIADB_BULK
    | Capability.MARIADB_EXTENDED_METADATA
    | Capability.MARIADB_CACHE_METADATA
    | Capability.MARIADB_BULK_UNIT_RESULTS
)
"""What may be offered. Everything else is masked, and has no effect when a client sets it all the same, but for COMPRESSED."""
COMPRESSED = Capability.COMPRESS | Capability.ZSTD_COMPRESSION | Capability.MARIADB_COM_MULTI
"""A client that sets one of these unasked would go on in frames that nobody decodes: its login ends."""
NEEDED = Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION | Capability.PLUGIN_AUTH


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server says first. capabilities: with MariaDB's extension in the high half."""

    version: str
    thread_id: int
    capabilities: int
    charset: int
    status: int
    plugin: str
    nonce: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """HandshakeResponse41. attributes: of the client's program, in order. raw_attributes: the same as they came."""

    capabilities: int
    max_packet: int
    charset: int
    user: bytes
    database: bytes
    plugin: str
    attributes: tuple[tuple[str, str], ...]
    raw_attributes: bytes
    proof: bytes = field(repr=False)


def parse_greeting(payload: bytes) -> Greeting:
    """Decode a server's greeting. Raises MalformedMessage."""
    end_of_version = payload.find(b"\0", 1)
    if payload[:1] != b"\x0a" or end_of_version < 0 or len(payload) < end_of_version + 45:
        raise MalformedMessage(Side.SERVER, "not a greeting of protocol version 10")
    version = payload[1:end_of_version].decode("ascii", "replace")
    at = end_of_version + 1
    thread_id = int.from_bytes(payload[at : at + 4], "little")
    first = payload[at + 4 : at + 12]
    low, charset, status, high, size = _HEAD.unpack_from(payload, at + 13)
    capabilities = low | high << 16
    if not capabilities & Capability.LONG_PASSWORD:
        capabilities |= int.from_bytes(payload[at + 27 : at + 31], "little") << 32
    at += 31
    rest = max(13, size - 8)
    nonce = first + payload[at : at + rest].rstrip(b"\0")
    at += rest
    plugin = payload[at:].partition(b"\0")[0].decode("ascii", "replace")
    if len(nonce) > NONCE_BYTES:
        nonce = nonce[:NONCE_BYTES]
    return Greeting(version, thread_id, capabilities, charset, status, plugin, nonce)


def build_greeting(greeting: Greeting) -> bytes:
    """The payload of a greeting."""
    capabilities = int(greeting.capabilities)
    head = _HEAD.pack(
        capabilities & 0xFFFF, greeting.charset, greeting.status, capabilities >> 16 & 0xFFFF, NONCE_BYTES + 1
    )
    extension = b"\0" * 4 if capabilities & Capability.LONG_PASSWORD else (capabilities >> 32).to_bytes(4, "little")
    return b"".join(
        (
            bytes((_PROTOCOL_VERSION,)),
            greeting.version.encode("ascii", "replace") + b"\0",
            greeting.thread_id.to_bytes(4, "little"),
            greeting.nonce[:8] + b"\0",
            head,
            b"\0" * 6 + extension,
            greeting.nonce[8:] + b"\0",
            greeting.plugin.encode() + b"\0",
        )
    )


def offer(server: int, *, has_tls: bool, allows_local_files: bool) -> int:
    """The capabilities to offer to clients of a server with these."""
    offered = server & DECODED
    if allows_local_files:
        offered |= server & Capability.LOCAL_FILES
    if has_tls:
        offered |= Capability.SSL
    return int(offered | NEEDED)


def is_ssl_request(payload: bytes) -> bool:
    return len(payload) == SSL_REQUEST_BYTES and bool(int.from_bytes(payload[:4], "little") & Capability.SSL)


def parse_response(payload: bytes) -> Response:
    """Decode a HandshakeResponse41. Raises MalformedMessage."""
    side = Side.CLIENT
    end = len(payload)
    if end < 33:
        raise MalformedMessage(side, "handshake response is too short")
    capabilities, max_packet, charset = _RESPONSE.unpack_from(payload)
    if not capabilities & Capability.PROTOCOL_41:
        raise MalformedMessage(side, "a client older than MySQL 4.1")
    if not capabilities & Capability.LONG_PASSWORD:
        capabilities |= int.from_bytes(payload[28:32], "little") << 32
    user, at = _read_nul(payload, 32)
    if capabilities & Capability.PLUGIN_AUTH_LENENC:
        proof, at = read_text(payload, at, end, side)
    elif capabilities & Capability.SECURE_CONNECTION:
        size = payload[at] if at < end else end
        proof = payload[at + 1 : at + 1 + size]
        at += 1 + size
        if at > end:
            raise MalformedMessage(side, "a proof is longer than its packet")
    else:
        proof, at = _read_nul(payload, at)
    database = b""
    if capabilities & Capability.CONNECT_WITH_DB and at < end:
        database, at = _read_nul(payload, at)
    plugin = b""
    if capabilities & Capability.PLUGIN_AUTH and at < end:
        plugin, at = _read_nul(payload, at)
    raw = b""
    if capabilities & Capability.CONNECT_ATTRS and at < end:
        raw, at = read_text(payload, at, end, side)
    return Response(
        capabilities,
        max_packet,
        charset,
        user,
        database,
        plugin.decode("ascii", "replace"),
        _attributes(raw),
        raw,
        proof,
    )


def _read_nul(payload: bytes, at: int) -> tuple[bytes, int]:
    """Bytes up to a NUL. The last one in a packet may lack it, as servers let pass."""
    end = payload.find(b"\0", at)
    return (payload[at:end], end + 1) if end >= 0 else (payload[at:], len(payload))


def _attributes(raw: bytes) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(raw):
        name, at = read_text(raw, at, len(raw), Side.CLIENT)
        value, at = read_text(raw, at, len(raw), Side.CLIENT)
        pairs.append((name.decode("utf-8", "replace"), value.decode("utf-8", "replace")))
    return tuple(pairs)


def build_ssl_request(capabilities: int, max_packet: int, charset: int) -> bytes:
    """The payload with which a client asks for TLS; also the beginning of a handshake response."""
    extension = b"\0" * 4 if capabilities & Capability.LONG_PASSWORD else (capabilities >> 32).to_bytes(4, "little")
    return _RESPONSE.pack(capabilities & 0xFFFFFFFF, max_packet, charset) + b"\0" * 19 + extension


def build_response(response: Response) -> bytes:
    """The payload of a handshake response. Its capabilities say which parts it has."""
    capabilities = response.capabilities
    parts = [build_ssl_request(capabilities, response.max_packet, response.charset), response.user + b"\0"]
    if capabilities & Capability.PLUGIN_AUTH_LENENC:
        parts.append(encode_text(response.proof))
    else:
        parts.append(bytes((len(response.proof),)) + response.proof)
    if capabilities & Capability.CONNECT_WITH_DB:
        parts.append(response.database + b"\0")
    parts.append(response.plugin.encode() + b"\0")
    if capabilities & Capability.CONNECT_ATTRS:
        parts.append(encode_text(response.raw_attributes))
    return b"".join(parts)


def parse_switch(payload: bytes) -> tuple[str, bytes]:
    """(plugin, its data without a final NUL) of an AuthSwitchRequest; ("", b"") for the request of servers before 4.1."""
    plugin, _, data = payload[1:].partition(b"\0")
    return plugin.decode("ascii", "replace"), data.removesuffix(b"\0")


def build_switch(plugin: str, nonce: bytes) -> bytes:
    return b"\xfe" + plugin.encode() + b"\0" + nonce + b"\0"
