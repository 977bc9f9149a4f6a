"""The server's leg: what the proxy gives away, and to whom. SECURITY_BAR B4, B5 and C2."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import pg_bytes as pg
from support.login_driver import LoginDriver

from protocol.contract import Side, Why
from protocol.errors import MessageTooLarge, ProtocolError, UnexpectedMessage
from protocol.login import LoginRefused, ServerAccess, StartTLS, TLSInfo
from protocol.postgres.client_login import LoginOptions
from protocol.postgres.server_login import ServerSession, cancel_login, server_login
from protocol.scram import SCRAM, SCRAM_PLUS, ServerExchange, build_verifier

SECRET = b"server-pa55word"
VERIFIER = build_verifier(SECRET, b"salt" * 4)
END_POINT = b"e" * 32
TLS = TLSInfo("TLSv1.3", "x", None, END_POINT, "CN=db")
TAIL = (
    pg.authentication_ok()
    + pg.parameter_status("server_version", "16.3")
    + pg.parameter_status("client_encoding", "UTF8")
    + pg.notice("collation mismatch", severity="WARNING")
    + pg.backend_key_data(4711, b"srvk")
    + pg.ready()
)
ALL = frozenset({"scram-sha-256-plus", "scram-sha-256", "md5", "password", "trust", "cert"})


def access(tls: str = "disable", allowed: frozenset[str] | set[str] = ALL, **more: Any) -> ServerAccess:
    values: dict[str, Any] = {"password": SECRET, "max_scram_iterations": 100_000, **more}
    return ServerAccess("app", "shop", tls, frozenset(allowed), **values)


def log_in(
    server: bytes = b"",
    chosen: ServerAccess | None = None,
    reply: Callable[[Side, bytes], bytes] | None = None,
    settings: tuple[tuple[str, str], ...] = (),
    **limits: Any,
) -> tuple[LoginDriver, ServerSession]:
    driver = LoginDriver(server=server, answers={StartTLS: TLS}, reply=reply)
    options = LoginOptions(lambda size: b"c" * size, **limits)
    try:
        return driver, driver.run(server_login(options, chosen or access(), settings))
    except LoginRefused as refused:
        refused.driver = driver  # type: ignore[attr-defined] # for the assertions on what was sent
        raise


def sent_of(error: pytest.ExceptionInfo[LoginRefused]) -> bytes:
    return bytes(error.value.driver.sent[Side.SERVER])  # type: ignore[attr-defined] # set by log_in


class ScramServer:
    """A scripted PostgreSQL that asks for SCRAM."""

    def __init__(self, mechanisms: list[str], *, end_point: bytes = b"", tail: bytes = TAIL) -> None:
        self.exchange = ServerExchange(VERIFIER, b"s" * 18, end_point)
        self.mechanisms = mechanisms
        self.tail = tail
        self.chosen = ""
        self.step = 0
        self.edit_first: Callable[[bytes], bytes] = lambda data: data
        self.edit_final: Callable[[bytes], bytes] = lambda data: pg.authentication_sasl_final(data)

    def __call__(self, side: Side, data: bytes) -> bytes:
        if data[:1] != b"p":
            return b"S" if data == pg.ssl_request() else pg.authentication_sasl(self.mechanisms)
        self.step += 1
        if self.step == 1:
            name, _, rest = data[5:].partition(b"\0")
            self.chosen = name.decode()
            return pg.authentication_sasl_continue(self.edit_first(self.exchange.first(self.chosen, rest[4:])))
        return self.edit_final(self.exchange.final(data[5:])) + self.tail


# --------------------------------------------------------------------------------------------------------------- TLS


def test_startup_message_carries_user_database_and_settings() -> None:
    driver, _ = log_in(TAIL, settings=(("application_name", "psql"), ("search_path", "é")))
    expected = pg.startup([("user", "app"), ("database", "shop"), ("application_name", "psql"), ("search_path", "é")])
    assert bytes(driver.sent[Side.SERVER]) == expected


@pytest.mark.parametrize("tls", ["prefer", "require", "verify-ca", "verify-full"])
def test_tls_is_asked_for_and_used(tls: str) -> None:
    driver, _ = log_in(b"S" + TAIL, access(tls))
    assert driver.names() == ["StartTLS"]
    assert bytes(driver.sent[Side.SERVER]).startswith(pg.ssl_request())


@pytest.mark.parametrize("tls", ["require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("answer", [b"N", b"E", b"X", b"\0", pg.error()])
def test_server_without_tls_is_refused_where_it_is_demanded(tls: str, answer: bytes) -> None:
    with pytest.raises(LoginRefused) as caught:
        log_in(answer + TAIL, access(tls))
    assert sent_of(caught) == pg.ssl_request()
    assert caught.value.event == "server_not_verified"


def test_prefer_goes_on_in_plain_after_n_only() -> None:
    driver, _ = log_in(b"N" + TAIL, access("prefer"))
    assert driver.names() == []
    with pytest.raises(LoginRefused):
        log_in(b"E" + TAIL, access("prefer"))


# ------------------------------------------------------------------------------------------------------------ methods


@pytest.mark.parametrize(
    ("request_bytes", "allowed"),
    [
        (pg.authentication_cleartext(), ALL - {"password"}),
        (pg.authentication_md5(b"salt"), ALL - {"md5"}),
        (pg.authentication_sasl([SCRAM]), ALL - {"scram-sha-256"}),
        (pg.authentication_sasl([SCRAM_PLUS]), ALL),
        (pg.authentication_sasl(["SCRAM-SHA-1", "PLAIN"]), ALL),
        (pg.authentication_sasl(["OAUTHBEARER"]), ALL),
        (pg.authentication_ok() + TAIL[9:], ALL - {"trust"}),
        (pg.frame("R", pg.int32(2)), ALL),
        (pg.frame("R", pg.int32(7)), ALL),
        (pg.frame("R", pg.int32(9)), ALL),
        (pg.frame("R", pg.int32(6)), ALL),
        (pg.frame("R", pg.int32(11) + b"r=x"), ALL),
        (pg.frame("R", pg.int32(12) + b"v=x"), ALL),
        (pg.frame("R", pg.int32(3) + b"x"), ALL),
        (pg.frame("R", pg.int32(5) + b"toolong"), ALL),
        (pg.frame("R", pg.int32(-1)), ALL),
    ],
)
def test_method_that_is_not_allowed_gets_no_credential(request_bytes: bytes, allowed: frozenset[str]) -> None:
    with pytest.raises(LoginRefused) as caught:
        log_in(request_bytes + TAIL, access(allowed=allowed))
    assert caught.value.event == "server_auth_downgrade"
    assert sent_of(caught) == pg.startup([("user", "app"), ("database", "shop")])


def test_md5_answers_with_the_digest() -> None:
    driver, _ = log_in(pg.authentication_md5(b"salt") + TAIL)
    inner = hashlib.md5(SECRET + b"app").hexdigest().encode()
    assert bytes(driver.sent[Side.SERVER]).endswith(
        pg.password(b"md5" + hashlib.md5(inner + b"salt").hexdigest().encode())
    )


def test_password_in_clear_goes_inside_tls_where_allowed() -> None:
    driver, _ = log_in(b"S" + pg.authentication_cleartext() + TAIL, access("require"))
    assert bytes(driver.sent[Side.SERVER]).endswith(pg.password(SECRET))


def test_password_in_clear_is_not_sent_after_tls_was_taken_away() -> None:
    with pytest.raises(LoginRefused) as caught:
        log_in(b"N" + pg.authentication_cleartext() + TAIL, access("prefer"))
    assert caught.value.event == "server_auth_downgrade"
    assert SECRET not in sent_of(caught)


def test_client_certificate_counts_inside_tls_only() -> None:
    log_in(b"S" + TAIL, access("require", {"cert"}))
    with pytest.raises(LoginRefused):
        log_in(TAIL, access("disable", {"cert"}))


def test_second_request_is_refused() -> None:
    with pytest.raises(LoginRefused) as caught:
        log_in(pg.authentication_md5(b"salt") + pg.authentication_cleartext() + TAIL)
    assert SECRET not in sent_of(caught)
    assert caught.value.event == "server_auth_downgrade"


@pytest.mark.parametrize("password", [None, b"", b"a\0b"])
def test_account_without_a_password_cannot_answer(password: bytes | None) -> None:
    with pytest.raises(LoginRefused, match="asks for a password"):
        log_in(pg.authentication_md5(b"salt") + TAIL, access(password=password))


# -------------------------------------------------------------------------------------------------------------- SCRAM


def test_scram_logs_in() -> None:
    peer = ScramServer([SCRAM])
    log_in(reply=peer)
    assert peer.exchange.verified
    assert peer.chosen == SCRAM


def test_plus_is_preferred_inside_tls() -> None:
    peer = ScramServer([SCRAM_PLUS, SCRAM], end_point=END_POINT)
    log_in(chosen=access("require"), reply=peer)
    assert peer.exchange.verified
    assert peer.chosen == SCRAM_PLUS


def test_binding_to_a_middleman_s_certificate_fails_at_the_server() -> None:
    peer = ScramServer([SCRAM_PLUS, SCRAM], end_point=b"x" * 32)
    with pytest.raises(Exception, match="channel binding"):
        log_in(chosen=access("require"), reply=peer)
    assert not peer.exchange.verified


def test_removed_plus_is_noticed_by_the_server() -> None:
    peer = ScramServer([SCRAM], end_point=END_POINT)
    with pytest.raises(Exception, match="tampered"):
        log_in(chosen=access("require"), reply=peer)


def test_plus_demanded_is_not_replaced_by_less() -> None:
    with pytest.raises(LoginRefused) as caught:
        log_in(chosen=access("require", {"scram-sha-256-plus"}), reply=ScramServer([SCRAM]))
    assert caught.value.event == "server_auth_downgrade"


@pytest.mark.parametrize("iterations", [b"1000000000", b"100001", b"1", b"0"])
def test_iteration_count_is_capped(iterations: bytes) -> None:
    peer = ScramServer([SCRAM])
    peer.edit_first = lambda data: data.replace(b"i=4096", b"i=" + iterations)
    with pytest.raises(LoginRefused, match="iteration count") as caught:
        log_in(reply=peer)
    assert caught.value.event == "server_not_verified"
    assert peer.step == 1


def test_empty_salt_is_refused() -> None:
    peer = ScramServer([SCRAM])
    peer.edit_first = lambda data: data.split(b",s=")[0] + b",s=,i=4096"
    with pytest.raises(LoginRefused, match="salt"):
        log_in(reply=peer)


@pytest.mark.parametrize(
    "final",
    [
        pg.authentication_sasl_final(b"v=" + b"A" * 43 + b"="),
        pg.authentication_sasl_final(b"e=other-error"),
        pg.authentication_sasl_final(b""),
        b"",
        pg.authentication_sasl_continue(b"r=x"),
    ],
    ids=["wrong", "error", "empty", "missing", "another challenge"],
)
def test_server_that_does_not_prove_itself_is_refused(final: bytes) -> None:
    peer = ScramServer([SCRAM])
    peer.edit_final = lambda _: final
    with pytest.raises(LoginRefused) as caught:
        log_in(reply=peer)
    assert caught.value.event == "server_not_verified"
    assert caught.value.refusal.why is Why.SERVER_LOST


@pytest.mark.parametrize("offer", [b"", b"\0", b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"\0\0\0", b"SCRAM-SHA-256\0\0\0"])
def test_malformed_offer_ends_the_login(offer: bytes) -> None:
    with pytest.raises(ProtocolError):
        log_in(pg.frame("R", pg.int32(10) + offer) + TAIL)


# ---------------------------------------------------------------------------------------------------- errors and end


def test_session_is_collected_without_the_server_s_secret_in_sight() -> None:
    _, session = log_in(TAIL)
    assert session.process_id == 4711
    assert session.secret == b"srvk"
    assert session.parameters == (("server_version", "16.3"), ("client_encoding", "UTF8"))
    assert pg.kinds(b"".join(session.frames)) == "SSN"
    assert "srvk" not in repr(session)


def test_rejected_account_is_not_shown_the_server_s_words() -> None:
    for code in ("28P01", "28000"):
        error = pg.error(code, 'password authentication failed for user "app"', "FATAL")
        with pytest.raises(LoginRefused) as caught:
            log_in(error)
        assert caught.value.refusal.why is Why.SERVER_LOST
        assert caught.value.refusal.message == 'the proxy could not log in to the database with the account "app"'
        assert caught.value.event == "server_rejected_credential"


def test_rejected_personal_password_is_a_failed_login() -> None:
    error = pg.error("28P01", 'password authentication failed for user "app"', "FATAL")
    with pytest.raises(LoginRefused) as caught:
        log_in(pg.authentication_md5(b"salt") + error, access(is_personal=True))
    assert caught.value.refusal.why is Why.LOGIN
    assert caught.value.refusal.message == ""
    assert caught.value.event == "server_rejected_credential"


@pytest.mark.parametrize("place", [b"", pg.authentication_ok()])
def test_other_errors_keep_the_server_s_code_and_words(place: bytes) -> None:
    with pytest.raises(LoginRefused) as caught:
        log_in(place + pg.error("3D000", 'database "shop" does not exist', "FATAL"))
    assert caught.value.code == "3D000"  # type: ignore[attr-defined] # CodedRefused
    assert caught.value.refusal.message == 'database "shop" does not exist'


@pytest.mark.parametrize(
    "tail",
    [
        pg.backend_key_data(1, b"abcd") * 2 + pg.ready(),
        pg.backend_key_data(1, b"abc") + pg.ready(),
        pg.backend_key_data(1, b"k" * 32) + pg.ready(),
        pg.ready("T"),
        pg.frame("Z", b""),
        pg.frame("S", b"name\0value"),
        pg.frame("S", b"\0value\0"),
        pg.frame("S", b"name\0value\0x"),
        pg.data_row(),
        pg.authentication_cleartext(),
        pg.negotiate_protocol_version(0),
        pg.notification(1, "c"),
        pg.frame("S", length=3),
        pg.frame("S", length=2**31),
    ],
)
def test_broken_messages_before_ready_end_the_login(tail: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        log_in(pg.authentication_ok() + tail)
    assert caught.value.side is Side.SERVER


@pytest.mark.parametrize("kind", [chr(code) for code in range(256) if chr(code) not in "REN"])
def test_other_messages_before_authentication_end_the_login(kind: str) -> None:
    with pytest.raises(UnexpectedMessage):
        log_in(kind.encode("latin-1") + pg.authentication_ok()[1:] + TAIL)


def test_endless_notices_end_the_login() -> None:
    with pytest.raises(MessageTooLarge):
        log_in(pg.notice("x") * 1100 + TAIL)
    with pytest.raises(MessageTooLarge):
        log_in(pg.authentication_ok() + pg.notice("x" * 2000) * 600 + TAIL)


@pytest.mark.parametrize("cut", range(0, len(TAIL), 7))
def test_lost_server_is_a_refusal(cut: int) -> None:
    with pytest.raises(LoginRefused) as caught:
        log_in(TAIL[:cut])
    assert caught.value.refusal.why is Why.SERVER_LOST


def test_parameters_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LoginRefused, match="too long"):
        log_in(TAIL, settings=(("application_name", "x" * 10_000),))


def test_cancel_goes_through_tls_where_the_target_has_it() -> None:
    driver = LoginDriver(server=b"S", answers={StartTLS: TLS})
    driver.run(cancel_login("verify-full", 4711, b"srvk"))
    assert bytes(driver.sent[Side.SERVER]) == pg.ssl_request() + pg.cancel_request(4711, b"srvk")
    driver = LoginDriver()
    driver.run(cancel_login("disable", 4711, b"k" * 32))
    assert bytes(driver.sent[Side.SERVER]) == pg.cancel_request(4711, b"k" * 32)
    with pytest.raises(LoginRefused):
        LoginDriver(server=b"N").run(cancel_login("require", 4711, b"srvk"))


MESSAGES = [
    pg.authentication_ok(),
    pg.authentication_cleartext(),
    pg.authentication_md5(b"salt"),
    pg.authentication_sasl([SCRAM]),
    pg.authentication_sasl_continue(b"r=x,s=AAAA,i=4096"),
    pg.authentication_sasl_final(b"v=AAAA"),
    pg.parameter_status("a", "b"),
    pg.backend_key_data(1, b"abcd"),
    pg.notice(),
    pg.error(),
    pg.ready(),
]


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(MESSAGES)), max_size=8).map(b"".join),
    st.sampled_from(["disable", "prefer", "require"]),
)
def test_random_server_never_sees_the_password_nor_breaks_us(data: bytes, tls: str) -> None:
    driver = LoginDriver(server=data, answers={StartTLS: TLS})
    generator = server_login(LoginOptions(lambda size: bytes(size)), access(tls, {"scram-sha-256"}), ())
    with pytest.raises((ProtocolError, LoginRefused)):
        driver.run(generator)
    assert SECRET not in driver.sent[Side.SERVER]
