"""The figures of all processes as Prometheus reads them. Counterpart: metrics.py, where they are counted and summed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dbproxy.figures import Totals
from dbproxy.metrics import LAG_BUCKETS_S


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """One process. name: supervisor, control, or worker and its slot, such as "worker 1". policy_sha256: "" if it judges nothing.

    lag_counts: per bucket of LAG_BUCKETS_S and one above; () for a process without an event loop to speak of.
    """

    name: str
    is_up: bool
    restarts: int
    resident_bytes: int = 0
    cpu_s: float = 0.0
    open_files: int = 0
    policy_sha256: str = ""
    lag_counts: tuple[int, ...] = ()
    lag_sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class View:
    """What a scrape shows: the sums of all processes, and each process."""

    totals: Totals
    processes: tuple[ProcessFigures, ...]
    version: str


def exposition(view: View, accept: str) -> tuple[bytes, str]:
    """All metrics as text, and its content type. accept: the scraper's Accept header, "" if it has none."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(view))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Families(Collector):
    """Makes metric families of a view. Has its own registry: nothing here is global."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._counts = view.totals.counts
        self._levels = view.totals.levels

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for each scrape."""
        yield from self._people()
        yield from self._statements()
        yield from self._classifier()
        yield from self._state()
        yield from self._processes()

    def _people(self) -> Iterator[Metric]:
        c, levels, totals = self._counts, self._levels, self._view.totals
        yield _counter("dbproxy_connections", "Client connections accepted.", c["connections"])
        yield _gauge(
            "dbproxy_connections_open", "Client connections open now, logged in or not.", levels["connections_open"]
        )
        yield _labelled(
            "dbproxy_connections_refused", "Connections turned away before login.", "reason", totals.refused_connections
        )
        yield _counter("dbproxy_sessions", "Sessions begun: logins that reached the database.", c["sessions"])
        yield _gauge("dbproxy_sessions_open", "Sessions open now.", levels["sessions_open"])
        yield _labelled("dbproxy_logins", "Logins by result.", "result", totals.logins)
        yield _counter("dbproxy_cancels", "Cancel requests passed on to a server.", c["cancels"])
        yield _counter(
            "dbproxy_protocol_errors", "Sessions ended because a peer broke the protocol.", c["protocol_errors"]
        )

    def _statements(self) -> Iterator[Metric]:
        c = self._counts
        family = CounterMetricFamily(
            "dbproxy_statements", "Judged statements by command and action.", labels=("command", "action")
        )
        for labels, count in sorted(self._view.totals.statements.items()):
            family.add_metric(labels, count)
        yield family
        yield _counter("dbproxy_rows", "Rows that statements returned or changed.", c["rows"])
        traffic = CounterMetricFamily(
            "dbproxy_statement_bytes", "Bytes of results, and of data sent in.", labels=("direction",)
        )
        traffic.add_metric(("received",), c["received_bytes"])
        traffic.add_metric(("sent",), c["sent_bytes"])
        yield traffic
        stages = SummaryMetricFamily(
            "dbproxy_overhead_seconds", "Time that statements spent in the proxy, by stage.", labels=("stage",)
        )
        waited_ns = c["classifier_busy_ns"] + c["classifier_queue_ns"]
        stages.add_metric(("judge",), c["judge_calls"], c["judge_ns"] / 1e9)
        stages.add_metric(("classify",), c["classifier_requests"], waited_ns / 1e9)
        stages.add_metric(("audit",), c["audit_writes"], c["audit_ns"] / 1e9)
        stages.add_metric(("sync",), c["audit_syncs"], c["audit_sync_ns"] / 1e9)
        yield stages

    def _classifier(self) -> Iterator[Metric]:
        c, levels = self._counts, self._levels
        yield _counter("dbproxy_classifier_cache_hits", "Statements whose text was known.", c["judge_hits"])
        yield _counter("dbproxy_classifier_cache_misses", "Statements whose text had to be read.", c["judge_misses"])
        yield _counter(
            "dbproxy_unparsable_statements", "Texts that the classifier could not vouch for.", c["judge_unparsable"]
        )
        names = {
            "timeout": "timeouts",
            "death": "deaths",
            "bad_answer": "bad_answers",
            "overload": "overloads",
            "queue_timeout": "queue_timeouts",
            "too_long": "too_long",
        }
        yield _labelled(
            "dbproxy_classifier_failures",
            "Texts that no process has read to the end, by reason.",
            "reason",
            {reason: c[f"classifier_{name}"] for reason, name in names.items()},
        )
        yield _counter("dbproxy_classifier_requests", "Texts given to the classifier.", c["classifier_requests"])
        yield _counter(
            "dbproxy_classifier_busy_seconds", "Time that processes spent on texts.", c["classifier_busy_ns"] / 1e9
        )
        yield _counter(
            "dbproxy_classifier_queue_seconds",
            "Time that texts waited for a process.",
            c["classifier_queue_ns"] / 1e9,
        )
        yield _counter(
            "dbproxy_classifier_retired", "Processes replaced after their share of work.", c["classifier_retired"]
        )
        yield _counter(
            "dbproxy_classifier_restarts",
            "Times that all processes had to be started again.",
            c["classifier_restarts"],
        )
        yield _gauge("dbproxy_classifier_processes", "Classifier processes alive.", levels["classifier_processes"])
        yield _gauge("dbproxy_classifier_queued", "Texts that wait for a process now.", levels["classifier_queued"])

    def _state(self) -> Iterator[Metric]:
        c = self._counts
        yield _counter("dbproxy_audit_events", "Audit events written.", c["audit_events"])
        yield _counter(
            "dbproxy_audit_failures", "Times that the audit trail could not be written.", c["audit_failures"]
        )
        yield _gauge(
            "dbproxy_audit_down",
            "Processes that refuse statements because the audit trail cannot be written.",
            self._levels["is_audit_down"],
        )
        yield _gauge(
            "dbproxy_history_down",
            "1 while the state file cannot be used: the history of processes is not kept.",
            self._levels["is_history_down"],
        )
        yield _counter("dbproxy_policy_errors", "Decisions that failed; each was a refusal.", c["judge_failures"])
        yield _counter("dbproxy_policy_reloads", "Policies put in force after the start.", c["policy_reloads"])
        yield _counter(
            "dbproxy_policy_rejections", "Policy reloads refused because of an error.", c["policy_rejections"]
        )
        policy = GaugeMetricFamily(
            "dbproxy_policy_info",
            "Workers that judge by a policy, by the beginning of its SHA-256.",
            labels=("sha256",),
        )
        in_force = [each.policy_sha256[:12] for each in self._view.processes if each.policy_sha256]
        for sha256 in sorted(set(in_force)):
            policy.add_metric((sha256,), in_force.count(sha256))
        yield policy
        build = GaugeMetricFamily("dbproxy_build_info", "The version that runs.", labels=("version",))
        build.add_metric((self._view.version,), 1)
        yield build

    def _processes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("dbproxy_process_up", "1 while the process is there.", labels=("process",))
        restarts = CounterMetricFamily(
            "dbproxy_process_restarts",
            "Times that it was started again after it had ended by itself.",
            labels=("process",),
        )
        memory = GaugeMetricFamily("dbproxy_process_resident_bytes", "Resident memory.", labels=("process",))
        cpu = CounterMetricFamily("dbproxy_process_cpu_seconds", "Processor time used.", labels=("process",))
        files = GaugeMetricFamily("dbproxy_process_open_files", "Open files and sockets.", labels=("process",))
        lag = HistogramMetricFamily(
            "dbproxy_event_loop_lag_seconds", "How late the event loop comes to what is due.", labels=("process",)
        )
        for each in self._view.processes:
            name = (each.name,)
            up.add_metric(name, each.is_up)
            restarts.add_metric(name, each.restarts)
            if each.is_up:
                memory.add_metric(name, each.resident_bytes)
                cpu.add_metric(name, each.cpu_s)
                files.add_metric(name, each.open_files)
            if each.lag_counts:
                lag.add_metric(name, _buckets(each.lag_counts), each.lag_sum_s)
        yield from (up, restarts, memory, cpu, files, lag)


def _buckets(counts: tuple[int, ...]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip([*map(str, LAG_BUCKETS_S), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in sorted(values.items()):
        family.add_metric((value,), count)
    return family
