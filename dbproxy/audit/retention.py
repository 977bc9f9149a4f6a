"""Retention: which old segments may go, the record that is left of them, and deleting them. For a thread: digests read whole files.

    plan = plan_pruning(…)                      old enough, or too many bytes; covered by a checkpoint; never the newest segment of a slot
    append(retention.pruned, plan.body)         first the record,
    …a checkpoint over it, written and anchored,
    delete_pruned(directory, plan)              then the files

So a crash in between leaves files that are named as pruned and still there; the next run names and deletes them again. A segment goes whole or not at all, the
oldest of a slot first, so that what remains is one piece and its header says what came before.

The record before goes as well some day, when control's own old segments do. So each one also tells again, for every slot of which nothing goes now, what
went of it last (`earlier_…`): the newest record alone accounts for every chain that does not begin with record 1. A chain whose beginning it does not
account for was cut by somebody else; nothing of that goes any more. Counterpart: verify_seals.py, which demands such a record, signed, for
every missing beginning.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from dbproxy.audit.chain import MAX_LINE_BYTES, check_line
from dbproxy.audit.segment import (
    SegmentDamaged,
    find_segments,
    open_segment,
    parse_segment_name,
    raw_name,
    sync_directory,
)
from dbproxy.audit.types import EventType

CONTROL_SLOT = 0
Candidate = tuple[float, int, int, Path, int, str]
"""A segment that may go: when it ended, slot, first number, file, last number and hash."""
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
    """What is to go, oldest first, and why. side_files: name, bytes, sha256 of torn bytes beside those segments.

    earlier: what went before, as it was told then. unexplained: slots that have lost their beginning, and not to any plan: nothing of them goes.
    """

    segments: tuple[PrunedSegment, ...]
    side_files: tuple[tuple[str, int, str], ...]
    max_age_days: float | None
    max_bytes: int | None
    earlier: Earlier
    unexplained: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(each.size for each in self.segments) + sum(size for _, size, _ in self.side_files)

    @property
    def body(self) -> bytes:
        """Members of the `retention.pruned` record."""
        fields: dict[str, object] = {
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
        gone = {each.slot for each in self.segments}
        earlier = [item for slot, item in sorted(self.earlier.segments.items()) if slot not in gone]
        if earlier:
            fields["earlier_segments"] = earlier
            fields["earlier_side_files"] = [
                item for slot, items in sorted(self.earlier.side_files.items()) if slot not in gone for item in items
            ]
        return orjson.dumps(fields)[1:-1]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the newest `retention.pruned` record tells.

    ends: number and last hash of every segment that went, by slot and number. segments: by slot, the last of them; side_files: theirs; as in the record.
    """

    ends: dict[tuple[int, int], str] = field(default_factory=dict)
    segments: dict[int, dict[str, Any]] = field(default_factory=dict)
    side_files: dict[int, list[dict[str, Any]]] = field(default_factory=dict)


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
    candidates: list[Candidate] = []
    total = 0
    for slot, segments in found.items():
        total += sum(path.stat().st_size for _, path in segments)
        for (first_seq, path), (next_seq, following) in pairwise(segments):
            link = _read_link(following, path)
            if link is None or next_seq - 1 > covered.get(slot, 0):
                break
            candidates.append((link[0], slot, first_seq, path, next_seq - 1, link[1]))
    ordered = _by_age(candidates)
    earlier = Earlier()
    unexplained: tuple[int, ...] = ()
    if _choose(ordered, total, now_s, max_age_days, max_bytes):
        earlier = find_earlier(directory)
        unexplained = tuple(
            slot for slot, segments in found.items() if not _is_beginning_known(slot, segments[0][1], earlier)
        )
        ordered = [each for each in ordered if each[1] not in unexplained]
    chosen: list[PrunedSegment] = []
    for ended_at, slot, first_seq, path, last_seq, last_hash in _choose(ordered, total, now_s, max_age_days, max_bytes):
        size, digest = _digest(path)
        chosen.append(PrunedSegment(slot, path.name, first_seq, last_seq, last_hash, size, digest, ended_at))
    stems = {raw_name(each.file).removesuffix(".jsonl") for each in chosen}
    side_files = tuple(
        (path.name, *_digest(path))
        for path in sorted(directory.iterdir())
        if (match := _SIDE_FILE.fullmatch(path.name)) and match[1] in stems
    )
    return PrunePlan(tuple(chosen), side_files, max_age_days, max_bytes, earlier, unexplained)


def _by_age(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Oldest first; within a slot the order of the chain, whatever the clock did."""
    latest: dict[int, float] = {}
    ordered = []
    for each in candidates:
        latest[each[1]] = max(latest.get(each[1], 0.0), each[0])
        ordered.append((latest[each[1]], each))
    ordered.sort(key=lambda pair: (pair[0], pair[1][1], pair[1][2]))
    return [(ended_at, *each[1:]) for ended_at, each in ordered]


def _choose(
    ordered: list[Candidate], total: int, now_s: float, max_age_days: float | None, max_bytes: int | None
) -> list[Candidate]:
    chosen = []
    for each in ordered[:MAX_SEGMENTS]:
        is_old = max_age_days is not None and now_s - each[0] > max_age_days * _DAY_S
        if not is_old and (max_bytes is None or total <= max_bytes):
            break
        total -= each[3].stat().st_size
        chosen.append(each)
    return chosen


def find_earlier(directory: Path) -> Earlier:
    """What the newest `retention.pruned` record in control's chain tells; nothing if there is none, or if the chain is damaged from there on. Raises OSError.

    From the end backwards, every hash and link is checked: what somebody else has put there is not told again in the proxy's own name.
    """
    following: tuple[int, bytes] | None = None  # first number and link of the segment after
    for first_seq, path in reversed(find_segments(directory).get(CONTROL_SLOT, [])):
        newest, seq, begin, prev = b"", first_seq - 1, b"", b""
        try:
            with open_segment(path) as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    checked = check_line(line)
                    if isinstance(checked, str):
                        break  # a torn end, or one that was given up: what is whole must lead to the segment after
                    if checked[0] != seq + 1 or (prev and checked[1] != prev):
                        return Earlier()
                    begin = begin or checked[1]
                    seq, prev = checked[0], checked[4]
                    if checked[3] == EventType.RETENTION_PRUNED:
                        newest = line
            if following is not None and following != (seq + 1, prev):
                return Earlier()
            following = (first_seq, begin)
            if newest:
                return _parse_earlier(orjson.loads(newest))
        except (SegmentDamaged, ValueError, KeyError, TypeError):
            return Earlier()
    return Earlier()


def _parse_earlier(record: dict[str, Any]) -> Earlier:
    found = Earlier()
    for item in (*record.get("earlier_segments", ()), *record["segments"]):
        found.ends[item["slot"], item["last_seq"]] = item["last_hash"]
        found.segments[item["slot"]] = item
    for item in (*record.get("earlier_side_files", ()), *record["side_files"]):
        match = _SIDE_FILE.fullmatch(item["file"])
        if match is None:
            raise ValueError("not a side file")
        parsed = parse_segment_name(f"{match[1]}.jsonl")
        if parsed is not None:
            found.side_files.setdefault(parsed[0], []).append(item)
    return found


def _is_beginning_known(slot: int, first: Path, earlier: Earlier) -> bool:
    """Whether what came before the slot's first segment went by a plan, or nothing did."""
    try:
        with open_segment(first) as file:
            line = file.readline(MAX_LINE_BYTES + 1)
        if isinstance(check_line(line), str):
            return False
        predecessor = orjson.loads(line)["predecessor"]
        return predecessor is None or earlier.ends.get((slot, predecessor["seq"])) == predecessor["hash"]
    except (SegmentDamaged, ValueError, KeyError, TypeError):
        return False


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
