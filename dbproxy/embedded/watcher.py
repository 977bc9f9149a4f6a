"""End a child process when this process ends, however it ends.

A kill that leaves no time for anything still closes our files. The watcher is a shell that reads from a pipe whose
other end we hold, and sends the signal when it is closed.
"""

from __future__ import annotations

import contextlib
import subprocess
from signal import Signals

from dbproxy.embedded.account import Account

_SCRIPT = 'read -r _; kill -"$2" "$1" 2>/dev/null'


class Watcher:
    """Watches from the moment it is made until close(). It runs under the child's account, so it can harm nothing else."""

    def __init__(self, account: Account, pid: int, signal: Signals) -> None:
        self._process = account.spawn(
            ["/bin/sh", "-c", _SCRIPT, "dbproxy-watcher", str(pid), signal.name.removeprefix("SIG")],
            environment={"PATH": "/usr/bin:/bin"},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """Stop watching. Call it when the child has ended: its number may be given to another process."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
