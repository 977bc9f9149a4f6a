"""The store in one SQLite file. All access goes through one thread, so that the event loop never waits for the disk.

Write-ahead log with synchronous=FULL: what a call has returned survives a loss of power. The file is checked when it is opened; a
damaged one is left as it is, and the error says what to do: going on with a new one would forget in silence what an operator relies on.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from dbproxy.clock import Clock
from dbproxy.errors import StartError
from dbproxy.store.contract import RUNS_KEPT, Ending, Run, StoreError
from dbproxy.store.migrations import Migration, load_migrations, migrate, transaction

STATE_FILE = "state.db"
"""Its name in the state directory."""
_BUSY_MS = 5000
"""For the moment in which a backup or an administrator's sqlite3 holds a lock."""
_APPLICATION_ID = 0x64627078
"""In the file's header, so that no other program's file is taken for ours."""
_REMEDY = (
    "stop the proxy, move it away together with its -wal and -shm files, and restore a copy made by `dbproxy state backup`; "
    "without a copy just move it away: a new file is made, and the history of the proxy's processes begins anew"
)
_T = TypeVar("_T")


class SqliteStore:
    """An open state file; made by open_store."""

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor, lock: int) -> None:
        self._path = path
        self._connection = connection
        self._thread = thread
        self._lock = lock
        self._is_closed = False

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()
        os.close(self._lock)

    # ---- runs of processes --------------------------------------------------------------------------------------

    async def begin_run(self, role: str, slot: int | None, pid: int, version: str, at_ns: int) -> int:
        def work(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "INSERT INTO process_runs (role, slot, pid, version, started_at_ns) VALUES (?, ?, ?, ?, ?) RETURNING id",
                (role, slot, pid, version, at_ns),
            ).fetchone()
            connection.execute(
                "DELETE FROM process_runs WHERE id <= ? AND ended_at_ns IS NOT NULL", (row[0] - RUNS_KEPT,)
            )
            return int(row[0])

        return await self._change(work)

    async def end_run(self, run_id: int, ending: Ending, detail: str, at_ns: int) -> None:
        await self._change(
            lambda connection: connection.execute(
                "UPDATE process_runs SET ended_at_ns = ?, ending = ?, detail = ? WHERE id = ? AND ended_at_ns IS NULL",
                (at_ns, ending.value, detail, run_id),
            )
        )

    async def lose_open_runs(self, at_ns: int) -> int:
        return await self._change(
            lambda connection: (
                connection.execute(
                    "UPDATE process_runs SET ended_at_ns = ?, ending = 'lost' WHERE ended_at_ns IS NULL", (at_ns,)
                ).rowcount
            )
        )

    async def runs(self, limit: int) -> tuple[Run, ...]:
        rows = await self._run(
            lambda connection: connection.execute(
                "SELECT id, role, slot, pid, version, started_at_ns, ended_at_ns, ending, detail "
                "FROM process_runs ORDER BY id DESC LIMIT ?",
                (limit,),
            ).fetchall()
        )
        return tuple(
            Run(number, role, slot, pid, version, began, ended, Ending(ending) if ending else None, detail)
            for number, role, slot, pid, version, began, ended, ending, detail in rows
        )

    # ---- the thread ---------------------------------------------------------------------------------------------

    async def _change(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run work in a transaction of its own."""

        def whole(connection: sqlite3.Connection) -> _T:
            with transaction(connection):
                return work(connection)

        return await self._run(whole)

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._is_closed:
            raise StoreError(f"{self._path} is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._connection)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {_describe(error)}") from error


async def open_store(directory: Path, clock: Clock, migrations: tuple[Migration, ...] | None = None) -> SqliteStore:
    """Open the state file of a directory, made if there is none, and bring its schema up to date.

    migrations: the shipped ones when not given. Raises StartError with what to do: damaged, newer than this dbproxy, in use.
    """
    path = directory / STATE_FILE
    steps = load_migrations() if migrations is None else migrations
    thread = ThreadPoolExecutor(1, "store")
    try:
        connection, lock = await asyncio.get_running_loop().run_in_executor(thread, _open, path, steps, clock.wall_ns())
    except BaseException:
        thread.shutdown(wait=False)
        raise
    return SqliteStore(path, connection, thread, lock)


def back_up(directory: Path, to: Path) -> int:
    """Copy the state file as it is at this moment, beside a running proxy or without one. Returns the copy's size in bytes.

    to: must not exist; made with mode 0600. Raises StoreError.
    """
    path = directory / STATE_FILE
    if not path.is_file():
        raise StoreError(f"{path}: there is no state yet")
    try:
        os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{to}: {error.strerror}; nothing was written") from error
    try:
        with closing(_connect(path)) as source, closing(_connect(to)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without companions
            _check(copy)
        descriptor = os.open(to, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (sqlite3.Error, OSError, StartError) as error:
        to.unlink(missing_ok=True)
        told = _describe(error) if isinstance(error, sqlite3.Error) else str(error)
        raise StoreError(f"{path}: could not be copied: {told}") from error
    return to.stat().st_size


def _open(path: Path, migrations: tuple[Migration, ...], now_ns: int) -> tuple[sqlite3.Connection, int]:
    lock = _take_lock(path.with_name(path.name + ".lock"))
    try:
        os.close(
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        )  # SQLite gives its companions the same mode
        connection = _connect(path)
        try:
            _prepare(connection)
            migrate(connection, migrations, now_ns)
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        os.close(lock)
        raise StartError(f"{path}: {error.strerror}") from error
    except sqlite3.OperationalError as error:  # not what the file holds: no space, no permission, a lock
        os.close(lock)
        raise StartError(f"{path}: cannot be opened: {_describe(error)}") from error
    except sqlite3.DatabaseError as error:
        os.close(lock)
        raise StartError(f"{path}: is damaged ({_describe(error)}): {_REMEDY}") from error
    except StartError as error:
        os.close(lock)
        raise StartError(f"{path}: {error}") from error
    return connection, lock


def _take_lock(path: Path) -> int:
    """One proxy for one state. The kernel lets go of it when the process ends, however it ends."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StartError(
            f"{path.parent}: another dbproxy uses this state directory; give each its own (state.directory)"
        ) from error
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection) -> None:
    """Check the file, then set how it is written. Raises StartError, sqlite3.Error."""
    is_new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    if owner != _APPLICATION_ID and not (is_new and owner == 0):
        raise StartError("is not dbproxy's: move it away, or set state.directory")
    _check(connection)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StartError("its file system does not support SQLite's write-ahead log; use a local disk")
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    if is_new:
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def _check(connection: sqlite3.Connection) -> None:
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    found += [f"a row of {row[0]} refers to nothing" for row in connection.execute("PRAGMA foreign_key_check")][:3]
    if found != ["ok"]:
        raise sqlite3.DatabaseError(found[0] if found[0] != "ok" else found[1])


def _describe(error: sqlite3.Error) -> str:
    """SQLite's own words name tables and conditions, never values."""
    return f"{error} ({error.sqlite_errorname})" if hasattr(error, "sqlite_errorname") else str(error)
