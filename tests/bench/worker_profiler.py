"""Run a module, under cProfile if it is a worker: python worker_profiler.py FILE -m MODULE ARGUMENTS…

The proxy starts its other processes the way it was started itself, so this runs in each of them; only the worker's profile is wanted.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    output = sys.argv[1]
    sys.path[0] = str(Path.cwd())  # as `python -m` has it; the folder of this file has modules of its own
    sys.argv = sys.argv[3:]
    if sys.argv[:2] != ["dbproxy.process", "worker"]:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    import cProfile  # only now: it imports a module whose name one of this folder's has

    profile = cProfile.Profile()
    try:
        profile.runcall(runpy.run_module, sys.argv[0], run_name="__main__", alter_sys=True)
    finally:
        profile.dump_stats(output)


if __name__ == "__main__":
    main()
