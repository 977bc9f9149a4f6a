"""Files that somebody may edit while the proxy runs: noticing that they did, and have finished."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


class WatchedFiles:
    """Looked at from time to time."""

    def __init__(self) -> None:
        self._stamps: dict[Path, tuple[int, int]] = {}
        self._was_changed = False

    def remember(self, files: Iterable[Path]) -> None:
        """These, as they are now."""
        self._stamps = {path: _stamp(path) for path in files}
        self._was_changed = False

    def look(self) -> bool:
        """Whether one has changed, and was so when looked at last: whoever writes it has had the time in between to finish."""
        is_changed = any(_stamp(path) != stamp for path, stamp in self._stamps.items())
        is_due = is_changed and self._was_changed
        self._was_changed = is_changed
        return is_due


def file_sha256(path: Path) -> str:
    """Of its content, hexadecimal; "" if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)
