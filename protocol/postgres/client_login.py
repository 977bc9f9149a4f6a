"""The client's leg of a PostgreSQL login: encryption, start-up packet, proof of identity. Generators over protocol/login.py.

The client authenticates to the proxy, never through it: no message of this leg is forwarded.
Counterpart: server_login.py, the proxy as the database's client.
Source: PostgreSQL manual, "Message Flow", sections Start-up, SSL Session Encryption, SASL Authentication.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal

from protocol.contract import Refusal, Side, Why
from protocol.errors import MalformedMessage, MessageTooLarge, UnexpectedMessage, UnsupportedFeature
from protocol.login import (
    Authenticate,
    AuthenticationFailed,
    Authorization,
    Cancel,
    Exchange,
    Identify,
    LoginRefused,
    PeekByte,
    ReadExactly,
    Send,
    StartTLS,
    TLSInfo,
    UseExchange,
    UsePassword,
)
from protocol.postgres import startup as packets
from protocol.postgres.errors_wire import INVALID_AUTHORIZATION, CodedRefused
from protocol.postgres.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage
from protocol.postgres.wire import message

ALPN = "postgresql"
"""The name registered for PostgreSQL; direct TLS is refused without it, see the manual on ALACA attacks."""
TLS_HANDSHAKE_RECORD = b"\x16"

AUTHENTICATION_OK = message(b"R", (0).to_bytes(4, "big"))
_CLEARTEXT = message(b"R", (3).to_bytes(4, "big"))
_SASL = (10).to_bytes(4, "big")
_SASL_CONTINUE = (11).to_bytes(4, "big")
_SASL_FINAL = (12).to_bytes(4, "big")

Steps = Generator[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """What a listener allows. random_bytes: a source of secrets, such as secrets.token_bytes.

    tls: "require" refuses a session without TLS before it asks for a password; "disable" answers N.
    max_auth_bytes: of one message of either peer; max_server_bytes, max_server_messages: of all that the server says.
    """

    random_bytes: Callable[[int], bytes] = field(repr=False)
    tls: Literal["require", "allow", "disable"] = "require"
    allow_replication: bool = False
    max_startup_bytes: int = packets.MAX_SIZE
    max_auth_bytes: int = 65_535
    max_server_bytes: int = 1_048_576
    max_server_messages: int = 1_000


@dataclass(frozen=True, slots=True)
class Claim:
    """Who the client says it is, and how it is connected."""

    message: StartupMessage
    tls: TLSInfo | None


def read_startup(options: LoginOptions) -> Generator[Any, Any, Claim | None]:
    """Read start-up packets until there is a StartupMessage. None: it was a cancel request, now delivered.

    INVARIANT: each kind of encryption is asked for at most once, and nothing but TLS itself follows the answer to it.
    """
    tls: TLSInfo | None = None
    if (yield PeekByte()) == TLS_HANDSHAKE_RECORD:
        if options.tls == "disable":
            raise UnsupportedFeature(Side.CLIENT, "direct TLS on a listener without TLS")
        tls = yield StartTLS(Side.CLIENT, direct=True)
        if tls.alpn != ALPN:
            raise UnexpectedMessage(Side.CLIENT, "direct TLS without the ALPN name of PostgreSQL")
    asked: set[type] = {SSLRequest, GSSENCRequest} if tls else set()
    while True:
        size = packets.packet_size((yield ReadExactly(Side.CLIENT, 4)), options.max_startup_bytes)
        packet = packets.parse_packet((yield ReadExactly(Side.CLIENT, size - 4)))
        if isinstance(packet, CancelRequest):
            yield Cancel(packet.process_id, packet.secret)
            return None
        if isinstance(packet, StartupMessage):
            return _admit(options, packet, tls)
        if type(packet) in asked:
            raise UnexpectedMessage(Side.CLIENT, "encryption asked for twice")
        asked.add(type(packet))
        if isinstance(packet, SSLRequest) and options.tls != "disable":
            tls = yield StartTLS(Side.CLIENT, answer=b"S")
            asked = {SSLRequest, GSSENCRequest}
        else:
            yield Send(Side.CLIENT, b"N")


def _admit(options: LoginOptions, packet: StartupMessage, tls: TLSInfo | None) -> Claim:
    if options.tls == "require" and tls is None:
        raise CodedRefused(
            INVALID_AUTHORIZATION, "this server accepts TLS connections only", hint='Connect with "sslmode=require".'
        )
    if packet.replication is not None and not options.allow_replication:
        raise LoginRefused(Refusal(Why.UNSUPPORTED, "replication connections are not allowed here"))
    return Claim(packet, tls)


def negotiate(packet: StartupMessage) -> bytes:
    """NegotiateProtocolVersion: the version and the options that will not be spoken. b"" if all is as asked.

    The manual says "minor version", but servers send, and libpq expects, the whole number.
    """
    if not packet.needs_negotiation:
        return b""
    major, minor = packet.startup.version
    names = b"".join(name.encode() + b"\0" for name in packet.unknown_options)
    return message(
        b"v", (major << 16 | minor).to_bytes(4, "big") + len(packet.unknown_options).to_bytes(4, "big") + names
    )


def authenticate(options: LoginOptions, claim: Claim) -> Generator[Any, Any, Authorization]:
    """Have the client prove who it is.

    Every failure, of whatever kind, goes through one Authenticate step, so that identity counts it and all look alike.
    """
    startup = claim.message.startup
    if greeting := negotiate(claim.message):
        yield Send(Side.CLIENT, greeting)
    way: UseExchange | UsePassword = yield Identify(startup, claim.tls)
    if isinstance(way, UseExchange):
        return (yield from _run_exchange(options, claim, way.exchange))
    if claim.tls is None:
        raise CodedRefused(
            INVALID_AUTHORIZATION, "the password is accepted inside TLS only", hint='Connect with "sslmode=require".'
        )
    yield Send(Side.CLIENT, _CLEARTEXT)
    body = yield from _read_answer(options)
    if not body or body.find(0) != len(body) - 1:
        raise MalformedMessage(Side.CLIENT, "password is not terminated by its only NUL")
    authorization: Authorization = yield Authenticate(startup, body[:-1])
    return authorization


def _run_exchange(options: LoginOptions, claim: Claim, exchange: Exchange) -> Generator[Any, Any, Authorization]:
    startup = claim.message.startup
    names = (name for name in exchange.mechanisms if claim.tls or not name.endswith("-PLUS"))
    yield Send(Side.CLIENT, message(b"R", _SASL + b"".join(name.encode() + b"\0" for name in names) + b"\0"))
    mechanism, first = _parse_initial_response((yield from _read_answer(options)))
    server_final = b""
    failure = ""
    try:
        challenge = exchange.first(mechanism, first)
        yield Send(Side.CLIENT, message(b"R", _SASL_CONTINUE + challenge))
        server_final = exchange.final((yield from _read_answer(options)))
    except AuthenticationFailed as failed:
        failure = str(failed)
    authorization: Authorization = yield Authenticate(startup)
    if failure:  # identity has refused by now; it must never come to this
        raise LoginRefused(Refusal(Why.LOGIN, ""), failure)
    yield Send(Side.CLIENT, message(b"R", _SASL_FINAL + server_final))
    return authorization


def _parse_initial_response(body: bytes) -> tuple[str, bytes]:
    """SASLInitialResponse → (mechanism, response); an absent response is an empty one, which every mechanism refuses."""
    end = body.find(0)
    size = int.from_bytes(body[end + 1 : end + 5], "big", signed=True)
    rest = body[end + 5 :]
    if end < 0 or len(body) < end + 5 or len(rest) != max(size, 0) or size < -1:
        raise MalformedMessage(Side.CLIENT, "SASL response is not as long as it says")
    return body[:end].decode("ascii", "replace"), rest


def _read_answer(options: LoginOptions) -> Generator[Any, Any, bytes]:
    """The body of the client's next authentication message; any other type ends the login."""
    header: bytes = yield ReadExactly(Side.CLIENT, 5)
    size = int.from_bytes(header[1:], "big")
    if header[:1] != b"p":
        raise UnexpectedMessage(Side.CLIENT, "only an authentication message is expected now")
    if size < 4:
        raise MalformedMessage(Side.CLIENT, "message length is less than its own size")
    if size - 4 > options.max_auth_bytes:
        raise MessageTooLarge(Side.CLIENT, "authentication message is too long")
    body: bytes = (yield ReadExactly(Side.CLIENT, size - 4)) if size > 4 else b""
    return body
