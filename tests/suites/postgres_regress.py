"""PostgreSQL's own regression statements, read by the classifier and by PostgreSQL's grammar (pglast), and compared.

    make suite-postgres-sql CHECKOUT=/path/to/postgres/src/test/regress/sql

Any folder with psql scripts will do; nothing is run on a server but questions for the names of built-in functions. Each statement is
read alone, and in groups of five in one message. Full list of what differs: reports/suites/postgres-sql.json.
Ends with status 0 if no statement with effects is called a plain read, no count of statements is wrong, at most 0.01 % of the
statements with tables lack one, and at most 3 % of what the grammar takes is unparsable.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from support.classifier_truth import compare, fresh_findings, is_plain_read
from support.figures import report
from support.postgres_oracle import Truth, read_truth
from support.psql_script import split_script
from support.servers import newest_postgres

from classifiers.classify import classify
from classifiers.effects import Kind, LexingState, Report

ROOT = Path(__file__).resolve().parents[2]
MAX_MISSED_SHARE = 0.0001
MAX_UNPARSABLE_SHARE = 0.03
HARMLESS_VOLATILE = frozenset(
    """random random_normal setseed array_sample array_shuffle clock_timestamp timeofday gen_random_uuid uuidv4 uuidv7 currval lastval
    current_setting version pg_backend_pid pg_is_in_recovery pg_current_wal_lsn pg_current_wal_insert_lsn pg_current_wal_flush_lsn
    pg_conf_load_time pg_control_checkpoint pg_control_init pg_control_recovery pg_control_system pg_notification_queue_usage
    pg_partition_ancestors pg_partition_tree pg_relation_size pg_stat_clear_snapshot pg_stat_force_next_flush pg_xact_status
    txid_status""".split()  # noqa: SIM905 -- a word list
)
"""Volatile because they answer otherwise each time, not because they do anything."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a folder with *.sql files")
    parser.add_argument("--show", type=int, default=3, help="examples of each finding")
    options = parser.parse_args()
    logging.getLogger("sqlglot").disabled = True
    files = sorted(options.checkout.glob("*.sql"))
    if not files:
        raise SystemExit(f"{options.checkout} holds no *.sql file: give PostgreSQL's src/test/regress/sql")
    with newest_postgres(print) as server:
        volatile = {
            str(name): bool(is_volatile)
            for name, is_volatile in server.fetch(
                "select proname, bool_or(provolatile = 'v') from pg_proc where pronamespace = 'pg_catalog'::regnamespace group by 1"
            )
        }
    counts: Counter[str] = Counter()
    findings = fresh_findings()
    started = time.monotonic()
    slowest = (0.0, "")
    for path in files:
        accepted: list[tuple[str, Truth]] = []
        for text in split_script(path.read_text(errors="surrogateescape")):
            counts["statements"] += 1
            truth = read_truth(text)
            if truth is None:
                counts["refused by the grammar"] += 1
                continue
            accepted.append((text, truth))
            before = time.process_time()
            said = _classify(text)
            slowest = max(slowest, (time.process_time() - before, f"{path.name}: {text.strip()[:80]}"))
            counts["alone"] += 1
            counts["unparsable"] += Kind.UNPARSABLE in said.kinds
            counts["dynamic"] += Kind.DYNAMIC in said.kinds
            counts["with tables"] += bool(truth.tables)
            compare(findings, path.name, text, truth, said)
            _check_functions(findings, path.name, text, truth, said, volatile)
        for group in _groups(accepted):
            text = ";".join(each for each, _ in group)
            truth = read_truth(text)
            if truth is not None:
                counts["groups"] += 1
                said = _classify(text)
                counts["groups unparsable"] += Kind.UNPARSABLE in said.kinds
                compare(findings, path.name, text, truth, said)
    target = ROOT / "reports" / "suites" / "postgres-sql.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"counts": counts, "findings": findings}, indent=1) + "\n")
    return _say(counts, findings, slowest, time.monotonic() - started, options.show)


def _classify(text: str) -> Report:
    return classify("postgres", text.encode("utf-8", "surrogateescape"), LexingState())


def _groups(accepted: list[tuple[str, Truth]]) -> list[list[tuple[str, Truth]]]:
    return [accepted[at : at + 5] for at in range(0, len(accepted), 5)]


def _check_functions(
    findings: dict[str, list[Any]], place: str, text: str, truth: Truth, said: Report, volatile: dict[str, bool]
) -> None:
    """A called function that PostgreSQL does not have, or that does something, must not be part of a plain read."""
    if is_plain_read(said):
        for name in truth.functions:
            if name not in volatile:
                findings["unknown function in a plain read"].append([place, name, text])
            elif volatile[name] and name not in HARMLESS_VOLATILE and "explain" not in said.flags:
                findings["volatile function in a plain read"].append([place, name, text])


def _say(
    counts: Counter[str], findings: dict[str, list[Any]], slowest: tuple[float, str], took_s: float, show: int
) -> int:
    for name, number in counts.items():
        print(f"{number:7} {name}")
    print(f"{took_s:7.0f} s in all; slowest {slowest[0] * 1000:.0f} ms: {slowest[1]}")
    choose = random.Random(1)
    for name, found in findings.items():
        print(f"{len(found):7} {name}")
        for each in choose.sample(found, min(show, len(found))):
            print("         ", [str(part)[:300] for part in each])
    missed_share = len(findings["tables missed"]) / max(1, counts["with tables"])
    unparsable_share = counts["unparsable"] / max(1, counts["alone"])
    plain = sum(len(found) for name, found in findings.items() if "plain read" in name)
    print(f"missed tables {missed_share:.4%} of statements with tables, unparsable {unparsable_share:.2%}")
    is_good = (
        not plain
        and not findings["wrong statement count"]
        and missed_share <= MAX_MISSED_SHARE
        and unparsable_share <= MAX_UNPARSABLE_SHARE
    )
    report(
        "F.corpus.postgres",
        "PostgreSQL's regression statements: effects called a plain read, or wrong statement counts",
        count=counts["alone"] + counts["groups"],
        failures=plain + len(findings["wrong statement count"]),
        missed_tables=len(findings["tables missed"]),
        unparsable=counts["unparsable"],
        dynamic=counts["dynamic"],
        slowest_ms=round(slowest[0] * 1000, 1),
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
