"""History is kept when it can be, whatever the state file is like, and nobody waits for it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.fake_clock import FakeClock

from dbproxy import ipc, runs
from dbproxy.runs import Runs
from dbproxy.store.contract import Ending, StoreError
from dbproxy.store.sqlite import STATE_FILE, open_store


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_AGAIN_S", 0.02)
    monkeypatch.setattr("dbproxy.store.sqlite._BUSY_MS", 20)


def happened(kind: str, pid: int, at_ns: int, status: int = 0, reason: str = "") -> ipc.Happened:
    return ipc.Happened(1, kind, "worker", 1, pid, "start", status, reason, 0.0, at_ns)


def play(directory: Path, scenario: Callable[[Runs], Coroutine[Any, Any, None]], *members: ipc.Member) -> None:
    async def main() -> None:
        kept = Runs(directory, FakeClock(), "1.0", lambda: members)
        kept.start(is_first=True)
        try:
            async with asyncio.timeout(10):
                await scenario(kept)
        finally:
            await kept.close()

    asyncio.run(main())


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


def found(directory: Path) -> list[tuple[int, Ending | None, str]]:
    async def look() -> list[tuple[int, Ending | None, str]]:
        store = await open_store(directory, FakeClock())
        try:
            return [(run.pid, run.ending, run.detail) for run in await store.runs(10)]
        finally:
            await store.close()

    return asyncio.run(look())


def test_beginnings_and_ends_are_written_also_at_the_last_moment(tmp_path: Path) -> None:
    async def scenario(kept: Runs) -> None:
        kept.note(happened("started", 7, 1))
        kept.note(happened("started", 8, 2))
        kept.note(happened("crashed", 7, 3, -9, "did not answer for 60 s"))
        kept.note(happened("ended", 8, 4))

    play(tmp_path, scenario)
    assert found(tmp_path) == [
        (8, Ending.STOPPED, "exit status 0"),
        (7, Ending.CRASHED, "signal 9: did not answer for 60 s"),
    ]


def test_what_is_told_twice_is_written_once(tmp_path: Path) -> None:
    async def scenario(kept: Runs) -> None:
        for _ in range(2):
            kept.note(happened("started", 7, 1))
            kept.note(happened("crashed", 7, 3, -9))

    play(tmp_path, scenario, ipc.Member("worker", 1, 7, "ready", 1, 0))
    assert found(tmp_path) == [(7, Ending.CRASHED, "signal 9")]


def test_what_runs_already_is_noted_when_the_file_is_opened(tmp_path: Path) -> None:
    async def scenario(_kept: Runs) -> None:
        return

    members = [
        ipc.Member("supervisor", 0, 6, "ready", 1, 0),
        ipc.Member("worker", 1, 7, "ready", 1, 0),
        ipc.Member("worker", 2, 0, "down", 0, 0),
    ]
    play(tmp_path, scenario, *members)
    assert [pid for pid, _, _ in found(tmp_path)] == [7]


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    path.write_bytes(b"these are not the bytes you are looking for" * 200)
    yield
    path.unlink()


@contextmanager
def newer(path: Path) -> Iterator[None]:
    async def make() -> None:
        await (await open_store(path.parent, FakeClock())).close()

    asyncio.run(make())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (99, 'later', 'ab', 1)")
        connection.commit()
    yield
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE number = 99")
        connection.commit()


@contextmanager
def not_a_file(path: Path) -> Iterator[None]:
    path.mkdir()
    yield
    path.rmdir()


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """By another process of this proxy that ends, or another proxy."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield
    os.close(lock)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody's sqlite3, in the midst of a change."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("spoiled", [damaged, newer, not_a_file, in_use, locked])
def test_history_begins_when_the_file_can_be_opened(
    tmp_path: Path, spoiled: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    spoiling = spoiled(tmp_path / STATE_FILE)
    spoiling.__enter__()

    async def scenario(kept: Runs) -> None:
        await until(lambda: kept.trouble)
        assert STATE_FILE in kept.trouble or "state directory" in kept.trouble
        kept.note(happened("started", 7, 1))
        with pytest.raises(StoreError):
            await kept.latest(10)
        await asyncio.sleep(0.1)
        spoiling.__exit__(None, None, None)
        await until(lambda: not kept.trouble)
        assert [run.pid for run in await kept.latest(10)] == [7]

    play(tmp_path, scenario)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, said
    assert said[0].startswith("the history of processes is not kept: ")
    assert said[1] == "the history of processes is kept again"


def test_file_that_can_no_longer_be_written_is_opened_again(tmp_path: Path) -> None:
    async def scenario(kept: Runs) -> None:
        kept.note(happened("started", 7, 1))
        await until(lambda: not kept._news)
        assert kept._store is not None
        await kept._store._run(lambda connection: connection.execute("DROP TABLE process_runs"))
        kept.note(happened("started", 8, 2))
        await until(lambda: kept.trouble)
        (tmp_path / STATE_FILE).rename(tmp_path / "moved away")
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"{STATE_FILE}{suffix}").unlink(missing_ok=True)
        await until(lambda: not kept.trouble)
        assert [run.pid for run in await kept.latest(10)] == [8]

    play(tmp_path, scenario)


def test_end_is_not_held_up_by_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).mkdir()

    async def scenario(kept: Runs) -> None:
        kept.note(happened("started", 7, 1))
        await until(lambda: kept.trouble)
        async with asyncio.timeout(1):
            await kept.close()

    play(tmp_path, scenario)
