"""Runs dbproxy with a supervisor that ends its children when they have not answered for SECONDS, and not for a minute.

python impatient.py SECONDS -m dbproxy serve …         as `launcher` of support.proxy.running_proxy; the children are started so too
"""

from __future__ import annotations

import functools
import os
import runpy
import sys


def main() -> None:
    patience_s, _, module, *words = sys.argv[1:]
    sys.path[0] = os.getcwd()  # as with -m, and not this folder
    sys.argv = [sys.argv[0], *words]
    if module == "dbproxy":
        from dbproxy import app, supervisor

        app.Supervisor = functools.partial(supervisor.Supervisor, patience_s=float(patience_s))  # type: ignore[misc,assignment] # only called
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
