"""What is counted, and how Prometheus gets it.

Counting is adding to plain integers: no label objects, no locks, one event loop. The Exporter turns them into metric families when
somebody scrapes. Every label has a closed vocabulary that is fixed here; no label ever carries a user, a table, an address or SQL.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

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

LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
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


class Exporter(Collector):
    """Makes metric families of the counters, when asked. Has its own registry: nothing here is global."""

    def __init__(self, counters: Counters, judge: JudgeTotals, pool: PoolState, version: str) -> None:
        self._counters = counters
        self._judge = judge
        self._pool = pool
        self._version = version
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics as text, and its content type. accept: the scraper's Accept header, "" if it has none."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for each scrape."""
        yield from self._people()
        yield from self._statements()
        yield from self._classifier()
        yield from self._state()

    def _people(self) -> Iterator[Metric]:
        c = self._counters
        yield _counter("dbproxy_connections", "Client connections accepted.", c.connections)
        yield _gauge("dbproxy_connections_open", "Client connections open now, logged in or not.", c.connections_open)
        yield _labelled(
            "dbproxy_connections_refused", "Connections turned away before login.", "reason", c.refused_connections
        )
        yield _counter("dbproxy_sessions", "Sessions begun: logins that reached the database.", c.sessions)
        yield _gauge("dbproxy_sessions_open", "Sessions open now.", c.sessions_open)
        yield _labelled("dbproxy_logins", "Logins by result.", "result", c.logins)
        yield _counter("dbproxy_cancels", "Cancel requests passed on to a server.", c.cancels)
        yield _counter(
            "dbproxy_protocol_errors", "Sessions ended because a peer broke the protocol.", c.protocol_errors
        )

    def _statements(self) -> Iterator[Metric]:
        c = self._counters
        family = CounterMetricFamily(
            "dbproxy_statements", "Judged statements by command and action.", labels=("command", "action")
        )
        for labels, count in sorted(c.statements.items()):
            family.add_metric(labels, count)
        yield family
        yield _counter("dbproxy_rows", "Rows that statements returned or changed.", c.rows)
        traffic = CounterMetricFamily(
            "dbproxy_statement_bytes", "Bytes of results, and of data sent in.", labels=("direction",)
        )
        traffic.add_metric(("received",), c.received_bytes)
        traffic.add_metric(("sent",), c.sent_bytes)
        yield traffic
        stats = self._pool.stats
        stages = SummaryMetricFamily(
            "dbproxy_overhead_seconds", "Time that statements spent in the proxy, by stage.", labels=("stage",)
        )
        stages.add_metric(("judge",), c.judge_calls, c.judge_ns / 1e9)
        stages.add_metric(("classify",), stats.requests, (stats.busy_ns + stats.queue_ns) / 1e9)
        stages.add_metric(("audit",), c.audit_writes, c.audit_ns / 1e9)
        stages.add_metric(("sync",), c.audit_syncs, c.audit_sync_ns / 1e9)
        yield stages

    def _classifier(self) -> Iterator[Metric]:
        stats, judge, pool = self._pool.stats, self._judge, self._pool
        yield _counter("dbproxy_classifier_cache_hits", "Statements whose text was known.", judge.hits)
        yield _counter("dbproxy_classifier_cache_misses", "Statements whose text had to be read.", judge.misses)
        yield _counter(
            "dbproxy_unparsable_statements", "Texts that the classifier could not vouch for.", judge.unparsable
        )
        failures = {
            "timeout": stats.timeouts,
            "death": stats.deaths,
            "bad_answer": stats.bad_answers,
            "overload": stats.overloads,
            "queue_timeout": stats.queue_timeouts,
            "too_long": stats.too_long,
        }
        yield _labelled(
            "dbproxy_classifier_failures", "Texts that no process has read to the end, by reason.", "reason", failures
        )
        yield _counter("dbproxy_classifier_requests", "Texts given to the classifier.", stats.requests)
        yield _counter("dbproxy_classifier_busy_seconds", "Time that processes spent on texts.", stats.busy_ns / 1e9)
        yield _counter(
            "dbproxy_classifier_queue_seconds", "Time that texts waited for a process.", stats.queue_ns / 1e9
        )
        yield _counter("dbproxy_classifier_retired", "Processes replaced after their share of work.", stats.retired)
        yield _counter(
            "dbproxy_classifier_restarts", "Times that all processes had to be started again.", pool.restarts
        )
        yield _gauge("dbproxy_classifier_processes", "Classifier processes alive.", pool.processes)
        yield _gauge("dbproxy_classifier_queued", "Texts that wait for a process now.", pool.queued)

    def _state(self) -> Iterator[Metric]:
        c = self._counters
        yield _counter("dbproxy_audit_events", "Audit events written.", c.audit_events)
        yield _counter("dbproxy_audit_failures", "Times that the audit trail could not be written.", c.audit_failures)
        yield _gauge(
            "dbproxy_audit_down",
            "1 while statements are refused because the audit trail cannot be written.",
            c.is_audit_down,
        )
        yield _counter("dbproxy_policy_errors", "Decisions that failed; each was a refusal.", self._judge.failures)
        yield _counter("dbproxy_policy_reloads", "Policies put in force after the start.", c.policy_reloads)
        yield _counter("dbproxy_policy_rejections", "Policy reloads refused because of an error.", c.policy_rejections)
        policy = GaugeMetricFamily(
            "dbproxy_policy_info", "The policy in force, by the beginning of its SHA-256.", labels=("sha256",)
        )
        policy.add_metric((c.policy_sha256[:12],), 1)
        yield policy
        build = GaugeMetricFamily("dbproxy_build_info", "The version that runs.", labels=("version",))
        build.add_metric((self._version,), 1)
        yield build
        yield _lag_family(c.lag)


def _lag_family(lag: LagHistogram) -> Metric:
    total, buckets = 0, []
    for bound, count in zip([*map(str, LAG_BUCKETS_S), "+Inf"], lag.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(
        "dbproxy_event_loop_lag_seconds",
        "How late the event loop comes to what is due.",
        buckets=buckets,
        sum_value=lag.sum_s,
    )


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in sorted(values.items()):
        family.add_metric((value,), count)
    return family
