"""The ERR packet that ends a login, with numbers finer than the table in wire.py."""

from __future__ import annotations

from protocol.contract import Refusal, Side, Why
from protocol.errors import ProtocolError
from protocol.login import LoginRefused
from protocol.mysql.wire import ERRNO, error, refusal_text

ACCESS_DENIED = 1045
DATABASE_DENIED = 1044
INSECURE_TRANSPORT = 3159
NOT_SUPPORTED_AUTH = 1251


class NumberedRefused(LoginRefused):
    """A refusal with an error number of its own, also for one that the server itself gave."""

    def __init__(
        self,
        number: int,
        message: str,
        *,
        state: str = "",
        why: Why = Why.LOGIN,
        hint: str = "",
        log: str = "",
        event: str = "",
    ) -> None:
        super().__init__(Refusal(why, message, hint=hint), log, event)
        self.number = number
        self.state = state


def login_error(sequence: int, refused: LoginRefused, login: str) -> bytes:
    """The ERR packet for a refused login.

    login: the name as the client sent it. A wrong password, an unknown, disabled or locked out person all come here as Why.LOGIN
    without a message, so that they read alike, byte by byte.
    """
    refusal = refused.refusal
    if refusal.why is Why.LOGIN and not refusal.message:
        return error(sequence, ACCESS_DENIED, f"Access denied for user '{login}' (using password: YES)")
    if isinstance(refused, NumberedRefused):
        return error(sequence, refused.number, refusal_text(refusal), refused.state)
    return error(sequence, ERRNO[refusal.why], refusal_text(refusal))


def protocol_error(sequence: int, fault: ProtocolError) -> bytes:
    """The ERR packet for a peer that broke the protocol during login."""
    if fault.side is Side.SERVER:
        return error(sequence, ERRNO[Why.SERVER_LOST], "the database broke the protocol during login")
    return error(sequence, 1043, f"Bad handshake: {fault.detail}", "08S01")
