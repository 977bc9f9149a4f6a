"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both ends, as PostgreSQL speaks it: hmac and hashlib, no I/O, no randomness.

Only `tls-server-end-point` channel binding, no authorization identity, no mandatory extensions. Nonces are parameters.
The verifier has PostgreSQL's textual form, so that one taken from pg_authid works here and the other way round.
Source: RFC 5802, RFC 7677, RFC 5929, RFC 4013; PostgreSQL manual, "SASL Authentication".
"""

from __future__ import annotations

import hashlib
import hmac
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

from protocol.login import AuthenticationFailed

SCRAM = "SCRAM-SHA-256"
SCRAM_PLUS = "SCRAM-SHA-256-PLUS"
KEY_SIZE = 32
BINDING_HEADER = b"p=tls-server-end-point,,"
MIN_ITERATIONS = 4096
"""RFC 7677 section 4. A rogue server that asks for fewer wants a proof that is cheap to search for the password."""
MAX_ITERATIONS = 100_000
"""About 25 ms of one core: a server may not make the proxy work longer than that for one login."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is stored instead of a password; it cannot be used to log in elsewhere as this person."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def encode(self) -> str:
        """PostgreSQL's text: SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>, the last three in base64."""
        salt, stored, server = (b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key))
        return f"{SCRAM}${self.iterations}:{salt}${stored}:{server}"


def build_verifier(password: bytes, salt: bytes, iterations: int = MIN_ITERATIONS) -> Verifier:
    """Derive the verifier of a password. salt: random, not empty; iterations: at least 1."""
    if not salt or iterations < 1:
        raise ValueError("a verifier needs a salt and at least one iteration")
    salted = hashlib.pbkdf2_hmac("sha256", prepare_password(password), salt, iterations)
    stored = hashlib.sha256(_mac(salted, b"Client Key")).digest()
    return Verifier(iterations, salt, stored, _mac(salted, b"Server Key"))


def parse_verifier(text: str) -> Verifier:
    """Decode PostgreSQL's textual verifier. Raises ValueError, whose text does not repeat the verifier."""
    scheme, _, rest = text.partition("$")
    parameters, _, keys = rest.partition("$")
    iterations, _, salt = parameters.partition(":")
    stored, _, server = keys.partition(":")
    if scheme != SCRAM:
        raise ValueError(f"not a {SCRAM} verifier")
    if not (iterations.isascii() and iterations.isdigit() and len(iterations) < 10 and int(iterations)):
        raise ValueError("the verifier's iteration count is not a positive number")
    parts = [_decode(part.encode("utf-8", "replace")) for part in (salt, stored, server)]
    if not parts[0] or len(parts[1] or b"") != KEY_SIZE or len(parts[2] or b"") != KEY_SIZE:
        raise ValueError("the verifier's salt or keys are not base64 of the right size")
    return Verifier(int(iterations), parts[0], parts[1] or b"", parts[2] or b"")


def mock_verifier(secret: bytes, name: str, iterations: int = MIN_ITERATIONS) -> Verifier:
    """A verifier for somebody who does not exist: the same salt at every try, as a real one would have.

    secret: random, the same for all processes that answer for one service. Use it only in a doomed exchange.
    """
    seed = hmac.digest(secret, name.encode("utf-8", "surrogateescape"), "sha256")
    return Verifier(iterations, seed[:16], _mac(seed, b"stored"), _mac(seed, b"server"))


def prepare_password(password: bytes) -> bytes:
    """SASLprep as PostgreSQL applies it: what cannot be prepared is used as it is.

    ASCII is left alone, control characters too; bytes that are not UTF-8 or hold prohibited characters are left alone.
    PostgreSQL looks for prohibited characters before it normalises, unlike RFC 4013; so do we.
    """
    if password.isascii():
        return password
    try:
        text = password.decode("utf-8")
    except UnicodeDecodeError:
        return password
    # Spaces first: U+200B is in both tables, and PostgreSQL makes it a space.
    spaced = (" " if stringprep.in_table_c12(char) else char for char in text)
    mapped = "".join(char for char in spaced if not stringprep.in_table_b1(char))
    if not mapped or any(_is_prohibited(char) for char in mapped):
        return password
    if any(map(stringprep.in_table_d1, mapped)) and not (
        stringprep.in_table_d1(mapped[0])
        and stringprep.in_table_d1(mapped[-1])
        and not any(map(stringprep.in_table_d2, mapped))
    ):
        return password
    return unicodedata.normalize("NFKC", mapped).encode("utf-8")


def _is_prohibited(char: str) -> bool:
    return (
        stringprep.in_table_c21_c22(char)
        or stringprep.in_table_c3(char)
        or stringprep.in_table_c4(char)
        or stringprep.in_table_c5(char)
        or stringprep.in_table_c6(char)
        or stringprep.in_table_c7(char)
        or stringprep.in_table_c8(char)
        or stringprep.in_table_c9(char)
        or stringprep.in_table_a1(char)
    )


class ServerExchange:
    """The proxy's end towards a client; a protocol.login.Exchange.

    verified becomes True only in `final`, and never when doomed. Messages of a doomed exchange cost and look the same.
    end_point: channel binding data of the proxy's certificate; b"" without TLS, then -PLUS is not offered.
    """

    __slots__ = ("_awaits", "_bare", "_binding", "_end_point", "_is_doomed", "_nonce", "_server_first", "_verifier", "verified")  # fmt: skip

    def __init__(self, verifier: Verifier, nonce: bytes, end_point: bytes = b"", *, is_doomed: bool = False) -> None:
        self._verifier = verifier
        self._nonce = b64encode(nonce)
        self._end_point = end_point
        self._is_doomed = is_doomed
        self._awaits = "first"
        self._bare = self._binding = self._server_first = b""
        self.verified = False

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """Offered mechanisms, the better one first."""
        return (SCRAM_PLUS, SCRAM) if self._end_point else (SCRAM,)

    def first(self, mechanism: str, message: bytes) -> bytes:
        """Take client-first, return server-first. Raises AuthenticationFailed.

        The user name inside is ignored as PostgreSQL does: libpq sends none, and the one at start-up is who logs in.
        """
        self._advance("first", "final")
        if mechanism not in self.mechanisms:
            raise AuthenticationFailed("the client chose a mechanism that was not offered")
        header, self._bare = self._split_header(mechanism, message)
        self._binding = header + (self._end_point if mechanism == SCRAM_PLUS else b"")
        attributes = _attributes(self._bare)
        if [key for key, _ in attributes[:2]] != [b"n", b"r"] or not _is_printable(attributes[1][1]):
            raise AuthenticationFailed("malformed client-first message")
        self._nonce = attributes[1][1] + self._nonce
        salt = b64encode(self._verifier.salt)
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._verifier.iterations)
        return self._server_first

    def final(self, message: bytes) -> bytes:
        """Take client-final, return server-final. Raises AuthenticationFailed."""
        self._advance("final", "nothing")
        without_proof, _, proof_text = message.rpartition(b",p=")
        attributes = _attributes(without_proof)
        proof = _decode(proof_text)
        if [key for key, _ in attributes[:2]] != [b"c", b"r"] or proof is None or len(proof) != KEY_SIZE:
            raise AuthenticationFailed("malformed client-final message")
        if not hmac.compare_digest(_decode(attributes[0][1]) or b"", self._binding):
            raise AuthenticationFailed("the client's channel binding does not match")
        if not hmac.compare_digest(attributes[1][1], self._nonce):
            raise AuthenticationFailed("the client's nonce does not match")
        transcript = b",".join((self._bare, self._server_first, without_proof))
        client_key = _xor(proof, _mac(self._verifier.stored_key, transcript))
        is_proven = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        answer = b"v=" + b64encode(_mac(self._verifier.server_key, transcript))
        self.verified = is_proven and not self._is_doomed
        if not self.verified:
            raise AuthenticationFailed("the proof is wrong")
        return answer

    def _advance(self, expected: str, following: str) -> None:
        if self._awaits != expected:
            raise AuthenticationFailed("the exchange's messages are out of order")
        self._awaits = following

    def _split_header(self, mechanism: str, message: bytes) -> tuple[bytes, bytes]:
        flag, _, rest = message.partition(b",")
        if b"\0" in message or rest[:1] != b",":
            raise AuthenticationFailed("malformed channel binding header, or an authorization identity")
        if mechanism == SCRAM_PLUS:
            if flag != BINDING_HEADER[:-2]:
                raise AuthenticationFailed("-PLUS without tls-server-end-point channel binding")
        elif flag == b"y" and self._end_point:
            # The client could have used -PLUS and believes we did not offer it: somebody removed it on the way.
            raise AuthenticationFailed("the list of mechanisms was tampered with")
        elif flag not in (b"n", b"y"):
            raise AuthenticationFailed("unexpected channel binding flag")
        return flag + b",,", rest[1:]


class ClientExchange:
    """The proxy's end towards a server. verified becomes True only when the server's signature is right.

    end_point: channel binding data of the server's certificate; given with SCRAM_PLUS only.
    is_binding_possible: we could have bound, but the server did not offer -PLUS; tells it so (flag `y`).
    """

    __slots__ = ("_bare", "_end_point", "_flag", "_iterations", "_nonce", "_password", "_signature", "verified")

    def __init__(
        self,
        password: bytes,
        nonce: bytes,
        end_point: bytes = b"",
        *,
        is_binding_possible: bool = False,
        iterations: tuple[int, int] = (MIN_ITERATIONS, MAX_ITERATIONS),
    ) -> None:
        self._password = password
        self._nonce = b64encode(nonce)
        self._end_point = end_point
        self._flag = BINDING_HEADER if end_point else b"y,," if is_binding_possible else b"n,,"
        self._iterations = iterations
        self._bare = b"n=,r=" + self._nonce
        self._signature: bytes | None = None
        self.verified = False

    def first(self) -> bytes:
        """Client-first. The user name is left out as libpq does: the start-up message has it."""
        return self._flag + self._bare

    def final(self, server_first: bytes) -> bytes:
        """Take server-first, return client-final. Raises AuthenticationFailed before any work if its terms are out of bounds."""
        attributes = _attributes(server_first)
        if [key for key, _ in attributes[:3]] != [b"r", b"s", b"i"] or self._signature is not None:
            raise AuthenticationFailed("malformed server-first message")
        nonce, salt, iterations = attributes[0][1], _decode(attributes[1][1]), attributes[2][1]
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce) or not _is_printable(nonce):
            raise AuthenticationFailed("the server's nonce does not extend ours")
        if not salt:
            raise AuthenticationFailed("the server sent no salt")
        low, high = self._iterations
        if not iterations.isdigit() or len(iterations) > 10 or not low <= int(iterations) <= high:
            raise AuthenticationFailed(f"the server's iteration count is not within {low} to {high}")
        salted = hashlib.pbkdf2_hmac("sha256", prepare_password(self._password), salt, int(iterations))
        client_key = _mac(salted, b"Client Key")
        without_proof = b"c=%b,r=%b" % (b64encode(self._flag + self._end_point), nonce)
        transcript = b",".join((self._bare, server_first, without_proof))
        self._signature = _mac(_mac(salted, b"Server Key"), transcript)
        proof = _xor(client_key, _mac(hashlib.sha256(client_key).digest(), transcript))
        return without_proof + b",p=" + b64encode(proof)

    def verify(self, server_final: bytes) -> None:
        """Take server-final. Raises AuthenticationFailed unless the server proved that it knows the password."""
        attributes = _attributes(server_final)
        if self._signature is None or not attributes or attributes[0][0] != b"v":
            raise AuthenticationFailed("the server did not sign the exchange")
        if not hmac.compare_digest(_decode(attributes[0][1]) or b"", self._signature):
            raise AuthenticationFailed("the server's signature is wrong")
        self.verified = True


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _decode(text: bytes) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return None


def _attributes(message: bytes) -> list[tuple[bytes, bytes]]:
    """Split `a=value,b=value`. Raises AuthenticationFailed if a part is not a letter, `=` and a value."""
    parts = [part.partition(b"=") for part in message.split(b",")]
    if any(len(key) != 1 or not key.isalpha() or not equals for key, equals, _ in parts):
        raise AuthenticationFailed("malformed attribute")
    return [(key, value) for key, _, value in parts]


def _is_printable(nonce: bytes) -> bool:
    return bool(nonce) and all(0x21 <= byte <= 0x7E for byte in nonce)
