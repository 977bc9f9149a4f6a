"""Who may write in a ledger's directory: one proxy to a directory, one process to a slot.

A proxy's supervisor holds the DirectoryLock for as long as it or one of its children lives: whoever inherits the descriptor holds it too. Each process
holds the SlotLock of the chain it writes; the Ledger takes it. The kernel drops both when their last holder has ended, however it ended.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from dbproxy.errors import StartError

_STEP_S = 0.02


class DirectoryLock:
    """The right to write in a directory, which is created with mode 0700 if it is missing. fd: to be inherited by children."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.fd = -1

    def acquire(self) -> None:
        """Raises StartError if another proxy has it, or if others may write in the directory; OSError."""
        self.fd = open_directory(self._directory)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise StartError(_in_use(self._directory)) from None

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class SlotLock:
    """The right to write the chain of one slot: a locked file beside the segments, which stays there."""

    def __init__(self, directory: Path, slot: int) -> None:
        self._directory = directory
        self.path = directory / f"audit-{slot}.lock"
        self._fd = -1

    def acquire(self, *, wait_s: float = 0.0) -> None:
        """wait_s: for a predecessor that is just ending. Raises StartError if another process has it, OSError."""
        deadline = time.monotonic() + wait_s
        while not self._try():
            if time.monotonic() >= deadline:
                raise StartError(_in_use(self._directory))
            time.sleep(_STEP_S)

    def _try(self) -> bool:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == self.path.stat().st_ino:  # not a file that was removed meanwhile
                self._fd, fd = fd, -1
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if fd >= 0:
                os.close(fd)
        return False

    def release(self, *, remove: bool = False) -> None:
        """remove: also the file, when the slot is out of use."""
        if self._fd < 0:
            return
        if remove:
            with suppress(OSError):
                self.path.unlink()
        os.close(self._fd)
        self._fd = -1


def open_directory(directory: Path) -> int:
    """A descriptor of the directory, made if it is missing. Raises StartError if others may write in it, OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if os.fstat(fd).st_mode & 0o022:
        os.close(fd)
        raise StartError(f"audit directory {directory} can be written by others; run chmod 700 {directory}")
    return fd


def _in_use(directory: Path) -> str:
    return f"audit ledger in {directory} is in use by another process; give each proxy a directory of its own, or stop the other one"
