"""The control process: one for the proxy. Counts who may come in, reads the operator's files, shows figures, answers the admin API, and keeps
the chain of slot 0. No client's byte passes through it, and sessions go on while it is away.

start:  ledger ─► policies and users into force ─► workers may connect ─► metrics, health, admin API ─► Ready
stop:   Drain (shown in /readyz) … all workers have ended … Finish ─► HTTP ─► proxy.stop ─► ledger

What lasts is in the state directory (state.db, store/); what workers judge by, and who has failed to log in, in the supervisor's memory
(in_force.py, throttle_memory.py). Everything else is asked of the workers or counted anew, so that this process can be started again at any time. Counterparts: supervisor.py, worker.py.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import socket
from collections import deque

import uvloop

from config.errors import ConfigError
from config.files import read_trusted
from config.load import MAX_USERS_BYTES, check_settings, parse_users
from dbproxy import __version__, ipc
from dbproxy.admin import Admin
from dbproxy.admission import Admission
from dbproxy.audit.types import EventType
from dbproxy.catalogue.keeper import Keeper
from dbproxy.clock import SystemClock
from dbproxy.control import Control
from dbproxy.digest_key import make_key
from dbproxy.errors import DbproxyError, StartError
from dbproxy.exposition import ProcessFigures, View
from dbproxy.figures import Snapshot, take_snapshot
from dbproxy.identity.identity import People, UsersError
from dbproxy.identity.tls import target_context
from dbproxy.in_force import InForce, SharedMemory
from dbproxy.metrics import Counters, watch_loop
from dbproxy.notary import Notary
from dbproxy.operations import AuditStatus, ProcessState, ProcessStatus, ProxyStatus, Reloaded
from dbproxy.orders import CONTROL, SUPERVISOR, WORKER, Orders
from dbproxy.own_chain import OwnChain
from dbproxy.policy.load import compile_policy, read_policies
from dbproxy.proc import Usage, read_usage
from dbproxy.runs import Runs
from dbproxy.tasks import Tasks
from dbproxy.throttle_memory import ThrottleMemory
from dbproxy.watched import WatchedFiles, file_sha256
from dbproxy.workers import Workers

_log = logging.getLogger("dbproxy")
_WATCH_S = 1.0
_AGAIN_S = 0.5
_ADMIN_AGAIN_S = 5.0
_ERRORS_SHOWN = 50


class Controller:
    """The control process at work. Implements control.State and operations.Operations."""

    def __init__(self, orders: Orders) -> None:
        settings = orders.settings
        self._orders = orders
        self._settings = settings
        self._clock = SystemClock()
        self._tasks = Tasks(self._crashed)
        self._counters = Counters()
        self._finish = asyncio.Event()
        self._finish_reason = "asked to stop"
        self._is_over = False
        self._is_draining = False
        self._exit_code = 0
        self._channel: ipc.Channel | None = None
        self._members: tuple[ipc.Member, ...] = ()
        self._early: list[ipc.Message] = []
        self._news: deque[ipc.Happened] = deque()
        self._has_news = asyncio.Event()
        self._admin_trouble = ""
        self._files = WatchedFiles()
        self._memory = SharedMemory(orders.memory)
        self._in_force = InForce((), None)
        self._reloads = 0
        self._rejections = 0
        self._reloading = asyncio.Lock()
        self._policy_sha256 = ""
        self._chain = OwnChain(settings, orders.slot, self._counters, self._clock)
        self._runs = Runs(settings.state.directory, self._clock, __version__, lambda: self._members)
        self._workers = Workers(
            socket.socket(fileno=orders.ipc_fd),
            Admission(settings.limits, self._clock, ThrottleMemory(orders.throttle)),
            self._note_heads,
            lambda slot: self._notary.greet(slot),
            lambda slot, wanted: self._catalogues.want(slot, wanted),
        )
        self._catalogues = Keeper(settings, self._clock, self._workers.tell, lambda target: target_context(target.tls))
        self._notary = Notary(settings, self._chain, self._clock, self._workers.tell)
        self._control = Control(self)
        self._admin = Admin(self._workers, self, self._chain.record_durably, self._runs.latest)

    # ---- life ---------------------------------------------------------------------------------------------------

    async def run(self, channel: socket.socket) -> int:
        """Work until told to finish. channel: to the supervisor. Returns the exit status."""
        loop = asyncio.get_running_loop()
        opened = self._channel = ipc.Channel(ipc.FROM_SUPERVISOR, self._take_order, self._supervisor_gone)
        await loop.create_connection(lambda: opened, sock=channel)
        try:
            await self._start()
        except (DbproxyError, ConfigError) as error:
            await self._give_up(str(error))
            return 2
        except BaseException:
            await self._give_up("a part of it failed; see the messages")
            raise
        opened.send(ipc.Ready())
        await self._finish.wait()
        await self._end()
        return self._exit_code

    async def _start(self) -> None:
        orders, settings = self._orders, self._settings
        warnings: tuple[str, ...] = ()
        if orders.is_first:
            policies, warnings, self._policy_sha256 = self._read_policies()
            found = InForce(policies, self._read_users())
        else:
            # The proxy goes on with what it had, also if somebody is editing the files at this moment.
            found = self._memory.read()
            policy = compile_policy(found.policies).policy
            self._policy_sha256 = policy.sha256 if policy is not None else ""
        for warning in warnings:
            _log.warning("%s", warning)
        slots = range(2 * settings.processes.workers + 1)
        self._notary.open(slots, is_first=orders.is_first)
        recovery = self._chain.open()
        make_key(settings)
        if orders.is_first:
            self._chain.record(
                EventType.PROXY_START,
                {"version": __version__, "pid": orders.supervisor_pid, "recovered": len(recovery.unknown)},
            )
            self._chain.record(EventType.SETTINGS_LOADED, {**self._settings_source(), "trigger": "start"})
        self._put_in_force(found)
        self._remember_files()
        await self._control.start(socket.socket(fileno=orders.admin_fd))
        await self._start_admin()
        self._workers.start()
        self._catalogues.start()
        for message in self._early:
            self._take_order(message)
        self._early.clear()
        self._runs.start(is_first=orders.is_first)
        self._tasks.spawn(watch_loop(self._counters.lag, self._clock), name="loop lag")
        self._tasks.spawn(self._chain.watch(), name="audit ledger")
        self._tasks.spawn(self._notary.run(), name="checkpoints")
        self._tasks.spawn(self._note_news(), name="news of processes")
        self._tasks.spawn(self._watch_files(), name="files")
        if not orders.is_first:
            self._tasks.spawn(self._reload_what_changed(), name="files that may have changed meanwhile")

    async def _start_admin(self) -> None:
        """At a first start the admin API must be there. Later nobody is kept from the database because the state directory cannot be written."""
        try:
            await self._admin.start(self._settings.state.directory)
        except StartError as error:
            if self._orders.is_first:
                raise
            self._tasks.spawn(self._start_admin_later(str(error)), name="admin API")

    async def _start_admin_later(self, why: str) -> None:
        while why:
            if why != self._admin_trouble:
                _log.error("the admin API does not answer: %s", why)
            self._admin_trouble = why
            await asyncio.sleep(_ADMIN_AGAIN_S)
            try:
                await self._admin.start(self._settings.state.directory)
                why = ""
            except StartError as error:
                why = str(error)
        self._admin_trouble = ""
        _log.warning("the admin API answers again")

    async def _give_up(self, why: str) -> None:
        if self._channel is not None:
            self._channel.send(ipc.CannotStart(why))
        await self._stop_parts()
        await self._chain.close("the control process could not start")
        await self._close_channel()

    async def _end(self) -> None:
        await self._stop_parts()
        self._chain.last_beat()
        if self._exit_code == 0:
            while self._news:
                self._note_process(self._news.popleft())
            self._chain.record(EventType.PROXY_STOP, {"reason": self._finish_reason})
            await self._chain.reach_disk()
            await self._notary.finish()
        await self._chain.close(
            "the proxy was stopped" if self._exit_code == 0 else "a part of the control process failed"
        )
        await self._close_channel()

    async def _stop_parts(self) -> None:
        await self._tasks.cancel_all(timeout_s=5)
        await asyncio.gather(self._admin.stop(), self._control.stop(), self._catalogues.stop())
        await self._workers.stop()
        await self._runs.close()

    async def _close_channel(self) -> None:
        self._is_over = True
        if self._channel is not None:
            await self._channel.finish()

    def _crashed(self, name: str, error: BaseException) -> None:
        """A part that must run does not. The supervisor starts another control process."""
        _log.critical("%s has failed (%s); the control process ends", name, type(error).__name__)
        self._exit_code = 1
        self._finish.set()

    def _supervisor_gone(self, _reason: str) -> None:
        if not self._is_over:
            os._exit(70)

    def _take_order(self, message: ipc.Message) -> None:
        if isinstance(message, ipc.Ping):
            if self._channel is not None:
                self._channel.send(ipc.Pong())
            return
        if self._chain.turn is None:
            self._early.append(message)  # the trail is not open yet
            return
        match message:
            case ipc.Team():
                self._members = message.members
                self._workers.set_team(message.members)
            case ipc.Happened():
                self._news.append(message)
                self._has_news.set()
            case ipc.ReadAgain():
                self._tasks.spawn(self._reload(message.trigger), name="reload")
            case ipc.Rotate():
                self._chain.ledger.rotate()
            case ipc.Drain():
                self._is_draining = True
            case ipc.Finish():
                self._finish_reason = message.reason
                self._finish.set()

    # ---- records ------------------------------------------------------------------------------------------------

    async def _note_news(self) -> None:
        """Record what happens to processes, and confirm it when the disk has it: the supervisor tells the next control process what is not confirmed."""
        number = 0
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            while self._news and self._note_process(self._news[0]):
                number = self._news.popleft().number
            if not self._news and await self._chain.reach_disk():
                if self._channel is not None:
                    self._channel.send(ipc.Noted(number))
            else:
                await asyncio.sleep(_AGAIN_S)
                self._has_news.set()

    def _note_process(self, news: ipc.Happened) -> bool:
        """False if the trail takes no more."""
        fields: dict[str, object] = {"role": news.role, "slot": news.slot, "process": news.pid}
        match news.kind:
            case "started":
                is_recorded = self._chain.record(EventType.PROCESS_STARTED, {**fields, "trigger": news.trigger})
            case "crashed":
                fields |= {"status": news.status}
                if news.reason:
                    fields |= {"reason": news.reason}
                if news.restart_in_s >= 0:
                    fields |= {"restart_in_s": news.restart_in_s}
                is_recorded = self._chain.record(EventType.PROCESS_CRASHED, fields)
            case _:
                is_recorded = self._chain.record(EventType.PROCESS_ENDED, {**fields, "trigger": news.trigger})
        if is_recorded:
            self._runs.note(news)
        return is_recorded

    def _note_heads(self, slot: int, heads: ipc.Heads) -> None:
        self._notary.take_heads(slot, heads)

    # ---- what is in force ---------------------------------------------------------------------------------------

    def _read_policies(self) -> tuple[tuple[tuple[str, bytes], ...], tuple[str, ...], str]:
        """The operator's policies, warnings about them, and their digest. Raises ConfigError if they are not valid."""
        contents, problems = read_policies(self._settings.policies.files)
        checked = compile_policy(contents)
        problems += checked.problems
        if checked.policy is None or any(not problem.is_warning for problem in problems):
            raise ConfigError(tuple(sorted(problems)))
        return tuple(contents), tuple(str(problem) for problem in checked.warnings), checked.policy.sha256

    def _read_users(self) -> bytes | None:
        """The operator's users file. Raises ConfigError, UsersError if it is not valid."""
        path = self._settings.users.file
        if path is None:
            return None
        users = read_trusted(path, MAX_USERS_BYTES)
        People(parse_users(users, path))
        return users

    def _put_in_force(self, found: InForce) -> None:
        """For all workers, from now on. Raises StartError if it cannot be written."""
        try:
            self._memory.write(found)
        except OSError as error:
            raise StartError(f"there is no memory for policies and users: {error.strerror}") from error
        self._in_force = found
        self._workers.in_force = found.sha256

    async def _reload_what_changed(self) -> None:
        """After a restart of this process: the files may have changed while it was away."""
        try:
            policies, _, _ = await asyncio.to_thread(self._read_policies)
            is_same = InForce(policies, self._read_users()) == self._in_force
        except (ConfigError, UsersError, OSError):
            is_same = False
        if not is_same:
            await self._reload("change")

    async def reload(self) -> Reloaded:
        """See Operations."""
        problems = await self._reload("admin")
        return Reloaded(self._policy_sha256, problems)

    async def _reload(self, trigger: str) -> tuple[str, ...]:
        """Read policies, users and certificates again. What is invalid leaves the old in force, and says so in the trail."""
        async with self._reloading:
            self._remember_files()
            problems = [*self._check_settings(trigger)]
            before = self._in_force
            policies, users = before.policies, before.users
            try:
                policies, warnings, self._policy_sha256 = await asyncio.to_thread(self._read_policies)
                for warning in warnings:
                    _log.warning("%s", warning)
                self._reloads += 1
            except (ConfigError, OSError) as error:
                problems += self._reject(EventType.POLICY_REJECTED, "policy", error, trigger)
                self._rejections += 1
            are_users_valid = True
            try:
                users = self._read_users()
            except (ConfigError, UsersError, OSError) as error:
                problems += self._reject(EventType.USERS_REJECTED, "users", error, trigger)
                are_users_valid = False
            try:
                self._put_in_force(InForce(policies, users))
            except StartError as error:
                _log.error("%s; the old policies and users stay", error)
                return (*problems, str(error))
            for slot, found in await self._workers.take_over(trigger):
                problems += [f"worker {slot}: {problem}" for problem in found]
                for problem in found:
                    _log.error("not all of what was read again is in use: worker %d: %s", slot, problem)
            if are_users_valid and self._settings.users.file is not None:
                self._chain.record(EventType.USERS_LOADED, {"file": str(self._settings.users.file), "trigger": trigger})
            return tuple(problems)

    def _reject(self, event: EventType, what: str, error: Exception, trigger: str) -> list[str]:
        lines = str(error).splitlines()[:_ERRORS_SHOWN]
        _log.error("%s not loaded, the old one stays: %s", what, error)
        self._chain.record(event, {"errors": lines, "trigger": trigger})
        return lines

    def _settings_source(self) -> dict[str, object]:
        return {"file": str(self._orders.settings_path), "sha256": self._orders.settings_sha256}

    def _check_settings(self, trigger: str) -> list[str]:
        """Settings take effect at a start only. Say so if they changed, and say now if the next start would fail."""
        path = self._orders.settings_path
        checked = check_settings(path)
        if checked.value is None:
            errors = [str(problem) for problem in checked.problems if not problem.is_warning]
            _log.error("the settings file has errors, the running settings stay: %s", "; ".join(errors[:10]))
            self._chain.record(
                EventType.SETTINGS_REJECTED,
                {**self._settings_source(), "errors": errors[:_ERRORS_SHOWN], "trigger": trigger},
            )
            return errors
        if file_sha256(path) != self._orders.settings_sha256:
            _log.warning("the settings file has changed; the changes take effect at the next start")
        return []

    def _remember_files(self) -> None:
        files = list(self._settings.policies.files)
        if self._settings.users.file is not None:
            files.append(self._settings.users.file)
        for listener in self._settings.listeners:
            files += [path for path in (listener.tls.certificate, listener.tls.key) if path is not None]
        self._files.remember(files)

    # ---- what is shown ------------------------------------------------------------------------------------------

    @property
    def lag_s(self) -> float:
        """See control.State."""
        return self._counters.lag.last_s

    async def view(self) -> View:
        """See control.State."""
        totals, workers = await self._workers.figures()
        own = self._own_figures()
        totals.add(own)
        totals.counts["policy_reloads"] = self._reloads
        totals.counts["policy_rejections"] = self._rejections
        totals.levels["is_history_down"] = bool(self._runs.trouble)
        snapshots = {figures.slot: figures.snapshot for figures in workers}
        processes = [
            _process_figures(member, own if member.role == CONTROL else snapshots.get(member.slot))
            for member in self._members
        ]
        return View(totals, tuple(processes), __version__)

    async def problems(self) -> tuple[str, ...]:
        """See control.State."""
        _, workers = await self._workers.figures()
        found = list(self._own_figures().problems)
        silent = []
        for figures in workers:
            found += figures.snapshot.problems
            if not figures.is_fresh:
                silent.append(f"worker {figures.slot} does not answer")
        count = self._settings.processes.workers
        ready = {member.slot for member in self._members if member.role == WORKER and member.state == "ready"}
        known = {figures.slot for figures in workers}
        missing = [
            f"worker {place} is not running"
            for place in range(1, count + 1)
            if not ready & known & {place, place + count}
        ]
        if self._is_draining:
            found.append("draining")
        return tuple(dict.fromkeys([*found, *silent, *missing]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """See control.State."""
        found = ((self._runs.trouble, "the history of processes is not kept"), (self._admin_trouble, "no admin API"))
        return (*(text for trouble, text in found if trouble), *self._catalogues.problems())

    def _own_figures(self) -> Snapshot:
        self._counters.is_audit_down = self._chain.ledger.is_down
        self._counters.audit_events = self._chain.ledger.records
        problems = (
            (self._chain.ledger.is_down, "audit cannot be written"),
            (bool(self._notary.trouble), "audit cannot be proven"),
        )
        return take_snapshot(self._counters, None, None, tuple(text for is_bad, text in problems if is_bad))

    async def status(self) -> ProxyStatus:
        """See Operations."""
        totals, workers = await self._workers.figures()
        sessions = {figures.slot: figures.snapshot.levels.get("sessions_open", 0) for figures in workers}
        problems = await self.problems()
        own = self._own_figures()
        reasons = [text for text in problems if text.startswith("audit")]
        prover = self._notary.prover
        return ProxyStatus(
            version=__version__,
            started_at_ns=self._orders.proxy_started_at_ns,
            settings_file=str(self._orders.settings_path),
            settings_sha256=self._orders.settings_sha256,
            policy_sha256=self._policy_sha256,
            sessions=sum(sessions.values()),
            problems=problems,
            warnings=(f"the history of processes is not kept: {self._runs.trouble}",) if self._runs.trouble else (),
            audit=AuditStatus(
                is_writable=not reasons,
                reason=self._chain.ledger.down_reason or self._notary.trouble or "; ".join(reasons),
                durability=self._settings.audit.durability.value,
                records=totals.counts["audit_events"] + own.counts["audit_events"],
                is_signing=prover is not None,
                checkpoint=prover.written_number if prover is not None else 0,
                checkpoint_at_ns=_parse_time(prover.written_at) if prover is not None else 0,
                is_anchored=prover is not None and prover.is_anchored,
            ),
            processes=tuple(
                ProcessStatus(
                    role=member.role,
                    slot=None if member.role == SUPERVISOR else member.slot,
                    pid=member.pid,
                    version=__version__,
                    state=ProcessState(member.state),
                    started_at_ns=member.started_at_ns,
                    restarts=member.restarts,
                    sessions=sessions.get(member.slot, 0) if member.role == WORKER else 0,
                )
                for member in self._members
            ),
        )

    # ---- timers -------------------------------------------------------------------------------------------------

    async def _watch_files(self) -> None:
        """Reload when a file has changed."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._files.look():
                await self._reload("change")


def _parse_time(text: str) -> int:
    """Of a record's `at`, in ns; 0 for ""."""
    return int(dt.datetime.fromisoformat(text).timestamp() * 1e9) if text else 0


def _process_figures(member: ipc.Member, snapshot: Snapshot | None) -> ProcessFigures:
    usage = read_usage(member.pid) if member.pid else Usage()
    return ProcessFigures(
        name=f"{member.role} {member.slot}" if member.role == WORKER else member.role,
        is_up=member.pid != 0,
        restarts=member.restarts,
        resident_bytes=usage.resident_bytes,
        cpu_s=usage.cpu_s,
        open_files=usage.open_files,
        policy_sha256=snapshot.policy_sha256 if snapshot is not None else "",
        lag_counts=snapshot.lag_counts if snapshot is not None else (),
        lag_sum_s=snapshot.lag_sum_s if snapshot is not None else 0.0,
    )


def run_control(orders: Orders, channel: socket.socket) -> int:
    """Be the control process until told to finish. Returns the exit status."""

    async def main() -> int:
        return await Controller(orders).run(channel)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())
