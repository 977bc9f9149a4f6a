"""Metrics and health over HTTP, in the control process: GET /metrics, /healthz, /readyz and nothing else.

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

from dbproxy.exposition import View, exposition
from dbproxy.http_server import HttpServer, with_safe_headers


class State(Protocol):
    """What is answered; asked anew for every request."""

    async def view(self) -> View:
        """The figures of all processes."""

    async def problems(self) -> tuple[str, ...]:
        """Why the proxy is not ready, in words that a runbook can search for; () if it is."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not work although the proxy is of use; in such words too."""

    @property
    def lag_s(self) -> float:
        """How late this process's own event loop was last."""


class Control:
    """The HTTP listener.

    allowed_hosts: values of the Host header to accept besides the address itself and localhost, exactly as sent, with port.
    """

    def __init__(self, state: State, allowed_hosts: tuple[str, ...] = ()) -> None:
        self._state = state
        self._allowed_hosts = allowed_hosts
        self._server: HttpServer | None = None

    async def start(self, listening: socket.socket) -> None:
        """Answer on a listening socket from now on. Raises StartError."""
        routes = [
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
        ]
        app = _Guard(Starlette(routes=routes), self._allowed_hosts)
        self._server = HttpServer(app, "metrics and health")
        await self._server.start(listening)

    async def stop(self) -> None:
        """Stop listening, let answers that are under way end. Safe to call twice."""
        if self._server is not None:
            await self._server.stop()

    async def _metrics(self, request: Request) -> Response:
        body, content_type = exposition(await self._state.view(), request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def _healthz(self, _request: Request) -> Response:
        """An answer at all shows that the process lives and its event loop turns; whether the proxy is of use is /readyz."""
        return _json({"status": "ok", "event_loop_lag_ms": round(self._state.lag_s * 1000, 1)})

    async def _readyz(self, _request: Request) -> Response:
        reasons = await self._state.problems()
        status = "not ready" if reasons else "ready"
        answer: dict[str, object] = {"status": status, "reasons": reasons, "warnings": self._state.warnings}
        return _json(answer, 503 if reasons else 200)


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


def _json(value: dict[str, object], status: int = 200) -> Response:
    return Response(orjson.dumps(value) + b"\n", status, media_type="application/json")
