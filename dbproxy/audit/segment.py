"""Segment files: their names, and finding, creating and writing them. Counterpart of the format in chain.py."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NAME = re.compile(r"audit-([0-9]{1,4})-([0-9]{16})\.jsonl")


def segment_name(slot: int, first_seq: int) -> str:
    return f"audit-{slot}-{first_seq:016d}.jsonl"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """Slot and first seq, or None if this is not the name of a segment."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def find_segments(directory: Path) -> dict[int, list[tuple[int, Path]]]:
    """All segments by slot, each slot's as (first seq, path) in order. Raises OSError."""
    found: dict[int, list[tuple[int, Path]]] = {}
    for path in directory.iterdir():
        parsed = parse_segment_name(path.name)
        if parsed is not None:
            found.setdefault(parsed[0], []).append((parsed[1], path))
    for segments in found.values():
        segments.sort()
    return found


def create_file(path: Path) -> int:
    """Create a file that must not exist yet, for appending and reading back; returns its descriptor. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def write_all(fd: int, data: bytes) -> None:
    """Write all of data. Raises OSError; how much was written by then is for the caller to find out."""
    written = os.write(fd, data)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(data):
        written += os.write(fd, view[written:])


def free_side_path(path: Path, suffix: str) -> Path:
    """A name beside path that no file has: name.suffix, name.1.suffix, …"""
    candidate = path.with_name(f"{path.stem}.{suffix}")
    number = 0
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}.{suffix}")
    return candidate


def sync_directory(directory: Path) -> None:
    """Make names in the directory durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
