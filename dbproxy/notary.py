"""Signing and anchoring at work in the control process: gathers the heads of all chains, writes checkpoints into control's own, tells workers.

    heads of workers ─┐                                    ┌─► Checkpointed to each worker, which refuses statements without it
    head of slot 0 ───┴─► prover.py ─► record ─► the disk ─┼─► anchors
                                                           └─► Refuse, when proof is late although all of this runs

Retention is done here too: what it deletes needs a signed record first. Counterparts: audit/prover.py decides; proof_deadline.py is the worker's side.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import secrets
from collections.abc import Callable

from config.settings import Settings
from dbproxy import ipc
from dbproxy.audit.checkpoint import Seal
from dbproxy.audit.ledger import AuditDown
from dbproxy.audit.proof_settings import build_anchors, high_water_path, signing_key_path
from dbproxy.audit.prover import Prover, open_prover
from dbproxy.audit.recovery import recover_chain
from dbproxy.audit.retention import PrunePlan, delete_pruned, plan_pruning
from dbproxy.audit.segment import raw_name
from dbproxy.audit.slots import end_unused_chains, settle_chain
from dbproxy.audit.types import EventType
from dbproxy.clock import Clock
from dbproxy.errors import StartError
from dbproxy.own_chain import OwnChain

_log = logging.getLogger("dbproxy")
_STEP_S = 0.25
_AGAIN_S = 0.5
_CLOSE_S = 10.0
_RETENTION_S = 60.0

Tell = Callable[[int | None, ipc.Message], object]
"""Say something to the worker of a slot, or to all (None)."""


class Notary:
    """One per proxy. With audit.signing.enabled off it only does retention."""

    def __init__(self, settings: Settings, chain: OwnChain, clock: Clock, tell: Tell) -> None:
        self._settings = settings
        self._directory = settings.audit.directory
        self._chain = chain
        self._clock = clock
        self._tell = tell
        self._trouble = ""
        self._prune_at_ns = 0
        self._unexplained: tuple[int, ...] = ()
        self._covered: dict[int, int] = {}
        self._used_slots = range(0)
        self.prover: Prover | None = None

    def open(self, used_slots: range, *, is_first: bool) -> None:
        """See that nothing is missing, get the key; end chains of slots that are no longer used. No chain is open. Raises StartError."""
        signing = self._settings.audit.signing
        self._used_slots = used_slots
        ended: list[int] = []
        if is_first:
            ended = end_unused_chains(
                self._directory, used_slots, now_ns=self._clock.wall_ns, reason="the slot is no longer used"
            )
        if not signing.enabled:
            _log.warning("audit.signing is off: the ledger is chained, and not signed")
            return
        prover = self.prover = open_prover(
            self._directory,
            key_path=signing_key_path(self._settings),
            high_water_path=high_water_path(self._settings),
            anchors=build_anchors(self._settings),
            node=platform.node(),
            ledger_id=secrets.token_hex(16),
            now_ns=self._clock.monotonic_ns(),
            accept_rollback=signing.unsafe_accept_rollback and is_first,
        )
        for slot in ended:
            end = recover_chain(self._directory, slot)
            if end.path is not None:
                prover.take_head(slot, end.seq, end.hash.decode(), raw_name(end.path.name))

    @property
    def trouble(self) -> str:
        """Why statements are refused everywhere; "" if they are not."""
        return self._trouble

    def take_heads(self, slot: int, heads: ipc.Heads) -> None:
        """Where a worker's chain stands on the disk."""
        if heads.seq:
            self._chain.heads[slot] = heads.seq
            if self.prover is not None:
                self.prover.take_head(slot, heads.seq, heads.hash, heads.segment)

    def greet(self, slot: int) -> None:
        """A worker has come, or come back: it must know whether there is trouble. That there is a checkpoint it hears with the next one."""
        self._tell(slot, ipc.Refuse(self._trouble))

    async def run(self) -> None:
        """For as long as the process lives; to be cancelled."""
        while True:
            await asyncio.sleep(_STEP_S)
            if self.prover is not None:
                await self._step(self.prover)
            await self._prune_now_and_then()

    async def finish(self) -> None:
        """All workers' chains are closed: the last checkpoint, and time for the anchors."""
        prover = self.prover
        await asyncio.to_thread(self._settle_chains)
        if prover is None:
            return
        self._take_own_head(prover)
        self._append_events(prover)
        seal = self._append(prover, is_final=True)
        if seal is not None and await self._chain.reach_disk():
            await asyncio.to_thread(prover.written, seal, self._clock.monotonic_ns())
        if not await asyncio.to_thread(prover.close, _CLOSE_S):
            _log.warning("not every anchor has the last checkpoint")

    def _settle_chains(self) -> None:
        """Of workers that were killed, and whose slot no other has taken since: nobody told where they end. For a thread."""
        for slot in self._used_slots:
            if slot == 0:
                continue  # our own, and open
            try:
                end = settle_chain(self._directory, slot, now_ns=self._clock.wall_ns, reason="its process was ended")
            except (StartError, OSError) as error:
                _log.warning("the chain of slot %d stays without an end: %s", slot, error)
                continue
            if end is not None and self.prover is not None:
                self.prover.take_head(slot, end.seq, end.hash, end.file)

    async def _step(self, prover: Prover) -> None:
        now_ns = self._clock.monotonic_ns()
        prover.poll(now_ns)
        self._append_events(prover)
        self._take_own_head(prover)
        if prover.is_due(now_ns) and not self._chain.ledger.is_down:
            seal = self._append(prover)
            if seal is not None:
                await self._make_durable(prover, seal)
        self._look_for_trouble(prover)

    async def _make_durable(self, prover: Prover, seal: Seal) -> None:
        """Wait until the disk has it, however long that takes: it is in the chain, and the next one will follow it."""
        while not await self._chain.reach_disk():
            self._look_for_trouble(prover)
            await asyncio.sleep(_AGAIN_S)
        await asyncio.to_thread(prover.written, seal, self._clock.monotonic_ns())
        self._covered = {head.slot: head.seq for head in seal.heads}
        for head in seal.heads:
            self._tell(head.slot, ipc.Checkpointed(head.seq))

    def _append(self, prover: Prover, *, is_final: bool = False) -> Seal | None:
        seal = prover.make(self._clock.monotonic_ns(), self._clock.wall_ns(), is_final=is_final)
        try:
            if self._chain.turn is None:
                raise AuditDown("the audit trail is not open")
            self._chain.turn.append(seal.type, seal.body)
        except AuditDown:
            prover.withdraw(seal)
            return None
        return seal

    def _append_events(self, prover: Prover) -> None:
        for event, body in prover.take_events():
            try:
                if self._chain.turn is not None:
                    self._chain.turn.append(event, body)
            except AuditDown:
                _log.warning("an event of the anchors could not be recorded: %s", event.value.decode())

    def _take_own_head(self, prover: Prover) -> None:
        synced = self._chain.ledger.synced
        if synced.seq:
            prover.take_head(0, synced.seq, synced.hash, synced.file)

    def _look_for_trouble(self, prover: Prover) -> None:
        trouble = prover.trouble(self._clock.monotonic_ns())
        if trouble == self._trouble:
            return
        if not (trouble and self._trouble):
            _log.error("%s", f"statements are refused: {trouble}" if trouble else "statements run again")
        self._trouble = trouble
        self._tell(None, ipc.Refuse(trouble))

    # ---- retention ----------------------------------------------------------------------------------------------

    async def _prune_now_and_then(self) -> None:
        retention = self._settings.audit.retention
        now_ns = self._clock.monotonic_ns()
        if (retention.max_age_days is None and retention.max_bytes is None) or now_ns < self._prune_at_ns:
            return
        if not self._covered:
            return  # only what a checkpoint of this run covers may go; the first one comes soon
        self._prune_at_ns = now_ns + int(_RETENTION_S * 1e9)
        try:
            plan = await asyncio.to_thread(
                plan_pruning,
                self._directory,
                max_age_days=retention.max_age_days,
                max_bytes=retention.max_bytes,
                now_s=self._clock.wall_ns() / 1e9,
                covered=self._covered,
            )
            for slot in set(plan.unexplained).difference(self._unexplained):
                _log.error(
                    "old segments of slot %d stay: its beginning is missing, and no retention has taken it", slot
                )
            self._unexplained = plan.unexplained
            if plan.segments:
                await self._prune(plan)
        except OSError as error:
            _log.warning("old segments of the audit ledger stay: %s", error)

    async def _prune(self, plan: PrunePlan) -> None:
        """Record it, have that signed and anchored, then delete; where one of these fails, everything stays until next time."""
        prover, turn = self.prover, self._chain.turn
        if prover is None or turn is None:
            return
        try:
            turn.append(EventType.RETENTION_PRUNED, plan.body)
        except AuditDown:
            return
        if not await self._chain.reach_disk():
            return
        self._take_own_head(prover)
        seal = self._append(prover)
        if seal is None:
            return
        await self._make_durable(prover, seal)
        if self._settings.audit.anchors and not await self._is_anchored(prover):
            return
        await asyncio.to_thread(delete_pruned, self._directory, plan)

    async def _is_anchored(self, prover: Prover) -> bool:
        for _ in range(int(_CLOSE_S / _STEP_S)):
            prover.poll(self._clock.monotonic_ns())
            if prover.is_anchored:
                return True
            await asyncio.sleep(_STEP_S)
        return False
