"""`make profile`: where dbproxy's event loop spends the CPU time of one prepared query, 32 clients at once.

    PYTHONPATH=tests python -m bench.profile [--seconds N] [--top N] [--lines | --calls]

By default the proxy is sampled at even steps of its CPU time (cpu_sampler.py); the shares are turned into µs by the CPU time that /proc
tells. --calls runs it under cProfile instead: that counts calls, but makes short functions look more expensive than they are, and
takes wall-clock time. Time in C code (hashing, encoding, system calls) counts for the Python function that called it.
"""

from __future__ import annotations

import argparse
import os
import pstats
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.contenders import DIRECT, Contender, bench_server, running_dbproxy
from bench.processes import cpu_of
from bench.workloads import Queries, prepare

from dbproxy.embedded.binaries import find_binaries
from dbproxy.embedded.errors import EmbeddedServerError
from dbproxy.embedded.server import EmbeddedPostgres

_ROOT = Path(__file__).resolve().parents[2]
_SAMPLER = Path(__file__).with_name("cpu_sampler.py")
_PROFILER = Path(__file__).with_name("worker_profiler.py")
_LEAD_IN_S = 2
_WRITE_TIMEOUT_S = 10


class Line(NamedTuple):
    """One place. own_us, with_callees_us: per query."""

    place: str
    own_us: float
    with_callees_us: float
    calls: float | None = None


def sampled(server: EmbeddedPostgres, folder: Path, queries: Queries, *, by_line: bool) -> Iterator[Line | str]:
    """Sample the proxy while clients are at work. Yields remarks, then places by own time."""
    output = folder / "stacks.txt"
    with running_dbproxy(server, folder, launcher=(str(_SAMPLER), str(output)), workers=1) as contender:
        if contender.proxy is None or contender.pid is None:
            raise RuntimeError("dbproxy was not started")
        (pid,) = contender.proxy.processes("worker")
        # Begin when all clients have logged in, end before the first one leaves.
        timers = [
            threading.Timer(after_s, os.kill, (pid, signal.SIGUSR2))
            for after_s in (_LEAD_IN_S, _LEAD_IN_S + queries.seconds)
        ]
        for timer in timers:
            timer.start()
        longer = Queries(queries.mode, queries.clients, queries.seconds + 2 * _LEAD_IN_S)
        measured = longer.measure(contender, server.binaries.folder)
        share = cpu_of(pid, with_children=False).total_s / cpu_of(contender.pid).total_s
        deadline = time.monotonic() + _WRITE_TIMEOUT_S
        while not output.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("the sampler has written nothing")
            time.sleep(0.05)
    yield (
        f"{measured.rate:,.0f} queries/s; CPU per query {measured.cpu_us:.1f} µs: "
        f"user {measured.cpu_user_us:.1f}, system {measured.cpu_system_us:.1f}; {share:.0%} of it in the event loop's process"
    )
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in output.read_text().splitlines():
        count, _, stack = line.partition(" ")
        frames = [_place(*frame.split(":"), by_line=by_line) for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for each in set(frames):
            within[each] += int(count)
    total = sum(own.values())
    yield f"{total} samples"
    us_per_sample = (measured.cpu_us or 0) * share / total
    for name, samples in own.most_common():
        yield Line(name, samples * us_per_sample, within[name] * us_per_sample)


def counted(server: EmbeddedPostgres, folder: Path, queries: Queries) -> Iterator[Line | str]:
    """Run the proxy under cProfile. Yields a remark, then functions by own time."""
    output = folder / "profile.out"
    with running_dbproxy(server, folder, launcher=(str(_PROFILER), str(output)), workers=1) as contender:
        measured = queries.measure(contender, server.binaries.folder)
        if contender.proxy is None:
            raise RuntimeError("dbproxy was not started")
        contender.proxy.stop()  # writes the profile
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]]
    stats = pstats.Stats(str(output)).stats  # type: ignore[attr-defined] # not in the stubs, and the only way to the numbers
    # Every query is judged once: this tells how many there were, the first second's and the logins' included.
    judged = sum(each[1] for (file, _, name), each in stats.items() if name == "judge" and file.endswith("session.py"))
    yield f"{measured.rate:,.0f} queries/s under cProfile, {judged} queries; the profiler's own cost is in all figures"
    for (file, line, name), (_, calls, own_s, within_s, _) in sorted(stats.items(), key=lambda each: -each[1][2]):
        place = _place(file, str(line), name, by_line=False)
        yield Line(place, own_s / judged * 1e6, within_s / judged * 1e6, calls / judged)


def _place(file: str, line: str, name: str, *, by_line: bool) -> str:
    """What is shown for a frame, the file relative to the project or to where packages are."""
    file = re.sub(r"^.*/(?:site-packages|lib/python3\.\d+)/", "", file.removeprefix(f"{_ROOT}/"))
    return " ".join(filter(None, [f"{file}:{line}" if by_line and line else file, name]))


def show(found: Iterator[Line | str], top: int) -> None:
    lines: list[Line] = []
    for each in found:
        if isinstance(each, str):
            print(each)
        else:
            lines.append(each)
    print(f"\n{'own µs':>8} {'with callees':>13} {'calls':>7}   per query")
    for line in lines[:top]:
        calls = "" if line.calls is None else f"{line.calls:.2f}"
        print(f"{line.own_us:>8.2f} {line.with_callees_us:>13.2f} {calls:>7}   {line.place}")
    rest = sum(line.own_us for line in lines[top:])
    print(f"{rest:>8.2f} {'':>13} {'':>7}   the other {max(0, len(lines) - top)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="profile", description="Where dbproxy spends the time of one query.")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--mode", choices=["prepared", "extended", "simple"], default="prepared")
    parser.add_argument("--top", type=int, default=30)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--lines", action="store_true", help="by line instead of by function")
    how.add_argument("--calls", action="store_true", help="cProfile: with numbers of calls")
    arguments = parser.parse_args()
    queries = Queries(arguments.mode, arguments.clients, arguments.seconds)
    try:
        with bench_server(find_binaries()) as server, tempfile.TemporaryDirectory(prefix="dbproxy-profile-") as name:
            prepare(Contender(DIRECT, server.port, None), server.binaries.folder, (), 10)
            if arguments.calls:
                show(counted(server, Path(name), queries), arguments.top)
            else:
                show(sampled(server, Path(name), queries, by_line=arguments.lines), arguments.top)
    except (EmbeddedServerError, RuntimeError) as error:
        print(f"profile: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
