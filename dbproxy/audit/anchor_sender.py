"""One anchor and the thread that feeds it, so that nothing waits for an anchor. Results are picked up by the caller (prover.py).

A checkpoint that an anchor does not take is tried again a few times and then let go: the next one contains everything. So the queue is short
and bounded, and the oldest goes first when it is full.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import stamina

from dbproxy.audit.anchor import Anchor, AnchorFailed
from dbproxy.audit.checkpoint import Seal

QUEUE_MAX = 1_000
ATTEMPTS = 3
ATTEMPTS_TIMEOUT_S = 8.0


@dataclass(frozen=True, slots=True)
class AnchorResult:
    """What became of a checkpoint at an anchor. problem: "" if it was kept."""

    anchor: str
    number: int
    problem: str


class AnchorSender:
    """Sends checkpoints to an anchor in order. submit, take_results and close are for one thread; they never wait, but for close."""

    def __init__(self, anchor: Anchor) -> None:
        self.name = anchor.name
        self.dropped = 0
        """Checkpoints that were never tried, because the anchor is too slow."""
        self._anchor = anchor
        self._waiting: deque[Seal] = deque()
        self._results: deque[AnchorResult] = deque(maxlen=2 * QUEUE_MAX)
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, seal: Seal) -> None:
        """Take a checkpoint that stands synced in the ledger."""
        with self._changed:
            if len(self._waiting) >= QUEUE_MAX:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(seal)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"anchor {self.name}", daemon=True)
            self._thread.start()

    def take_results(self) -> list[AnchorResult]:
        """What has become known since the last call, in order."""
        results = []
        while self._results:
            results.append(self._results.popleft())
        return results

    def close(self, timeout_s: float) -> bool:
        """Send what waits and end the thread; returns whether it has ended in time. One that hangs ends with the process."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _run(self) -> None:
        while (seal := self._next()) is not None:
            problem = ""
            try:
                for attempt in stamina.retry_context(
                    on=AnchorFailed, attempts=ATTEMPTS, timeout=ATTEMPTS_TIMEOUT_S, wait_initial=0.1, wait_max=2.0
                ):
                    with attempt:
                        self._anchor.keep(seal)
            except AnchorFailed as error:
                problem = str(error)
            except Exception as error:  # noqa: BLE001 - top of a thread: a mistake in an anchor counts as its failure
                problem = f"{type(error).__name__}: {error}"
            self._results.append(AnchorResult(self.name, seal.number, problem))

    def _next(self) -> Seal | None:
        with self._changed:
            while not self._waiting and not self._is_closing:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None
