"""What fast proofs of caching_sha2_password are checked with, from the first full proof on: in memory, and never anywhere else."""

from __future__ import annotations

from protocol.sha2 import Sha2Verifier

MAX_KEYS = 10_000
"""Bound on memory; whoever is forgotten proves in full once more."""


class MemoryFastKeys:
    """See protocol.sha2.FastKeys. Keyed by the verifier itself, so that a changed password has none."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[bytes, bytes] = {}

    def find(self, verifier: Sha2Verifier) -> bytes | None:
        return self._keys.get(verifier.salt + verifier.digest)

    def keep(self, verifier: Sha2Verifier, key: bytes) -> None:
        if len(self._keys) >= MAX_KEYS:
            self._keys.clear()
        self._keys[verifier.salt + verifier.digest] = key
