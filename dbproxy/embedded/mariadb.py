"""A throw-away MariaDB from the programs of this machine: for the demo, not for data.

It listens on loopback with a password made up for it, and its general log, in a file, has every statement it was asked.
Counterpart: server.py, PostgreSQL's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dbproxy.embedded.account import Account, find_account
from dbproxy.embedded.errors import EmbeddedServerError
from dbproxy.embedded.watcher import Watcher

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 30
_PLACES = "/usr/sbin:/usr/local/sbin:/usr/libexec"
_OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--general-log=1",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
)


def find_program(*names: str) -> Path:
    """The first of these programs that is here. Raises EmbeddedServerError, saying how to get them."""
    for name in names:
        found = shutil.which(name) or shutil.which(name, path=_PLACES)
        if found:
            return Path(found)
    raise EmbeddedServerError(
        f"there is no program {names[0]} on this machine, and MariaDB comes with no Python package: install it "
        "(Debian and Ubuntu: apt-get install mariadb-server-core mariadb-client)"
    )


class EmbeddedMariaDB:
    """A context manager. `root` has the password; it is for the demo's own eyes."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.password = secrets.token_urlsafe(18)
        self.version = ""
        self._progress = progress
        self._server = find_program("mariadbd")
        self._install = find_program("mariadb-install-db")
        self._client = find_program("mariadb", "mysql")
        self._account: Account = find_account()
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: Watcher | None = None

    @property
    def log_path(self) -> Path:
        """The general log."""
        return self._folder / "general.log"

    def describe(self) -> str:
        return f"MariaDB {self.version} ({self._server}) on {self.host}:{self.port}, run by the account {self._account.name}"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="dbproxy-mariadb-"))
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def execute(self, *texts: str, database: str = "mysql") -> None:
        """Run statements as root. Raises EmbeddedServerError."""
        self._ask("; ".join(texts), database)

    def fetch(self, query: str, *, database: str = "mysql") -> list[tuple[Any, ...]]:
        """The rows of a query as root; what looks like a whole number is one."""
        lines = self._ask(query, database).splitlines()
        return [tuple(int(each) if each.isdigit() else each for each in line.split("\t")) for line in lines]

    def _ask(self, text: str, database: str) -> str:
        # The text goes by standard input and the password by the environment: neither is in a command line.
        done = subprocess.run(  # noqa: S603  # a program found on this machine, no shell
            [
                self._client,
                "--no-defaults",
                f"--socket={self._folder / 'socket'}",
                "-uroot",
                "-N",
                "-B",
                "-D",
                database,
            ],
            input=text.encode(),
            env={"PATH": "/usr/bin:/bin", "MYSQL_PWD": self.password},
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise EmbeddedServerError(f"MariaDB: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode(errors="replace")

    def _start(self) -> None:
        self._folder.chmod(0o711)
        self._account.own(self._folder)
        data, first = self._folder / "data", self._folder / "first.sql"
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self._folder), "TMPDIR": str(self._folder)}  # fmt: skip
        self._progress("making an empty MariaDB")
        status, printed = self._account.run(
            [
                self._install,
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            environment=environment,
            cwd=self._folder,
        )
        if status:
            raise EmbeddedServerError(f"{self._install} failed:\n{printed[-2000:]}")
        with os.fdopen(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"alter user 'root'@'localhost' identified by '{self.password}';\n")
        self._account.own(first)
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        self._progress("starting MariaDB")
        with (self._folder / "server.log").open("wb") as log:
            self._process = self._account.spawn(
                [
                    self._server,
                    "--no-defaults",
                    f"--datadir={data}",
                    f"--socket={self._folder / 'socket'}",
                    f"--pid-file={self._folder / 'pid'}",
                    f"--port={self.port}",
                    f"--init-file={first}",
                    f"--general-log-file={self.log_path}",
                    *_OPTIONS,
                ],
                environment=environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._watcher = Watcher(self._account, self._process.pid, signal.SIGTERM)
        self._wait(self._process)
        self.version = str(self.fetch("select version()")[0][0])

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self._folder / "server.log").read_text(errors="replace")[-2000:]
                raise EmbeddedServerError(f"MariaDB does not start:\n{said}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return self.fetch("select 1") == [(1,)]
        except EmbeddedServerError:
            return False

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._watcher is not None:
            self._watcher.close()
        shutil.rmtree(self._folder, ignore_errors=True)
