"""A disk that fails as a test says, for a ledger in this process."""

from __future__ import annotations

import errno
import os

import pytest


class FakeDisk:
    """Stands in for os.write and os.ftruncate. space: bytes that can still be written, None for no limit; error: raised beyond it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.space: int | None = None
        self.error = errno.ENOSPC
        self.can_truncate = True
        self.can_create = True
        self._write, self._truncate, self._open, self._sync = os.write, os.ftruncate, os.open, os.fdatasync
        self.sync_error = 0
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "ftruncate", self.ftruncate)
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)

    def write(self, fd: int, data: bytes) -> int:
        if self.space is None:
            return self._write(fd, data)
        if self.space <= 0:
            raise OSError(self.error, os.strerror(self.error))
        written = self._write(fd, bytes(data[: self.space]))
        self.space -= written
        return written

    def ftruncate(self, fd: int, size: int) -> None:
        if not self.can_truncate:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._truncate(fd, size)

    def open(self, path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        if flags & os.O_CREAT and not self.can_create:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self._open(path, flags, mode, **more)

    def fdatasync(self, fd: int) -> None:
        if self.sync_error:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        self._sync(fd)
