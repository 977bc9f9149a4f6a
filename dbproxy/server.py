"""Listeners, logins, sessions: who is connected, and under which caps. The life of a connection from accept to end.

    accept ─► caps ─► PROXY header ─► login (deadline) ─► admit: caps, start-up settings judged ─► session ─► end

Refusals of statements are the session's; this file refuses connections and logins.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count

from config.settings import Listener, Network, Settings, Target
from dbproxy import heap
from dbproxy.audit.ledger import AuditDown
from dbproxy.audit.record import members
from dbproxy.audit.types import EventType
from dbproxy.clock import Clock
from dbproxy.dialer import Dialer
from dbproxy.doorkeeper import (
    CANCELS_PER_SECOND,
    DELIVERED,
    NOT_DELIVERED,
    NOTHING_RUNS,
    TOO_MANY_OF_ADDRESS,
    TOO_OFTEN,
    UNKNOWN_KEY,
    Doorkeeper,
    UnreachableError,
)
from dbproxy.engine import Engine
from dbproxy.identity.identity import Identity
from dbproxy.identity.tls import ListenerMaterial
from dbproxy.judge import Entry, Judge
from dbproxy.login import EARLY_BYTES, LoginDriver, Progress, run_cancel
from dbproxy.metrics import Counters
from dbproxy.policy.model import Context
from dbproxy.session import Session, Start
from dbproxy.session_limits import SessionLimits, SessionWatch
from dbproxy.sessions_view import SessionInfo, SessionState, TransactionState
from dbproxy.tasks import Tasks
from dbproxy.transport import Link, Wire
from dbproxy.turn import Turn
from protocol import proxy_v2
from protocol.contract import Refusal, Relay, Side, Why
from protocol.errors import MalformedMessage, ProtocolError
from protocol.login import Cancel, IssuedKey, LoginRefused, ServerReady

DOWNGRADE = "server_auth_downgrade"
THROTTLED = "login_throttled"
THROTTLED_AGAIN = "login_throttled_again"
CONTROL_AWAY = "control_unreachable"
_LINGER_S = 5.0
_KILL_S = 2.0
"""How long a session that is killed may take to tell its client; then both connections are dropped."""
_BOUNDARY_S = 0.7
"""How long a session that ends may take to come to the end of a message, where the client can be told."""
_TELLING_S = 0.5
"""So long before the login's deadline it is given up, for then there is time to tell the client."""
_SHOWN_CHARACTERS = 200
"""How much of a name that a client chose is shown to operators."""
_TICK_S = 0.25
_LOST_TICKS = 8
_TIDY_TICKS = 40
_TIDY_CONNECTIONS = 50
"""After so many connections have ended, what they had is given back."""


@dataclass(slots=True)
class Entrance:
    """A configured listener at work. context: TLS towards its target, None if the target's mode is disable.

    socket: listening, made by the supervisor; None once this worker takes no more connections.
    """

    listener: Listener
    target: Target
    engine: Engine
    material: ListenerMaterial
    context: ssl.SSLContext | None = field(repr=False)
    socket: socket.socket | None = None
    accepting: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Live:
    """A session and what the proxy as a whole has to know of it. secret: the client's cancel key. address: the client's, with port."""

    session: Session
    relay: Relay
    entrance: Entrance
    progress: Progress
    host: str
    address: str
    claim: int
    started_at_ns: int
    secret: bytes = field(repr=False)
    watch: SessionWatch
    cancels: int = 0
    is_ending: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Server:
    """All connections of this process. slot: its worker's. digest_key: see Session. see: waits until a target's database can be seen; None without catalogues."""

    def __init__(
        self,
        slot: int,
        settings: Settings,
        entrances: list[Entrance],
        door: Doorkeeper,
        identity: Identity,
        judge: Judge,
        turn: Turn,
        counters: Counters,
        clock: Clock,
        digest_key: bytes | None,
        see: Callable[[str, str], Awaitable[None]] | None = None,
    ) -> None:
        self.see = see
        self.slot = slot
        self.settings = settings
        self.entrances = entrances
        self.door = door
        self.identity = identity
        self.judge = judge
        self.turn = turn
        self.counters = counters
        self.clock = clock
        self.digest_key = digest_key
        self.limits = SessionLimits(settings.timeouts)
        self.dialer = Dialer(settings.timeouts.server_lost_s)
        self.sessions: dict[str, Live] = {}
        self.is_draining = False
        self._tasks = Tasks()
        self._keys: dict[int, list[Live]] = {}
        self._hosts: Counter[str] = Counter()  # this worker's connections by client address, logged in or not
        self._claims = count(1)
        self._cancels: Counter[str] = Counter()  # by client address, in this second

    # ---- listening ----------------------------------------------------------------------------------------------

    @property
    def is_listening(self) -> bool:
        return bool(self.entrances) and all(entrance.socket is not None for entrance in self.entrances)

    def start(self) -> None:
        """Take connections from every listener."""
        for entrance in self.entrances:
            if entrance.socket is not None:
                entrance.socket.setblocking(False)  # noqa: FBT003 - the socket API
                entrance.accepting = self._tasks.spawn(
                    self._accept(entrance, entrance.socket), name=f"listener {entrance.listener.name}"
                )
        self._tasks.spawn(self._watch_limits(), name="session limits")

    async def _accept(self, entrance: Entrance, listening: socket.socket) -> None:
        if entrance.engine.watch is not None:
            watch = self._tasks.spawn(entrance.engine.watch(entrance.target), name=f"target {entrance.target.name}")
            await asyncio.wait((watch,), timeout=self.settings.timeouts.connect_s)  # the first clients need not fail
        while True:
            try:
                raw, address = (
                    listening.accept()
                )  # not awaited: a task that is ended while it is being given a connection loses it
            except BlockingIOError:
                await _wait_readable(listening)
                continue
            except OSError:
                # Out of descriptors, or the peer left in between. The wait keeps the loop from spinning.
                self.counters.count_refused_connection("capacity")
                await asyncio.sleep(0.05)
                continue
            raw.setblocking(False)  # noqa: FBT003 - the socket's own signature
            self.counters.connections += 1
            self._tasks.spawn(self._serve(entrance, raw, str(address[0]), int(address[1])), name="connection")
            await asyncio.sleep(0)

    async def _serve(self, entrance: Entrance, raw: socket.socket, host: str, port: int) -> None:
        """One connection from accept until a session has taken it over, or it was turned away."""
        wire = Wire(raw, _join(host, port))
        is_taken_over = False
        self.counters.connections_open += 1
        try:
            async with asyncio.timeout(self.settings.timeouts.login_s) as limit:
                if _is_within(host, entrance.listener.proxy_protocol_from):
                    host = await _read_proxy_header(wire, host)
                claim = next(self._claims)
                self._hosts[host] += 1
                try:
                    if await self._has_room(entrance, wire, host, claim):
                        is_taken_over = await Login(self, entrance, wire, host, claim, limit.when()).run()
                finally:
                    if not is_taken_over:
                        self._forget(host, claim)
        except ProtocolError as fault:
            self.reject(entrance, wire, "protocol", fault.detail)
        except TimeoutError:
            self.reject(entrance, wire, "timeout", "the login took too long")
        except OSError as error:
            self.reject(entrance, wire, "protocol", error.strerror or str(error) or "the peer left")
        finally:
            if not is_taken_over:
                self.counters.connections_open -= 1
                wire.close()

    async def _has_room(self, entrance: Entrance, wire: Wire, host: str, claim: int) -> bool:
        # What is too many for one worker is too many for all: a flood need not be asked about one by one.
        is_too_many_here = self._hosts[host] > self.settings.limits.max_sessions_per_address
        problem = TOO_MANY_OF_ADDRESS if is_too_many_here else await self.door.enter(claim, host)
        if problem:
            self.reject(entrance, wire, "capacity", problem)
        return not problem

    def _forget(self, host: str, claim: int) -> None:
        self.door.leave(claim)
        self._hosts[host] -= 1
        if self._hosts[host] <= 0:
            del self._hosts[host]

    # ---- records ------------------------------------------------------------------------------------------------

    def record(self, event: EventType, fields: dict[str, object]) -> bool:
        """Append an event that no statement waits for. False if the trail takes no more."""
        try:
            self.turn.append(event, members(fields))
        except AuditDown:
            return False
        return True

    def reject(self, entrance: Entrance, wire: Wire, reason: str, detail: str) -> None:
        """Count and record a connection that did not become a login."""
        self.counters.count_refused_connection(reason)
        self.record(
            EventType.CONNECTION_REJECTED,
            {"listener": entrance.listener.name, "client": wire.address, "why": reason, "detail": detail},
        )

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add(self, live: Live) -> None:
        """A session stands."""
        self.sessions[live.session.session_id] = live
        self._keys.setdefault(live.progress.server_pid, []).append(live)

    def remove(self, live: Live) -> None:
        """A session is over."""
        if self.sessions.pop(live.session.session_id, None) is None:
            return
        live.over.set()
        same = self._keys[live.progress.server_pid]
        same.remove(live)
        if not same:
            del self._keys[live.progress.server_pid]
        self._forget(live.host, live.claim)
        self.counters.connections_open -= 1
        # The links alone: when both are closed before, nothing of the session waits for the time to pass.
        asyncio.get_running_loop().call_later(_LINGER_S, _drop, live.session.links)

    def session_ended(self, session: Session) -> None:
        """A session has closed its connections."""
        self.counters.sessions_open -= 1
        live = self.sessions.get(session.session_id)
        if live is not None:
            self.remove(live)

    def policy_changed(self) -> None:
        """Another policy is in force for all that runs from now on."""
        for live in self.sessions.values():
            live.session.policy_changed()

    def users_changed(self) -> None:
        """End the sessions of people who may no longer have one."""
        for live in list(self.sessions.values()):
            if live.progress.authorization is not None and self.identity.objection(live.progress.authorization):
                self._end(live, _shutdown("this login is no longer allowed", "Ask the operator of the proxy."))

    async def _watch_limits(self) -> None:
        """Limits of time and people who may no longer have a session, for all of them."""
        ticks = tidied = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            self._cancels.clear()
            now = self.clock.monotonic_ns()
            for live in list(self.sessions.values()):
                refusal = live.watch.exceeded(live.session, live.relay, now)
                if refusal is not None:
                    self._end(live, refusal)
                elif (ticks + live.claim) % _LOST_TICKS == 0:  # some of them in each tick
                    self._look_for_server(live)
            if ticks % _TIDY_TICKS == 0:
                self.users_changed()
                ended = self.counters.connections - self.counters.connections_open
                if ended - tidied >= _TIDY_CONNECTIONS:
                    tidied = ended
                    heap.give_back()

    def _look_for_server(self, live: Live) -> None:
        """What was sent to the server may have got lost with its host; where nothing was, the kernel asks by itself (Wire)."""
        link, lost_s = live.session.server_link, self.settings.timeouts.server_lost_s
        if link is not None and link.is_silent(lost_s):
            link.abort(f"the host of the database has not answered for {lost_s:g} s")

    def _end(self, live: Live, refusal: Refusal) -> None:
        """End a session, once. What the server works on for it is cancelled: it would go on, and commit, with nobody listening."""
        if live.is_ending:
            return
        live.is_ending = True
        is_busy = live.relay.is_busy
        live.session.end(refusal)
        if is_busy:
            self._tasks.spawn(self._deliver_cancel(live), name="cancel at the end of a session")
        if not live.over.is_set():
            # The client is in the middle of a message, whose rest may never come.
            asyncio.get_running_loop().call_later(_BOUNDARY_S, live.session.abort)

    async def kill(self, session_id: str, message: str) -> tuple[SessionInfo, bool] | None:
        """End a session as a shut-down does, whatever it runs. Returns it as it was, and whether it is over; None if it is not here."""
        live = self.sessions.get(session_id)
        if live is None:
            return None
        info = self.describe(live)
        self._end(live, _shutdown(message, ""))
        with suppress(TimeoutError):
            await asyncio.wait_for(live.over.wait(), _KILL_S)
        live.session.abort()  # a client that does not read cannot keep it
        with suppress(TimeoutError):
            await asyncio.wait_for(live.over.wait(), 1)
        return info, live.over.is_set()

    def describe(self, live: Live) -> SessionInfo:
        """A session as operators see it."""
        session, authorization = live.session, live.progress.authorization
        statements, refused, rows, received_bytes, sent_bytes = session.totals
        quiet_ns = self.clock.monotonic_ns() - session.last_active_ns
        return SessionInfo(
            id=session.session_id,
            worker=self.slot,
            person=session.person[:_SHOWN_CHARACTERS],
            account=(authorization.account or "") if authorization else "",
            server_user=authorization.server_user if authorization else "",
            database=authorization.database[:_SHOWN_CHARACTERS] if authorization else "",
            target=live.entrance.target.name,
            client=live.address,
            application=session.application[:_SHOWN_CHARACTERS],
            started_at_ns=live.started_at_ns,
            last_active_at_ns=self.clock.wall_ns() - quiet_ns,
            state=_state(live),
            transaction=TransactionState(session.transaction.value),
            statements=statements,
            refused=refused,
            rows=rows,
            received_bytes=received_bytes,
            sent_bytes=sent_bytes,
        )

    async def drain(self, *, is_gentle: bool) -> None:
        """Take no new connections, let what runs come to its end within drain_s, then end the rest.

        is_gentle: another worker serves already. Who is logging in here may, and a session may stay idle until the time is over.
        """
        self.is_draining = not is_gentle
        for entrance in self.entrances:
            if entrance.accepting is not None:
                entrance.accepting.cancel()
                await asyncio.wait((entrance.accepting,))
            if entrance.socket is not None:
                entrance.socket.close()  # ours: who waits in its queue is the supervisor's and the next worker's
                entrance.socket = None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.timeouts.drain_s
        while self.sessions or (is_gentle and self.counters.connections_open and not self.is_draining):
            is_over = loop.time() >= deadline
            if is_over:
                self.is_draining = True
            for live in list(self.sessions.values()):
                if is_over or (not is_gentle and live.session.is_idle and not live.relay.is_busy):
                    self._end(live, _shutdown("the proxy is shutting down", "Connect again."))
            if loop.time() > deadline + _LINGER_S:
                break
            await asyncio.sleep(0.05)
        self.is_draining = True
        for live in list(self.sessions.values()):
            live.session.abort()
        await self._tasks.cancel_all(timeout_s=_LINGER_S)

    # ---- cancel -------------------------------------------------------------------------------------------------

    async def cancel(self, entrance: Entrance, wire: Wire, request: Cancel) -> None:
        """Pass a cancel request on, if its key is right and something of that session runs, whichever worker has it."""
        host = wire.address.rpartition(":")[0]
        self._cancels[host] += 1
        if self._cancels[host] > CANCELS_PER_SECOND * _TICK_S:
            self.counters.count_refused_connection("throttled")
            return
        result, session_id = await self.cancel_here(request.process_id, request.secret)
        if not session_id:
            result, session_id = await self.door.cancel_elsewhere(host, request.process_id, request.secret)
        if result == TOO_OFTEN:
            self.counters.count_refused_connection("throttled")
            return
        fields: dict[str, object] = {"listener": entrance.listener.name, "client": wire.address}
        if session_id:
            fields["session"] = session_id
        self.record(EventType.CANCEL_REQUEST, {**fields, "result": result})

    async def cancel_here(self, process_id: int, secret: bytes) -> tuple[str, str]:
        """Cancel what runs in the session of this worker that has the key; its next statement waits meanwhile.

        Returns the result and the session's id, "" if no session here has the key.
        """
        live = next(
            (each for each in self._keys.get(process_id, ()) if hmac.compare_digest(each.secret, secret)),
            None,
        )
        if live is None:
            return UNKNOWN_KEY, ""
        if not live.relay.is_busy:
            return NOTHING_RUNS, live.session.session_id
        live.cancels += 1
        live.relay.hold(on=True)
        try:
            result = await self._deliver_cancel(live)
        finally:
            live.cancels -= 1
            if not live.cancels:
                live.relay.hold(on=False)
        self.counters.cancels += 1
        return result, live.session.session_id

    async def _deliver_cancel(self, live: Live) -> str:
        target = live.entrance.target
        timeout_s = self.settings.timeouts.cancel_s
        try:
            async with asyncio.timeout(timeout_s):
                server = await self.dialer.dial(target, timeout_s)
                try:
                    steps = live.entrance.engine.cancel(
                        target.tls.mode.value, live.progress.server_pid, live.progress.server_secret
                    )
                    await run_cancel(steps, server, live.entrance.context, target, timeout_s)
                finally:
                    server.close()
        except (LoginRefused, OSError, TimeoutError, ssl.SSLError):
            return NOT_DELIVERED
        return DELIVERED


class Login:
    """One connection's way through its login to a session. Implements dbproxy.login.Gate."""

    def __init__(
        self, server: Server, entrance: Entrance, wire: Wire, host: str, claim: int, deadline: float | None
    ) -> None:
        self._server = server
        self._entrance = entrance
        self._wire = wire
        self._host = host
        self._claim = claim
        self._deadline = deadline
        self._session_id = secrets.token_hex(8)
        self._secret = b""
        self._has_begun_proof = False
        self._progress = Progress()

    async def run(self) -> bool:
        """Returns whether a session has taken the connection over."""
        entrance, server = self._entrance, self._server
        driver = LoginDriver(
            self._wire,
            self,
            server.identity.attempt(entrance.target, self._host),
            entrance.target,
            server.settings.timeouts,
            entrance.material.current,
            entrance.context,
            server.dialer,
        )
        progress = self._progress = driver.progress
        made: list[Session] = []

        def make_relay(parameters: dict[str, str]) -> Relay:
            made.append(self._make_session(parameters))
            return entrance.engine.make_relay(made[0], server.settings.limits, entrance.target)

        is_session = False
        try:
            ready = await driver.run(
                entrance.engine.login(entrance.listener, entrance.target, make_relay), self._deadline
            )
            if ready is None or driver.server is None:
                return False
            if server.see is not None:
                await server.see(entrance.target.name, self._context(progress).database)
            to_client = await self._wire.into_link()
            to_server = await driver.server.into_link()
            live = Live(
                made[0],
                ready.relay,
                entrance,
                progress,
                self._host,
                self._wire.address,
                self._claim,
                server.clock.wall_ns(),
                self._secret,
                SessionWatch(server.limits),
            )
            server.add(live)
            is_session = True
            made[0].begin(ready.relay, to_client, to_server)
        except LoginRefused as refused:
            self._record_refusal(refused)
            return False
        except ProtocolError as fault:
            if progress.startup is None:
                raise
            self._record_failure("protocol", fault.detail)
            return False
        finally:
            if not is_session and made:
                made[0].close(Side.CLIENT, Why.LEFT, "the connection ended before the session could begin")
            if not is_session and driver.server is not None:
                driver.server.close()
        return True

    # ---- what the driver asks -----------------------------------------------------------------------------------

    async def throttle(self, person: str, *, begins_proof: bool) -> None:
        """See dbproxy.login.Gate."""
        try:
            word = await self._server.door.throttled(self._host, person, self._in_time(), begins_proof=begins_proof)
        except UnreachableError as error:
            raise _away(error) from error
        if word:
            event = THROTTLED if word == "first" else THROTTLED_AGAIN
            raise LoginRefused(Refusal(Why.LOGIN, ""), "too many failed logins", event)
        self._has_begun_proof = begins_proof

    def proved(self, person: str, *, is_right: bool) -> None:
        """See dbproxy.login.Gate."""
        self._server.door.proved(self._host, person, is_right=is_right, was_begun=self._has_begun_proof)
        self._has_begun_proof = False

    def _in_time(self) -> float | None:
        """When to stop waiting for control: while the client can still be told."""
        if self._deadline is None:
            return None
        left = self._deadline - asyncio.get_running_loop().time()
        return self._deadline - min(_TELLING_S, left / 4)

    async def admit(self, progress: Progress) -> None:
        """See dbproxy.login.Gate. The person is known; nothing was dialled yet."""
        authorization = progress.authorization
        if authorization is None or progress.startup is None:
            raise LoginRefused(Refusal(Why.LOGIN, ""), "admitted without an authorization")
        server = self._server
        if server.is_draining:
            raise LoginRefused(Refusal(Why.SHUTDOWN, "the proxy is shutting down"))
        if server.turn.ledger.is_down:
            raise LoginRefused(Refusal(Why.AUDIT_DOWN, "the audit trail cannot be written, so nobody may log in"))
        try:
            problem = await server.door.take(self._claim, authorization.canonical, self._in_time())
        except UnreachableError as error:
            raise _away(error) from error
        if problem:
            raise LoginRefused(Refusal(Why.CAPACITY, problem))
        await self._judge_startup(progress)
        mechanism = "password" if authorization.is_personal else progress.mechanism
        if not server.record(EventType.LOGIN_SUCCESS, {**self._identity(progress), "mechanism": mechanism}):
            raise LoginRefused(Refusal(Why.AUDIT_DOWN, "the audit trail cannot be written, so nobody may log in"))
        server.counters.count_login("success")

    async def _judge_startup(self, progress: Progress) -> None:
        """Settings in the start-up packet do what SET does, so they are judged as SET."""
        if progress.startup is None:
            return
        dialect = self._entrance.engine.dialect
        text = dialect.startup_text(progress.startup)
        if not text:
            return
        waiting: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._server.judge.classify(
            dialect.name, text, dialect.lexing_state({}), 0, self._session_id, lambda entry: _answer(waiting, entry)
        )
        ruling = self._server.judge.rule(await waiting, self._context(progress))
        if ruling.is_refused:
            rule = ruling.decision.rule or "policy"
            refusal = Refusal(
                Why.BLOCKED,
                f'dbproxy: the start-up parameters are blocked by rule "{rule}"',
                ruling.decision.hits[0].matched if ruling.decision.hits else "",
                ruling.decision.message,
            )
            raise LoginRefused(refusal, f"start-up parameters blocked by rule {rule}", "startup_blocked")

    def issue_key(self, ready: ServerReady, progress: Progress) -> IssuedKey:
        """See dbproxy.login.Gate."""
        self._secret = secrets.token_bytes(ready.secret_size)
        return IssuedKey(self._secret, self._server.settings.session.banner or None)

    async def cancel(self, request: Cancel) -> None:
        """See dbproxy.login.Gate."""
        await self._server.cancel(self._entrance, self._wire, request)

    # ---- from login to session ----------------------------------------------------------------------------------

    def _context(self, progress: Progress) -> Context:
        authorization = progress.authorization
        if authorization is None:
            raise LoginRefused(Refusal(Why.LOGIN, ""), "no authorization")
        target = self._entrance.target
        return Context(
            target=target.name,
            env=target.env,
            database=authorization.database,
            person=authorization.person,
            groups=authorization.groups,
            account=authorization.account or "",
            address=ipaddress.ip_address(self._host),
            application=_application(progress),
        )

    def _identity(self, progress: Progress) -> dict[str, object]:
        """Who and where, for every event of this connection."""
        authorization = progress.authorization
        target = self._entrance.target
        fields: dict[str, object] = {"session": self._session_id}
        if authorization is not None:
            fields |= {
                "person": authorization.person,
                "account": authorization.account or "",
                "server_user": authorization.server_user,
                "database": authorization.database,
            }
        elif progress.startup is not None:
            fields |= {"person": progress.startup.login, "database": progress.startup.database or ""}
        fields |= {
            "target": target.name,
            "env": target.env,
            "listener": self._entrance.listener.name,
            "client": self._wire.address,
            "tls": progress.client_tls.version if progress.client_tls else None,
        }
        if progress.server_pid:
            fields["server_tls"] = progress.server_tls.version if progress.server_tls else None
            fields["server_pid"] = progress.server_pid
        fields["application"] = _application(progress)
        return fields

    def _make_session(self, parameters: dict[str, str]) -> Session:
        progress = self._progress
        server = self._server
        identity = self._identity(progress)
        application = parameters.get("application_name")
        context = self._context(progress)
        if application is not None:
            identity["application"] = application
            context = replace(context, application=application)
        if not server.record(EventType.SESSION_START, identity):
            raise LoginRefused(Refusal(Why.AUDIT_DOWN, "the audit trail cannot be written, so nobody may log in"))
        server.counters.sessions += 1  # here, so that heartbeats agree with the records
        server.counters.sessions_open += 1
        session_id = identity.pop("session")
        start = Start(
            session_id=str(session_id),
            context=context,
            server_user=str(identity["server_user"]),
            server_pid=progress.server_pid,
            identity=identity,
            parameters=parameters,
        )
        return Session(
            start,
            self._entrance.engine.dialect,
            server.judge,
            server.turn,
            server.counters,
            server.clock.monotonic_ns,
            server.digest_key,
            server.settings.limits.write_buffer_bytes,
            server.session_ended,
        )

    # ---- failures -----------------------------------------------------------------------------------------------

    def _record_refusal(self, refused: LoginRefused) -> None:
        progress = self._progress
        if refused.event == THROTTLED_AGAIN:
            self._server.counters.count_login("throttled")
            return  # recorded once, when it began; a flood must not fill the trail
        if refused.event == EARLY_BYTES and progress.startup is None:
            self._server.reject(self._entrance, self._wire, "tls", str(refused))
            return
        if refused.event == DOWNGRADE:
            fields = {**self._identity(progress), "detail": refused.detail or refused.refusal.message}
            self._server.record(EventType.SERVER_AUTH_DOWNGRADE, fields)
        result = "throttled" if refused.event == THROTTLED else "error" if progress.authorization else "failure"
        self._server.counters.count_login(result)
        self._record_failure(refused.refusal.why.value, refused.detail or refused.refusal.message, refused.event)

    def _record_failure(self, why: str, detail: str, event: str = "") -> None:
        fields = {**self._identity(self._progress), "why": why, "detail": detail}
        if event:
            fields["reason"] = event
        self._server.record(EventType.LOGIN_FAILURE, fields)


def _shutdown(text: str, hint: str) -> Refusal:
    return Refusal(Why.SHUTDOWN, f"dbproxy: {text}", "", hint)


def _drop(links: tuple[Link, ...]) -> None:
    for link in links:
        link.abort()


def _answer(waiting: asyncio.Future[Entry], entry: Entry) -> None:
    if not waiting.done():
        waiting.set_result(entry)


def _application(progress: Progress) -> str:
    if progress.startup is None:
        return ""
    return next((value for name, value in progress.startup.parameters if name == "application_name"), "")


def _away(error: UnreachableError) -> LoginRefused:
    refusal = Refusal(Why.CAPACITY, "the proxy cannot take logins at the moment", hint="Try again in some seconds.")
    return LoginRefused(refusal, str(error), CONTROL_AWAY)


def _state(live: Live) -> SessionState:
    if live.is_ending:
        return SessionState.ENDING
    if live.session.is_held:
        return SessionState.HELD
    return SessionState.RUNNING if live.relay.is_busy else SessionState.IDLE


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_within(host: str, networks: tuple[Network, ...]) -> bool:
    if not networks:
        return False
    address = ipaddress.ip_address(host)
    return any(address in network for network in networks)


async def _wait_readable(listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    waiting = asyncio.Event()
    loop.add_reader(listening, waiting.set)
    try:
        await waiting.wait()
    finally:
        loop.remove_reader(listening)


async def _read_proxy_header(wire: Wire, host: str) -> str:
    """Read the header that a balancer must send. Returns the client's address; the balancer's own for a health check."""
    if await wire.peek_byte() != proxy_v2.SIGNATURE[:1]:
        # Shorter than a header is what a client says first: without this look it would wait for an answer, and we for the rest.
        raise MalformedMessage(Side.CLIENT, "no PROXY protocol header from an address that must send one")
    header = await wire.read_exactly(proxy_v2.HEADER_SIZE)
    rest = await wire.read_exactly(size) if (size := proxy_v2.rest_size(header)) else b""
    source = proxy_v2.parse_source(header, rest)
    if source is None:
        return host
    wire.address = _join(source.address, source.port)
    return source.address
