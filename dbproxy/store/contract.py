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


class StaleMarkError(DbproxyError):
    """A checkpoint that is not newer than the one that is known: somebody went back in time."""


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


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a slot's chain that a checkpoint covers."""

    slot: int
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class CheckpointMark:
    """The newest checkpoint that was written: a ledger that ends before it was put back to an older state.

    number: rises by one with each checkpoint of a ledger. epoch: of the signing key, never falls. hash: of the checkpoint's record.
    """

    number: int
    epoch: int
    hash: str
    at_ns: int
    heads: tuple[Head, ...]


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

    async def checkpoint_mark(self, ledger: str) -> CheckpointMark | None:
        """The newest checkpoint of that ledger; None if none is known. ledger: what names it, the same at each start."""

    async def advance_checkpoint(self, ledger: str, mark: CheckpointMark) -> None:
        """Remember a newer checkpoint in place of the older. Raises StaleMarkError, changing nothing, unless its number is higher
        than the known one's and its epoch is not lower.
        """
