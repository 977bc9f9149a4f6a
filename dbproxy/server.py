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
from dataclasses import dataclass, field, replace

from config.settings import Listener, Network, Settings, Target
from dbproxy.audit.ledger import AuditDown
from dbproxy.audit.record import members
from dbproxy.audit.types import EventType
from dbproxy.clock import Clock
from dbproxy.engine import Engine
from dbproxy.errors import StartError
from dbproxy.identity.identity import THROTTLED, THROTTLED_AGAIN, Identity
from dbproxy.identity.tls import ListenerMaterial
from dbproxy.judge import Entry, Judge
from dbproxy.login import EARLY_BYTES, LoginDriver, Progress, dial, run_cancel
from dbproxy.metrics import Counters
from dbproxy.policy.model import Context
from dbproxy.session import Session, Start
from dbproxy.tasks import Tasks
from dbproxy.transport import Wire
from dbproxy.turn import Turn
from protocol import proxy_v2
from protocol.contract import Refusal, Relay, Side, Why
from protocol.errors import MalformedMessage, ProtocolError
from protocol.login import Cancel, IssuedKey, LoginRefused, ServerReady

DOWNGRADE = "server_auth_downgrade"
_BACKLOG = 1024
_LINGER_S = 5.0
_TICK_S = 0.25
_CANCELS_PER_SECOND = 50
"""Cancel requests looked at per second and address; more are dropped unseen, so that a key cannot be found by trying."""


@dataclass(slots=True)
class Entrance:
    """A configured listener at work. context: TLS towards its target, None if the target's mode is disable."""

    listener: Listener
    target: Target
    engine: Engine
    material: ListenerMaterial
    context: ssl.SSLContext | None = field(repr=False)
    socket: socket.socket | None = None
    accepting: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Live:
    """A session and what the proxy as a whole has to know of it. secret: the client's cancel key."""

    session: Session
    relay: Relay
    entrance: Entrance
    progress: Progress
    host: str
    secret: bytes = field(repr=False)
    cancels: int = 0
    partial_since_ns: int = 0


class Server:
    """All connections of this process. digest_key: see Session."""

    def __init__(
        self,
        settings: Settings,
        entrances: list[Entrance],
        identity: Identity,
        judge: Judge,
        turn: Turn,
        counters: Counters,
        clock: Clock,
        digest_key: bytes | None,
    ) -> None:
        self.settings = settings
        self.entrances = entrances
        self.identity = identity
        self.judge = judge
        self.turn = turn
        self.counters = counters
        self.clock = clock
        self.digest_key = digest_key
        self.sessions: dict[str, Live] = {}
        self.is_draining = False
        self._tasks = Tasks()
        self._keys: dict[int, list[Live]] = {}
        self._people: Counter[str] = Counter()  # by canonical name, from admission to the end of the session
        self._hosts: Counter[str] = Counter()  # connections by client address, logged in or not
        self._cancels: Counter[str] = Counter()  # by client address, in this second

    # ---- listening ----------------------------------------------------------------------------------------------

    @property
    def is_listening(self) -> bool:
        return bool(self.entrances) and all(entrance.socket is not None for entrance in self.entrances)

    def listen(self) -> None:
        """Open every listener. Raises StartError if an address cannot be had."""
        for entrance in self.entrances:
            host, port = entrance.listener.address
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listening = socket.socket(family, socket.SOCK_STREAM)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(("127.0.0.1" if host == "localhost" else host, port))
                listening.listen(_BACKLOG)
            except OSError as error:
                listening.close()
                raise StartError(f"listener {entrance.listener.name} on {host}:{port}: {error.strerror}") from error
            listening.setblocking(False)  # noqa: FBT003 - the socket API
            entrance.socket = listening
            entrance.accepting = self._tasks.spawn(
                self._accept(entrance, listening), name=f"listener {entrance.listener.name}"
            )
            if entrance.engine.watch is not None:
                self._tasks.spawn(entrance.engine.watch(entrance.target), name=f"target {entrance.target.name}")
        self._tasks.spawn(self._watch_limits(), name="session limits")

    async def _accept(self, entrance: Entrance, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                raw, address = await loop.sock_accept(listening)
            except OSError:
                # Out of descriptors, or the peer left in between. The wait keeps the loop from spinning.
                self.counters.count_refused_connection("capacity")
                await asyncio.sleep(0.05)
                continue
            self.counters.connections += 1
            self._tasks.spawn(self._serve(entrance, raw, str(address[0]), int(address[1])), name="connection")

    async def _serve(self, entrance: Entrance, raw: socket.socket, host: str, port: int) -> None:
        """One connection from accept until a session has taken it over, or it was turned away."""
        wire = Wire(raw, _join(host, port))
        is_taken_over = False
        self.counters.connections_open += 1
        try:
            async with asyncio.timeout(self.settings.timeouts.login_s) as limit:
                if _is_within(host, entrance.listener.proxy_protocol_from):
                    host = await _read_proxy_header(wire, host)
                self._hosts[host] += 1
                try:
                    if self._has_room(entrance, wire, host):
                        is_taken_over = await Login(self, entrance, wire, host).run(limit.when())
                finally:
                    if not is_taken_over:
                        self._forget_host(host)
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

    def _has_room(self, entrance: Entrance, wire: Wire, host: str) -> bool:
        limits = self.settings.limits
        if self._hosts[host] > limits.max_sessions_per_address:
            self.reject(entrance, wire, "capacity", "too many connections from this address")
            return False
        if self.counters.connections_open > limits.max_sessions + limits.max_sessions // 4 + 16:
            self.reject(entrance, wire, "capacity", "too many connections")
            return False
        return True

    def _forget_host(self, host: str) -> None:
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

    def claim_person(self, canonical: str) -> bool:
        """Count a person's session. False: too many."""
        limits = self.settings.limits
        if self._people[canonical] >= limits.max_sessions_per_user or self._people.total() >= limits.max_sessions:
            return False
        self._people[canonical] += 1
        return True

    def release_person(self, canonical: str) -> None:
        self._people[canonical] -= 1
        if self._people[canonical] <= 0:
            del self._people[canonical]

    def add(self, live: Live) -> None:
        """A session stands."""
        self.sessions[live.session.session_id] = live
        self._keys.setdefault(live.progress.server_pid, []).append(live)
        self.counters.sessions += 1
        self.counters.sessions_open += 1

    def remove(self, live: Live) -> None:
        """A session is over."""
        if self.sessions.pop(live.session.session_id, None) is None:
            return
        same = self._keys[live.progress.server_pid]
        same.remove(live)
        if not same:
            del self._keys[live.progress.server_pid]
        if live.progress.authorization is not None:
            self.release_person(live.progress.authorization.canonical)
        self._forget_host(live.host)
        self.counters.sessions_open -= 1
        self.counters.connections_open -= 1
        asyncio.get_running_loop().call_later(_LINGER_S, live.session.abort)

    def policy_changed(self) -> None:
        """Another policy is in force for all that runs from now on."""
        for live in self.sessions.values():
            live.session.policy_changed()

    def users_changed(self) -> None:
        """End the sessions of people who may no longer have one."""
        for live in list(self.sessions.values()):
            if live.progress.authorization is not None and self.identity.objection(live.progress.authorization):
                text = "dbproxy: this login is no longer allowed"
                live.session.end(Refusal(Why.SHUTDOWN, text, "", "Ask the operator of the proxy."))

    async def _watch_limits(self) -> None:
        """Idle and absolute limits, unfinished messages, expired people, for all sessions."""
        timeouts = self.settings.timeouts
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            self._cancels.clear()
            now = self.clock.monotonic_ns()
            for live in list(self.sessions.values()):
                session = live.session
                quiet_s = (now - session.last_active_ns) / 1e9
                if timeouts.session_s is not None and (now - session.started_ns) / 1e9 > timeouts.session_s:
                    _end(session, Why.IDLE, "the session has lasted as long as it may", "Connect again.")
                elif self._is_stuck(live, now):
                    _end(session, Why.PROTOCOL, "the rest of a message did not come in time", "")
                elif timeouts.idle_s is not None and quiet_s > timeouts.idle_s and not live.relay.is_busy:
                    _end(session, Why.IDLE, "the session was idle for too long", "Connect again.")
            if ticks % 40 == 0:
                self.users_changed()

    def _is_stuck(self, live: Live, now: int) -> bool:
        """Whether the client has left one message unfinished for too long; bytes of bulk data that trickle in count as one."""
        if not live.relay.is_partial:
            live.partial_since_ns = 0
            return False
        live.partial_since_ns = live.partial_since_ns or now
        return now - live.partial_since_ns > self.settings.timeouts.partial_message_s * 1e9

    async def drain(self) -> None:
        """Take no new connections, let what runs come to its end within drain_s, then end the rest."""
        self.is_draining = True
        for entrance in self.entrances:
            if entrance.accepting is not None:
                entrance.accepting.cancel()
                await asyncio.wait((entrance.accepting,))
            if entrance.socket is not None:
                entrance.socket.close()
                entrance.socket = None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.timeouts.drain_s
        while self.sessions:
            is_over = loop.time() >= deadline
            for live in list(self.sessions.values()):
                if is_over or (live.session.is_idle and not live.relay.is_busy):
                    _end(live.session, Why.SHUTDOWN, "the proxy is shutting down", "Connect again later.")
            if loop.time() > deadline + _LINGER_S:
                break
            await asyncio.sleep(0.05)
        for live in list(self.sessions.values()):
            live.session.abort()
        await self._tasks.cancel_all(timeout_s=_LINGER_S)

    # ---- cancel -------------------------------------------------------------------------------------------------

    async def cancel(self, entrance: Entrance, wire: Wire, request: Cancel) -> None:
        """Pass a cancel request on, if its key is right and something of that session runs; its next statement waits meanwhile."""
        host = wire.address.rpartition(":")[0]
        self._cancels[host] += 1
        if self._cancels[host] > _CANCELS_PER_SECOND * _TICK_S:
            self.counters.count_refused_connection("throttled")
            return
        live = next(
            (
                candidate
                for candidate in self._keys.get(request.process_id, ())
                if hmac.compare_digest(candidate.secret, request.secret)
            ),
            None,
        )
        fields: dict[str, object] = {"listener": entrance.listener.name, "client": wire.address}
        if live is None:
            self.record(EventType.CANCEL_REQUEST, {**fields, "result": "unknown key"})
            return
        fields["session"] = live.session.session_id
        if not live.relay.is_busy:
            self.record(EventType.CANCEL_REQUEST, {**fields, "result": "nothing runs"})
            return
        live.cancels += 1
        live.relay.hold(on=True)
        try:
            result = await self._deliver_cancel(live)
        finally:
            live.cancels -= 1
            if not live.cancels:
                live.relay.hold(on=False)
        self.counters.cancels += 1
        self.record(EventType.CANCEL_REQUEST, {**fields, "result": result})

    async def _deliver_cancel(self, live: Live) -> str:
        target = live.entrance.target
        timeout_s = self.settings.timeouts.cancel_s
        try:
            async with asyncio.timeout(timeout_s):
                server = await dial(target, timeout_s)
                try:
                    steps = live.entrance.engine.cancel(
                        target.tls.mode.value, live.progress.server_pid, live.progress.server_secret
                    )
                    await run_cancel(steps, server, live.entrance.context, target, timeout_s)
                finally:
                    server.close()
        except (LoginRefused, OSError, TimeoutError, ssl.SSLError):
            return "not delivered"
        return "delivered"


class Login:
    """One connection's way through its login to a session. Implements dbproxy.login.Gate."""

    def __init__(self, server: Server, entrance: Entrance, wire: Wire, host: str) -> None:
        self._server = server
        self._entrance = entrance
        self._wire = wire
        self._host = host
        self._session_id = secrets.token_hex(8)
        self._secret = b""
        self._claimed = ""
        self._driver = LoginDriver(
            wire,
            self,
            server.identity.attempt(entrance.target, host),
            entrance.target,
            server.settings.timeouts,
            entrance.material.current,
            entrance.context,
        )

    async def run(self, deadline: float | None) -> bool:
        """Returns whether a session has taken the connection over. deadline: see LoginDriver.run."""
        progress = self._driver.progress
        made: list[Session] = []

        def make_relay(parameters: dict[str, str]) -> Relay:
            made.append(self._make_session(parameters))
            return self._entrance.engine.make_relay(made[0], self._server.settings.limits, self._entrance.target)

        is_session = False
        try:
            ready = await self._driver.run(
                self._entrance.engine.login(self._entrance.listener, self._entrance.target, make_relay), deadline
            )
            if ready is None or self._driver.server is None:
                return False
            client = await self._wire.into_link()
            server = await self._driver.server.into_link()
            live = Live(made[0], ready.relay, self._entrance, progress, self._host, self._secret)
            self._server.add(live)
            is_session = True
            made[0].begin(ready.relay, client, server)
        except LoginRefused as refused:
            self._record_refusal(refused)
            return False
        except ProtocolError as fault:
            if progress.startup is None:
                raise
            self._record_failure("protocol", fault.detail)
            return False
        finally:
            if not is_session:
                if self._claimed:
                    self._server.release_person(self._claimed)
                if self._driver.server is not None:
                    self._driver.server.close()
        return True

    # ---- what the driver asks -----------------------------------------------------------------------------------

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
        if not server.claim_person(authorization.canonical):
            raise LoginRefused(Refusal(Why.CAPACITY, "too many sessions of this user, or in all"))
        self._claimed = authorization.canonical
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
        progress = self._driver.progress
        server = self._server
        identity = self._identity(progress)
        application = parameters.get("application_name")
        context = self._context(progress)
        if application is not None:
            identity["application"] = application
            context = replace(context, application=application)
        if not server.record(EventType.SESSION_START, identity):
            raise LoginRefused(Refusal(Why.AUDIT_DOWN, "the audit trail cannot be written, so nobody may log in"))
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
            self._ended,
        )

    def _ended(self, session: Session) -> None:
        live = self._server.sessions.get(session.session_id)
        if live is not None:
            self._server.remove(live)

    # ---- failures -----------------------------------------------------------------------------------------------

    def _record_refusal(self, refused: LoginRefused) -> None:
        progress = self._driver.progress
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
        fields = {**self._identity(self._driver.progress), "why": why, "detail": detail}
        if event:
            fields["reason"] = event
        self._server.record(EventType.LOGIN_FAILURE, fields)


def _answer(waiting: asyncio.Future[Entry], entry: Entry) -> None:
    if not waiting.done():
        waiting.set_result(entry)


def _application(progress: Progress) -> str:
    if progress.startup is None:
        return ""
    return next((value for name, value in progress.startup.parameters if name == "application_name"), "")


def _end(session: Session, why: Why, text: str, hint: str) -> None:
    session.end(Refusal(why, f"dbproxy: {text}", "", hint))


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_within(host: str, networks: tuple[Network, ...]) -> bool:
    if not networks:
        return False
    address = ipaddress.ip_address(host)
    return any(address in network for network in networks)


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
