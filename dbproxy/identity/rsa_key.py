"""The proxy's RSA key, under which clients without TLS send the password of a full caching_sha2_password proof.

Made anew at each start and kept in memory: it protects one packet against whoever only listens.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_BITS = 2048


class RSAKey:
    """See protocol.mysql.client_login.PrivateKey."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
        self._pem = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def public_pem(self) -> bytes:
        return self._pem

    def decrypt(self, data: bytes) -> bytes | None:
        """RSA-OAEP with SHA-1, as the protocol has it; None if it cannot be decrypted."""
        if len(data) != _BITS // 8:
            return None
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303 - the protocol's own choice
        try:
            return self._key.decrypt(data, oaep)
        except ValueError:
            return None
