"""Retention: which old segments may go, the record that is left of them, and deleting them. For a thread: digests read whole files.

    plan = plan_pruning(…)                      old enough, or too many bytes; covered by a checkpoint; never the newest segment of a slot
    append(retention.pruned, plan.body)         first the record,
    …a checkpoint over it, written and anchored,
    delete_pruned(directory, plan)              then the files

So a crash in between leaves files that are named as pruned and still there; the next run names and deletes them again. A segment goes whole or not at all, the
oldest of a slot first, so that what remains is one piece and its header says what came before. Counterpart: verify_seals.py, which demands
the record, signed, for every missing beginning of a chain.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import orjson

from dbproxy.audit.chain import MAX_LINE_BYTES, check_line
from dbproxy.audit.segment import SegmentDamaged, find_segments, open_segment, raw_name, sync_directory

MAX_SEGMENTS = 500
"""In one plan, so that its record stays small; the next run goes on."""
_DAY_S = 86_400
_SIDE_FILE = re.compile(r"(audit-[0-9]{1,4}-[0-9]{16})(?:\.[0-9]+)?\.(?:torn|saved)")


@dataclass(frozen=True, slots=True)
class PrunedSegment:
    """A segment that is to go. file: as it is stored; last_hash, sha256: hexadecimal; size in bytes, sha256: of the file. ended_at: seconds, wall time."""

    slot: int
    file: str
    first_seq: int
    last_seq: int
    last_hash: str
    size: int
    sha256: str
    ended_at: float


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What is to go, oldest first, and why. side_files: name, bytes, sha256 of torn bytes beside those segments."""

    segments: tuple[PrunedSegment, ...]
    side_files: tuple[tuple[str, int, str], ...]
    max_age_days: float | None
    max_bytes: int | None

    @property
    def size(self) -> int:
        return sum(each.size for each in self.segments) + sum(size for _, size, _ in self.side_files)

    @property
    def body(self) -> bytes:
        """Members of the `retention.pruned` record."""
        fields = {
            "segments": [
                {
                    "slot": each.slot,
                    "file": each.file,
                    "first_seq": each.first_seq,
                    "last_seq": each.last_seq,
                    "last_hash": each.last_hash,
                    "bytes": each.size,
                    "sha256": each.sha256,
                }
                for each in self.segments
            ],
            "side_files": [{"file": name, "bytes": size, "sha256": digest} for name, size, digest in self.side_files],
            "max_age_days": self.max_age_days,
            "max_bytes": self.max_bytes,
        }
        return orjson.dumps(fields)[1:-1]


def plan_pruning(
    directory: Path,
    *,
    max_age_days: float | None,
    max_bytes: int | None,
    now_s: float,
    covered: Mapping[int, int],
) -> PrunePlan:
    """What the policy lets go now. covered: by slot, the last record that a checkpoint covers and that nobody needs any more. Raises OSError.

    A segment whose successor cannot be read stays, and so does everything after it in its slot: what is damaged is evidence.
    """
    found = find_segments(directory)
    candidates: list[tuple[float, int, int, Path, int, str]] = []
    total = 0
    for slot, segments in found.items():
        total += sum(path.stat().st_size for _, path in segments)
        for (first_seq, path), (next_seq, following) in pairwise(segments):
            link = _read_link(following, path)
            if link is None or next_seq - 1 > covered.get(slot, 0):
                break
            candidates.append((link[0], slot, first_seq, path, next_seq - 1, link[1]))
    # By age; within a slot the order of the chain, whatever the clock did.
    latest: dict[int, float] = {}
    ordered = []
    for each in candidates:
        latest[each[1]] = max(latest.get(each[1], 0.0), each[0])
        ordered.append((latest[each[1]], each))
    ordered.sort(key=lambda pair: (pair[0], pair[1][1], pair[1][2]))
    chosen: list[PrunedSegment] = []
    for ended_at, (_, slot, first_seq, path, last_seq, last_hash) in ordered[:MAX_SEGMENTS]:
        is_old = max_age_days is not None and now_s - ended_at > max_age_days * _DAY_S
        if not is_old and (max_bytes is None or total <= max_bytes):
            break
        size, digest = _digest(path)
        total -= size
        chosen.append(PrunedSegment(slot, path.name, first_seq, last_seq, last_hash, size, digest, ended_at))
    stems = {raw_name(each.file).removesuffix(".jsonl") for each in chosen}
    side_files = tuple(
        (path.name, *_digest(path))
        for path in sorted(directory.iterdir())
        if (match := _SIDE_FILE.fullmatch(path.name)) and match[1] in stems
    )
    return PrunePlan(tuple(chosen), side_files, max_age_days, max_bytes)


def delete_pruned(directory: Path, plan: PrunePlan) -> None:
    """Delete what the plan names, oldest first. Only after a checkpoint over the plan's record was written and anchored. Raises OSError."""
    for name in (*(each.file for each in plan.segments), *(name for name, _, _ in plan.side_files)):
        with suppress(FileNotFoundError):
            (directory / name).unlink()
    sync_directory(directory)


def _read_link(following: Path, path: Path) -> tuple[float, str] | None:
    """From the header of the next segment: when it was begun, in seconds, and the last hash of this one. None if it does not say so."""
    try:
        with open_segment(following) as file:
            line = file.readline(MAX_LINE_BYTES + 1)
        checked = check_line(line)
        if isinstance(checked, str):
            return None
        predecessor = orjson.loads(line)["predecessor"]
        if predecessor["file"] != raw_name(path.name) or predecessor["hash"].encode() != checked[1]:
            return None
        at = checked[2].decode()
        return float(timegm(time.strptime(at[:19], "%Y-%m-%dT%H:%M:%S"))), predecessor["hash"]
    except (SegmentDamaged, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(path: Path) -> tuple[int, str]:
    digest = sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
