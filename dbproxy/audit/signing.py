"""Ed25519 keys that sign checkpoints: making, keeping and reading them.

The private key is one PEM file (PKCS #8) that nobody but its owner may read. The public key stands beside it as <name>.pub; it is not secret and belongs
where the ledger is verified. A key is named by its id, the first 16 hexadecimal digits of the SHA-256 of the 32 raw bytes of the public key.
Not here: what is signed (checkpoint.py), which key may sign when (verify_seals.py).
"""

from __future__ import annotations

import os
import re
import stat
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dbproxy.audit.segment import sync_directory, write_all
from dbproxy.errors import DbproxyError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_PEM_BYTES = 16 << 10


class KeyUnusable(DbproxyError):  # noqa: N818 - named for the state of the key
    """A key file cannot be used. Its text names the file and the cause, never what is in it."""


class PublicKey:
    """Checks signatures. id: 16 hexadecimal digits; raw: 32 bytes."""

    __slots__ = ("_key", "id", "raw")

    def __init__(self, raw: bytes) -> None:
        """raw: 32 bytes. Raises ValueError otherwise."""
        self._key = Ed25519PublicKey.from_public_bytes(raw)
        self.raw = raw
        self.id = sha256(raw).hexdigest()[:16]

    def has_signed(self, text: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over exactly these bytes."""
        try:
            self._key.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    def pem(self) -> bytes:
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def __repr__(self) -> str:
        return f"PublicKey({self.id})"


class SigningKey:
    """Signs. public: its other half. The private half never leaves this object but through private_pem."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @property
    def id(self) -> str:
        return self.public.id

    def sign(self, text: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(text)

    def private_pem(self) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return f"SigningKey({self.id})"


def public_path(key_path: Path) -> Path:
    """Where the public half of a private key file stands."""
    return key_path.with_name(key_path.name + ".pub")


def next_path(key_path: Path) -> Path:
    """Where a key waits that is to follow this one; the running proxy takes it with its next checkpoint."""
    return key_path.with_name(key_path.name + ".next")


def find_public_keys(key_path: Path) -> list[Path]:
    """The public halves that stand beside a private key file: its own, and those of the keys before it. Oldest names first, its own last."""
    earlier = re.compile(re.escape(key_path.name) + r"\.[0-9a-f]{16}\.pub")
    try:
        names = sorted(path for path in key_path.parent.iterdir() if earlier.fullmatch(path.name))
    except OSError:
        return []
    return [*names, *([public_path(key_path)] if public_path(key_path).exists() else [])]


def load_signing_key(path: Path) -> SigningKey:
    """Read a private key. Raises KeyUnusable, FileNotFoundError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise KeyUnusable(f"signing key {path}: not a regular file")
            if mode & 0o077:
                raise KeyUnusable(f"signing key {path}: others may read or change the file; run chmod 600 {path}")
            pem = file.read(MAX_PEM_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyUnusable(f"signing key {path}: {error.strerror}") from error
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"signing key {path}: not a private key in PEM without a passphrase") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"signing key {path}: not an Ed25519 key; `dbproxy audit keygen` makes one")
    return SigningKey(key)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key in PEM. Raises KeyUnusable."""
    try:
        with path.open("rb") as file:
            pem = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise KeyUnusable(f"public key {path}: {error.strerror}") from error
    if b"PRIVATE KEY" in pem:
        raise KeyUnusable(f"public key {path}: this is a private key; give {public_path(path).name}")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"public key {path}: not a public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyUnusable(f"public key {path}: not an Ed25519 key")
    return PublicKey(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def save_signing_key(key: SigningKey, path: Path) -> None:
    """Write a new private key, mode 0600, and its public half beside it. Never writes over a key. Raises FileExistsError, OSError."""
    _create(path, key.private_pem(), 0o600)
    save_public_key(key.public, public_path(path))
    sync_directory(path.parent)


def save_public_key(key: PublicKey, path: Path) -> None:
    """Write or replace the file of a public key. Raises OSError."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    _create(new, key.pem(), 0o644)
    new.replace(path)


def _create(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(fd, mode)  # a umask may have taken bits of the public one
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
