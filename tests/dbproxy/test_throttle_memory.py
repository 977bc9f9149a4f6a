"""What is known of failed logins outlives a process that is killed at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dbproxy.throttle_memory import LEAST_BYTES, ThrottleMemory


@pytest.fixture
def memory() -> Iterator[ThrottleMemory]:
    made = ThrottleMemory.create()
    yield made
    made.close()


def again(memory: ThrottleMemory) -> ThrottleMemory:
    return ThrottleMemory(memory.descriptors)


def test_last_count_of_a_key_is_what_counts(memory: ThrottleMemory) -> None:
    assert memory.read() == {}
    memory.rewrite({("10.0.0.1", ""): (1, 100)})
    memory.note(("10.0.0.1", "alice"), 1, 100)
    memory.note(("10.0.0.1", ""), 2, 100)
    memory.note(("10.0.0.1", "bob"), 1, 200)
    memory.note(("10.0.0.1", "bob"), 0, 200)
    assert again(memory).read() == {("10.0.0.1", ""): (2, 100), ("10.0.0.1", "alice"): (1, 100)}


def test_names_may_be_anything(memory: ThrottleMemory) -> None:
    name = 'a"\n\\ü\u2028\0'
    memory.rewrite({})
    memory.note(("::1", name), 3, 5)
    assert again(memory).read() == {("::1", name): (3, 5)}


def test_writer_that_was_killed_within_a_line_loses_that_line_only(memory: ThrottleMemory) -> None:
    memory.rewrite({("10.0.0.1", ""): (1, 100)})
    memory.note(("10.0.0.1", "alice"), 1, 100)
    (used,) = (each for each in memory.descriptors if os.fstat(each).st_size)
    size = os.fstat(used).st_size
    memory.note(("10.0.0.1", "bob"), 7, 100)
    for length in reversed(range(size, os.fstat(used).st_size)):
        os.ftruncate(used, length)
        assert again(memory).read() == {("10.0.0.1", ""): (1, 100), ("10.0.0.1", "alice"): (1, 100)}


def test_writer_that_was_killed_while_it_writes_all_anew_leaves_the_old(memory: ThrottleMemory) -> None:
    memory.rewrite({("10.0.0.1", "alice"): (1, 100)})
    (free,) = (each for each in memory.descriptors if not os.fstat(each).st_size)
    os.pwrite(free, b'["10.0.0.1","alice",0,100]\n', 8)  # all but the number, which comes last
    assert again(memory).read() == {("10.0.0.1", "alice"): (1, 100)}
    memory.rewrite({("10.0.0.1", "bob"): (2, 100)})
    assert again(memory).read() == {("10.0.0.1", "bob"): (2, 100)}


def test_memory_that_has_grown_wants_to_be_written_anew(memory: ThrottleMemory) -> None:
    memory.rewrite({})
    lines = 0
    while not memory.is_full:
        memory.note(("10.0.0.1", "alice"), lines, 100)
        lines += 1
        assert lines < 100_000
    assert sum(os.fstat(each).st_size for each in memory.descriptors) < LEAST_BYTES * 1.1
    memory.rewrite({("10.0.0.1", "alice"): (lines, 100)})
    assert not memory.is_full
    assert sum(os.fstat(each).st_size for each in memory.descriptors) < 1000
    assert again(memory).read() == {("10.0.0.1", "alice"): (lines, 100)}
