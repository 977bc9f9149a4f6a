"""What a worker can see of its targets' databases: the newest snapshot of each, swapped whole. Resolves statements with it.

A statement of a database whose snapshot is not here yet, or is too old, is resolved all the same, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from classifiers.effects import Report
from dbproxy.catalogue.model import Snapshot
from dbproxy.catalogue.resolve import Derived, Path, Resolution, resolve

STALE_AFTER = 3.0
"""A snapshot that was not confirmed for so many times the interval of readings is stale."""
_MAX_MISSED = 1000
Key = tuple[str, str]
"""Target and database."""


@dataclass(slots=True)
class Sight:
    """One database. snapshot: None before the first. confirmed_ns: monotonic, when it was last known to be so. missed: names that were not in it, and were said to be missing."""

    snapshot: Snapshot | None = None
    confirmed_ns: int = 0
    is_stale: bool = False
    missed: set[str] | None = None


class Sights:
    """targets: names of those with a monitor account. refresh_s: between readings. on_want: told target, database and why when another reading is wanted: "miss" or "ddl"."""

    def __init__(self, targets: frozenset[str], refresh_s: float, on_want: Callable[[str, str, str], object]) -> None:
        self._targets = targets
        self._stale_ns = int(refresh_s * STALE_AFTER * 1e9)
        self._on_want = on_want
        self._sights: dict[Key, Sight] = {}

    @property
    def keys(self) -> tuple[Key, ...]:
        """The databases that were asked for."""
        return tuple(self._sights)

    def watches(self, target: str) -> bool:
        return target in self._targets

    def open(self, target: str, database: str) -> bool:
        """A session of that database begins. Returns whether a snapshot is there."""
        return self._sights.setdefault((target, database), Sight()).snapshot is not None

    def swap(self, target: str, database: str, snapshot: Snapshot, now_ns: int) -> None:
        """Use this one from now on."""
        self._sights[target, database] = Sight(snapshot, now_ns)

    def defined(self, target: str, database: str) -> None:
        """A session has perhaps changed definitions, and its transaction is over."""
        self._on_want(target, database, "ddl")

    def sha256(self, target: str, database: str) -> str:
        """Of the snapshot in use, "" without one."""
        sight = self._sights.get((target, database))
        return sight.snapshot.sha256 if sight is not None and sight.snapshot is not None else ""

    def confirm(self, target: str, database: str, now_ns: int) -> bool:
        """It was read again and is the same. Returns whether it had counted as stale."""
        sight = self._sights.get((target, database))
        if sight is None:
            return False
        was_stale, sight.is_stale, sight.confirmed_ns = sight.is_stale, False, now_ns
        return was_stale

    def look(self, now_ns: int) -> bool:
        """Whether one has become stale since."""
        found = False
        for sight in self._sights.values():
            if sight.snapshot is not None and not sight.is_stale and now_ns - sight.confirmed_ns > self._stale_ns:
                sight.is_stale = found = True
        return found

    def resolve(self, report: Report, target: str, database: str, path: Path, derived: Derived) -> Resolution:
        """See resolve.resolve; asks for another reading if names were not found."""
        sight = self._sights.get((target, database))
        if sight is None:
            return self.unseen(report)
        resolution = resolve(report, sight.snapshot, path, derived, is_stale=sight.is_stale)
        if resolution.unresolved and sight.snapshot is not None:
            missed = sight.missed = sight.missed or set()
            if len(missed) < _MAX_MISSED and not missed.issuperset(resolution.unresolved):
                missed.update(resolution.unresolved)
                self._on_want(target, database, "miss")
        return resolution

    def unseen(self, report: Report) -> Resolution:
        """As if there were no snapshot."""
        return resolve(report, None, None)
