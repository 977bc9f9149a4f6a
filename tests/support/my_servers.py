"""Real MariaDB and MySQL servers for tests, with TLS and the general log on.

MariaDB is the system's. MySQL is the program that $MYSQLD names (its share folder is found beside it); where there is none the tests
that need it are skipped. Accounts: `root` (all rights), `app` (the rights of an ordinary owner of its databases).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
from support.requirements import find_mariadb
from support.servers import PASSWORDS

from dbproxy.embedded.account import Account, find_account
from dbproxy.embedded.certificates import CertificateAuthority, CertificateFiles
from dbproxy.embedded.errors import EmbeddedServerError

START_TIMEOUT_S = 60
_OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-log-bin",
    "--general-log=1",
    "--log-output=TABLE",
    "--max-allowed-packet=64M",
    "--local-infile=1",
    "--max-connect-errors=1000000",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-buffer-pool-size=64M",
)


@dataclass(frozen=True)
class MySQLServer:
    """A running server and what a test needs to use it. source: where it came from, for the summary."""

    host: str
    port: int
    version: str
    source: str
    ca: Path
    password: str = field(repr=False)
    protocol: str = "mariadb"
    client: CertificateFiles | None = None

    def connect(self, database: str | None = None, user: str = "root", **options: Any) -> Any:
        """A direct connection in autocommit mode."""
        password = self.password if user == "root" else PASSWORDS[user]
        defaults = {"autocommit": True, "ssl": {"ca": str(self.ca)}, "connect_timeout": 20}
        return pymysql.connect(
            host=self.host, port=self.port, user=user, password=password, database=database, **{**defaults, **options}
        )

    def execute(self, *texts: str, database: str | None = None) -> None:
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            for text in texts:
                cursor.execute(text)

    def fetch(self, query: str, *, database: str | None = None) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def log_of(self, thread_id: int) -> list[tuple[str, str]]:
        """(command, text) of everything that one connection asked of the server, in order."""
        rows = self.fetch(f"select command_type, argument from mysql.general_log where thread_id = {thread_id}")
        return [
            (str(kind), text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text)
            for kind, text in rows
        ]


@contextlib.contextmanager
def running_mariadb(tls: Path, *options: str) -> Iterator[MySQLServer]:
    """options: of the server program, besides ours. Raises EmbeddedServerError where there is none."""
    program, install = find_mariadb("mariadbd"), find_mariadb("mariadb-install-db")
    if program is None or install is None:
        raise EmbeddedServerError("no MariaDB server: install Debian's package mariadb-server-core")

    def initialise(account: Account, data: Path) -> list[str | Path]:
        return [
            install,
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]

    with _running(program, initialise, tls, "mariadb", ("--plugin-maturity=unknown", *options)) as server:
        yield server


@contextlib.contextmanager
def running_mysql(tls: Path) -> Iterator[MySQLServer]:
    """The server that $MYSQLD names."""
    program = Path(os.environ["MYSQLD"])

    def initialise(account: Account, data: Path) -> list[str | Path]:
        return [program, "--no-defaults", *_share(program), "--initialize-insecure", f"--datadir={data}"]

    options = (*_share(program), "--mysqlx=OFF", "--secure-file-priv=", "--log-raw")
    with _running(program, initialise, tls, "mysql", options) as server:
        yield server


def _share(program: Path) -> tuple[str, ...]:
    share = program.parent.parent / "share" / "mysql"
    plugins = next(program.parent.parent.glob("lib/mysql/plugin"), None)
    return (f"--lc-messages-dir={share}", *([f"--plugin-dir={plugins}"] if plugins else ()))


@contextlib.contextmanager
def _running(program: Path, initialise: Any, tls: Path, protocol: str, options: Sequence[str]) -> Iterator[MySQLServer]:
    account = find_account()
    folder = Path(tempfile.mkdtemp(prefix=f"dbproxy-{protocol}-", dir="/tmp"))
    folder.chmod(0o755)
    data, log = folder / "data", folder / "server.log"
    password = os.urandom(12).hex()
    process: subprocess.Popen[bytes] | None = None
    try:
        authority = CertificateAuthority(tls)
        files = authority.issue("server", "localhost")
        for path in (files.certificate, files.key, files.ca):
            shutil.copy(path, folder / path.name)
            account.own(folder / path.name)
        account.own(folder)
        if protocol == "mysql":
            data.mkdir(mode=0o700)
            account.own(data)
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}
        status, printed = account.run(initialise(account, data), environment=environment, cwd=folder)
        if status:
            raise EmbeddedServerError(f"{program} cannot make its data folder:\n{printed[-2000:]}")
        port = _free_port()
        with log.open("wb") as output:
            process = account.spawn(
                [
                    program,
                    "--no-defaults",
                    f"--datadir={data}",
                    f"--socket={folder / 'socket'}",
                    f"--pid-file={folder / 'pid'}",
                    f"--port={port}",
                    f"--ssl-ca={folder / files.ca.name}",
                    f"--ssl-cert={folder / files.certificate.name}",
                    f"--ssl-key={folder / files.key.name}",
                    *_OPTIONS,
                    *options,
                ],
                environment=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        version = _prepare(process, folder / "socket", log, password, protocol)
        yield MySQLServer("localhost", port, version, f"{program}, run as {account.name}", files.ca, password, protocol)
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(process: subprocess.Popen[bytes], path: Path, log: Path, password: str, protocol: str) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _is_listening(path):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:]
            raise EmbeddedServerError(f"the {protocol} server does not start:\n{said}")
        time.sleep(0.1)
    connection = pymysql.connect(unix_socket=str(path), user="root", password="", autocommit=True)
    with contextlib.closing(connection), connection.cursor() as cursor:
        for name, secret in (("root", password), ("app", PASSWORDS["app"])):
            for host in ("%", "localhost"):
                cursor.execute(f"create user if not exists '{name}'@'{host}' identified by '{secret}'")
                cursor.execute(f"alter user '{name}'@'{host}' identified by '{secret}'")
        cursor.execute("grant all on *.* to 'root'@'%' with grant option")
        cursor.execute("grant all on `test%`.* to 'app'@'%'")
        cursor.execute("grant all on `test%`.* to 'app'@'localhost'")
        cursor.execute("grant process, reload on *.* to 'app'@'localhost'")
        cursor.execute("select version()")
        return str(cursor.fetchone()[0])


def _is_listening(path: Path) -> bool:
    """Asked on a bare socket: PyMySQL leaks its own when nobody listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
