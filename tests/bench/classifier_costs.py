"""What the classifier costs: a cache hit, a miss, its start-up and memory, and what hostile statements cost the others.

    make bench-classifier            or            python -m bench.classifier_costs [--repeat 1000] [--json FILE]

Miss: from the judge's question to the report, through the pool, each text a new one. Hit: look-up of the text and of the decision about it.
Hostile: bench.classifier_abuse, --repeat texts. Memory is resident, and proportional (shared pages divided by who shares them).
Exit 0 if all stays within the figures of issue 4: hit 3 µs, miss 1 ms at the median, start 1 s, others delayed 50 ms at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import time
import timeit
from pathlib import Path
from typing import Any

import uvloop
from bench.classifier_abuse import _figures, measure
from support.policies import context, shipped
from support.usage import children, memory_kib

from classifiers.effects import Kind, LexingState
from dbproxy.classifier.pool import ClassifierPool, PoolSettings
from dbproxy.judge import Judge, make_entry

MAX_HIT_US, MAX_MISS_MS, MAX_START_MS, MAX_DELAY_MS = 3.0, 1.0, 1000.0, 50.0
TYPICAL = {
    "point select": "SELECT id, name, email FROM customers WHERE id = {n}",
    "join": "SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.id > {n} ORDER BY o.id LIMIT 50",
    "insert": "INSERT INTO orders (customer_id, total, note) VALUES ({n}, 12.50, 'a note')",
    "update": "UPDATE orders SET total = total + 1, note = 'x' WHERE id = {n} AND customer_id IN (1, 2, 3)",
    "report": "SELECT c.region, count(*), sum(o.total) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.id > {n}"
    " GROUP BY c.region HAVING sum(o.total) > 100 ORDER BY 3 DESC LIMIT 20",
    "begin": "BEGIN /* {n} */",
    "set": "SET SESSION lock_wait_timeout = {n}",
}
STATE = LexingState()


async def measure_pool(count: int) -> dict[str, Any]:
    """Start-up, memory, misses by dialect, in one pool."""
    pool = ClassifierPool(PoolSettings(dialects=("postgres", "mysql")))
    started = time.perf_counter()
    await pool.start()
    start_ms = (time.perf_counter() - started) * 1000
    while pool.processes < pool.settings.processes + 1:
        await asyncio.sleep(0.005)
    all_ms = (time.perf_counter() - started) * 1000
    misses: dict[str, dict[str, float]] = {}
    number = 0
    for dialect in ("postgres", "mysql"):
        state = STATE if dialect == "postgres" else LexingState(encoding="UTF8MB4")
        version = 150_000 if dialect == "postgres" else 101_106
        everything: list[float] = []
        for name, text in TYPICAL.items():
            times: list[float] = []
            for _ in range(count):
                number += 1
                asked = time.perf_counter()
                report = await pool.classify(dialect, text.format(n=number).encode(), state, version, "bench")
                times.append((time.perf_counter() - asked) * 1000)
                assert Kind.UNPARSABLE not in report.kinds, report.reason
            misses[f"{dialect}: {name}"] = _figures(times[count // 10 :])
            everything += times[count // 10 :]
        misses[f"{dialect}: all"] = _figures(everything)
    pids = [pool.template_pid, *children(pool.template_pid)]
    memory = {
        "processes": len(pids),
        "resident_mib": round(sum(memory_kib(pid) for pid in pids) / 1024, 1),
        "proportional_mib": round(sum(map(_pss_kib, pids)) / 1024, 1),
    }
    hit_us = _measure_hit(pool)
    await pool.close()
    return {
        "hit_us": hit_us,
        "start_ms": round(start_ms, 1),
        "all_processes_ms": round(all_ms, 1),
        "memory": memory,
        "misses": misses,
    }


def _measure_hit(pool: ClassifierPool) -> float:
    """The best of several runs: what it costs, not what else the machine did."""
    judge = Judge(pool, shipped("default"), cache_bytes=1 << 20)
    text = TYPICAL["join"].format(n=1).encode()
    from classifiers.classify import classify

    judge.cache_for("postgres", STATE, 150_000)[text] = make_entry(text, classify("postgres", text, STATE, 150_000))
    here = context()

    def hit() -> None:
        entry = judge.cache_for("postgres", STATE, 150_000).get(text)
        assert entry is not None
        judge.rule(entry, here)

    number = 20_000
    return round(min(timeit.repeat(hit, number=number, repeat=7)) / number * 1e6, 2)


def _pss_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return memory_kib(pid)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=140, help="hostile texts")
    parser.add_argument("--count", type=int, default=300, help="texts of each sort")
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure_pool(options.count))
        abuse = runner.run(measure(options.repeat))
    during: Any = abuse["during_attack"]
    alone: Any = abuse["alone"]
    result["hostile"] = {
        "texts": abuse["hostile_total"],
        "slowest_answer_ms": abuse["hostile_worst_ms"],
        "others_alone": alone,
        "others_during": during,
        "others_delayed_p99_ms": round(during["p99_ms"] - alone["p50_ms"], 2),
        "others_delayed_max_ms": round(during["max_ms"] - alone["p50_ms"], 2),
    }
    result["machine"] = {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    misses = [figures["p50_ms"] for name, figures in result["misses"].items() if name.endswith(": all")]
    checks = {
        f"a cache hit takes at most {MAX_HIT_US:g} µs": result["hit_us"] <= MAX_HIT_US,
        f"a miss takes at most {MAX_MISS_MS:g} ms at the median": max(misses) <= MAX_MISS_MS,
        f"the pool starts within {MAX_START_MS:g} ms": result["start_ms"] <= MAX_START_MS,
        f"others are delayed by at most {MAX_DELAY_MS:g} ms": result["hostile"]["others_delayed_max_ms"]
        <= MAX_DELAY_MS,
    }
    result["checks"] = checks
    print(json.dumps(result, indent=1, ensure_ascii=False))
    if options.json:
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        Path(options.json).write_text(json.dumps(result) + "\n")
    for check, is_met in checks.items():
        print(f"{'ok    ' if is_met else 'MISSED'}  {check}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
