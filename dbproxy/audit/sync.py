"""Bringing written records to the disk, away from the event loop: one Sync covers all that was written before it began.

    loop:    begin_sync ──► Sync(seq, files)                 end_sync: synced up to seq, or the segment is given up
    thread:                     └─► run: fdatasync … ──► done ──┘

The ledger keeps the files open until the Sync has come back, so that their descriptors cannot mean other files meanwhile.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

Done = Callable[["Sync", OSError | None], object]


class Sync:
    """One attempt. seq, hash, file: the record it covers everything up to, and its segment. closing: descriptors of ended segments.

    forget_bytes: how much of the segment need not stay in memory once it is on the disk, from its beginning.
    """

    __slots__ = ("_directory_fd", "_fd", "_forget_bytes", "closing", "file", "hash", "seq")

    def __init__(
        self,
        seq: int,
        hash_: bytes,
        file: str,
        fd: int,
        closing: tuple[int, ...],
        directory_fd: int | None,
        forget_bytes: int,
    ) -> None:
        self.seq = seq
        self.hash = hash_
        self.file = file
        self.closing = closing
        self._fd = fd
        self._directory_fd = directory_fd
        self._forget_bytes = forget_bytes

    def run(self) -> OSError | None:
        """Wait for the disk. Touches nothing but its descriptors. A failure is final: what is asked again may be told that all is well."""
        try:
            for fd in (*self.closing, self._fd):
                os.fdatasync(fd)
            # Nobody reads them again soon. Kept, the trail's pages would push those of the databases on this machine out of memory; and each one
            # would be new to the kernel, which costs a tenth of the CPU time of a query where the machine is a virtual one.
            for fd in self.closing:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if self._forget_bytes:
                os.posix_fadvise(self._fd, 0, self._forget_bytes, os.POSIX_FADV_DONTNEED)
            if self._directory_fd is not None:
                os.fsync(self._directory_fd)  # the names of new segments
        except OSError as error:
            return error
        return None


class SyncThread:
    """A thread that does what may wait for the disk, in order, one thing at a time.

    call_back: hands a result to the event loop; asyncio's call_soon_threadsafe. Its callee runs on the loop.
    """

    __slots__ = ("_call_back", "_jobs", "_thread")

    def __init__(self, call_back: Callable[..., object]) -> None:
        self._call_back = call_back
        self._jobs: queue.SimpleQueue[tuple[Callable[[], object], Callable[..., object]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="audit sync", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object], done: Callable[..., object]) -> None:
        """Run job in the thread, then done(its result) on the loop. job must not raise."""
        self._jobs.put((job, done))

    def close(self, timeout_s: float) -> bool:
        """End after what was submitted. Returns False if that has not come to an end by then."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            result = job()
            try:
                self._call_back(done, result)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
