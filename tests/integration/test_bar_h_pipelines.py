"""SECURITY_BAR H5: with a slow disk and `durable`, sessions with several statements under way share each sync.

One statement at a time and 200 ms for a sync are 64 / 0.2 s = 320 statements a second from 64 sessions, whoever builds the proxy
(test_bar_h_ledger.py measures that, and `tiered`). What the proxy can add is that nobody waits for more than the sync that has begun before
and the one after it, however many statements there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

from support import pg_bytes as pg
from support.fake_postgres import RawClient, raw_client
from support.faults import FaultyDisk
from support.figures import record, scaled
from support.proxy import Proxy
from support.raw_client import errors
from support.servers import Database

SESSIONS = 64
BATCH = 16
SYNC_S = 0.2
LATE = "0.02"
"""A bound of the proxy's own histogram of how late its event loop is."""


class Pipelines:
    """Sessions that send BATCH statements at once and the next BATCH when all are answered."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._stack = contextlib.AsyncExitStack()
        self._clients: list[RawClient] = []
        self.answered = 0
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        address = self._proxy.address()
        for _ in range(SESSIONS):
            client = raw_client(address["port"], address["user"], address["password"], address["dbname"])
            self._clients.append(await self._stack.enter_async_context(client))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self, seconds: float) -> float:
        """Answers a second."""
        self.answered, began = 0, time.monotonic()
        await asyncio.gather(*(self._session(each, began + seconds) for each in self._clients))
        return self.answered / (time.monotonic() - began)

    async def _session(self, client: RawClient, until: float) -> None:
        one = pg.parse("", "insert into notes values ($1, 'pipelined')") + pg.bind("", "", [b"5"]) + pg.execute()
        while time.monotonic() < until:
            found = await client.ask(*[one + pg.sync()] * BATCH, ready=BATCH)
            self.failures += errors(found)
            self.answered += BATCH


def _late(proxy: Proxy) -> tuple[int, int]:
    """Ticks of the event loops that came more than 20 ms late, and all ticks."""
    text = proxy.get("/metrics")[1]

    pattern = r'dbproxy_event_loop_lag_seconds_bucket\{(?:[^}]*,)?le="([^"]+)"[^}]*\} ([0-9.e+]+)'
    counts: Counter[str] = Counter()
    for bound, count in re.findall(pattern, text):
        counts[bound] += int(float(count))
    return counts["+Inf"] - counts[LATE], counts["+Inf"]


def test_pipelines_share_the_syncs_of_a_slow_disk(
    make_proxy: Callable[..., Proxy], vault: Database, tmp_path: Path
) -> None:
    def change(settings: dict[str, dict[str, object]]) -> None:
        settings["audit"]["durability"] = "durable"
        settings["limits"] = {"max_sessions_per_user": 500, "max_sessions_per_address": 500}

    disk = FaultyDisk(tmp_path)
    proxy = make_proxy(database=vault.name, change=change, environment=disk.environment)
    late: dict[str, float] = {}

    async def load() -> tuple[float, float]:
        async with Pipelines(proxy) as pipelines:
            for name, seconds in (("warm", 0.5), ("quick", scaled(1, 20)), ("slow", scaled(2, 60))):
                disk.set(**({"fdatasync": {"sleep": SYNC_S}} if name == "slow" else {}))
                before, before_kib = _late(proxy), proxy.memory_kib()
                rate = await pipelines.run(seconds)
                after = _late(proxy)
                late[name] = (after[0] - before[0]) / max(after[1] - before[1], 1)
            disk.set()
            assert not pipelines.failures
        return rate, (proxy.memory_kib() - before_kib) / 1024

    rate, grown_mib = asyncio.run(load())
    outcomes = [each for each in proxy.records("statement.outcome") if each["status"] == "ok"]
    assert len(outcomes) >= rate
    record(
        "H5.durable.pipelined",
        "64 sessions with 16 statements under way each, fdatasync +200 ms: less than 500 a second, or memory not bounded",
        count=round(rate * scaled(2, 60)),
        failures=int(rate < 500) + int(grown_mib > 64),
        per_second=round(rate),
        loop_over_20_ms=round(late["slow"], 3),
        loop_over_20_ms_with_a_quick_disk=round(late["quick"], 3),
        memory_grown_mib=round(grown_mib, 1),
    )
    # A loop that waited for the disk would be late in every tick; a busy machine makes it late with a quick disk as well.
    assert late["slow"] <= late["quick"] + 0.2
