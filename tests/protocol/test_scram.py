"""SCRAM against itself, the RFC's example, scramp and libpq."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode

import psycopg.pq
import pytest
import scramp
from hypothesis import given
from hypothesis import strategies as st

from protocol.login import AuthenticationFailed
from protocol.scram import (
    SCRAM,
    SCRAM_PLUS,
    ClientExchange,
    ServerExchange,
    build_verifier,
    mock_verifier,
    parse_verifier,
    prepare_password,
)

SALT = bytes(range(16))
END_POINT = hashlib.sha256(b"certificate").digest()
VERIFIER = build_verifier(b"secret", SALT)


def client(password: bytes = b"secret", **options: object) -> ClientExchange:
    return ClientExchange(password, b"c" * 18, **options)  # type: ignore[arg-type] # a test's shorthand


def server(verifier: object = VERIFIER, end_point: bytes = b"", *, is_doomed: bool = False) -> ServerExchange:
    return ServerExchange(verifier, b"s" * 18, end_point, is_doomed=is_doomed)  # type: ignore[arg-type]


def run(mechanism: str, ours: ClientExchange, theirs: ServerExchange) -> None:
    challenge = theirs.first(mechanism, ours.first())
    ours.verify(theirs.final(ours.final(challenge)))


def test_right_password_verifies_both_ends() -> None:
    ours, theirs = client(), server()
    run(SCRAM, ours, theirs)
    assert ours.verified
    assert theirs.verified


def test_plus_binds_to_the_certificate() -> None:
    ours, theirs = client(end_point=END_POINT), server(end_point=END_POINT)
    run(SCRAM_PLUS, ours, theirs)
    assert theirs.verified


def test_rfc_7677_example() -> None:
    # RFC 7677 section 3, with the user name that PostgreSQL would leave out.
    salt = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    theirs = ServerExchange(build_verifier(b"pencil", salt, 4096), b"")
    theirs._nonce = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    first = theirs.first(SCRAM, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert first == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final = theirs.final(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert final == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_wrong_password_never_verifies() -> None:
    ours, theirs = client(b"wrong"), server()
    with pytest.raises(AuthenticationFailed):
        run(SCRAM, ours, theirs)
    assert not theirs.verified
    assert not ours.verified


def test_doomed_exchange_fails_with_the_right_password() -> None:
    theirs = server(is_doomed=True)
    with pytest.raises(AuthenticationFailed, match="proof is wrong"):
        run(SCRAM, client(), theirs)
    assert not theirs.verified


def test_mock_verifier_is_stable_per_name_and_differs_between_names() -> None:
    assert mock_verifier(b"k", "bob") == mock_verifier(b"k", "bob")
    assert mock_verifier(b"k", "bob").salt != mock_verifier(b"k", "eve").salt
    assert mock_verifier(b"k", "bob").salt != mock_verifier(b"other", "bob").salt
    assert len(mock_verifier(b"k", "bob").salt) == len(SALT)


@pytest.mark.parametrize(
    ("mechanism", "message", "end_point"),
    [
        (SCRAM_PLUS, b"p=tls-server-end-point,,n=,r=abc", b""),
        (SCRAM_PLUS, b"n,,n=,r=abc", END_POINT),
        (SCRAM_PLUS, b"y,,n=,r=abc", END_POINT),
        (SCRAM_PLUS, b"p=tls-unique,,n=,r=abc", END_POINT),
        (SCRAM, b"p=tls-server-end-point,,n=,r=abc", END_POINT),
        (SCRAM, b"y,,n=,r=abc", END_POINT),
        (SCRAM, b"n,a=admin,n=,r=abc", b""),
        (SCRAM, b"n,,m=ext,n=,r=abc", b""),
        (SCRAM, b"n,,n=,r=", b""),
        (SCRAM, b"n,,n=,r=a b", b""),
        (SCRAM, b"n,,r=abc", b""),
        (SCRAM, b"n,,n=,r=abc\0", b""),
        (SCRAM, b"", b""),
        (SCRAM, b"n", b""),
        (SCRAM, b"n,,", b""),
        ("SCRAM-SHA-1", b"n,,n=,r=abc", b""),
        ("", b"n,,n=,r=abc", b""),
    ],
)
def test_client_first_is_refused(mechanism: str, message: bytes, end_point: bytes) -> None:
    with pytest.raises(AuthenticationFailed):
        server(end_point=end_point).first(mechanism, message)


@pytest.mark.parametrize("message", [b"n,,n=,r=abc", b"n,,n=*,r=abc", b"y,,n=alice,r=abc,x=ignored"])
def test_client_first_is_accepted_whatever_its_user_name(message: bytes) -> None:
    assert server().first(SCRAM, message).startswith(b"r=abc")


def test_n_flag_is_accepted_although_binding_was_offered() -> None:
    ours, theirs = client(), server(end_point=END_POINT)
    run(SCRAM, ours, theirs)
    assert theirs.verified


def test_binding_to_another_certificate_fails() -> None:
    theirs = server(end_point=END_POINT)
    with pytest.raises(AuthenticationFailed, match="channel binding"):
        run(SCRAM_PLUS, client(end_point=hashlib.sha256(b"middle").digest()), theirs)
    assert not theirs.verified


def test_messages_out_of_order_fail() -> None:
    with pytest.raises(AuthenticationFailed):
        server().final(b"c=biws,r=x,p=" + b64encode(bytes(32)))
    theirs = server()
    theirs.first(SCRAM, client().first())
    with pytest.raises(AuthenticationFailed):
        theirs.first(SCRAM, client().first())


def test_a_proof_cannot_be_tried_twice() -> None:
    ours, theirs = client(), server()
    proof = ours.final(theirs.first(SCRAM, ours.first()))
    with pytest.raises(AuthenticationFailed):
        theirs.final(proof[:-4] + b"AAA=")
    with pytest.raises(AuthenticationFailed):
        theirs.final(proof)
    assert not theirs.verified


@given(st.binary(max_size=200))
def test_random_messages_only_give_authentication_failed(message: bytes) -> None:
    theirs = server()
    theirs.first(SCRAM, client().first())
    ours = client()
    for step in (theirs.final, ours.final, ours.verify):
        with pytest.raises(AuthenticationFailed):
            step(message)
    assert not theirs.verified
    assert not ours.verified


@pytest.mark.parametrize(
    "iterations", [b"1000000000", b"100001", b"4095", b"1", b"0", b"-1", b"", b"4096x", b"9" * 400]
)
def test_iteration_count_out_of_bounds_is_refused_before_work(
    iterations: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = client()
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", lambda *_: pytest.fail("derived a key"))
    with pytest.raises(AuthenticationFailed):
        ours.final(b"r=" + b64encode(b"c" * 18) + b"more,s=" + b64encode(SALT) + b",i=" + iterations)


@pytest.mark.parametrize(
    "server_first",
    [
        b"r=%bmore,s=,i=4096",
        b"r=%b,s=AAAA,i=4096",
        b"r=other%b,s=AAAA,i=4096",
        b"r=%bmore,s=****,i=4096",
        b"r=%bmore,i=4096,s=AAAA",
        b"e=%b",
        b"m=x,r=%bmore,s=AAAA,i=4096",
    ],
)
def test_server_first_is_refused(server_first: bytes) -> None:
    with pytest.raises(AuthenticationFailed):
        client().final(server_first % b64encode(b"c" * 18))


@pytest.mark.parametrize("final", [b"", b"e=other-error", b"v=", b"v=" + b64encode(bytes(32)), b"v=!", b"x=1"])
def test_wrong_server_signature_fails(final: bytes) -> None:
    ours, theirs = client(), server()
    theirs.final(ours.final(theirs.first(SCRAM, ours.first())))
    with pytest.raises(AuthenticationFailed):
        ours.verify(final)
    assert not ours.verified


def test_signature_before_the_challenge_fails() -> None:
    with pytest.raises(AuthenticationFailed):
        client().verify(b"v=" + b64encode(bytes(32)))


def test_client_says_when_it_could_have_bound() -> None:
    assert client(is_binding_possible=True).first().startswith(b"y,,")
    assert client().first().startswith(b"n,,")
    assert client(end_point=END_POINT).first().startswith(b"p=tls-server-end-point,,")


def test_verifier_text_is_postgresql_s() -> None:
    text = VERIFIER.encode()
    assert parse_verifier(text) == VERIFIER
    assert text.startswith("SCRAM-SHA-256$4096:AAECAwQFBgcICQoLDA0ODw==$")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5" + "0" * 32,
        "secret",
        "SCRAM-SHA-256$4096:$a:b",
        VERIFIER.encode().replace("4096", "0"),
        VERIFIER.encode().replace("4096", "-1"),
        VERIFIER.encode().replace("4096", "9" * 30),
        VERIFIER.encode().replace("4096", "٤"),
        VERIFIER.encode()[:-4],
        VERIFIER.encode() + "\n",
        VERIFIER.encode().replace("SHA-256", "SHA-1"),
    ],
)
def test_bad_verifier_text_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_verifier(text)
    assert not text or text not in str(caught.value)


def test_verifier_repr_hides_the_keys() -> None:
    assert "stored" not in repr(VERIFIER)
    assert b64encode(VERIFIER.server_key).decode() not in repr(VERIFIER)


def libpq_verifier(password: bytes) -> str:
    """What libpq's PQencryptPasswordConn makes of a password; it needs no server for scram-sha-256."""
    library = psycopg.pq.PGconn.connect_start(b"host=127.0.0.1 port=1")
    try:
        return library.encrypt_password(password, b"alice", b"scram-sha-256").decode()
    finally:
        library.finish()


# Characters that SASLprep treats specially: spaces, mapped to nothing, NFKC, prohibited, right-to-left, unassigned.
SPECIAL = "aZ \x07\xa0\u1680\u2003\u200b\u3000\xad\u034f\u2060\ufeff\ufe0f\xaa\u2168\ufb01\u212b\xe9e\u0301\ufdd0\ue000\u0340\u2028\u202e\u06dd\u05d0\u0627\u06301\x7f\x85\ufffd\u0221\U0001f600\U000e0001"


@given(
    st.one_of(
        st.text(alphabet=SPECIAL, min_size=1, max_size=6).map(str.encode),
        st.text(alphabet=st.characters(exclude_categories=["Cs"], min_codepoint=1), min_size=1, max_size=8).map(
            str.encode
        ),
        st.binary(min_size=1, max_size=6).filter(lambda raw: b"\0" not in raw),
    )
)
def test_passwords_are_prepared_as_libpq_does(password: bytes) -> None:
    theirs = parse_verifier(libpq_verifier(password))
    assert build_verifier(password, theirs.salt, theirs.iterations) == theirs


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        (b"I\xc2\xadX", b"IX"),
        (b"\xc2\xaa", b"a"),
        (b"\xe2\x85\xa8", b"IX"),
        (b"\x07", b"\x07"),
        (b"\xd8\xa71", b"\xd8\xa71"),
        (b"\xff\xfe", b"\xff\xfe"),
        (b"", b""),
    ],
)
def test_saslprep_examples(password: bytes, prepared: bytes) -> None:
    # RFC 4013 section 3; where the RFC says error, PostgreSQL takes the bytes as they are.
    assert prepare_password(password) == prepared


@pytest.mark.parametrize("end_point", [b"", END_POINT])
def test_scramp_client_logs_in_to_our_server(end_point: bytes) -> None:
    binding = ("tls-server-end-point", end_point) if end_point else None
    mechanism = SCRAM_PLUS if end_point else SCRAM
    theirs = scramp.ScramClient([mechanism], "alice", "secret", channel_binding=binding)
    ours = server(end_point=end_point)
    theirs.set_server_first(ours.first(mechanism, theirs.get_client_first().encode()).decode())
    theirs.set_server_final(ours.final(theirs.get_client_final().encode()).decode())
    assert ours.verified


@pytest.mark.parametrize("end_point", [b"", END_POINT])
def test_our_client_logs_in_to_a_scramp_server(end_point: bytes) -> None:
    binding = ("tls-server-end-point", end_point) if end_point else None
    mechanism = scramp.ScramMechanism(SCRAM_PLUS if end_point else SCRAM)
    stored = mechanism.make_auth_info("secret", iteration_count=4096)
    theirs = mechanism.make_server(lambda _: stored, channel_binding=binding)
    ours = client(end_point=end_point)
    theirs.set_client_first(ours.first().decode())
    theirs.set_client_final(ours.final(theirs.get_server_first().encode()).decode())
    ours.verify(theirs.get_server_final().encode())
    assert ours.verified
