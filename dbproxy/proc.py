"""What the kernel says of a process of ours, from /proc. Linux only."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """resident_bytes: memory; cpu_s: processor time of the process itself; open_files: descriptors. All 0 if it is gone."""

    resident_bytes: int = 0
    cpu_s: float = 0.0
    open_files: int = 0


def read_usage(pid: int) -> Usage:
    """What a process uses now."""
    process = Path("/proc") / str(pid)
    with suppress(OSError, ValueError, IndexError):
        resident = int((process / "statm").read_text().split()[1]) * _PAGE_BYTES
        # The name in brackets may contain anything, so fields are counted from the last bracket (proc(5), stat).
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        files = sum(1 for _ in (process / "fd").iterdir())
        return Usage(resident, (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, files)
    return Usage()
