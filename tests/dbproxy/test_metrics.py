"""What is counted, how it is shown, and that labels stay within their vocabulary."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.fake_clock import FakeClock

from dbproxy.classifier.pool import PoolStats
from dbproxy.exposition import ProcessFigures, View, exposition
from dbproxy.figures import Totals, take_snapshot
from dbproxy.metrics import ACTIONS, COMMANDS, Counters, LagHistogram, watch_loop


class _Judge:
    hits, misses, unparsable, failures = 90, 10, 3, 1


class _Pool:
    def __init__(self) -> None:
        self.stats = PoolStats()
        self.processes = 3
        self.queued = 2
        self.restarts = 1


@pytest.fixture
def counters() -> Counters:
    return Counters()


def _view(*counters: Counters) -> View:
    snapshots = [take_snapshot(each, _Judge(), _Pool(), ()) for each in counters]
    totals = Totals()
    for snapshot in snapshots:
        totals.add(snapshot)
    processes = [
        ProcessFigures(
            f"worker {number}", True, 0, 1 << 20, 1.5, 12, each.policy_sha256, each.lag_counts, each.lag_sum_s
        )
        for number, each in enumerate(snapshots, 1)
    ]
    return View(totals, tuple(processes), "0.1.0")


def _scrape(*counters: Counters) -> dict[str, float]:
    body, content_type = exposition(_view(*counters), "")
    assert content_type.startswith("text/plain")
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_counts_appear_under_their_names(counters: Counters) -> None:
    counters.count_statement("SELECT", "allow")
    counters.count_statement("SELECT", "allow")
    counters.count_statement("DROP", "block")
    counters.rows, counters.received_bytes, counters.sent_bytes = 5, 700, 30
    counters.count_login("success")
    counters.count_refused_connection("capacity")
    counters.sessions_open = 4
    counters.is_audit_down = True
    counters.judge_ns, counters.judge_calls = 2_500_000, 3
    counters.policy_sha256 = "ab" * 32
    samples = _scrape(counters)
    assert samples["dbproxy_statements_total{action=allow}{command=SELECT}"] == 2
    assert samples["dbproxy_statements_total{action=block}{command=DROP}"] == 1
    assert samples["dbproxy_rows_total"] == 5
    assert samples["dbproxy_statement_bytes_total{direction=received}"] == 700
    assert samples["dbproxy_statement_bytes_total{direction=sent}"] == 30
    assert samples["dbproxy_logins_total{result=success}"] == 1
    assert samples["dbproxy_connections_refused_total{reason=capacity}"] == 1
    assert samples["dbproxy_sessions_open"] == 4
    assert samples["dbproxy_audit_down"] == 1
    assert samples["dbproxy_overhead_seconds_sum{stage=judge}"] == 0.0025
    assert samples["dbproxy_overhead_seconds_count{stage=judge}"] == 3
    assert samples["dbproxy_policy_info{sha256=abababababab}"] == 1
    assert samples["dbproxy_classifier_cache_hits_total"] == 90
    assert samples["dbproxy_classifier_processes"] == 3
    assert samples["dbproxy_process_resident_bytes{process=worker 1}"] == 1 << 20


def test_statement_labels_stay_within_their_vocabulary(counters: Counters) -> None:
    for number in range(1000):
        counters.count_statement(f"DROP TABLE secrets_{number}", f"because of {number}")
    counters.count_statement("", "allow")
    assert counters.statements == {("OTHER", "refuse"): 1000, ("EMPTY", "allow"): 1}
    for command in [*COMMANDS, "x", "y"]:
        for action in [*ACTIONS, "z"]:
            counters.count_statement(command, action)
    assert len(counters.statements) <= (len(COMMANDS) + 2) * (len(ACTIONS) + 1)


def test_login_and_refusal_labels_stay_within_their_vocabulary(counters: Counters) -> None:
    counters.count_login("alice typed hunter2")
    counters.count_refused_connection("10.0.0.1")
    assert counters.logins == {"error": 1}
    assert counters.refused_connections == {"protocol": 1}


def test_no_label_can_name_a_person_or_a_table(counters: Counters) -> None:
    counters.count_statement("SELECT", "allow")
    counters.count_login("success")
    counters.count_refused_connection("capacity")
    counters.policy_sha256 = "ab" * 32
    body, _ = exposition(_view(counters), "")
    labels = {
        key for family in text_string_to_metric_families(body.decode()) for s in family.samples for key in s.labels
    }
    assert labels == {
        "action",
        "command",
        "direction",
        "le",
        "process",
        "reason",
        "result",
        "sha256",
        "stage",
        "version",
    }


def test_names_follow_the_conventions(counters: Counters) -> None:
    body, _ = exposition(_view(counters), "")
    for family in text_string_to_metric_families(body.decode()):
        assert family.name.startswith("dbproxy_")
        assert family.documentation
        assert not family.name.endswith(("_ms", "_us", "_ns", "_milliseconds"))


def test_openmetrics_is_served_on_request(counters: Counters) -> None:
    body, content_type = exposition(_view(counters), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_workers_add_up_and_stay_apart_where_it_matters(counters: Counters) -> None:
    other = Counters()
    counters.rows, other.rows = 5, 7
    counters.sessions_open = other.sessions_open = 2
    counters.count_statement("SELECT", "allow")
    other.count_statement("SELECT", "allow")
    counters.policy_sha256, other.policy_sha256 = "ab" * 32, "cd" * 32
    other.lag.observe(0.3)
    samples = _scrape(counters, other)
    assert samples["dbproxy_rows_total"] == 12
    assert samples["dbproxy_sessions_open"] == 4
    assert samples["dbproxy_statements_total{action=allow}{command=SELECT}"] == 2
    assert (
        samples["dbproxy_policy_info{sha256=abababababab}"] == samples["dbproxy_policy_info{sha256=cdcdcdcdcdcd}"] == 1
    )
    assert samples["dbproxy_event_loop_lag_seconds_count{process=worker 1}"] == 0
    assert samples["dbproxy_event_loop_lag_seconds_count{process=worker 2}"] == 1


def test_what_an_ended_process_counted_stays_and_its_levels_go(counters: Counters) -> None:
    counters.rows, counters.sessions_open = 5, 2
    totals = Totals()
    totals.add(take_snapshot(counters, None, None, ()), is_over=True)
    assert (totals.counts["rows"], totals.levels["sessions_open"]) == (5, 0)


def test_lag_buckets_are_cumulative_and_include_their_bound(counters: Counters) -> None:
    for lag_s in (0.0005, 0.001, 0.02, 0.3, 9.0):
        counters.lag.observe(lag_s)
    samples = _scrape(counters)
    assert samples["dbproxy_event_loop_lag_seconds_bucket{le=0.001}{process=worker 1}"] == 2
    assert samples["dbproxy_event_loop_lag_seconds_bucket{le=0.02}{process=worker 1}"] == 3
    assert samples["dbproxy_event_loop_lag_seconds_bucket{le=2.5}{process=worker 1}"] == 4
    assert samples["dbproxy_event_loop_lag_seconds_bucket{le=+Inf}{process=worker 1}"] == 5
    assert samples["dbproxy_event_loop_lag_seconds_count{process=worker 1}"] == 5
    assert samples["dbproxy_event_loop_lag_seconds_sum{process=worker 1}"] == pytest.approx(9.3215)


def test_the_loop_watcher_sees_a_blocked_loop() -> None:
    async def main() -> LagHistogram:
        lag, clock = LagHistogram(), FakeClock()
        watcher = asyncio.ensure_future(watch_loop(lag, clock))
        await asyncio.sleep(0)
        clock.advance(0.4)  # the loop was away for four tenths of a second, as far as anybody can tell
        while not lag.sum_s:
            await asyncio.sleep(0.001)
        watcher.cancel()
        return lag

    assert asyncio.run(main()).last_s == pytest.approx(0.3)
