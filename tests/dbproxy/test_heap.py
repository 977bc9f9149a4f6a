"""What is freed goes back to the system, also where something still in use lies behind it."""

from __future__ import annotations

import ctypes
import os

import pytest
from support.usage import memory_kib

from dbproxy import heap


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc, whose habit this is about")
def test_freed_memory_is_given_back() -> None:
    blocks = [b"x" * 60_000 for _ in range(1000)]
    kept = blocks[::100]
    before = memory_kib(os.getpid())
    del blocks
    heap.give_back()
    assert memory_kib(os.getpid()) < before - 40_000
    assert len(kept) == 10
