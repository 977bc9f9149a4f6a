"""The client's leg: what it may send when, and what it is told. SECURITY_BAR A1, B2, B3, C3 and C5."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import pg_bytes as pg
from support.login_driver import TLS, LoginDriver

from protocol.contract import Refusal, Side, Why
from protocol.errors import MalformedMessage, MessageTooLarge, ProtocolError, UnexpectedMessage, UnsupportedFeature
from protocol.login import (
    Authenticate,
    Cancel,
    Identify,
    LoginRefused,
    ReadExactly,
    StartTLS,
    TLSInfo,
    UseExchange,
    UsePassword,
)
from protocol.postgres.client_login import Claim, LoginOptions, authenticate, read_startup
from protocol.scram import SCRAM, SCRAM_PLUS, ClientExchange, ServerExchange, build_verifier

ALICE = pg.startup([("user", "alice"), ("database", "shop")])
VERIFIER = build_verifier(b"secret", b"salt" * 4)


class Granted:
    person, server_user, database = "alice", "app", "shop"


def options(tls: Any = "allow", **more: Any) -> LoginOptions:
    return LoginOptions(lambda size: bytes(size), tls, **more)


def start(data: bytes, tls: Any = "allow", **more: Any) -> tuple[LoginDriver, Claim | None]:
    driver = LoginDriver(data)
    claim = driver.run(read_startup(options(tls, **more)))
    return driver, claim


def both(chosen: LoginOptions) -> Generator[Any, Any, Any]:
    claim = yield from read_startup(chosen)
    assert claim is not None
    return (yield from authenticate(chosen, claim))


# ----------------------------------------------------------------------------------------------------- encryption


def test_plain_startup_is_accepted_where_tls_is_optional() -> None:
    driver, claim = start(ALICE)
    assert claim is not None
    assert claim.tls is None
    assert not driver.sent[Side.CLIENT]


def test_ssl_request_is_answered_inside_the_tls_step() -> None:
    driver, claim = start(pg.ssl_request() + ALICE, "require")
    assert driver.steps[3] == StartTLS(Side.CLIENT, answer=b"S")
    assert claim is not None
    assert claim.tls == TLS


def test_direct_tls_needs_no_request() -> None:
    generator = read_startup(options("require"))
    driver = LoginDriver(b"\x16")

    def handshake(step: StartTLS) -> TLSInfo:
        driver.waiting[Side.CLIENT][:] = ALICE
        return TLS

    driver.answers[StartTLS] = handshake
    assert driver.run(generator).tls == TLS
    assert driver.steps[1] == StartTLS(Side.CLIENT, direct=True)


@pytest.mark.parametrize("alpn", [None, "http/1.1", "h2", ""])
def test_direct_tls_without_the_alpn_name_is_refused(alpn: str | None) -> None:
    driver = LoginDriver(b"\x16", answers={StartTLS: TLSInfo("TLSv1.3", "x", alpn, b"", None)})
    with pytest.raises(UnexpectedMessage, match="ALPN"):
        driver.run(read_startup(options()))


def test_direct_tls_without_tls_is_refused() -> None:
    with pytest.raises(UnsupportedFeature):
        start(b"\x16\x03\x01", "disable")


def test_requests_are_declined_before_a_plain_startup() -> None:
    driver, _ = start(pg.gssenc_request() + pg.ssl_request() + ALICE, "disable")
    assert driver.sent[Side.CLIENT] == b"NN"


def test_gss_then_tls_is_the_order_of_libpq() -> None:
    driver, claim = start(pg.gssenc_request() + pg.ssl_request() + ALICE, "require")
    assert driver.sent[Side.CLIENT] == b"NS"
    assert claim is not None
    assert claim.tls is not None


@pytest.mark.parametrize(
    ("packets", "tls"),
    [
        (pg.ssl_request() * 2, "allow"),
        (pg.ssl_request() * 2, "disable"),
        (pg.gssenc_request() * 2, "allow"),
        (pg.ssl_request() + pg.gssenc_request(), "allow"),
    ],
)
def test_encryption_asked_for_twice_is_refused(packets: bytes, tls: str) -> None:
    with pytest.raises(UnexpectedMessage):
        start(packets + ALICE, tls)


def test_plain_startup_is_refused_before_any_password_where_tls_is_required() -> None:
    driver = LoginDriver(ALICE)
    with pytest.raises(LoginRefused, match="TLS connections only") as caught:
        driver.run(both(options("require")))
    assert caught.value.code == "28000"  # type: ignore[attr-defined] # CodedRefused
    assert driver.names() == []


@pytest.mark.parametrize("length", [0, 3, 4, 7, 10_001, 2**31 - 1, 2**32 - 1])
def test_impossible_length_ends_the_connection_without_a_word(length: int) -> None:
    driver = LoginDriver(length.to_bytes(4, "big") + bytes(20_000))
    with pytest.raises(MalformedMessage):
        driver.run(read_startup(options()))
    assert driver.largest_read == 4
    assert not driver.sent[Side.CLIENT]


def test_longest_startup_packet_is_read() -> None:
    packet = pg.startup([("user", "alice"), ("application_name", "x" * (10_000 - 38))])
    assert len(packet) == 10_000
    assert start(packet)[1] is not None


def test_cancel_request_ends_the_login() -> None:
    driver, claim = start(pg.cancel_request(77, b"k" * 32))
    assert claim is None
    assert driver.steps[-1] == Cancel(77, b"k" * 32)
    assert b"kkk" not in repr(driver.steps[-1]).encode()


def test_cancel_request_is_taken_in_plain_and_inside_tls() -> None:
    for packets in (pg.cancel_request(77, b"abcd"), pg.ssl_request() + pg.cancel_request(77, b"abcd")):
        driver, _ = start(packets, "require")
        assert driver.names()[-1] == "Cancel"


def test_replication_is_refused_unless_allowed() -> None:
    packet = pg.startup([("user", "alice"), ("replication", "database")])
    with pytest.raises(LoginRefused) as caught:
        start(packet)
    assert caught.value.refusal.why is Why.UNSUPPORTED
    assert start(packet, allow_replication=True)[1] is not None


# --------------------------------------------------------------------------------------------------- authentication


def exchange(end_point: bytes = b"", **more: Any) -> ServerExchange:
    return ServerExchange(VERIFIER, b"n" * 18, end_point, **more)


def grant_if_verified(theirs: ServerExchange) -> Any:
    refused = LoginRefused(Refusal(Why.LOGIN, ""), "wrong password")
    return lambda _: Granted() if theirs.verified else refused


class ScramClient:
    """Answers the proxy's authentication messages as libpq would."""

    def __init__(self, password: bytes, mechanism: str = SCRAM, end_point: bytes = b"") -> None:
        self.exchange = ClientExchange(password, b"c" * 18, end_point)
        self.mechanism = mechanism
        self.offered: list[str] = []

    def __call__(self, side: Side, data: bytes) -> bytes:
        (kind, body), *_ = pg.split(data)
        code = int.from_bytes(body[:4], "big") if kind == "R" else -1
        if code == 10:
            self.offered = body[4:].decode().rstrip("\0").split("\0")
            return pg.sasl_initial(self.mechanism, self.exchange.first())
        if code == 11:
            return pg.sasl_response(self.exchange.final(body[4:]))
        if code == 12:
            self.exchange.verify(body[4:])
        return b""


def log_in(
    peer: ScramClient, theirs: ServerExchange, *, data: bytes = ALICE, tls: TLSInfo = TLS
) -> tuple[LoginDriver, Any]:
    answers = {Identify: UseExchange(theirs), Authenticate: grant_if_verified(theirs), StartTLS: tls}
    driver = LoginDriver(data, answers=answers, reply=peer)
    return driver, driver.run(both(options()))


def test_scram_login_is_authorized() -> None:
    peer = ScramClient(b"secret")
    driver, result = log_in(peer, exchange())
    assert isinstance(result, Granted)
    assert peer.offered == [SCRAM]
    assert peer.exchange.verified
    assert driver.names() == ["Identify", "Authenticate"]


def test_plus_is_offered_and_used_inside_tls() -> None:
    tls = TLSInfo("TLSv1.3", "x", "postgresql", b"e" * 32, None)
    peer = ScramClient(b"secret", SCRAM_PLUS, b"e" * 32)
    _, result = log_in(peer, exchange(b"e" * 32), data=pg.ssl_request() + ALICE, tls=tls)
    assert isinstance(result, Granted)
    assert peer.offered == [SCRAM_PLUS, SCRAM]


def test_plus_is_never_offered_without_tls() -> None:
    peer = ScramClient(b"secret")
    log_in(peer, exchange(b"e" * 32))
    assert peer.offered == [SCRAM]


@pytest.mark.parametrize(
    ("peer", "theirs"),
    [
        (ScramClient(b"wrong"), exchange()),
        (ScramClient(b"secret"), exchange(is_doomed=True)),
        (ScramClient(b"secret", "SCRAM-SHA-1"), exchange()),
        (ScramClient(b"secret", "PLAIN"), exchange()),
        (ScramClient(b"secret", SCRAM_PLUS), exchange()),
    ],
    ids=["wrong password", "doomed", "unknown mechanism", "plain", "plus without tls"],
)
def test_every_failed_proof_goes_through_authenticate(peer: ScramClient, theirs: ServerExchange) -> None:
    answers = {Identify: UseExchange(theirs), Authenticate: grant_if_verified(theirs)}
    driver = LoginDriver(ALICE, answers=answers, reply=peer)
    with pytest.raises(LoginRefused, match="wrong password"):
        driver.run(both(options()))
    assert driver.names() == ["Identify", "Authenticate"]


def test_failed_proof_is_refused_even_if_identity_grants() -> None:
    driver = LoginDriver(
        ALICE, answers={Identify: UseExchange(exchange()), Authenticate: Granted()}, reply=ScramClient(b"wrong")
    )
    with pytest.raises(LoginRefused):
        driver.run(both(options()))


@pytest.mark.parametrize("kind", [chr(code) for code in range(256) if chr(code) != "p"])
def test_any_other_message_during_authentication_ends_the_login(kind: str) -> None:
    reply = kind.encode("latin-1") + pg.query("DROP TABLE t")[1:]
    driver = LoginDriver(ALICE + reply, answers={Identify: UseExchange(exchange()), Authenticate: Granted()})
    with pytest.raises(UnexpectedMessage):
        driver.run(both(options()))
    assert driver.names() == ["Identify"]
    assert not driver.sent[Side.SERVER]


@pytest.mark.parametrize("length", [0, 3, 2**31, 2**32 - 1, 65_540])
def test_impossible_authentication_message_is_not_read(length: int) -> None:
    driver = LoginDriver(
        ALICE + pg.frame("p", bytes(70_000), length=length), answers={Identify: UseExchange(exchange())}
    )
    with pytest.raises((MalformedMessage, MessageTooLarge)):
        driver.run(both(options()))
    assert driver.largest_read < 100


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"SCRAM-SHA-256",
        b"SCRAM-SHA-256\0",
        b"SCRAM-SHA-256\0\0\0\0\5abcd",
        b"SCRAM-SHA-256\0\0\0\0\3abcd",
        b"SCRAM-SHA-256\0\xff\xff\xff\xfe",
        b"SCRAM-SHA-256\0\x7f\xff\xff\xffabcd",
        b"SCRAM-SHA-256\0\xff\xff\xff\xffx",
    ],
)
def test_malformed_sasl_response_ends_the_login(body: bytes) -> None:
    driver = LoginDriver(ALICE + pg.frame("p", body), answers={Identify: UseExchange(exchange())})
    with pytest.raises(MalformedMessage):
        driver.run(both(options()))


def test_negotiation_comes_before_authentication() -> None:
    data = pg.startup([("user", "alice"), ("_pq_.x", "1")], minor=9999)
    peer = ScramClient(b"secret")
    driver, _ = log_in(peer, exchange(), data=data)
    assert bytes(driver.sent[Side.CLIENT]).startswith(pg.negotiate_protocol_version(2, ["_pq_.x"]))


def test_password_is_asked_for_inside_tls() -> None:
    answers = {Identify: UsePassword(), Authenticate: Granted()}
    driver = LoginDriver(pg.ssl_request() + ALICE + pg.password("pa55word"), answers=answers)
    assert isinstance(driver.run(both(options())), Granted)
    assert driver.steps[-1].password == b"pa55word"
    assert "pa55word" not in repr(driver.steps[-1])
    assert bytes(driver.sent[Side.CLIENT]) == b"S" + pg.authentication_cleartext()


def test_password_is_never_asked_for_in_plain() -> None:
    driver = LoginDriver(ALICE + pg.password("pa55word"), answers={Identify: UsePassword(), Authenticate: Granted()})
    with pytest.raises(LoginRefused, match="inside TLS only"):
        driver.run(both(options()))
    assert driver.names() == ["Identify"]
    assert not driver.sent[Side.CLIENT]


@pytest.mark.parametrize("body", [b"", b"secret", b"sec\0ret\0", b"secret\0x", b"\0\0"])
def test_password_without_its_only_terminator_ends_the_login(body: bytes) -> None:
    driver = LoginDriver(pg.ssl_request() + ALICE + pg.frame("p", body), answers={Identify: UsePassword()})
    with pytest.raises(MalformedMessage):
        driver.run(both(options()))


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([pg.ssl_request(), pg.gssenc_request(), ALICE, pg.cancel_request(1, b"abcd"), b"\x16"]),
            st.binary(max_size=60).map(lambda body: pg.frame("p", body)),
        ),
        max_size=6,
    ).map(b"".join),
    st.sampled_from(["require", "allow", "disable"]),
    st.booleans(),
)
def test_random_bytes_never_log_in(data: bytes, tls: str, asks_password: bool) -> None:
    refused = LoginRefused(Refusal(Why.LOGIN, ""))
    way = UsePassword() if asks_password else UseExchange(exchange())
    driver = LoginDriver(data, answers={Identify: way, Authenticate: refused})

    def run() -> Generator[Any, Any, None]:
        claim = yield from read_startup(options(tls))
        if claim is not None:
            yield from authenticate(options(tls), claim)
            raise AssertionError("logged in")

    with contextlib.suppress(ProtocolError, LoginRefused, ConnectionError):
        driver.run(run())
    assert not driver.sent[Side.SERVER]
    assert all(step.side is Side.CLIENT for step in driver.steps if isinstance(step, ReadExactly))
