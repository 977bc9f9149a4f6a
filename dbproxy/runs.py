"""The history of the proxy's processes, kept in the store: when each began, and how it ended.

Everything here happens in the background. A store that cannot be opened or written costs history, never a session: it is tried again
until it can be, with a new file if somebody has moved the bad one away.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from dbproxy import ipc
from dbproxy.clock import Clock
from dbproxy.errors import StartError
from dbproxy.orders import SUPERVISOR
from dbproxy.store.contract import RUNS_KEPT, Ending, Run, StoreError
from dbproxy.store.sqlite import SqliteStore, open_store
from dbproxy.tasks import Tasks

_log = logging.getLogger(__name__)
_AGAIN_S = 5.0
_CLOSE_S = 5


class Runs:
    """members: what the supervisor says there is. Their beginnings are noted too: somebody may have been told of them who could not write."""

    def __init__(
        self, directory: Path, clock: Clock, version: str, members: Callable[[], Iterable[ipc.Member]]
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._version = version
        self._members = members
        self._tasks = Tasks()
        self._news: deque[ipc.Happened] = deque(maxlen=RUNS_KEPT)
        self._has_news = asyncio.Event()
        self._is_written = asyncio.Event()
        self._store: SqliteStore | None = None
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why history is not kept now, and what to do; "" if it is."""
        return self._trouble

    def start(self, *, is_first: bool) -> None:
        """Keep history from now on. is_first: nothing that ran before can still be alive."""
        self._tasks.spawn(self._keep(is_first=is_first), name="history of processes")

    def note(self, news: ipc.Happened) -> None:
        """A process began or ended."""
        self._news.append(news)
        self._is_written.clear()
        self._has_news.set()

    async def latest(self, limit: int) -> tuple[Run, ...]:
        """See Store.runs."""
        if self._store is not None:
            return await self._store.runs(limit)
        if self._trouble:
            raise StoreError(self._trouble)
        return ()

    async def close(self) -> None:
        """Write what is still to be written, unless that cannot be done. Safe to call twice."""
        if self._tasks and not self._trouble:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_written.wait(), _CLOSE_S)
        await self._tasks.cancel_all(timeout_s=_CLOSE_S)
        await self._let_go()

    async def _keep(self, *, is_first: bool) -> None:
        while True:
            try:
                if self._store is None:
                    store = self._store = await open_store(self._directory, self._clock)
                    if is_first:
                        await store.lose_open_runs(self._clock.wall_ns())
                        is_first = False
                    await self._begin_unknown(store)
                await self._write_all(self._store)
            except (StartError, StoreError) as error:
                self._say(str(error))
                await self._let_go()
                await asyncio.sleep(_AGAIN_S)
                continue
            self._say("")
            self._is_written.set()
            await self._has_news.wait()
            self._has_news.clear()

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            if trouble:
                _log.warning("the history of processes is not kept: %s", trouble)
            else:
                _log.warning("the history of processes is kept again")
        self._trouble = trouble

    async def _let_go(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            await store.close()

    async def _begin_unknown(self, store: SqliteStore) -> None:
        known = {(run.pid, run.started_at_ns) for run in await store.runs(RUNS_KEPT)}
        for member in self._members():
            if member.role != SUPERVISOR and member.pid and (member.pid, member.started_at_ns) not in known:
                await store.begin_run(member.role, member.slot, member.pid, self._version, member.started_at_ns)

    async def _write_all(self, store: SqliteStore) -> None:
        while self._news:
            await self._write(store, self._news[0])
            self._news.popleft()

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
