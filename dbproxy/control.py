"""Metrics and health over HTTP, in the proxy's own event loop: GET /metrics, /healthz, /readyz and nothing else.

There is no login here, so there is nothing to do here either: no route changes anything, and no answer names a person, a statement or
a secret. The listener belongs on a loopback or private address; the Host header must name that very address, so that a web page which
had its own name point here cannot read the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Protocol

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbproxy.errors import StartError
from dbproxy.metrics import Exporter, LagHistogram
from dbproxy.tasks import Tasks

_STOP_TIMEOUT_S = 5
_MAX_CONNECTIONS = 64
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class State(Protocol):
    """What readiness is made of; each is asked anew for every request."""

    @property
    def is_listening(self) -> bool:
        """All listeners accept connections."""

    @property
    def is_audit_writable(self) -> bool:
        """Statements are not refused for want of an audit record."""

    @property
    def has_policy(self) -> bool:
        """A policy is in force."""

    @property
    def is_classifier_ready(self) -> bool:
        """A process is there to read statements."""

    @property
    def is_draining(self) -> bool:
        """The proxy is on its way out and takes no new sessions."""


def problems(state: State) -> list[str]:
    """Why the proxy is not ready, in words that a runbook can search for; [] if it is."""
    checks = (
        (state.is_listening, "not listening"),
        (state.is_audit_writable, "audit cannot be written"),
        (state.has_policy, "no policy loaded"),
        (state.is_classifier_ready, "no classifier process"),
        (not state.is_draining, "draining"),
    )
    return [problem for is_good, problem in checks if not is_good]


class Control:
    """The HTTP listener.

    exporter: makes the metrics. lag: shown in /healthz. state: what /readyz reports.
    allowed_hosts: values of the Host header to accept besides the address itself and localhost, exactly as sent, with port.
    """

    def __init__(
        self, exporter: Exporter, lag: LagHistogram, state: State, allowed_hosts: tuple[str, ...] = ()
    ) -> None:
        self._exporter = exporter
        self._lag = lag
        self._state = state
        self._allowed_hosts = allowed_hosts
        self._tasks = Tasks()
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and answer from now on. port 0 lets the system choose. Returns the address in use.

        Raises StartError if the address cannot be had.
        """
        listener = _listen(host, port)
        address: tuple[str, int] = listener.getsockname()[:2]
        routes = [
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
        ]
        app = _Guard(Starlette(routes=routes), self._allowed_hosts)
        settings = uvicorn.Config(
            app,
            access_log=False,
            date_header=False,
            lifespan="off",
            limit_concurrency=_MAX_CONNECTIONS,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
            timeout_keep_alive=15,
            http="h11",
            ws="none",
        )
        server = self._server = _Server(settings)
        self._serving = self._tasks.spawn(server.serve(sockets=[listener]), name="control listener")
        ready = asyncio.ensure_future(server.is_up.wait())
        await asyncio.wait((ready, self._serving), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not server.started:
            listener.close()
            raise StartError("the metrics and health listener did not start")
        return address

    async def stop(self) -> None:
        """Stop listening, let answers that are under way end. Safe to call twice."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait((self._serving,), timeout=_STOP_TIMEOUT_S + 1)
        await self._tasks.cancel_all(timeout_s=1)

    async def _metrics(self, request: Request) -> Response:
        body, content_type = self._exporter.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def _healthz(self, _request: Request) -> Response:
        """An answer at all shows that the process lives and its event loop turns; whether it is of use is /readyz."""
        return _json({"status": "ok", "event_loop_lag_ms": round(self._lag.last_s * 1000, 1)})

    async def _readyz(self, _request: Request) -> Response:
        reasons = problems(self._state)
        return _json({"status": "not ready" if reasons else "ready", "reasons": reasons}, 503 if reasons else 200)


class _Server(uvicorn.Server):
    """uvicorn as a guest: signals stay the proxy's, and start-up can be waited for."""

    def __init__(self, settings: uvicorn.Config) -> None:
        super().__init__(settings)
        self.is_up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


class _Guard:
    """In front of all routes: the Host header, the method, and headers on every answer, refusals included."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...]) -> None:
        self._app = app
        self._allowed_hosts = frozenset(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        app = self._app
        if not self._names_us(Headers(scope=scope).getlist("host"), scope.get("server")):
            app = PlainTextResponse("this address does not serve that host\n", 421)
        elif scope["method"] != "GET":
            app = PlainTextResponse("only GET\n", 405, {"allow": "GET"})
        await app(scope, receive, send_guarded)

    def _names_us(self, hosts: list[str], local: tuple[str, int | None] | None) -> bool:
        """Whether the one Host header is this connection's own local address, localhost on it, or on the list. Exactly as written."""
        if len(hosts) != 1 or local is None:
            return False
        host, port = local
        literal = f"[{host}]" if ":" in host else host
        names = {f"{literal}:{port}", f"localhost:{port}"}
        if port == 80:
            names |= {literal, "localhost"}
        return hosts[0] in names or hosts[0] in self._allowed_hosts


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. "localhost" is 127.0.0.1, whatever the resolver says."""
    host = "127.0.0.1" if host == "localhost" else host
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {host} port {port} for metrics and health: {error.strerror}") from error
    listener.setblocking(False)  # noqa: FBT003 - the socket's own signature
    return listener


def _json(value: dict[str, object], status: int = 200) -> Response:
    return Response(orjson.dumps(value) + b"\n", status, media_type="application/json")
