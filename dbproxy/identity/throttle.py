"""Counts failed logins, by address and by login name from one address, and says when to refuse without looking.

A person's logins from elsewhere are not affected, so that nobody can lock somebody else out.
"""

from __future__ import annotations

from collections import OrderedDict

from dbproxy.clock import Clock

MAX_KEYS = 100_000
"""Bound on memory; the oldest is forgotten first. 100,000 addresses with a few tries each are beyond any throttle."""

Key = tuple[str, str]


class _Count:
    """Failures of one key since started_ns; is_reported: the refusals have been told to the audit trail."""

    __slots__ = ("failures", "is_reported", "started_ns")

    def __init__(self, started_ns: int) -> None:
        self.started_ns = started_ns
        self.failures = 0
        self.is_reported = False


class Throttle:
    """per_address, per_user: failures taken within window_s; more logins are refused until the window has passed."""

    def __init__(self, clock: Clock, per_address: int, per_user: int, window_s: float) -> None:
        self._clock = clock
        self._counts: OrderedDict[Key, _Count] = OrderedDict()
        self.configure(per_address, per_user, window_s)

    def configure(self, per_address: int, per_user: int, window_s: float) -> None:
        """Change the limits; counts are kept."""
        self._per_address = per_address
        self._per_user = per_user
        self._window_ns = int(window_s * 1e9)

    def failed(self, address: str, user: str) -> None:
        """Take note of a failed login. user: in canonical form."""
        for key in ((address, ""), (address, user)):
            count = self._find(key)
            if count is None:
                count = self._counts[key] = _Count(self._clock.monotonic_ns())
            count.failures += 1
        while len(self._counts) > MAX_KEYS:
            self._counts.popitem(last=False)

    def succeeded(self, address: str, user: str) -> None:
        """Forget the person's own mistypes; the address keeps its count, else one known password would reset it."""
        self._counts.pop((address, user), None)

    def blocks(self, address: str, user: str) -> str:
        """Whether to refuse: "" to go on, "first" for the first refusal of this window, "again" for further ones."""
        blocking = [
            count
            for key, limit in (((address, ""), self._per_address), ((address, user), self._per_user))
            if (count := self._find(key)) is not None and count.failures >= limit
        ]
        if not blocking:
            return ""
        word = "again" if all(count.is_reported for count in blocking) else "first"
        for count in blocking:
            count.is_reported = True
        return word

    def room(self, address: str, user: str) -> tuple[int, int]:
        """How many more failures are taken: from the address, and for the name from it. Less than one: it blocks."""
        by_address, by_user = self._find((address, "")), self._find((address, user))
        return (
            self._per_address - (by_address.failures if by_address else 0),
            self._per_user - (by_user.failures if by_user else 0),
        )

    def count(self, key: Key) -> tuple[int, int]:
        """Failures of an address (with the name "") or of a name from it that count now, and since when, in monotonic ns. (0, 0): none."""
        count = self._find(key)
        return (count.failures, count.started_ns) if count is not None else (0, 0)

    @property
    def keys(self) -> tuple[Key, ...]:
        """What is counted, or was until its window was over."""
        return tuple(self._counts)

    def restore(self, key: Key, failures: int, started_ns: int) -> None:
        """Count what was known before."""
        count = self._counts[key] = _Count(started_ns)
        count.failures = failures

    def _find(self, key: Key) -> _Count | None:
        count = self._counts.get(key)
        if count is not None and self._clock.monotonic_ns() - count.started_ns >= self._window_ns:
            del self._counts[key]
            return None
        return count
