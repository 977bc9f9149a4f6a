"""Drives a login: does what the protocol's generator asks for, on real sockets, within deadlines, and keeps the record of it.

The generator knows the wire, identity knows the people, this knows neither: it reads exactly what it is asked to read, hands sockets
to TLS, and dials the target when it is shown an Authorization.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from config.settings import Target, Timeouts
from dbproxy.dialer import Dialer
from dbproxy.identity.access import server_access
from dbproxy.identity.authorization import Authorization
from dbproxy.identity.identity import FAILED, Attempt
from dbproxy.identity.tls import ListenerCertificate, tls_info, verification_reason
from dbproxy.transport import Wire
from protocol.contract import Refusal, Side, Why
from protocol.login import (
    Authenticate,
    Cancel,
    Identify,
    IssuedKey,
    LoginRefused,
    OpenServer,
    PeekByte,
    ReadExactly,
    Ready,
    Send,
    ServerAccess,
    ServerReady,
    StartTLS,
    Startup,
    TLSInfo,
)

T = TypeVar("T")
Steps = Generator[Any, Any, None]
EARLY_BYTES = "bytes_before_tls"
SERVER_SILENT = "server_silent"
_TELLING_S = 0.5
"""So long before the login's deadline a silent server is given up, for then there is time to tell the client."""


@dataclass(slots=True)
class Progress:
    """What is known about a login so far; filled by the driver, read for its audit events."""

    startup: Startup | None = None
    client_tls: TLSInfo | None = None
    server_tls: TLSInfo | None = None
    authorization: Authorization | None = None
    server_pid: int = 0
    server_secret: bytes = field(default=b"", repr=False)
    server_address: tuple[str, int] = ("", 0)
    parameters: dict[str, str] = field(default_factory=dict)
    was_cancel: bool = False
    mechanism: str = ""


class Gate(Protocol):
    """What a login asks of the proxy as a whole. person: in canonical form."""

    async def throttle(self, person: str, *, begins_proof: bool) -> None:
        """Raises LoginRefused after too many failures of this name. begins_proof: one is about to be checked, `proved` will follow."""

    def proved(self, person: str, *, is_right: bool) -> None:
        """How a proof ended."""

    async def admit(self, progress: Progress) -> None:
        """Authenticated: check caps and judge the start-up settings. Raises LoginRefused."""

    def issue_key(self, ready: ServerReady, progress: Progress) -> IssuedKey:
        """Make the client's cancel key."""

    async def cancel(self, request: Cancel) -> None:
        """A cancel request arrived."""


class LoginDriver:
    """One connection's login.

    certificate: the listener's TLS, None if it has none. context: for the server's leg, None if the target's mode is disable.
    """

    def __init__(
        self,
        client: Wire,
        gate: Gate,
        attempt: Attempt,
        target: Target,
        timeouts: Timeouts,
        certificate: ListenerCertificate | None,
        context: ssl.SSLContext | None,
        dialer: Dialer,
    ) -> None:
        self.client = client
        self.server: Wire | None = None
        self.progress = Progress()
        self._gate = gate
        self._attempt = attempt
        self._target = target
        self._timeouts = timeouts
        self._certificate = certificate
        self._context = context
        self._dialer = dialer
        self._server_deadline: float | None = None

    async def run(self, steps: Steps, deadline: float | None) -> Ready | None:
        """Do all steps. Returns Ready, or None after a cancel request.

        deadline: when the caller ends the login, in the loop's time; None: never.
        Raises LoginRefused or ProtocolError when the client has been told, ConnectionError when it left, TimeoutError.
        """
        if deadline is not None:
            left = deadline - asyncio.get_running_loop().time()
            self._server_deadline = deadline - min(_TELLING_S, left / 4)
        answer: Any = None
        fault: Exception | None = None
        while True:
            try:
                step = steps.send(answer) if fault is None else steps.throw(fault)
            except StopIteration:
                return None
            except LoginRefused as refused:
                authorization = self.progress.authorization
                # Once the server is connected, only its own refusal of the person's password ends as a failed login.
                if self.server and authorization and authorization.is_personal and refused.refusal.why is Why.LOGIN:
                    self._gate.proved(authorization.canonical, is_right=False)
                raise
            if isinstance(step, Ready):
                return step
            answer = fault = None
            try:
                answer = await self._do(step)
            except (LoginRefused, ConnectionError) as error:
                fault = error

    async def _do(self, step: object) -> object:
        match step:
            case ReadExactly(Side.CLIENT, size):
                return await self.client.read_exactly(size)
            case ReadExactly(Side.SERVER, size):
                return await self._in_time(self._wire(Side.SERVER).read_exactly(size))
            case Send(side, data):
                await self._wire(side).send(data)
                return None
            case PeekByte():
                return await self.client.peek_byte()
            case StartTLS(Side.CLIENT):
                return await self._secure_client(step)
            case StartTLS(Side.SERVER):
                return await self._in_time(self._secure_server())
            case Identify(startup, tls, mechanism):
                self.progress.startup = startup
                self.progress.mechanism = mechanism.lower()
                await self._gate.throttle(self._attempt.name_of(startup), begins_proof=False)
                return self._attempt.identify(startup, tls, mechanism)
            case Authenticate(startup, password):
                authorization = await self._authenticate(startup, password)
                self.progress.authorization = authorization.without_password()
                await self._gate.admit(self.progress)
                return authorization
            case OpenServer(authorization):
                return await self._in_time(self._open_server(authorization))
            case ServerReady():
                self.progress.server_pid = step.process_id
                self.progress.server_secret = step.server_secret
                self.progress.parameters = dict(step.parameters)
                if self.progress.authorization is not None and self.progress.authorization.is_personal:
                    self._gate.proved(self.progress.authorization.canonical, is_right=True)
                return self._gate.issue_key(step, self.progress)
            case Cancel():
                self.progress.was_cancel = True
                await self._gate.cancel(step)
                return None
        raise TypeError(f"unknown login step {type(step).__name__}")

    async def _authenticate(self, startup: Startup, password: bytes | None) -> Authorization:
        """Have the proof checked, within what the throttle leaves. Others may have failed meanwhile, so it is asked again."""
        name = self._attempt.name_of(startup)
        is_settled_here = self._attempt.is_settled_here
        await self._gate.throttle(name, begins_proof=is_settled_here)
        try:
            authorization = self._attempt.authenticate(startup, password)
        except LoginRefused as refused:
            self._gate.proved(name, is_right=refused.event != FAILED)
            raise
        if is_settled_here:
            self._gate.proved(name, is_right=True)
        return authorization

    async def _in_time(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for the server. Raises LoginRefused while the client can still be told."""
        try:
            async with asyncio.timeout_at(self._server_deadline) as limit:
                return await waiting
        except TimeoutError as error:
            if not limit.expired():
                raise
            refusal = Refusal(Why.SERVER_LOST, f'the database "{self._target.name}" did not answer in time')
            raise LoginRefused(refusal, "no answer within the time for a login", SERVER_SILENT) from error

    def _wire(self, side: Side) -> Wire:
        if side is Side.CLIENT:
            return self.client
        if self.server is None:
            raise ConnectionResetError("no server connection")
        return self.server

    async def _secure_client(self, step: StartTLS) -> TLSInfo:
        certificate = self._certificate
        if certificate is None:
            raise LoginRefused(Refusal(Why.UNSUPPORTED, "this listener has no TLS"))
        if not step.direct and self.client.has_waiting:
            # Whoever wrote these bytes did so in clear; after the handshake they would pass for the client's own.
            raise LoginRefused(Refusal(Why.PROTOCOL, "bytes before the TLS handshake"), event=EARLY_BYTES)
        if step.answer:
            await self.client.send(step.answer)
        try:
            connection = await self.client.start_tls(
                certificate.context, server_name=None, timeout_s=self._timeouts.login_s
            )
        except ssl.SSLError as error:
            raise ConnectionResetError("TLS handshake failed") from error
        self.progress.client_tls = tls_info(connection, certificate)
        return self.progress.client_tls

    async def _secure_server(self) -> TLSInfo:
        wire = self._wire(Side.SERVER)
        if self._context is None:
            raise LoginRefused(Refusal(Why.SERVER_LOST, "TLS to the database is not configured"))
        lost = "the database could not prove its identity"
        if wire.has_waiting:
            raise LoginRefused(Refusal(Why.SERVER_LOST, lost), "bytes before the TLS handshake", EARLY_BYTES)
        try:
            connection = await wire.start_tls(
                self._context, server_name=self._target.host, timeout_s=self._timeouts.connect_s
            )
        except ssl.SSLError as error:
            reason = verification_reason(error)
            raise LoginRefused(Refusal(Why.SERVER_LOST, lost), reason, reason) from error
        except OSError as error:
            raise LoginRefused(Refusal(Why.SERVER_LOST, lost), "TLS handshake failed", "tls_failed") from error
        self.progress.server_tls = tls_info(connection)
        return self.progress.server_tls

    async def _open_server(self, authorization: object) -> ServerAccess:
        if not isinstance(authorization, Authorization):
            raise TypeError("opening a server connection takes an Authorization")
        access = server_access(authorization, self._target)
        self.server = await self._dialer.dial(self._target, self._timeouts.connect_s)
        return access


async def run_cancel(
    steps: Steps, wire: Wire, context: ssl.SSLContext | None, target: Target, timeout_s: float
) -> None:
    """Deliver a cancel request and wait until the server has closed the connection: only then it has been dealt with."""
    answer: object = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration:
            break
        answer = None
        if isinstance(step, Send):
            await wire.send(step.data)
        elif isinstance(step, ReadExactly):
            answer = await wire.read_exactly(step.size)
        elif isinstance(step, StartTLS) and context is not None and not wire.has_waiting:
            answer = tls_info(await wire.start_tls(context, server_name=target.host, timeout_s=timeout_s))
        else:
            raise ConnectionResetError("the cancel request cannot be delivered")
    try:
        await wire.read_exactly(1)
    except ConnectionError:
        return
