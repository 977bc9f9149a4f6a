"""The state file: what is refused at the start and with which words, how it is written, and copies of it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.fake_clock import FakeClock

from dbproxy.errors import StartError
from dbproxy.store.contract import Ending, Run, StoreError
from dbproxy.store.sqlite import STATE_FILE, SqliteStore, back_up, open_store


def using(directory: Path, work: Callable[[SqliteStore], Coroutine[Any, Any, Any]] | None = None) -> Any:
    """Open the store, do something with it, close it."""

    async def scenario() -> Any:
        store = await open_store(directory, FakeClock())
        try:
            return await work(store) if work is not None else None
        finally:
            await store.close()

    return asyncio.run(scenario())


def filled(directory: Path) -> Path:
    async def fill(store: SqliteStore) -> None:
        for number in range(300):
            await store.end_run(await store.begin_run("worker", 1, number, "1.0", number), Ending.CRASHED, "x" * 50, 1)

    using(directory, fill)
    return directory / STATE_FILE


def test_files_are_for_this_user_only_whatever_the_umask(tmp_path: Path) -> None:
    async def look(store: SqliteStore) -> list[tuple[str, int]]:
        await store.begin_run("control", 0, 1, "1.0", 1)
        return sorted((each.name, stat.S_IMODE(each.stat().st_mode)) for each in tmp_path.iterdir())

    before = os.umask(0)
    try:
        found = using(tmp_path, look)
    finally:
        os.umask(before)
    assert found == [(STATE_FILE + suffix, 0o600) for suffix in ("", "-shm", "-wal", ".lock")]


def test_what_has_returned_is_synced(tmp_path: Path) -> None:
    async def look(store: SqliteStore) -> dict[str, Any]:
        names = ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
        return {
            name: await store._run(lambda connection, name=name: connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in names
        }

    assert using(tmp_path, look) == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "trusted_schema": 0}


def test_a_file_that_is_no_database_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"these are not the bytes you are looking for" * 200)
    with pytest.raises(StartError, match=r"state\.db: is damaged .*move it away .*dbproxy state backup"):
        using(tmp_path)


def test_damaged_pages_are_refused(tmp_path: Path) -> None:
    """Random damage to a page is either found at the start or does not touch what is stored; it never passes for another content."""
    path = filled(tmp_path)
    good = path.read_bytes()
    chance = random.Random(3)
    refused = 0
    for _ in range(60):
        damaged = bytearray(good)
        at = chance.randrange(100, len(good) - 64)
        damaged[at : at + 64] = chance.randbytes(64)
        path.write_bytes(damaged)
        try:
            using(tmp_path)
        except StartError:
            refused += 1
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    assert refused >= 20


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StartError, match="is damaged"):
        using(tmp_path)


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / STATE_FILE
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(StartError, match="is not dbproxy's"):
        using(tmp_path)
    assert path.read_bytes() == before


def test_two_proxies_do_not_share_a_state(tmp_path: Path) -> None:
    async def again(_store: SqliteStore) -> None:
        with pytest.raises(StartError, match="another dbproxy uses this state directory"):
            await open_store(tmp_path, FakeClock())

    using(tmp_path, again)
    using(tmp_path)


@pytest.mark.parametrize("name", [STATE_FILE, STATE_FILE + ".lock"])
def test_what_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StartError, match=rf"{name}: Is a directory"):
        using(tmp_path)


def test_a_full_disk_is_an_error_that_passes(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        pages = await store._run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
        await store._run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))
        with pytest.raises(StoreError, match="full"):
            for number in range(1000):
                await store.begin_run("worker", 1, number, "1.0" * 100, number)
        held = len(await store.runs(5000))
        await store._run(lambda connection: connection.execute("PRAGMA max_page_count = 100000"))
        await store.begin_run("worker", 1, 1, "1.0", 1)
        assert len(await store.runs(5000)) == held + 1

    using(tmp_path, scenario)


def test_what_has_returned_survives_a_kill(tmp_path: Path) -> None:
    """The child says each number once the store has taken it; after kill -9 every number it said is there."""
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom dbproxy.clock import SystemClock\n"
        "from dbproxy.store.sqlite import open_store\n"
        "async def main():\n"
        "    store = await open_store(Path(sys.argv[1]), SystemClock())\n"
        "    while True:\n"
        "        print(await store.begin_run('worker', 1, 1, '1.0', 1), flush=True)\n"
        "asyncio.run(main())\n"
    )
    last = 0
    for round_ in range(5):
        child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(10 + round_ * 7):
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        said = child.stdout.read().split()
        last = int(said[-1]) if said else last
        child.wait()
        child.stdout.close()
        (latest,) = using(tmp_path, lambda store: store.runs(1))
        assert latest.id in (last, last + 1)


def test_a_copy_is_whole_and_opens_as_the_state(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()

    async def copy(store: SqliteStore) -> int:
        await store.begin_run("control", 0, 5, "1.0", 1)
        return await asyncio.to_thread(back_up, source, target / STATE_FILE)

    size = using(source, copy)
    assert [each.name for each in target.iterdir()] == [STATE_FILE]
    assert (target / STATE_FILE).stat().st_size == size
    assert stat.S_IMODE((target / STATE_FILE).stat().st_mode) == 0o600
    assert using(target, lambda store: store.runs(5)) == (Run(1, "control", 0, 5, "1.0", 1),)


def test_a_copy_overwrites_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    there = tmp_path / "there"
    there.write_text("precious")
    with pytest.raises(StoreError, match="File exists; nothing was written"):
        back_up(tmp_path, there)
    assert there.read_text() == "precious"


def test_a_damaged_file_gives_no_copy(tmp_path: Path) -> None:
    path = filled(tmp_path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreError, match="could not be copied"):
        back_up(tmp_path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_without_a_state_there_is_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no state yet"):
        back_up(tmp_path, tmp_path / "copy")
