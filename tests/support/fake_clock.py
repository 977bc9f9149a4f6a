"""A clock that only moves when a test says so. Counterpart: dbproxy/clock.py."""

from __future__ import annotations


class FakeClock:
    """Starts at 2026-01-01 00:00:00 UTC on the wall and at 1,000 s on the monotonic side, which differ on purpose."""

    def __init__(self, wall_ns: int = 1_767_225_600_000_000_000, monotonic_ns: int = 1_000_000_000_000) -> None:
        self.wall = wall_ns
        self.monotonic = monotonic_ns

    def wall_ns(self) -> int:
        return self.wall

    def monotonic_ns(self) -> int:
        return self.monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.wall += int(seconds * 1e9)
        self.monotonic += int(seconds * 1e9)

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does."""
        self.wall += int(seconds * 1e9)
