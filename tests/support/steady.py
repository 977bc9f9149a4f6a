"""A stream of small statements in a process of its own, which nothing that a test does can hold up: what does somebody else notice?

    with Steady(proxy.address("bob")) as others:
        ...
    others.seen.p99_ms

As a program it is that process: takes its orders as JSON from standard input, ends when that is closed, says what it saw on standard output.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from support.raw_client import RawClient, errors

_TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Seen:
    """statements, logins: how many; failures: the first few errors. longest_gap_ms: without any answer, from one to the next or to the end."""

    statements: int = 0
    logins: int = 0
    failures: tuple[str, ...] = ()
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    longest_gap_ms: float = 0.0
    slowest_login_ms: float = 0.0
    login_p99_ms: float = 0.0


class Steady:
    """The stream, while the block runs. pause_s: between two statements; per_login: statements to a session, 0: all in one."""

    def __init__(
        self, address: Mapping[str, Any], *, pause_s: float = 0.005, per_login: int = 0, sql: str = "select 1"
    ) -> None:
        self._orders = {"address": dict(address), "pause_s": pause_s, "per_login": per_login, "sql": sql}
        self._process: subprocess.Popen[bytes] | None = None
        self.seen = Seen()

    def __enter__(self) -> Self:
        paths = [str(_TESTS.parent), str(_TESTS), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.steady"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._orders).encode() + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"begun\n", "the stream has not begun"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        out, _unused = self._process.communicate(timeout=60)
        found = json.loads(out)
        self.seen = Seen(**{**found, "failures": tuple(found["failures"])})


def _percentile_ms(waits_s: list[float], share: float) -> float:
    return round(sorted(waits_s)[min(len(waits_s) - 1, int(len(waits_s) * share))] * 1e3, 2) if waits_s else 0.0


def main() -> None:
    orders = json.loads(sys.stdin.readline())
    address = orders["address"]
    waits_s: list[float] = []
    logins_s: list[float] = []
    failures: list[str] = []
    longest_s = 0.0
    last = 0.0
    is_over = False
    while not is_over:
        began = time.perf_counter()
        try:
            client = RawClient.open(address["host"], address["port"], 60)
            client.login(address)
        except (OSError, AssertionError) as error:
            failures.append(str(error))
            time.sleep(0.05)
            is_over = bool(select.select([sys.stdin], [], [], 0)[0])
            continue
        logins_s.append(time.perf_counter() - began)
        if not last:
            last = time.perf_counter()
            print("begun", flush=True)
        count = 0
        try:
            while not is_over and (not orders["per_login"] or count < orders["per_login"]):
                began = time.perf_counter()
                failures += errors(client.query(orders["sql"]))
                now = time.perf_counter()
                waits_s.append(now - began)
                longest_s = max(longest_s, now - last)
                last = now
                count += 1
                time.sleep(orders["pause_s"])
                is_over = bool(select.select([sys.stdin], [], [], 0)[0])
        except Exception as error:  # whatever it is, it should not have happened
            failures.append(f"{type(error).__name__}: {error}")
        client.close()
    longest_s = max(longest_s, time.perf_counter() - last)
    seen = Seen(
        len(waits_s),
        len(logins_s),
        tuple(failures[:20]),
        _percentile_ms(waits_s, 0.5),
        _percentile_ms(waits_s, 0.99),
        round(longest_s * 1e3, 1),
        round(max(logins_s, default=0.0) * 1e3, 1),
        _percentile_ms(logins_s, 0.99),
    )
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
