"""The chain of the ledger that this process writes: the slot's Ledger, its Turn and its LedgerWatch, made as the settings say."""

from __future__ import annotations

import asyncio

from config.settings import Compression, Durability, Settings
from dbproxy.audit.ledger import AuditDown, Ledger, Recovery
from dbproxy.audit.record import members
from dbproxy.audit.types import EventType
from dbproxy.clock import Clock
from dbproxy.ledger_watch import LedgerWatch
from dbproxy.metrics import Counters
from dbproxy.turn import Turn


class _Waiter:
    """Waits for the disk as a session does, with nothing to send. See dbproxy.turn.Sender."""

    def __init__(self) -> None:
        self.is_there: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        self._settle(is_there=True)

    def hold(self) -> bytes:
        return b""

    def deliver(self, _data: bytes) -> None:
        self._settle(is_there=True)

    def unhold(self) -> None:
        self._settle(is_there=True)

    def revoke(self, _reason: str, _statements: tuple[int, ...], _data: bytes) -> None:
        self._settle(is_there=False)

    def _settle(self, *, is_there: bool) -> None:
        if not self.is_there.done():
            self.is_there.set_result(is_there)


class OwnChain:
    """One process's part of the audit trail. turn: there once it is open."""

    def __init__(self, settings: Settings, slot: int, counters: Counters, clock: Clock) -> None:
        audit = settings.audit
        self._settings = audit
        self._counters = counters
        self._clock = clock
        self.ledger = Ledger(
            audit.directory,
            segment_bytes=audit.segment_bytes,
            segment_age_s=audit.segment_age_s,
            reserve_bytes=audit.reserve_bytes,
            now_ns=clock.wall_ns,
            slot=slot,
        )
        self.turn: Turn | None = None
        self.heads: dict[int, int] = {}
        """Where the chains of other slots stand on the disk, as far as this process has been told; recorded with every heartbeat."""
        self._watch: LedgerWatch | None = None
        self._waiters = 0

    def open(self) -> Recovery:
        """Go on with the chain. Raises StartError, LedgerDamaged."""
        recovery = self.ledger.open()
        durability = self._settings.durability
        self.turn = Turn(
            self.ledger,
            asyncio.get_running_loop(),
            self._counters,
            self._clock.monotonic_ns,
            syncs_some=durability is Durability.TIERED,
            syncs_all=durability is Durability.DURABLE,
        )
        return recovery

    async def watch(self) -> None:
        """Take care of it, for as long as the process lives. The chain is open."""
        if self.turn is None:
            raise ValueError("the chain is not open")
        watch = self._watch = LedgerWatch(
            self.turn,
            self._counters,
            self._settings.directory,
            self._clock.monotonic_ns,
            heartbeat_s=self._settings.heartbeat_s,
            compresses=self._settings.compression is Compression.GZIP,
            heads=self.heads,
        )
        await watch.run()

    def last_beat(self) -> None:
        """Nothing more happens here: record the totals, so that they hold for all of this process's records."""
        if self._watch is not None:
            self._watch.beat()

    def record(self, event: EventType, fields: dict[str, object]) -> bool:
        """Append an event that no statement waits for. False if the trail takes no more, or is not open."""
        if self.turn is None:
            return False
        try:
            self.turn.append(event, members(fields))
        except AuditDown:
            self.ledger.unrecorded += 1
            return False
        return True

    async def record_durably(self, event: EventType, fields: dict[str, object]) -> bool:
        """Append an event, and wait until the disk has it. False if that cannot be."""
        return self.record(event, fields) and await self.reach_disk()

    async def reach_disk(self) -> bool:
        """Wait until the disk has everything that was appended so far. False if that cannot be."""
        if self.turn is None:
            return False
        waiter = _Waiter()
        self._waiters += 1
        name = f"#{self._waiters}"  # no session is called so
        self.turn.must_sync(name, 0)
        self.turn.waiting[name] = waiter
        self.turn.schedule()
        return await waiter.is_there

    async def close(self, reason: str) -> None:
        """Write what waits, and end the segment. Safe to call when it was never opened."""
        if self.turn is not None:
            await self.turn.close()
        self.ledger.close(reason)
