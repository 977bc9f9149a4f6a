"""One loop turn's audit records and sends: everything is written once, then it may leave.

    data arrives → judged → intent appended ─┐
    data arrives → judged → intent appended ─┼─► flush: one write ─► each session's bytes go to its server
    answer ends  → outcome appended ─────────┘

Bytes for a server wait here until the records of the same turn are written; bytes for a client do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from dbproxy.audit.chain import Key
from dbproxy.audit.ledger import AuditDown, Ledger
from dbproxy.audit.types import EventType
from dbproxy.metrics import Counters


class Sender(Protocol):
    """A session with bytes for its server that wait for the end of the turn."""

    def release(self) -> None:
        """Its records are written: send."""

    def revoke(self, reason: str, statements: tuple[int, ...]) -> None:
        """A record of its could not be written: these bytes must never be sent. statements: those whose intents are missing."""


class Turn:
    """Collects one turn. waiting: sessions whose bytes go out at its end, in order. is_open: a flush is scheduled.

    INVARIANT: whenever the ledger has unwritten records, a flush is scheduled.
    """

    __slots__ = ("_announcing", "_counters", "_loop", "_monotonic_ns", "is_open", "ledger", "waiting")

    def __init__(
        self,
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        monotonic_ns: Callable[[], int],
    ) -> None:
        self.ledger = ledger
        self._counters = counters
        self._monotonic_ns = monotonic_ns
        self._loop = loop
        self.is_open = False
        self.waiting: dict[str, Sender] = {}
        self._announcing: set[str] = set()  # sessions with a statement.prepared among this turn's records

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

    def outcome(self, key: Key, body: bytes) -> None:
        """Record how a statement ended."""
        self.ledger.outcome(key, body)
        if not self.is_open:
            self.is_open = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the records, then let the bytes go; those of sessions with an unwritten intent are revoked."""
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
        if not self.waiting:
            return
        waiting = self.waiting
        self.waiting = {}
        for session, sender in waiting.items():
            if session in revoked:
                sender.revoke(reason, tuple(revoked[session]))
            else:
                sender.release()
