"""What is in force is read whole, the newest that is whole, by whoever has the descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dbproxy.in_force import InForce, InForceError, SharedMemory

FIRST = InForce((("a.yaml", b"version: 1\n\xff"), ("b.yaml", b"")), b"people: []")
SECOND = InForce((("a.yaml", b"version: 1"),), None)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create()
    yield made
    made.close()


def test_nothing_is_in_force_at_first(memory: SharedMemory) -> None:
    with pytest.raises(InForceError):
        memory.read()


def test_what_was_written_last_is_read(memory: SharedMemory) -> None:
    for value in (FIRST, SECOND, FIRST, SECOND, SECOND):
        memory.write(value)
        assert SharedMemory(memory.descriptors).read() == value


@pytest.mark.parametrize("keep", [0, 10, 48, 60, 100])
def test_writer_that_was_killed_leaves_what_was_before(memory: SharedMemory, keep: int) -> None:
    memory.write(SECOND)
    memory.write(FIRST)  # the one that will be cut is the newer
    sizes = [os.fstat(each).st_size for each in memory.descriptors]
    os.ftruncate(memory.descriptors[sizes.index(max(sizes))], keep)
    assert memory.read() == SECOND
    memory.write(FIRST)
    assert memory.read() == FIRST


def test_digest_tells_them_apart_and_users_are_not_shown() -> None:
    assert FIRST.sha256 != SECOND.sha256
    assert FIRST.sha256 == InForce(FIRST.policies, FIRST.users).sha256
    assert "people" not in repr(FIRST)
