"""Time as a parameter: what reads a clock is given one, so that tests can turn it.

wall_ns is for records that people read; monotonic_ns is for every duration, deadline and order. The two never meet in one expression.
Counterpart: tests/support/fake_clock.py.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC; may jump either way."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary point; never goes back."""


class SystemClock:
    """The machine's clocks. The methods are the C functions themselves: a call costs some 40 ns."""

    __slots__ = ()

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)
