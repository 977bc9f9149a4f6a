"""An HTTP listener inside the proxy's own event loop: uvicorn as a guest, which leaves signals and logging alone.

What it answers is the application's affair: control.py (metrics, health) and admin.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Message, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dbproxy.errors import StartError
from dbproxy.tasks import Tasks

_SAFE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_STOP_TIMEOUT_S = 5
_MAX_CONNECTIONS = 64
_KEEP_ALIVE_S = 15


class HttpServer:
    """One listener. name: for messages and the log. connection: the class that reads requests."""

    def __init__(self, app: ASGIApp, name: str, connection: type[H11Protocol] = H11Protocol) -> None:
        self._name = name
        self._tasks = Tasks()
        self._serving: asyncio.Task[None] | None = None
        self._guest = _Guest(
            uvicorn.Config(
                app,
                access_log=False,
                date_header=False,
                lifespan="off",
                limit_concurrency=_MAX_CONNECTIONS,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=_STOP_TIMEOUT_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
                http=connection,
                ws="none",
            )
        )

    async def start(self, listening: socket.socket) -> None:
        """Answer on a listening socket from now on; it is closed when the server stops. Raises StartError."""
        self._serving = self._tasks.spawn(self._guest.serve(sockets=[listening]), name=f"{self._name} listener")
        ready = asyncio.ensure_future(self._guest.is_up.wait())
        await asyncio.wait((ready, self._serving), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self._guest.started:
            listening.close()
            raise StartError(f"the {self._name} listener did not start")

    async def stop(self) -> None:
        """Stop listening, let answers that are under way end. Safe to call twice."""
        if self._serving is not None:
            self._guest.leave()
            await asyncio.wait((self._serving,), timeout=_STOP_TIMEOUT_S + 1)
        await self._tasks.cancel_all(timeout_s=1)


def with_safe_headers(send: Send) -> Send:
    """Whatever a browser might do with an answer that it got to see, it is told not to."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *_SAFE_HEADERS]
        await send(message)

    return send_with_headers


class _Guest(uvicorn.Server):
    """uvicorn as a guest: signals stay the proxy's, and start-up can be waited for."""

    def __init__(self, settings: uvicorn.Config) -> None:
        super().__init__(settings)
        self.is_up = asyncio.Event()
        self._is_over = asyncio.Event()

    def leave(self) -> None:
        """Stop at once; also before it is up."""
        self.should_exit = True
        self._is_over.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    async def main_loop(self) -> None:
        """Nothing to do but wait: what uvicorn does here ten times a second is for settings that are off (date, request limit)."""
        self.server_state.default_headers = self.config.encoded_headers
        await self._is_over.wait()
