"""What all workers judge by: the policies and users that control has last found valid, in memory that all of the proxy's processes share.

Control reads the operator's files, and if they are valid puts their contents here, whole and at once; workers read only this. So
all of them have exactly the same, and one that is started while somebody is editing gets the last good ones. It lasts as long as the
supervisor, and never touches a disk: there are verifiers of passwords in it.

    memory A   number 7 │ length │ SHA-256 │ content       the newer one that is whole is in force; the next is written over the
    memory B   number 8 │ length │ SHA-256 │ content       older one, so a writer that is killed at it breaks nothing
"""

from __future__ import annotations

import hashlib
import os
import struct
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

import orjson

from dbproxy.errors import DbproxyError

_HEADER = struct.Struct("!QQ32s")
_MAX_BYTES = 1 << 30


class InForceError(DbproxyError):
    """There is nothing in force: control has not come to that yet."""


@dataclass(frozen=True, slots=True)
class InForce:
    """policies: name and content of each policy file, in order. users: content of the users file, None without one."""

    policies: tuple[tuple[str, bytes], ...]
    users: bytes | None = field(repr=False)

    @property
    def sha256(self) -> str:
        """Of all of it, hexadecimal: two that are equal have the same."""
        return hashlib.sha256(self._encoded()).hexdigest()

    def _encoded(self) -> bytes:
        return orjson.dumps(
            {
                "policies": [[name, b64encode(content).decode()] for name, content in self.policies],
                "users": None if self.users is None else b64encode(self.users).decode(),
            }
        )


class SharedMemory:
    """The two memories. descriptors: of theirs, inherited by all processes of the proxy."""

    def __init__(self, descriptors: tuple[int, int]) -> None:
        self.descriptors = descriptors

    @classmethod
    def create(cls) -> SharedMemory:
        """New and empty. Raises OSError."""
        return cls((os.memfd_create("dbproxy in force A"), os.memfd_create("dbproxy in force B")))

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def write(self, value: InForce) -> None:
        """Put it in force. For one process at a time. Raises OSError if there is no memory; the old stays in force then."""
        numbers = [found[0] if (found := _read(each)) is not None else 0 for each in self.descriptors]
        older = self.descriptors[numbers.index(min(numbers))]
        body = value._encoded()  # noqa: SLF001 - of this module
        data = _HEADER.pack(max(numbers) + 1, len(body), hashlib.sha256(body).digest()) + body
        os.ftruncate(older, 0)
        written = 0
        while written < len(data):
            written += os.pwrite(older, data[written:], written)

    def read(self) -> InForce:
        """What is in force. Raises InForceError if nothing is yet."""
        found = max(
            (each for each in map(_read, self.descriptors) if each is not None), key=lambda each: each[0], default=None
        )
        if found is None:
            raise InForceError("no policies and users are in force yet")
        fields = orjson.loads(found[1])
        return InForce(
            tuple((name, b64decode(content)) for name, content in fields["policies"]),
            None if fields["users"] is None else b64decode(fields["users"]),
        )


def _read(descriptor: int) -> tuple[int, bytes] | None:
    """Number and content of one memory; None if it is empty or not whole."""
    header = os.pread(descriptor, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return None
    number, length, digest = _HEADER.unpack(header)
    if length > _MAX_BYTES:
        return None
    body = b""
    while len(body) < length:
        part = os.pread(descriptor, length - len(body), _HEADER.size + len(body))
        if not part:
            return None
        body += part
    return (number, body) if hashlib.sha256(body).digest() == digest else None
