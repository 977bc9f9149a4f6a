"""How the proxy proves a password to a server, for each authentication plugin that it knows. Nonces are the server's.

Source: MySQL Internals, "Authentication Methods"; MariaDB documentation, "Authentication Plugin - ed25519"; RFC 8032.
"""

from __future__ import annotations

import hashlib

from protocol.sha2 import fast_proof

CACHING_SHA2 = "caching_sha2_password"
SHA256 = "sha256_password"
ED25519 = "client_ed25519"
PARSEC = "parsec"

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_Y = 4 * pow(5, _P - 2, _P) % _P
_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
_BASE = (_X, _Y, 1, _X * _Y % _P)
_Point = tuple[int, int, int, int]


def native_proof(password: bytes, nonce: bytes) -> bytes:
    """SHA1(password) XOR SHA1(nonce SHA1(SHA1(password))); b"" for an empty password."""
    if not password:
        return b""
    once = hashlib.sha1(password, usedforsecurity=False).digest()
    twice = hashlib.sha1(once, usedforsecurity=False).digest()
    mask = hashlib.sha1(nonce + twice, usedforsecurity=False).digest()
    return bytes(a ^ b for a, b in zip(once, mask, strict=True))


def caching_sha2_proof(password: bytes, nonce: bytes) -> bytes:
    return fast_proof(password, nonce)


def ed25519_proof(password: bytes, nonce: bytes) -> bytes:
    """An Ed25519 signature of the nonce, with the password in place of the 32 secret bytes.

    Not in constant time: the password is one of the proxy's own, and a signature is made once for each session.
    """
    hashed = hashlib.sha512(password).digest()
    scalar = (int.from_bytes(hashed[:32], "little") & ((1 << 254) - 8)) | (1 << 254)
    public = _encode(_multiply(_BASE, scalar))
    r = int.from_bytes(hashlib.sha512(hashed[32:] + nonce).digest(), "little") % _L
    commitment = _encode(_multiply(_BASE, r))
    challenge = int.from_bytes(hashlib.sha512(commitment + public + nonce).digest(), "little") % _L
    return commitment + ((r + challenge * scalar) % _L).to_bytes(32, "little")


def _add(a: _Point, b: _Point) -> _Point:
    """Extended coordinates, RFC 8032 section 5.1.4."""
    e = (a[1] - a[0]) * (b[1] - b[0]) % _P
    f = (a[1] + a[0]) * (b[1] + b[0]) % _P
    g = 2 * a[3] * b[3] * _D % _P
    h = 2 * a[2] * b[2] % _P
    w, x, y, z = f - e, h - g, h + g, f + e
    return w * x % _P, y * z % _P, x * y % _P, w * z % _P


def _multiply(point: _Point, scalar: int) -> _Point:
    result: _Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _encode(point: _Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")
