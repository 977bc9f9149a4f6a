"""A worker process: listeners, logins, sessions, and its own chain of the ledger. With engine_postgres.py the only place that knows which
engines there are.

start:  control says Welcome ─► ledger ─► classifier processes ─► policy, users, certificates ─► connections ─► Ready
stop:   Drain ─► connections ─► sessions drained ─► classifier processes ─► last head told ─► ledger

The listening sockets are the supervisor's, and stay when this process ends: whoever connects meanwhile waits for the next one.
Counterpart: controller.py.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from config.errors import ConfigError
from config.load import parse_users
from config.settings import BUILTIN, SHIPPED_POLICIES
from config.users import Users
from dbproxy import ipc
from dbproxy.audit.types import EventType
from dbproxy.catalogue.link import CatalogueLink
from dbproxy.classifier.pool import ClassifierPool, PoolSettings
from dbproxy.clock import SystemClock
from dbproxy.control_link import ControlLink
from dbproxy.digest_key import parameters_key, strangers_key
from dbproxy.engine import Engine
from dbproxy.engine_mysql import mysql_engine
from dbproxy.engine_postgres import POSTGRES
from dbproxy.errors import DbproxyError, StartError
from dbproxy.figures import Snapshot, take_snapshot
from dbproxy.identity.identity import Identity, UsersError
from dbproxy.identity.tls import ListenerMaterial, TLSMaterialError, target_context
from dbproxy.in_force import InForce, InForceError, SharedMemory
from dbproxy.judge import Judge
from dbproxy.metrics import Counters, watch_loop
from dbproxy.orders import IPC_SOCKET, Orders
from dbproxy.own_chain import OwnChain
from dbproxy.policy.load import compile_policy
from dbproxy.policy.model import Policy
from dbproxy.proof_deadline import ProofDeadline
from dbproxy.server import Entrance, Server
from dbproxy.tasks import Tasks

_log = logging.getLogger("dbproxy")
_CONNECTIONS = "connections"
"""In the state directory: connection ids of sessions, for all workers."""
_SWITCH_INTERVAL_S = 0.0005
"""How long one thread waits for another that computes: what the disk has confirmed for statements at work, these for a policy that is read. Python's
own 5 ms is more than a disk takes."""
_TICK_S = 0.2
_TICKS_TO_TELL = 5
_RECORDS_TO_TELL = 500
_WELCOME_S = 30.0
_WELCOME_AGAIN_S = 1.0
"""A worker of a running proxy does not wait longer for control: it may be the one that is away."""
_LAST_WORD_S = 15.0
"""A worker that ends waits so long for a control process that is being started again; less than the supervisor waits beyond a drain."""
_SESSIONS_IN_ONE = 200


class Worker:
    """One worker. Implements control_link.Duties."""

    def __init__(self, orders: Orders) -> None:
        settings = orders.settings
        self._orders = orders
        self._settings = settings
        self._clock = SystemClock()
        self._tasks = Tasks(self._crashed)
        self._answers = Tasks()
        self._counters = Counters()
        self._stop = asyncio.Event()
        self._stop_reason = "the proxy was stopped"
        self._exit_code = 0
        self._is_gentle = False
        self._is_over = False
        self._entrances: list[Entrance] = []
        self._channel: ipc.Channel | None = None
        self._link = ControlLink(settings.state.directory / IPC_SOCKET, orders.slot, os.getpid(), self)
        self._memory = SharedMemory(orders.memory)
        self._in_force = ""
        self._taking_over = asyncio.Lock()
        self._chain = OwnChain(settings, orders.slot, self._counters, self._clock)
        self._proof = ProofDeadline(self._chain.ledger, self._clock, is_on=settings.audit.signing.enabled)
        self._catalogue = CatalogueLink(settings, self._clock, self._link.tell, self._catalogue_changed)
        self._judge: Judge | None = None
        self._server: Server | None = None
        self._pool: ClassifierPool | None = None

    # ---- life ---------------------------------------------------------------------------------------------------

    async def run(self, channel: socket.socket) -> int:
        """Work until told to end. channel: to the supervisor. Returns the exit status."""
        loop = asyncio.get_running_loop()
        opened = self._channel = ipc.Channel(ipc.FROM_SUPERVISOR, self._take_order, self._supervisor_gone)
        await loop.create_connection(lambda: opened, sock=channel)
        try:
            await self._start()
        except (DbproxyError, ConfigError) as error:
            await self._give_up(str(error))
            return 2
        except BaseException:
            await self._give_up("")
            raise
        opened.send(ipc.Ready())
        await self._stop.wait()
        await self._end()
        return self._exit_code

    async def _start(self) -> None:
        orders, settings = self._orders, self._settings
        limits = settings.limits.classifier
        pool = self._pool = ClassifierPool(
            PoolSettings(
                processes=limits.processes,
                deadline_s=limits.timeout_ms / 1000,
                memory_bytes=limits.memory_mb << 20,
                # A session waits for one text at a time: so many can wait at most, and none is refused for its company.
                max_per_key=settings.limits.max_sessions_per_user + 1,
                max_queued=settings.limits.max_sessions * 2,
            )
        )
        warming = asyncio.ensure_future(pool.start())
        try:
            self._link.start()
            # At a first start control looks at all chains before anybody writes, and says what is in force.
            if not await self._link.wait_up(_WELCOME_S if orders.is_first else _WELCOME_AGAIN_S) and orders.is_first:
                raise StartError("the control process does not answer")
            self._chain.open()
            await warming
            # Nothing is awaited from here to the server's start: what is put in force from now on comes as an order that it can obey.
            found = self._memory.read()
            policy, warnings = _compile(found)
            identity = Identity(
                settings.users.auth,
                self._parse_users(found),
                self._clock,
                strangers_key(settings),
                secrets.token_bytes,
            )
            self._record_policy(policy, warnings, "start")
            self._open_entrances()
        except BaseException:
            warming.cancel()
            raise
        turn = self._chain.turn
        if turn is None:
            raise StartError("the audit trail is not open")
        judge = self._judge = Judge(pool, policy, cache_bytes=limits.cache_bytes, sights=self._catalogue.sights)
        server = self._server = Server(
            orders.slot,
            settings,
            self._entrances,
            self._link,
            identity,
            judge,
            turn,
            self._counters,
            self._clock,
            parameters_key(settings),
            self._catalogue.see,
        )
        self._in_force = found.sha256
        if self._stop.is_set():
            return
        gc.collect()
        gc.freeze()  # what is here now stays: the collector need not walk it again and again between queries
        server.start()
        self._tasks.spawn(watch_loop(self._counters.lag, self._clock), name="loop lag")
        self._tasks.spawn(self._chain.watch(), name="audit ledger")
        self._tasks.spawn(self._tell_often(), name="figures")

    async def _give_up(self, why: str) -> None:
        if self._channel is not None:
            self._channel.send(ipc.CannotStart(why or "a part of it failed; see the messages"))
        if self._pool is not None:
            await self._pool.close()
        await self._link.stop()
        await self._chain.close("the worker could not start")
        for entrance in self._entrances:
            if entrance.socket is not None:
                entrance.socket.close()
        await self._close_channel()

    async def _close_channel(self) -> None:
        self._is_over = True
        if self._channel is not None:
            await self._channel.finish()

    def _supervisor_gone(self, _reason: str) -> None:
        """Without the supervisor nobody would stop this process: it ends as if it had been killed."""
        if not self._is_over:
            os._exit(70)

    async def _end(self) -> None:
        if self._server is not None:
            await self._server.drain(is_gentle=self._is_gentle)
        await self._tasks.cancel_all(timeout_s=5)
        await self._answers.cancel_all(timeout_s=1)
        await self._catalogue.stop()
        if self._pool is not None:
            await self._pool.close()
        self._tell_figures(0)
        self._chain.last_beat()
        await self._chain.close(self._stop_reason)
        if not await self._link.tell_surely(
            self._heads(), _LAST_WORD_S
        ):  # the end of the chain, for the last checkpoint
            _log.error("the end of this worker's records is not signed: control is away")
        await self._link.stop()
        await self._close_channel()

    def _crashed(self, name: str, error: BaseException) -> None:
        """A part that must run does not: a worker that half works is worse than none. The supervisor starts another."""
        _log.critical("%s has failed (%s); this worker ends", name, type(error).__name__)
        self._exit_code = 1
        self._stop_reason = "a part of the worker failed"
        self._stop.set()

    def _take_order(self, message: ipc.Message) -> None:
        if isinstance(message, ipc.Drain):
            self._stop_reason = message.reason
            self._is_gentle = message.is_gentle
            self._stop.set()
        elif isinstance(message, ipc.Rotate):
            self._chain.ledger.rotate()
        elif isinstance(message, ipc.Ping) and self._channel is not None:
            self._channel.send(ipc.Pong())

    def _open_entrances(self) -> None:
        descriptors = dict(self._orders.listeners)
        protocols = {listener.protocol.value for listener in self._settings.listeners}
        engines = _make_engines(protocols, self._settings.state.directory)
        for listener in self._settings.listeners:
            target = self._settings.target(listener.target)
            listening = socket.socket(fileno=descriptors[listener.name])
            try:
                material, context = ListenerMaterial(listener.tls), target_context(target.tls)
            except TLSMaterialError as error:
                listening.close()
                raise StartError(f"listener {listener.name}: {error}") from error
            engine = engines[listener.protocol.value]
            self._entrances.append(Entrance(listener, target, engine, material, context, listening))

    # ---- what is in force ---------------------------------------------------------------------------------------

    @property
    def in_force(self) -> str:
        """See control_link.Duties."""
        return self._in_force

    def _parse_users(self, found: InForce) -> Users:
        path = self._settings.users.file
        return Users(version=1) if path is None or found.users is None else parse_users(found.users, path)

    async def _take_over(self, order: ipc.TakeOver) -> None:
        """Use what control has found valid, all of it at once, and new certificates if they are valid.

        Reading it takes a second for a thousand rules, which nobody should wait for: until it is read, statements are judged by what was in force.
        """
        async with self._taking_over:  # in the order of the orders
            await self._take_over_now(order)

    async def _take_over_now(self, order: ipc.TakeOver) -> None:
        if self._server is None or self._judge is None:
            self._link.tell(
                ipc.TakenOver(order.number, "", ())
            )  # nothing is in use yet: it will be read at the end of the start
            return
        try:
            found = self._memory.read()
            policy, warnings, users = await asyncio.to_thread(lambda: (*_compile(found), self._parse_users(found)))
            self._server.identity.reload(users)
        except (ConfigError, InForceError, UsersError) as error:
            problems = [str(error)]
            _log.error("what control has put in force cannot be used: %s", error)
        else:
            problems = []
            previous = self._judge.policy.sha256
            self._judge.replace_policy(policy)
            self._server.policy_changed()
            self._record_policy(policy, warnings, order.trigger, previous)
            self._in_force = found.sha256
            self._server.users_changed()
        problems += self._reload_certificates(order.trigger)
        self._link.tell(ipc.TakenOver(order.number, self._in_force, tuple(problems)))

    def _reload_certificates(self, trigger: str) -> list[str]:
        problems = []
        for entrance in self._entrances:
            if entrance.material.current is None:
                continue
            name = entrance.listener.name
            try:
                before = entrance.material.current.fingerprint
                entrance.material.reload()
                after = entrance.material.current.fingerprint
            except TLSMaterialError as error:
                _log.error("certificate of %s not loaded, the old one stays: %s", name, error)
                problems.append(f"listener {name}: {error}")
                self._chain.record(
                    EventType.CERTIFICATE_REJECTED, {"listener": name, "error": str(error), "trigger": trigger}
                )
                continue
            if before != after:
                self._chain.record(
                    EventType.CERTIFICATE_LOADED,
                    {"listener": name, "sha256": after, "previous": before, "trigger": trigger},
                )
        return problems

    def _record_policy(
        self, policy: Policy, warnings: tuple[str, ...], trigger: str, previous: str | None = None
    ) -> None:
        self._counters.policy_sha256 = policy.sha256
        fields: dict[str, object] = {
            "files": [
                BUILTIN + path.stem if path.parent == SHIPPED_POLICIES else str(path)
                for path in self._settings.policies.files
            ],
            "sha256": policy.sha256,
            "trigger": trigger,
        }
        if previous is not None:
            fields["previous"] = previous
        if warnings:
            fields["warnings"] = list(warnings)
        self._chain.record(EventType.POLICY_LOADED, fields)

    # ---- what control asks --------------------------------------------------------------------------------------

    def on_welcome(self, welcome: ipc.Welcome) -> None:
        """See control_link.Duties. What this worker is behind with, control has it take over."""
        self._catalogue.greet()

    def on_order(self, order: ipc.Message) -> None:
        """See control_link.Duties."""
        match order:
            case ipc.Report():
                self._tell_figures(order.number)
            case ipc.ListSessions():
                self._list_sessions(order)
            case ipc.Kill():
                self._answer_later(self._kill(order), "kill")
            case ipc.CancelHere():
                self._answer_later(self._cancel(order), "cancel")
            case ipc.TakeOver():
                self._tasks.spawn(self._take_over(order), name="take over")
            case ipc.Catalogue():
                self._catalogue.take(order)
            case ipc.Checkpointed() | ipc.Refuse():
                self._proof.note(order)
            case _:
                _log.error("an order that is not known: %s", type(order).__name__)

    def _catalogue_changed(self) -> None:
        """Names may mean something else: everything is judged again."""
        if self._judge is not None and self._server is not None:
            self._judge.forget_rulings()
            self._server.policy_changed()

    def _answer_later(self, answering: Coroutine[Any, Any, None], name: str) -> None:
        self._answers.spawn(answering, name=name)

    def _tell_figures(self, number: int) -> None:
        self._link.tell(ipc.Figures(number, self._snapshot()))

    def _snapshot(self) -> Snapshot:
        counters = self._counters
        counters.is_audit_down = self._chain.ledger.is_down
        counters.audit_events = self._chain.ledger.records
        problems = (
            (self._server is None or not self._server.is_listening, "not listening"),
            (self._chain.ledger.is_down, "audit cannot be written"),
            (bool(self._chain.ledger.refusal), "audit cannot be proven"),
            (self._judge is None, "no policy loaded"),
            (self._pool is None or not self._pool.is_ready, "no classifier process"),
        )
        return take_snapshot(counters, self._judge, self._pool, tuple(text for is_bad, text in problems if is_bad))

    def _list_sessions(self, order: ipc.ListSessions) -> None:
        server = self._server
        lives = [] if server is None else list(server.sessions.values())
        found = [
            server.describe(live)
            for live in lives
            if server is not None and order.session in ("", live.session.session_id)
        ]
        while len(found) > _SESSIONS_IN_ONE:
            some, found = found[:_SESSIONS_IN_ONE], found[_SESSIONS_IN_ONE:]
            self._link.tell(ipc.Sessions(order.number, tuple(some), is_last=False))
        self._link.tell(ipc.Sessions(order.number, tuple(found), is_last=True))

    async def _kill(self, order: ipc.Kill) -> None:
        killed = await self._server.kill(order.session, order.message) if self._server is not None else None
        if killed is None:
            self._link.tell(ipc.Killed(order.number, (), is_over=False))
        else:
            self._link.tell(ipc.Killed(order.number, (killed[0],), is_over=killed[1]))

    async def _cancel(self, order: ipc.CancelHere) -> None:
        if self._server is not None:
            result, session = await self._server.cancel_here(order.process_id, order.secret)
            self._link.tell(ipc.Cancelled(order.number, result, session))

    # ---- timers -------------------------------------------------------------------------------------------------

    async def _tell_often(self) -> None:
        """Figures once a second; where the chain stands as often, and sooner when much was recorded."""
        ledger = self._chain.ledger
        ticks = told = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            if ticks % _TICKS_TO_TELL == 0 or ledger.synced.seq - told >= _RECORDS_TO_TELL:
                told = ledger.synced.seq
                self._link.tell(self._heads())
            if ticks % _TICKS_TO_TELL == 0:
                self._tell_figures(0)
                self._proof.look()
                self._catalogue.look()

    def _heads(self) -> ipc.Heads:
        ledger, counters = self._chain.ledger, self._counters
        head = ledger.synced
        return ipc.Heads(head.seq, head.hash, head.file, ledger.records, ledger.intents, counters.sessions)


def _make_engines(protocols: set[str], state: Path) -> dict[str, Engine]:
    """One for each protocol; MySQL and MariaDB share theirs."""
    engines = {"postgres": POSTGRES}
    if protocols & {"mysql", "mariadb"}:
        engines["mysql"] = engines["mariadb"] = mysql_engine(state / _CONNECTIONS)
    return engines


def _compile(found: InForce) -> tuple[Policy, tuple[str, ...]]:
    """The policy in force and the warnings about it. Raises ConfigError."""
    checked = compile_policy(found.policies)
    if checked.policy is None:
        raise ConfigError(checked.problems)
    return checked.policy, tuple(str(problem) for problem in checked.warnings)


def run_worker(orders: Orders, channel: socket.socket) -> int:
    """Be a worker until told to end. Returns the exit status."""

    async def main() -> int:
        return await Worker(orders).run(channel)

    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())
