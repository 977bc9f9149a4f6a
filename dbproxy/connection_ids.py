"""Connection ids that clients were given, and the server's ids behind them: for KILL, which may come to another worker than its target's.

One small file for each session, in a folder of the state directory that all workers share:

    connections/2147489512   {"owner": ["alice", "app", "shop"], "server_id": 4711, "pid": 815}

A file goes with its session. What a worker left behind when it was killed counts for nothing: its pid is no longer there.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

Owner = tuple[str, str, str]
"""Person, account on the server, target: who may kill the session without any rule."""


class ConnectionIds:
    """folder: made when the first session is entered, for this account only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = os.getpid()

    def enter(self, number: int, owner: Owner, server_id: int) -> None:
        """A session stands. Without its entry it works all the same, but cannot be killed by this id."""
        entry = json.dumps({"owner": owner, "server_id": server_id, "pid": self._pid}).encode()
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, entry)
            finally:
                os.close(descriptor)

    def leave(self, number: int) -> None:
        """The session is over."""
        with contextlib.suppress(OSError):
            (self._folder / str(number)).unlink()

    def find(self, number: int, owner: Owner) -> int | None:
        """The server's id of the session that was given this number, if it is this owner's."""
        try:
            entry = json.loads((self._folder / str(number)).read_bytes())
            if tuple(entry["owner"]) != owner:
                return None
            os.kill(entry["pid"], 0)
            return int(entry["server_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
