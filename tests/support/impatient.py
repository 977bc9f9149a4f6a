"""Runs dbproxy with shorter times than anybody should set, so that no test waits for minutes.

    python impatient.py patience_s=4 -m dbproxy serve …    as `launcher` of support.proxy.running_proxy; the children are started so too

patience_s: how long the supervisor waits for a child's answer. interval_s, late_s: between checkpoints, and how late one may be.
"""

from __future__ import annotations

import functools
import os
import runpy
import sys


def launcher(**times: float) -> tuple[str, ...]:
    """For running_proxy."""
    return (__file__, *(f"{name}={value}" for name, value in times.items()))


def main() -> None:
    at = sys.argv.index("-m")
    times = {name: float(value) for name, _, value in (word.partition("=") for word in sys.argv[1:at])}
    sys.path[0] = os.getcwd()  # as with -m, and not this folder
    module, sys.argv = sys.argv[at + 1], [sys.argv[0], *sys.argv[at + 2 :]]
    from dbproxy.audit import checkpoint  # before all that reads its constants

    checkpoint.INTERVAL_S = times.get("interval_s", checkpoint.INTERVAL_S)
    checkpoint.LATE_S = times.get("late_s", checkpoint.LATE_S)
    if module == "dbproxy" and "patience_s" in times:
        from dbproxy import app, supervisor

        app.Supervisor = functools.partial(supervisor.Supervisor, patience_s=times["patience_s"])  # type: ignore[misc,assignment] # only called
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
