"""A whole MySQL login, both legs: from the greeting to a relay. The driver is dbproxy/login.py.

The driver throws what goes wrong into the generator (LoginRefused, ConnectionError) and runs it on: the generator tells the
client in MySQL's words, then raises the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from protocol.contract import Relay, Side
from protocol.errors import ProtocolError
from protocol.login import Authorization, IssuedKey, LoginRefused, OpenServer, Ready, Send, ServerAccess, ServerReady
from protocol.mysql.client_login import (
    Claim,
    Conversation,
    LoginOptions,
    Profile,
    authenticate,
    greet,
    refuse_unknown_target,
)
from protocol.mysql.errors_wire import login_error, protocol_error
from protocol.mysql.server_login import ProfileChanged, ServerSession, server_login

__all__ = ["LoginOptions", "login"]


def login(
    options: LoginOptions,
    target: str,
    find_profile: Callable[[], Profile | None],
    keep_profile: Callable[[Profile], None],
    relay_factory: Callable[[Authorization, Claim, ServerSession], Relay],
) -> Generator[Any, Any, None]:
    """Steps of a login. find_profile, keep_profile: what the target's greeting said when it was seen last.

    Ends after Ready. Raises LoginRefused or ProtocolError when the client has been told.
    """
    talk = Conversation(Side.CLIENT, options.max_auth_bytes)
    user = ""
    try:
        profile = find_profile()
        if profile is None:
            raise refuse_unknown_target(target)
        claim = yield from greet(options, profile, talk)
        user = claim.startup.login
        authorization = yield from authenticate(options, claim, talk)
        access: ServerAccess = yield OpenServer(authorization)
        session = yield from server_login(access, claim, profile)
        _: IssuedKey = yield ServerReady(session.thread_id, (), b"", 4)
        relay = relay_factory(authorization, claim, session)
        yield from talk.send(session.ok)
        yield Ready(relay)
    except LoginRefused as refused:
        if isinstance(refused, ProfileChanged):
            keep_profile(refused.profile)
        yield Send(Side.CLIENT, login_error(talk.sequence, refused, user))
        raise
    except ProtocolError as error:
        if user or talk.sequence > 1:
            yield Send(Side.CLIENT, protocol_error(talk.sequence, error))
        raise
