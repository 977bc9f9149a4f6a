"""Closed segments are compressed by a process of its own, at the lowest priority, which nothing has to wait for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import threading
from pathlib import Path

import pytest

from dbproxy.audit.compressor import Compressor
from dbproxy.audit.segment import find_segments, open_segment, segment_name


def _segments(folder: Path, size: int, count: int = 3) -> list[bytes]:
    """Closed ones and the one that is written to. Returns what is in them."""
    data = [random.Random(number).randbytes(size // 2).hex().encode() for number in range(count)]
    for number, each in enumerate(data):
        (folder / segment_name(0, number + 1)).write_bytes(each)
    return data


def _contents(folder: Path) -> list[bytes]:
    found = []
    for _, path in find_segments(folder)[0]:
        with open_segment(path) as file:
            found.append(file.read())
    return found


def test_all_but_the_newest_are_compressed_and_read_as_before(tmp_path: Path) -> None:
    data = _segments(tmp_path, 10_000)
    Compressor(tmp_path, 0).run()
    assert [path.suffix for _, path in find_segments(tmp_path)[0]] == [".gz", ".gz", ".jsonl"]
    assert _contents(tmp_path) == data


def test_its_process_has_the_lowest_priority(tmp_path: Path) -> None:
    _segments(tmp_path, 2_000_000, count=2)
    compressor = Compressor(tmp_path, 0)
    run = threading.Thread(target=compressor.run)
    run.start()
    policies = set()
    while run.is_alive():
        for pid in _children():
            try:
                policies.add(os.sched_getscheduler(pid))
            except ProcessLookupError:
                continue
    run.join()
    assert os.SCHED_IDLE in policies


def test_a_stopped_run_leaves_its_segment_as_it_was(tmp_path: Path) -> None:
    data = _segments(tmp_path, 2_000_000, count=2)
    compressor = Compressor(tmp_path, 0)
    run = threading.Thread(target=compressor.run)
    run.start()
    while not _children():  # an interpreter takes longer to start than stop takes
        assert run.is_alive()
    compressor.stop()
    run.join()
    assert [path.suffix for _, path in find_segments(tmp_path)[0]] == [".jsonl", ".jsonl"]
    compressor.run()
    assert [path.suffix for _, path in find_segments(tmp_path)[0]] == [".jsonl", ".jsonl"], "none begins after stop"
    Compressor(tmp_path, 0).run()
    assert [path.suffix for _, path in find_segments(tmp_path)[0]] == [".gz", ".jsonl"], "the next one does it again"
    assert _contents(tmp_path) == data


def test_a_segment_that_another_run_is_at_is_left_alone(tmp_path: Path) -> None:
    _segments(tmp_path, 10_000, count=2)
    with (tmp_path / segment_name(0, 1)).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="temporarily unavailable"):
            Compressor(tmp_path, 0).run()
    assert [path.suffix for _, path in find_segments(tmp_path)[0]] == [".jsonl", ".jsonl"]


def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    _segments(tmp_path, 10_000, count=2)
    part = tmp_path / (segment_name(0, 1) + ".gz.part")
    part.mkdir()  # cannot be unlinked
    with pytest.raises(OSError, match=r"directory.*\.part|\.part.*directory"):
        Compressor(tmp_path, 0).run()


def _children() -> list[int]:
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found
