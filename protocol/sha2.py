"""caching_sha2_password, both ends: proofs, the salted verifier, and the exchange with a client. hashlib only, no I/O, no randomness.

The verifier has MySQL's textual form `$A$005$<salt><digest>`, so that one taken from mysql.user works here and the other way
round. It is slow on purpose: 5,000 rounds of SHA-256, as crypt(3) does them. After the first full proof a fast one is possible,
for which SHA256(SHA256(password)) is kept in memory only.
Source: MySQL's sha2_password plugin and crypt_genhash_impl.cc; Ulrich Drepper, "Unix crypt using SHA-256 and SHA-512".
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Protocol

from protocol.login import AuthenticationFailed

CACHING_SHA2 = "caching_sha2_password"
FAST_OK = b"\x03"
FULL = b"\x04"
NONCE_BYTES = 20
SALT_BYTES = 20
DIGEST_BYTES = 43
MAX_PASSWORD_BYTES = 256
"""MySQL's own limit for these plugins: a longer one would keep the processor busy."""
_PREFIX = "$A$"
_ROUNDS_UNIT = 1000
_MAX_UNITS = 100
_ALPHABET = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ORDER = (
    *((0, 10, 20), (21, 1, 11), (12, 22, 2), (3, 13, 23), (24, 4, 14)),
    *((15, 25, 5), (6, 16, 26), (27, 7, 17), (18, 28, 8), (9, 19, 29)),
)


@dataclass(frozen=True, slots=True)
class Sha2Verifier:
    """What is stored instead of a password. units: thousands of rounds."""

    units: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    def encode(self) -> str:
        return f"{_PREFIX}{self.units:03X}${(self.salt + self.digest).decode('ascii')}"


def build_sha2_verifier(password: bytes, random: bytes, units: int = 5) -> Sha2Verifier:
    """Derive the verifier of a password. random: SALT_BYTES of it; the salt is made printable."""
    if len(random) != SALT_BYTES or not 1 <= units <= _MAX_UNITS:
        raise ValueError("a verifier needs a salt of 20 bytes and 1 to 100 thousand rounds")
    salt = bytes(_ALPHABET[each & 63] for each in random)
    return Sha2Verifier(units, salt, sha256_crypt(password, salt, units * _ROUNDS_UNIT))


def parse_sha2_verifier(text: str) -> Sha2Verifier:
    """Decode MySQL's textual verifier, or the hexadecimal form of it that SHOW CREATE USER prints. Raises ValueError."""
    if text.startswith(("0x", "0X")):
        try:
            text = bytes.fromhex(text[2:]).decode("ascii")
        except ValueError:
            raise ValueError("a verifier in hexadecimal that is none") from None
    units, rest = text[3:6], text[7:]
    if not text.startswith(_PREFIX) or text[6:7] != "$" or not rest.isascii() or len(rest) != SALT_BYTES + DIGEST_BYTES:
        raise ValueError("must be $A$005$ and 63 characters; set it with `dbproxy user passwd`")
    try:
        number = int(units, 16)
    except ValueError:
        number = 0
    if not 1 <= number <= _MAX_UNITS:
        raise ValueError("the number of rounds is out of bounds")
    return Sha2Verifier(number, rest[:SALT_BYTES].encode(), rest[SALT_BYTES:].encode())


def mock_sha2_verifier(secret: bytes, name: str) -> Sha2Verifier:
    """A verifier that no password fits, always the same for one name: proving takes as long as for real ones."""
    salt = hmac.digest(secret, b"caching_sha2_password " + name.encode("utf-8", "surrogatepass"), "sha256")
    return Sha2Verifier(5, bytes(_ALPHABET[each & 63] for each in salt[:SALT_BYTES]), b"\0" * DIGEST_BYTES)


def sha256_crypt(password: bytes, salt: bytes, rounds: int) -> bytes:
    """The 43 characters that crypt(3) gives for `$5$rounds=…$salt$`, but with a salt of up to 20 bytes, as MySQL has it."""
    sha256 = hashlib.sha256
    size = len(password)
    inner = sha256(password + salt + password).digest()
    start = sha256(password + salt + inner * (size // 32) + inner[: size % 32])
    bits = size
    while bits:
        start.update(inner if bits & 1 else password)
        bits >>= 1
    digest = start.digest()
    repeated = sha256(password * size).digest()
    p = repeated * (size // 32) + repeated[: size % 32]
    repeated = sha256(salt * (16 + digest[0])).digest()
    s = repeated[: len(salt)]
    # The seven parts that a round can have around its digest, by number of the round.
    before: list[bytes] = []
    after: list[bytes] = []
    for number in range(42):
        middle = (s if number % 3 else b"") + (p if number % 7 else b"")
        before.append(p + middle if number % 2 else b"")
        after.append(b"" if number % 2 else middle + p)
    for number in range(rounds):
        at = number % 42
        digest = sha256(before[at] + digest + after[at]).digest()
    out = bytearray()
    for first, second, third in _ORDER:
        value = digest[first] << 16 | digest[second] << 8 | digest[third]
        for _ in range(4):
            out.append(_ALPHABET[value & 63])
            value >>= 6
    value = digest[31] << 8 | digest[30]
    for _ in range(3):
        out.append(_ALPHABET[value & 63])
        value >>= 6
    return bytes(out)


def fast_proof(password: bytes, nonce: bytes) -> bytes:
    """What a client sends first: SHA256(password) XOR SHA256(SHA256(SHA256(password)) nonce); b"" for an empty password."""
    if not password:
        return b""
    once = hashlib.sha256(password).digest()
    mask = hashlib.sha256(hashlib.sha256(once).digest() + nonce).digest()
    return bytes(a ^ b for a, b in zip(once, mask, strict=True))


def fast_key(password: bytes) -> bytes:
    """What a fast proof is checked with. It is worth as much as the password to a server, so it is never stored."""
    return hashlib.sha256(hashlib.sha256(password).digest()).digest()


def is_fast_proof(proof: bytes, nonce: bytes, key: bytes) -> bool:
    if len(proof) != 32:
        return False
    mask = hashlib.sha256(key + nonce).digest()
    once = bytes(a ^ b for a, b in zip(proof, mask, strict=True))
    return hmac.compare_digest(hashlib.sha256(once).digest(), key)


class FastKeys(Protocol):
    """Where fast keys are kept, by verifier."""

    def find(self, verifier: Sha2Verifier) -> bytes | None: ...

    def keep(self, verifier: Sha2Verifier, key: bytes) -> None: ...


class Sha2Exchange:
    """One client's proof. See protocol.login.Exchange.

    is_doomed: whatever the client proves, it fails, and takes as long. `first` takes the nonce and the client's fast proof as one,
    and returns FAST_OK or FULL; after FULL `final` takes the password.
    """

    mechanisms = (CACHING_SHA2,)

    def __init__(self, verifier: Sha2Verifier, keys: FastKeys, *, is_doomed: bool) -> None:
        self._verifier = verifier
        self._keys = keys
        self._is_doomed = is_doomed
        self.verified = False

    def first(self, mechanism: str, message: bytes) -> bytes:
        if mechanism != CACHING_SHA2:
            raise AuthenticationFailed("another mechanism than the one that was offered")
        key = None if self._is_doomed else self._keys.find(self._verifier)
        nonce, proof = message[:NONCE_BYTES], message[NONCE_BYTES:]
        if not proof:
            raise AuthenticationFailed("an empty password")
        if key is not None and is_fast_proof(proof, nonce, key):
            self.verified = True
            return FAST_OK
        return FULL

    def final(self, message: bytes) -> bytes:
        if not message or len(message) > MAX_PASSWORD_BYTES:
            raise AuthenticationFailed("no password, or one that is too long")
        verifier = self._verifier
        digest = sha256_crypt(message, verifier.salt, verifier.units * _ROUNDS_UNIT)
        if not hmac.compare_digest(digest, verifier.digest) or self._is_doomed:
            raise AuthenticationFailed("wrong password")
        self.verified = True
        self._keys.keep(verifier, fast_key(message))
        return b""
