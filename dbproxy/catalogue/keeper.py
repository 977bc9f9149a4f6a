"""Keeps the catalogues of all databases that workers have sessions on. In the control process; workers get files (files.py) and messages.

    wanted: open (a first session), ddl (definitions may have changed), miss (a name is not there)   or the interval is over
       └─► read as the monitor account ─► file, if anything is different ─► Catalogue to all workers, also if nothing is

One database after another has its own task; readings of one follow each other at a distance, however often they are wanted.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from classifiers.effects import Kind, LexingState, Report
from config.settings import Settings, Target
from dbproxy import ipc
from dbproxy.catalogue.files import read_latest, write_snapshot
from dbproxy.catalogue.login import monitor_login
from dbproxy.catalogue.model import Snapshot, keep_former_names
from dbproxy.catalogue.postgres import DatabaseGoneError, read_postgres
from dbproxy.classifier.pool import ClassifierPool, PoolSettings
from dbproxy.clock import Clock
from dbproxy.errors import DbproxyError
from dbproxy.tasks import Tasks

_log = logging.getLogger("dbproxy")
_SETTLE_S = 0.1
"""What comes together is read together."""
_GAP_S = {"open": 0.5, "ddl": 0.5, "miss": 2.0}
"""From one reading to the next, at least, by why it is wanted."""
_RETRY_S = 5.0
_MAX_DATABASES = 256
_MAX_REPORTS = 20_000
Tell = Callable[[int | None, ipc.Message], None]
"""Says something to the worker of a slot, or to all."""


class TLSOf(Protocol):
    """Makes the TLS context of a target; None without TLS. Raises DbproxyError."""

    def __call__(self, target: Target) -> ssl.SSLContext | None: ...


@dataclass(slots=True)
class _Watch:
    """One database."""

    target: Target
    database: str
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    gap_s: float = _GAP_S["open"]
    snapshot: Snapshot | None = None
    message: ipc.Catalogue | None = None


class Keeper:
    """All of them. tls_of: see TLSOf; in this layer nobody knows how TLS is set up."""

    def __init__(self, settings: Settings, clock: Clock, tell: Tell, tls_of: TLSOf) -> None:
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._tls_of = tls_of
        self._tasks = Tasks()
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._reports: dict[bytes, Report] = {}
        self._pool: ClassifierPool | None = None
        self._reading = asyncio.Lock()

    def start(self) -> None:
        """Begin with the targets' default databases."""
        for target in self._settings.targets:
            if target.monitor is not None and target.database is not None:
                self._watch(target, target.database)

    async def stop(self) -> None:
        await self._tasks.cancel_all(timeout_s=5)
        await self._close_pool()

    def problems(self) -> tuple[str, ...]:
        """Which targets' catalogues could not be read the last time, or not in all parts."""
        failed = {key[0] for key, each in self._watches.items() if each.message is not None and each.message.problem}
        partial = {key[0] for key, each in self._watches.items() if each.snapshot is not None and each.snapshot.gaps}
        return (
            *(f"catalogue of target {name} cannot be read" for name in sorted(failed)),
            *(f"catalogue of target {name} is not visible in all parts" for name in sorted(partial - failed)),
        )

    def want(self, slot: int, wanted: ipc.CatalogueWanted) -> None:
        """A worker wants it read, or has a first session there."""
        watch = self._watches.get((wanted.target, wanted.database))
        if watch is None:
            target = next((each for each in self._settings.targets if each.name == wanted.target), None)
            if target is not None and target.monitor is not None and len(self._watches) < _MAX_DATABASES:
                self._watch(target, wanted.database)
            return
        if wanted.why == "open":
            if watch.message is not None:
                self._tell(slot, watch.message)
            return
        watch.gap_s = min(watch.gap_s, _GAP_S.get(wanted.why, _GAP_S["miss"]))
        watch.wanted.set()

    def _watch(self, target: Target, database: str) -> None:
        watch = self._watches[target.name, database] = _Watch(target, database)
        self._tasks.spawn(self._keep(watch), name=f"catalogue of {target.name}")

    async def _keep(self, watch: _Watch) -> None:
        watch.snapshot = await asyncio.to_thread(read_latest, self._settings.state.directory, watch.target.name, watch.database)  # fmt: skip
        refresh_s = self._settings.catalogue.refresh_s
        while True:
            watch.wanted.clear()
            watch.gap_s = _GAP_S["miss"]
            began_ns = self._clock.monotonic_ns()
            try:
                is_read = await self._read(watch)
            except DatabaseGoneError:
                del self._watches[watch.target.name, watch.database]
                return
            took_s = (self._clock.monotonic_ns() - began_ns) / 1e9
            try:
                await asyncio.wait_for(watch.wanted.wait(), refresh_s if is_read else min(_RETRY_S, refresh_s))
            except TimeoutError:
                continue
            await asyncio.sleep(_SETTLE_S)
            passed_s = (self._clock.monotonic_ns() - began_ns) / 1e9
            # A large database must not be read all the time.
            await asyncio.sleep(max(0.0, max(watch.gap_s, 2 * took_s) - passed_s))

    async def _read(self, watch: _Watch) -> bool:
        name, database = watch.target.name, watch.database
        try:
            login = monitor_login(watch.target, database, self._tls_of(watch.target))
            async with self._reading:  # one after another: they share the process that reads bodies
                found = await read_postgres(login, self._classify, self._clock.wall_ns())
                await self._close_pool()
            found = await asyncio.to_thread(keep_former_names, found, watch.snapshot)
            is_new = watch.message is None or bool(watch.message.problem) or watch.snapshot is None
            if is_new or await asyncio.to_thread(lambda: found.sha256 != getattr(watch.snapshot, "sha256", "")):
                file = await asyncio.to_thread(write_snapshot, self._settings.state.directory, name, found)
            else:
                file = watch.message.file if watch.message is not None else ""
        except DatabaseGoneError as gone:
            self._failed(watch, str(gone))
            raise
        except (DbproxyError, OSError) as error:
            return self._failed(watch, str(error))
        if watch.message is None or watch.message.problem:
            for gap in found.gaps:
                _log.warning("catalogue of %s, database %s: %s", name, database, gap)
        watch.snapshot = found
        watch.message = ipc.Catalogue(name, database, found.sha256, file, "")
        self._tell(None, watch.message)
        return True

    def _failed(self, watch: _Watch, problem: str) -> bool:
        if watch.message is None or watch.message.problem != problem:
            _log.error("catalogue of %s, database %s, cannot be read: %s", watch.target.name, watch.database, problem)
        before = watch.message
        watch.message = ipc.Catalogue(
            watch.target.name,
            watch.database,
            before.sha256 if before is not None else "",
            before.file if before is not None else "",
            problem,
        )
        self._tell(None, watch.message)
        return False

    async def _classify(self, text: bytes) -> Report:
        key = hashlib.sha256(text).digest()
        known = self._reports.get(key)
        if known is not None:
            return known
        if self._pool is None:
            limits = self._settings.limits.classifier
            pool = ClassifierPool(
                PoolSettings(
                    processes=1,
                    deadline_s=limits.timeout_ms / 1000,
                    memory_bytes=limits.memory_mb << 20,
                    dialects=("postgres",),
                )
            )
            await pool.start()
            self._pool = pool
        report = await self._pool.classify("postgres", text, LexingState(None), 0, "catalogue")
        if len(self._reports) >= _MAX_REPORTS:
            self._reports.clear()
        if Kind.UNPARSABLE not in report.kinds:
            self._reports[key] = report
        return report

    async def _close_pool(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close()
