"""`make bench`: what dbproxy costs, beside HAProxy, PgBouncer and no proxy at all, in front of the same PostgreSQL.

    PYTHONPATH=tests python -m bench.run [--quick] [--rounds N] [--seconds N] [--only prepared-32] [--json FILE]

Every round starts the proxies anew and then runs each workload through all of them, one right after the other. It measures and does not judge: missed
targets are said, and the exit status is 0.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import sys
import sysconfig
import tempfile
import time
import timeit
from pathlib import Path

from bench import report
from bench.contenders import (
    DBPROXY,
    DIRECT,
    EVERYBODY,
    HAPROXY,
    PGBOUNCER,
    Contender,
    bench_server,
    find_tool,
    running_contenders,
    versions,
)
from bench.workloads import Measurement, Queries, Result, Workload, prepare

from dbproxy.embedded.binaries import find_binaries
from dbproxy.embedded.errors import EmbeddedServerError

SCHEMA = "dbproxy.bench/1"
_SCALE = 10
_AUDIT_WAIT_S = 10


def workloads_for(seconds: int, size_mb: int) -> tuple[Workload, ...]:
    return (
        *(Queries("prepared", clients, seconds) for clients in (1, 8, 32)),
        *(Queries("simple", clients, seconds) for clients in (8, 32)),
        Result(150, size_mb),
        Result(1024, size_mb),
    )


def say(line: str) -> None:
    print(line, flush=True)


class _Step:
    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count

    def following(self) -> _Step:
        return _Step(self.count + 1)


def python_step_ns() -> float:
    """What a method call that makes a small object costs. Builds of one Python differ by a third: distributions' are profile-guided."""
    return min(timeit.repeat("step.following()", globals={"step": _Step(1)}, number=100_000, repeat=7)) * 1e9 / 100_000


def machine() -> dict[str, object]:
    processor, memory_kib = "unknown", 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory_kib = int(line.split()[1])
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": memory_kib // 1024,
        "system": platform.platform(),
        "python": platform.python_version(),
        "python_build": str(sysconfig.get_config_var("CONFIG_ARGS")),
        "python_step_ns": round(python_step_ns(), 1),
        "uvloop": importlib.metadata.version("uvloop"),
    }


def one_round(
    contenders: list[Contender], programs: Path, workloads: tuple[Workload, ...], turn: int
) -> dict[str, dict[str, Measurement]]:
    """Each workload through all contenders. turn: who begins, so that nobody always follows the same one."""
    found: dict[str, dict[str, Measurement]] = {}
    for workload in workloads:
        first = turn % len(contenders)
        found[workload.name] = {}
        for contender in contenders[first:] + contenders[:first]:
            measured = found[workload.name][contender.name] = workload.measure(contender, programs)
            cpu = "" if measured.cpu_us is None else f"  {measured.cpu_us:8.1f} µs CPU per {workload.per}"
            memory = "" if measured.memory_kib is None else f"  {measured.memory_kib / 1024:+6.1f} MiB"
            say(f"    {workload.name:<12} {contender.name:<10} {measured.rate:>9,.0f} {workload.unit:<9}{cpu}{memory}")
    return found


def check_audit(
    contenders: list[Contender], found: dict[str, dict[str, Measurement]], queries: tuple[str, ...]
) -> int | None:
    """Audit was really on: two records of every query. Returns how many events dbproxy wrote; None if it did not take part."""
    written = None
    for contender in contenders:
        if contender.proxy is None:
            continue
        expected = 2 * sum(found[name][contender.name].queries for name in queries)
        deadline = time.monotonic() + _AUDIT_WAIT_S
        while (
            events := int(contender.proxy.metric("dbproxy_audit_events_total"))
        ) < expected:  # it follows twice a second
            if time.monotonic() > deadline:
                raise RuntimeError(f"{contender.name} wrote {events} audit events, at least {expected:.0f} were due")
            time.sleep(0.2)
        if contender.name == DBPROXY:
            written = events
    return written


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    workloads = tuple(
        each for each in workloads_for(arguments.seconds, arguments.size_mb) if arguments.only in (None, each.name)
    )
    query_names = tuple(each.name for each in workloads if isinstance(each, Queries))
    for name in (HAPROXY, PGBOUNCER):
        if find_tool(name) is None:
            say(f"missing {name}: left out; Debian and Ubuntu: apt-get install {name}")
    rounds: dict[str, dict[str, list[Measurement]]] = {each.name: {} for each in workloads}
    loads: list[tuple[float, float, float]] = []
    events: list[int | None] = []
    with bench_server(find_binaries()) as server, tempfile.TemporaryDirectory(prefix="dbproxy-bench-") as folder_name:
        folder = Path(folder_name)
        folder.chmod(0o755)
        programs = server.binaries.folder
        if int(server.version.split(".")[0]) < 17:
            say(f"psql {server.version} fetches large results through a cursor, not as one result: take 17 or later")
        say(f"PostgreSQL {server.version} ({server.binaries.source}); filling the database")
        prepare(Contender(DIRECT, server.port, None), programs, workloads, _SCALE)
        for number in range(arguments.rounds):
            with tempfile.TemporaryDirectory(prefix="round-", dir=folder) as round_name:
                Path(round_name).chmod(0o755)
                loads.append(os.getloadavg())
                say(
                    f"  round {number + 1} of {arguments.rounds}, load average {', '.join(f'{load:.2f}' for load in loads[-1])}"
                )
                with running_contenders(server, Path(round_name)) as contenders:
                    found = one_round(contenders, programs, workloads, number)
                    events.append(check_audit(contenders, found, query_names))
            for workload, by_contender in found.items():
                for name in EVERYBODY:
                    if name in by_contender:
                        rounds[workload].setdefault(name, []).append(by_contender[name])
        known_versions = versions(server)
    judged = report.judged_targets(rounds)
    say(report.table(rounds, workloads))
    say("\n" + "\n".join(report.target_lines(judged)))
    return {
        "schema": SCHEMA,
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": known_versions,
        "set_up": {
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "scale": _SCALE,
            "legs": "TCP on 127.0.0.1, no TLS, everything on the same machine",
            "haproxy": "TCP mode, one thread",
            "pgbouncer": "session pooling, as dbproxy has one server connection per session; trust. Transaction pooling is not "
            "compared: before 1.21 PgBouncer cannot carry prepared statements in it",
            "relay": "dbproxy's event loop (uvloop) passing bytes on unread: the floor, not a competitor",
            "dbproxy": "builtin:default and four more rules, audit on with digests of parameters, default limits; SCRAM for clients",
            "single": "dbproxy with one worker and without signed checkpoints",
            "results": "psql, one SELECT read in chunks, printed to /dev/null",
        },
        "load_average": loads,
        "audit_events": events,
        "results": report.results(rounds, workloads),
        "targets": judged,
    }


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="What dbproxy costs, beside HAProxy, PgBouncer and no proxy."
    )
    parser.add_argument("--quick", action="store_true", help="a first impression: 2 rounds of 3 s, results of 250 MB")
    parser.add_argument("--rounds", type=int, help="how often everything is run (default 5)")
    parser.add_argument("--seconds", type=int, help="of each pgbench run that count (default 8)")
    parser.add_argument("--only", choices=[each.name for each in workloads_for(1, 1)], help="one workload")
    parser.add_argument("--json", type=Path, default=Path("reports/bench.json"), help="where the figures go")
    arguments = parser.parse_args(words)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.seconds = max(2, arguments.seconds or (3 if arguments.quick else 8))
    arguments.size_mb = 250 if arguments.quick else 1000
    return arguments


def main() -> int:
    arguments = parsed(sys.argv[1:])
    try:
        result = measure(arguments)
    except (EmbeddedServerError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    say(f"\nfigures: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
