"""The sessions of all workers as operators see them: what is known of one, and what may be done with it.

Workers describe their sessions (SessionInfo, plain values that travel as JSON), the control process keeps them together and is the
SessionDirectory that admin.py asks. Nothing here holds statement text: what ran is in the audit trail.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class SessionState(StrEnum):
    """What a session is doing."""

    IDLE = "idle"
    """Nothing runs."""
    RUNNING = "running"
    """The server works on something."""
    HELD = "held"
    """A statement waits for its judgement; the server has not seen it."""
    ENDING = "ending"
    """The session was told to end."""


class TransactionState(StrEnum):
    """Where a session stands towards the server's transactions, as the server last said."""

    IDLE = "idle"
    OPEN = "open"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session at one moment, as its worker described it.

    id: as in the audit trail. worker: the slot whose worker holds it. account: "" if people use their own role.
    client: address:port. Times are nanoseconds of wall time since 1970 UTC. refused: statements that the server never saw.
    received_bytes: answers of the server; sent_bytes: bulk data (COPY) for it; both as in the audit trail.
    """

    id: str
    worker: int
    person: str
    account: str
    server_user: str
    database: str
    target: str
    client: str
    application: str
    started_at_ns: int
    last_active_at_ns: int
    state: SessionState = SessionState.IDLE
    transaction: TransactionState = TransactionState.IDLE
    statements: int = 0
    refused: int = 0
    rows: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


class SessionDirectory(Protocol):
    """Who is connected, in all workers. Implemented by the control process; in tests by tests/support/fake_operations.py."""

    async def sessions(self) -> tuple[SessionInfo, ...]:
        """All sessions, oldest first. What a worker that does not answer holds is shown as it last was."""

    async def find_session(self, session_id: str) -> SessionInfo | None:
        """That session as it is now; None if there is none, or no longer."""

    async def kill_session(self, session_id: str, message: str) -> SessionInfo | None:
        """End a session as a shut-down does (57P01), whatever it runs; what the server works on is cancelled with its connection.

        message: the one sentence that the client is told, without "dbproxy: " before it. Returns the session as it was, once its
        worker has confirmed that it is over; None if there is none. Raises TimeoutError if the worker does not confirm in time.
        """
