"""A worker's end: asks control for catalogues, takes what comes, and has everything judged again. Counterpart: keeper.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from config.settings import Settings
from dbproxy import ipc
from dbproxy.catalogue.files import read_snapshot
from dbproxy.catalogue.model import Snapshot, SnapshotError
from dbproxy.catalogue.sights import Sights
from dbproxy.clock import Clock
from dbproxy.tasks import Tasks

_log = logging.getLogger("dbproxy")
WAIT_S = 5.0
"""How long a database's first session waits for its catalogue."""


class CatalogueLink:
    """tell: says something to control. on_change: rulings made before do not hold any more."""

    def __init__(
        self, settings: Settings, clock: Clock, tell: Callable[[ipc.Message], object], on_change: Callable[[], object]
    ) -> None:
        self._state: Path = settings.state.directory
        self._clock = clock
        self._tell = tell
        self._on_change = on_change
        self._tasks = Tasks()
        self._taking = asyncio.Lock()
        self._is_stopped = False
        self._came: dict[tuple[str, str], asyncio.Event] = {}
        watched = frozenset(each.name for each in settings.targets if each.monitor is not None)
        self.sights = Sights(watched, settings.catalogue.refresh_s, self._want) if watched else None

    async def stop(self) -> None:
        self._is_stopped = True
        await self._tasks.cancel_all(timeout_s=1)

    async def see(self, target: str, database: str) -> None:
        """A session of that database is about to begin: wait until it can be seen, or cannot, for a while."""
        sights = self.sights
        if sights is None or not sights.watches(target) or sights.open(target, database):
            return
        came = self._came.setdefault((target, database), asyncio.Event())
        self._want(target, database, "open")
        try:
            await asyncio.wait_for(came.wait(), WAIT_S)
        except TimeoutError:
            _log.warning(
                "the catalogue of %s, database %s, is not here yet; names cannot be resolved", target, database
            )

    def greet(self) -> None:
        """Control is there, perhaps a new one: it must know which databases are in use."""
        for target, database in self.sights.keys if self.sights is not None else ():
            self._want(target, database, "open")

    def take(self, message: ipc.Catalogue) -> None:
        """Control has read a catalogue, or could not."""
        if not self._is_stopped:
            self._tasks.spawn(self._take(message), name="a catalogue")

    def look(self) -> None:
        """Once in a while: what has become stale is judged as such."""
        if self.sights is not None and self.sights.look(self._clock.monotonic_ns()):
            self._on_change()

    def _want(self, target: str, database: str, why: str) -> None:
        self._tell(ipc.CatalogueWanted(target, database, why))

    async def _take(self, message: ipc.Catalogue) -> None:
        sights, key = self.sights, (message.target, message.database)
        if sights is None:
            return
        async with self._taking:
            if message.file and message.sha256 != sights.sha256(*key):
                try:
                    snapshot = await asyncio.to_thread(_read, self._state, message.file)
                except (OSError, SnapshotError) as error:
                    _log.warning("the catalogue of %s cannot be taken: %s", message.target, error)
                    return
                # One that could not be read again since is as old as it is.
                age_ns = max(0, self._clock.wall_ns() - snapshot.taken_at_ns) if message.problem else 0
                sights.swap(*key, snapshot, self._clock.monotonic_ns() - age_ns)
                self._on_change()
            if not message.problem and sights.confirm(*key, self._clock.monotonic_ns()):
                self._on_change()
        came = self._came.pop(key, None)
        if came is not None:
            came.set()


def _read(state: Path, name: str) -> Snapshot:
    snapshot = read_snapshot(state, name)
    snapshot.index()
    _ = snapshot.sha256
    return snapshot
