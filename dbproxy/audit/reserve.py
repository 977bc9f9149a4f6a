"""The ballast: a file of real blocks beside the segments, given back when the volume is full.

It makes room for what must still be written then: the outcomes of statements that were already forwarded.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Reserve:
    """The ballast file of one slot. is_held: it stands with all its blocks."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self.is_held = False

    def acquire(self, extra: int = 0) -> None:
        """Allocate the blocks, and prove that `extra` more could be had. Raises OSError, and holds nothing then."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._size + extra)
            os.ftruncate(fd, self._size)
            os.fsync(fd)
        except OSError:
            self.release()  # a ballast allocated in part would take the room it is meant to give
            raise
        finally:
            os.close(fd)
        self.is_held = True

    def release(self) -> None:
        """Give the blocks back. A failure to do so means less room, which the next write will notice."""
        self.is_held = False
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
