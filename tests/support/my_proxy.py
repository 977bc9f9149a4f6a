"""The real proxy in front of MariaDB or MySQL: support.proxy with a listener of that protocol, and MySQL's clients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from support.my_servers import MySQLServer
from support.proxy import PEOPLE_PASSWORDS, Proxy, running_proxy

WAYS = {"mariadb": ["mysql_native_password"], "mysql": ["caching_sha2_password"]}


@dataclass
class MySQLProxy:
    """proxy: everything but the clients. server: the one behind it."""

    proxy: Proxy
    server: MySQLServer

    def address(self, user: str = "alice", database: str | None = None) -> dict[str, Any]:
        """Keyword arguments for PyMySQL, without TLS."""
        password = PEOPLE_PASSWORDS[user.split("+")[0]]
        address = {"host": "localhost", "port": self.proxy.port, "user": user, "password": password}
        return {**address, **({"database": database} if database else {}), "connect_timeout": 20}

    @contextlib.contextmanager
    def connect(self, user: str = "alice", database: str | None = None, **options: Any) -> Iterator[Any]:
        """A connection in autocommit mode over verified TLS, unless options say otherwise."""
        defaults = {"autocommit": True, "ssl": {"ca": str(self.proxy.ca)}}
        with contextlib.closing(
            pymysql.connect(**self.address(user, database), **{**defaults, **options})
        ) as connection:
            yield connection

    def arguments(self, user: str = "alice") -> list[str]:
        """For the client programs of MariaDB and MySQL alike; the password goes by $MYSQL_PWD."""
        return [
            "--no-defaults",
            "-hlocalhost",
            f"-P{self.proxy.port}",
            "--protocol=tcp",
            f"-u{user}",
            f"--ssl-ca={self.proxy.ca}",
        ]

    def texts(self, *types: str) -> list[str]:
        """The SQL of all records of these types, in order."""
        return [record.get("sql", "") for record in self.proxy.records(*types)]


@contextlib.contextmanager
def running_mysql_proxy(
    folder: Path,
    server: MySQLServer,
    *,
    change: Callable[[dict[str, Any]], None] = lambda settings: None,
    **options: Any,
) -> Iterator[MySQLProxy]:
    """As support.proxy.running_proxy."""

    def speak(settings: dict[str, Any]) -> None:
        listener, target = settings["listeners"][0], settings["targets"][0]
        listener["protocol"] = target["protocol"] = server.protocol
        target["accept_auth"] = WAYS[server.protocol]
        target["tls"] = {"mode": "verify-full", "ca": str(server.ca)}
        settings["audit"]["parameters"] = "values"
        change(settings)

    with running_proxy(folder, server, change=speak, **{"database": "test", **options}) as proxy:  # type: ignore[arg-type]  # another kind of server
        yield MySQLProxy(proxy, server)
