"""PROXY protocol v2: the audit trail names the client that the balancer announces, and nobody else may announce one."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.proxy import Proxy, running_proxy
from support.servers import Database

pytestmark = pytest.mark.integration

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def _header(client: str, port: int) -> bytes:
    addresses = socket.inet_aton(client) + socket.inet_aton("192.0.2.1") + struct.pack(">HH", port, 5432)
    return SIGNATURE + b"\x21\x11" + struct.pack(">H", len(addresses)) + addresses


@contextmanager
def _balancer(proxy: Proxy, header: bytes) -> Iterator[int]:
    """A load balancer for one connection: sends the header, then passes bytes both ways. Gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            with client, socket.create_connection((proxy.host, proxy.port)) as server:
                server.sendall(header)
                back = threading.Thread(target=_pump, args=(server, client))
                back.start()
                _pump(client, server)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def proxy(tmp_path: Path, database: Database) -> Iterator[Proxy]:
    def change(settings: dict[str, Any]) -> None:
        settings["listeners"][0]["proxy_protocol_from"] = ["127.0.0.0/8"]

    with running_proxy(
        tmp_path / "proxy", database.server, database=database.name, workers=1, change=change
    ) as running:
        yield running


def test_announced_client_is_the_one_in_every_event(proxy: Proxy, database: Database) -> None:
    with _balancer(proxy, _header("203.0.113.7", 40000)) as port:
        address = proxy.address("alice", database.name) | {"port": port}
        with psycopg.connect(**address, sslmode="require", autocommit=True) as connection:
            connection.execute("SELECT 1")
    record = proxy.wait_for_record(lambda each: each["type"] == "session.end")
    assert record["client"] == "203.0.113.7:40000"
    assert {each["client"] for each in proxy.records("statement.intent", "login.success")} == {"203.0.113.7:40000"}


def test_connection_without_the_header_is_turned_away(proxy: Proxy, database: Database) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**proxy.address("alice", database.name), connect_timeout=5)
    assert proxy.wait_for_record(lambda each: each["type"] == "connection.rejected")["why"] == "protocol"
    assert not proxy.records("login.success", "login.failure")
