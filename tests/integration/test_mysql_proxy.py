"""MySQL's protocol on real servers: everything passes under `observe`, what is refused is refused alone, and all of it is on record."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomysql
import pymysql
import pytest
from pymysql.constants import CLIENT
from support.my_proxy import MySQLProxy, running_mysql_proxy
from support.my_servers import MySQLServer
from support.proxy import PEOPLE_PASSWORDS
from support.requirements import find_mariadb

pytestmark = pytest.mark.integration
POLICY = """
version: 1
defaults: {action: allow, unsafe_on_unparsable: allow, unsafe_on_dynamic: allow}
rules:
  - name: no-drop
    match: {flag: [ddl_destructive, truncate]}
    action: block
    message: "Ask for a change window."
"""


@pytest.fixture(scope="module")
def observed(mysql_server: MySQLServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQLProxy]:
    mysql_server.execute("create database if not exists test")
    with running_mysql_proxy(tmp_path_factory.mktemp("observed"), mysql_server, change=_allow_local) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def strict(mysql_server: MySQLServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQLProxy]:
    mysql_server.execute("create database if not exists test")
    with running_mysql_proxy(tmp_path_factory.mktemp("strict"), mysql_server, policy=POLICY) as proxy:
        yield proxy


def _allow_local(settings: dict[str, Any]) -> None:
    settings["targets"][0]["allow_local_infile"] = True


def ask(connection: Any, text: str, *args: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(text, *args)
        return list(cursor.fetchall())


def test_a_query_goes_through_and_is_on_record(observed: MySQLProxy) -> None:
    with observed.connect() as connection:
        assert ask(connection, "select 1 + 1 as sum_of_ones") == [(2,)]
    records = [each for each in observed.proxy.records() if "sum_of_ones" in each.get("sql", "")]
    assert [each["type"] for each in records] == ["statement.intent"]
    number = records[0]["session"], records[0]["statement"]
    outcome = observed.proxy.wait_for_record(
        lambda each: each["type"] == "statement.outcome" and (each["session"], each["statement"]) == number
    )
    assert (outcome["status"], outcome["rows"], outcome["person"], outcome["server_user"]) == ("ok", 1, "alice", "app")
    assert outcome["tls"].startswith("TLSv1.")
    assert outcome["server_tls"].startswith("TLSv1.")
    assert outcome["server_pid"] > 0


def test_a_wrong_password_and_an_unknown_person_look_the_same(observed: MySQLProxy) -> None:
    said = []
    for user in ("alice", "nobody"):
        with pytest.raises(pymysql.err.OperationalError) as caught:
            pymysql.connect(
                **{**observed.address(), "user": user, "password": "wrong"}, ssl={"ca": str(observed.proxy.ca)}
            )
        said.append((caught.value.args[0], caught.value.args[1].replace(user, "?")))
    assert said[0] == said[1] == (1045, "Access denied for user '?' (using password: YES)")


def test_without_tls_the_password_goes_under_the_proxys_rsa_key(observed: MySQLProxy) -> None:
    with observed.connect("carol", ssl=None, ssl_disabled=True) as connection:
        assert ask(connection, "select 3") == [(3,)]


def test_many_statements_results_and_errors_in_one_session(observed: MySQLProxy) -> None:
    with observed.connect(database="test", client_flag=CLIENT.MULTI_STATEMENTS) as connection:
        ask(connection, "create or replace view test.v as select 1")
        with connection.cursor() as cursor:
            cursor.execute("select 1; select 2, 3; set @x = 5; select @x")
            found = [list(cursor.fetchall())]
            while cursor.nextset():
                found.append(list(cursor.fetchall()))
        assert found == [[(1,)], [(2, 3)], [], [(5,)]]
        with pytest.raises(pymysql.err.ProgrammingError):
            ask(connection, "selekt")
        assert ask(connection, "select 4") == [(4,)]


def test_big_values_and_results_pass_unchanged(observed: MySQLProxy) -> None:
    with observed.connect(database="test") as connection:
        size = 17_000_000
        assert len(ask(connection, f"select repeat('z', {size}), 1")[0][0]) == size
        for size in (16_777_210, 16_777_211, 16_777_212):
            assert len(ask(connection, f"select repeat('z', {size})")[0][0]) == size
        text = "x" * 15_000_000
        assert ask(connection, "select length(%s)", (text,)) == [(15_000_000,)]
        numbers = ask(
            connection, "with recursive n as (select 1 i union all select i + 1 from n where i < 1000) select i from n"
        )
        assert numbers == [(number,) for number in range(1, 1001)]


def test_the_session_settings_are_followed(observed: MySQLProxy) -> None:
    with observed.connect(database="test") as connection:
        ask(connection, "set sql_mode = 'ANSI_QUOTES'")
        ask(connection, 'create table if not exists "modes" (i int)')
        assert ask(connection, 'select count(*) from "modes"') == [(0,)]
        connection.select_db("information_schema")
        assert ask(connection, "select database()") == [("information_schema",)]
        ask(connection, "set names latin1")
        assert ask(connection, "select 1") == [(1,)]


def test_warnings_of_a_statement_can_be_seen_after_it(observed: MySQLProxy) -> None:
    with observed.connect(database="test") as connection:
        ask(connection, "drop table if exists never_there")
        assert connection.show_warnings()[0][1] == 1051
        ask(
            connection,
            "set @@sql_mode = 'NO_AUTO_CREATE_USER'" if "Maria" in observed.server.version else "set sql_mode = ''",
        )
        ask(connection, "select 1")


def test_local_files_are_sent_when_the_statement_names_them(observed: MySQLProxy, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("".join(f"{number},row {number}\n" for number in range(1000)))
    with observed.connect(database="test", local_infile=True) as connection:
        ask(connection, "drop table if exists loaded")
        ask(connection, "create table loaded (i int, t text)")
        ask(connection, f"load data local infile '{path}' into table loaded fields terminated by ','")
        assert ask(connection, "select count(*), max(i) from loaded") == [(1000, 999)]
    outcome = observed.proxy.wait_for_record(
        lambda each: each["type"] == "statement.outcome" and each["sent_bytes"] > 0
    )
    assert (outcome["sent_bytes"], outcome["rows"]) == (path.stat().st_size, 1000)


def test_local_files_stay_where_they_are_unless_allowed(strict: MySQLProxy, tmp_path: Path) -> None:
    path = tmp_path / "secret.csv"
    path.write_text("1,secret\n")
    with strict.connect(database="test", local_infile=True) as connection:
        ask(connection, "create table if not exists kept (i int, t text)")
        with pytest.raises(pymysql.err.MySQLError):
            ask(connection, f"load data local infile '{path}' into table kept fields terminated by ','")
        assert ask(connection, "select count(*) from kept") == [(0,)]


def test_a_refused_statement_is_an_error_and_the_session_goes_on(strict: MySQLProxy) -> None:
    with strict.connect(database="test", autocommit=False, client_flag=CLIENT.MULTI_STATEMENTS) as connection:
        ask(connection, "create table if not exists precious (i int)")
        ask(connection, "begin")
        ask(connection, "insert into precious values (1)")
        for text in ("drop table precious", "select 1; drop table precious; commit", "truncate precious"):
            with pytest.raises(pymysql.err.OperationalError) as caught:
                ask(connection, text)
            assert caught.value.args[0] == 1142
            assert 'dbproxy: blocked by rule "no-drop" (request ' in caught.value.args[1]
            assert "Ask for a change window." in caught.value.args[1]
        assert ask(connection, "select count(*) from precious") == [(1,)]
        connection.rollback()
        assert ask(connection, "select count(*) from precious") == [(0,)]
    thread = strict.proxy.records("statement.refused")[0]["server_pid"]
    asked = [text for kind, text in strict.server.log_of(thread) if kind in ("Query", "Execute")]
    assert not [text for text in asked if "drop" in text or "truncate" in text]


@pytest.mark.parametrize("attempt", range(4))  # the connection that kills comes to any of the workers
def test_the_interrupt_key_reaches_the_right_session(observed: MySQLProxy, attempt: int) -> None:
    """What the command-line client does on Ctrl+C: KILL QUERY with the id of the greeting, on another connection."""
    with observed.connect() as victim, observed.connect() as killer, observed.connect("bob") as stranger:
        ended: list[object] = []

        def run() -> None:
            try:
                ended.append(ask(victim, "select sleep(20)"))
            except pymysql.err.MySQLError as error:
                ended.append(error.args[0])

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.5)
        with pytest.raises(pymysql.err.MySQLError):
            ask(stranger, f"kill query {victim.thread_id()}")
        assert thread.is_alive()
        began = time.monotonic()
        ask(killer, f"kill query {victim.thread_id()}")
        thread.join(10)
        assert time.monotonic() - began < 5
        assert ended in ([1317], [[(1,)]])
        assert ask(victim, "select 7") == [(7,)]


def test_aiomysql_in_parallel(observed: MySQLProxy) -> None:
    context = ssl.create_default_context(cafile=str(observed.proxy.ca))

    async def main() -> int:
        address = observed.address(database="test")
        pool = await aiomysql.create_pool(
            host="localhost",
            port=address["port"],
            user="alice",
            password=PEOPLE_PASSWORDS["alice"],
            db="test",
            ssl=context,
            minsize=4,
            maxsize=4,
        )

        async def one(number: int) -> int:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                for step in range(25):
                    await cursor.execute("select %s, %s", (number, step))
                    assert await cursor.fetchone() == (number, step)
            return 25

        done = await asyncio.gather(*(one(number) for number in range(8)))
        pool.close()
        await pool.wait_closed()
        return sum(done)

    assert asyncio.run(main()) == 200


def run_client(proxy: MySQLProxy, program: str, *arguments: str, data: bytes = b"") -> str:
    path = find_mariadb(program)
    assert path is not None
    done = subprocess.run(
        [path, *proxy.arguments(), *arguments],
        input=data,
        capture_output=True,
        env={**os.environ, "MYSQL_PWD": PEOPLE_PASSWORDS["alice"]},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_command_line_client_works_with_completion_and_scripts(observed: MySQLProxy) -> None:
    script = b"create table if not exists script (i int, s varchar(9));\ninsert into script values (1, 'a'), (2, NULL);\nselect * from script limit 2;\n\\u test\nshow tables like 'script';\ndrop table script;\n"
    said = run_client(observed, "mariadb", "--auto-rehash", "test", data=script)
    assert said.splitlines() == ["i\ts", "1\ta", "2\tNULL", "Tables_in_test (script)", "script"]


def test_a_dump_is_the_same_directly_and_through_the_proxy(observed: MySQLProxy) -> None:
    if observed.server.protocol == "mysql":
        pytest.skip("MariaDB's dump program reads what MySQL 9 does not have")
    server = observed.server
    server.execute(
        "create table if not exists dumped (i int primary key, t text, b varchar(9), d datetime(6), n decimal(20, 6)) charset utf8mb4",
        "replace into dumped values (1, 'é', 'b', '2020-01-02 03:04:05.000006', 12.5), (2, null, null, null, null)",
        database="test",
    )
    through = run_client(observed, "mariadb-dump", "--skip-dump-date", "--single-transaction", "test", "dumped")
    program = find_mariadb("mariadb-dump")
    assert program is not None
    direct = subprocess.run(
        [
            program,
            "--no-defaults",
            "-hlocalhost",
            f"-P{server.port}",
            "--protocol=tcp",
            "-uroot",
            f"--ssl-ca={server.ca}",
            "--skip-dump-date",
            "--single-transaction",
            "test",
            "dumped",
        ],
        capture_output=True,
        env={**os.environ, "MYSQL_PWD": server.password},
        timeout=60,
        check=True,
    ).stdout.decode()
    assert through == direct
    assert run_client(observed, "mariadb", "test", data=through.encode()) == ""


def test_every_command_of_the_general_log_is_in_the_trail(observed: MySQLProxy) -> None:
    """The server's own log as the oracle: nothing that ran is missing, nothing is invented, in order."""
    with observed.connect("bob", database="test") as connection:
        ask(connection, "create table if not exists oracle (i int, t text)")
        for number in range(60):
            with contextlib.suppress(pymysql.err.MySQLError):
                match number % 6:
                    case 0:
                        ask(connection, "insert into oracle values (%s, %s)", (number, "'quoted'"))
                    case 1:
                        ask(connection, f"select * from oracle where i = {number}")
                    case 2:
                        ask(connection, "set @x = 1")
                    case 3:
                        ask(connection, f"broken statement {number}")
                    case 4:
                        ask(connection, "begin")
                    case 5:
                        ask(connection, "rollback")
        pid = ask(connection, "select connection_id()")[0][0]
    told = [each for each in observed.proxy.records("statement.intent") if each["server_pid"] == pid]
    ran = [
        text for kind, text in observed.server.log_of(pid) if kind == "Query" and "CAST(IFNULL(DATABASE()" not in text
    ]
    assert len(told) == len(ran) > 60
    assert [each["sql"] for each in told if not each["redacted"]] == [
        text for text, each in zip(ran, told, strict=True) if not each["redacted"]
    ]
