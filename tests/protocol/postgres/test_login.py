"""A whole login: both legs, in order, and what the client is told at its end."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import pg_bytes as pg
from support.login_driver import TLS, LoginDriver

from protocol.contract import Refusal, Side, Why
from protocol.errors import ProtocolError, UnexpectedMessage
from protocol.login import (
    Authenticate,
    Identify,
    IssuedKey,
    LoginRefused,
    OpenServer,
    Ready,
    ServerAccess,
    ServerReady,
    StartTLS,
    UsePassword,
)
from protocol.postgres.login import LoginOptions, login

START = pg.ssl_request() + pg.startup([("user", "alice"), ("options", "-c work_mem=1MB")])
PASSWORD = pg.password("secret")
SERVER = (
    pg.authentication_cleartext()
    + pg.authentication_ok()
    + pg.parameter_status("server_version", "16.3")
    + pg.parameter_status("standard_conforming_strings", "on")
    + pg.backend_key_data(4711, b"srvk")
    + pg.ready()
)
ACCESS = ServerAccess("app", "shop", "disable", frozenset({"password"}), 100_000, b"server-pa55word")
OPTIONS = LoginOptions(lambda size: bytes(size), "require")


class Granted:
    person, server_user, database = "alice", "app", "shop"


GRANTED = Granted()


class RelayStub:
    def __init__(self, parameters: dict[str, str]) -> None:
        self.parameters = parameters


def run(client: bytes, server: bytes = SERVER, options: LoginOptions = OPTIONS, **answers: Any) -> LoginDriver:
    known = {
        StartTLS: TLS,
        Identify: UsePassword(),
        Authenticate: GRANTED,
        OpenServer: ACCESS,
        ServerReady: lambda step: IssuedKey(b"k" * step.secret_size, "You are watched."),
    }
    by_name = {step.__name__: step for step in known}
    driver = LoginDriver(client, server, {**known, **{by_name[name]: answer for name, answer in answers.items()}})
    generator = login(options, RelayStub)  # type: ignore[arg-type] # stands for a relay
    try:
        driver.run(generator)
    except (LoginRefused, ProtocolError, ConnectionError) as error:
        driver.result = error
    return driver


def told(driver: LoginDriver) -> dict[str, str]:
    """The fields of the last message to the client, which must be an ErrorResponse."""
    kind, body = pg.split(bytes(driver.sent[Side.CLIENT]).lstrip(b"S"))[-1]
    assert kind == "E"
    return pg.fields_of(body)


def test_steps_come_in_this_order() -> None:
    driver = run(START + PASSWORD)
    assert driver.names() == ["StartTLS", "Identify", "Authenticate", "OpenServer", "ServerReady", "Ready"]
    assert driver.steps[-3] == ServerReady(
        4711, (("server_version", "16.3"), ("standard_conforming_strings", "on")), b"srvk", 4
    )


def test_welcome_is_one_message_with_our_key_and_the_banner() -> None:
    driver = run(START + PASSWORD)
    assert bytes(driver.sent[Side.CLIENT]) == (
        b"S"
        + pg.authentication_cleartext()
        + pg.authentication_ok()
        + pg.parameter_status("server_version", "16.3")
        + pg.parameter_status("standard_conforming_strings", "on")
        + pg.backend_key_data(4711, b"kkkk")
        + pg.notice("You are watched.")
        + pg.ready()
    )
    assert len([step for step in driver.steps if getattr(step, "data", b"").endswith(pg.ready())]) == 1


def test_server_s_secret_never_reaches_the_client() -> None:
    assert b"srvk" not in bytes(run(START + PASSWORD).sent[Side.CLIENT])


def test_relay_is_made_from_the_first_parameters() -> None:
    ready = run(START + PASSWORD).steps[-1]
    assert isinstance(ready, Ready)
    assert ready.relay.parameters == {"server_version": "16.3", "standard_conforming_strings": "on"}  # type: ignore[attr-defined] # the stub


def test_options_reach_the_server_as_settings() -> None:
    sent = bytes(run(START + PASSWORD).sent[Side.SERVER])
    assert sent.startswith(pg.startup([("user", "app"), ("database", "shop"), ("work_mem", "1MB")]))


def test_protocol_3_2_gets_a_long_key() -> None:
    client = pg.ssl_request() + pg.startup([("user", "alice")], minor=2) + PASSWORD
    assert pg.backend_key_data(4711, b"k" * 32) in bytes(run(client).sent[Side.CLIENT])


def test_newer_protocol_is_told_ours_and_gets_a_long_key() -> None:
    client = pg.ssl_request() + pg.startup([("user", "alice")], minor=3) + PASSWORD
    sent = bytes(run(client).sent[Side.CLIENT])
    assert sent.startswith(b"S" + pg.negotiate_protocol_version(2))
    assert pg.backend_key_data(4711, b"k" * 32) in sent


def test_replication_reaches_the_server_only_where_allowed() -> None:
    client = pg.ssl_request() + pg.startup([("user", "alice"), ("replication", "database")]) + PASSWORD
    allowed = LoginOptions(lambda size: bytes(size), "require", allow_replication=True)
    assert b"replication\0database\0" in bytes(run(client, options=allowed).sent[Side.SERVER])
    refused = run(client)
    assert told(refused)["C"] == "0A000"
    assert "Identify" not in refused.names()


def test_nothing_is_dialled_before_authentication() -> None:
    driver = run(START + PASSWORD, Authenticate=LoginRefused(Refusal(Why.LOGIN, ""), "wrong password"))
    assert "OpenServer" not in driver.names()
    assert not driver.sent[Side.SERVER]


def test_every_failed_login_reads_the_same() -> None:
    answers = set()
    for detail in ("wrong password", "unknown person", "disabled", "expired", "too many failed logins"):
        driver = run(START + PASSWORD, Authenticate=LoginRefused(Refusal(Why.LOGIN, ""), detail, "event"))
        answers.add(bytes(driver.sent[Side.CLIENT]))
        assert driver.result.detail == detail
    assert len(answers) == 1
    assert told(driver) == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "28P01",
        "M": 'password authentication failed for user "alice"',
    }


def test_personal_password_that_the_server_refuses_reads_the_same_too() -> None:
    ours = run(START + PASSWORD, Authenticate=LoginRefused(Refusal(Why.LOGIN, "")))
    personal = ServerAccess("alice", "shop", "disable", frozenset({"password"}), 100_000, b"x", is_personal=True)
    error = pg.error("28P01", 'password authentication failed for user "alice"', "FATAL", R="auth_failed")
    theirs = run(START + PASSWORD, pg.authentication_cleartext() + error, OpenServer=personal)
    assert bytes(ours.sent[Side.CLIENT]) == bytes(theirs.sent[Side.CLIENT])


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Refusal(Why.LOGIN, "no account here"), "28000"),
        (Refusal(Why.CAPACITY, "too many"), "53300"),
        (Refusal(Why.SHUTDOWN, "stopping"), "57P01"),
        (Refusal(Why.SERVER_LOST, "not reachable"), "08006"),
        (Refusal(Why.BLOCKED, "setting refused"), "42501"),
        (Refusal(Why.AUDIT_DOWN, "no audit"), "58030"),
    ],
)
def test_refusals_by_the_driver_are_told_in_postgresql_s_codes(refusal: Refusal, code: str) -> None:
    driver = run(START + PASSWORD, OpenServer=LoginRefused(refusal))
    assert told(driver)["C"] == code
    assert told(driver)["S"] == "FATAL"
    assert told(driver)["M"] == refusal.message


def test_server_s_error_is_passed_on_as_fatal() -> None:
    driver = run(START + PASSWORD, pg.error("3D000", 'database "shop" does not exist', "FATAL"))
    assert told(driver)["C"] == "3D000"
    assert told(driver)["M"] == 'database "shop" does not exist'


def test_broken_server_is_told_without_details() -> None:
    driver = run(START + PASSWORD, pg.data_row())
    assert isinstance(driver.result, UnexpectedMessage)
    assert told(driver)["C"] == "08006"


def test_client_that_breaks_the_protocol_is_told() -> None:
    driver = run(START + pg.query("DROP TABLE t"))
    assert isinstance(driver.result, UnexpectedMessage)
    assert told(driver)["C"] == "08P01"
    assert not driver.sent[Side.SERVER]


def test_stranger_is_not_answered() -> None:
    driver = run(b"GET / HTTP/1.1\r\n\r\n")
    assert isinstance(driver.result, ProtocolError)
    assert not driver.sent[Side.CLIENT]


def test_client_that_leaves_is_no_refusal() -> None:
    assert isinstance(run(START).result, ConnectionError)
    assert isinstance(run(b"").result, ConnectionError)


def test_server_without_a_key_gives_the_client_none() -> None:
    server = pg.authentication_cleartext() + pg.authentication_ok() + pg.ready()
    sent = bytes(run(START + PASSWORD, server).sent[Side.CLIENT])
    assert pg.kinds(sent[1:]) == "RRNZ"


def test_login_name_in_the_answer_cannot_break_the_message() -> None:
    client = pg.ssl_request() + pg.startup([("user", 'x"\r\n\x1b[31m')]) + PASSWORD
    driver = run(client, Authenticate=LoginRefused(Refusal(Why.LOGIN, "")))
    assert told(driver)["M"] == 'password authentication failed for user "x"\r\n\x1b[31m"'


@pytest.mark.parametrize("side", list(Side))
def test_login_cut_at_every_byte_ends_without_a_session(side: Side) -> None:
    client, server = START + PASSWORD, SERVER
    whole = client if side is Side.CLIENT else server
    for cut in range(len(whole)):
        driver = run(client[:cut], server) if side is Side.CLIENT else run(client, server[:cut])
        assert isinstance(driver.result, LoginRefused | ConnectionError)
        assert "Ready" not in driver.names()


@given(st.data())
def test_mutated_logins_end_in_a_session_or_a_refusal(data: st.DataObject) -> None:
    client, server = bytearray(START + PASSWORD), bytearray(SERVER)
    for _ in range(data.draw(st.integers(1, 4))):
        victim = data.draw(st.sampled_from([client, server]))
        victim[data.draw(st.integers(0, len(victim) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        driver = run(bytes(client), bytes(server))
        assert ("Ready" in driver.names()) == (driver.result is None)
