"""The history of the proxy's processes, kept in the store: when each began, and how it ended."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from dbproxy import ipc
from dbproxy.clock import Clock
from dbproxy.store.contract import RUNS_KEPT, Ending, Run, StoreError
from dbproxy.store.sqlite import SqliteStore, open_store
from dbproxy.tasks import Tasks

_log = logging.getLogger(__name__)
_CLOSE_S = 5


class Runs:
    """Notes in order, in the background: nothing waits for it. A store that fails costs history, never a session."""

    def __init__(self, directory: Path, clock: Clock, version: str) -> None:
        self._directory = directory
        self._clock = clock
        self._version = version
        self._tasks = Tasks()
        self._news: asyncio.Queue[ipc.Happened] = asyncio.Queue()
        self._store: SqliteStore | None = None

    async def open(self, *, is_first: bool) -> None:
        """is_first: nothing that ran before can still be alive. Raises StoreError."""
        self._store = await open_store(self._directory, self._clock)
        if is_first:
            await self._store.lose_open_runs(self._clock.wall_ns())
        self._tasks.spawn(self._keep_notes(self._store), name="history of processes")

    def note(self, news: ipc.Happened) -> None:
        """A process began or ended."""
        self._news.put_nowait(news)

    async def latest(self, limit: int) -> tuple[Run, ...]:
        """See Store.runs."""
        return await self._store.runs(limit) if self._store is not None else ()

    async def close(self) -> None:
        """Write what is still to be written. Safe to call twice."""
        with suppress(TimeoutError):
            if self._store is not None:
                await asyncio.wait_for(self._news.join(), _CLOSE_S)
        await self._tasks.cancel_all(timeout_s=_CLOSE_S)
        if self._store is not None:
            await self._store.close()
            self._store = None

    async def _keep_notes(self, store: SqliteStore) -> None:
        while True:
            news = await self._news.get()
            try:
                await self._write(store, news)
            except StoreError as error:
                _log.error("the history of processes cannot be written: %s", error)
            finally:
                self._news.task_done()

    async def _write(self, store: SqliteStore, news: ipc.Happened) -> None:
        same = [run for run in await store.runs(RUNS_KEPT) if (run.role, run.pid) == (news.role, news.pid)]
        if news.kind == "started":
            if all(run.started_at_ns != news.at_ns for run in same):  # else it is told again: see news.py
                await store.begin_run(news.role, news.slot, news.pid, self._version, news.at_ns)
            return
        ending = Ending.CRASHED if news.kind == "crashed" else Ending.STOPPED
        for run in same:
            if run.ending is None:
                await store.end_run(run.id, ending, _describe(news), news.at_ns)


def _describe(news: ipc.Happened) -> str:
    """How it ended, for people."""
    how = f"signal {-news.status}" if news.status < 0 else f"exit status {news.status}"
    return f"{how}: {news.reason}" if news.reason else how
