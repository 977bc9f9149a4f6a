"""Metrics and health over HTTP, in the proxy's own event loop: GET /metrics, /healthz, /readyz and nothing else.

There is no login here, so there is nothing to do here either: no route changes anything, and no answer names a person, a statement or
a secret. The listener belongs on a loopback or private address; the Host header must name that very address, so that a web page which
had its own name point here cannot read the answers.
"""

from __future__ import annotations

import socket
from typing import Protocol

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dbproxy.errors import StartError
from dbproxy.http_server import HttpServer, with_safe_headers
from dbproxy.metrics import Exporter, LagHistogram


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
        self._server: HttpServer | None = None

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
        self._server = HttpServer(app, "metrics and health")
        await self._server.start(listener)
        return address

    async def stop(self) -> None:
        """Stop listening, let answers that are under way end. Safe to call twice."""
        if self._server is not None:
            await self._server.stop()

    async def _metrics(self, request: Request) -> Response:
        body, content_type = self._exporter.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def _healthz(self, _request: Request) -> Response:
        """An answer at all shows that the process lives and its event loop turns; whether it is of use is /readyz."""
        return _json({"status": "ok", "event_loop_lag_ms": round(self._lag.last_s * 1000, 1)})

    async def _readyz(self, _request: Request) -> Response:
        reasons = problems(self._state)
        return _json({"status": "not ready" if reasons else "ready", "reasons": reasons}, 503 if reasons else 200)


class _Guard:
    """In front of all routes: the Host header, the method, and headers on every answer, refusals included."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...]) -> None:
        self._app = app
        self._allowed_hosts = frozenset(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        app = self._app
        if not self._names_us(Headers(scope=scope).getlist("host"), scope.get("server")):
            app = PlainTextResponse("this address does not serve that host\n", 421)
        elif scope["method"] != "GET":
            app = PlainTextResponse("only GET\n", 405, {"allow": "GET"})
        await app(scope, receive, with_safe_headers(send))

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
