"""A worker's side of signing: statements are refused while nobody signs what it records, because it could be cut off unseen.

Control tells of each checkpoint that covers this worker's chain (every 10 s, also when nothing happens), and says when anchoring is in
trouble. After 40 s without a word the ledger takes no intents: 10 s until one is due and 30 s of grace. Counterpart: notary.py.
"""

from __future__ import annotations

import logging

from dbproxy import ipc
from dbproxy.audit.checkpoint import INTERVAL_S, LATE_S
from dbproxy.audit.ledger import Ledger
from dbproxy.clock import Clock

_log = logging.getLogger("dbproxy")
DEADLINE_S = INTERVAL_S + LATE_S


class ProofDeadline:
    """is_on: audit.signing.enabled."""

    def __init__(self, ledger: Ledger, clock: Clock, *, is_on: bool) -> None:
        self._ledger = ledger
        self._clock = clock
        self._is_on = is_on
        self._heard_ns = clock.monotonic_ns()
        self._trouble = ""

    def note(self, message: ipc.Checkpointed | ipc.Refuse) -> None:
        """Control has spoken."""
        if isinstance(message, ipc.Refuse):
            self._trouble = message.reason
        else:
            self._heard_ns = self._clock.monotonic_ns()
            self._ledger.checkpointed = message.seq
        self.look()

    def look(self) -> None:
        """Refuse or take statements, as it is now. To be called every second or so."""
        if not self._is_on:
            return
        silent_s = (self._clock.monotonic_ns() - self._heard_ns) / 1e9
        reason = self._trouble or (f"no signed checkpoint for {silent_s:.0f} s" if silent_s > DEADLINE_S else "")
        if bool(reason) != bool(self._ledger.refusal):
            _log.error("%s", f"statements are refused: {reason}" if reason else "statements run again")
        self._ledger.refuse(reason)
