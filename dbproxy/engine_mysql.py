"""MySQL and MariaDB as an engine: the wiring of protocol.mysql. With app.py the only place that names it.

A greeting comes before anything is known of the client, so it shows what the target's own greeting said when it was seen last: once at
start, then with every login. The connection id in it is one of the proxy's own; when a client kills that id, the server's is meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

from classifiers.effects import Effect, Kind, LexingState, NameCase, Report
from config.settings import Limits, Listener, Target
from dbproxy.connection_ids import ConnectionIds, Owner
from dbproxy.dialect import Dialect
from dbproxy.dialer import Dialer
from dbproxy.engine import Engine, Steps
from dbproxy.identity.rsa_key import RSAKey
from dbproxy.transport import Wire
from protocol.contract import Host, Refusal, Relay, Why
from protocol.errors import ProtocolError
from protocol.login import Authorization, LoginRefused, ReadExactly, Startup
from protocol.mysql.client_login import Claim, LoginOptions, Profile
from protocol.mysql.login import login
from protocol.mysql.parameters import parse_parameter
from protocol.mysql.relay import MySQLRelay
from protocol.mysql.requests import KILL_OWN
from protocol.mysql.server_login import ServerSession, read_profile

_FIRST_ID = 1 << 31
"""Ids that clients see are above, those of servers in practice below: one is not taken for the other."""
_RETRY_S = 2.0
_PROBE_S = 5.0

_PATH_QUERY = b"".join(
    (
        b"SELECT CAST(IFNULL(DATABASE(),'') AS BINARY)",
        *(
            b",CAST(CONVERT(CONCAT('%b=',IFNULL(@@%b,'')) USING utf8mb4) AS BINARY)" % (name, name)
            for name in (b"sql_mode", b"character_set_client", b"lower_case_table_names")
        ),
    )
)
"""Binary strings come as they are, whatever character set the session wants its results in."""

_CALLS = {
    b"COM_STATISTICS": (Kind.METADATA, (), True),
    b"COM_SET_OPTION": (Kind.SESSION, (), True),
    b"COM_RESET_CONNECTION": (Kind.SESSION, ("session_semantics_change",), False),
    KILL_OWN: (Kind.SESSION, (), True),
    b"COM_CHANGE_USER": (Kind.SESSION, ("identity_change",), False),
    b"COM_CREATE_DB": (Kind.DDL, (), True),
    b"COM_DROP_DB": (Kind.DDL, ("ddl_destructive",), True),
    b"COM_SHUTDOWN": (Kind.ADMIN, (), True),
    b"COM_DEBUG": (Kind.ADMIN, (), True),
}
_REPLICATION = (Kind.ADMIN, ("replication",), True)


def mysql_engine(connections: Path) -> Engine:
    """MySQL and MariaDB. connections: a folder that all workers share, see connection_ids.py."""
    world = _World(ConnectionIds(connections))
    return Engine(
        dialect=Dialect(
            name="mysql",
            lexing_state=_lexing_state,
            search_path=_search_path,
            parse_path=_parse_path,
            path_query=_PATH_QUERY,
            role_query=None,
            own_role=_own_role,
            server_version=server_version,
            decode_parameter=parse_parameter,
            is_write_tag=_is_write_tag,
            startup_text=_startup_text,
            name_case=_name_case,
            call_report=_call_report,
        ),
        login=world.login,
        make_relay=_make_relay,
        cancel=_cancel,
        watch=world.watch,
    )


class _World:
    """What logins of one process share."""

    def __init__(self, ids: ConnectionIds) -> None:
        self._ids = ids
        self._profiles: dict[str, Profile] = {}
        self._dialer = Dialer()
        self._key: RSAKey | None = None

    def login(self, listener: Listener, target: Target, make_relay: Callable[[dict[str, str]], Relay]) -> Steps:
        if listener.tls.mode.value != "require" and self._key is None:
            self._key = RSAKey()
        options = LoginOptions(
            random_bytes=secrets.token_bytes,
            next_id=_next_id,
            key=self._key,
            tls=listener.tls.mode.value,
            allow_local_files=target.allow_local_infile,
            allow_native=listener.mysql_native_password,
        )

        def relay_factory(authorization: Authorization, claim: Claim, session: ServerSession) -> Relay:
            relay = make_relay({"server_version": session.profile.version})
            if not isinstance(relay, MySQLRelay):
                raise TypeError("a relay of another protocol")
            owner = authorization.person, authorization.server_user, target.name
            self._ids.enter(claim.connection_id, owner, session.thread_id)
            own = _OwnSessions(self._ids, owner)
            weakref.finalize(own, self._ids.leave, claim.connection_id)
            relay.agree(claim.capabilities, own.find)
            return relay

        return login(
            options,
            target.name,
            lambda: self._profiles.get(target.name),
            lambda profile: self._profiles.__setitem__(target.name, profile),
            relay_factory,
        )

    async def watch(self, target: Target) -> None:
        """Learn the target's greeting; ends when it is known. The server counts a connection that says nothing: one is enough."""
        while target.name not in self._profiles:
            with contextlib.suppress(LoginRefused, ProtocolError, OSError, TimeoutError, ssl.SSLError):
                async with asyncio.timeout(_PROBE_S):
                    wire = await self._dialer.dial(target, _PROBE_S)
                    try:
                        self._profiles[target.name] = await _probe(wire)
                    finally:
                        wire.close()
            if target.name not in self._profiles:
                await asyncio.sleep(_RETRY_S)


class _OwnSessions:
    """What one session may kill. Kept alive by the session's relay alone: when it goes, so does the session's own entry."""

    __slots__ = ("__weakref__", "_ids", "_owner")

    def __init__(self, ids: ConnectionIds, owner: Owner) -> None:
        self._ids = ids
        self._owner = owner

    def find(self, number: int) -> int | None:
        """The server's id of the session that was given this number, if it is the same person's, on the same target."""
        return self._ids.find(number, self._owner) if number >= _FIRST_ID else None


def _next_id() -> int:
    return _FIRST_ID | secrets.randbits(31)


async def _probe(wire: Wire) -> Profile:
    steps = read_profile()
    answer: bytes | None = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as stop:
            profile: Profile = stop.value
            return profile
        if not isinstance(step, ReadExactly):
            raise TypeError("a probe only reads")
        answer = await wire.read_exactly(step.size)


def _make_relay(host: Host, limits: Limits, target: Target) -> Relay:
    return MySQLRelay(
        host,
        max_statement_bytes=limits.max_statement_bytes,
        max_message_bytes=limits.max_message_bytes,
        held_max_bytes=limits.held_max_bytes,
        max_prepared=limits.max_prepared_per_session,
    )


def _cancel(tls: str, process_id: int, secret: bytes) -> Steps:
    """MySQL has no cancel requests: KILL QUERY is a statement on another connection."""
    raise LoginRefused(Refusal(Why.UNSUPPORTED, "this protocol has no cancel requests"))


def _lexing_state(parameters: Mapping[str, str]) -> LexingState:
    mode = parameters.get("sql_mode")
    modes = None if mode is None else frozenset(mode.upper().split(","))
    encoding = parameters.get("character_set_client", "unknown").upper()
    if modes is None:
        return LexingState(None, encoding, None, None)
    return LexingState(None, encoding, "ANSI_QUOTES" in modes, "NO_BACKSLASH_ESCAPES" in modes)


def _search_path(parameters: Mapping[str, str], role: str) -> tuple[str, ...] | None:
    """Never known without asking: sessions do not report sql_mode, and not every client lets them report anything."""
    return None


def _name_case(parameters: Mapping[str, str]) -> NameCase:
    """The server's setting is fixed when it is started, but it does not tell by itself: the proxy's first question asks for it."""
    setting = parameters.get("lower_case_table_names", "")
    return {"0": NameCase.KEPT, "1": NameCase.IGNORED, "2": NameCase.IGNORED}.get(setting, NameCase.UNKNOWN)


def _parse_path(value: str, role: str) -> tuple[str, ...] | None:
    return (value,) if value else ()


def _own_role(parameters: Mapping[str, str]) -> str | None:
    """SET ROLE adds rights, and leaves the account what it is."""
    return None


def server_version(parameters: Mapping[str, str]) -> int:
    """80045 for "8.0.45", 101106 for "5.5.5-10.11.6-MariaDB"; 0 if the server does not say."""
    text = parameters.get("server_version", "").removeprefix("5.5.5-")
    found = re.match(r"(\d{1,2})\.(\d{1,2})\.(\d{1,2})", text)
    return int(found[1]) * 10_000 + int(found[2]) * 100 + int(found[3]) if found else 0


def _is_write_tag(tag: bytes) -> bool:
    """More than one row affected, or UPDATE's own words: SELECT ... INTO @variable reports one row and writes nothing."""
    for part in tag.split(b"; "):
        words = part.split(b" ", 2)
        is_ok = len(words) > 1 and words[0] == b"OK" and words[1].isdigit()
        if is_ok and (int(words[1]) > 1 or (len(words) > 2 and words[2].startswith((b"Rows matched", b"Records")))):
            return True
    return False


def _startup_text(startup: Startup) -> bytes:
    return b""


def _call_report(name: bytes) -> Report:
    kind, flags, is_neutral = _CALLS.get(name, _REPLICATION)
    effect = Effect(kind, flags=frozenset(flags))
    return Report((effect,), command="OTHER", is_neutral=is_neutral, reason=name.decode("ascii", "replace"))
