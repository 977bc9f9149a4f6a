"""Logins and commands that no ordinary client sends, on a real server: what is refused, what is said, and what is on record."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pymysql
import pytest
from support import my_bytes as my
from support.my_proxy import MySQLProxy, running_mysql_proxy
from support.my_servers import MySQLServer
from support.requirements import go_without
from support.servers import PASSWORDS

from dbproxy.embedded.certificates import CertificateAuthority

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def observed(mysql_server: MySQLServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQLProxy]:
    mysql_server.execute("create database if not exists test")
    with running_mysql_proxy(tmp_path_factory.mktemp("observed"), mysql_server) as proxy:
        yield proxy


def send(connection: Any, frame: bytes) -> bytes:
    """A raw command on a PyMySQL connection; the first packet of its answer."""
    connection._next_seq_id = 1
    connection._sock.sendall(frame)
    payload: bytes = connection._read_packet().get_all_data()
    return payload


def test_prepared_statements_are_recorded_with_their_parameters(observed: MySQLProxy) -> None:
    with observed.connect(database="test") as connection:
        answer = send(connection, my.prepare("select ? + 1 as prepared_sum, ?"))
        (statement_id,) = struct.unpack_from("<I", answer, 1)
        for _ in range(2 * 2 + 2):  # definitions and what ends them
            connection._read_packet()
        frame = my.execute(statement_id, [(3, b"\x29\0\0\0"), (253, my.string("text"))])
        assert send(connection, frame) == b"\2"
        for _ in range(3):
            connection._read_packet()
        row = connection._read_packet().get_all_data()
        assert row.endswith(b"\4text")
        connection._read_packet()
        connection._next_seq_id = 0
        connection.ping(reconnect=False)
    executed = observed.proxy.wait_for_record(
        lambda each: each["type"] == "statement.intent" and each["act"] == "execute" and "prepared_sum" in each["sql"]
    )
    assert [(each["type"], each["value"]) for each in executed["parameters"]] == [("int", "41"), ("varchar", "text")]


@pytest.mark.parametrize("code", [0x08, 0x0D, 0x11, 0x12, 0x15, 0x1D, 0x1E, 0x20])
def test_replication_and_its_like_are_refused_and_the_session_goes_on(observed: MySQLProxy, code: int) -> None:
    with observed.connect() as connection:
        with pytest.raises(pymysql.err.MySQLError) as caught:
            send(connection, my.command(code, b"\4\0\0\0\0\0\1\0\0\0binlog.000001"))
        assert caught.value.args[0] == 1235
        connection._next_seq_id = 0
        with connection.cursor() as cursor:
            cursor.execute("select 1")
            assert cursor.fetchall() == ((1,),)


def test_an_unknown_command_ends_the_session(observed: MySQLProxy) -> None:
    with observed.connect() as connection, pytest.raises(pymysql.err.MySQLError) as caught:
        send(connection, my.command(0x77))
    assert caught.value.args[0] == 1835


@contextlib.contextmanager
def raw(proxy: MySQLProxy) -> Iterator[tuple[socket.socket, bytes]]:
    """A bare connection and the greeting it got."""
    with socket.create_connection(("127.0.0.1", proxy.proxy.port), timeout=10) as connection:
        connection.settimeout(10)
        yield connection, connection.recv(4096)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(OSError):
        while part := connection.recv(4096):
            parts.append(part)
    return b"".join(parts)


SSL = 1 << 11


def test_bytes_in_clear_behind_the_tls_request_are_never_read_as_commands(observed: MySQLProxy) -> None:
    caps = my.PROTOCOL_41 | SSL | 1 << 15 | 1 << 19
    request = struct.pack("<IIB", caps, 1 << 24, 45) + b"\0" * 23
    before = len(observed.proxy.records("statement.intent"))
    for tail in (
        my.query("select 'injected'"),
        my.frame(b"x" * 50, 2),
        b"\x16\x03\x01\x00\x05hello",
        my.query("injected") * 50,
    ):
        with raw(observed) as (connection, greeting):
            assert greeting[4] == 10
            connection.sendall(my.frame(request, 1) + tail)
            assert b"injected" not in read_all(connection)
    assert len(observed.proxy.records("statement.intent")) == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\1",
        my.query("select 1"),
        my.frame(b"\xff" * 40, 1),
        my.frame(b"x", 1, length=my.BIG),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_what_is_no_login_is_closed_and_nothing_is_dialled(observed: MySQLProxy, data: bytes) -> None:
    before = observed.server.fetch("show global status like 'Connections'")
    with raw(observed) as (connection, _):
        connection.sendall(data)
        with suppress(OSError):  # it may be closed already
            connection.shutdown(socket.SHUT_WR)
        read_all(connection)
    after = observed.server.fetch("show global status like 'Connections'")
    assert int(after[0][1]) - int(before[0][1]) == 1  # the one that asked


def test_a_plain_client_is_told_that_tls_is_required(mysql_server: MySQLServer, tmp_path: Any) -> None:
    def require(settings: dict[str, Any]) -> None:
        settings["listeners"][0]["tls"]["mode"] = "require"

    with running_mysql_proxy(tmp_path / "proxy", mysql_server, workers=1, change=require) as proxy:
        with pytest.raises(pymysql.err.OperationalError) as caught, proxy.connect(ssl=None, ssl_disabled=True):
            pass
        assert caught.value.args[0] == 3159
        with proxy.connect() as connection:
            connection.ping()


def test_a_server_that_asks_for_less_than_allowed_gets_nothing(mysql_server: MySQLServer, tmp_path: Any) -> None:
    def demand(settings: dict[str, Any]) -> None:
        settings["targets"][0]["accept_auth"] = ["client_ed25519"]

    with running_mysql_proxy(tmp_path / "proxy", mysql_server, workers=1, change=demand) as proxy:
        with pytest.raises(pymysql.err.OperationalError) as caught, proxy.connect():
            pass
        assert "not allowed for this target" in caught.value.args[1]
        assert proxy.proxy.wait_for_record(lambda each: each["type"] == "server_auth_downgrade")


def test_a_server_with_another_authority_is_not_trusted(mysql_server: MySQLServer, tmp_path: Any) -> None:
    other = CertificateAuthority(tmp_path).certificate

    def distrust(settings: dict[str, Any]) -> None:
        settings["targets"][0]["tls"]["ca"] = str(other)

    with running_mysql_proxy(tmp_path / "proxy", mysql_server, workers=1, change=distrust) as proxy:
        with pytest.raises(pymysql.err.OperationalError), proxy.connect():
            pass
        failure = proxy.proxy.wait_for_record(lambda each: each["type"] == "login.failure")
        assert failure["reason"] == "certificate_unknown_authority"


def test_people_log_in_with_their_own_account_of_the_server(mysql_server: MySQLServer, tmp_path: Any) -> None:
    mysql_server.execute("create database if not exists test")

    def upstream(settings: dict[str, Any]) -> None:
        settings["users"] = {"auth": "upstream"}
        settings["listeners"][0]["tls"]["mode"] = "require"

    with running_mysql_proxy(tmp_path / "proxy", mysql_server, workers=1, change=upstream) as proxy:
        address = {"host": "localhost", "port": proxy.proxy.port, "user": "app", "ssl": {"ca": str(proxy.proxy.ca)}}
        with (
            contextlib.closing(pymysql.connect(password=PASSWORDS["app"], **address)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("select current_user()")
            assert cursor.fetchone()[0].startswith("app@")
        with pytest.raises(pymysql.err.OperationalError) as caught:
            pymysql.connect(password="wrong", **address)
        assert caught.value.args == (1045, "Access denied for user 'app' (using password: YES)")


def test_a_client_that_knows_only_the_native_method_gets_in_where_it_is_allowed(
    mysql_server: MySQLServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mysql_server.execute("create database if not exists test")

    def allow(settings: dict[str, Any]) -> None:
        settings["listeners"][0]["mysql_native_password"] = True

    with running_mysql_proxy(tmp_path / "proxy", mysql_server, workers=1, change=allow) as proxy:
        with proxy.connect("bob") as connection:  # names the method of the greeting
            connection.ping()
        monkeypatch.setattr(pymysql.connections.Connection, "_auth_plugin_name", NativeName(), raising=False)
        with proxy.connect() as connection, connection.cursor() as cursor:
            cursor.execute("select current_user()")
            assert cursor.fetchone()[0].startswith("app@")
        said = []
        for user, password in (("alice", "wrong"), ("bob", "bob-pw"), ("nobody", "wrong")):  # bob has no such verifier
            with pytest.raises(pymysql.err.OperationalError) as caught:
                pymysql.connect(
                    **{**proxy.address(), "user": user, "password": password}, ssl={"ca": str(proxy.proxy.ca)}
                )
            said.append((caught.value.args[0], caught.value.args[1].replace(user, "?")))
        assert said == [(1045, "Access denied for user '?' (using password: YES)")] * 3
        found = {each["person"]: each["mechanism"] for each in proxy.proxy.records("login.success")}
        assert found == {"alice": "mysql_native_password", "bob": "caching_sha2_password"}


class NativeName:
    """Stands for PyMySQL's note of the greeting's method: an old client, which knows one only."""

    def __get__(self, instance: object, owner: object) -> str:
        return "mysql_native_password"

    def __set__(self, instance: object, value: object) -> None:
        """Whatever the greeting says."""


def test_mariadbs_ed25519_accounts_work(mariadb: MySQLServer, tmp_path: Any) -> None:
    try:
        mariadb.execute("install soname 'auth_ed25519'")
    except pymysql.err.MySQLError:
        go_without("this MariaDB has no auth_ed25519 plugin")
    for host in ("%", "localhost"):
        mariadb.execute(
            f"create user 'clear_user'@'{host}' identified via ed25519 using password('{PASSWORDS['clear_user']}')"
        )

    mariadb.execute(
        "create database if not exists test",
        "grant all on test.* to 'clear_user'@'%'",
        "grant all on test.* to 'clear_user'@'localhost'",
    )

    def sign(settings: dict[str, Any]) -> None:
        settings["targets"][0]["accept_auth"] = ["client_ed25519"]

    try:
        with (
            running_mysql_proxy(tmp_path / "proxy", mariadb, workers=1, change=sign, accounts=("clear_user",)) as proxy,
            proxy.connect() as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("select current_user()")
            assert cursor.fetchone()[0].startswith("clear_user@")
    finally:
        mariadb.execute("drop user 'clear_user'@'%', 'clear_user'@'localhost'")
