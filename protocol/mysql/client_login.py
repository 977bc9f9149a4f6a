"""The client's leg of a MySQL login: greeting, TLS, proof of identity. Generators over protocol/login.py.

The client authenticates to the proxy, never through it: no packet of this leg is forwarded. The greeting shows what the target's
own greeting said when it was seen last: nothing is dialled for people who have not proved who they are.
Counterpart: server_login.py, the proxy as the database's client.
Source: MySQL Internals, "Connection Phase".
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from protocol.contract import Refusal, Side, Why
from protocol.errors import MalformedMessage, MessageTooLarge, UnexpectedMessage, UnsupportedFeature
from protocol.login import (
    Authenticate,
    AuthenticationFailed,
    Authorization,
    Exchange,
    Identify,
    LoginRefused,
    ReadExactly,
    Send,
    StartTLS,
    Startup,
    TLSInfo,
    UseExchange,
    UsePassword,
)
from protocol.mysql.errors_wire import INSECURE_TRANSPORT, NOT_SUPPORTED_AUTH, NumberedRefused
from protocol.mysql.greeting import (
    CACHING_SHA2,
    COMPRESSED,
    NONCE_BYTES,
    Greeting,
    Response,
    build_greeting,
    build_switch,
    is_ssl_request,
    offer,
    parse_response,
)
from protocol.mysql.wire import Capability, packet
from protocol.native import NATIVE, PROOF_BYTES
from protocol.sha2 import FAST_OK, FULL

_MORE = b"\x01"
_REQUEST_PUBLIC_KEY = b"\x02"
_STATUS_AUTOCOMMIT = 2

Steps = Generator[Any, Any, Any]


class PrivateKey(Protocol):
    """The proxy's RSA key, for clients without TLS."""

    @property
    def public_pem(self) -> bytes: ...

    def decrypt(self, data: bytes) -> bytes | None:
        """RSA-OAEP with SHA-1; None if it cannot be decrypted."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a target's greeting said, without what changes each time."""

    version: str
    capabilities: int
    charset: int


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """What a listener allows. random_bytes: a source of secrets. next_id: a connection id that no other client was given.

    tls: "require" refuses a session without TLS before it asks for a proof; "disable" does not offer it.
    key: None refuses full proofs without TLS. allow_native: clients that name mysql_native_password are taken at their word.
    allow_local_files: LOAD DATA LOCAL may be used.
    """

    random_bytes: Callable[[int], bytes] = field(repr=False)
    next_id: Callable[[], int] = field(repr=False)
    key: PrivateKey | None = field(default=None, repr=False)
    tls: Literal["require", "allow", "disable"] = "require"
    allow_local_files: bool = False
    allow_native: bool = False
    max_auth_bytes: int = 65_535


@dataclass(frozen=True, slots=True)
class Claim:
    """Who the client says it is, and how it is connected. capabilities: those that both ends agreed on."""

    response: Response
    startup: Startup
    tls: TLSInfo | None
    capabilities: int
    connection_id: int
    nonce: bytes = field(repr=False)


class Conversation:
    """One side's packets during login, with their sequence."""

    def __init__(self, side: Side, max_bytes: int) -> None:
        self.side = side
        self.sequence = 0
        self._max_bytes = max_bytes

    def read(self) -> Generator[Any, Any, bytes]:
        """The payload of the next packet, not empty unless it is a proof."""
        header: bytes = yield ReadExactly(self.side, 4)
        size = int.from_bytes(header[:3], "little")
        if header[3] != self.sequence:
            raise UnexpectedMessage(self.side, "packets out of order")
        if size > self._max_bytes:
            raise MessageTooLarge(self.side, "a packet of a login is too long")
        self.sequence = (self.sequence + 1) & 0xFF
        payload: bytes = (yield ReadExactly(self.side, size)) if size else b""
        return payload

    def send(self, payload: bytes) -> Generator[Any, Any, None]:
        step = Send(self.side, packet(self.sequence, payload))
        self.sequence = (self.sequence + 1) & 0xFF
        yield step


def greet(options: LoginOptions, profile: Profile, talk: Conversation) -> Generator[Any, Any, Claim]:
    """Say hello, take TLS if the client asks for it, and read who it is.

    INVARIANT: TLS is asked for at most once, and what the client says of itself counts only after it.
    """
    nonce = _nonce(options.random_bytes)
    offered = offer(
        profile.capabilities, has_tls=options.tls != "disable", allows_local_files=options.allow_local_files
    )
    connection_id = options.next_id()
    hello = Greeting(profile.version, connection_id, offered, profile.charset, _STATUS_AUTOCOMMIT, CACHING_SHA2, nonce)
    yield from talk.send(build_greeting(hello))
    payload = yield from talk.read()
    tls: TLSInfo | None = None
    if is_ssl_request(payload):
        if options.tls == "disable":
            raise UnsupportedFeature(Side.CLIENT, "TLS on a listener without TLS")
        # The client sends its ClientHello without waiting: whatever follows goes to TLS and to nothing else.
        tls = yield StartTLS(Side.CLIENT, direct=True)
        payload = yield from talk.read()
    elif options.tls == "require":
        raise NumberedRefused(
            INSECURE_TRANSPORT,
            "Connections using insecure transport are prohibited: this server accepts TLS connections only",
            hint='Connect with "--ssl-mode=REQUIRED" (MariaDB: "--ssl").',
        )
    response = parse_response(payload)
    if response.capabilities & COMPRESSED:
        raise UnsupportedFeature(Side.CLIENT, "the client compresses although that was not offered")
    if not response.capabilities & Capability.PLUGIN_AUTH and not options.allow_native:
        raise NumberedRefused(
            NOT_SUPPORTED_AUTH, "Client does not support the authentication that this server asks for"
        )
    return Claim(response, _startup(response), tls, response.capabilities & offered, connection_id, nonce)


def _nonce(random_bytes: Callable[[int], bytes]) -> bytes:
    """20 bytes without NUL and `$`, of seven bits each, as servers make them."""
    return bytes(0x21 + each % 94 if each % 94 != 3 else 0x7F for each in random_bytes(NONCE_BYTES))


def _startup(response: Response) -> Startup:
    try:
        user = response.user.decode("utf-8")
        database = response.database.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedMessage(Side.CLIENT, "a name that is not UTF-8") from None
    program = next((value for name, value in response.attributes if name == "program_name"), "")
    parameters = (("application_name", program),) if program else ()
    return Startup(user, database or None, parameters, (10, 0), needs_database=False)


def authenticate(options: LoginOptions, claim: Claim, talk: Conversation) -> Generator[Any, Any, Authorization]:
    """Have the client prove who it is.

    Every failure, of whatever kind, goes through one Authenticate step, so that identity counts it and all look alike.
    """
    # Decided by what the client says, never by who it says it is: that would tell strangers who has a weak verifier.
    response = claim.response
    has_plugins = bool(response.capabilities & Capability.PLUGIN_AUTH)
    is_native = options.allow_native and (response.plugin == NATIVE or not has_plugins)
    way: UseExchange | UsePassword = yield Identify(claim.startup, claim.tls, NATIVE if is_native else CACHING_SHA2)
    proof = claim.response.proof
    if is_native and isinstance(way, UseExchange):
        return (yield from _prove_native(claim, talk, way.exchange))
    if claim.response.plugin != CACHING_SHA2:
        yield from talk.send(build_switch(CACHING_SHA2, claim.nonce))
        proof = yield from talk.read()
    if isinstance(way, UsePassword):
        password = yield from _ask_password(options, claim, talk, needs_tls=True)
        authorization: Authorization = yield Authenticate(claim.startup, password)
        return authorization
    failure = yield from _run_exchange(options, claim, talk, way.exchange, proof)
    authorization = yield Authenticate(claim.startup)
    if failure:  # identity has refused by now; it must never come to this
        raise LoginRefused(Refusal(Why.LOGIN, ""), failure)
    return authorization


def _prove_native(claim: Claim, talk: Conversation, exchange: Exchange) -> Generator[Any, Any, Authorization]:
    proof = claim.response.proof
    failure = ""
    if len(proof) != PROOF_BYTES and claim.response.capabilities & Capability.PLUGIN_AUTH:
        # It made none, for the greeting named another method.
        yield from talk.send(build_switch(NATIVE, claim.nonce))
        proof = yield from talk.read()
    try:
        exchange.first(NATIVE, claim.nonce + proof)
    except AuthenticationFailed as failed:
        failure = str(failed)
    authorization: Authorization = yield Authenticate(claim.startup)
    if failure:  # as in authenticate
        raise LoginRefused(Refusal(Why.LOGIN, ""), failure)
    return authorization


def _run_exchange(
    options: LoginOptions, claim: Claim, talk: Conversation, exchange: Exchange, proof: bytes
) -> Generator[Any, Any, str]:
    """Returns why it failed, "" if it did not."""
    if proof == b"\0":
        proof = b""  # how some clients send an empty password
    try:
        answer = exchange.first(CACHING_SHA2, claim.nonce + proof)
        if answer == FULL:
            exchange.final((yield from _ask_password(options, claim, talk, needs_tls=options.key is None)))
        elif answer == FAST_OK:
            yield from talk.send(_MORE + FAST_OK)
    except AuthenticationFailed as failed:
        return str(failed)
    return ""


def _ask_password(
    options: LoginOptions, claim: Claim, talk: Conversation, *, needs_tls: bool
) -> Generator[Any, Any, bytes]:
    """Full authentication: the password inside TLS, or under the proxy's RSA key."""
    if claim.tls is None and (needs_tls or options.key is None):
        raise NumberedRefused(
            INSECURE_TRANSPORT,
            "the password is accepted inside TLS only",
            hint='Connect with "--ssl-mode=REQUIRED" (MariaDB: "--ssl").',
        )
    yield from talk.send(_MORE + FULL)
    payload = yield from talk.read()
    if claim.tls is not None:
        if payload.find(0) != len(payload) - 1:
            raise MalformedMessage(Side.CLIENT, "password is not terminated by its only NUL")
        return payload[:-1]
    key = options.key
    if key is None:
        raise AuthenticationFailed("no key")
    if payload == _REQUEST_PUBLIC_KEY:
        yield from talk.send(_MORE + key.public_pem)
        payload = yield from talk.read()
    masked = key.decrypt(payload) or b""
    password = bytes(each ^ claim.nonce[index % NONCE_BYTES] for index, each in enumerate(masked))
    return password[:-1] if password.find(0) == len(password) - 1 else b""


def refuse_unknown_target(name: str) -> LoginRefused:
    """No greeting of this target was seen yet, so there is none to show."""
    return NumberedRefused(
        1105, f'dbproxy: the database "{name}" has not answered yet', log="no greeting of the target is known"
    )
