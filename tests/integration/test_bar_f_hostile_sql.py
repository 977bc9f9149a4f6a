"""SECURITY_BAR F6: texts made to exhaust a parser harm nobody but who sends them. The pool alone: tests/bench/classifier_abuse.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from support.bar import POLICY
from support.figures import IS_FULL, record, scaled
from support.proxy import Proxy
from support.raw_client import errors, logged_in
from support.servers import Database

SHAPES: dict[str, str] = {
    "24,000 terms": "select " + "+".join(["1"] * 24_000),
    "64,000 terms": "select " + "+".join(["1"] * 64_000),
    "10,000 parentheses": "select " + "(" * 10_000 + "1" + ")" * 10_000,
    "64,000 UNION ALL": " union all ".join(["select 1"] * 64_000),
    "1,000 NOT": "select " + "not " * 1_000 + "true",
    "1 MB IN list": "select 1 where 1 in (" + ",".join(["123456789"] * 104_000) + ")",
    "arrays in arrays": "select " + "array[" * 24 + "1" + "]" * 24,
    "subqueries": "select * from (" * 2_000 + "select 1" + ") x" * 2_000,
    "CASE in CASE": "select " + "case when true then " * 2_000 + "1" + " end" * 2_000,
    # More of these would be the database's own trouble: its lexer takes time with the square of their depth.
    "comments in comments": "/*" * 2_000 + "*/" * 2_000 + "select 1",
    "hidden behind terms": "select " + "+".join(["1"] * 24_000) + " from secrets",
    "hidden behind parentheses": "select " + "(" * 3_000 + "select id from secrets limit 1" + ")" * 3_000,
    "hidden behind UNION ALL": " union all ".join(["select 1"] * 8_000) + " union all select id from secrets",
}
HANG_S = 10.0


@pytest.mark.timeout(7200)
def test_hostile_texts_are_answered_in_time_and_others_do_not_notice(
    make_proxy: Callable[..., Proxy], vault: Database
) -> None:
    repeats = scaled(2, 1000 // len(SHAPES) + 1)
    proxy = make_proxy(policy=POLICY, database=vault.name)
    mark = vault.server.log.mark()
    answers: dict[str, list[float]] = {}
    ran_s: dict[str, list[float]] = {}  # allowed: most of it is the database's own time
    waits: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        with logged_in(proxy.address("bob"), timeout_s=60) as other:
            number = 0
            while not is_over.is_set():
                number += 1
                started = time.perf_counter()
                assert not errors(other.query(f"select {number}"))
                waits.append(time.perf_counter() - started)
                time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    allowed = 0
    try:
        with logged_in(proxy.address(), timeout_s=60) as client:
            for _ in range(repeats):
                for name, text in SHAPES.items():
                    started = time.perf_counter()
                    codes = errors(client.query(text))
                    taken = answers if codes == ["42501"] else ran_s
                    taken.setdefault(name, []).append(time.perf_counter() - started)
                    allowed += codes != ["42501"] and "hidden" in name
    finally:
        is_over.set()
        watcher.join(60)
    assert proxy.process.poll() is None
    leaked = [sql for sql in vault.statements(mark) if "secrets" in sql]
    waits.sort()
    slowest = {name: round(max(each) * 1e3, 1) for name, each in answers.items()}
    ran = {name: round(max(each) * 1e3, 1) for name, each in ran_s.items()}
    p99 = waits[int(len(waits) * 0.99)] * 1e3
    failures = allowed + len(leaked) + sum(value > HANG_S * 1e3 for value in (*slowest.values(), *ran.values()))
    if IS_FULL:
        failures += (p99 > 50) + sum(value > 250 for value in slowest.values())
    record(
        "F6",
        "hostile texts that ran, hung, or slowed the others",
        count=repeats * len(SHAPES),
        failures=failures,
        others=len(waits),
        others_p99_ms=round(p99, 2),
        others_max_ms=round(waits[-1] * 1e3, 2),
        slowest_ms=slowest,
        ran_ms=ran,
    )
