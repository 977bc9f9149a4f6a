"""What a process and its children cost, as /proc tells it: CPU time and memory. Linux only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Cpu(NamedTuple):
    """CPU time in seconds, in the program's own code and in the kernel on its behalf."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def since(self, earlier: Cpu) -> Cpu:
        return Cpu(self.user_s - earlier.user_s, self.system_s - earlier.system_s)


def tree(pid: int) -> list[int]:
    """The process and all its living descendants."""
    found = [pid]
    for each in found:
        for children in _PROC.glob(f"{each}/task/*/children"):
            found += [int(word) for word in _read(children).split()]
    return found


def cpu_of(pid: int, *, with_children: bool = True) -> Cpu:
    """What the process used so far, its descendants included: those alive, and those that ended and were waited for."""
    user = system = 0
    for each in tree(pid) if with_children else [pid]:
        # The name in brackets may contain anything, so fields are counted from the last bracket (proc(5), stat).
        fields = _read(_PROC / str(each) / "stat").rpartition(")")[2].split()
        if fields:
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
    return Cpu(user / _TICKS_PER_S, system / _TICKS_PER_S)


def reset_peak(pid: int) -> int:
    """Forget the peak of resident memory so far. Returns what is resident now, in KiB, descendants included."""
    for each in tree(pid):
        (_PROC / str(each) / "clear_refs").write_text("5")  # proc(5): 5 resets VmHWM
    return _memory_kib(pid, "VmRSS")


def peak_kib(pid: int) -> int:
    """The peak of resident memory since reset_peak, descendants included: the sum of each one's own peak."""
    return _memory_kib(pid, "VmHWM")


def _memory_kib(pid: int, name: str) -> int:
    total = 0
    for each in tree(pid):
        for line in _read(_PROC / str(each) / "status").splitlines():
            if line.startswith(f"{name}:"):
                total += int(line.split()[1])
    return total


def _read(path: Path) -> str:
    """The content, empty if the process has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
