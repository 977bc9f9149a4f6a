"""Unix sockets in the state directory: made, reached, and who is at the other end.

A socket's address holds 107 bytes of path, and state directories lie deep: the directory is opened first, and the socket is named from
there (/proc/self/fd/N/name), which is short whatever the path is.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbproxy.errors import StartError

_CREDENTIALS = struct.Struct("3i")
"""struct ucred of SO_PEERCRED: pid, uid, gid. Source: unix(7)."""
_DIRECTORY_MODE = 0o700
_SOCKET_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end when it connected, as the kernel vouches for it."""

    pid: int
    uid: int
    gid: int

    @property
    def is_trusted(self) -> bool:
        """It runs as this very user, or as root."""
        return self.uid in (0, os.geteuid())


def private_directory(path: Path) -> None:
    """Make the directory, for this user only, or see that it is so. Raises StartError, which says what to do."""
    try:
        path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise StartError(
            f"{path}: the state directory cannot be made: {error.strerror}; set state.directory"
        ) from error
    if found.st_uid not in (os.geteuid(), 0):
        raise StartError(f"{path}: the state directory belongs to another user; run chown, or set state.directory")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise StartError(f"{path}: others may enter the state directory; run chmod 700 {path}")


def listen(path: Path, *, backlog: int = 64) -> socket.socket:
    """A listening socket at path, mode 0600, in place of what a process that ended has left there.

    Raises StartError if somebody still listens there, or if it cannot be made.
    """
    if _is_answered(path):
        raise StartError(f"{path}: another dbproxy listens there already")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink()
        before = os.umask(0o777 - _SOCKET_MODE)  # bind gives the mode; chmod afterwards would leave a moment for others
        try:
            with _short(path) as address:
                listening.bind(address)
        finally:
            os.umask(before)
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise StartError(f"{path}: cannot listen there: {error.strerror}") from error
    listening.setblocking(False)  # noqa: FBT003 - the socket API
    return listening


def connect(path: Path, *, timeout_s: float | None = None) -> socket.socket:
    """A connected socket, blocking with that timeout. Raises OSError."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connecting.settimeout(timeout_s)
        with _short(path) as address:
            connecting.connect(address)
    except BaseException:
        connecting.close()
        raise
    return connecting


def peer(connected: socket.socket) -> Peer:
    """Who connected. Raises OSError."""
    found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(found))


def _is_answered(path: Path) -> bool:
    if not path.is_socket():
        return False
    try:
        connect(path, timeout_s=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address for path that is short enough, good for as long as the block lasts."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
