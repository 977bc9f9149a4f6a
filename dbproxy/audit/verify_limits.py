"""What all chains share while they are verified: the progress display, and caps on what is kept in memory."""

from __future__ import annotations

from collections.abc import Callable

MAX_OPEN_INTENTS = 1_000_000
"""More can never be open at once: the writer's ballast, at most 1 GiB, has room for half as many."""
MAX_SESSIONS = 200_000
"""So many are counted at once; what begins beyond that is not compared with its totals. No proxy has as many."""
MAX_SESSION_LENGTH = 64
_PROGRESS_BYTES = 8 << 20

Progress = Callable[[int, int], None]
"""Called now and then with bytes read so far and bytes in all."""


class Meter:
    """Counts bytes for the progress display, the intents open in all chains, and how many sessions may still be kept."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.open_intents = 0
        self.sessions_left = MAX_SESSIONS
        self._progress = progress
        self._total = total
        self._done = 0
        self._shown = 0

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None and self._done - self._shown >= _PROGRESS_BYTES:
            self._shown = self._done
            self._progress(self._done, max(self._total, self._done))
