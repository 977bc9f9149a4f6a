"""A ledger's files as the verifier must read them: any of them may be hostile, and a running proxy may compress one at any moment."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import orjson

from dbproxy.audit.chain import MAX_LINE_BYTES, check_line
from dbproxy.audit.segment import (
    COMPRESSED,
    SegmentDamaged,
    is_own_file,
    open_segment,
    parse_segment_name,
    raw_name,
    segment_size,
)

MAX_STRUCTURE_BYTES = 8 << 20
"""A record without its strings is never longer; this bounds what reading its JSON costs."""
MAX_STRINGS = 1_000_000
"""Nor has it more strings than this; the header that lists every open intent has half as many."""
LARGE_LINE_BYTES = 1 << 20
"""Of a shorter line this need not be asked."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')


def measure_segment(path: Path) -> int:
    """As segment_size, also for one that has been compressed since it was listed. Raises OSError."""
    try:
        return segment_size(path)
    except FileNotFoundError:
        return segment_size(path.with_name(raw_name(path.name) + COMPRESSED))


def find_extra_files(directory: Path) -> list[str]:
    """Names in the directory that are neither segments nor what the proxy keeps beside them. Raises OSError."""
    names = sorted(path.name for path in directory.iterdir())
    return [name for name in names if parse_segment_name(name) is None and not is_own_file(name)]


def has_too_many_members(line: bytes) -> bool:
    """Whether a line has more than a record ever has beside long strings. Decides without building anything."""
    size = 0
    for strings, match in enumerate(_STRING.finditer(line), 1):
        size += match.end() - match.start()
        if strings > MAX_STRINGS or match.end() - size > MAX_STRUCTURE_BYTES:
            return True
    return len(line) - size > MAX_STRUCTURE_BYTES


def find_given_up_size(following: Path, name: str) -> int | None:
    """If the next segment's header says that the writer gave this one up: how many bytes of it count. That header is checked in its turn."""
    try:
        with open_segment(following) as file:
            line = file.readline(MAX_LINE_BYTES + 1)
    except SegmentDamaged:
        return None
    if isinstance(check_line(line), str) or has_too_many_members(line):
        return None
    try:
        predecessor = orjson.loads(line)["predecessor"]
        if predecessor["file"] == name and predecessor.get("abandoned"):
            return int(predecessor["size"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        pass
    return None


def digest_file(path: Path) -> str:
    """SHA-256, hexadecimal; "" for what is no regular file. Raises OSError."""
    if path.exists() and not path.is_file():
        return ""  # a pipe would be waited for
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
