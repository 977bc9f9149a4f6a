"""Keeping the classifier processes: the template, the children it forks, their deadlines and their replacement.

Knows nothing of queues and sessions: it tells its owner when a child is idle, has answered or has failed, and the owner hands an idle
child the next request. Counterpart: child.py, which runs in those processes.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import orjson

from classifiers.effects import Report
from dbproxy.classifier.child import FORK, KILL, ORDER
from dbproxy.classifier.frames import FRAME, MAX_ANSWER_BYTES, BadAnswerError, read_report, request_frame
from dbproxy.classifier.queue import Request
from dbproxy.errors import StartError
from dbproxy.tasks import Tasks

_log = logging.getLogger(__name__)

TOOK_TOO_LONG = "reading it took too long"
PROCESS_DIED = "the process that read it died"
BAD_ANSWER = "the process that read it gave a bad answer"

_GRACE_S = 0.02
"""How long an answer that has arrived may wait for the loop to come to it, when the loop itself was late."""
_MAX_CONTROL_LINE = 4096


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """How the processes are made and bounded.

    processes: how many children are kept (the spare included).
    memory_bytes: a child's address space; cpu_s: the processor time after which the kernel ends it.
    classify, scrub, dialects, import_paths: the functions that read, what they are warmed up with, where they are found besides the
    proxy's own place.
    """

    processes: int
    memory_bytes: int
    cpu_s: int
    start_timeout_s: float
    classify: str
    scrub: str
    dialects: tuple[str, ...]
    import_paths: tuple[str, ...]


class Owner(Protocol):
    """Who hands out work. After on_failure the child is gone and on its way to be replaced."""

    def on_idle(self, child: Child) -> None: ...

    def on_answer(self, child: Child, report: Report) -> None: ...

    def on_failure(self, child: Child, reason: str) -> None: ...


class Child(asyncio.Protocol):
    """The proxy's end of one process, which reads one request at a time.

    request: what it reads now, set by read() and taken by release(). started_ns, busy_ns: the owner's notes about it.
    """

    def __init__(self, processes: Processes, number: int, fd: int) -> None:
        self.number = number
        self.is_ready = False
        self.request: Request | None = None
        self.started_ns = 0
        self.busy_ns = 0
        self._processes = processes
        self._fd = fd
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._sequence = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's transports do not derive from asyncio's

    def read(self, request: Request, operation: str, deadline_s: float) -> None:
        """Hand a request to the process and start its deadline. The child is idle. operation: of frames."""
        if self._transport is None or self.request is not None:
            raise ValueError("the child is not idle")
        self.request = request
        self._sequence += 1
        self._transport.write(
            request_frame(
                self._sequence, operation, request.dialect, request.state, request.server_version, request.text
            )
        )
        self._deadline = asyncio.get_running_loop().call_later(deadline_s, self._check_late)

    def release(self) -> Request | None:
        """The request that is no longer read, if there was one."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        request, self.request = self.request, None
        return request

    def abort(self) -> None:
        """Drop the connection. The process ends when it notices; Processes has it killed besides."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= FRAME.size:
            length, sequence = FRAME.unpack_from(buffer)
            end = FRAME.size + length
            if length > MAX_ANSWER_BYTES:
                self._processes.failed(self, BAD_ANSWER)
                return
            if len(buffer) < end:
                return
            body = bytes(memoryview(buffer)[FRAME.size : end])
            del buffer[:end]
            if not self._take(sequence, body):
                self._processes.failed(self, BAD_ANSWER)
                return

    def connection_lost(self, exc: Exception | None) -> None:
        self._processes.failed(self, PROCESS_DIED)

    def _take(self, sequence: int, body: bytes) -> bool:
        """One frame; False if it is not what a child may say now."""
        if not self.is_ready:
            if body:
                return False
            self.is_ready = True
            self._processes.became_ready(self)
            return True
        if self.request is None or sequence != self._sequence:
            return False
        try:
            report = read_report(body, len(self.request.text))
        except BadAnswerError as error:
            _log.warning("a classifier process gave a bad answer: %s", error)
            return False
        self._processes.owner.on_answer(self, report)
        return True

    def _check_late(self) -> None:
        """The deadline has passed. uvloop runs timers before it reads sockets: a late loop must not be held against the process."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if poller.poll(0):
            self._deadline = asyncio.get_running_loop().call_later(
                _GRACE_S, self._processes.failed, self, TOOK_TOO_LONG
            )
        else:
            self._processes.failed(self, TOOK_TOO_LONG)


class Processes:
    """The template and its children. Made and used in one event loop, on the thread that stays: children die with the thread that made them.

    alive: children that have reported. restarts: how often the template had to be started again. ready: set while a child is there.
    """

    def __init__(self, settings: ProcessSettings, owner: Owner) -> None:
        self.settings = settings
        self.owner = owner
        self.restarts = 0
        self.ready = asyncio.Event()
        self._tasks = Tasks()
        self._template: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._control_buffer = b""
        self._template_ready: asyncio.Future[None] | None = None
        self._children: dict[int, Child] = {}
        self._next_number = 0
        self._early_deaths = 0
        self._is_closing = False

    @property
    def alive(self) -> int:
        return sum(child.is_ready for child in self._children.values())

    @property
    def template_pid(self) -> int:
        """For diagnosis; 0 while there is none."""
        return 0 if self._template is None else self._template.pid

    async def start(self) -> None:
        """Start the template and the children; returns when the first child is ready. Raises StartError with the reason."""
        try:
            async with asyncio.timeout(self.settings.start_timeout_s):
                await self._start_template()
                await self.ready.wait()
        except TimeoutError:
            raise StartError("the classifier processes did not start in time") from None

    async def close(self) -> None:
        """End all processes. What they were reading fails with PROCESS_DIED. Safe to call twice."""
        self._is_closing = True
        await self._tasks.cancel_all(timeout_s=5)
        template = self._template
        self._drop_template()
        if template is not None:
            await asyncio.to_thread(_reap, template)

    def became_ready(self, child: Child) -> None:
        """A new child has reported."""
        self._early_deaths = 0
        self.ready.set()
        self.owner.on_idle(child)

    def failed(self, child: Child, reason: str) -> None:
        """A child is late, dead or misbehaves: it is killed and replaced. Nothing happens if that was done already."""
        if self._children.get(child.number) is not child:
            return
        if not child.is_ready:
            self._early_deaths += 1
        self.discard(child)
        self.owner.on_failure(child, reason)

    def discard(self, child: Child) -> None:
        """Kill a child and fork another."""
        del self._children[child.number]
        child.abort()
        self._order(KILL, child.number)
        if not self.alive:
            self.ready.clear()
        self._replenish()

    def _replenish(self) -> None:
        """Have as many children as there should be."""
        if self._is_closing or self._control is None:
            return
        while len(self._children) < self.settings.processes:
            number = self._next_number
            self._next_number += 1
            ours, theirs = socket.socketpair()
            child = self._children[number] = Child(self, number, ours.fileno())
            # Children that die before they report are not replaced faster than some times a second: something is wrong with the machine.
            delay_s = min(5.0, 0.05 * 2 ** min(self._early_deaths, 10)) if self._early_deaths else 0.0
            self._tasks.spawn(
                self._start_child(child, ours, theirs, delay_s), name=f"start classifier process {number}"
            )

    async def _start_child(self, child: Child, ours: socket.socket, theirs: socket.socket, delay_s: float) -> None:
        with theirs:
            try:
                if delay_s:
                    await asyncio.sleep(delay_s)
                ours.setblocking(False)  # noqa: FBT003 - the socket's own signature
                await asyncio.get_running_loop().create_connection(lambda: child, sock=ours)
            except BaseException:
                ours.close()
                raise
            if self._children.get(child.number) is child:
                self._order(FORK, child.number, theirs)
            else:
                child.abort()

    def _order(self, order: bytes, number: int, channel: socket.socket | None = None) -> None:
        """Tell the template. Orders are small and few: if one does not fit into the socket the template is stuck, and is replaced."""
        if self._control is None:
            return
        try:
            socket.send_fds(self._control, [ORDER.pack(order, number)], [] if channel is None else [channel.fileno()])
        except OSError:
            asyncio.get_running_loop().call_soon(self._template_lost, self._control)

    async def _start_template(self) -> None:
        """Start the template, wait for it to be warm, and order the children."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - the socket's own signature
        loop = asyncio.get_running_loop()
        with theirs:
            self._template = _spawn_template(theirs.fileno(), self.settings)
        self._control, self._control_buffer = ours, b""
        waiter = self._template_ready = loop.create_future()
        loop.add_reader(ours.fileno(), self._read_control, ours)
        await waiter
        self._replenish()

    def _read_control(self, control: socket.socket) -> None:
        try:
            data = control.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._control_buffer = (self._control_buffer + data).split(b"\n")
        self._take_events(lines)
        if not data or len(self._control_buffer) > _MAX_CONTROL_LINE:
            self._template_lost(control)

    def _take_events(self, lines: Iterable[bytes]) -> None:
        """News from the template, which has seen no statement and is believed."""
        waiter = self._template_ready
        for event in map(orjson.loads, lines):
            if "ready" in event and waiter is not None and not waiter.done():
                waiter.set_result(None)
            elif "failed" in event and waiter is not None and not waiter.done():
                waiter.set_exception(StartError(f"the classifier cannot be loaded: {event['failed']}"))
            elif "ended" in event and event["ended"] in self._children:
                # Not one that we killed: those are forgotten before. The status of a signal is negative.
                _log.warning("a classifier process ended by itself with status %d", event["status"])

    def _template_lost(self, control: socket.socket) -> None:
        if control is not self._control:
            return
        was_running = self._template_ready is not None and self._template_ready.done()
        template = self._template
        self._drop_template()
        if was_running and not self._is_closing:
            _log.error("the classifier's template process ended; it is started again")
            self.restarts += 1
            self._tasks.spawn(self._restart_template(template), name="restart the classifier's template")

    def _drop_template(self) -> None:
        """Forget the template and every child: without it they cannot be killed one by one, so they end with their sockets and with it."""
        control, self._control = self._control, None
        if control is not None:
            asyncio.get_running_loop().remove_reader(control.fileno())
            control.close()
        self._template = None
        waiter, self._template_ready = self._template_ready, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(StartError("the classifier's template process ended"))
        children, self._children = self._children, {}
        self.ready.clear()
        for child in children.values():
            child.abort()
            self.owner.on_failure(child, PROCESS_DIED)

    async def _restart_template(self, old: subprocess.Popen[bytes] | None) -> None:
        delay_s = 0.1
        while True:
            if old is not None:
                await asyncio.to_thread(_reap, old)
            try:
                async with asyncio.timeout(self.settings.start_timeout_s):
                    await self._start_template()
                return
            except (StartError, OSError, TimeoutError) as error:
                _log.error("the classifier's template process does not start: %s", type(error).__name__)
            old = self._template
            self._drop_template()
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 10.0)


def _spawn_template(control_fd: int, settings: ProcessSettings) -> subprocess.Popen[bytes]:
    """Start the template with nothing of ours but the control socket: no other descriptor, no environment, no secret."""
    paths = [str(Path(__file__).resolve().parents[2]), *settings.import_paths]
    parser = importlib.util.find_spec("sqlglot")
    if parser is not None and parser.origin is not None:
        paths.append(str(Path(parser.origin).resolve().parent.parent))
    arguments = (
        control_fd,
        os.getpid(),
        settings.classify,
        settings.scrub,
        ",".join(settings.dialects),
        settings.memory_bytes,
        settings.cpu_s,
    )
    program = f"import sys; sys.path[:0] = {paths!r}; from dbproxy.classifier.child import main; main(*{arguments!r})"
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return subprocess.Popen(  # noqa: S603 - our own interpreter, our own text
        [sys.executable, "-I", "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"LANG": "C.UTF-8", **environment},
        pass_fds=(control_fd,),
        start_new_session=True,
    )


def _reap(template: subprocess.Popen[bytes]) -> None:
    """Wait for a template whose control socket is closed, and kill it if it does not go by itself. Blocks: run it in a thread."""
    with suppress(subprocess.TimeoutExpired):
        template.wait(2)
        return
    template.kill()
    template.wait()
