"""The ErrorResponse at the end of a failed login."""

from __future__ import annotations

from support import pg_bytes as pg

from protocol.contract import Refusal, Side, Why
from protocol.errors import MalformedMessage
from protocol.login import LoginRefused
from protocol.postgres.errors_wire import CodedRefused, login_error, protocol_error


def fields(data: bytes) -> dict[str, str]:
    ((kind, body),) = pg.split(data)
    assert kind == "E"
    return pg.fields_of(body)


def test_failed_login_without_words_gets_postgresql_s() -> None:
    error = fields(login_error(LoginRefused(Refusal(Why.LOGIN, ""), "for the log"), "alice"))
    assert error["C"] == "28P01"
    assert error["M"] == 'password authentication failed for user "alice"'


def test_coded_refusal_keeps_its_code_and_hint() -> None:
    error = fields(login_error(CodedRefused("28000", "no", hint="try this", log="for the log"), "alice"))
    assert (error["C"], error["M"], error["H"]) == ("28000", "no", "try this")


def test_log_text_never_reaches_the_client() -> None:
    for refused in (
        LoginRefused(Refusal(Why.LOGIN, ""), "for the log"),
        CodedRefused("28000", "no", log="for the log"),
        LoginRefused(Refusal(Why.CAPACITY, "full"), "for the log"),
    ):
        assert b"for the log" not in login_error(refused, "alice")


def test_protocol_errors_name_the_client_s_fault_only() -> None:
    assert fields(protocol_error(MalformedMessage(Side.CLIENT, "too short")))["M"] == "too short"
    assert "too short" not in fields(protocol_error(MalformedMessage(Side.SERVER, "too short")))["M"]
