"""The proxy as the database's client: encryption, start-up, proof in both directions, until the server is ready.

The credential leaves only for a method that the target's settings name, whatever the server asks for.
Counterpart: client_login.py. Source: PostgreSQL manual, "Message Flow" and "Message Formats".
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from protocol.contract import Refusal, Side, Why
from protocol.errors import MalformedMessage, MessageTooLarge, UnexpectedMessage
from protocol.login import (
    AuthenticationFailed,
    LoginRefused,
    ReadExactly,
    Send,
    ServerAccess,
    StartTLS,
    TLSInfo,
)
from protocol.postgres.client_login import LoginOptions
from protocol.postgres.errors_wire import INVALID_PASSWORD, CodedRefused
from protocol.postgres.messages import parse_parameter_status
from protocol.postgres.startup import CANCEL_REQUEST, MAX_SIZE, SSL_REQUEST
from protocol.postgres.wire import message, parse_report
from protocol.scram import SCRAM, SCRAM_PLUS, ClientExchange

_OK, _CLEARTEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12
DOWNGRADE = "server_auth_downgrade"
CREDENTIAL_REJECTED = "server_rejected_credential"
UNVERIFIED = "server_not_verified"


@dataclass(frozen=True, slots=True)
class ServerSession:
    """A server that is ready for its first query.

    frames: what it said between AuthenticationOk and ReadyForQuery that the client is to see too, as it came.
    secret: its cancel secret, b"" if it gave none; it never leaves the proxy.
    """

    process_id: int
    parameters: tuple[tuple[str, str], ...]
    frames: tuple[bytes, ...] = field(repr=False)
    secret: bytes = field(repr=False)


def server_login(
    options: LoginOptions, access: ServerAccess, settings: tuple[tuple[str, str], ...]
) -> Generator[Any, Any, ServerSession]:
    """Log in to the server. settings: session settings of the client, sent with the start-up message.

    Raises LoginRefused or a ProtocolError of side SERVER; a connection that breaks is LoginRefused too.
    """
    try:
        tls = yield from _secure(access.tls)
        yield Send(Side.SERVER, _startup_message(access, settings))
        reader = _Reader(options)
        yield from _prove(options, access, tls, reader)
        return (yield from _collect(reader))
    except ConnectionError as error:
        raise LoginRefused(Refusal(Why.SERVER_LOST, "the database closed the connection during login")) from error


def cancel_login(tls: str, process_id: int, secret: bytes) -> Generator[Any, Any, None]:
    """Send a CancelRequest over a new connection. The server answers by closing it, when the cancel has been delivered.

    tls: as in ServerAccess. secret: the server's own.
    """
    yield from _secure(tls)
    body = CANCEL_REQUEST.to_bytes(4, "big") + process_id.to_bytes(4, "big") + secret
    yield Send(Side.SERVER, (len(body) + 4).to_bytes(4, "big") + body)


def _secure(tls: str) -> Generator[Any, Any, TLSInfo | None]:
    """Ask for TLS as the target's mode says. The server's answer is one byte; nothing may follow it before the handshake."""
    if tls == "disable":
        return None
    yield Send(Side.SERVER, b"\0\0\0\x08" + SSL_REQUEST.to_bytes(4, "big"))
    answer: bytes = yield ReadExactly(Side.SERVER, 1)
    if answer == b"S":
        info: TLSInfo = yield StartTLS(Side.SERVER)
        return info
    if answer == b"N" and tls == "prefer":
        return None
    # An error text sent in clear before TLS could be anybody's, so it is not read (CVE-2024-10977).
    log = "the database does not offer TLS" if answer == b"N" else "the database answered the TLS request with an error"
    raise LoginRefused(
        Refusal(Why.SERVER_LOST, "the database does not offer the TLS that this target demands"), log, UNVERIFIED
    )


def _startup_message(access: ServerAccess, settings: tuple[tuple[str, str], ...]) -> bytes:
    pairs = (("user", access.user), ("database", access.database), *settings)
    body = b"\0\x03\0\0" + b"".join(part.encode() + b"\0" for pair in pairs for part in pair) + b"\0"
    if len(body) + 4 > MAX_SIZE or body.count(0, 4) != 2 * len(pairs) + 1:
        raise LoginRefused(Refusal(Why.UNSUPPORTED, "the start-up parameters are too long"))
    return (len(body) + 4).to_bytes(4, "big") + body


class _Reader:
    """Reads the server's messages, with a limit on each, on their number and on their sum."""

    def __init__(self, options: LoginOptions) -> None:
        self._messages_left = options.max_server_messages
        self._bytes_left = options.max_server_bytes
        self._max_bytes = options.max_auth_bytes

    def read(self) -> Generator[Any, Any, tuple[bytes, bytes]]:
        """Type and body of the next message. An ErrorResponse is returned like any other."""
        header: bytes = yield ReadExactly(Side.SERVER, 5)
        size = int.from_bytes(header[1:], "big") - 4
        self._messages_left -= 1
        self._bytes_left -= size
        if size < 0:
            raise MalformedMessage(Side.SERVER, "message length is less than its own size")
        if size > self._max_bytes or self._bytes_left < 0 or self._messages_left < 0:
            raise MessageTooLarge(Side.SERVER, "the server sends too much during login")
        body: bytes = (yield ReadExactly(Side.SERVER, size)) if size else b""
        return header[:1], body

    def authentication(self, access: ServerAccess) -> Generator[Any, Any, tuple[int, bytes]]:
        """Code and data of the next authentication request. Notices before the server is authenticated are dropped."""
        while True:
            kind, body = yield from self.read()
            if kind == b"R" and len(body) >= 4:
                return int.from_bytes(body[:4], "big"), body[4:]
            if kind == b"E":
                raise _server_refused(access, body)
            if kind != b"N":
                raise UnexpectedMessage(Side.SERVER, "only an authentication request is expected now")


def _prove(
    options: LoginOptions, access: ServerAccess, tls: TLSInfo | None, reader: _Reader
) -> Generator[Any, Any, None]:
    """Answer at most one authentication request, if it is an allowed one, until AuthenticationOk."""
    code, data = yield from reader.authentication(access)
    if code == _OK:
        if not ("trust" in access.allowed or ("cert" in access.allowed and tls)):
            raise _downgrade("no authentication at all")
        return
    if code == _CLEARTEXT and not data:
        # Where TLS is merely preferred, whoever removes it could ask for the password next.
        if "password" not in access.allowed or (tls is None and access.tls != "disable"):
            raise _downgrade("the password in clear")
        yield Send(Side.SERVER, message(b"p", _password(access) + b"\0"))
    elif code == _MD5 and len(data) == 4:
        if "md5" not in access.allowed:
            raise _downgrade("an MD5 digest")
        yield Send(Side.SERVER, message(b"p", _md5(_password(access), access.user, data) + b"\0"))
    elif code == _SASL:
        yield from _run_exchange(options, access, tls, reader, data)
    else:
        raise _downgrade(f"an unknown method, code {code}")
    code, data = yield from reader.authentication(access)
    if code != _OK or data:
        raise _downgrade(f"a second proof, code {code}")


def _run_exchange(
    options: LoginOptions, access: ServerAccess, tls: TLSInfo | None, reader: _Reader, offer: bytes
) -> Generator[Any, Any, None]:
    offered = offer.split(b"\0")
    if len(offered) < 3 or offered[-2:] != [b"", b""] or b"" in offered[:-2]:
        raise MalformedMessage(Side.SERVER, "list of mechanisms is not terminated as it should be")
    end_point = tls.end_point if tls and "scram-sha-256-plus" in access.allowed else b""
    if end_point and SCRAM_PLUS.encode() in offered:
        mechanism, binding = SCRAM_PLUS, end_point
    elif SCRAM.encode() in offered and "scram-sha-256" in access.allowed:
        mechanism, binding = SCRAM, b""
    else:
        raise _downgrade("none of the SASL mechanisms that are allowed")
    exchange = ClientExchange(
        _password(access),
        options.random_bytes(18),
        binding,
        is_binding_possible=bool(end_point),
        iterations=(access.min_scram_iterations, access.max_scram_iterations),
    )
    try:
        first = exchange.first()
        body = mechanism.encode() + b"\0" + len(first).to_bytes(4, "big") + first
        yield Send(Side.SERVER, message(b"p", body))
        final = exchange.final((yield from _expect(access, reader, _SASL_CONTINUE)))
        yield Send(Side.SERVER, message(b"p", final))
        exchange.verify((yield from _expect(access, reader, _SASL_FINAL)))
    except AuthenticationFailed as failed:
        raise LoginRefused(
            Refusal(Why.SERVER_LOST, "the database could not prove its identity"), str(failed), UNVERIFIED
        ) from failed


def _expect(access: ServerAccess, reader: _Reader, expected: int) -> Generator[Any, Any, bytes]:
    code, data = yield from reader.authentication(access)
    if code != expected:
        raise AuthenticationFailed(f"the server broke the exchange off with code {code}")
    return data


def _password(access: ServerAccess) -> bytes:
    if not access.password or b"\0" in access.password:
        raise LoginRefused(Refusal(Why.SERVER_LOST, f'the proxy has no password for the account "{access.user}"'), "the database asks for a password")  # fmt: skip
    return access.password


def _md5(password: bytes, user: str, salt: bytes) -> bytes:
    inner = hashlib.md5(password + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


def _downgrade(asked: str) -> LoginRefused:
    refusal = Refusal(Why.SERVER_LOST, "the database asks for a login method that is not allowed for this target")
    return LoginRefused(refusal, f"the database asked for {asked}", DOWNGRADE)


def _server_refused(access: ServerAccess, body: bytes) -> LoginRefused:
    """What the client is told when the server refuses.

    Whether the account's credential is wrong is not the person's business; only that the proxy could not log in. Anything
    else, such as a database that does not exist, is said in the server's own words.
    """
    fields = parse_report(body)
    code, text = fields.get("C", "58000"), fields.get("M", "")
    log = f"the database refused the login: {code} {text}"
    if code == INVALID_PASSWORD and access.is_personal:
        return LoginRefused(Refusal(Why.LOGIN, ""), log, CREDENTIAL_REJECTED)
    if code.startswith("28") and not access.is_personal:
        message_text = f'the proxy could not log in to the database with the account "{access.user}"'
        return LoginRefused(
            Refusal(Why.SERVER_LOST, message_text, hint="Ask the operator of the proxy."), log, CREDENTIAL_REJECTED
        )
    return CodedRefused(code, text, why=Why.SERVER_LOST, hint=fields.get("H", ""), log=log)


def _collect(reader: _Reader) -> Generator[Any, Any, ServerSession]:
    """Read what follows AuthenticationOk, up to ReadyForQuery."""
    frames: list[bytes] = []
    parameters: list[tuple[str, str]] = []
    process_id, secret = 0, b""
    while True:
        kind, body = yield from reader.read()
        if kind == b"S":
            parameters.append(parse_parameter_status(body))
            frames.append(message(kind, body))
        elif kind == b"N":
            parse_report(body)
            frames.append(message(kind, body))
        elif kind == b"K":
            if len(body) != 8 or secret:
                raise MalformedMessage(Side.SERVER, "BackendKeyData is not 8 bytes, once")
            process_id, secret = int.from_bytes(body[:4], "big"), body[4:]
        elif kind == b"Z":
            if body != b"I":
                raise MalformedMessage(Side.SERVER, "the server is not idle after login")
            return ServerSession(process_id, tuple(parameters), tuple(frames), secret)
        elif kind == b"E":
            fields = parse_report(body)
            raise CodedRefused(
                fields.get("C", "58000"), fields.get("M", ""), why=Why.SERVER_LOST, hint=fields.get("H", "")
            )
        else:
            raise UnexpectedMessage(Side.SERVER, "unexpected message before the server is ready")
