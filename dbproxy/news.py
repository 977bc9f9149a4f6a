"""What has happened to processes, kept by the supervisor until control has it on the disk.

A control process that ends, for whatever reason, may have been told and not have recorded it; the next one is told again. So nothing is
lost, and what control had recorded and could not confirm any more is recorded twice. Counterpart: controller.py, which answers with Noted.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

from dbproxy import ipc

_log = logging.getLogger("dbproxy")
MAX_KEPT = 10_000
"""While control cannot be started, or records nothing. Each is a few hundred bytes."""


class Listener(Protocol):
    """A control process. told: number of the last one it was told; noted: of the last one it has on the disk."""

    told: int
    noted: int

    def say(self, message: ipc.Message) -> bool:
        """False if it cannot hear any more."""


class News:
    """In order, numbered from 1."""

    def __init__(self) -> None:
        self._kept: list[ipc.Happened] = []
        self._last = 0

    def add(self, happened: ipc.Happened) -> None:
        """Keep it, with the next number."""
        self._last += 1
        self._kept.append(replace(happened, number=self._last))
        if len(self._kept) > MAX_KEPT:
            lost = self._kept.pop(0)
            _log.error("not recorded, because control takes nothing: %s %d %s", lost.role, lost.slot, lost.kind)

    def tell(self, control: Listener) -> None:
        """Tell it what it was not told yet."""
        self.forget(control)
        for each in self._kept:
            if each.number > control.told:
                if not control.say(each):
                    return
                control.told = each.number

    def forget(self, control: Listener) -> None:
        """What it has on the disk need not be kept."""
        self._kept = [each for each in self._kept if each.number > control.noted]
