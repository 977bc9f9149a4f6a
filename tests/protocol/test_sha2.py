"""caching_sha2_password: against known values of crypt(3) and of a MySQL server."""

import hashlib

import pytest

from protocol.login import AuthenticationFailed
from protocol.sha2 import (
    CACHING_SHA2,
    FAST_OK,
    FULL,
    Sha2Exchange,
    Sha2Verifier,
    build_sha2_verifier,
    fast_key,
    fast_proof,
    is_fast_proof,
    mock_sha2_verifier,
    parse_sha2_verifier,
    sha256_crypt,
)

NONCE = bytes(range(40, 60))
# Made by MySQL 9.7 for the password "sha2_pw".
SERVERS = "0x244124303041245E3A21657F23174A70250B6C36204355042B066F5158766E6961444C51544B446B6F6F30785531383650486C6D2E64365A6A53413167696B766168552E6A30"


class Keys:
    def __init__(self) -> None:
        self.kept: dict[Sha2Verifier, bytes] = {}

    def find(self, verifier: Sha2Verifier) -> bytes | None:
        return self.kept.get(verifier)

    def keep(self, verifier: Sha2Verifier, key: bytes) -> None:
        self.kept[verifier] = key


@pytest.mark.parametrize(
    ("password", "salt", "rounds", "digest"),
    [
        (b"Hello world!", b"saltstring", 5000, b"5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
        (b"Hello world!", b"saltstringsaltst", 10000, b"3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"),
    ],
)
def test_digests_are_those_of_crypt(password: bytes, salt: bytes, rounds: int, digest: bytes) -> None:
    assert sha256_crypt(password, salt, rounds) == digest


def test_a_servers_own_verifier_is_read() -> None:
    verifier = parse_sha2_verifier(SERVERS)
    assert sha256_crypt(b"sha2_pw", verifier.salt, verifier.units * 1000) == verifier.digest
    exchange = Sha2Exchange(verifier, Keys(), is_doomed=False)
    assert exchange.first(CACHING_SHA2, NONCE + fast_proof(b"sha2_pw", NONCE)) == FULL
    exchange.final(b"sha2_pw")
    assert exchange.verified


def test_a_verifier_survives_its_text() -> None:
    verifier = build_sha2_verifier(b"secret", bytes(range(20)))
    assert parse_sha2_verifier(verifier.encode()) == verifier
    assert verifier.encode().startswith("$A$005$")
    assert "secret" not in repr(verifier)
    assert verifier.digest.decode() not in repr(verifier)


@pytest.mark.parametrize("text", ["", "$A$005$short", "$B$005$" + "x" * 63, "$A$000$" + "x" * 63, "$A$0xx$" + "x" * 63, "0xzz", "$A$FFF$" + "x" * 63])  # fmt: skip
def test_what_is_no_verifier_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$A\$005\$|rounds|hexadecimal") as caught:
        parse_sha2_verifier(text)
    assert "x" * 10 not in str(caught.value)


def test_the_second_proof_is_fast() -> None:
    keys, verifier = Keys(), build_sha2_verifier(b"secret", b"r" * 20)
    proof = NONCE + fast_proof(b"secret", NONCE)
    first = Sha2Exchange(verifier, keys, is_doomed=False)
    assert first.first(CACHING_SHA2, proof) == FULL
    assert not first.verified
    first.final(b"secret")
    second = Sha2Exchange(verifier, keys, is_doomed=False)
    assert second.first(CACHING_SHA2, proof) == FAST_OK
    assert second.verified
    wrong = Sha2Exchange(verifier, keys, is_doomed=False)
    assert wrong.first(CACHING_SHA2, NONCE + fast_proof(b"wrong", NONCE)) == FULL
    with pytest.raises(AuthenticationFailed):
        wrong.final(b"wrong")
    assert not wrong.verified


def test_the_doomed_fail_whatever_they_prove() -> None:
    keys, verifier = Keys(), build_sha2_verifier(b"secret", b"r" * 20)
    keys.keep(verifier, fast_key(b"secret"))
    exchange = Sha2Exchange(verifier, keys, is_doomed=True)
    assert exchange.first(CACHING_SHA2, NONCE + fast_proof(b"secret", NONCE)) == FULL
    with pytest.raises(AuthenticationFailed):
        exchange.final(b"secret")
    assert not exchange.verified


@pytest.mark.parametrize("message", [b"", b"x" * 257])
def test_impossible_passwords_fail_at_once(message: bytes) -> None:
    exchange = Sha2Exchange(build_sha2_verifier(b"secret", b"r" * 20), Keys(), is_doomed=False)
    with pytest.raises(AuthenticationFailed):
        exchange.final(message)


def test_an_empty_proof_fails() -> None:
    exchange = Sha2Exchange(build_sha2_verifier(b"secret", b"r" * 20), Keys(), is_doomed=False)
    with pytest.raises(AuthenticationFailed):
        exchange.first(CACHING_SHA2, NONCE)


def test_made_up_verifiers_are_the_same_for_one_name_and_fit_no_password() -> None:
    one = mock_sha2_verifier(b"key", "alice")
    assert one == mock_sha2_verifier(b"key", "alice") != mock_sha2_verifier(b"key", "bob")
    assert one.digest not in (sha256_crypt(b"", one.salt, 5000), sha256_crypt(b"alice", one.salt, 5000))


def test_a_fast_proof_is_bound_to_its_nonce() -> None:
    key = hashlib.sha256(hashlib.sha256(b"secret").digest()).digest()
    assert fast_key(b"secret") == key
    proof = fast_proof(b"secret", NONCE)
    assert is_fast_proof(proof, NONCE, key)
    assert not is_fast_proof(proof, NONCE[::-1], key)
    assert not is_fast_proof(proof[:-1], NONCE, key)
