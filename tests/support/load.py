"""Load from many sessions at once through a proxy, each statement with a mark of its own, and what was acknowledged.

load = Load(proxy, database.name, sessions=64)
load.run(seconds=2, mix=mixed)
load.acknowledged                      marks whose answer the client has seen
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import asyncpg
from support.proxy import Proxy

Mix = Callable[[Random, str], str]
"""A statement with the mark in it."""


def reads(_: Random, mark: str) -> str:
    return f"select body, '{mark}' from notes where id = 7"


def writes(_: Random, mark: str) -> str:
    return f"insert into notes values (1000, '{mark}')"


def mixed(rng: Random, mark: str) -> str:
    return writes(rng, mark) if rng.random() < 0.2 else reads(rng, mark)


def mixed_known(rng: Random, _: str) -> str:
    """As mixed, with the same few texts again and again: what an application sends."""
    return "insert into notes values (1000, 'load')" if rng.random() < 0.2 else "select body from notes where id = 7"


@dataclass
class Load:
    """refused: answers with SQLSTATE 58030; broken: sessions that ended; latencies_s: of acknowledged statements."""

    proxy: Proxy
    database: str
    sessions: int = 16
    prefix: str = "m"
    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    broken: int = 0
    _until: float = 0.0

    def finish(self) -> None:
        """End the load now, for `during`."""
        self._until = time.monotonic()

    def run(self, seconds: float, mix: Mix, *, during: Callable[[], object] | None = None) -> float:
        """Run until the time is over or every session is broken; during: in a thread beside it. Returns the seconds of load."""
        return asyncio.run(self._run(seconds, mix, during))

    async def _run(self, seconds: float, mix: Mix, during: Callable[[], object] | None) -> float:
        connections = await asyncio.gather(*(self._connect(number) for number in range(self.sessions)))
        began = time.monotonic()
        self._until = began + seconds
        beside = asyncio.create_task(asyncio.to_thread(during)) if during is not None else None
        await asyncio.gather(*(self._session(each, number, mix) for number, each in enumerate(connections)))
        took = time.monotonic() - began
        if beside is not None:
            await beside
        for each in connections:
            each.terminate()
        await asyncio.sleep(0.1)  # for the transports below TLS, which close a turn later
        return took

    async def _connect(self, number: int) -> asyncpg.Connection:
        await asyncio.sleep(number * 0.01)
        address = self.proxy.address("alice", self.database)
        trusted = ssl.create_default_context(cafile=str(self.proxy.ca))
        return await asyncpg.connect(
            host="localhost",
            port=address["port"],
            user=address["user"],
            password=address["password"],
            database=address["dbname"],
            ssl=trusted,
            timeout=30,
            statement_cache_size=0,
        )

    async def _session(self, connection: asyncpg.Connection, number: int, mix: Mix) -> None:
        rng = Random(f"{self.prefix} {number}")
        count = 0
        while time.monotonic() < self._until:
            count += 1
            mark = f"{self.prefix}-{number}-{count}"
            began = time.monotonic()
            try:
                await connection.execute(mix(rng, mark))
            except asyncpg.PostgresIOError:
                self.refused.append(mark)
                await asyncio.sleep(0.01)
                continue
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                self.broken += 1
                return
            self.acknowledged.append(mark)
            self.latencies_s.append(time.monotonic() - began)

    def latency_s(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
