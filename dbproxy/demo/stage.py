"""The stage of the demo: a throw-away PostgreSQL with a sample shop, and the real proxy in front of it.

Everything lies in one temporary folder and is gone afterwards, also after Ctrl+C or a kill.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dbproxy.demo.client import Login
from dbproxy.demo.story import MARIADB, Story
from dbproxy.embedded.account import Account
from dbproxy.embedded.binaries import find_binaries
from dbproxy.embedded.certificates import CertificateAuthority
from dbproxy.embedded.mariadb import EmbeddedMariaDB
from dbproxy.embedded.server import EmbeddedPostgres
from dbproxy.embedded.shop import MARIADB_SHOP_SQL, SHOP_SQL
from dbproxy.embedded.watcher import Watcher
from protocol.scram import build_verifier
from protocol.sha2 import SALT_BYTES, build_sha2_verifier

DATABASE = "shop"
PERSON = "alice"
ACCOUNT = "shop_app"
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 40
_LOCAL = "127.0.0.1"


class DemoError(Exception):
    """The demo cannot go on. One message for a person."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the tour plays on. alice: her login at the proxy; server: the database behind it, for looking directly."""

    server: EmbeddedPostgres | EmbeddedMariaDB
    story: Story
    alice: Login
    folder: Path
    admin_port: int
    proxy: subprocess.Popen[bytes] = field(repr=False)

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    @property
    def settings(self) -> Path:
        return self.folder / "dbproxy.yaml"

    def messages(self) -> str:
        """The last of what the proxy logged."""
        return "\n".join((self.folder / "proxy.log").read_text(errors="replace").splitlines()[-20:])


@contextlib.contextmanager
def open_stage(story: Story, say: Callable[[str], None]) -> Iterator[Stage]:
    """Set the stage, and clear it away. say: told what is being done.

    Raises EmbeddedServerError or DemoError if it cannot be set.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dbproxy-demo-")))
        account_password = secrets.token_urlsafe(18)
        start = _start_mariadb if story is MARIADB else _start_postgres
        server = start(stack, account_password, say)
        alice = Login(_LOCAL, _free_port(), PERSON, secrets.token_urlsafe(9), DATABASE, folder / "ca.crt")
        admin_port = _free_port()
        _write_files(folder, story, server, alice, account_password, admin_port)
        say(f"starting dbproxy on {_LOCAL}:{alice.port}")
        stage = Stage(server, story, alice, folder, admin_port, stack.enter_context(_proxy(folder)))
        _wait_until_ready(stage)
        yield stage


# The server's own log of every statement is what the tour's claims are checked against.


def _start_postgres(stack: contextlib.ExitStack, account_password: str, say: Callable[[str], None]) -> EmbeddedPostgres:
    server = stack.enter_context(
        EmbeddedPostgres(find_binaries(), settings={"log_statement": "all", "log_connections": "on"}, progress=say)
    )
    say("filling the sample shop")
    server.execute(
        f"create role {ACCOUNT} login password '{account_password}'", f"create database {DATABASE} owner {ACCOUNT}"
    )
    server.execute(f"set role {ACCOUNT}; {SHOP_SQL}", database=DATABASE)
    return server


def _start_mariadb(stack: contextlib.ExitStack, account_password: str, say: Callable[[str], None]) -> EmbeddedMariaDB:
    server = stack.enter_context(EmbeddedMariaDB(say))
    say("filling the sample shop")
    server.execute(
        f"create database {DATABASE}",
        f"create user '{ACCOUNT}'@'%' identified by '{account_password}'",
        f"grant all on {DATABASE}.* to '{ACCOUNT}'@'%'",
    )
    server.execute(MARIADB_SHOP_SQL, database=DATABASE)
    return server


def _write_files(
    folder: Path,
    story: Story,
    server: EmbeddedPostgres | EmbeddedMariaDB,
    alice: Login,
    account_password: str,
    admin_port: int,
) -> None:
    CertificateAuthority(folder, name="dbproxy demo CA").issue("proxy", "localhost")
    _write(folder / "account.password", account_password)
    password = alice.password.encode()
    person = {
        "name": PERSON,
        "groups": ["dba"],
        "verifier": build_verifier(password, secrets.token_bytes(16)).encode(),
        "sha2_verifier": build_sha2_verifier(password, secrets.token_bytes(SALT_BYTES)).encode(),
    }
    _write(folder / "users.yaml", yaml.safe_dump({"version": 1, "people": [person]}))
    settings = {
        "version": 1,
        "listeners": [
            {
                "name": "demo",
                "protocol": story.protocol,
                "address": f"{_LOCAL}:{alice.port}",
                "target": "shop",
                # Loopback only; a psql built without TLS may come along.
                "tls": {"mode": "allow", "certificate": "proxy.crt", "key": "proxy.key"},
            }
        ],
        "targets": [
            {
                "name": "shop",
                "protocol": story.protocol,
                "host": server.host,
                "port": server.port,
                "env": "prod",
                "database": DATABASE,
                "tls": {"mode": "disable"},
                "accept_auth": [story.accept_auth],
                "accounts": [{"name": "app", "user": ACCOUNT, "password": "${file:account.password}"}],
                "default_account": "app",
            }
        ],
        "users": {"auth": "local", "file": "users.yaml"},
        "policies": {"files": ["builtin:default"]},
        "audit": {"directory": "ledger"},
        "admin": {"address": f"{_LOCAL}:{admin_port}"},
    }
    _write(folder / "dbproxy.yaml", yaml.safe_dump(settings, sort_keys=False))


@contextlib.contextmanager
def _proxy(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: Ctrl+C reaches the demo only, which then ends the proxy in order.
    us = Account("", os.geteuid(), os.getegid(), is_other=False)
    with (folder / "proxy.log").open("wb") as log:
        process = us.spawn(
            [*dbproxy_command(), "serve", "--settings", folder / "dbproxy.yaml"],
            environment=os.environ,
            cwd=Path.cwd(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    watcher = Watcher(us, process.pid, signal.SIGTERM)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        watcher.close()


def dbproxy_command() -> list[str]:
    """The command that runs the dbproxy we are part of."""
    return [sys.executable, "-m", "dbproxy"]


def _wait_until_ready(stage: Stage) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _is_ready(stage.admin_port):
        if stage.proxy.poll() is not None:
            raise DemoError(f"the proxy ended with status {stage.proxy.returncode} while starting:\n{stage.messages()}")
        if time.monotonic() > deadline:
            raise DemoError(f"the proxy is not ready after {_START_TIMEOUT_S} s:\n{stage.messages()}")
        time.sleep(0.05)


def _is_ready(port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection(_LOCAL, port, timeout=5)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOCAL, 0))
        port: int = probe.getsockname()[1]
        return port
