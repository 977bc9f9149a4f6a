"""What control knows of failed logins, in memory that the supervisor keeps: a restart of control gives nobody who guesses a fresh start.

    memory A   number 7 │ ["10.0.0.1","alice",2,<since>] ⏎ …   the one with the higher number is in use: a line for each change, the last
    memory B   number 8 │ …                                    line of a key counts. When it has grown, what counts is written to the other

Counts are absolute and include proofs that are under way, so a process that is killed between two lines has said too much rather than
too little. Like in_force.py it lasts as long as the supervisor, and never touches a disk: people type passwords where a name belongs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

import orjson

_NUMBER = struct.Struct("!Q")
LEAST_BYTES = 1 << 20
"""A smaller memory is not written anew."""
_GROWTH = 4

Key = tuple[str, str]
"""Address and login name; "" for all names. As in identity/throttle.py."""
Counts = Mapping[Key, tuple[int, int]]
"""How many failures count, and since when by the machine's monotonic clock, in ns."""


class ThrottleMemory:
    """The two memories, for one process at a time. descriptors: of theirs, inherited by each control process in turn."""

    def __init__(self, descriptors: tuple[int, int]) -> None:
        self.descriptors = descriptors
        self._current = 0  # which of them is in use
        self._size = 0
        self._full_bytes = LEAST_BYTES

    @classmethod
    def create(cls) -> ThrottleMemory:
        """New and empty. Raises OSError."""
        return cls((os.memfd_create("dbproxy throttle A"), os.memfd_create("dbproxy throttle B")))

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    @property
    def is_full(self) -> bool:
        """It is time to write it anew."""
        return self._size > self._full_bytes

    def read(self) -> dict[Key, tuple[int, int]]:
        """What counts, as the process before has left it."""
        counts: dict[Key, tuple[int, int]] = {}
        *lines, _torn = _read(self.descriptors[self._find_current()])[_NUMBER.size :].split(b"\n")
        for line in lines:
            address, person, failures, since_ns = orjson.loads(line)
            counts[address, person] = failures, since_ns
        return {key: count for key, count in counts.items() if count[0]}

    def rewrite(self, counts: Counts) -> None:
        """Write everything anew. Needed once before the first note. Raises OSError if there is no memory; the old is in use then."""
        current = self._find_current()
        number = _number(self.descriptors[current])
        free = self.descriptors[1 - current]
        os.ftruncate(free, 0)
        data = b"".join(_line(key, *count) for key, count in counts.items())
        _write(free, data, _NUMBER.size)
        _write(free, _NUMBER.pack(number + 1), 0)  # with its number it is in use
        os.ftruncate(self.descriptors[current], 0)
        self._current = 1 - current
        self._size = _NUMBER.size + len(data)
        self._full_bytes = max(LEAST_BYTES, _GROWTH * self._size)

    def note(self, key: Key, failures: int, since_ns: int) -> None:
        """The count of a key as it is now. Raises OSError if there is no memory."""
        line = _line(key, failures, since_ns)
        _write(self.descriptors[self._current], line, self._size)
        self._size += len(line)

    def _find_current(self) -> int:
        first, second = map(_number, self.descriptors)
        return int(second > first)


def _line(key: Key, failures: int, since_ns: int) -> bytes:
    return orjson.dumps([*key, failures, since_ns]) + b"\n"


def _number(descriptor: int) -> int:
    """0 if it is empty or not whole."""
    header = os.pread(descriptor, _NUMBER.size, 0)
    return int(_NUMBER.unpack(header)[0]) if len(header) == _NUMBER.size else 0


def _read(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    data = b""
    while len(data) < size and (part := os.pread(descriptor, size - len(data), len(data))):
        data += part
    return data


def _write(descriptor: int, data: bytes, at: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], at + written)
