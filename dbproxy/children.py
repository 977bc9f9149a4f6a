"""The supervisor's children: starting one by exec, hearing from it, noticing its end, leaving no zombie.

    supervisor ══ socket pair ══ child        Orders first, then ipc messages: Ready, CannotStart, Pong ◄─, ─► Ping, Drain, Team …

A child gets a program of its own (exec), the descriptors it needs and nothing else. It ends when the pair is closed, and the kernel ends
it when its parent is gone (process.py). Here nothing is decided: that is supervisor.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from dbproxy import ipc
from dbproxy.clock import Clock
from dbproxy.operations import ProcessState
from dbproxy.orders import Orders, send_orders

PROGRAM = "dbproxy.process"
_OUR_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Child:
    """One process. state: kept by the supervisor. problem: what it said when it could not start, or why it was killed; "" if nothing.

    started: set when it is ready, could not start, or has ended. ended: its exit status, negative for a signal.
    unanswered: how many Pings in a row; counted by pulse.py. told, noted: see news.py; of a control process.
    """

    def __init__(self, orders: Orders, process: subprocess.Popen[bytes], started_at_ns: int) -> None:
        loop = asyncio.get_running_loop()
        self.orders = orders
        self.pid = process.pid
        self.started_at_ns = started_at_ns
        self.began = loop.time()
        self.state = ProcessState.STARTING
        self.problem = ""
        self.started = asyncio.Event()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.channel: ipc.Channel | None = None
        self.unanswered = 0
        self.told = 0
        self.noted = 0
        self._process = process

    @property
    def name(self) -> str:
        return self.orders.name

    @property
    def is_starting(self) -> bool:
        """Nothing has come of its start yet."""
        return not self.started.is_set()

    def say(self, message: ipc.Message) -> bool:
        """False if it cannot hear any more."""
        return self.channel is not None and self.channel.send(message)

    def kill(self, why: str = "") -> None:
        """End it now. The pid is still its own: it is reaped only by `Children`, which forgets it then."""
        if not self.ended.done():
            self.problem = self.problem or why
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def note_message(self, message: ipc.Message) -> None:
        match message:
            case ipc.Ready():
                self.state = ProcessState.READY
                self.unanswered = 0
                self.started.set()
            case ipc.CannotStart():
                self.problem = message.text
                self.started.set()
            case ipc.Pong():
                self.unanswered = 0
            case ipc.Noted():
                self.noted = message.number

    def note_end(self, status: int) -> None:
        self._process.returncode = status  # reaped here, not by Popen
        self.state = ProcessState.DOWN
        if self.channel is not None:
            self.channel.close("it has ended")
        self.started.set()
        if not self.ended.done():
            self.ended.set_result(status)


class Children:
    """All child processes of this process. on_end: called with each one that has ended.

    prefix: the command up to the module: our own interpreter, with the options that we were started with.
    """

    def __init__(
        self, clock: Clock, on_end: Callable[[Child, int], object], prefix: tuple[str, ...] | None = None
    ) -> None:
        self._clock = clock
        self._on_end = on_end
        self._prefix = interpreter() if prefix is None else prefix
        self._running: dict[int, Child] = {}

    def start(self) -> None:
        """Notice ends from now on."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    @property
    def running(self) -> tuple[Child, ...]:
        return tuple(self._running.values())

    async def spawn(self, orders: Orders, descriptors: Iterable[int]) -> Child:
        """Start a process. descriptors: what it inherits besides its end of the channel. Raises OSError."""
        ours, theirs = socket.socketpair()
        command = [*self._prefix, "-m", PROGRAM, orders.role, str(orders.slot), str(theirs.fileno())]
        # Ctrl+C and a service manager's SIGTERM reach the whole group; until the child can ignore them they wait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OUR_SIGNALS)
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: ASYNC220, S603 - takes a millisecond; our own interpreter and module
                    command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), *descriptors)
                )
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child = self._running[process.pid] = Child(orders, process, self._clock.wall_ns())
        with suppress(OSError):  # it has ended already, which is noticed
            send_orders(ours, orders)
        ours.setblocking(False)  # noqa: FBT003 - the socket API
        channel = child.channel = ipc.Channel(ipc.FROM_CHILD, child.note_message, lambda _: None)
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=ours)
        if child.ended.done():
            channel.close("it has ended")
        return child

    async def kill_all(self, timeout_s: float) -> None:
        """End every child and wait for it."""
        running = self.running
        for child in running:
            child.kill()
        if running:
            await asyncio.wait([child.ended for child in running], timeout=timeout_s)

    def _reap(self) -> None:
        """Take note of all that have ended; also of strangers, who are ours if we are process 1 of a container."""
        ended: list[tuple[Child, int]] = []
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                child = self._running.pop(found[0], None)
                if child is not None:
                    ended.append((child, os.waitstatus_to_exitcode(found[1])))
        for child, code in ended:  # first all of them: nobody is told of one end who has come to his own
            child.note_end(code)
        for child, code in ended:
            self._on_end(child, code)


def interpreter() -> tuple[str, ...]:
    """How this program was started, up to its module: the interpreter, its options, and what runs in between, such as a profiler."""
    words = sys.orig_argv
    for index in range(1, len(words) - 1):
        if words[index] == "-m" and words[index + 1] == "dbproxy":
            return (sys.executable, *words[1:index])
    return (sys.executable, *(word for option in sys.warnoptions for word in ("-W", option)))
