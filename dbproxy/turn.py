"""One loop turn's audit records and sends: everything is written once, then it may leave.

    data arrives → judged → intent appended ─┐
    data arrives → judged → intent appended ─┼─► flush: one write ─┬─► each session's bytes go to its server
    answer ends  → outcome appended ─────────┘                     └─► or wait until the disk has the records, if one of them must
                                                                       be there first (in a thread, see audit/sync.py)

Bytes for a server wait here until the records of the same turn are written; bytes for a client do not. Which records must be on the disk
before the server may see their statements is the setting audit.durability:

    written   none                    tiered   all but plain reads (judge.py: Ruling.is_plain_read)             durable   all

One sync covers everything that was written before it began, and the next begins when it is back: however slow the disk is, all sessions share it.
What is written and not waited for is synced within a second all the same, so that a failing disk is noticed.

INVARIANT: a session's bytes leave in their order. While some of them wait for the disk, all later ones wait behind them, and nothing more is read
from its client, so that no more than one read per session piles up.

When records cannot be written or synced, the bytes that wait for them never leave: their sessions take them back (`revoke`), and the statements are refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from dbproxy.audit.chain import Key
from dbproxy.audit.ledger import AuditDown, Ledger
from dbproxy.audit.sync import Sync, SyncThread
from dbproxy.audit.types import EventType
from dbproxy.metrics import Counters

_log = logging.getLogger("dbproxy")
_LAZY_SYNC_S = 0.5
"""When what nobody waits for is synced; a sync may take as long again before a second has passed."""
_GATHER_SHARE = 0.125
_GATHER_FROM_S = 0.005
_GATHER_MAX_S = 0.025
"""After a sync that took longer than _GATHER_FROM_S the next one waits for this share of that time, so that those whose statements have just
been let go can join it with their next ones: else two halves of the sessions would take turns and each wait for both."""
SYNC_TIMEOUT_S = 30.0
"""A disk that has not answered by then counts as failed: whoever waits is refused."""


class Sender(Protocol):
    """A session with bytes for its server that wait for the end of the turn."""

    def release(self) -> None:
        """Its records are written: send."""

    def hold(self) -> bytes:
        """Its records are written, and must reach the disk first: hand over what waits, keep what comes from now on, read no more."""

    def deliver(self, data: bytes) -> None:
        """The disk has the records of what was handed over: send it. What came later still waits."""

    def unhold(self) -> None:
        """All that was handed over is delivered: read again."""

    def revoke(self, reason: str, statements: tuple[int, ...], data: bytes) -> None:
        """Records of its could not be written or synced: data, handed over before, and what waits must never be sent. statements: those whose records are concerned."""


class _Held:
    """Bytes of a session that may leave when the record numbered seq is on the disk. statements: whose records they wait for."""

    __slots__ = ("data", "sender", "seq", "session", "statements")

    def __init__(self, seq: int, session: str, sender: Sender, data: bytes, statements: list[int]) -> None:
        self.seq = seq
        self.session = session
        self.sender = sender
        self.data = data
        self.statements = statements


class Turn:
    """Collects one turn. waiting: sessions whose bytes go out at its end, in order. is_open: a flush is scheduled.

    syncs_all, syncs_some: audit.durability is durable; is durable or tiered.
    INVARIANT: whenever the ledger has unwritten records, a flush is scheduled.
    """

    __slots__ = (
        "_announcing",
        "_counters",
        "_held",
        "_held_count",
        "_is_gathering",
        "_is_lazy_sync_due",
        "_loop",
        "_monotonic_ns",
        "_must_sync",
        "_sync",
        "_sync_began_ns",
        "_syncer",
        "is_open",
        "ledger",
        "syncs_all",
        "syncs_some",
        "waiting",
    )

    def __init__(
        self,
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        monotonic_ns: Callable[[], int],
        *,
        syncs_some: bool = False,
        syncs_all: bool = False,
    ) -> None:
        self.ledger = ledger
        self.syncs_all = syncs_all
        self.syncs_some = syncs_some or syncs_all
        self._counters = counters
        self._monotonic_ns = monotonic_ns
        self._loop = loop
        self.is_open = False
        self.waiting: dict[str, Sender] = {}
        self._announcing: set[str] = set()  # sessions with a statement.prepared among this turn's records
        self._must_sync: dict[
            str, list[int]
        ] = {}  # of this turn: sessions whose bytes must wait for the disk, for these statements
        self._held: deque[_Held] = deque()  # INVARIANT: seq never falls
        self._held_count: dict[str, int] = {}
        self._syncer: SyncThread | None = None
        self._sync: Sync | None = None
        self._sync_began_ns = 0
        self._is_gathering = False
        self._is_lazy_sync_due = False

    def schedule(self) -> None:
        """Have flush run at the end of this turn."""
        if not self.is_open:
            self.is_open = True
            self._loop.call_soon(self.flush)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Run something when the bytes at hand are dealt with."""
        self._loop.call_soon(function)

    def append(self, event: EventType, body: bytes) -> None:
        """Record an event that no statement waits for. Raises AuditDown when the ledger takes no more."""
        self.ledger.append(event, body)
        self.schedule()

    def prepared(self, session: str, body: bytes) -> None:
        """Record text that is about to be announced to the server. Raises AuditDown: it must not be."""
        if self.ledger.is_down:
            raise AuditDown(self.ledger.down_reason)
        self.ledger.append(EventType.STATEMENT_PREPARED, body)
        self._announcing.add(session)
        self.schedule()

    def intent(self, key: Key, body: bytes) -> None:
        """Record a statement that is about to be forwarded. Raises AuditDown: it must not be."""
        self.ledger.intent(key, body)
        if not self.is_open:
            self.is_open = True
            self._loop.call_soon(self.flush)

    def must_sync(self, session: str, statement: int) -> None:
        """The record that was taken last, of this statement, must be on the disk before the session's bytes leave."""
        self._must_sync.setdefault(session, []).append(statement)

    def outcome(self, key: Key, body: bytes) -> None:
        """Record how a statement ended."""
        self.ledger.outcome(key, body)
        if not self.is_open:
            self.is_open = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the records, then let the bytes go, now or when the disk has them; those of sessions with an unwritten intent are revoked."""
        self.is_open = False
        revoked: dict[str, list[int]] = {}
        reason = ""
        before_ns = self._monotonic_ns()
        try:
            self.ledger.flush()
        except AuditDown as down:
            self._counters.audit_failures += 1
            revoked = {session: [] for session in self._announcing}
            for session, statement in down.intents:
                revoked.setdefault(session, []).append(statement)
            reason = down.reason
        self._counters.audit_ns += self._monotonic_ns() - before_ns
        self._counters.audit_writes += 1
        if self._announcing:
            self._announcing = set()
        if not self._is_lazy_sync_due:
            self._is_lazy_sync_due = True
            self._loop.call_later(_LAZY_SYNC_S, self._sync_lazily)
        waiting = self.waiting
        if waiting:
            self.waiting = {}
        if self._must_sync or self._held or revoked:
            self._part(waiting, revoked, reason)
            return
        for sender in waiting.values():
            sender.release()

    # ---- waiting for the disk -----------------------------------------------------------------------------------

    def _part(self, waiting: dict[str, Sender], revoked: dict[str, list[int]], reason: str) -> None:
        """The end of a flush after which not all bytes may go at once."""
        must_sync = self._must_sync
        self._must_sync = {}
        held_count = self._held_count
        senders = {entry.session: entry.sender for entry in self._held}
        for session, statements in revoked.items():
            sender = waiting.pop(session, None) or senders.get(session)
            if sender is not None:
                self._revoke(session, sender, reason, statements)
                must_sync.pop(session, None)
        seq = self.ledger.written_seq
        for session, statements in must_sync.items():
            sender = waiting.pop(session, None) or senders.get(session)
            if sender is not None:
                held_count[session] = held_count.get(session, 0) + 1
                self._held.append(_Held(seq, session, sender, sender.hold(), statements))
        for session, sender in waiting.items():
            if session not in held_count:
                sender.release()
        if self._held:
            self._begin_sync()

    def _begin_sync(self) -> None:
        """Start a sync unless one is under way. If there can be none, whoever is not covered is refused."""
        if self._is_gathering:
            return
        sync = self._sync
        if sync is None:
            sync = self.ledger.begin_sync()
            if sync is not None:
                self._sync = sync
                self._sync_began_ns = self._monotonic_ns()
                if self._syncer is None:
                    self._syncer = SyncThread(self._loop.call_soon_threadsafe)
                begun = sync
                self._syncer.submit(sync.run, lambda error: self._synced(begun, error))
        if sync is None:
            self._deliver(self.ledger.synced.seq)
            if self.ledger.is_down:
                self._revoke_beyond(self.ledger.synced.seq)
        elif self.ledger.is_down and self._held and self._held[-1].seq > sync.seq:
            self._revoke_beyond(sync.seq)

    def _synced(self, sync: Sync, error: OSError | None) -> None:
        """A sync is back."""
        is_current = sync is self._sync
        self.ledger.end_sync(sync, error)
        if not is_current:
            return  # it was given up long ago
        self._sync = None
        self._counters.audit_syncs += 1
        took_ns = self._monotonic_ns() - self._sync_began_ns
        self._counters.audit_sync_ns += took_ns
        if error is None:
            self._deliver(sync.seq)
        else:
            self._counters.audit_failures += 1
            _log.error("the audit ledger could not be brought to the disk: %s", self.ledger.down_reason)
            self._revoke_beyond(self.ledger.synced.seq)
        if took_ns > _GATHER_FROM_S * 1e9 and not self.ledger.is_down:
            self._is_gathering = True
            self._loop.call_later(min(took_ns / 1e9 * _GATHER_SHARE, _GATHER_MAX_S), self._gathered)
        elif self._held:
            self._begin_sync()

    def _gathered(self) -> None:
        self._is_gathering = False
        if self._held:
            self._begin_sync()

    def _deliver(self, seq: int) -> None:
        """Everything up to seq is on the disk."""
        held = self._held
        while held and held[0].seq <= seq:
            entry = held.popleft()
            entry.sender.deliver(entry.data)
            left = self._held_count[entry.session] - 1
            if left:
                self._held_count[entry.session] = left
            else:
                self._unhold(entry.session, entry.sender)

    def _unhold(self, session: str, sender: Sender) -> None:
        del self._held_count[session]
        if self.is_open:
            self.waiting[session] = sender  # what came behind may have records that are not written yet
        else:
            sender.release()
        sender.unhold()

    def _revoke_beyond(self, seq: int) -> None:
        """What waits for records after seq will never leave."""
        gone = {entry.session: entry.sender for entry in self._held if entry.seq > seq}
        for session, sender in gone.items():
            self._revoke(session, sender, self.ledger.down_reason, [])

    def _revoke(self, session: str, sender: Sender, reason: str, statements: list[int]) -> None:
        """Take back everything of a session that has not left."""
        data: list[bytes] = []
        if self._held_count.pop(session, 0):
            mine = [entry for entry in self._held if entry.session == session]
            self._held = deque(entry for entry in self._held if entry.session != session)
            for entry in mine:
                data.append(entry.data)
                statements += entry.statements
            sender.revoke(reason, tuple(statements), b"".join(data))
            sender.unhold()
        else:
            sender.revoke(reason, tuple(statements), b"")

    def _sync_lazily(self) -> None:
        """What nobody waits for is synced too, soon. Runs as long as there is something to sync."""
        self._is_lazy_sync_due = False
        if self._sync is None:
            self._begin_sync()
        elif self._monotonic_ns() - self._sync_began_ns > SYNC_TIMEOUT_S * 1e9:
            self._give_up_sync()
        if self._sync is not None or self._is_gathering:
            self._is_lazy_sync_due = True
            self._loop.call_later(_LAZY_SYNC_S, self._sync_lazily)

    def _give_up_sync(self) -> None:
        """The disk does not answer at all."""
        self._sync = None
        self._counters.audit_failures += 1
        self.ledger.give_up_sync(f"the disk has not answered for {SYNC_TIMEOUT_S:.0f} s")
        _log.error("the audit ledger cannot be written: %s", self.ledger.down_reason)
        self._revoke_beyond(self.ledger.synced.seq)

    # ---- coming back, ending ------------------------------------------------------------------------------------

    async def probe(self) -> OSError | None:
        """Ledger.probe in the thread: nothing here waits for the disk."""
        if self._syncer is None:
            self._syncer = SyncThread(self._loop.call_soon_threadsafe)
        found: asyncio.Future[OSError | None] = self._loop.create_future()

        def tell(result: OSError | None) -> None:
            if not found.done():
                found.set_result(result)

        self._syncer.submit(self.ledger.probe, tell)
        return await found

    async def close(self) -> None:
        """Write and sync what is left, let the bytes go that wait for it, and end the thread. Sessions must have ended."""
        self.flush()
        while self._syncer is not None:
            if self._is_gathering:
                await asyncio.sleep(_GATHER_MAX_S * 2)
            thread, self._syncer = self._syncer, None
            await asyncio.to_thread(thread.close, SYNC_TIMEOUT_S)
            await asyncio.sleep(0)  # what it found, which may begin another sync
        if self._sync is not None:
            self._give_up_sync()
