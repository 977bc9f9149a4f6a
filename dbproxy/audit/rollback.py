"""At start: is the ledger at least as new as the last checkpoint that is known elsewhere? And does it still have what its own last checkpoint names?

A directory put back from an older copy, or emptied, is a valid chain; only something outside of it can tell. That is the file anchors, and a
note in the state directory (the high-water file), which protects against mistakes more than against attackers. Nothing here is signed or
compared in full: that is the offline verifier's work.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import orjson

from dbproxy.audit.anchor_lines import AnchoredSeal, find_newest_anchored
from dbproxy.audit.chain import MAX_LINE_BYTES, check_line
from dbproxy.audit.checkpoint import Head, Seal, parse_seal
from dbproxy.audit.segment import SegmentDamaged, find_segments, open_segment
from dbproxy.audit.types import EventType
from dbproxy.errors import StartError

CONTROL_SLOT = 0
_SEAL_TYPES = (EventType.CHECKPOINT.value, EventType.KEY_ROTATED.value)


def find_last_seal(directory: Path) -> Seal | None:
    """The newest checkpoint in control's chain, None if there is none. Raises StartError if it cannot be read, OSError."""
    if not directory.exists():
        return None
    for _, path in reversed(find_segments(directory).get(CONTROL_SLOT, [])):
        newest = b""
        try:
            with open_segment(path) as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    checked = check_line(line)
                    if isinstance(checked, str):
                        break  # a torn end; anything else is found when the chain is recovered
                    if checked[3] in _SEAL_TYPES:
                        newest = line
            if newest:
                record = orjson.loads(newest)
                return parse_seal(record.get("payload"), record.get("signature"))
        except (SegmentDamaged, ValueError) as error:
            raise StartError(
                f"audit ledger damaged: no checkpoint can be read from {path.name}: {error}. Run `dbproxy audit verify {directory}`."
            ) from error
    return None


def find_rollback(directory: Path, last: Seal | None, witnesses: Iterable[tuple[str, AnchoredSeal]]) -> str:
    """What is missing from the ledger, as one sentence; "" if nothing is.

    last: as find_last_seal gave it. witnesses: the newest checkpoints known elsewhere, each with where. Raises OSError.
    """
    for where, seen in witnesses:
        told = f"checkpoint {seen.number} of {seen.at} is in {where}"
        if last is None:
            return f"the ledger has no checkpoint, and {told}"
        if last.ledger != seen.ledger:
            return f"this is another ledger: {told} for ledger {seen.ledger}, and the one here is {last.ledger}"
        if last.number < seen.number:
            return f"the ledger ends with checkpoint {last.number} of {last.at}, and {told}: what was recorded between them is missing"
        if last.number == seen.number and last.digest != seen.digest:
            return f"checkpoint {last.number} is not the one that is in {where}"
    for head in last.heads if last else ():
        problem = _find_missing_head(directory, head)
        if problem:
            return problem
    return ""


def _find_missing_head(directory: Path, head: Head) -> str:
    told = f"record {head.seq} of slot {head.slot} in {head.file} was signed"
    before = [path for first, path in find_segments(directory).get(head.slot, []) if first <= head.seq]
    if not before:
        return f"{told}, and the files of slot {head.slot} are missing"
    start = b'{"v":"dbproxy.audit/1","seq":%d,' % head.seq
    try:
        with open_segment(before[-1]) as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                if line.startswith(start):
                    checked = check_line(line)
                    if not isinstance(checked, str) and checked[4] == head.hash.encode():
                        return ""
                    return f"{told}, and another record stands there"
    except SegmentDamaged as error:
        return f"{told}, and cannot be read: {error}"
    return f"{told}, and is missing"


def read_high_water(path: Path, node: str) -> AnchoredSeal | None:
    """The checkpoint that was written last on this machine, None if there is no such note. Raises OSError."""
    return find_newest_anchored(path, node)


def write_high_water(path: Path, seal: Seal) -> None:
    """Replace the note. Not synced: after a loss of power an older one is as good. Raises OSError."""
    new = path.with_name(path.name + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, seal.line + b"\n")
    finally:
        os.close(fd)
    new.replace(path)
