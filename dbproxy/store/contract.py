"""What the control process keeps beyond its own life, whatever keeps it. One implementation: sqlite.py.

Every implementation passes tests/dbproxy/store/test_contract.py. A method that has returned has its effect on disk; a call that was
cancelled may still take effect. Times are nanoseconds of wall time since 1970 UTC. Nothing here holds statement text or a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from dbproxy.errors import DbproxyError


class StoreError(DbproxyError):
    """The store could not do it: the disk is full, a file is damaged. The same call may succeed later."""


class Ending(StrEnum):
    """How a process ended."""

    STOPPED = "stopped"
    """In good order: it was asked to."""
    CRASHED = "crashed"
    """By itself, or by a signal that nobody of the proxy sent."""
    LOST = "lost"
    """Unknown: the proxy as a whole was gone before anybody noted it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One process of the proxy from its start to its end. ended_at_ns and ending: None while it runs, or nobody has noted otherwise.

    detail: why it ended, for people; an exit code or a signal, for example.
    """

    id: int
    role: str
    slot: int | None
    pid: int
    version: str
    started_at_ns: int
    ended_at_ns: int | None = None
    ending: Ending | None = None
    detail: str = ""


RUNS_KEPT = 1000
"""Older runs that have ended are forgotten."""


class Store(Protocol):
    """What lasts. Each method raises StoreError if it cannot be done."""

    async def close(self) -> None:
        """Let go of everything. Safe to call twice; no other call may follow."""

    async def begin_run(self, role: str, slot: int | None, pid: int, version: str, at_ns: int) -> int:
        """Note that a process began. Returns the run's number, for end_run."""

    async def end_run(self, run_id: int, ending: Ending, detail: str, at_ns: int) -> None:
        """Note that it ended. What was noted first stays; an unknown number is ignored."""

    async def lose_open_runs(self, at_ns: int) -> int:
        """Note as LOST all that have not ended; for the start of a proxy, when none can be alive. Returns how many there were."""

    async def runs(self, limit: int) -> tuple[Run, ...]:
        """The latest runs, newest first."""
