"""SECURITY_BAR K1, K2: policies that change while statements run, while a worker starts, and while they are broken."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from support.figures import record, scaled
from support.processes import Load, is_ready, wait_until, whole_proxy
from support.proxy import Proxy
from support.servers import Database, PostgresServer, fresh_database


def policy(name: str) -> str:
    return f"""
version: 1
defaults: {{action: allow, on_unparsable: block, on_dynamic: block, on_error: block}}
rules:
  - {{name: rule-{name}, match: {{table: ["*.nothing_{name}"]}}, action: block, severity: high}}
"""


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, "test_bar_k_reload") as fresh:
        yield fresh


@pytest.fixture(scope="module")
def proxy(postgres: PostgresServer, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with whole_proxy(tmp_path_factory.mktemp("reload"), postgres, database, policy=policy("first")) as reloaded:
        yield reloaded


def policy_of(proxy: Proxy, slot: int) -> str:
    loaded: str = [each for each in proxy.records_of(slot) if each["type"] == "policy.loaded"][-1]["sha256"]
    return loaded


def put_in_force(proxy: Proxy, text: str) -> None:
    """In every worker, when this returns."""
    before = len(proxy.records("policy.loaded"))
    proxy.write_policy(text)
    proxy.reload()
    wait_until(lambda: len(proxy.records("policy.loaded")) >= before + 2)


def test_reloads_under_load_leave_each_statement_with_exactly_one_policy(proxy: Proxy) -> None:
    """K1: in each chain a statement carries the policy that was loaded last before it, and in the end all have the same."""
    reloads = scaled(8, 100)
    with Load(proxy, 8) as load:
        wait_until(lambda: load.statements > 50)
        for number in range(reloads):
            put_in_force(proxy, policy(f"reload_{number}"))
    assert not load.failures, load.failures[:5]
    wrong = judged = 0
    for slot in (1, 2):
        current = ""
        for each in proxy.records_of(slot):
            if each["type"] == "policy.loaded":
                assert each.get("previous", current) == current, "a policy was changed and not recorded"
                current = each["sha256"]
            elif each["type"] == "statement.intent":
                judged += 1
                wrong += each["policy"] != current
    loaded = [[each["sha256"] for each in proxy.records_of(slot) if each["type"] == "policy.loaded"] for slot in (1, 2)]
    assert loaded[0][-reloads:] == loaded[1][-reloads:]
    assert len(set(loaded[0][-reloads:])) == reloads
    record(
        "K1",
        "statements judged by another policy than the one in force, or failed",
        count=judged,
        failures=wrong,
        reloads=reloads,
    )


def test_broken_policy_stays_out_everywhere_also_after_a_crash(proxy: Proxy) -> None:
    """K2: a worker that is started while the file is broken has the last good policy too."""
    put_in_force(proxy, policy("good"))
    good = policy_of(proxy, 1)
    loaded, crashed = len(proxy.records("policy.loaded")), len(proxy.records("process.crashed"))
    rejected = len(proxy.records("policy.rejected"))
    proxy.write_policy("version: 1\nrules: [{nonsense")
    try:
        proxy.reload()
        wait_until(lambda: len(proxy.records("policy.rejected")) > rejected)
        killed = [*proxy.processes("control"), *proxy.processes("worker")]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(proxy.pids) == 4 and not set(proxy.pids) & set(killed))
        wait_until(lambda: is_ready(proxy), 20)
        with proxy.connect() as connection:
            connection.execute("select 1")
        assert {each["sha256"] for each in proxy.records("policy.loaded")[loaded:]} == {good}
        assert proxy.metric("dbproxy_policy_rejections_total") >= 1
        wait_until(lambda: len(proxy.records("process.crashed")) == crashed + 3)
    finally:
        proxy.write_policy(policy("good"))


def test_policy_that_comes_while_a_worker_starts_is_in_force_there_too(proxy: Proxy) -> None:
    """P2: the order to take it over arrives between the opening of the worker's chain and its first connection."""
    rounds = scaled(2, 20)
    wrong = 0
    for number in range(rounds):
        count, before = len(proxy.records_of(1)), policy_of(proxy, 2)
        os.kill(proxy.processes("worker")[0], signal.SIGKILL)
        wait_until(lambda count=count: len(proxy.records_of(1)) > count)  # type: ignore[misc] # bound now
        proxy.write_policy(policy(f"start_{number}"))
        proxy.reload()
        wait_until(lambda before=before: policy_of(proxy, 2) != before)  # type: ignore[misc] # bound now
        wait_until(lambda: is_ready(proxy))
        time.sleep(0.5)  # what takes longer has not been noticed at all
        wrong += policy_of(proxy, 1) != policy_of(proxy, 2)
    record("K1.start", "workers left with another policy than the one in force", count=rounds, failures=wrong)
