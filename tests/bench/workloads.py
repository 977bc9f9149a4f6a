"""What is asked of each contender: pgbench's read-only transaction, and one result of about 1 GB.

Of a pgbench run only the time between its first and its last progress line counts: logins and the first second are left out,
of the rate and of the CPU time alike. A result is fetched by psql, which reads it in chunks (FETCH_COUNT, one plain SELECT as of
psql 17) and prints it to /dev/null; its time is that of the whole psql.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import Contender
from bench.processes import Cpu, cpu_of, peak_kib, reset_peak

_PROGRESS = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps, lat ([\d.]+) ms")
_PASSES = 100
"""A result repeats its table this often, so that the server's part is cheap and the table stays in its cache."""
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Measurement:
    """One run. rate: queries per second, or MB of row data per second. queries: how many it counts (or MB).

    cpu: of the proxy and its children, user and system, in µs per query or per MB; None for the direct way. memory_kib: by how much
    the peak of its resident memory exceeded what was resident before; None where it is not measured.
    """

    rate: float
    queries: float
    latency_ms: float | None = None
    cpu_user_us: float | None = None
    cpu_system_us: float | None = None
    memory_kib: int | None = None

    @property
    def cpu_us(self) -> float | None:
        return None if self.cpu_user_us is None or self.cpu_system_us is None else self.cpu_user_us + self.cpu_system_us


@dataclass(frozen=True)
class Queries:
    """pgbench -S. mode: prepared or simple (in which every text is a new one)."""

    mode: str
    clients: int
    seconds: int

    unit = "queries/s"
    per = "query"

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.clients}"

    @property
    def title(self) -> str:
        clients = "1 client" if self.clients == 1 else f"{self.clients} clients"
        return f"pgbench -S -M {self.mode}, {clients}"

    def measure(self, contender: Contender, programs: Path) -> Measurement:
        command = [
            programs / "pgbench", "--no-vacuum", "--select-only", f"--protocol={self.mode}", f"--client={self.clients}",
            f"--jobs={min(self.clients, 2)}", f"--time={self.seconds + 1}", "--progress=1", "--progress-timestamp",
        ]  # fmt: skip
        with subprocess.Popen(
            [str(word) for word in command],
            env=contender.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                found, said = _follow(process, contender.pid)
                status = process.wait(_TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
        if status or found is None:
            raise RuntimeError(f"pgbench through {contender.name} ended with status {status}:\n{said}")
        return found


def _follow(process: subprocess.Popen[str], pid: int | None) -> tuple[Measurement | None, str]:
    """Read pgbench's progress to its end. Returns what was measured, None if too little, and what else it said."""
    said: list[str] = []
    queries = elapsed_s = waited_ms = 0.0
    last: float | None = None
    before = after = Cpu(0, 0)
    for line in process.stderr or ():
        match = _PROGRESS.match(line)
        if match is None:
            said.append(line)
            continue
        now, tps, latency_ms = map(float, match.groups())
        after = cpu_of(pid) if pid is not None else after
        if last is None:
            before = after
        else:
            queries += tps * (now - last)
            waited_ms += latency_ms * tps * (now - last)
            elapsed_s += now - last
        last = now
    if not queries:
        return None, "".join(said[-20:])
    cpu = after.since(before)
    found = Measurement(
        rate=queries / elapsed_s,
        queries=queries,
        latency_ms=waited_ms / queries,
        cpu_user_us=cpu.user_s * 1e6 / queries if pid is not None else None,
        cpu_system_us=cpu.system_s * 1e6 / queries if pid is not None else None,
    )
    return found, "".join(said)


@dataclass(frozen=True)
class Result:
    """One SELECT whose rows, of row_bytes each, sum up to about size_mb (10^6 bytes)."""

    row_bytes: int
    size_mb: int

    unit = "MB/s"
    per = "MB"

    @property
    def name(self) -> str:
        return f"result-{self.row_bytes}"

    @property
    def title(self) -> str:
        return f"one result of {self.size_mb} MB, rows of {self.row_bytes} bytes"

    @property
    def _table(self) -> str:
        return f"bench_rows_{self.row_bytes}"

    @property
    def _rows(self) -> int:
        return self.size_mb * 1_000_000 // self.row_bytes // _PASSES

    @property
    def setup_sql(self) -> str:
        return (
            f"create table {self._table} as select n as id, repeat('x', {self.row_bytes - 8}) as payload "
            f"from generate_series(10000000, {10_000_000 + self._rows - 1}) as n"
        )

    def measure(self, contender: Contender, programs: Path) -> Measurement:
        sql = f"select r.id, r.payload from generate_series(1, {_PASSES}) as pass, {self._table} as r"
        before_kib, before = 0, Cpu(0, 0)
        if contender.pid is not None:
            before_kib, before = reset_peak(contender.pid), cpu_of(contender.pid)
        started = time.perf_counter()
        run([programs / "psql", "-X", "-A", "-t", "-v", "FETCH_COUNT=1000", "-o", "/dev/null", "-c", sql], contender)
        elapsed_s = time.perf_counter() - started
        size_mb = self._rows * self.row_bytes * _PASSES / 1e6
        if contender.pid is None:
            return Measurement(size_mb / elapsed_s, size_mb)
        cpu = cpu_of(contender.pid).since(before)
        return Measurement(
            rate=size_mb / elapsed_s,
            queries=size_mb,
            cpu_user_us=cpu.user_s * 1e6 / size_mb,
            cpu_system_us=cpu.system_s * 1e6 / size_mb,
            memory_kib=peak_kib(contender.pid) - before_kib,
        )


Workload = Queries | Result


def run(command: list[str | Path], contender: Contender) -> None:
    """Run a libpq program against a contender. Raises RuntimeError with what it said if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env=contender.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} through {contender.name} failed:\n{done.stderr[-2000:]}")


def prepare(direct: Contender, programs: Path, workloads: tuple[Workload, ...], scale: int) -> None:
    """Fill the database, directly."""
    run([programs / "pgbench", "--initialize", "--quiet", f"--scale={scale}"], direct)
    for workload in workloads:
        if isinstance(workload, Result):
            run([programs / "psql", "-X", "-q", "-c", workload.setup_sql], direct)
    run([programs / "psql", "-X", "-q", "-c", "vacuum analyze"], direct)
