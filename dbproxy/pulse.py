"""Whether the supervisor's children still do anything: each is asked now and then, and one that has not answered for long is ended.

A process that is stopped, or whose event loop hangs, does not end by itself: clients wait in its queue for nothing, and nobody starts
another. What counts are questions, not seconds: when everything stood still for a while, the supervisor too, nobody is to blame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from dbproxy import ipc

PATIENCE_S = 60.0
_QUESTIONS = 12
"""Without an answer within PATIENCE_S."""
_START_FACTOR = 5
"""A process that starts is given longer: it may have much of a ledger to read."""


class Asked(Protocol):
    """A child. unanswered: how many Pings in a row have no answer yet; the child's answer sets it to 0."""

    unanswered: int

    @property
    def is_starting(self) -> bool:
        """It has never been ready."""

    def say(self, message: ipc.Message) -> bool:
        """False if it cannot hear any more."""

    def kill(self, why: str) -> None:
        """End it now."""


class Pulse:
    """children: gives those that there are."""

    def __init__(self, children: Callable[[], Iterable[Asked]], patience_s: float) -> None:
        self._children = children
        self._patience_s = patience_s

    async def watch(self) -> None:
        """For as long as the supervisor lives; to be cancelled."""
        while True:
            await asyncio.sleep(self._patience_s / _QUESTIONS)
            self.look()

    def look(self) -> None:
        """Ask each once more, and end those that have had enough time."""
        for child in self._children():
            factor = _START_FACTOR if child.is_starting else 1
            if child.unanswered >= _QUESTIONS * factor:
                child.kill(f"did not answer for {self._patience_s * factor:g} s")
            else:
                child.unanswered += 1
                child.say(ipc.Ping())
