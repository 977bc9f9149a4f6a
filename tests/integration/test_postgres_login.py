"""Logins of real libpq clients through the login driver to real servers, in every way a server can ask.

The session after login is a plain pipe here: what is tested is that both ends accept the login. SECURITY_BAR B4, C3, C5.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import psycopg.pq
import pytest
from support.servers import PASSWORDS, PostgresServer

from config.settings import Auth, ListenerTLS, ListenerTLSMode, Target, Timeouts
from config.users import Person, Users
from dbproxy.clock import SystemClock
from dbproxy.dialer import Dialer
from dbproxy.embedded.certificates import CertificateAuthority
from dbproxy.identity.identity import Identity
from dbproxy.identity.tls import load_listener_certificate, target_context
from dbproxy.login import LoginDriver, Progress
from dbproxy.transport import Link, Wire
from protocol.contract import Refusal, Why
from protocol.errors import ProtocolError
from protocol.login import Cancel, IssuedKey, LoginRefused, ServerReady
from protocol.postgres.login import LoginOptions, login
from protocol.scram import build_verifier

ALL = ("scram-sha-256-plus", "scram-sha-256", "md5", "password", "trust", "cert")
LIBPQ = psycopg.pq.version()


@dataclass
class Gate:
    """Lets everybody in, and remembers what it saw."""

    logins: list[Progress] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    secrets: list[bytes] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    max_failures: int = 10

    async def throttle(self, person: str, *, begins_proof: bool) -> None:
        if self.failures[person] >= self.max_failures:
            raise LoginRefused(Refusal(Why.LOGIN, ""), "too many failed logins", "login_throttled")

    def proved(self, person: str, *, is_right: bool) -> None:
        self.failures[person] += not is_right

    async def admit(self, progress: Progress) -> None:
        self.logins.append(progress)

    def issue_key(self, ready: ServerReady, progress: Progress) -> IssuedKey:
        self.secrets.append(secrets.token_bytes(ready.secret_size))
        return IssuedKey(self.secrets[-1], "You are watched.")

    async def cancel(self, request: Cancel) -> None:
        self.cancels.append(request)


class Proxy:
    """Logins only, in a thread of its own. ends: how each login ended, None for a session."""

    def __init__(self, folder: Path, target: Target, *, auth: Auth = Auth.LOCAL, tls: str = "allow") -> None:
        self.ca = CertificateAuthority(folder)
        files = self.ca.issue("proxy", "localhost")
        mode = ListenerTLSMode(tls)
        self._certificate = load_listener_certificate(
            ListenerTLS(mode=mode, certificate=files.certificate, key=files.key)
        )
        self._options = LoginOptions(secrets.token_bytes, mode.value)
        self._target = target
        self._context = target_context(target.tls)
        person = Person(
            name="alice",
            verifier=build_verifier("pässwörd".encode(), b"salt" * 4).encode(),
            accounts={"db": tuple(account.name for account in target.accounts)},
        )
        users = Users(people=(person,))
        self._identity = Identity(auth, users, SystemClock(), b"mock", secrets.token_bytes)
        self.gate = Gate()
        self.ends: list[Exception | None] = []
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def limit_failures(self, per_user: int) -> None:
        self.gate.max_failures = per_user

    def wait_for_event(self, event: str) -> None:
        """The client learns of its refusal a moment before the driver has returned."""
        deadline = time.monotonic() + 5
        while not any(getattr(end, "event", "") == event for end in self.ends):
            assert time.monotonic() < deadline, f"no login ended with {event}: {self.ends}"
            time.sleep(0.01)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self._loop.close()
        self._listener.close()

    async def _serve(self) -> None:
        self._listener.setblocking(False)
        stopped = asyncio.create_task(self._stop.wait())
        while not stopped.done():
            accepted = asyncio.create_task(self._loop.sock_accept(self._listener))
            await asyncio.wait({accepted, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if accepted.done():
                task = asyncio.create_task(self._one(Wire(accepted.result()[0], "127.0.0.1:1")))
                self._tasks.add(task)
            else:
                accepted.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(500):  # transports close in their own time; the loop's own pipe is what stays registered
            if len(self._loop._selector.get_map()) <= 1:  # type: ignore[attr-defined] # there is no public way to ask
                break
            await asyncio.sleep(0.01)

    async def _one(self, client: Wire) -> None:
        driver = LoginDriver(
            client,
            self.gate,
            self._identity.attempt(self._target, "127.0.0.1"),
            self._target,
            Timeouts(),
            self._certificate,
            self._context,
            Dialer(),
        )
        try:
            steps = login(self._options, lambda parameters: parameters)  # type: ignore[arg-type,return-value] # no relay here
            ready = await driver.run(steps, None)
            self.ends.append(None)
            if ready is not None and driver.server is not None:
                await _pipe(await client.into_link(), await driver.server.into_link())
        except (LoginRefused, ProtocolError, OSError) as error:
            self.ends.append(error)
        finally:
            client.close()
            if driver.server is not None:
                driver.server.close()

    def connect(self, user: str = "alice", password: str = "pässwörd", **options: Any) -> psycopg.Connection[Any]:
        defaults = {
            "host": "localhost",
            "hostaddr": "127.0.0.1",
            "dbname": "postgres",
            "sslmode": "verify-full",
            "sslrootcert": str(self.ca.certificate),
            "connect_timeout": 10,
        }
        return psycopg.connect(user=user, password=password, port=self.port, autocommit=True, **{**defaults, **options})


async def _pipe(left: Link, right: Link) -> None:
    gone = asyncio.get_running_loop().create_future()

    def lost() -> None:
        if not gone.done():
            gone.set_result(None)

    for one, other in ((left, right), (right, left)):
        assert other.transport is not None
        one.attach(other.transport.write, lost, lambda _: None)
    await gone


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def build(server: PostgresServer, accept: tuple[str, ...] = ALL, mode: str = "", **options: Any) -> Proxy:
            tls: dict[str, Any] = {"mode": mode or ("verify-full" if server.ca else "disable")}
            if server.ca and server.client and tls["mode"] != "disable":
                tls |= {
                    "ca": str(server.ca),
                    "certificate": str(server.client.certificate),
                    "key": str(server.client.key),
                }
            accounts = [{"name": name, "user": name} for name in PASSWORDS]
            for account in accounts:
                if PASSWORDS[account["name"]]:
                    path = tmp_path / account["name"]
                    path.touch(0o600)
                    path.write_text(PASSWORDS[account["name"]])
                    account["password"] = f"${{file:{path}}}"
            target = Target.model_validate_json(
                json.dumps(
                    {
                        "name": "db",
                        "host": server.host,
                        "port": server.port,
                        "tls": tls,
                        "accept_auth": accept,
                        "accounts": accounts,
                        "default_account": "app",
                    }
                )
            )
            proxy = Proxy(tmp_path, target, **options)
            proxy.start()
            stack.callback(proxy.stop)
            return proxy

        yield build


@pytest.mark.parametrize(
    ("account", "accept"),
    [
        ("app", ("scram-sha-256-plus",)),
        ("app", ("scram-sha-256",)),
        ("tls_user", ("scram-sha-256-plus", "scram-sha-256")),
        ("md5_user", ("md5",)),
        ("clear_user", ("password",)),
        ("trust_user", ("trust",)),
        ("cert_user", ("cert",)),
    ],
)
def test_server_gets_what_it_asks_for_where_that_is_allowed(
    make: Any, postgres_tls: PostgresServer, account: str, accept: tuple[str, ...]
) -> None:
    with make(postgres_tls, accept).connect(f"alice+{account}") as connection:
        query = "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()"
        assert connection.execute(query).fetchone() == (account, True)


@pytest.mark.parametrize("account", ["app", "md5_user", "clear_user", "trust_user", "cert_user"])
def test_server_that_asks_for_something_else_gets_nothing(
    make: Any, postgres_tls: PostgresServer, account: str
) -> None:
    mine = {"app": {"scram-sha-256", "scram-sha-256-plus"}, "md5_user": {"md5"}, "clear_user": {"password"}}
    others = tuple(name for name in ALL if name not in mine.get(account, {"trust", "cert"}))
    proxy = make(postgres_tls, others)
    with pytest.raises(psycopg.OperationalError, match="login method that is not allowed"):
        proxy.connect(f"alice+{account}")
    proxy.wait_for_event("server_auth_downgrade")


@pytest.mark.parametrize(
    "options",
    [
        {"channel_binding": "require"},
        {"channel_binding": "disable"},
        {"sslmode": "disable"},
        {"require_auth": "scram-sha-256"},
        {"gssencmode": "prefer"},
        pytest.param({"sslnegotiation": "direct"}, marks=pytest.mark.skipif(LIBPQ < 170000, reason="libpq before 17")),
        pytest.param(
            {"max_protocol_version": "latest"}, marks=pytest.mark.skipif(LIBPQ < 180000, reason="libpq before 18")
        ),
    ],
    ids=str,
)
def test_libpq_logs_in_with(make: Any, postgres: PostgresServer, options: dict[str, str]) -> None:
    proxy = make(postgres)
    with proxy.connect(**options) as connection:
        assert connection.execute("select current_user").fetchone() == ("app",)
        assert connection.info.backend_pid == proxy.gate.logins[-1].server_pid
        assert len(proxy.gate.secrets[-1]) == (32 if "max_protocol_version" in options else 4)


def test_client_s_cancel_carries_our_key(make: Any, postgres: PostgresServer) -> None:
    proxy = make(postgres)
    with proxy.connect() as connection:
        connection.cancel_safe(timeout=5)
        assert proxy.gate.cancels == [Cancel(connection.info.backend_pid, proxy.gate.secrets[-1])]


def test_startup_settings_hold_in_the_session(make: Any, postgres: PostgresServer) -> None:
    options = r'-c search_path="a\ b",public --work-mem=5MB -cstatement_timeout=7s'
    with make(postgres).connect(options=options, application_name="it", client_encoding="LATIN1") as connection:
        names = ("search_path", "work_mem", "statement_timeout", "application_name", "client_encoding")
        found = [connection.execute(f"show {name}").fetchone()[0] for name in names]
        assert found == ['"a b",public', "5MB", "7s", "it", "LATIN1"]


def test_failures_read_the_same_and_as_postgresql_s(make: Any, postgres: PostgresServer) -> None:
    proxy = make(postgres)
    texts = []
    for user, password in (("alice", "wrong"), ("mallory", "pässwörd"), ("alice+nosuch", "wrong")):
        with pytest.raises(psycopg.OperationalError) as caught:
            proxy.connect(user, password)
        texts.append(str(caught.value).split("FATAL:")[1].strip().replace(user, "USER"))
    assert set(texts) == {'password authentication failed for user "USER"'}
    with pytest.raises(psycopg.OperationalError, match='may not use the account "nosuch"'):
        proxy.connect("alice+nosuch")


def test_plain_client_is_refused_where_tls_is_required(make: Any, postgres: PostgresServer) -> None:
    proxy = make(postgres, tls="require")
    with pytest.raises(psycopg.OperationalError, match="accepts TLS connections only"):
        proxy.connect(sslmode="disable")
    assert proxy.gate.logins == []


def test_server_s_own_words_about_a_missing_database(make: Any, postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match='FATAL:  database "nosuch" does not exist'):
        make(postgres).connect(dbname="nosuch")


def test_upstream_login_takes_the_role_s_own_password(make: Any, postgres: PostgresServer) -> None:
    proxy = make(postgres, auth=Auth.UPSTREAM)
    with proxy.connect("app", PASSWORDS["app"]) as connection:
        assert connection.execute("select current_user").fetchone() == ("app",)
    with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "app"'):
        proxy.connect("app", "wrong")
    proxy.limit_failures(1)
    with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "app"'):
        proxy.connect("app", PASSWORDS["app"])
    proxy.wait_for_event("login_throttled")
    proxy.limit_failures(10)
    with pytest.raises(psycopg.OperationalError, match="inside TLS only"):
        proxy.connect("app", PASSWORDS["app"], sslmode="disable")
