"""Reading the end of a chain when the ledger is opened, and cutting off what a crash left half written.

Only the last segment is read: its header lists the intents that were open before it. Damage anywhere but at the very end is not
repaired and not stepped over: it is somebody's doing, and the files are evidence. Counterpart: ledger.py; the full check is verify.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import orjson

from dbproxy.audit.chain import MAX_LINE_BYTES, NO_HASH, Key, check_line
from dbproxy.audit.segment import (
    COMPRESSED,
    SegmentDamaged,
    create_file,
    find_segments,
    free_side_path,
    open_segment,
    raw_name,
    segment_size,
    sync_directory,
)
from dbproxy.audit.types import EventType
from dbproxy.errors import StartError


class LedgerDamaged(StartError):  # noqa: N818 - named for what it found
    """A segment is damaged somewhere else than at its torn end. file and seq say where."""

    def __init__(self, path: Path, seq: int, problem: str) -> None:
        super().__init__(
            f"audit ledger damaged: {path.name}, record {seq}: {problem}. It is not repaired, because it may be evidence: run "
            f"`dbproxy audit verify {path.parent}`, move the directory {path.parent} to a safe place and start with an empty one."
        )
        self.path = path
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Torn:
    """Bytes cut off the end of a segment and kept beside it.

    file: name of the side file; segment: where they stood, from offset on; size in bytes; digest: SHA-256, hexadecimal.
    """

    file: str
    segment: str
    offset: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """Where a chain stands on disk.

    seq, hash: of the last good record, 0 and zeros for a chain that has not begun. path: its segment, size: bytes up to its end;
    None and 0 at the beginning. open_intents: without outcome so far. last_type: of the last record. was_rotated: it says that a successor
    exists; was_ended: that its slot went out of use. torn: what has been cut off, oldest first.
    """

    seq: int = 0
    hash: bytes = NO_HASH
    path: Path | None = None
    size: int = 0
    open_intents: frozenset[Key] = frozenset()
    last_type: bytes = b""
    was_rotated: bool = False
    was_ended: bool = False
    torn: tuple[Torn, ...] = field(default=())


def recover_chain(directory: Path, slot: int) -> ChainEnd:
    """Find the end of the slot's chain and cut off a torn tail. Deletes nothing: torn bytes are kept in a side file.

    Raises LedgerDamaged, OSError.
    """
    torn: list[Torn] = []
    segments = find_segments(directory).get(slot, [])
    while segments:
        first_seq, path = segments.pop()
        try:
            end, tail = _read_segment(path, first_seq)
        except SegmentDamaged as error:
            raise LedgerDamaged(path, first_seq, str(error)) from error
        if end is None and path.name.endswith(COMPRESSED):
            raise LedgerDamaged(path, first_seq, "a compressed segment has no whole record")
        if end is None:  # the crash came before its first record was whole: no accepted record is in it
            torn.append(_set_aside(path, tail))
            continue
        if tail < segment_size(path):
            if path.name.endswith(COMPRESSED):
                raise LedgerDamaged(path, end.seq + 1, "a compressed segment does not end with a record")
            torn.append(_cut_tail(path, tail))
        return ChainEnd(
            end.seq,
            end.hash,
            path,
            tail,
            end.open_intents,
            end.last_type,
            end.was_rotated,
            end.was_ended,
            tuple(torn[::-1]),
        )
    return ChainEnd(torn=tuple(torn[::-1]))


def has_chain_ended(directory: Path, slot: int) -> bool:
    """Whether the slot's chain ends in good order with `chain_end`. Changes nothing. Raises LedgerDamaged, OSError."""
    segments = find_segments(directory).get(slot, [])
    if not segments:
        return False
    first_seq, path = segments[-1]
    try:
        end, tail = _read_segment(path, first_seq)
    except SegmentDamaged as error:
        raise LedgerDamaged(path, first_seq, str(error)) from error
    is_whole = end is not None and tail == segment_size(path)
    return is_whole and end is not None and end.was_ended and end.last_type == EventType.SEGMENT_END


def _read_segment(path: Path, first_seq: int) -> tuple[ChainEnd | None, int]:
    """Read a segment up to its end or its torn tail. Returns its end (None if not even the header is whole) and the good bytes."""
    seq = first_seq - 1
    prev = b""
    good = 0
    last = b""
    was_rotated = was_ended = False
    open_intents: set[Key] = set()
    with open_segment(path) as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            checked = check_line(line)
            if isinstance(checked, str):
                if file.read(1):
                    raise LedgerDamaged(path, seq + 1, checked)
                break
            if checked[0] != seq + 1 or (prev and checked[1] != prev):
                raise LedgerDamaged(path, seq + 1, "it does not follow the record before")
            if last == EventType.SEGMENT_END:
                raise LedgerDamaged(path, seq + 1, "records follow the end of the segment")
            if was_ended and checked[3] != EventType.SEGMENT_END:
                raise LedgerDamaged(path, seq + 1, "records follow the end of the chain")
            seq, _, _, last, prev = checked
            good += len(line)
            was_ended = was_ended or last == EventType.CHAIN_END
            try:
                was_rotated = _follow(last, line, raw_name(path.name), open_intents, is_first=seq == first_seq)
            except (ValueError, KeyError, TypeError) as error:
                raise LedgerDamaged(path, seq, "its fields are not those of its type") from error
    if seq < first_seq:
        return None, 0
    return ChainEnd(seq, prev, path, good, frozenset(open_intents), last, was_rotated, was_ended), good


def _follow(type_: bytes, line: bytes, name: str, open_intents: set[Key], *, is_first: bool) -> bool:
    """Keep the set of open intents; returns whether the record says that a successor exists."""
    if is_first != (type_ == EventType.SEGMENT_START):
        raise ValueError("segment.start out of place")
    if type_ == EventType.STATEMENT_INTENT:
        record = orjson.loads(line)
        open_intents.add((record["session"], record["statement"]))
    elif type_ == EventType.STATEMENT_OUTCOME:
        record = orjson.loads(line)
        open_intents.discard((record["session"], record["statement"]))
    elif type_ == EventType.SEGMENT_START:
        record = orjson.loads(line)
        if record["segment"] != name:
            raise ValueError("not the header of this file")
        open_intents.update((session, statement) for session, statement in record["open"])
    elif type_ == EventType.SEGMENT_END:
        return bool(orjson.loads(line)["reason"] == "rotated")
    return False


def _cut_tail(path: Path, good: int) -> Torn:
    """Copy everything after `good` into a side file, durably, then cut it off."""
    side = free_side_path(path, "torn")
    digest = sha256()
    size = 0
    with path.open("rb") as source, os.fdopen(create_file(side), "wb") as target:
        source.seek(good)
        while block := source.read(1 << 20):
            digest.update(block)
            size += len(block)
            target.write(block)
        target.flush()
        os.fsync(target.fileno())
    sync_directory(path.parent)
    with path.open("r+b") as segment:
        segment.truncate(good)
        os.fsync(segment.fileno())
    return Torn(side.name, path.name, good, size, digest.hexdigest())


def _set_aside(path: Path, offset: int) -> Torn:
    """Rename a segment without a whole header to a side file."""
    side = free_side_path(path, "torn")
    with path.open("rb") as file:
        digest = sha256()
        size = 0
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    path.rename(side)
    sync_directory(path.parent)
    return Torn(side.name, path.name, offset, size, digest.hexdigest())
