"""What a record costs, and what the levels of durability cost through a whole proxy.

    PYTHONPATH=.:tests python tests/bench/bench_ledger.py            processor time of linking, writing and compressing a record
    PYTHONPATH=.:tests python tests/bench/bench_ledger.py --proxy    statements a second and latency at 64 sessions, direct and at each level
    PYTHONPATH=.:tests python tests/bench/bench_ledger.py --paced    the same with 2,000 statements a second asked for: what the levels add

The last two need a server (the embedded one will do) and take about a minute each.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import asyncpg
from support.proxy import running_proxy
from support.servers import PostgresServer, fresh_database, newest_postgres

from dbproxy.audit.chain import Chain, Item
from dbproxy.audit.compress import compress_segment
from dbproxy.audit.ledger import Ledger
from dbproxy.audit.types import EventType

RECORDS, ROUNDS, SESSIONS, SECONDS = 20_000, 5, 64, 5.0
PACE = 2000 if "--paced" in sys.argv else 0
"""Statements a second of all sessions together, 0: as fast as they can."""
INTENT = (
    b'"person":"alice","account":"app","server_user":"app","database":"shop","target":"shop","env":"prod","listener":"main",'
    b'"client":"127.0.0.1:50000","tls":"TLSv1.3","application":"pgbench","act":"execute","sql":"SELECT abalance FROM pgbench_accounts WHERE aid = $1",'
    b'"sql_sha256":"9a415ca203c434117d0bf38ef5641ba931a63ce47574511e09399621d5a4ee0e","sql_bytes":51,"redacted":false,"kinds":["dml_read"],'
    b'"flags":[],"reads":["pgbench_accounts"],"writes":[],"functions":[],"command":"SELECT","action":"allow","rules":[],'
    b'"policy":"9a415ca203c434117d0bf38ef5641ba931a63ce47574511e09399621d5a4ee0e","parameters":[{"type":"int4","size":4,"digest":"'
    b'9a415ca203c434117d0bf38ef5641ba931a63ce47574511e09399621d5a4ee0e"}]'
)
OUTCOME = b'"status":"ok","rows":1,"received_bytes":71,"sent_bytes":0,"duration_ms":0.833,"tag":"SELECT 1"'


def cost_of_records() -> None:
    """Processor time per record, the best of several rounds: an intent and an outcome for each statement, batches as in a busy loop turn."""
    link, both, compress = [], [], []
    for _ in range(ROUNDS):
        items: list[Item] = []
        for number in range(RECORDS // 2):
            items.append((time.time_ns(), EventType.STATEMENT_INTENT.value, ("0123456789abcdef", number), INTENT))
            items.append((time.time_ns(), EventType.STATEMENT_OUTCOME.value, ("0123456789abcdef", number), OUTCOME))
        chain = Chain(0, b"0" * 64)
        began = time.process_time()
        for at in range(0, RECORDS, 20):
            b"".join(chain.link(items[at : at + 20]))
        link.append(time.process_time() - began)
        with tempfile.TemporaryDirectory() as folder:
            ledger = Ledger(
                Path(folder),
                segment_bytes=1 << 30,
                reserve_bytes=1 << 20,
                now_ns=time.time_ns,
                monotonic_ns=time.monotonic_ns,
            )
            ledger.open()
            began = time.process_time()
            for number in range(0, RECORDS // 2, 10):
                for each in range(number, number + 10):
                    ledger.intent(("0123456789abcdef", each), INTENT)
                for each in range(number, number + 10):
                    ledger.outcome(("0123456789abcdef", each), OUTCOME)
                ledger.flush()
            both.append(time.process_time() - began)
            ledger.close("done")
            began = time.process_time()
            path = compress_segment(next(Path(folder).glob("*.jsonl")))
            compress.append((time.process_time() - began) / RECORDS * 1e6)
            size = path.stat().st_size / RECORDS
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {RECORDS} records of {(len(INTENT) + len(OUTCOME)) // 2 + 230} bytes"
    )
    print(f"link            {min(link) / RECORDS * 1e6:6.2f} µs a record")
    print(f"take+link+write {min(both) / RECORDS * 1e6:6.2f} µs a record")
    print(
        f"compress        {min(compress):6.2f} µs a record, at idle priority in a process of its own; {size:.0f} bytes left"
    )


async def load(address: dict[str, object], text: str) -> tuple[float, list[float]]:
    """Statements a second, and latencies in ms."""
    connections = [
        await asyncpg.connect(
            host="127.0.0.1",
            port=address["port"],
            user=address["user"],
            password=address["password"],
            database=address["dbname"],
            ssl=False,
        )
        for _ in range(SESSIONS)
    ]
    latencies: list[float] = []
    until = time.monotonic() + SECONDS

    async def run(connection: asyncpg.Connection, number: int) -> None:
        prepared = await connection.prepare(text)
        due = time.perf_counter() + number / max(PACE, 1)
        while time.monotonic() < until:
            if PACE:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due = max(due + SESSIONS / PACE, time.perf_counter() - 1)
            began = time.perf_counter()
            await prepared.fetch(7)
            latencies.append((time.perf_counter() - began) * 1e3)

    began = time.monotonic()
    await asyncio.gather(*(run(each, number) for number, each in enumerate(connections)))
    took = time.monotonic() - began
    await asyncio.gather(*(each.close() for each in connections))
    return len(latencies) / took, sorted(latencies)


def cost_through_a_proxy() -> None:
    with newest_postgres(lambda _: None) as server, fresh_database(server, "bench_ledger") as database:
        with database.connect() as connection:
            connection.execute("CREATE TABLE notes (id int, body text)")
            connection.execute("INSERT INTO notes SELECT n, 'note' FROM generate_series(1, 100) n")
        server.execute(
            "ALTER SYSTEM SET log_statement = 'none'",
            "ALTER SYSTEM SET synchronous_commit = off",
            "SELECT pg_reload_conf()",
        )
        texts = {
            "reads": "SELECT body FROM notes WHERE id = $1",
            "writes": "UPDATE notes SET body = 'x' WHERE id = $1 + 1000",
        }
        print(f"{SESSIONS} sessions, prepared statements, {SECONDS:.0f} s each; median and 99th percentile in ms")
        for what, text in texts.items():
            show(f"{what} direct", asyncio.run(load(server.address(database.name), text)))
            for durability in ("written", "tiered", "durable"):
                with (
                    tempfile.TemporaryDirectory() as folder,
                    proxied(Path(folder), server, database.name, durability) as proxy,
                ):
                    show(f"{what} {durability}", asyncio.run(load(proxy.address("alice", database.name), text)))


def proxied(folder: Path, server: PostgresServer, database: str, durability: str):  # type: ignore[no-untyped-def] # running_proxy's own type
    def change(settings: dict[str, object]) -> None:
        settings["audit"] = {"directory": os.environ.get("LEDGER", "ledger"), "durability": durability}
        settings["limits"] = {"max_sessions_per_user": 500, "max_sessions_per_address": 500}

    return running_proxy(folder / "proxy", server, database=database, change=change)


def show(what: str, found: tuple[float, list[float]]) -> None:
    rate, latencies = found
    print(f"{what:16} {rate:8.0f}/s  {median(latencies):7.2f}  {latencies[int(len(latencies) * 0.99)]:7.2f}")


if __name__ == "__main__":
    cost_through_a_proxy() if PACE or "--proxy" in sys.argv else cost_of_records()
