"""A PostgreSQL client that sends exactly the bytes it is told to: what no driver would do, a hostile one does.

Blocking, with a timeout on every read. Logs in with SCRAM-SHA-256, in clear or after a TLS handshake. Works alike with
the proxy and with the server itself, so that the two can be compared.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from support import pg_bytes as pg

Message = tuple[str, bytes]


class Left(Exception):
    """The peer closed the connection."""


@dataclass
class RawClient:
    """A connection. process_id, secret: from BackendKeyData; parameters: as reported during login."""

    stream: socket.socket
    process_id: int = 0
    secret: bytes = b""
    parameters: dict[str, str] = field(default_factory=dict)
    _buffer: bytearray = field(default_factory=bytearray)

    @classmethod
    def open(cls, host: str, port: int, timeout_s: float = 15, source: str = "") -> RawClient:
        """source: our own address, for what the proxy counts by address; any of 127.0.0.0/8."""
        stream = socket.create_connection((host, port), timeout_s, (source, 0) if source else None)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(stream)

    @property
    def is_within_message(self) -> bool:
        """A part of a message has come, and not its end."""
        return bool(self._buffer)

    def secure(self, context: ssl.SSLContext) -> None:
        self.send(pg.ssl_request())
        assert self.stream.recv(1) == b"S"
        self.stream = context.wrap_socket(self.stream, server_hostname="localhost")

    def send(self, *frames: bytes) -> None:
        self.stream.sendall(b"".join(frames))

    def read(self) -> Message:
        """The next message. Raises Left at the end, TimeoutError when nothing comes."""
        while True:
            if len(self._buffer) >= 5:
                size = int.from_bytes(self._buffer[1:5], "big") + 1
                if len(self._buffer) >= size:
                    message = chr(self._buffer[0]), bytes(self._buffer[5:size])
                    del self._buffer[:size]
                    return message
            try:
                data = self.stream.recv(1 << 16)
            except ConnectionError as error:
                raise Left from error
            if not data:
                raise Left
            self._buffer += data

    def until(self, is_last: Callable[[Message], bool]) -> list[Message]:
        """Messages up to and with the first for which is_last holds."""
        found = [self.read()]
        while not is_last(found[-1]):
            found.append(self.read())
        return found

    def ready(self, count: int = 1) -> list[Message]:
        """Messages up to and with the count-th ReadyForQuery."""
        found: list[Message] = []
        for _ in range(count):
            found += self.until(lambda message: message[0] == "Z")
        return found

    def until_kind(self, kinds: str) -> list[Message]:
        return self.until(lambda message: message[0] in kinds)

    def to_the_end(self) -> list[Message]:
        """Everything until the peer closes."""
        found = []
        with contextlib.suppress(Left):
            while True:
                found.append(self.read())
        return found

    def run(self, *frames: bytes) -> list[Message]:
        """Send and read to ReadyForQuery."""
        self.send(*frames)
        return self.ready()

    def query(self, sql: str | bytes) -> list[Message]:
        return self.run(pg.query(sql))

    def rows(self, sql: str | bytes) -> list[tuple[bytes | None, ...]]:
        """The rows of a Query; an error fails the test."""
        messages = self.query(sql)
        assert not errors(messages), errors(messages)
        return rows(messages)

    def login(self, address: Mapping[str, Any], parameters: Sequence[tuple[str, str]] = (), *, minor: int = 0) -> None:
        """Start-up and SCRAM-SHA-256. Raises AssertionError with the server's message when refused."""
        names = [("user", address["user"]), ("database", address["dbname"]), *parameters]
        self.send(pg.startup(names, minor=minor))
        self.finish_login(address["password"])

    def finish_login(self, password: str) -> None:
        messages = self.until_kind("RE")
        kind, body = messages[-1]
        assert kind == "R", errors(messages)
        if body[:4] == pg.int32(10):
            self._scram(password)
            kind, body = self.until_kind("RE")[-1]
        assert (kind, body) == ("R", pg.int32(0)), (kind, body)
        for kind, body in self.until_kind("ZE"):
            if kind == "S":
                name, value = body.split(b"\0")[:2]
                self.parameters[name.decode()] = value.decode()
            elif kind == "K":
                self.process_id, self.secret = int.from_bytes(body[:4], "big"), body[4:]
            else:
                assert kind != "E", pg.fields_of(body)

    def _scram(self, password: str) -> None:
        nonce = base64.b64encode(os.urandom(18)).decode()
        bare = f"n=,r={nonce}"
        self.send(pg.sasl_initial("SCRAM-SHA-256", b"n,," + bare.encode()))
        kind, body = self.until_kind("RE")[-1]
        assert kind + body[:4].hex() == "R0000000b", (kind, body)
        first = body[4:].decode()
        fields = dict(part.split("=", 1) for part in first.split(","))
        assert fields["r"].startswith(nonce)
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        final = f"c=biws,r={fields['r']}"
        signature = hmac.digest(hashlib.sha256(client_key).digest(), f"{bare},{first},{final}".encode(), "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self.send(pg.sasl_response(f"{final},p={base64.b64encode(proof).decode()}".encode()))
        kind, body = self.until_kind("RE")[-1]
        assert kind + body[:4].hex() == "R0000000c", body if kind == "R" else pg.fields_of(body)

    def close(self) -> None:
        self.stream.close()


@contextlib.contextmanager
def logged_in(
    address: Mapping[str, Any], parameters: Sequence[tuple[str, str]] = (), *, minor: int = 0, timeout_s: float = 15
) -> Iterator[RawClient]:
    """A session in clear; address: as of Proxy.address or PostgresServer.address."""
    client = RawClient.open(address["host"], address["port"], timeout_s)
    try:
        client.login(address, parameters, minor=minor)
        yield client
    finally:
        client.close()


def errors(messages: Sequence[Message]) -> list[str]:
    """The error codes among messages, in order."""
    return [pg.fields_of(body)["C"] for kind, body in messages if kind == "E"]


def error_texts(messages: Sequence[Message]) -> list[str]:
    return [pg.fields_of(body)["M"] for kind, body in messages if kind == "E"]


def rows(messages: Sequence[Message]) -> list[tuple[bytes | None, ...]]:
    return [_values(body) for kind, body in messages if kind == "D"]


def states(messages: Sequence[Message]) -> str:
    """The transaction states of the ReadyForQuery messages."""
    return "".join(body.decode() for kind, body in messages if kind == "Z")


def outline(messages: Sequence[Message]) -> list[str]:
    """What a driver acts on: kinds, tags, states and error codes; notices and parameter reports left out."""
    found = []
    for kind, body in messages:
        if kind in "NSA":
            continue
        found.append(
            "E" + pg.fields_of(body)["C"]
            if kind == "E"
            else kind + body.rstrip(b"\0").decode()
            if kind in "CZ"
            else kind + repr(_values(body))
            if kind == "D"
            else kind
        )
    return found


def _values(body: bytes) -> tuple[bytes | None, ...]:
    values: list[bytes | None] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        values.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    return tuple(values)
