"""Constants and small encoders of the PostgreSQL protocol: message types, transaction bytes, error fields.

Source: PostgreSQL manual, chapter "Frontend/Backend Protocol", "Message Formats" and "Error and Notice Message Fields".
Decoders of whole messages are in messages.py; the login packets in startup.py.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from protocol.contract import Refusal, Side, Transaction, Why
from protocol.errors import MalformedMessage

HEADER: Final = Struct(">BI")
"""Type byte and length; the length counts itself but not the type."""
INT32: Final = Struct(">i")
INT16: Final = Struct(">h")
UINT16: Final = Struct(">H")

SYNC: Final = b"S\x00\x00\x00\x04"
FLUSH: Final = b"H\x00\x00\x00\x04"
TERMINATE: Final = b"X\x00\x00\x00\x04"
READY: Final = b"Z\x00\x00\x00\x05"
"""ReadyForQuery up to its transaction byte."""

TRANSACTIONS: Final = {73: Transaction.IDLE, 84: Transaction.OPEN, 69: Transaction.FAILED}
"""The byte in ReadyForQuery: I, T or E."""

RESERVED_NAME: Final = b"_dbproxy"
"""Statement name under which the proxy sends its failing Parse; clients may not use it."""

SQLSTATE: Final = {
    Why.BLOCKED: "42501",  # insufficient_privilege
    Why.LIMIT: "53400",  # configuration_limit_exceeded
    Why.AUDIT_DOWN: "58030",  # io_error
    Why.POLICY_ERROR: "58000",  # system_error
    Why.CAPACITY: "53300",  # too_many_connections
    Why.SHUTDOWN: "57P01",  # admin_shutdown
    Why.IDLE: "57P05",  # idle_session_timeout
    Why.IDLE_IN_TRANSACTION: "25P03",  # idle_in_transaction_session_timeout
    Why.TOO_LONG: "57014",  # query_canceled
    Why.PROTOCOL: "08P01",  # protocol_violation
    Why.TOO_LARGE: "54000",  # program_limit_exceeded
    Why.LOGIN: "28P01",  # invalid_password
    Why.UNKNOWN_PREPARED: "26000",  # invalid_sql_statement_name
    Why.UNKNOWN_CURSOR: "34000",  # invalid_cursor_name
    Why.UNSUPPORTED: "0A000",  # feature_not_supported
    Why.SERVER_LOST: "08006",  # connection_failure
}
"""What the client sees for each reason: the error table of the design."""


def message(kind: bytes, body: bytes) -> bytes:
    """One typed message. kind: the type byte; body: everything after the length."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def report(kind: bytes, severity: str, code: str, text: str, detail: str = "", hint: str = "") -> bytes:
    """An ErrorResponse (kind b"E") or NoticeResponse (b"N"). NUL bytes in texts are dropped: they end a field."""
    fields = [("S", severity), ("V", severity), ("C", code), ("M", text), ("D", detail), ("H", hint)]
    body = b"".join(
        name.encode() + value.replace("\0", "").encode("utf-8", "replace") + b"\0" for name, value in fields if value
    )
    return message(kind, body + b"\0")


def refusal_error(refusal: Refusal, *, fatal: bool = False) -> bytes:
    """The ErrorResponse for a refusal; fatal: the session ends with it."""
    severity = "FATAL" if fatal else "ERROR"
    return report(b"E", severity, SQLSTATE[refusal.why], refusal.message, refusal.detail, refusal.hint)


def parse_report(body: bytes) -> dict[str, str]:
    """Decode the body of an ErrorResponse or NoticeResponse into its fields, by their one-letter code.

    Raises MalformedMessage if the fields are not each terminated, or bytes follow the final terminator.
    """
    if body[-1:] != b"\0" or (len(body) > 1 and body[-2:] != b"\0\0"):
        raise MalformedMessage(Side.SERVER, "error fields without terminator")
    fields: dict[str, str] = {}
    for field in body[:-2].split(b"\0") if len(body) > 1 else ():
        if not field:
            raise MalformedMessage(Side.SERVER, "empty error field")
        fields[chr(field[0])] = field[1:].decode("utf-8", "replace")
    return fields
