"""What a process counts.

Counting is adding to plain integers: no label objects, no locks, one event loop. figures.py takes them to the control process, and
exposition.py shows them. Every label has a closed vocabulary that is fixed here; no label ever carries a user, a table, an address or SQL.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left

from dbproxy.clock import Clock

COMMANDS = frozenset(
    [
        "ABORT",
        "ALTER",
        "ANALYZE",
        "BEGIN",
        "CALL",
        "CHECKPOINT",
        "CLOSE",
        "CLUSTER",
        "COMMENT",
        "COMMIT",
        "COPY",
        "CREATE",
        "DEALLOCATE",
        "DECLARE",
        "DELETE",
        "DISCARD",
        "DO",
        "DROP",
        "END",
        "EXECUTE",
        "EXPLAIN",
        "FETCH",
        "FUNCTION",
        "GRANT",
        "IMPORT",
        "INSERT",
        "LISTEN",
        "LOAD",
        "LOCK",
        "MERGE",
        "MOVE",
        "NOTIFY",
        "PREPARE",
        "REASSIGN",
        "REFRESH",
        "REINDEX",
        "RELEASE",
        "RESET",
        "REVOKE",
        "ROLLBACK",
        "SAVEPOINT",
        "SECURITY",
        "SELECT",
        "SET",
        "SHOW",
        "START",
        "TABLE",
        "TRUNCATE",
        "UNLISTEN",
        "UPDATE",
        "VACUUM",
        "VALUES",
        "WITH",
    ]
)
"""Values of the label `command`; any other statement counts as OTHER, an empty one as EMPTY."""
ACTIONS = frozenset({"allow", "alert", "limit", "approve", "block", "terminate"})
"""Values of the label `action`: what was done; a refusal that no rule made (audit down, too large …) counts as "refuse"."""
LOGINS = frozenset({"success", "failure", "throttled", "timeout", "error"})
"""Values of the label `result` of logins; "error": the server could not be reached or refused the account."""
REFUSALS = frozenset({"capacity", "throttled", "protocol", "tls", "timeout", "draining"})
"""Values of the label `reason` of refused connections."""

LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
TICK_S = 0.1


class Counters:
    """The proxy's own numbers. Whoever knows a thing adds to it; the three dictionaries are counted through the methods, which bound them.

    Bytes are named from the session's view: received from the server, sent by the client. *_open are gauges.
    audit_syncs, audit_sync_ns: how often and how long the disk was waited for, away from the event loop.
    judge_ns, audit_ns: time spent in the judge without the classifier, for texts not ruled before in a session, and in writing records;
    with how often.
    """

    __slots__ = (
        "audit_events",
        "audit_failures",
        "audit_ns",
        "audit_sync_ns",
        "audit_syncs",
        "audit_writes",
        "cancels",
        "connections",
        "connections_open",
        "is_audit_down",
        "judge_calls",
        "judge_ns",
        "lag",
        "logins",
        "policy_rejections",
        "policy_reloads",
        "policy_sha256",
        "protocol_errors",
        "received_bytes",
        "refused_connections",
        "rows",
        "sent_bytes",
        "sessions",
        "sessions_open",
        "statements",
    )

    def __init__(self) -> None:
        self.connections = 0
        self.connections_open = 0
        self.refused_connections: dict[str, int] = {}
        self.sessions = 0
        self.sessions_open = 0
        self.logins: dict[str, int] = {}
        self.statements: dict[tuple[str, str], int] = {}
        self.rows = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.cancels = 0
        self.protocol_errors = 0
        self.judge_ns = 0
        self.judge_calls = 0
        self.audit_ns = 0
        self.audit_writes = 0
        self.audit_syncs = 0
        self.audit_sync_ns = 0
        self.audit_events = 0
        self.audit_failures = 0
        self.is_audit_down = False
        self.policy_sha256 = ""
        self.policy_reloads = 0
        self.policy_rejections = 0
        self.lag = LagHistogram()

    def count_statement(self, command: str, action: str) -> None:
        """One judged statement. command: the report's; action: the decision's."""
        key = (command, action)
        try:
            self.statements[key] += 1
        except KeyError:
            # First of its kind, or outside the vocabulary: the latter never gets a key of its own, so it comes here each time.
            known = command if command in COMMANDS else "OTHER" if command else "EMPTY"
            key = (known, action if action in ACTIONS else "refuse")
            self.statements[key] = self.statements.get(key, 0) + 1

    def count_login(self, result: str) -> None:
        """One login that ended. result: of LOGINS."""
        result = result if result in LOGINS else "error"
        self.logins[result] = self.logins.get(result, 0) + 1

    def count_refused_connection(self, reason: str) -> None:
        """One connection turned away before its login. reason: of REFUSALS."""
        reason = reason if reason in REFUSALS else "protocol"
        self.refused_connections[reason] = self.refused_connections.get(reason, 0) + 1


class LagHistogram:
    """How late the event loop came to things it should have done. last_s: the latest value."""

    __slots__ = ("counts", "last_s", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(LAG_BUCKETS_S) + 1)
        self.sum_s = 0.0
        self.last_s = 0.0

    def observe(self, lag_s: float) -> None:
        """Add one value; a bucket holds values up to and including its bound."""
        self.counts[bisect_left(LAG_BUCKETS_S, lag_s)] += 1
        self.sum_s += lag_s
        self.last_s = lag_s


async def watch_loop(lag: LagHistogram, clock: Clock) -> None:
    """Measure the running loop ten times a second until cancelled."""
    while True:
        before_ns = clock.monotonic_ns()
        await asyncio.sleep(TICK_S)
        lag.observe(max(0.0, (clock.monotonic_ns() - before_ns) / 1e9 - TICK_S))
