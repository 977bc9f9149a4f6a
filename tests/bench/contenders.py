"""The ways to the same server that are compared: direct, HAProxy, PgBouncer, dbproxy; all on 127.0.0.1, none with TLS.

HAProxy passes bytes on (TCP mode). PgBouncer pools by session, because dbproxy too has one server connection per session.
The empty relay is dbproxy's event loop with nothing in it: the floor, not a competitor.
dbproxy judges with its shipped default policy and the rules below, and writes its audit trail to a real directory. It is the
compiled build, as in the container image; "pure" is the same without a compiler, and "single" the compiled one with one worker and
without signed checkpoints: what the processes and the signing cost, and one thread like its rivals.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.proxy import Proxy, running_proxy
from support.server_log import ServerLog
from support.servers import PostgresServer

from dbproxy import __version__
from dbproxy.embedded.account import Account, find_account
from dbproxy.embedded.server import EmbeddedPostgres
from dbproxy.embedded.watcher import Watcher

ACCOUNT = "trust_user"  # the account of support.servers that needs no password
DATABASE = "bench"
DIRECT, HAPROXY, PGBOUNCER, RELAY = "direct", "haproxy", "pgbouncer", "relay"
PURE, SINGLE, DBPROXY = "pure", "single", "dbproxy"
EVERYBODY = (DIRECT, HAPROXY, PGBOUNCER, RELAY, PURE, SINGLE, DBPROXY)
COMPILED_TREE = Path(__file__).resolve().parents[2] / "build" / "compiled"
SERVER_SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "work_mem": "64MB",
    "max_wal_size": "2GB",
    "autovacuum": "off",
    "jit": "off",
}
POLICY = """\
version: 1
rules:
  - name: bench-no-salaries
    match: {table: ["hr.*", "*.salaries"]}
    action: block
  - name: bench-night-shift
    match: {kind: dml_write, table: "*.pgbench_*", group: night-shift}
    action: block
  - name: bench-history
    match: {kind: dml_write, table: "*.pgbench_history"}
    action: alert
    severity: low
  - name: bench-applications
    match: {application: ["crm-*", "excel"], user: carol}
    action: block
"""
_START_TIMEOUT_S = 20
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Contender:
    """A way to the server. pid: of the program between client and server, None for the direct way."""

    name: str
    port: int
    pid: int | None
    user: str = ACCOUNT
    password: str = field(default="", repr=False)
    proxy: Proxy | None = None

    @property
    def environment(self) -> dict[str, str]:
        """PG* variables for libpq programs; nothing of the caller's PG* goes along."""
        rest = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        own = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGDATABASE": DATABASE,
            "PGSSLMODE": "disable",
            "PGGSSENCMODE": "disable",
            "PGCONNECT_TIMEOUT": "20",
        }
        return {**rest, **own, **({"PGPASSWORD": self.password} if self.password else {})}


def find_tool(name: str) -> str | None:
    """Where a program is; Debian puts daemons in folders that are not on everybody's PATH."""
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)


def version_of(name: str) -> str | None:
    """What a program says of its version, None if it is not installed."""
    program = find_tool(name)
    if program is None:
        return None
    done = subprocess.run(
        [program, "-v" if name == HAPROXY else "--version"], capture_output=True, text=True, timeout=20
    )
    match = re.search(r"\d+\.\d+[\w.+~-]*", done.stdout)
    return match[0] if match else "unknown"


def versions(server: EmbeddedPostgres) -> dict[str, str | None]:
    return {
        "postgresql": server.version,
        "pgbench": server.version,
        HAPROXY: version_of(HAPROXY),
        PGBOUNCER: version_of(PGBOUNCER),
        DBPROXY: __version__,
    }


@contextlib.contextmanager
def bench_server(programs: Any) -> Iterator[EmbeddedPostgres]:
    """An embedded server for measuring: fsync off, no log, everybody but the superuser trusted. programs: its Binaries."""
    with EmbeddedPostgres(programs, settings=SERVER_SETTINGS, hba=("host all all 127.0.0.1/32 trust",)) as server:
        server.execute(f"create role {ACCOUNT} login", f"create database {DATABASE} owner {ACCOUNT}")
        yield server


@contextlib.contextmanager
def running_contenders(
    server: EmbeddedPostgres, folder: Path, wanted: tuple[str, ...] = EVERYBODY
) -> Iterator[list[Contender]]:
    """Start what is wanted and installed, in this order. folder: a new one, for their files; others may enter it."""
    with contextlib.ExitStack() as stack:
        found: list[Contender] = []
        if DIRECT in wanted:
            found.append(Contender(DIRECT, server.port, None))
        for name, make in ((HAPROXY, _haproxy), (PGBOUNCER, _pgbouncer)):
            if name in wanted and find_tool(name):
                found.append(stack.enter_context(make(server, folder)))
        if RELAY in wanted:
            found.append(stack.enter_context(_relay(server, folder)))
        if PURE in wanted:
            found.append(stack.enter_context(running_dbproxy(server, folder, PURE)))
        for name, options in ((SINGLE, {"workers": 1, "is_signing": False}), (DBPROXY, {})):
            if name in wanted:
                if not COMPILED_TREE.is_dir():
                    raise RuntimeError(f"{COMPILED_TREE} is missing: run `make compiled`")
                found.append(stack.enter_context(running_dbproxy(server, folder, name, tree=COMPILED_TREE, **options)))
        yield found


@contextlib.contextmanager
def running_dbproxy(
    server: EmbeddedPostgres,
    folder: Path,
    name: str = DBPROXY,
    *,
    workers: int | None = None,
    is_signing: bool = True,
    **options: Any,
) -> Iterator[Contender]:
    """dbproxy with policy and audit on, all limits and settings at their defaults but perhaps the number of workers and the signing.

    options: as for running_proxy.
    """

    def change(settings: dict[str, Any]) -> None:
        settings["policies"]["files"].insert(0, "builtin:default")
        if workers is not None:
            settings["processes"] = {"workers": workers}
        if not is_signing:
            settings["audit"]["signing"] = {"enabled": False}

    with running_proxy(
        folder / name,
        _as_target(server),
        policy=POLICY,
        database=DATABASE,
        accounts=(ACCOUNT,),
        change=change,
        **options,
    ) as proxy:
        address = proxy.address("alice")
        yield Contender(name, proxy.port, proxy.process.pid, address["user"], address["password"], proxy)


@contextlib.contextmanager
def _haproxy(server: EmbeddedPostgres, folder: Path) -> Iterator[Contender]:
    port = _free_port()
    path = folder / "haproxy.cfg"
    # One thread, because the others have one: CPU time per query would not compare otherwise.
    path.write_text(
        f"global\n  maxconn 1000\n  nbthread 1\n"
        f"defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n"
        f"listen postgres\n  bind 127.0.0.1:{port}\n  server postgres 127.0.0.1:{server.port}\n"
    )
    with _daemon([find_tool(HAPROXY), "-db", "-f", path], folder / "haproxy.log", port) as pid:
        yield Contender(HAPROXY, port, pid)


@contextlib.contextmanager
def _pgbouncer(server: EmbeddedPostgres, folder: Path) -> Iterator[Contender]:
    port = _free_port()
    users, path = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text(f'"{ACCOUNT}" ""\n')
    path.write_text(
        f"[databases]\n{DATABASE} = host=127.0.0.1 port={server.port} dbname={DATABASE} user={ACCOUNT}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = session\n"
        f"max_client_conn = 500\ndefault_pool_size = 100\nlog_connections = 0\nlog_disconnections = 0\n"
    )
    with _daemon([find_tool(PGBOUNCER), path], folder / "pgbouncer.log", port) as pid:
        yield Contender(PGBOUNCER, port, pid)


@contextlib.contextmanager
def _relay(server: EmbeddedPostgres, folder: Path) -> Iterator[Contender]:
    port = _free_port()
    program = Path(__file__).with_name("empty_relay.py")
    ourselves = Account("", os.geteuid(), os.getegid(), is_other=False)  # may read this Python, wherever it is
    command = [sys.executable, program, str(port), str(server.port)]
    with _daemon(command, folder / "relay.log", port, ourselves) as pid:
        yield Contender(RELAY, port, pid)


@contextlib.contextmanager
def _daemon(command: list[Any], log_path: Path, port: int, account: Account | None = None) -> Iterator[int]:
    """Run a program in the foreground until the block ends, by default as an unprivileged account. Yields its pid."""
    account = account or find_account()
    environment: Mapping[str, str] = {"PATH": _SYSTEM_PATH, "LC_ALL": "C"} if account.is_other else os.environ
    with log_path.open("wb") as log:
        process = account.spawn(
            command, environment=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    watcher = Watcher(account, process.pid, signal.SIGKILL)
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _is_listening(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen; it said:\n{log_path.read_text(errors='replace')}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.kill()
        process.wait()
        watcher.close()


def _as_target(server: EmbeddedPostgres) -> PostgresServer:
    no_log = ServerLog(lambda _: ("", 0), lambda _: None)
    source = server.binaries.source
    return PostgresServer(server.host, server.port, server.version, source, server.user, server.password, no_log)


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
