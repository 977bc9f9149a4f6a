"""The admin API: HTTP on a unix socket in the state directory, for the `dbproxy` command and, later, a console.

    GET  /v1/sessions              who is connected, in all workers
    GET  /v1/sessions/{id}         one of them, as it is now
    POST /v1/sessions/{id}/kill    {"reason": "..."}: end it; the person is told the reason
    GET  /v1/status                processes, versions, audit trail, policy, latest runs
    POST /v1/reload                {}: read policies, users and certificates again

Who may ask: the user the proxy runs as, and root, which is what the kernel says of the peer; nobody else can enter the directory anyway.
ROUTES is the whole API, with the permission that each route needs. What changes something is recorded first, and not done if it cannot
be recorded. No route gives statement text or a secret.

Answers are JSON; an error is {"error": "<one sentence>"} with 400, 403, 404, 405, 413, 415, 421, 503 or 504.
Counterpart: admin_client.py.
"""

from __future__ import annotations

import asyncio
import logging
import pwd
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dbproxy import unix_socket
from dbproxy.audit.chain import format_time
from dbproxy.audit.types import EventType
from dbproxy.http_server import HttpServer, with_safe_headers
from dbproxy.operations import ADMIN_SOCKET, REASON_MAX, Operations, ProxyStatus
from dbproxy.sessions_view import SessionDirectory, SessionInfo
from dbproxy.store.contract import Run, StoreError

_log = logging.getLogger(__name__)

HOST = "localhost"
"""The Host header of every request; anything else came through a forwarder that was not meant to be."""
_BODY_MAX_BYTES = 65_536
_REQUEST_TIMEOUT_S = 30.0
_RUNS_SHOWN = 20

Record = Callable[[EventType, dict[str, object]], Awaitable[bool]]
"""Puts an event into the audit trail; returns once it is recorded as the durability setting says. False: it could not be."""
History = Callable[[int], Awaitable[tuple[Run, ...]]]
"""The latest runs of processes, at most so many (Store.runs)."""


class Permission(StrEnum):
    """What somebody may be allowed to do."""

    SESSIONS_READ = "sessions.read"
    SESSIONS_KILL = "sessions.kill"
    PROXY_READ = "proxy.read"
    PROXY_RELOAD = "proxy.reload"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: a local user, as the kernel vouches for it."""

    name: str
    uid: int

    @property
    def members(self) -> dict[str, object]:
        """For an audit event."""
        return {"actor": self.name, "actor_uid": self.uid}


@dataclass(frozen=True, slots=True)
class Call:
    """One permitted request. body: the JSON object that came with a POST; {} for a GET."""

    actor: Actor
    parameters: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """One row of the API. records: the event that is written before it changes anything; None: it changes nothing."""

    method: str
    path: str
    permission: Permission
    records: EventType | None
    answer: Callable[[Admin, Call], Awaitable[Any]]


def everybody(_actor: Actor) -> frozenset[Permission]:
    """Who could connect may do everything."""
    return frozenset(Permission)


class Admin:
    """The API at work.

    permissions: what an actor may do. record, history: see above.
    """

    def __init__(
        self,
        sessions: SessionDirectory,
        operations: Operations,
        record: Record,
        history: History,
        permissions: Callable[[Actor], frozenset[Permission]] = everybody,
    ) -> None:
        self._sessions = sessions
        self._operations = operations
        self._record = record
        self._history = history
        self._permissions = permissions
        self._server = HttpServer(_Guard(self._application()), "admin", _Connection)
        self._path: Path | None = None

    async def start(self, directory: Path) -> Path:
        """Answer on ADMIN_SOCKET in the state directory from now on. Returns the socket's path. Raises StartError."""
        unix_socket.private_directory(directory)
        path = directory / ADMIN_SOCKET
        await self._server.start(unix_socket.listen(path))
        self._path = path
        return path

    async def stop(self) -> None:
        """Let answers that are under way end. Safe to call twice."""
        await self._server.stop()
        if self._path is not None:
            with suppress(OSError):  # the next start replaces it
                self._path.unlink()
            self._path = None

    def _application(self) -> ASGIApp:
        routes = [Route(each.path, self._endpoint(each), methods=[each.method]) for each in ROUTES]
        return Starlette(routes=routes, exception_handlers={HTTPException: _answer_problem})

    def _endpoint(self, route: AdminRoute) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            actor = Actor(*request.scope["client"])
            if route.permission not in self._permissions(actor):
                return _problem(403, f"this needs the permission {route.permission}")
            try:
                async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                    body = {} if request.method in ("GET", "HEAD") else await _read_body(request)
                    return _json(await route.answer(self, Call(actor, request.path_params, body)))
            except TimeoutError:
                return _problem(504, "a process of the proxy did not answer in time; ask again to see what came of it")
            except HTTPException:
                raise
            except Exception as error:  # noqa: BLE001 - the top of a request: its text may hold what must not leave
                _log.error("%s %s failed: %s", route.method, route.path, type(error).__qualname__)
                return _problem(500, "this failed inside the proxy; its log says where")

        return endpoint

    async def _recorded(self, event: EventType, call: Call, fields: dict[str, object]) -> None:
        """INVARIANT: nothing is changed before its event is recorded."""
        if not await self._record(event, {**fields, **call.actor.members}):
            raise HTTPException(503, "the audit trail cannot be written, so nothing was done")

    # ---- routes -------------------------------------------------------------------------------------------------

    async def list_sessions(self, _call: Call) -> dict[str, Any]:
        return {"sessions": [_session(each) for each in await self._sessions.sessions()]}

    async def show_session(self, call: Call) -> dict[str, Any]:
        return _session(await self._find(call))

    async def kill_session(self, call: Call) -> dict[str, Any]:
        reason = _reason(call.body)
        session = await self._find(call)
        identity: dict[str, object] = {
            "session": session.id,
            "person": session.person,
            "account": session.account,
            "server_user": session.server_user,
            "database": session.database,
            "target": session.target,
            "client": session.client,
            "application": session.application,
        }
        await self._recorded(EventType.SESSION_KILLED, call, {**identity, "reason": reason})
        ended = await self._sessions.kill_session(session.id, f"ended by an operator: {reason}")
        if ended is None:
            raise HTTPException(404, "the session ended by itself meanwhile")
        return {"ended": _session(ended)}

    async def show_status(self, _call: Call) -> dict[str, Any]:
        answer = _status(await self._operations.status())
        try:
            runs = await self._history(_RUNS_SHOWN)
        except StoreError as error:
            answer["runs"] = None
            if not answer["warnings"]:
                answer["warnings"].append(f"the history of processes cannot be read: {error}")
        else:
            answer["runs"] = [_plain(asdict(each)) for each in runs]
        return answer

    async def reload(self, call: Call) -> dict[str, Any]:
        await self._recorded(EventType.ADMIN_RELOAD, call, {})
        found = await self._operations.reload()
        return {"policy_sha256": found.policy_sha256, "problems": list(found.problems)}

    async def _find(self, call: Call) -> SessionInfo:
        session = await self._sessions.find_session(call.parameters["id"])
        if session is None:
            raise HTTPException(404, "there is no such session; it may have ended")
        return session


ROUTES: tuple[AdminRoute, ...] = (
    AdminRoute("GET", "/v1/sessions", Permission.SESSIONS_READ, None, Admin.list_sessions),
    AdminRoute("GET", "/v1/sessions/{id}", Permission.SESSIONS_READ, None, Admin.show_session),
    AdminRoute(
        "POST", "/v1/sessions/{id}/kill", Permission.SESSIONS_KILL, EventType.SESSION_KILLED, Admin.kill_session
    ),
    AdminRoute("GET", "/v1/status", Permission.PROXY_READ, None, Admin.show_status),
    AdminRoute("POST", "/v1/reload", Permission.PROXY_RELOAD, EventType.ADMIN_RELOAD, Admin.reload),
)
"""All there is. A test asks each with every single permission, and without."""


class _Connection(H11Protocol):
    """Puts the user at the other end where a request's client address would be; None for one who may not ask."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own narrowing
        super().connection_made(transport)
        peer = unix_socket.peer(transport.get_extra_info("socket"))
        self.client = (_user_name(peer.uid), peer.uid) if peer.is_trusted else None
        if not peer.is_trusted:
            _log.warning("the user with number %d may not use the admin socket", peer.uid)


class _Guard:
    """In front of all routes: the peer, the headers that a browser's request would have, and headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        app = self._app
        headers = Headers(scope=scope)
        if scope["client"] is None:
            app = _problem(403, "only the user that the proxy runs as, and root, may ask")
        elif headers.getlist("host") != [HOST]:
            app = _problem(421, f"the Host header must be {HOST}")
        elif "origin" in headers or "sec-fetch-site" in headers:
            app = _problem(403, "not for web pages")
        await app(scope, receive, with_safe_headers(send))


async def _read_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. What no web form can send is what protects from one."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the content type must be application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_MAX_BYTES:
            raise HTTPException(413, "the request is too long")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise HTTPException(400, "the request is not JSON") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the request must be a JSON object")
    return value


def _reason(body: dict[str, Any]) -> str:
    reason = body.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise HTTPException(400, "say why: reason must be text")
    reason = reason.strip()
    if len(reason) > REASON_MAX or not reason.isprintable():
        raise HTTPException(400, f"reason must be one line of at most {REASON_MAX} characters")
    return reason


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


# ---- answers --------------------------------------------------------------------------------------------------------


def _session(session: SessionInfo) -> dict[str, Any]:
    return _plain(asdict(session))


def _status(status: ProxyStatus) -> dict[str, Any]:
    return {"ready": not status.problems, **_plain(asdict(status))}


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """For JSON: times as text (started_at for started_at_ns), because numbers of that size do not survive every reader."""
    plain: dict[str, Any] = {}
    for name, each in value.items():
        if name.endswith("_at_ns"):
            plain[name.removesuffix("_ns")] = format_time(each) if each else None
        else:
            plain[name] = _plain_value(each)
    return plain


def _plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, list | tuple):
        return [_plain_value(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):  # names that are not UTF-8 hold marks in place of their bytes
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value) + b"\n", status, media_type="application/json")


def _problem(status: int, text: str) -> Response:
    return _json({"error": text}, status)


async def _answer_problem(_request: Request, problem: Exception) -> Response:
    if not isinstance(problem, HTTPException):
        raise problem
    return _problem(problem.status_code, problem.detail)
