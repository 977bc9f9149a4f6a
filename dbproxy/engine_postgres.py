"""PostgreSQL as an engine: the wiring of protocol.postgres. With app.py the only place that names it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping

from classifiers.effects import LexingState, NameCase, Report
from classifiers.search_path_postgres import parse_search_path
from config.settings import Limits, Listener, Target
from dbproxy.dialect import Dialect
from dbproxy.engine import Engine, Steps
from dbproxy.judge import unknown_report
from protocol.contract import Host, Relay
from protocol.login import Startup
from protocol.postgres.login import LoginOptions, login
from protocol.postgres.parameters import parse_parameter
from protocol.postgres.relay import PostgresRelay
from protocol.postgres.server_login import cancel_login
from protocol.postgres.startup import startup_settings

_HARMLESS_SETTINGS = frozenset(
    [
        "application_name",
        "client_encoding",
        "datestyle",
        "timezone",
        "intervalstyle",
        "extra_float_digits",
        "bytea_output",
    ]
)
"""Settings that every driver sends and that change nothing a policy could speak of; client_encoding is tracked anyway."""

_WRITES = frozenset(
    [
        *("INSERT", "UPDATE", "DELETE", "MERGE", "CREATE", "DROP", "ALTER", "TRUNCATE", "GRANT", "REVOKE", "REINDEX"),
        *("COMMENT", "REFRESH", "VACUUM", "CLUSTER", "CALL", "DO", "IMPORT", "REASSIGN", "SECURITY", "CHECKPOINT"),
    ]
)
"""First words of command tags that say that something was changed."""

_ROLE_QUERY = b"SELECT pg_catalog.concat(pg_catalog.current_setting('role'), pg_catalog.chr(10), pg_catalog.current_setting('search_path'))"
"""Nothing in it is looked up in the search path, which may be hostile."""


def _lexing_state(parameters: Mapping[str, str]) -> LexingState:
    return LexingState(
        parameters.get("standard_conforming_strings", "on") == "on",
        parameters.get("client_encoding", "SQL_ASCII").upper(),
    )


def _search_path(parameters: Mapping[str, str], role: str) -> tuple[str, ...] | None:
    value = parameters.get("search_path")  # reported by PostgreSQL 18 and later
    return None if value is None else parse_search_path(value, role)


def _own_role(parameters: Mapping[str, str]) -> str | None:
    """Who the session is without SET ROLE: SET SESSION AUTHORIZATION is reported by the server."""
    return parameters.get("session_authorization")


def _server_version(parameters: Mapping[str, str]) -> int:
    """As server_version_num: 180006 for "18.6", 170000 for "17beta1"; 0 if the server does not say."""
    found = re.match(r"(\d{1,2})(?:\.(\d{1,4}))?", parameters.get("server_version", ""))
    return int(found[1]) * 10_000 + int(found[2] or 0) if found else 0


def _is_write_tag(tag: bytes) -> bool:
    return any(part.split(b" ", 1)[0].decode("ascii", "replace") in _WRITES for part in tag.split(b"; "))


def _startup_text(startup: Startup) -> bytes:
    settings = [pair for pair in startup_settings(startup) if pair[0].lower() not in _HARMLESS_SETTINGS]
    statements = [f"SET {_quote(name)} TO '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings]
    return "; ".join(statements).encode()


def _quote(name: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.lower().split("."))


def _call_report(name: bytes) -> Report:
    function = name.decode("ascii", "replace")
    return unknown_report("CALL", "unknown_function", f"function number {function} is called without a name")


def _login(listener: Listener, target: Target, make_relay: Callable[[dict[str, str]], Relay]) -> Steps:
    options = LoginOptions(
        random_bytes=secrets.token_bytes, tls=listener.tls.mode.value, allow_replication=target.allow_replication
    )
    return login(options, make_relay)


def _make_relay(host: Host, limits: Limits, target: Target) -> Relay:
    return PostgresRelay(
        host,
        max_statement_bytes=limits.max_statement_bytes,
        max_message_bytes=limits.max_message_bytes,
        held_max_bytes=limits.held_max_bytes,
        max_prepared=limits.max_prepared_per_session,
        allow_copy_both=target.allow_replication,
    )


POSTGRES = Engine(
    dialect=Dialect(
        name="postgres",
        lexing_state=_lexing_state,
        search_path=_search_path,
        parse_path=parse_search_path,
        path_query=b"SHOW search_path",
        role_query=_ROLE_QUERY,
        own_role=_own_role,
        name_case=lambda parameters: NameCase.WRITTEN,
        server_version=_server_version,
        decode_parameter=parse_parameter,
        is_write_tag=_is_write_tag,
        startup_text=_startup_text,
        call_report=_call_report,
    ),
    login=_login,
    make_relay=_make_relay,
    cancel=cancel_login,
)
