"""How long a session may last, be idle, keep a transaction open, leave a message unfinished, or wait for one answer.

Pure: is told the time, decides, ends nothing. server.py asks for each session several times a second, so that a limit is kept to within half a
second.
"""

from __future__ import annotations

from typing import Final, Protocol

from config.settings import Timeouts
from protocol.contract import Refusal, Relay, Transaction, Why

_AGAIN: Final = "Connect again."


class Timed(Protocol):
    """A session, as far as it is looked at here. Times are of the monotonic clock; last_active_ns: when a statement last began or ended."""

    started_ns: int
    last_active_ns: int

    @property
    def transaction(self) -> Transaction: ...
    @property
    def is_held(self) -> bool: ...
    @property
    def totals(self) -> tuple[int, ...]: ...


class SessionLimits:
    """The limits of all sessions, in nanoseconds; None: none."""

    __slots__ = ("idle_in_transaction_ns", "idle_ns", "partial_message_ns", "session_ns", "statement_ns")

    def __init__(self, timeouts: Timeouts) -> None:
        self.session_ns = _ns(timeouts.session_s)
        self.idle_ns = _ns(timeouts.idle_s)
        self.idle_in_transaction_ns = _ns(timeouts.idle_in_transaction_s)
        self.statement_ns = _ns(timeouts.statement_s)
        self.partial_message_ns = _ns(timeouts.partial_message_s)


class SessionWatch:
    """One session's time."""

    __slots__ = ("_answered", "_limits", "_partial_since_ns", "_waiting_since_ns")

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._partial_since_ns = 0
        self._waiting_since_ns = 0
        self._answered = -1  # statements that had ended when it began to wait for the next one

    def exceeded(self, session: Timed, relay: Relay, now_ns: int) -> Refusal | None:
        """What the session's client is to be told at its end, which is due; None if no limit is reached."""
        limits = self._limits
        is_waiting = self._is_waiting_too_long(session, relay, now_ns)
        is_stuck = self._is_stuck(relay, now_ns)
        if limits.session_ns is not None and now_ns - session.started_ns > limits.session_ns:
            return Refusal(Why.IDLE, "dbproxy: the session has lasted as long as it may", "", _AGAIN)
        if is_stuck:
            return Refusal(Why.PROTOCOL, "dbproxy: the rest of a message did not come in time")
        if is_waiting:
            return Refusal(Why.TOO_LONG, "dbproxy: the statement has run as long as it may", "", _AGAIN)
        if relay.is_busy or session.is_held:
            return None
        quiet_ns = now_ns - session.last_active_ns
        is_open = session.transaction is not Transaction.IDLE
        if is_open and limits.idle_in_transaction_ns is not None and quiet_ns > limits.idle_in_transaction_ns:
            text = "dbproxy: the open transaction was idle for too long"
            return Refusal(Why.IDLE_IN_TRANSACTION, text, "", _AGAIN)
        if limits.idle_ns is not None and quiet_ns > limits.idle_ns:
            return Refusal(Why.IDLE, "dbproxy: the session was idle for too long", "", _AGAIN)
        return None

    def _is_waiting_too_long(self, session: Timed, relay: Relay, now_ns: int) -> bool:
        """Whether the server owes the same answer for too long. A statement in a pipeline waits from when the one before it has ended."""
        if self._limits.statement_ns is None:
            return False
        if not relay.is_busy:
            self._answered = -1
            return False
        answered = session.totals[0]
        if answered != self._answered:
            self._answered = answered
            self._waiting_since_ns = now_ns
        return now_ns - self._waiting_since_ns > self._limits.statement_ns

    def _is_stuck(self, relay: Relay, now_ns: int) -> bool:
        """Whether the client has left one message unfinished for too long; bytes of bulk data that trickle in count as one."""
        if not relay.is_partial:
            self._partial_since_ns = 0
            return False
        self._partial_since_ns = self._partial_since_ns or now_ns
        limit_ns = self._limits.partial_message_ns
        return limit_ns is not None and now_ns - self._partial_since_ns > limit_ns


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)
