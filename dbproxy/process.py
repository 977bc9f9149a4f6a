"""What the supervisor starts: `python -m dbproxy.process ROLE SLOT FD`. Not for people; the words are there for `ps`.

Takes care that the process cannot outlive the supervisor and does not hear the signals that are meant for it, takes its orders from the
descriptor, and becomes what they say. Counterpart: children.py.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys

from dbproxy.siblings import ForeignPackageError, check_siblings

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NAME_THREADS = "16"
"""libuv looks names up in threads, 4 if it is not told otherwise: as many names whose servers do not answer would keep all others waiting."""


def main() -> None:
    """Run, and exit with what came of it."""
    _die_with_parent()
    _ignore_signals()
    os.environ.setdefault("UV_THREADPOOL_SIZE", _NAME_THREADS)
    try:
        check_siblings()
    except ForeignPackageError as error:
        print(f"dbproxy: {error}", file=sys.stderr)  # noqa: T201  # nothing of ours may be imported yet
        sys.exit(2)
    import logging

    from dbproxy import orders as language

    with socket.socket(fileno=int(sys.argv[3])) as channel:
        try:
            orders = language.receive_orders(channel)
        except (OSError, ValueError):
            sys.exit(2)  # the supervisor is gone
        if os.getppid() != orders.supervisor_pid:
            sys.exit(2)
        logging.basicConfig(
            level=logging.WARNING, format=f"%(asctime)s %(levelname)s {orders.name} %(name)s: %(message)s"
        )
        if orders.home != language.HOME:
            print(f"dbproxy: {orders.name} would run {language.HOME} instead of {orders.home}", file=sys.stderr)  # noqa: T201
            sys.exit(2)
        if orders.role == language.CONTROL:
            from dbproxy.controller import run_control as run
        else:
            from dbproxy.worker import run_worker as run
        channel.setblocking(False)  # noqa: FBT003 - the socket API
        status = run(orders, channel)
    sys.exit(status)


def _die_with_parent() -> None:
    """Have the kernel end this process when the supervisor is gone; whether it is already, is seen once its number is known."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _ignore_signals() -> None:
    """Orders come over the channel: Ctrl+C and a service manager's SIGTERM to the whole group are for the supervisor."""
    ours = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    for number in ours:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # else somebody measures us
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)


if __name__ == "__main__":
    main()
