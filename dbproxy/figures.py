"""How figures travel: Snapshots of one process's counters, and Totals of all processes in control. Counterparts: metrics.py, exposition.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from dbproxy.metrics import Counters


class JudgeTotals(Protocol):
    """What the judge counts itself."""

    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def unparsable(self) -> int: ...
    @property
    def failures(self) -> int: ...


class PoolTotals(Protocol):
    """What the classifier pool counts itself; see dbproxy.classifier.pool.PoolStats."""

    requests: int
    timeouts: int
    deaths: int
    bad_answers: int
    overloads: int
    queue_timeouts: int
    too_long: int
    retired: int
    busy_ns: int
    queue_ns: int


class PoolState(Protocol):
    """The classifier pool as it is now."""

    @property
    def stats(self) -> PoolTotals: ...
    @property
    def processes(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def restarts(self) -> int: ...


COUNTS = (
    "audit_events",
    "audit_failures",
    "audit_ns",
    "audit_sync_ns",
    "audit_syncs",
    "audit_writes",
    "cancels",
    "connections",
    "judge_calls",
    "judge_ns",
    "protocol_errors",
    "received_bytes",
    "rows",
    "sent_bytes",
    "sessions",
)
"""Attributes of Counters that only grow, and add up over processes and over the lives of a process."""
LEVELS = ("connections_open", "is_audit_down", "sessions_open")
"""Attributes of Counters that are levels: they add up over the processes there are."""
_JUDGED = ("hits", "misses", "unparsable", "failures")
_POOLED = (
    "requests",
    "timeouts",
    "deaths",
    "bad_answers",
    "overloads",
    "queue_timeouts",
    "too_long",
    "retired",
    "busy_ns",
    "queue_ns",
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One process's figures at one moment, as plain values.

    counts: what only grows, by name: COUNTS, the judge's with `judge_`, the classifier's with `classifier_` before them. levels: what goes
    up and down. problems: why this process is not ready, in the words of /readyz; () if it is.
    """

    counts: dict[str, int]
    levels: dict[str, int]
    statements: tuple[tuple[str, str, int], ...]
    logins: dict[str, int]
    refused_connections: dict[str, int]
    lag_counts: tuple[int, ...]
    lag_sum_s: float
    lag_last_s: float
    policy_sha256: str
    problems: tuple[str, ...]


def take_snapshot(
    counters: Counters, judge: JudgeTotals | None, pool: PoolState | None, problems: tuple[str, ...]
) -> Snapshot:
    """The figures as they are now. judge, pool: None in a process that has none."""
    counts = {name: getattr(counters, name) for name in COUNTS}
    levels = {name: int(getattr(counters, name)) for name in LEVELS}
    if judge is not None:
        counts |= {f"judge_{name}": getattr(judge, name) for name in _JUDGED}
    if pool is not None:
        counts |= {f"classifier_{name}": getattr(pool.stats, name) for name in _POOLED}
        counts["classifier_restarts"] = pool.restarts
        levels |= {"classifier_processes": pool.processes, "classifier_queued": pool.queued}
    return Snapshot(
        counts=counts,
        levels=levels,
        statements=tuple((*labels, count) for labels, count in counters.statements.items()),
        logins=dict(counters.logins),
        refused_connections=dict(counters.refused_connections),
        lag_counts=tuple(counters.lag.counts),
        lag_sum_s=counters.lag.sum_s,
        lag_last_s=counters.lag.last_s,
        policy_sha256=counters.policy_sha256,
        problems=problems,
    )


class Totals:
    """Sums of snapshots. counts, levels: by name as in Snapshot; a name that nobody has counts as 0."""

    __slots__ = ("counts", "levels", "logins", "refused_connections", "statements")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.levels: Counter[str] = Counter()
        self.statements: Counter[tuple[str, str]] = Counter()
        self.logins: Counter[str] = Counter()
        self.refused_connections: Counter[str] = Counter()

    def add(self, snapshot: Snapshot, *, is_over: bool = False) -> None:
        """Add one process. is_over: it has ended; what it counted stays, its levels are gone."""
        self.counts.update(snapshot.counts)
        self.logins.update(snapshot.logins)
        self.refused_connections.update(snapshot.refused_connections)
        for command, action, count in snapshot.statements:
            self.statements[command, action] += count
        if not is_over:
            self.levels.update(snapshot.levels)

    def copy(self) -> Totals:
        """The same sums, apart."""
        other = Totals()
        for name in self.__slots__:
            getattr(other, name).update(getattr(self, name))
        return other
