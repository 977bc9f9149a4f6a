"""The servers that the integration tests stand on are what they say they are."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import psycopg
import pytest
from support.servers import PASSWORDS, Database, PostgresServer, find_program, is_docker_answering


def test_database_is_fresh_and_holds_the_shop(database: Database) -> None:
    with database.connect() as connection:
        assert connection.execute("select count(*) from customers").fetchone() == (200,)
        connection.execute("drop table orders, customers")
    assert not database.has_table("customers")


def test_second_database_does_not_see_what_the_first_one_lost(database: Database) -> None:
    assert database.has_table("customers")


def test_server_log_gives_statements_back_exactly_and_in_order(database: Database) -> None:
    mark = database.server.log.mark()
    texts = ["select 1 /* two\nlines\n\tand a tab */", "select 'é'", "select 3"]
    with database.connect() as connection:
        for text in texts:
            connection.execute(text)
        connection.execute("select %s::int", (4,))
        pid = connection.info.backend_pid
    logged = database.server.log.statements(mark, database=database.name)
    assert [(each.how, each.sql) for each in logged] == [
        *(("simple", text) for text in texts),
        ("execute", "select $1::int"),
    ]
    assert {each.pid for each in logged} == {pid}
    assert database.server.log.statements(mark, pid=pid + 1_000_000) == []


def test_server_log_shows_no_statement_that_the_server_did_not_run(database: Database) -> None:
    mark = database.server.log.mark()
    with database.connect() as connection, pytest.raises(psycopg.errors.SyntaxError):
        connection.execute("selec 1")
    records = [each for each in database.server.log.records(mark) if each.database == database.name]
    assert [each.severity for each in records if "syntax" in each.text] == ["ERROR"]


@pytest.mark.parametrize("user", ["app", "md5_user", "clear_user", "trust_user", "tls_user"])
def test_tls_server_lets_each_account_in_over_tls(database_tls: Database, user: str) -> None:
    ca = database_tls.server.ca
    with database_tls.connect(
        user, sslmode="verify-full", sslrootcert=str(ca), host="localhost", hostaddr="127.0.0.1"
    ) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("select current_user").fetchone() == (user,)


def test_tls_server_asks_cert_user_for_a_certificate(database_tls: Database) -> None:
    client = database_tls.server.client
    assert client is not None
    with pytest.raises(psycopg.OperationalError, match="certificate"), database_tls.connect("cert_user"):
        pass
    with database_tls.connect("cert_user", sslcert=str(client.certificate), sslkey=str(client.key)) as connection:
        assert connection.execute("select current_user").fetchone() == ("cert_user",)


def test_tls_server_refuses_tls_user_without_tls(database_tls: Database) -> None:
    with pytest.raises(psycopg.OperationalError, match="rejects"), database_tls.connect("tls_user", sslmode="disable"):
        pass


@pytest.mark.parametrize("user", ["app", "md5_user", "clear_user", "trust_user"])
def test_newest_server_refuses_wrong_passwords(postgres: PostgresServer, user: str) -> None:
    if not PASSWORDS[user]:
        with postgres.connect(user=user, password="whatever") as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        return
    with pytest.raises(psycopg.OperationalError, match="password"), postgres.connect(user=user, password="wrong"):
        pass


@pytest.mark.parametrize("name", ["psql", "pg_dump", "pg_restore", "pgbench"])
def test_client_programs_with_tls_are_there(name: str) -> None:
    done = subprocess.run(
        [find_program(name, needs_tls=True), "--version"], capture_output=True, text=True, timeout=20, check=True
    )
    assert "PostgreSQL" in done.stdout


@pytest.mark.parametrize("is_listening", [True, False])
def test_docker_that_hangs_or_is_not_there_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_listening: bool
) -> None:
    monkeypatch.setattr("support.servers.DOCKER_PROBE_TIMEOUT_S", 0.2)
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as silent:
        if is_listening:
            silent.bind(str(path))
            silent.listen()
        assert not is_docker_answering()
