"""mysql_native_password, the proving end: the verifier, and the exchange with a client. hashlib only, no I/O, no randomness.

It is weak: SHA-1, no salt, one round. Whoever has the verifier and has seen one login can log in; whoever has either can try
passwords fast. So it is there only for clients that know nothing better, where the listener and the person's entry both have it.
The verifier has MySQL's textual form, `*` and 40 hexadecimal digits of SHA1(SHA1(password)).
Counterpart: native_proof in protocol/mysql/proofs.py. Source: MySQL Internals, "Secure Password Authentication".
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from protocol.login import AuthenticationFailed

NATIVE = "mysql_native_password"
NONCE_BYTES = 20
PROOF_BYTES = 20


@dataclass(frozen=True, slots=True)
class NativeVerifier:
    """What is stored instead of a password."""

    digest: bytes = field(repr=False)

    def encode(self) -> str:
        return "*" + self.digest.hex().upper()


def build_native_verifier(password: bytes) -> NativeVerifier:
    return NativeVerifier(_sha1(_sha1(password)))


def parse_native_verifier(text: str) -> NativeVerifier:
    """Decode MySQL's textual verifier. Raises ValueError."""
    if len(text) != 41 or text[0] != "*" or not text.isascii():
        raise ValueError("must be * and 40 hexadecimal digits")
    return NativeVerifier(bytes.fromhex(text[1:]))


def mock_native_verifier(secret: bytes, name: str) -> NativeVerifier:
    """A verifier that no password is known for: proving takes as long as for real ones."""
    return NativeVerifier(hmac.digest(secret, b"native " + name.encode("utf-8", "surrogatepass"), "sha256")[:20])


class NativeExchange:
    """One client's proof. See protocol.login.Exchange.

    is_doomed: whatever the client proves, it fails. `first` takes the nonce and the client's proof as one; there is no `final`.
    """

    mechanisms = (NATIVE,)

    def __init__(self, verifier: NativeVerifier, *, is_doomed: bool) -> None:
        self._digest = verifier.digest
        self._is_doomed = is_doomed
        self.verified = False

    def first(self, mechanism: str, message: bytes) -> bytes:
        nonce, proof = message[:NONCE_BYTES], message[NONCE_BYTES:]
        if mechanism != NATIVE or len(nonce) != NONCE_BYTES or len(proof) != PROOF_BYTES:
            raise AuthenticationFailed("no proof of this mechanism")
        mask = _sha1(nonce + self._digest)
        once = bytes(a ^ b for a, b in zip(proof, mask, strict=True))
        if not hmac.compare_digest(_sha1(once), self._digest) or self._is_doomed:
            raise AuthenticationFailed("wrong password")
        self.verified = True
        return b""

    def final(self, message: bytes) -> bytes:
        raise AuthenticationFailed("a second message, where there is one only")


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()
