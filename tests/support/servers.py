"""Real PostgreSQL servers for tests: from Docker where an engine answers, else from the embedded wheel or the system.

Accounts (all with the rights of an ordinary user, `app` owns the databases of tests/conftest.py):
`app` scram-sha-256, `md5_user` md5, `clear_user` password in clear, `trust_user` none, and, on the server with TLS,
`tls_user` scram-sha-256 over TLS only, `cert_user` client certificate only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from support.requirements import go_without
from support.server_log import LOG_SETTINGS, ServerLog, file_reader

from dbproxy.embedded.binaries import find_all, find_binaries
from dbproxy.embedded.certificates import CertificateAuthority, CertificateFiles
from dbproxy.embedded.server import EmbeddedPostgres
from dbproxy.embedded.shop import SHOP_SQL

DOCKER_IMAGE = "postgres:18"
DOCKER_PROBE_TIMEOUT_S = 3
TEMPLATE = "shop_template"
PASSWORDS = {
    "app": "app-pw",
    "md5_user": "md5-pw",
    "clear_user": "clear-pw",
    "trust_user": "",
    "tls_user": "tls-pw",
    "cert_user": "",
}
_SETTINGS = {
    **LOG_SETTINGS,
    "max_connections": "300",
    "max_prepared_transactions": "20",
    "wal_level": "logical",
    "shared_buffers": "64MB",
}
_HBA = (
    "hostssl all cert_user all cert",
    "host all cert_user all reject",
    "hostnossl all tls_user all reject",
    "host all trust_user all trust",
    "host all clear_user all password",
    "host all md5_user all md5",
    "host replication all all scram-sha-256",
    "host all all all scram-sha-256",
)
# A server without TLS reads no hostssl line.
_HBA_PLAIN = tuple(line for line in _HBA if not line.startswith(("hostssl", "hostnossl")))
_ROLES_SQL = (
    "create role app login createdb password 'app-pw'",
    "create role clear_user login password 'clear-pw'",
    "create role tls_user login password 'tls-pw'",
    "create role trust_user login",
    "create role cert_user login",
    "grant app to clear_user, tls_user, trust_user, cert_user",
    "set password_encryption = 'md5'; set client_min_messages = error; create role md5_user login password 'md5-pw' in role app",
)


@dataclass(frozen=True)
class PostgresServer:
    """A running server and what a test needs to use it. source: where it came from, for the summary."""

    host: str
    port: int
    version: str
    source: str
    superuser: str
    password: str = field(repr=False)
    log: ServerLog = field(repr=False)
    programs: Path | None = None
    ca: Path | None = None
    client: CertificateFiles | None = None

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def address(self, database: str, user: str = "app") -> dict[str, Any]:
        """Keyword arguments for psycopg and asyncpg alike (asyncpg calls dbname `database`)."""
        password = self.password if user == self.superuser else PASSWORDS[user]
        return {"host": self.host, "port": self.port, "user": user, "password": password, "dbname": database}

    def environment(self, database: str, user: str = "app") -> dict[str, str]:
        """PG* variables for psql, pg_dump and pgbench."""
        address = self.address(database, user)
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        return {names[key]: str(value) for key, value in address.items()}

    @contextlib.contextmanager
    def connect(
        self, database: str = "postgres", user: str | None = None, **options: Any
    ) -> Iterator[psycopg.Connection[Any]]:
        """A direct connection in autocommit mode, as the superuser unless user says otherwise."""
        address = self.address(database, user or self.superuser) | {"connect_timeout": 20} | options
        with contextlib.closing(psycopg.connect(autocommit=True, **address)) as connection:
            yield connection

    def execute(self, *texts: str, database: str = "postgres") -> None:
        with self.connect(database) as connection:
            for text in texts:
                connection.execute(text.encode())

    def fetch(self, query: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        with self.connect(database) as connection:
            return connection.execute(query.encode()).fetchall()


@dataclass(frozen=True)
class Database:
    """A fresh database of one test, holding the sample shop; `app` owns it and everything in it."""

    server: PostgresServer
    name: str

    def connect(self, user: str = "app", **options: Any) -> contextlib.AbstractContextManager[psycopg.Connection[Any]]:
        return self.server.connect(self.name, user, **options)

    def execute(self, *texts: str) -> None:
        """Run texts directly on the server, as its superuser."""
        self.server.execute(*texts, database=self.name)

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the server directly, as its superuser."""
        return self.server.fetch(query, database=self.name)

    def has_table(self, table: str) -> bool:
        return bool(self.fetch(f"select to_regclass('{table}') is not null")[0][0])

    def statements(self, since: int = 0) -> list[str]:
        """The texts that the server began to run in this database, in order."""
        return [each.sql for each in self.server.log.statements(since, database=self.name)]


@contextlib.contextmanager
def newest_postgres(say: Callable[[str], None]) -> Iterator[PostgresServer]:
    """The newest PostgreSQL to be had. Raises EmbeddedServerError where there is none."""
    if is_docker_answering():
        try:
            with _docker_postgres() as server:
                yield _prepared(server)
            return
        except _DockerStartError as error:
            say(f"Docker answers but starts no {DOCKER_IMAGE} ({error}); using an embedded server")
    with EmbeddedPostgres(find_binaries(), settings=_SETTINGS, hba=_HBA_PLAIN) as embedded:
        yield _prepared(_view(embedded))


@contextlib.contextmanager
def postgres_with_tls(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """The newest PostgreSQL built with TLS, with a certificate for localhost made in folder. settings: besides those of all."""
    ca = CertificateAuthority(folder)
    files = ca.issue("server", "localhost")
    client = ca.issue("cert_user", "cert_user", (), is_client=True)
    with EmbeddedPostgres(
        find_binaries(needs_tls=True),
        settings={**_SETTINGS, **(settings or {})},
        hba=_HBA,
        tls=(files.certificate, files.key, files.ca),
    ) as embedded:
        yield _prepared(_view(embedded, ca=files.ca, client=client))


@contextlib.contextmanager
def fresh_database(server: PostgresServer, name: str) -> Iterator[Database]:
    """Create a database from the template, and drop it afterwards, whoever is still connected."""
    server.execute(f'create database "{name}" template {TEMPLATE} owner app')
    try:
        yield Database(server, name)
    finally:
        server.execute(f'drop database "{name}" with (force)')


def is_docker_answering() -> bool:
    """Does an engine answer? A docker program without a daemon, or one that hangs, does not.

    Asked on the bare socket: Docker's own client leaks it when nobody listens.
    """
    address = urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    try:
        with socket.socket(socket.AF_UNIX if address.scheme == "unix" else socket.AF_INET) as probe:
            probe.settimeout(DOCKER_PROBE_TIMEOUT_S)
            probe.connect(address.path if address.scheme == "unix" else (address.hostname, address.port or 2375))
            probe.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in probe.recv(64)
    except OSError:
        return False


def find_program(name: str, *, needs_tls: bool = False) -> Path:
    """A client program (psql, pg_dump, pgbench): the newest version that runs here, of those with TLS if needs_tls.

    Where there is none the test fails, or is skipped if the run may go without what is missing.
    """
    for binaries in find_all():
        if (binaries.has_tls or not needs_tls) and binaries.program(name).exists():
            return binaries.program(name)
    text = f"the program {name} is missing{' in a build with TLS' if needs_tls else ''}: install Debian's package postgresql"
    return go_without(text)


class _DockerStartError(Exception):
    pass


@contextlib.contextmanager
def _docker_postgres() -> Iterator[PostgresServer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party imports
        from testcontainers.postgres import PostgresContainer
    arguments = " ".join(
        f"-c {name}='{value}'" for name, value in {**_SETTINGS, "fsync": "off", "log_timezone": "UTC"}.items()
    )
    password = os.urandom(12).hex()
    container = PostgresContainer(DOCKER_IMAGE, username="postgres", password=password, dbname="postgres", driver=None)
    container.with_command(f"postgres {arguments}")
    try:
        container.start()
    except Exception as error:
        raise _DockerStartError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    try:
        hba = "\n".join(_HBA_PLAIN)
        container.exec(["sh", "-c", f"printf '%s\\n' 'local all all trust' '{hba}' > \"$PGDATA/pg_hba.conf\""])

        def read(since: int) -> tuple[str, int]:
            text = b"".join(container.get_logs()).decode(errors="replace")
            return text[since:], len(text)

        server = _server(
            container.get_container_host_ip(),
            int(container.get_exposed_port(5432)),
            "postgres",
            password,
            f"Docker {DOCKER_IMAGE}",
            read,
        )
        server.execute("select pg_reload_conf()")
        yield server
    finally:
        container.stop()


def _view(embedded: EmbeddedPostgres, **more: Any) -> PostgresServer:
    source = f"{embedded.binaries.source}, run as {embedded.account}"
    read = file_reader(lambda: embedded.log_path)
    return _server(
        embedded.host,
        embedded.port,
        embedded.user,
        embedded.password,
        source,
        read,
        programs=embedded.binaries.folder,
        **more,
    )


def _server(
    host: str, port: int, user: str, password: str, source: str, read: Callable[[int], tuple[str, int]], **more: Any
) -> PostgresServer:
    with contextlib.closing(
        psycopg.connect(host=host, port=port, user=user, password=password, dbname="postgres", connect_timeout=20)
    ) as connection:
        version = connection.info.parameter_status("server_version") or ""

    def run(text: str) -> None:
        with contextlib.closing(
            psycopg.connect(
                host=host,
                port=port,
                user=user,
                password=password,
                dbname="postgres",
                autocommit=True,
                connect_timeout=20,
            )
        ) as connection:
            connection.execute(text.encode())

    return PostgresServer(host, port, version.split()[0], source, user, password, ServerLog(read, run), **more)


def _prepared(server: PostgresServer) -> PostgresServer:
    for text in _ROLES_SQL:
        server.execute(text)
    server.execute(f"create database {TEMPLATE} owner app")
    server.execute(f"set role app; {SHOP_SQL}", database=TEMPLATE)
    server.execute(f"alter database {TEMPLATE} with allow_connections false")
    return server
