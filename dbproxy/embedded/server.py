"""Start and stop one throw-away PostgreSQL server on 127.0.0.1.

Synchronous on purpose: the demo and the tests use it before and after their event loops.

    with EmbeddedPostgres(find_binaries()) as server:
        server.execute("create table t (a int)")

The server ends with this process, however that ends: leaving the `with`, at exit, or, after a kill that leaves no time
for anything, by a watcher that holds the other end of a pipe.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg

from dbproxy.embedded.account import Account, find_account
from dbproxy.embedded.binaries import Binaries
from dbproxy.embedded.errors import EmbeddedServerError
from dbproxy.embedded.folder import make_folder, remove_folder, remove_stale
from dbproxy.embedded.watcher import Watcher

HOST = "127.0.0.1"
SUPERUSER = "postgres"
DEFAULT_HBA = (f"host all all {HOST}/32 scram-sha-256",)
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_PORT_TRIES = 5
_STATEMENT_TIMEOUT_S = 300.0


def _quiet(_: str) -> None:
    """Say nothing."""


class EmbeddedPostgres:
    """One server in a folder of its own. Not started until start() or `with`.

    settings: lines for postgresql.conf. hba: lines for pg_hba.conf, in order, after the superuser's own.
    tls: paths of certificate, key and CA file, copied; needs binaries built with TLS.
    is_durable: sync to disk. port: 0 takes a free one. progress: told, in words for people, what is being done.
    """

    def __init__(
        self,
        binaries: Binaries,
        *,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = DEFAULT_HBA,
        tls: tuple[Path, Path, Path] | None = None,
        is_durable: bool = False,
        port: int = 0,
        progress: Callable[[str], None] = _quiet,
    ) -> None:
        if tls and not binaries.has_tls:
            raise EmbeddedServerError(f"PostgreSQL {binaries.version} from the {binaries.source} was built without TLS")
        self.binaries = binaries
        self.host = HOST
        self.port = port
        self.user = SUPERUSER
        self.password = secrets.token_urlsafe(18)
        self._settings = dict(settings or {})
        self._hba = tuple(hba)
        self._tls = tls
        self._is_durable = is_durable
        self._progress = progress
        self._account: Account | None = None
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: Watcher | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def version(self) -> str:
        return self.binaries.version

    def describe(self) -> str:
        return f"PostgreSQL {self.version} ({self.binaries.source}) on {self.host}:{self.port}, run by the account {self.account}"

    @property
    def log_path(self) -> Path:
        """The server's log: everything it wrote to standard error."""
        return self._in_folder("server.log")

    @property
    def account(self) -> str:
        """The name of the system account that runs the server."""
        return self._account.name if self._account else ""

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Make the cluster and start it. Returns when it accepts connections.

        Raises EmbeddedServerError with the end of the server's log if it does not; nothing is left behind then.
        """
        if self._process is not None:
            raise EmbeddedServerError("this server was started before")
        atexit.register(self.stop)
        try:
            remove_stale()
            self._prepare()
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and remove its folder. May be called at any time and more than once."""
        atexit.unregister(self.stop)
        if self._process is not None:
            _end(self._process, (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL))
        self._unwatch()
        if self._folder is not None:
            remove_folder(self._folder)
            self._folder = None

    def reload(self) -> None:
        """Have the server read its configuration files again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def execute(self, *texts: str, database: str = "postgres") -> None:
        """Run each text as the superuser, each in one message of its own; may be called beside a running event loop."""
        self._in_thread(self._execute(texts, database))

    def fetch(self, query: str, *arguments: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one query as the superuser and return its rows."""
        rows: list[tuple[Any, ...]] = self._in_thread(self._fetch(query, arguments, database))
        return rows

    # ------------------------------------------------------------------ start

    def _prepare(self) -> None:
        account = self._account = find_account()
        is_copy_needed = not _can_use(account, self.binaries)
        folder = self._folder = make_folder(account, executable=is_copy_needed)
        if is_copy_needed:
            self._progress(f"copying PostgreSQL to where the account {account.name} can read it")
            self.binaries = self.binaries.moved_to(folder / "pg")
            if not _can_use(account, self.binaries):
                raise EmbeddedServerError(
                    f"PostgreSQL {self.version} from the {self.binaries.source} does not run as {account.name}"
                )
        for name in ("data", "tls"):
            (folder / name).mkdir(mode=0o700)
            account.own(folder / name)
        if self._tls:
            for source, name in zip(self._tls, ("server.crt", "server.key", "ca.crt"), strict=True):
                self._write(f"tls/{name}", source.read_text())
        self._progress(f"making a PostgreSQL {self.version} database cluster")
        self._make_cluster()

    def _make_cluster(self) -> None:
        account, data = self._known_account(), self._in_folder("data")
        self._write("tls/password", f"{self.password}\n")
        command: list[str | Path] = [
            self.binaries.program("initdb"), f"--pgdata={data}", f"--username={SUPERUSER}", "--encoding=UTF8", "--locale=C",
            "--auth=scram-sha-256", f"--pwfile={self._in_folder('tls/password')}", "--no-sync", "--no-instructions",
        ]  # fmt: skip
        try:
            status, printed = account.run(command, environment=self._environment(), cwd=data)
        finally:
            self._in_folder("tls/password").unlink(missing_ok=True)
        if status:
            raise EmbeddedServerError(f"initdb ended with status {status}:\n{_tail(printed)}")
        self._write("data/pg_hba.conf", "\n".join((f"host all {SUPERUSER} {HOST}/32 scram-sha-256", *self._hba)) + "\n")
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {_quote(value)}\n" for name, value in self._all_settings().items())

    def _all_settings(self) -> dict[str, str]:
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",
        }
        if not self._is_durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        if self._tls:
            tls = self._in_folder("tls")
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(tls / "server.crt"),
                "ssl_key_file": str(tls / "server.key"),
                "ssl_ca_file": str(tls / "ca.crt"),
            }
        return settings | self._settings

    def _launch(self) -> None:
        wanted = self.port
        for attempt in range(1, _PORT_TRIES + 1):
            self.port = wanted or _free_port()
            self._progress(f"starting PostgreSQL {self.version} on {HOST}:{self.port}")
            if self._run_server():
                return
            if (
                wanted
                or attempt == _PORT_TRIES
                or "Address already in use" not in self.log_path.read_text(errors="replace")
            ):
                break
        raise EmbeddedServerError(
            f"PostgreSQL did not start; the end of its log:\n{_tail(self.log_path.read_text(errors='replace'))}"
        )

    def _run_server(self) -> bool:
        """Start the server and wait until it is ready. Returns False if it ends or is not ready in time."""
        account, data = self._known_account(), self._in_folder("data")
        # Ours alone to read: with log_statement on, it holds the text of CREATE ROLE ... PASSWORD.
        with os.fdopen(os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self._process = account.spawn(
                [self.binaries.program("postgres"), "-D", data, "-p", str(self.port)],
                environment=self._environment(),
                cwd=data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._watcher = Watcher(account, self._process.pid, signal.SIGQUIT)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if _is_ready(data):
                return True
            time.sleep(0.02)
        _end(self._process, (signal.SIGQUIT, signal.SIGKILL))
        self._unwatch()
        return False

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    # ------------------------------------------------------------------ small parts

    def _known_account(self) -> Account:
        if self._account is None:
            raise EmbeddedServerError("the server is not started")
        return self._account

    def _in_folder(self, name: str) -> Path:
        if self._folder is None:
            raise EmbeddedServerError("the server is not started")
        return self._folder / name

    def _environment(self) -> dict[str, str]:
        # Nothing of ours goes along: a PG* variable or a secret has no business in the server's environment.
        return {
            "PATH": f"{self.binaries.folder}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self._folder),
            "LC_ALL": "C",
            "TZ": "UTC",
        }

    def _write(self, name: str, text: str) -> None:
        path = self._in_folder(name)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        self._known_account().own(path)

    async def _connect(self, database: str) -> Any:
        return await asyncpg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=database,
            timeout=30,
            ssl=False,
        )

    async def _execute(self, texts: Sequence[str], database: str) -> None:
        connection = await self._connect(database)
        try:
            for text in texts:
                await connection.execute(text, timeout=_STATEMENT_TIMEOUT_S)
        finally:
            await connection.close(timeout=10)

    async def _fetch(self, query: str, arguments: Sequence[object], database: str) -> list[tuple[Any, ...]]:
        connection = await self._connect(database)
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments, timeout=_STATEMENT_TIMEOUT_S)]
        finally:
            await connection.close(timeout=10)

    def _in_thread(self, work: Any) -> Any:
        with ThreadPoolExecutor(1, thread_name_prefix="embedded-postgres") as pool:
            return pool.submit(asyncio.run, work).result()


def _can_use(account: Account, binaries: Binaries) -> bool:
    """Can account run these programs and read what belongs to them? Tried, not guessed: mounts and ACLs count too."""
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    try:
        return all(
            account.run([binaries.program(name), "--version"], environment=environment)[0] == 0
            for name in ("postgres", "initdb")
        )
    except OSError:
        return False


def _is_ready(data: Path) -> bool:
    # Line 8 of postmaster.pid is what pg_ctl waits for: `ready` once connections are accepted.
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes], signals: Sequence[signal.Signals]) -> None:
    """Send the signals in turn until the process has ended."""
    for each in signals:
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(each)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])
