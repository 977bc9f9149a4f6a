"""Compressing closed segments in a process of its own, at idle priority: what statements need of the machine comes first.

    a thread of the proxy:  Compressor.run ──► python -c … main(directory, slot) ──► compress_closed

In a thread it would take the interpreter's lock from the event loop again and again, and cost more of the processor than all other work on the records
together. Under load that lasts, closed segments stay as they are and are compressed when there is time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from dbproxy.audit.compress import closed_and_plain, compress_closed
from dbproxy.audit.segment import SegmentDamaged

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Compressor:
    """For one slot, in the process that holds its lock."""

    def __init__(self, directory: Path, slot: int) -> None:
        self._directory = directory
        self._slot = slot
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def run(self) -> None:
        """Compress what is closed, and wait for it; for a thread. Raises OSError when something could not be: it stays as it is."""
        if not closed_and_plain(self._directory, self._slot):
            return
        with self._lock:
            if self._is_stopped:
                return
            process = self._process = _spawn(self._directory, self._slot)
        _, said = process.communicate()
        with self._lock:
            self._process = None
            if process.returncode and not self._is_stopped:
                raise OSError(said.decode("utf-8", "replace").strip() or f"its process ended with {process.returncode}")

    def stop(self) -> None:
        """End a run under way, and let none begin. The segment it was at stays as it is."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()


def _spawn(directory: Path, slot: int) -> subprocess.Popen[bytes]:
    home = str(Path(__file__).resolve().parents[2])
    arguments = (os.getpid(), str(directory.resolve()), slot)
    program = f"import sys; sys.path[:0] = [{home!r}]; from dbproxy.audit.compressor import main; main(*{arguments!r})"
    return subprocess.Popen(  # noqa: S603 - our own interpreter, our own text
        [sys.executable, "-I", "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        start_new_session=True,
    )


def main(parent: int, directory: str, slot: int) -> None:
    """In the process: take the lowest priority, compress, and exit. Ends with the process that asked for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)
    with suppress(OSError):
        os.nice(19)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        compress_closed(Path(directory), slot)
    except (OSError, SegmentDamaged) as error:
        sys.exit(str(error))  # a line for stderr, and status 1
