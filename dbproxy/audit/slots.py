"""Chains that nobody writes any more: of slots no longer configured, and of processes that were killed and whose slot was not taken again.

They are ended, so that a chain that just stops means that something is wrong, and so that a checkpoint can cover them to their end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import orjson

from dbproxy.audit.ledger import MIN_RESERVE_BYTES, Ledger, Position
from dbproxy.audit.locks import SlotLock
from dbproxy.audit.recovery import has_chain_ended
from dbproxy.audit.segment import find_segments
from dbproxy.audit.types import EventType
from dbproxy.errors import StartError

_SEGMENT_BYTES = 1 << 30
_TAIL_BYTES = 4096  # the end of a segment is a short record


def end_chain(directory: Path, slot: int, *, now_ns: Callable[[], int], reason: str) -> bool:
    """Recover the slot's chain and write `chain_end` to it. Returns False, and writes nothing, if there is none or it has ended.

    Raises StartError (LedgerDamaged too) if the slot is in use, damaged, or cannot be written.
    """
    if slot not in find_segments(directory):
        return False
    lock = SlotLock(directory, slot)
    has_ended = False
    try:
        lock.acquire()
        has_ended = has_chain_ended(directory, slot)
    except OSError as error:
        raise StartError(
            f"the chain of slot {slot} in {directory} cannot be read: {error.strerror or error}"
        ) from error
    finally:
        lock.release(remove=has_ended)
    if has_ended:
        return False
    ledger = Ledger(directory, segment_bytes=_SEGMENT_BYTES, reserve_bytes=MIN_RESERVE_BYTES, now_ns=now_ns, slot=slot)
    ledger.open()
    ledger.close(reason, last=(EventType.CHAIN_END, orjson.dumps({"slot": slot, "reason": reason})[1:-1]))
    for suffix in ("reserve", "lock"):
        with suppress(OSError):
            (directory / f"audit-{slot}.{suffix}").unlink()
    return True


def settle_chain(directory: Path, slot: int, *, now_ns: Callable[[], int], reason: str) -> Position | None:
    """Recover the slot's chain if its writer did not end it: outcomes "unknown", and the end of its segment. Returns where it stands then.

    None, and nothing is written, if there is no such chain or it was ended in good order. Raises StartError (LedgerDamaged too), OSError.
    """
    segments = find_segments(directory).get(slot, [])
    if not segments or _ends_with_segment_end(segments[-1][1]):
        return None
    ledger = Ledger(directory, segment_bytes=_SEGMENT_BYTES, reserve_bytes=MIN_RESERVE_BYTES, now_ns=now_ns, slot=slot)
    ledger.open()
    ledger.close(reason)
    return ledger.synced


def _ends_with_segment_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        last = file.read().rpartition(b"}\n")[0].rpartition(b"\n")[2]
    return b'"type":"%b"' % EventType.SEGMENT_END.value in last


def end_unused_chains(directory: Path, slots: Collection[int], *, now_ns: Callable[[], int], reason: str) -> list[int]:
    """End every chain in the directory whose slot is not among slots. Returns the slots that were ended. Raises as end_chain."""
    unused = sorted(set(find_segments(directory)) - set(slots))
    return [slot for slot in unused if end_chain(directory, slot, now_ns=now_ns, reason=reason)]
