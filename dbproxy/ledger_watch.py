"""What a process does for its ledger now and then: resume it, beat, rotate old segments, compress closed ones. Nothing of it waits for the disk on the loop.

One for each process that has a Ledger. Counterpart: turn.py, which does what belongs to a statement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from dbproxy.audit.compressor import Compressor
from dbproxy.audit.ledger import AuditDown
from dbproxy.audit.record import members
from dbproxy.audit.types import EventType
from dbproxy.metrics import Counters
from dbproxy.turn import Turn

_log = logging.getLogger("dbproxy")
_STEP_S = 0.25
_COMPRESS_S = 2.0
_REFUSED_ACTIONS = frozenset({"block", "terminate"})


class LedgerWatch:
    """run: a task for as long as the process lives.

    directory: the ledger's. compresses: whether closed segments of this slot are compressed. heartbeat_s: how often totals are recorded.
    heads: by slot, where the chains of other processes stand; kept up by whoever is told.
    """

    def __init__(
        self,
        turn: Turn,
        counters: Counters,
        directory: Path,
        monotonic_ns: Callable[[], int],
        *,
        heartbeat_s: float,
        compresses: bool,
        heads: Mapping[int, int],
    ) -> None:
        self._turn = turn
        self._ledger = turn.ledger
        self._counters = counters
        self._monotonic_ns = monotonic_ns
        self._heartbeat_s = heartbeat_s
        self._heads = heads
        self._compressor = Compressor(directory, turn.ledger.slot) if compresses else None
        self._began_ns = monotonic_ns()
        self._compression: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Never returns; to be cancelled."""
        beat_at = self._heartbeat_s
        compress_at = 0.0
        try:
            while True:
                await asyncio.sleep(_STEP_S)
                if self._ledger.is_down:
                    await self._resume()
                self._counters.is_audit_down = self._ledger.is_down
                self._counters.audit_events = self._ledger.records
                self._ledger.tick()
                if self._ledger.pending:
                    self._turn.schedule()
                now = self._uptime_s()
                if now >= beat_at:
                    beat_at = now + self._heartbeat_s
                    self.beat()
                if now >= compress_at and (self._compression is None or self._compression.done()):
                    compress_at = now + _COMPRESS_S
                    self._compression = asyncio.create_task(self._compress(), name="compress closed segments")
        finally:
            if self._compression is not None and self._compressor is not None:
                self._compressor.stop()
                await asyncio.wait([self._compression])  # a thread cannot be cancelled

    def beat(self) -> None:
        """Record the totals of this process, so that whatever is missing from its chain shows. Counterpart: audit/verify_counts.py."""
        ledger, counters = self._ledger, self._counters
        if ledger.is_down:
            return  # it would wait, and outcomes that are written meanwhile would come before it
        fields: dict[str, object] = {
            "slot": ledger.slot,
            "records": ledger.records + ledger.pending,
            "intents": ledger.intents,
            "outcomes": ledger.intents - ledger.open_intents,
            "refused": sum(count for (_, action), count in counters.statements.items() if action in _REFUSED_ACTIONS),
            "sessions": counters.sessions,
            "sessions_open": counters.sessions_open,
            "unrecorded": ledger.unrecorded,
            "dropped": ledger.dropped,
            "synced": ledger.synced.seq,
            "uptime_s": round(self._uptime_s(), 3),
        }
        if ledger.checkpointed:
            fields["checkpointed"] = ledger.checkpointed
        if self._heads:
            fields["heads"] = sorted(self._heads.items())
        try:
            self._turn.append(EventType.HEARTBEAT, members(fields))
        except AuditDown:
            return  # the ledger counts what it had to drop

    async def _resume(self) -> None:
        error = await self._turn.probe()
        if self._ledger.is_down and self._ledger.try_resume(error or True):
            _log.warning("the audit trail can be written again; statements run again")
            self._turn.schedule()  # and have it synced

    async def _compress(self) -> None:
        if self._compressor is None:
            return
        try:
            await asyncio.to_thread(self._compressor.run)
        except OSError as error:
            _log.warning("a closed segment of the audit ledger could not be compressed: %s", error)

    def _uptime_s(self) -> float:
        return (self._monotonic_ns() - self._began_ns) / 1e9
