"""A whole PostgreSQL login, both legs: from the client's first byte to a relay. The driver is dbproxy/login.py.

The driver throws what goes wrong into the generator (LoginRefused, ConnectionError) and runs it on: the generator tells the
client in PostgreSQL's words, then raises the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from protocol.contract import Relay, Side
from protocol.errors import ProtocolError
from protocol.login import IssuedKey, LoginRefused, OpenServer, Ready, Send, ServerAccess, ServerReady
from protocol.postgres.client_login import AUTHENTICATION_OK, LoginOptions, authenticate, read_startup
from protocol.postgres.errors_wire import login_error, protocol_error
from protocol.postgres.server_login import ServerSession, server_login
from protocol.postgres.startup import startup_settings
from protocol.postgres.wire import message, report

__all__ = ["LoginOptions", "login"]

_READY_IDLE = message(b"Z", b"I")


def login(options: LoginOptions, relay_factory: Callable[[dict[str, str]], Relay]) -> Generator[Any, Any, None]:
    """Steps of a login. relay_factory: makes the relay from the server's first parameters.

    Ends after Ready, or after Cancel. Raises LoginRefused or ProtocolError when the client has been told; a peer whose
    first packet is no start-up packet at all is not answered.
    """
    user = ""
    is_known_client = False
    try:
        claim = yield from read_startup(options)
        if claim is None:
            return
        is_known_client = True
        startup = claim.message.startup
        user = startup.login
        authorization = yield from authenticate(options, claim)
        access: ServerAccess = yield OpenServer(authorization)
        settings = startup_settings(startup)
        if claim.message.replication is not None:
            settings = (("replication", claim.message.replication), *settings)
        session = yield from server_login(options, access, settings)
        secret_size = 4 if startup.version < (3, 2) else 32
        key: IssuedKey = yield ServerReady(session.process_id, session.parameters, session.secret, secret_size)
        yield Send(Side.CLIENT, _welcome(session, key, secret_size))
        yield Ready(relay_factory(dict(session.parameters)))
    except LoginRefused as refused:
        yield Send(Side.CLIENT, login_error(refused, user))
        raise
    except ProtocolError as error:
        if is_known_client:
            yield Send(Side.CLIENT, protocol_error(error))
        raise


def _welcome(session: ServerSession, key: IssuedKey, secret_size: int) -> bytes:
    """Everything the client is told at the end of its login: the server's words, but our key."""
    parts = [AUTHENTICATION_OK, *session.frames]
    if session.secret:
        if len(key.secret) != secret_size:
            raise ValueError("the issued secret has the wrong size")
        parts.append(message(b"K", session.process_id.to_bytes(4, "big") + key.secret))
    if key.banner:
        parts.append(report(b"N", "NOTICE", "00000", key.banner))
    parts.append(_READY_IDLE)
    return b"".join(parts)
