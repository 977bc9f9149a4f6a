"""A MySQL client that sends what it is told to, as many commands at once as it is told to, and reads packets.

It is logged in by PyMySQL, over TLS, and from then on PyMySQL only lends its socket; or by `login`, with capabilities of the test's choice.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any

import pymysql
from support import my_bytes as my

Packet = tuple[int, bytes]
CONNECT_WITH_DB, SSL, SECURE, MULTI, PLUGIN_AUTH, CONNECT_ATTRS, LENENC = (
    *(8, 1 << 11, 1 << 15),
    *(1 << 16, 1 << 19, 1 << 20, 1 << 21),
)
NEEDED = my.PROTOCOL_41 | SSL | SECURE | PLUGIN_AUTH | LENENC


@dataclass
class _Link:
    """What RawMySQL wants of a connection."""

    _sock: Any


class RawMySQL:
    """Over a PyMySQL connection that nothing else uses."""

    def __init__(self, connection: Any) -> None:
        self._socket = connection._sock
        self._pending = b""

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def packet(self) -> Packet:
        """(sequence, payload) of the next packet. Raises EOFError when there is none any more."""
        while True:
            if len(self._pending) >= 4:
                (head,) = struct.unpack_from("<I", self._pending)
                end = 4 + (head & my.BIG)
                if len(self._pending) >= end:
                    payload, self._pending = self._pending[4:end], self._pending[end:]
                    return head >> 24, payload
            more = self._socket.recv(65_536)
            if not more:
                raise EOFError
            self._pending += more

    def until(self, marker: bytes) -> list[Packet]:
        """All packets up to the row that is the marker, and the packet that ends its result."""
        packets: list[Packet] = []
        row = my.string(marker)
        while not packets or packets[-1][1] != row:
            packets.append(self.packet())
        packets.append(self.packet())
        return packets

    def ask(self, *frames: bytes, marker: str) -> list[Packet]:
        """Send all at once and read every answer."""
        self.send(b"".join(frames) + my.query(f"select '{marker}'"))
        return self.until(marker.encode())

    def prepare(self, text: str) -> int | None:
        """The id of a prepared statement; None if it was refused."""
        self.send(my.prepare(text))
        _, payload = self.packet()
        if payload[:1] != b"\0":
            return None
        number, columns, parameters = struct.unpack_from("<IHH", payload, 1)
        for count in (parameters, columns):
            for _ in range(count + 1 if count else 0):
                self.packet()
        return int(number)


def login(
    port: int, user: str, password: str, *, capabilities: int = 0, database: str = "", charset: int = 45
) -> tuple[RawMySQL, int]:
    """Log in with exactly these capabilities besides those that a login needs, and the ones that the greeting offered.

    TLS is not verified: the proxy's certificate is not what is tested. Raises pymysql's OperationalError when it is refused.
    """
    link = socket.create_connection(("127.0.0.1", port), timeout=20)
    try:
        return _log_in(link, user, password, capabilities, database, charset)
    except BaseException:
        link.close()
        raise


def _log_in(
    link: socket.socket, user: str, password: str, capabilities: int, database: str, charset: int
) -> tuple[RawMySQL, int]:
    talk = RawMySQL(_Link(link))
    _, greeting = talk.packet()
    at = greeting.index(b"\0", 1) + 1
    nonce = greeting[at + 4 : at + 12] + greeting[at + 31 : at + 43]
    low, high = (int.from_bytes(greeting[first : first + 2], "little") for first in (at + 13, at + 18))
    offered = low | high << 16
    if not offered & 1:
        offered |= int.from_bytes(greeting[at + 27 : at + 31], "little") << 32
    flags = capabilities | NEEDED | (CONNECT_WITH_DB if database else 0)
    head = struct.pack("<IIB", flags & 0xFFFFFFFF, 1 << 24, charset) + b"\0" * 19
    head += struct.pack("<I", 0 if flags & 1 else flags >> 32)
    talk.send(my.frame(head, 1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secured = context.wrap_socket(link)
    try:
        return _prove(RawMySQL(_Link(secured)), head, flags, user, password, nonce, database), offered
    except BaseException:
        secured.close()
        raise


def _prove(talk: RawMySQL, head: bytes, flags: int, user: str, password: str, nonce: bytes, database: str) -> RawMySQL:
    body = head + user.encode() + b"\0" + my.string(_fast_proof(password.encode(), nonce))
    body += (database.encode() + b"\0" if database else b"") + b"caching_sha2_password\0"
    talk.send(my.frame(body + (b"\0" if flags & CONNECT_ATTRS else b""), 2))
    while True:
        sequence, payload = talk.packet()
        if payload == b"\1\4":
            talk.send(my.frame(password.encode() + b"\0", sequence + 1))
        elif payload[:1] == b"\0":
            return talk
        elif payload[:1] == b"\xff":
            raise pymysql.err.OperationalError(int.from_bytes(payload[1:3], "little"), payload[9:].decode())


def _fast_proof(password: bytes, nonce: bytes) -> bytes:
    once = hashlib.sha256(password).digest()
    mask = hashlib.sha256(hashlib.sha256(once).digest() + nonce).digest()
    return bytes(a ^ b for a, b in zip(once, mask, strict=True))
