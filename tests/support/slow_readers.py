"""Many clients that read one large result each, slowly, in a process of their own: their work must not be the test's.

with slow_readers(address, sql, count=200, bytes_per_s=1 << 19) as readers:
    readers.go(); ...; readers.hold(); ...; results = readers.finish(1 << 20)

Run as a program it is that process: what to do in one line of JSON, then `go`, `hold` and `finish RATE`, a line each.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import pg_bytes as pg
from support.raw_client import RawClient

END = pg.ready("I")
_TESTS = Path(__file__).resolve().parents[1]


class Readers:
    """The test's side. Nobody reads before the first go()."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def go(self) -> None:
        """Read on, at the rate that was told."""
        self._say("go")

    def hold(self) -> None:
        """Read nothing more until go()."""
        self._say("hold")

    def finish(self, bytes_per_s: float) -> list[tuple[str, int]]:
        """Read the rest at that rate. Returns hash and size of what each was sent."""
        self._say(f"finish {bytes_per_s}")
        assert self._process.stdout is not None
        return [(digest, size) for digest, size in json.loads(self._process.stdout.readline())]

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def slow_readers(addresses: list[Mapping[str, Any]], sql: str, *, bytes_per_s: float) -> Iterator[Readers]:
    """One reader for each address: logged in, and the query sent, when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.slow_readers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{_TESTS}{os.pathsep}{_TESTS.parent}"},
    )
    with process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            task = {"addresses": [dict(each) for each in addresses], "sql": sql, "bytes_per_s": bytes_per_s}
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n", "the readers could not log in"
            yield Readers(process)
        finally:
            process.kill()


@dataclass
class Pace:
    """For all readers alike. may_read: not held."""

    bytes_per_s: float
    may_read: asyncio.Event = field(default_factory=asyncio.Event)


async def _read(client: RawClient, pace: Pace) -> tuple[str, int]:
    loop = asyncio.get_running_loop()
    digest, size, tail = hashlib.sha256(), 0, b""
    due = 0.0
    while not tail.endswith(END):
        piece = max(4096, min(1 << 16, int(pace.bytes_per_s / 8)))
        if not pace.may_read.is_set():
            await pace.may_read.wait()
            await asyncio.sleep(random.random() * piece / pace.bytes_per_s)  # 200 readers in step would be one wave
        data = await loop.sock_recv(client.stream, piece)
        if not data:
            break
        digest.update(data)
        size += len(data)
        tail = (tail + data)[-len(END) :]
        due = (
            max(due, loop.time() - 0.05) + len(data) / pace.bytes_per_s
        )  # what was missed while held is not made up for
        await asyncio.sleep(max(0.0, due - loop.time()))
    return digest.hexdigest(), size


async def _main() -> None:
    loop = asyncio.get_running_loop()
    task = json.loads(sys.stdin.readline())
    clients = [RawClient.open(each["host"], each["port"], 60) for each in task["addresses"]]
    for client, address in zip(clients, task["addresses"], strict=True):
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.login(address)
    for client in clients:
        client.send(pg.query(task["sql"]))
        client.stream.setblocking(False)
    print("ready", flush=True)
    pace = Pace(task["bytes_per_s"])
    reading = [asyncio.ensure_future(_read(client, pace)) for client in clients]
    while not (word := (await loop.run_in_executor(None, sys.stdin.readline)).strip()).startswith("finish"):
        if not word:
            return
        (pace.may_read.set if word == "go" else pace.may_read.clear)()
    pace.bytes_per_s = float(word.split()[1])
    pace.may_read.set()
    print(json.dumps(await asyncio.gather(*reading)), flush=True)
    for client in clients:
        client.close()


if __name__ == "__main__":
    asyncio.run(_main())
