"""The proxy as the database's client: greeting, TLS, proof, until the server is ready for its first command.

The credential leaves only for an authentication plugin that the target's settings name, whatever the server asks for, and in
clear only inside TLS, for the plugins that are made so. Counterpart: client_login.py.
Source: MySQL Internals, "Connection Phase"; MariaDB documentation, "Connecting".
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.contract import Refusal, Side, Why
from protocol.errors import MalformedMessage, UnexpectedMessage
from protocol.login import LoginRefused, ServerAccess, StartTLS, TLSInfo
from protocol.mysql.answers import parse_error, parse_ok
from protocol.mysql.client_login import Claim, Conversation, Profile
from protocol.mysql.errors_wire import ACCESS_DENIED, NumberedRefused
from protocol.mysql.greeting import (
    NEEDED,
    NONCE_BYTES,
    Greeting,
    Response,
    build_response,
    build_ssl_request,
    parse_greeting,
    parse_switch,
)
from protocol.mysql.proofs import CACHING_SHA2, ED25519, SHA256, caching_sha2_proof, ed25519_proof, native_proof
from protocol.mysql.wire import ERR, Capability
from protocol.native import NATIVE
from protocol.sha2 import FAST_OK, FULL

DOWNGRADE = "server_auth_downgrade"
CREDENTIAL_REJECTED = "server_rejected_credential"
UNVERIFIED = "server_not_verified"
_MAX_PACKET = 1 << 30
_MAX_BYTES = 1 << 20
_MAX_PACKETS = 20
_PREFERRED = (CACHING_SHA2, ED25519, SHA256, NATIVE)


@dataclass(frozen=True, slots=True)
class ServerSession:
    """A server that is ready for its first command. ok: the payload of its OK packet, for the client to see."""

    thread_id: int
    profile: Profile
    ok: bytes = field(repr=False)


def read_profile() -> Generator[Any, Any, Profile]:
    """Read a server's greeting and nothing more: what clients are to be shown."""
    greeting = yield from _read_greeting(Conversation(Side.SERVER, _MAX_BYTES))
    return profile_of(greeting)


def profile_of(greeting: Greeting) -> Profile:
    return Profile(greeting.version, greeting.capabilities, greeting.charset)


def server_login(access: ServerAccess, claim: Claim, expected: Profile) -> Generator[Any, Any, ServerSession]:
    """Log in to the server, with what the client asked for. expected: what the client was shown.

    Raises LoginRefused or a ProtocolError of side SERVER; a connection that breaks is LoginRefused too.
    """
    try:
        talk = Conversation(Side.SERVER, _MAX_BYTES)
        greeting = yield from _read_greeting(talk)
        profile = profile_of(greeting)
        if profile != expected:
            raise ProfileChanged(profile)
        response = _prepare_response(access, claim, greeting)
        tls = yield from _secure(access.tls, greeting, response, talk)
        if tls is None and response.capabilities & Capability.SSL:
            response = replace(response, capabilities=response.capabilities & ~int(Capability.SSL))
        ok = yield from _prove(access, response, greeting, tls, talk)
        parse_ok(ok, 0, len(ok), response.capabilities)  # the client is to see it, so it must be one
        return ServerSession(greeting.thread_id, profile, ok)
    except ConnectionError as error:
        raise LoginRefused(Refusal(Why.SERVER_LOST, "the database closed the connection during login")) from error


class ProfileChanged(LoginRefused):
    """The server is another one than the client was shown; the next login will be shown this one."""

    def __init__(self, profile: Profile) -> None:
        refusal = Refusal(Why.SERVER_LOST, "dbproxy: the database server has changed", hint="Connect again.")
        super().__init__(refusal, "the server's greeting is not the one that the client was shown")
        self.profile = profile


def _read_greeting(talk: Conversation) -> Generator[Any, Any, Greeting]:
    payload = yield from talk.read()
    if payload[:1] == b"\xff":
        number, state, text = parse_error(payload, 0, len(payload))
        raise NumberedRefused(
            number, text, state=state, why=Why.SERVER_LOST, log=f"the database refused: {number} {text}"
        )
    greeting = parse_greeting(payload)
    if greeting.capabilities & NEEDED != NEEDED or len(greeting.nonce) != NONCE_BYTES:
        raise MalformedMessage(Side.SERVER, "a server older than MySQL 5.5")
    return greeting


def _prepare_response(access: ServerAccess, claim: Claim, greeting: Greeting) -> Response:
    server = greeting.capabilities
    capabilities = claim.capabilities & server | NEEDED | (server & Capability.PLUGIN_AUTH_LENENC)
    for flag, is_wanted in (
        (Capability.CONNECT_WITH_DB, bool(access.database)),
        (Capability.SSL, access.tls != "disable"),
    ):
        capabilities = capabilities | flag if is_wanted else capabilities & ~flag
    wish = greeting.plugin if greeting.plugin in access.allowed else ""
    plugin = wish or next((name for name in _PREFERRED if name in access.allowed), CACHING_SHA2)
    return Response(
        capabilities=int(capabilities),
        max_packet=min(claim.response.max_packet or _MAX_PACKET, _MAX_PACKET),
        charset=claim.response.charset,
        user=access.user.encode(),
        database=access.database.encode(),
        plugin=plugin,
        attributes=(),
        raw_attributes=claim.response.raw_attributes,
        proof=b"",
    )


def _secure(
    mode: str, greeting: Greeting, response: Response, talk: Conversation
) -> Generator[Any, Any, TLSInfo | None]:
    """Ask for TLS as the target's mode says."""
    if mode == "disable":
        return None
    if not greeting.capabilities & Capability.SSL:
        if mode == "prefer":
            return None
        raise LoginRefused(
            Refusal(Why.SERVER_LOST, "the database does not offer the TLS that this target demands"),
            "the database does not offer TLS",
            UNVERIFIED,
        )
    yield from talk.send(build_ssl_request(response.capabilities, response.max_packet, response.charset))
    info: TLSInfo = yield StartTLS(Side.SERVER)
    return info


def _prove(
    access: ServerAccess, response: Response, greeting: Greeting, tls: TLSInfo | None, talk: Conversation
) -> Generator[Any, Any, bytes]:
    """Answer what the server asks, if the plugin is an allowed one, until it says OK. Returns that payload."""
    plugin, nonce = response.plugin, greeting.nonce
    if access.password is None and "trust" not in access.allowed:
        raise LoginRefused(
            Refusal(Why.SERVER_LOST, f'the proxy has no password for the account "{access.user}"'), "no password"
        )
    proof = _proof(access, plugin, nonce, tls) if plugin == greeting.plugin else b""
    yield from talk.send(build_response(replace(response, proof=proof)))
    has_switched = False
    for _ in range(_MAX_PACKETS):
        payload = yield from talk.read()
        kind = payload[0] if payload else -1
        if kind == 0:
            return payload
        if kind == ERR:
            raise _server_refused(access, payload)
        if kind == 0xFE and not has_switched:
            has_switched = True
            plugin, nonce = parse_switch(payload)
            yield from talk.send(_proof(access, plugin, nonce, tls))
        elif kind == 1 and plugin == CACHING_SHA2 and payload[1:] == FAST_OK:
            continue
        elif kind == 1 and plugin == CACHING_SHA2 and payload[1:] == FULL:
            yield from talk.send(_in_clear(access, tls))
        else:
            raise _downgrade(f"something that plugin {plugin[:40]} does not ask for")
    raise UnexpectedMessage(Side.SERVER, "the server's login does not end")


def _proof(access: ServerAccess, plugin: str, nonce: bytes, tls: TLSInfo | None) -> bytes:
    """What this plugin wants first. Raises LoginRefused if it is not an allowed one."""
    if plugin not in access.allowed:
        raise _downgrade(f"the plugin {plugin[:40] or 'mysql_old_password'}")
    password = access.password or b""
    if not password:
        return b"\0" if plugin == SHA256 else b""
    if plugin != SHA256 and plugin in _PREFERRED and len(nonce) < NONCE_BYTES:
        raise MalformedMessage(Side.SERVER, "a nonce that is too short")
    if plugin == CACHING_SHA2:
        return caching_sha2_proof(password, nonce[:NONCE_BYTES])
    if plugin == NATIVE:
        return native_proof(password, nonce[:NONCE_BYTES])
    if plugin == ED25519:
        return ed25519_proof(password, nonce)
    if plugin == SHA256:
        return _in_clear(access, tls)
    raise _downgrade(f"the plugin {plugin[:40]}, which is not known")


def _in_clear(access: ServerAccess, tls: TLSInfo | None) -> bytes:
    """The password as full authentication wants it: only inside TLS."""
    if tls is None:
        raise _downgrade("the password, without TLS")
    return (access.password or b"") + b"\0"


def _downgrade(asked: str) -> LoginRefused:
    refusal = Refusal(Why.SERVER_LOST, "the database asks for a login method that is not allowed for this target")
    return LoginRefused(refusal, f"the database asked for {asked}", DOWNGRADE)


def _server_refused(access: ServerAccess, payload: bytes) -> LoginRefused:
    """What the client is told when the server refuses.

    Whether the account's credential is wrong is not the person's business; only that the proxy could not log in. Anything
    else, such as a database that does not exist, is said in the server's own words.
    """
    number, state, text = parse_error(payload, 0, len(payload))
    log = f"the database refused the login: {number} {text}"
    if number == ACCESS_DENIED and access.is_personal:
        return LoginRefused(Refusal(Why.LOGIN, ""), log, CREDENTIAL_REJECTED)
    if state == "28000" and not access.is_personal:
        told = f'the proxy could not log in to the database with the account "{access.user}"'
        refusal = Refusal(Why.SERVER_LOST, told, hint="Ask the operator of the proxy.")
        return LoginRefused(refusal, log, CREDENTIAL_REJECTED)
    return NumberedRefused(number, text, state=state, why=Why.SERVER_LOST, log=log)
