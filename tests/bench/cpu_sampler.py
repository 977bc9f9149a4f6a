"""Run a module and note, at even steps of its CPU time, where it is.

    python tests/bench/cpu_sampler.py FILE -m MODULE ARGUMENTS…

The first SIGUSR2 begins, the second ends and writes FILE: a line `count frame;frame;…` for each stack, innermost last, a frame being
`file:line:function`. Unlike a sampler that looks from outside, it does not count the time in which the program could run but did not:
a proxy wakes other processes with every byte it sends, and they take its processor.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

STEP_S = 0.001  # the kernel's own clock may make it coarser
LOOP = "event loop (waiting, reading, writing, calling)"

Stack = tuple[tuple[CodeType, int], ...]


class Sampler:
    """Collects stacks between two signals, then writes them."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._stacks: Counter[Stack] = Counter()
        self._is_on = False

    def switch(self, _number: int, _frame: FrameType | None) -> None:
        self._is_on = not self._is_on
        step = STEP_S if self._is_on else 0
        signal.setitimer(signal.ITIMER_PROF, step, step)
        if not self._is_on:
            self._write()

    def take(self, _number: int, frame: FrameType | None) -> None:
        stack: list[tuple[CodeType, int]] = []
        # Python looks for signals where a function begins and after a call. At the beginning: whoever called is meant.
        if frame is not None and frame.f_lineno == frame.f_code.co_firstlineno:
            frame = frame.f_back
        while frame is not None:
            stack.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        self._stacks[tuple(reversed(stack))] += 1

    def _write(self) -> None:
        part = self._output.with_suffix(".part")
        with part.open("w") as file:
            for stack, count in self._stacks.items():
                file.write(f"{count} {';'.join(_name(code, line) for code, line in stack)}\n")
        part.replace(self._output)


def _name(code: CodeType, line: int) -> str:
    if code.co_name == "run" and code.co_filename.endswith("asyncio/runners.py"):
        return f"::{LOOP}"
    return f"{code.co_filename}:{line}:{code.co_qualname}"


def main() -> None:
    sampler = Sampler(Path(sys.argv[1]))
    signal.signal(signal.SIGUSR2, sampler.switch)
    signal.signal(signal.SIGPROF, sampler.take)
    sys.path[0] = str(Path.cwd())  # as `python -m` has it; the folder of this file has modules of its own
    sys.argv = sys.argv[3:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
