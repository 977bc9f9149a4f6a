"""What hostile SQL costs those who do not send it: SECURITY_BAR F6 as a command with figures.

    python -m tests.bench.classifier_abuse [--repeat 1000] [--json FILE]

One session sends hostile texts without pause while another sends small ones, each of them new, so that no cache helps. Printed are the
latency of the small ones alone and during the attack, and for each hostile shape how it was answered. Exit 0 if every text was
answered within 250 ms, waiting included, and the others' p99 stayed within 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections import Counter
from pathlib import Path

import uvloop

from classifiers.effects import Kind, LexingState, Report
from dbproxy.classifier.pool import ClassifierPool, PoolSettings

MAX_VERDICT_MS = 250
MAX_OTHERS_P99_MS = 50

SHAPES: dict[str, bytes] = {
    "24,000 plus terms": b"SELECT " + b"+".join([b"1"] * 24_000),
    "64,000 plus terms": b"SELECT " + b"+".join([b"1"] * 64_000),
    "10,000 parentheses": b"SELECT " + b"(" * 10_000 + b"1" + b")" * 10_000,
    "60 parentheses": b"SELECT " + b"(" * 60 + b"1" + b")" * 60,
    "64,000 UNION ALL": b" UNION ALL ".join([b"SELECT 1"] * 64_000),
    "8,000 UNION ALL": b" UNION ALL ".join([b"SELECT 1"] * 8_000),
    "1,000 NOT": b"SELECT " + b"NOT " * 1_000 + b"true",
    "1 MB IN list": b"SELECT 1 WHERE x IN (" + b",".join([b"123456789"] * 104_000) + b")",
    "200 KB IN list": b"SELECT 1 WHERE x IN (" + b",".join([b"123456789"] * 20_000) + b")",
    "ARRAY[ARRAY[ 24 deep": b"SELECT " + b"ARRAY[" * 24 + b"1" + b"]" * 24,
    "numeric(numeric( 24 deep": b"SELECT " + b"numeric(" * 24 + b"1" + b")" * 24,
    "CAST AS char(char( 24 deep": b"SELECT CAST(1 AS " + b"char(" * 24 + b"1" + b")" * 24 + b")",
    "int[int[ 24 deep": b"SELECT CAST(1 AS " + b"int[" * 24 + b"1" + b"]" * 24 + b")",
    "a[1][1] 1,000 times": b"SELECT a" + b"[1]" * 1_000 + b" FROM t",
    "FROM parentheses 20,000 deep": b"SELECT 1 FROM " + b"(" * 20_000 + b"t" + b")" * 20_000,
    "subqueries 2,000 deep": b"SELECT * FROM (" * 2_000 + b"SELECT 1" + b") x" * 2_000,
    "CASE 2,000 deep": b"SELECT " + b"CASE WHEN 1=1 THEN " * 2_000 + b"1" + b" END" * 2_000,
    "100,000 ORs": b"SELECT 1 WHERE " + b" OR ".join([b"a=1"] * 100_000),
    "25,000 ORs": b"SELECT 1 WHERE " + b" OR ".join([b"a=1"] * 25_000),
    "50,000 statements": b"SELECT 1;" * 50_000,
    "20,000 joins": b"SELECT 1 FROM t" + b" JOIN t USING (a)" * 12_000,
    "50,000 comments": b"/**/ " * 50_000 + b"SELECT 1",
    "nested comments": b"/*" * 100_000 + b"*/" * 100_000 + b"SELECT 1",
    "200 KB string": b"SELECT '" + b"x" * 200_000 + b"'",
    "unterminated quotes": b"SELECT " + b"'a" * 60_001,
    "dollar quotes": b"SELECT " + b"$a$x$a$ " * 25_000,
    "WITH 5,000": b"WITH " + b",".join([b"c%d AS (SELECT 1)" % n for n in range(5_000)]) + b" SELECT 1",
    "200 KB of VALUES": b"INSERT INTO t VALUES " + b",".join([b"(1,2,'abc')"] * 17_000),
}


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _figures(values: list[float]) -> dict[str, float]:
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "max_ms": 1.0}
    return {"count": len(values), **{name: round(_percentile(values, share), 3) for name, share in shares.items()}}


class Small:
    """Small statements, one after the other, each new; their latencies in ms."""

    def __init__(self, pool: ClassifierPool) -> None:
        self._pool = pool
        self._number = 0
        self.refused = 0

    async def one(self) -> float:
        self._number += 1
        text = b"SELECT id, name FROM customers WHERE id = %d AND region = 'north'" % self._number
        started = time.perf_counter()
        report = await self._pool.classify("postgres", text, LexingState(), 150_000, "calm")
        self.refused += Kind.UNPARSABLE in report.kinds
        return (time.perf_counter() - started) * 1000


async def measure(repeat: int) -> dict[str, object]:
    """Run it all. repeat: how many hostile texts."""
    pool = ClassifierPool(PoolSettings(max_text_bytes=1 << 21))
    started = time.perf_counter()
    await pool.start()
    start_ms = (time.perf_counter() - started) * 1000
    small = Small(pool)
    for _ in range(200):
        await small.one()
    alone = [await small.one() for _ in range(3000)]
    hostile: dict[str, list[float]] = {name: [] for name in SHAPES}
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in SHAPES}

    async def attack() -> None:
        names = list(SHAPES)
        for number in range(repeat):
            name = names[number % len(names)]
            begun = time.perf_counter()
            report: Report = await pool.classify("postgres", SHAPES[name], LexingState(), 150_000, "hostile")
            hostile[name].append((time.perf_counter() - begun) * 1000)
            outcomes[name][report.reason if Kind.UNPARSABLE in report.kinds else "judged"] += 1

    during: list[float] = []
    attacking = asyncio.ensure_future(attack())
    while not attacking.done():
        during.append(await small.one())
        await asyncio.sleep(0.002)
    await attacking
    stats = {name: getattr(pool.stats, name) for name in pool.stats.__slots__}
    restarts = pool.restarts
    await pool.close()
    worst_ms = max(max(values) for values in hostile.values() if values)
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "start_ms": round(start_ms, 1),
        "alone": _figures(alone),
        "during_attack": _figures(during),
        "small_refused": small.refused,
        "hostile": {
            name: {**_figures(values), "outcome": dict(outcomes[name])} for name, values in hostile.items() if values
        },
        "hostile_total": sum(map(len, hostile.values())),
        "hostile_worst_ms": round(worst_ms, 1),
        "stats": stats,
        "restarts": restarts,
        "ok": worst_ms <= MAX_VERDICT_MS
        and _percentile(during, 0.99) <= MAX_OTHERS_P99_MS
        and small.refused == 0
        and restarts == 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Latency of others while one session sends hostile SQL.")
    parser.add_argument("--repeat", type=int, default=1000, help="hostile texts in a row")
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(arguments.repeat))
    print(json.dumps(result, indent=2))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
