"""A secret that lives beside the ledger: digests of equal values stay equal for as long as it does."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

from config.settings import Parameters, Settings
from dbproxy.errors import StartError

FILE = "digest.key"
_BYTES = 32


def make_key(settings: Settings) -> None:
    """Draw the key if there is none. For one process, before others read it. Raises OSError."""
    path = settings.audit.directory / FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(_BYTES))


def parameters_key(settings: Settings) -> bytes | None:
    """How bound parameters are recorded, as Session wants it: None with values, b"" not at all, else as digests with this key."""
    match settings.audit.parameters:
        case Parameters.VALUES:
            return None
        case Parameters.OFF:
            return b""
        case Parameters.DIGEST:
            return hashlib.sha256(b"parameters" + _read(settings)).digest()


def strangers_key(settings: Settings) -> bytes:
    """Decides the salt that people who do not exist are shown."""
    return hmac.digest(_read(settings), b"unknown people", "sha256")


def _read(settings: Settings) -> bytes:
    path = settings.audit.directory / FILE
    try:
        key = path.read_bytes()
    except OSError as error:
        raise StartError(f"{path}: cannot be read: {error.strerror}") from error
    if len(key) != _BYTES:
        raise StartError(f"{path} is damaged: move it away, and a new key will be made")
    return key
