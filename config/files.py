"""Reading the files that decide who may do what, only if nobody else could have written them.

A file is trusted if it is a regular file that belongs to root or to the user of this process, that neither its group nor others may
write, in a directory that others may not write. A symbolic link is judged by what it leads to and must itself belong to one of the two.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.errors import ConfigError, Problem


def read_trusted(path: Path, max_bytes: int) -> bytes:
    """The content of a file, at most max_bytes + 1 of it.

    Raises ConfigError if it cannot be read or is not to be trusted. What is checked is the open file, so it cannot be swapped in between.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _require_trust(path, os.fstat(descriptor))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror}") from error


def _refusal(path: Path, text: str) -> ConfigError:
    return ConfigError([Problem(str(path), 0, 0, "", text)])


def _require_trust(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(path, "not a regular file")
    trusted = {0, os.geteuid()}
    if status.st_uid not in trusted:
        raise _refusal(
            path, f"belongs to user {status.st_uid}; it must belong to root or to the user that runs dbproxy"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "everyone" if status.st_mode & stat.S_IWOTH else "its group"
        raise _refusal(path, f"{who} may write to it; run chmod go-w")
    target = path.resolve(strict=True)
    if not os.path.samestat(target.stat(), status):
        raise _refusal(path, "changed while it was read")
    link = path.lstat()
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in trusted:
        raise _refusal(
            path, f"is a symbolic link of user {link.st_uid}; it must belong to root or to the user that runs dbproxy"
        )
    for directory in {path.parent, target.parent}:
        mode = directory.stat().st_mode
        # The sticky bit keeps others from replacing our file; on a read-only mount (Kubernetes ConfigMap) nobody can.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not os.statvfs(directory).f_flag & os.ST_RDONLY:
            raise _refusal(path, f"everyone may write to its directory {directory}; run chmod o-w")


def write_private(path: Path, data: bytes) -> None:
    """Replace a file at once, or not at all: mode 0600, on disk before the old content is gone.

    A symbolic link keeps leading to the file; the owner stays the same where this process may give files away. Raises OSError.
    """
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if target.exists() and os.geteuid() == 0:
                os.fchown(file.fileno(), target.stat().st_uid, target.stat().st_gid)
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Keep other dbproxy commands from changing files in the directory of path meanwhile."""
    descriptor = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
