"""MySQL's part of the comparison: sysbench's oltp_point_select on MariaDB directly, through HAProxy and through dbproxy, interleaved.

Without sysbench threads with PyMySQL ask the same; then Python's own pace is measured with it, and the report says so.
Counterpart: run.py, PostgreSQL's.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
from bench.contenders import COMPILED_TREE, DBPROXY, DIRECT, HAPROXY, POLICY, _daemon, find_tool, version_of
from support.my_proxy import running_mysql_proxy
from support.my_servers import MySQLServer, running_mariadb
from support.proxy import PEOPLE_PASSWORDS
from support.requirements import find_mariadb
from support.servers import PASSWORDS

from dbproxy.embedded.errors import EmbeddedServerError

DATABASE = "test_bench"
ROWS = 10_000
TARGET = 0.6
"""Of HAProxy's throughput."""


@dataclass(frozen=True)
class Way:
    """A way to the server, without TLS."""

    name: str
    port: int
    user: str
    password: str = field(repr=False)


@contextlib.contextmanager
def ways(server: MySQLServer, folder: Path) -> Iterator[list[Way]]:
    """Direct, HAProxy if it is installed, and the compiled dbproxy with its default policy and audit on."""
    found = [Way(DIRECT, server.port, "app", PASSWORDS["app"])]

    def plain(settings: dict[str, Any]) -> None:
        settings["policies"]["files"].insert(0, "builtin:default")
        settings["targets"][0]["tls"] = {"mode": "disable"}
        settings["audit"].pop("parameters", None)

    with contextlib.ExitStack() as stack:
        if find_tool(HAPROXY):
            port, path = _free_port(), folder / "haproxy.cfg"
            path.write_text(
                "global\n  maxconn 1000\n  nbthread 1\n"
                "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n"
                f"listen mysql\n  bind 127.0.0.1:{port}\n  server mysql 127.0.0.1:{server.port}\n"
            )
            stack.enter_context(_daemon([find_tool(HAPROXY), "-db", "-f", path], folder / "haproxy.log", port))
            found.append(Way(HAPROXY, port, "app", PASSWORDS["app"]))
        if not COMPILED_TREE.is_dir():
            raise RuntimeError(f"{COMPILED_TREE} is missing: run `make compiled`")
        proxy = stack.enter_context(
            running_mysql_proxy(
                folder / "proxy", server, policy=POLICY, database=DATABASE, change=plain, tree=COMPILED_TREE
            )
        )
        found.append(Way(DBPROXY, proxy.proxy.port, "alice", PEOPLE_PASSWORDS["alice"]))
        yield found


def sysbench(way: Way, command: str, threads: int, seconds: int) -> float:
    """Queries a second; 0 for other commands than `run`."""
    words = [
        str(find_tool("sysbench")),
        "oltp_point_select",
        "--db-driver=mysql",
        "--mysql-host=127.0.0.1",
        f"--mysql-port={way.port}",
        f"--mysql-user={way.user}",
        f"--mysql-password={way.password}",  # of a throw-away server
        f"--mysql-db={DATABASE}",
        "--tables=1",
        f"--table-size={ROWS}",
        f"--threads={threads}",
        f"--time={seconds}",
        command,
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 120)
    if done.returncode:
        raise RuntimeError(f"sysbench failed through {way.name}:\n{done.stdout[-1500:]}{done.stderr[-500:]}")
    found = re.search(r"queries:\s+\d+\s+\(([\d.]+) per sec", done.stdout)
    return float(found[1]) if found else 0.0


def driver_loop(way: Way, threads: int, seconds: int) -> float:
    """The same with PyMySQL."""
    counts = [0] * threads
    deadline = time.monotonic() + seconds

    def ask(number: int) -> None:
        connection = pymysql.connect(
            host="127.0.0.1", port=way.port, user=way.user, password=way.password, database=DATABASE, ssl_disabled=True
        )
        with contextlib.closing(connection), connection.cursor() as cursor:
            while time.monotonic() < deadline:
                cursor.execute("select c from sbtest1 where id = %s", (1 + counts[number] % ROWS,))
                cursor.fetchall()
                counts[number] += 1

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / seconds


def measure(rounds: int, seconds: int, threads: tuple[int, ...]) -> dict[str, Any]:
    has_sysbench = find_tool("sysbench") is not None
    figures: dict[int, dict[str, list[float]]] = {each: {} for each in threads}
    with tempfile.TemporaryDirectory(prefix="dbproxy-bench-mysql-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "tls").mkdir()
        with running_mariadb(folder / "tls", "--general-log=0", "--max-connections=300") as server:
            server.execute(f"create database {DATABASE}")
            server.execute(
                "create table sbtest1 (id int primary key auto_increment, k int not null default 0, "
                "c char(120) not null default '', pad char(60) not null default '', key k_1 (k))",
                f"insert into sbtest1 (k, c, pad) select seq, repeat('c', 120), repeat('p', 60) from seq_1_to_{ROWS}",
                database=DATABASE,
            )
            with ways(server, folder) as found:
                for number in range(rounds):
                    for count in threads:
                        for way in found[number % len(found) :] + found[: number % len(found)]:
                            rate = (
                                sysbench(way, "run", count, seconds)
                                if has_sysbench
                                else driver_loop(way, count, seconds)
                            )
                            figures[count].setdefault(way.name, []).append(rate)
            version = server.version
    medians = {
        str(count): {name: round(statistics.median(rates)) for name, rates in by_name.items()}
        for count, by_name in figures.items()
    }
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "load": "sysbench oltp_point_select" if has_sysbench else "PyMySQL in threads: Python's own pace is in it",
        "versions": {"mariadb": version, HAPROXY: version_of(HAPROXY), "sysbench": version_of("sysbench")},
        "set_up": {
            "rounds": rounds,
            "seconds": seconds,
            "rows": ROWS,
            "legs": "TCP on 127.0.0.1, no TLS",
            "cpus": os.cpu_count(),
        },
        "load_average": os.getloadavg(),
        "queries_per_s": medians,
        "all": {str(count): by_name for count, by_name in figures.items()},
        "ratios": {count: _ratios(by_name) for count, by_name in medians.items()},
    }


def _ratios(by_name: dict[str, int]) -> dict[str, float]:
    return {
        f"dbproxy / {other}": round(by_name[DBPROXY] / by_name[other], 2)
        for other in (DIRECT, HAPROXY)
        if by_name.get(other)
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.mysql", description="What dbproxy costs in front of MariaDB.")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 3 s")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("reports/bench-mysql.json"))
    arguments, _ = parser.parse_known_args()  # what is meant for run.py alone is not for us
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    seconds = arguments.seconds or (3 if arguments.quick else 8)
    if find_mariadb("mariadbd") is None:
        print("MariaDB is left out: install Debian's packages mariadb-server-core and sysbench")
        return 0
    try:
        result = measure(rounds, seconds, (1, 16))
    except (EmbeddedServerError, RuntimeError) as error:
        print(f"bench.mysql: {error}", file=sys.stderr)
        return 1
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"MariaDB {result['versions']['mariadb']}, {result['load']}, queries a second")
    for count, by_name in result["queries_per_s"].items():
        print(f"  {count:>3} threads: {by_name}  {result['ratios'][count]}")
    at_16 = result["ratios"]["16"].get(f"dbproxy / {HAPROXY}")
    if at_16 is not None:
        print(f"  target >= {TARGET} x HAProxy at 16 threads: {'met' if at_16 >= TARGET else 'not met'}")
    print(f"figures: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
