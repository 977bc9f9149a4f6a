"""The same thing done twice, direct and through a proxy under `observe`, each time in a fresh database of one name.

A scenario sees no difference but the address, so whatever it returns must be equal.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import pprint
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.proxy import Proxy
from support.servers import PASSWORDS, Database, PostgresServer, fresh_database

from dbproxy.embedded.binaries import Binaries, find_all

T = TypeVar("T")
PROGRAM_TIMEOUT_S = 120
WAYS = ("direct", "proxied")


@dataclass(frozen=True)
class Way:
    """One way to a database. name: `direct` or `proxied`. ca: of the certificate at host:port, None without TLS."""

    name: str
    host: str
    port: int
    ca: Path | None
    server: PostgresServer
    database: Database

    def password(self, user: str = "app") -> str:
        return self.server.password if user == self.server.superuser else PASSWORDS[user]

    def environment(self, user: str = "app") -> dict[str, str]:
        """PG* variables, and an environment in which programs speak English."""
        tls = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(self.ca)} if self.ca else {"PGSSLMODE": "disable"}
        return {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": user,
            "PGPASSWORD": self.password(user),
            "PGDATABASE": self.database.name,
            **tls,
        }

    def psycopg(self, user: str = "app") -> dict[str, Any]:
        """Keyword arguments for psycopg."""
        tls = {"sslmode": "verify-full", "sslrootcert": str(self.ca)} if self.ca else {"sslmode": "disable"}
        return {
            "host": self.host,
            "port": self.port,
            "user": user,
            "password": self.password(user),
            "dbname": self.database.name,
            "connect_timeout": 20,
            **tls,
        }

    def run(
        self,
        *command: str | Path,
        stdin: bytes = b"",
        user: str = "app",
        cwd: Path | None = None,
        timeout_s: float = PROGRAM_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program against this database."""
        return subprocess.run(
            [str(part) for part in command],
            input=stdin,
            capture_output=True,
            env=self.environment(user),
            cwd=cwd,
            check=False,
            timeout=timeout_s,
        )


@dataclass(frozen=True)
class TwoWays:
    """A server and a proxy in front of it. has_tls: use TLS on both."""

    server: PostgresServer
    proxy: Proxy
    has_tls: bool

    def program(self, name: str) -> Path:
        """A client program that can speak TLS if these ways do."""
        return next(each.program(name) for each in self.binaries() if each.program(name).exists())

    def binaries(self) -> Iterator[Binaries]:
        """Installations whose programs can go these ways, the newest first."""
        return (each for each in find_all() if each.has_tls or not self.has_tls)

    @contextlib.contextmanager
    def open(self, way: str, name: str) -> Iterator[Way]:
        """One of WAYS, with a fresh database called name."""
        end: PostgresServer | Proxy = self.server if way == "direct" else self.proxy
        with fresh_database(self.server, name) as database:
            yield Way(way, end.host, end.port, end.ca if self.has_tls else None, self.server, database)

    def compare(self, name: str, scenario: Callable[[Way], T]) -> T:
        """Run the scenario both ways. Returns what both returned; fails if that differs."""
        results = []
        for each in WAYS:
            with self.open(each, name) as way:
                results.append(scenario(way))
        if results[1] != results[0]:
            lines = [pprint.pformat(each, width=200).splitlines() for each in results]
            first = itertools.islice(difflib.unified_diff(*lines, *WAYS, lineterm="", n=1), 60)
            pytest.fail("direct and proxied differ:\n" + "\n".join(first), pytrace=False)
        return results[0]


def said(done: subprocess.CompletedProcess[bytes], hide: Sequence[tuple[str, str]] = ()) -> tuple[int, bytes, bytes]:
    """Exit status, output and messages of a program; hide: words that rightly differ, and what stands for them."""
    texts = [done.stdout, done.stderr]
    for word, instead in hide:
        texts = [text.replace(word.encode(), instead.encode()) for text in texts]
    return done.returncode, texts[0], texts[1]
