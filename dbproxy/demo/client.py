"""The client that alice uses in the demo: psql where there is one, else asyncpg playing its part."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import asyncpg

from dbproxy.embedded.binaries import find_all

_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Login:
    """Where to connect to, and as whom. ca: the certificate authority to verify the proxy with."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    ca: Path


@dataclass(frozen=True, slots=True)
class Ran:
    """A client that has ended: the command as a person would type it, what it printed, whether it ended well."""

    command: str
    output: str
    is_ok: bool


class Client(Protocol):
    """Runs statements in one session."""

    has_tls: bool
    name: str

    def run(self, login: Login, statements: Sequence[str]) -> Ran: ...

    def invite(self, login: Login) -> str:
        """The command with which a person goes on by hand."""


class Psql:
    """A real psql. Without TLS where it was built without."""

    def __init__(self, program: Path, *, has_tls: bool) -> None:
        self.has_tls = has_tls
        self.name = "psql" if has_tls else "psql (built without TLS)"
        self._program = program

    def run(self, login: Login, statements: Sequence[str]) -> Ran:
        """Run statements as psql -c does: after an error it goes on in the same session."""
        address = self.address(login)
        words = [str(self._program), "-X", address]
        for statement in statements:
            words += ["-c", statement]
        done = subprocess.run(  # noqa: S603  # a program found on this machine, no shell
            words,
            env={
                "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
                "PGPASSWORD": login.password,
                "LC_ALL": "C.UTF-8",
                "HOME": "/",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
        tls = " sslmode=verify-full sslrootcert=..." if self.has_tls else ""
        shown = " ".join(f'-c "{statement}"' for statement in statements)
        command = f'psql "host={login.host} port={login.port} user={login.user} dbname={login.database}{tls}" {shown}'
        return Ran(command, done.stdout, done.returncode == 0)

    def invite(self, login: Login) -> str:
        return f'PGPASSWORD={login.password} psql "{self.address(login)}"'

    def address(self, login: Login) -> str:
        """The connection string, without the password."""
        tls = f"sslmode=verify-full sslrootcert='{login.ca}'" if self.has_tls else "sslmode=disable"
        return f"host={login.host} port={login.port} user={login.user} dbname={login.database} connect_timeout=20 {tls}"


class Asyncpg:
    """asyncpg in the part of psql: prints rows and errors in the same form."""

    has_tls = True
    name = "asyncpg"

    def invite(self, login: Login) -> str:
        address = f"host={login.host} port={login.port} user={login.user} dbname={login.database}"
        return f'PGPASSWORD={login.password} psql "{address}"'

    def run(self, login: Login, statements: Sequence[str]) -> Ran:
        command = "asyncpg: " + "; ".join(statements)
        try:
            return Ran(command, *asyncio.run(self._run(login, statements)))
        except (asyncpg.PostgresError, OSError) as error:
            return Ran(command, _describe(error), is_ok=False)

    async def _run(self, login: Login, statements: Sequence[str]) -> tuple[str, bool]:
        context = ssl.create_default_context(cafile=str(login.ca))
        try:
            connection = await asyncpg.connect(
                host=login.host,
                port=login.port,
                user=login.user,
                password=login.password,
                database=login.database,
                ssl=context,
                timeout=20,
            )
        except asyncpg.PostgresError:
            await asyncio.sleep(
                0.1
            )  # asyncpg closes a refused TLS connection in a later turn of the loop, which must not end before
            raise
        lines, is_ok = [], True
        try:
            for statement in statements:
                try:
                    rows = await connection.fetch(statement, timeout=_TIMEOUT_S)
                except asyncpg.PostgresError as error:
                    lines.append(_describe(error))
                    is_ok = False
                else:
                    is_ok = True
                    lines += [" | ".join(f"{name}: {value}" for name, value in row.items()) for row in rows]
                    lines.append(f"({len(rows)} rows)")
        finally:
            await connection.close(timeout=10)
        return "\n".join(lines), is_ok


class MariaDB:
    """MariaDB's own client, going on after errors."""

    has_tls = True
    name = "mariadb"

    def __init__(self, program: Path) -> None:
        self._program = program

    def run(self, login: Login, statements: Sequence[str]) -> Ran:
        text = "; ".join(statements)
        done = subprocess.run(  # noqa: S603  # a program found on this machine, no shell
            [self._program, *self._arguments(login), "-t", "-e", text, "--force"],
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "MYSQL_PWD": login.password, "HOME": "/"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
        shown = f"mariadb -hlocalhost -P{login.port} -u{login.user} --ssl-ca=... {login.database}"
        return Ran(f'{shown} -e "{text}" --force', done.stdout, done.returncode == 0)

    def invite(self, login: Login) -> str:
        return f"MYSQL_PWD={login.password} {self._program} {' '.join(self._arguments(login))}"

    def _arguments(self, login: Login) -> list[str]:
        return [
            "--no-defaults",
            "-hlocalhost",  # the name in the proxy's certificate
            "--protocol=tcp",
            f"-P{login.port}",
            f"-u{login.user}",
            f"--ssl-ca={login.ca}",
            "--ssl-verify-server-cert",
            f"-D{login.database}",
        ]


def find_client() -> Client:
    """Find psql with TLS, else any psql, else asyncpg."""
    programs = [(each.program("psql"), each.has_tls) for each in find_all() if each.program("psql").exists()]
    on_path = shutil.which("psql")
    if on_path and not any(has_tls for _, has_tls in programs):
        programs.append((Path(on_path), True))  # packaged clients have TLS; only the wheel's has not
    if not programs:
        return Asyncpg()
    program, has_tls = max(programs, key=lambda each: each[1])
    return Psql(program, has_tls=has_tls)


def _describe(error: Exception) -> str:
    if not isinstance(error, asyncpg.PostgresError):
        return f"ERROR:  {error}"
    lines = [f"ERROR:  {error.args[0]}"]
    for name in ("detail", "hint"):
        value = getattr(error, name, None)
        if value:
            lines.append(f"{name.upper()}:  {value}")
    return "\n".join(lines)
