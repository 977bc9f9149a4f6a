"""mysql_native_password: against the known value of MySQL's PASSWORD() and the proof that the other end makes."""

import pytest

from protocol.login import AuthenticationFailed
from protocol.mysql.proofs import native_proof
from protocol.native import (
    NATIVE,
    NativeExchange,
    build_native_verifier,
    mock_native_verifier,
    parse_native_verifier,
)

NONCE = bytes(range(40, 60))
STORED = "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"
"""What MySQL 5.7 answers to SELECT PASSWORD('password')."""


def test_the_verifier_is_mysqls_own() -> None:
    assert build_native_verifier(b"password").encode() == STORED
    assert parse_native_verifier(STORED) == build_native_verifier(b"password")
    assert STORED[1:] not in repr(parse_native_verifier(STORED))


@pytest.mark.parametrize("text", ["", "*", STORED[1:], STORED + "0", "*" + "g" * 40, "*" + "é" * 40])
def test_what_is_no_verifier_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"40 hexadecimal|non-hexadecimal"):
        parse_native_verifier(text)


def test_the_right_password_is_proved() -> None:
    exchange = NativeExchange(build_native_verifier(b"secret"), is_doomed=False)
    assert exchange.first(NATIVE, NONCE + native_proof(b"secret", NONCE)) == b""
    assert exchange.verified


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (NATIVE, NONCE + native_proof(b"other", NONCE)),
        (NATIVE, NONCE + native_proof(b"secret", NONCE[::-1])),
        (NATIVE, NONCE),
        (NATIVE, NONCE + b"\0"),
        (NATIVE, NONCE + native_proof(b"secret", NONCE) + b"\0"),
        (NATIVE, b""),
        ("caching_sha2_password", NONCE + native_proof(b"secret", NONCE)),
    ],
)
def test_anything_else_fails(mechanism: str, message: bytes) -> None:
    exchange = NativeExchange(build_native_verifier(b"secret"), is_doomed=False)
    with pytest.raises(AuthenticationFailed):
        exchange.first(mechanism, message)
    assert not exchange.verified


def test_the_doomed_fail_with_the_right_password() -> None:
    exchange = NativeExchange(build_native_verifier(b"secret"), is_doomed=True)
    with pytest.raises(AuthenticationFailed):
        exchange.first(NATIVE, NONCE + native_proof(b"secret", NONCE))
    with pytest.raises(AuthenticationFailed):
        exchange.final(b"secret")
    assert not exchange.verified


def test_an_unknown_persons_verifier_is_always_the_same() -> None:
    one = mock_native_verifier(b"key", "alice")
    assert one == mock_native_verifier(b"key", "alice") != mock_native_verifier(b"key", "bob")
