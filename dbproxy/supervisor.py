"""The supervisor: the process that is started. Opens the listening sockets, starts one control process and the workers, starts again what
crashes or hangs, passes signals on, ends everything in order. It serves nobody itself, so there is little in it that could fail.

    SIGTERM, SIGINT   drain: workers end when their sessions have, then control; exit 0
    SIGUSR1           every process ends the segment of its chain and begins the next
    SIGHUP            control reads policies, users and certificates again
    SIGUSR2           rolling restart: for each worker a successor starts on the same sockets, then the old one drains

        place 1: slots 1, 1+N   ┐ one socket of each listener (SO_REUSEPORT) is kept here for each place, whoever serves it: while
        place 2: slots 2, 2+N   ┘ a worker is being replaced, who connects waits in its queue, and is not refused

A worker's slot names its chain in the ledger. One that is started again after a crash continues the chain; a successor has the other
slot of its pair, because both write for a while. Counterparts: children.py, controller.py, worker.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from config.settings import Settings
from dbproxy import ipc, unix_socket
from dbproxy.audit.locks import DirectoryLock
from dbproxy.children import Child, Children
from dbproxy.clock import Clock
from dbproxy.errors import StartError
from dbproxy.in_force import SharedMemory
from dbproxy.listening import address_of, listen, listen_shared
from dbproxy.news import News
from dbproxy.operations import ProcessState
from dbproxy.orders import CONTROL, HOME, IPC_SOCKET, SUPERVISOR, WORKER, Orders
from dbproxy.pulse import PATIENCE_S, Pulse
from dbproxy.tasks import Tasks
from dbproxy.throttle_memory import ThrottleMemory

_log = logging.getLogger("dbproxy")
_START_S = 60.0
_LOCK_S = 3.0
"""A proxy that was killed leaves children that the kernel ends a moment later."""
_LOCK_STEP_S = 0.05
_DRAIN_MARGIN_S = 20.0
"""Beyond timeouts.drain_s: for telling clients, closing the ledger, and a busy machine."""
_FINISH_S = 20.0
_KILL_S = 5.0
_STEADY_S = 60.0
_MAX_DELAY_S = 30.0
_REASON_MAX = 1000
"""Characters of what a process that cannot start says, in the audit trail; the log has all of it."""


def restart_delay_s(crashes: int) -> float:
    """How long to wait before starting a process again that has crashed so often in a row: at once, then ever longer."""
    return 0.0 if crashes <= 1 else min(_MAX_DELAY_S, 0.25 * 2.0 ** min(crashes - 2, 10))


def other_slot(slot: int, workers: int) -> int:
    """The slot of a worker's successor: k and k + N are a pair."""
    return slot + workers if slot <= workers else slot - workers


@dataclass(slots=True)
class Place:
    """Where one process should always be. sockets: by listener; of workers only. current: None while it is being started again.

    crashes: in a row; a process that has lived for a minute begins anew. restarts: since the proxy was started.
    """

    role: str
    slot: int
    sockets: dict[str, socket.socket] = field(default_factory=dict)
    current: Child | None = None
    crashes: int = 0
    restarts: int = 0
    is_starting: bool = False


class Supervisor:
    """One running proxy. settings_path, settings_sha256: of the file that the settings were read from. patience_s: see pulse.py."""

    def __init__(
        self,
        settings_path: Path,
        settings: Settings,
        settings_sha256: str,
        clock: Clock,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._path = settings_path
        self._settings = settings
        self._sha256 = settings_sha256
        self._clock = clock
        self._started_at_ns = clock.wall_ns()
        self._children = Children(clock, self._ended)
        self._pulse = Pulse(lambda: self._children.running, patience_s)
        self._tasks = Tasks(self._failed)
        self._stop = asyncio.Event()
        self._is_up = False
        self._is_finishing = False
        self._exit_code = 0
        self._rolling: asyncio.Task[None] | None = None
        self._news = News()
        self._lock = DirectoryLock(settings.audit.directory)
        self._memory = SharedMemory.create()
        self._throttle = ThrottleMemory.create()
        self._ipc: socket.socket | None = None
        self._admin: socket.socket | None = None
        self._control = Place(CONTROL, 0)
        self._places = [Place(WORKER, slot) for slot in range(1, settings.processes.workers + 1)]
        self._beside: list[Child] = []  # running, and in no place: successors that start, and workers that drain

    # ---- life ---------------------------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[list[str]], None]) -> int:
        """Keep the proxy running until told to stop. on_ready: called with the addresses in use. Returns the exit status.

        Raises StartError when it cannot start; nothing is left running then.
        """
        loop = asyncio.get_running_loop()
        self._children.start()
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        actions = (self._stop.set, self._stop.set, self._read_again, self._rotate, self._begin_roll)
        try:
            for number, action in zip(numbers, actions, strict=True):
                loop.add_signal_handler(number, action)
            await self._take_lock()
            self._open_sockets()
            self._tasks.spawn(self._pulse.watch(), name="pulse")
            if await self._start_all():
                self._is_up = True
                on_ready(self._addresses())
                await self._stop.wait()
                await self._shut_down()
        finally:
            self._is_finishing = True
            await self._tasks.cancel_all(timeout_s=1)
            await self._children.kill_all(_KILL_S)
            self._children.stop()
            for number in numbers:
                loop.remove_signal_handler(number)
            self._close_sockets()
            self._lock.release()
        return self._exit_code

    def _failed(self, _name: str, _error: BaseException) -> None:
        """A part of the supervisor itself: it can no longer promise anything."""
        self._exit_code = 1
        self._stop.set()

    async def _take_lock(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LOCK_S
        while True:
            try:
                self._lock.acquire()
                return
            except StartError:
                if loop.time() > deadline:
                    raise
            except OSError as error:
                directory = self._settings.audit.directory
                raise StartError(f"audit ledger in {directory} cannot be opened: {error.strerror}") from error
            await asyncio.sleep(_LOCK_STEP_S)

    async def _start_all(self) -> bool:
        """Start every process and wait until each is ready. Returns whether to go on; False when told to stop meanwhile."""
        await self._spawn(self._control, "start", is_first=True)
        for place in self._places:
            await self._spawn(place, "start", is_first=True)
        children = [place.current for place in (self._control, *self._places) if place.current is not None]
        if len(children) <= len(self._places):
            raise StartError("the proxy's processes cannot be started; see the messages")
        stopping = asyncio.ensure_future(self._stop.wait())
        waiting = {stopping, *(asyncio.ensure_future(child.started.wait()) for child in children)}
        try:
            async with asyncio.timeout(_START_S):
                while waiting != {stopping}:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if stopping in done:
                        return False
                    self._raise_failure(children)  # whichever is first: it is the cause if others then fail too
        except TimeoutError:
            raise StartError("the proxy's processes did not start in time") from None
        finally:
            for each in (stopping, *waiting):
                each.cancel()
        return True

    def _raise_failure(self, children: Iterable[Child]) -> None:
        failed = [child for child in children if child.started.is_set() and child.state is not ProcessState.READY]
        for child in sorted(failed, key=lambda each: (not each.problem, each.orders.slot)):
            if child.problem:
                raise StartError(child.problem)
            status = child.ended.result() if child.ended.done() else 0
            raise StartError(f"the process {child.name} ended while starting, {_describe(status)}; see the messages")

    async def _shut_down(self) -> None:
        """Drain the workers, then have control end."""
        reason = "asked to stop" if self._exit_code == 0 else "a part of the supervisor failed"
        self._is_finishing = True
        if self._rolling is not None:
            self._rolling.cancel()
        for place in self._places:
            for each in place.sockets.values():
                each.close()  # nobody waits in vain: the workers close theirs now too
        await self._spawn(self._control, "crash")  # if it is away, at once: workers that end have something to tell it
        self._say_control(ipc.Drain(reason, is_gentle=False))
        workers = [child for child in self._children.running if child.orders.role == WORKER]
        for child in workers:
            child.state = ProcessState.DRAINING
            child.say(ipc.Drain(reason, is_gentle=False))
        self._tell_team()
        is_orderly = await self._have_ended(workers, self._settings.timeouts.drain_s + _DRAIN_MARGIN_S)
        await self._spawn(self._control, "crash")
        control = self._control.current
        if control is not None:
            await asyncio.wait([asyncio.ensure_future(control.started.wait())], timeout=_FINISH_S)
            control.say(ipc.Finish(reason))
            is_orderly &= await self._have_ended([control], _FINISH_S)
        if not is_orderly:
            self._exit_code = 1

    async def _have_ended(self, children: list[Child], timeout_s: float) -> bool:
        """Wait for their end, and kill who does not come to it in time. Returns whether all of them have ended in good order."""
        if not children:
            return True
        _, late = await asyncio.wait([child.ended for child in children], timeout=timeout_s)
        for child in children:
            if child.ended in late:
                _log.error("%s does not end; it is killed", child.name)
                child.kill(f"did not end within {timeout_s:g} s")
                await asyncio.wait([child.ended], timeout=_KILL_S)
        return all(child.ended.done() and child.ended.result() == 0 for child in children)

    # ---- sockets ------------------------------------------------------------------------------------------------

    def _open_sockets(self) -> None:
        """All that is listened on. Raises StartError if an address cannot be had."""
        state = self._settings.state.directory
        unix_socket.private_directory(state)
        self._ipc = unix_socket.listen(state / IPC_SOCKET)
        self._admin = listen(*self._settings.admin.address)
        for listener in self._settings.listeners:
            host, port = listener.address
            host = "127.0.0.1" if host == "localhost" else host
            try:
                for each, place in zip(listen_shared(host, port, len(self._places)), self._places, strict=True):
                    place.sockets[listener.name] = each
            except OSError as error:
                raise StartError(f"listener {listener.name} on {host}:{port}: {error.strerror}") from error

    def _close_sockets(self) -> None:
        if self._ipc is not None:
            with suppress(OSError):
                (self._settings.state.directory / IPC_SOCKET).unlink()
        for each in (self._ipc, self._admin, *(each for place in self._places for each in place.sockets.values())):
            if each is not None:
                each.close()
        self._memory.close()
        self._throttle.close()

    def _addresses(self) -> list[str]:
        """Where the proxy can be reached, for people."""
        lines = [
            f"{listener.name} {address_of(self._places[0].sockets[listener.name])} → {listener.target}"
            for listener in self._settings.listeners
        ]
        if self._admin is not None:
            lines.append(f"metrics and health http://{address_of(self._admin)}")
        return lines

    # ---- processes ----------------------------------------------------------------------------------------------

    def _orders(self, place: Place, slot: int, trigger: str, *, is_first: bool) -> Orders:
        is_control = place.role == CONTROL
        return Orders(
            role=place.role,
            slot=slot,
            trigger=trigger,
            is_first=is_first,
            supervisor_pid=os.getpid(),
            home=HOME,
            settings=self._settings,
            settings_path=self._path,
            settings_sha256=self._sha256,
            proxy_started_at_ns=self._started_at_ns,
            memory=self._memory.descriptors,
            listeners=tuple((name, each.fileno()) for name, each in place.sockets.items()),
            throttle=self._throttle.descriptors if is_control else (-1, -1),
            ipc_fd=self._ipc.fileno() if is_control and self._ipc is not None else -1,
            admin_fd=self._admin.fileno() if is_control and self._admin is not None else -1,
        )

    async def _start_child(self, place: Place, slot: int, trigger: str, *, is_first: bool = False) -> Child:
        """Start a process for this place; it is not the current one yet. Raises OSError."""
        orders = self._orders(place, slot, trigger, is_first=is_first)
        descriptors = [
            orders.ipc_fd,
            orders.admin_fd,
            self._lock.fd,
            *orders.memory,
            *orders.throttle,
            *(fd for _, fd in orders.listeners),
        ]
        child = await self._children.spawn(orders, [fd for fd in descriptors if fd >= 0])
        self._report("started", child, 0)
        return child

    async def _spawn(self, place: Place, trigger: str, *, is_first: bool = False) -> None:
        """Start this place's process if there is none. Where that is not possible, place.current stays None."""
        if place.current is not None or place.is_starting:
            return
        place.is_starting = True
        try:
            child = place.current = await self._start_child(place, place.slot, trigger, is_first=is_first)
        except OSError as error:
            _log.error("a %s process cannot be started: %s", place.role, error.strerror)
            return
        finally:
            place.is_starting = False
        self._tasks.spawn(self._announce(child), name="a process that starts")
        self._tell_team()

    async def _announce(self, child: Child) -> None:
        """Tell control of it when it is ready."""
        await child.started.wait()
        self._tell_team()

    def _ended(self, child: Child, status: int) -> None:
        """A process is gone. If it should be there, another takes its place."""
        self._news.forget(child)
        place = next((each for each in (self._control, *self._places) if each.current is child), None)
        was_asked = child.state is ProcessState.DRAINING or self._is_finishing
        if child in self._beside:
            self._beside.remove(child)
        if place is None or (self._is_finishing and place.role == WORKER) or not self._is_up:
            kind = "ended" if status == 0 else "crashed"
            if kind == "crashed" and self._is_up:
                _log.error("%s (process %d) ended, %s", child.name, child.pid, _describe(status, child.problem))
            self._report(kind, child, status, restart_in_s=-1)
            self._tell_team()
            return
        if was_asked and status == 0:
            return
        place.current = None
        is_steady = asyncio.get_running_loop().time() - child.began > _STEADY_S
        place.crashes = 1 if is_steady else place.crashes + 1
        place.restarts += 1
        delay_s = restart_delay_s(place.crashes)
        _log.error(
            "%s (process %d) ended, %s; it is started again%s",
            child.name,
            child.pid,
            _describe(status, child.problem),
            f" in {delay_s:g} s" if delay_s else "",
        )
        self._report("crashed", child, status, restart_in_s=delay_s)
        self._tell_team()
        self._tasks.spawn(self._restart(place, delay_s), name=f"restart of {child.name}")

    async def _restart(self, place: Place, delay_s: float) -> None:
        while place.current is None and not (self._is_finishing and place.role == WORKER):
            if delay_s:
                await asyncio.sleep(delay_s)
            await self._spawn(place, "crash")
            delay_s = max(1.0, delay_s)  # where not even a process can be made, the machine needs a moment

    # ---- rolling restart ----------------------------------------------------------------------------------------

    def _begin_roll(self) -> None:
        if self._is_finishing or not self._is_up:
            return
        if self._rolling is not None and not self._rolling.done():
            _log.warning("a rolling restart is under way already")
            return
        self._rolling = self._tasks.spawn(self._roll(), name="rolling restart")

    async def _roll(self) -> None:
        """Replace one worker after the other. Where a successor cannot start, the old one stays, and so do those after it."""
        for place in self._places:
            old = place.current
            if old is None or old.state is not ProcessState.READY:
                continue  # it is being started anyway
            slot = other_slot(old.orders.slot, len(self._places))
            place.is_starting = True  # if the old one crashes meanwhile, the new one takes its place, and no third
            try:
                new = await self._start_beside(place, slot)
            finally:
                place.is_starting = False
            if new is None:
                return
            self._beside.remove(new)
            place.current, place.slot = new, slot
            if old.ended.done():
                self._tell_team()
                continue
            old.state = ProcessState.DRAINING
            self._beside.append(old)
            old.say(ipc.Drain("replaced by another worker", is_gentle=True))
            self._tell_team()
            await self._have_ended([old], self._settings.timeouts.drain_s + _DRAIN_MARGIN_S)
        _log.warning("rolling restart done")

    async def _start_beside(self, place: Place, slot: int) -> Child | None:
        """A successor that is ready, not in its place yet. None if that cannot be, which is logged."""
        try:
            new = await self._start_child(place, slot, "rolling")
        except OSError as error:
            _log.error("rolling restart given up: a new worker cannot be started: %s", error.strerror)
            return None
        self._beside.append(new)
        self._tell_team()
        with suppress(TimeoutError):
            await asyncio.wait_for(new.started.wait(), _START_S)
        if new.state is ProcessState.READY:
            return new
        _log.error("rolling restart given up: the new worker says: %s", new.problem or "nothing")
        new.kill("was not ready in time")
        return None

    # ---- control ------------------------------------------------------------------------------------------------

    def _read_again(self) -> None:
        self._say_control(ipc.ReadAgain("change"))

    def _rotate(self) -> None:
        for child in self._children.running:
            child.say(ipc.Rotate())

    def _say_control(self, message: ipc.Message) -> None:
        if self._control.current is not None:
            self._control.current.say(message)

    def _report(self, kind: str, child: Child, status: int, *, restart_in_s: float = 0) -> None:
        """Have control record it, as soon as there is one."""
        orders = child.orders
        self._news.add(
            ipc.Happened(
                number=0,
                kind=kind,
                role=orders.role,
                slot=orders.slot,
                pid=child.pid,
                trigger=orders.trigger,
                status=status,
                reason=child.problem[:_REASON_MAX],
                restart_in_s=restart_in_s,
                at_ns=child.started_at_ns if kind == "started" else self._clock.wall_ns(),
            )
        )

    def _tell_team(self) -> None:
        """Tell control what there is, and what has happened since it was last told."""
        own = ipc.Member(SUPERVISOR, 0, os.getpid(), ProcessState.READY.value, self._started_at_ns, 0)
        places = [_member(place, place.current) for place in (self._control, *self._places)]
        others = [_member(Place(child.orders.role, child.orders.slot), child) for child in self._beside]
        control = self._control.current
        if control is not None and control.say(ipc.Team((own, *places, *others))):
            self._news.tell(control)


def _member(place: Place, child: Child | None) -> ipc.Member:
    if child is None:
        return ipc.Member(place.role, place.slot, 0, ProcessState.DOWN.value, 0, place.restarts)
    return ipc.Member(place.role, child.orders.slot, child.pid, child.state.value, child.started_at_ns, place.restarts)


def _describe(status: int, problem: str = "") -> str:
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return f"{how} ({problem})" if problem else how
