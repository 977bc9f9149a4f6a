"""The ErrorResponse that ends a login, with codes finer than the table in wire.py.

Counterpart: wire.py, which encodes refusals of statements.
"""

from __future__ import annotations

from protocol.contract import Refusal, Side, Why
from protocol.errors import ProtocolError
from protocol.login import LoginRefused
from protocol.postgres.wire import SQLSTATE, report

INVALID_AUTHORIZATION = "28000"
INVALID_PASSWORD = "28P01"  # noqa: S105 - an error code
SYNTAX_ERROR = "42601"
UNDEFINED_OBJECT = "42704"


class CodedRefused(LoginRefused):
    """A refusal with an SQLSTATE of its own, also for one that the server itself gave."""

    def __init__(
        self, code: str, message: str, *, why: Why = Why.LOGIN, hint: str = "", log: str = "", event: str = ""
    ) -> None:
        super().__init__(Refusal(why, message, hint=hint), log, event)
        self.code = code


def login_error(refused: LoginRefused, login: str) -> bytes:
    """The FATAL ErrorResponse for a refused login.

    login: the name as the client sent it, "" if it did not get so far. A wrong password, an unknown, disabled or locked
    out person all come here as Why.LOGIN without a message, so that they read alike, byte by byte.
    """
    refusal = refused.refusal
    if refusal.why is Why.LOGIN and not refusal.message:
        return report(b"E", "FATAL", INVALID_PASSWORD, f'password authentication failed for user "{login}"')
    if isinstance(refused, CodedRefused):
        code = refused.code
    else:
        code = INVALID_AUTHORIZATION if refusal.why is Why.LOGIN else SQLSTATE[refusal.why]
    return report(b"E", "FATAL", code, refusal.message, refusal.detail, refusal.hint)


def protocol_error(error: ProtocolError) -> bytes:
    """The FATAL ErrorResponse for a peer that broke the protocol during login."""
    if error.side is Side.SERVER:
        return report(b"E", "FATAL", SQLSTATE[Why.SERVER_LOST], "the database broke the protocol during login")
    return report(b"E", "FATAL", SQLSTATE[Why.PROTOCOL], error.detail)
