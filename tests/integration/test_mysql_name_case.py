"""lower_case_table_names: where the server ignores the case of names, so do rules; where it tells them apart, other spellings are other tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pymysql
import pytest
from support.my_proxy import running_mysql_proxy
from support.my_servers import MySQLServer, running_mariadb

pytestmark = pytest.mark.integration
POLICY = """
version: 1
defaults: {action: allow, on_unparsable: block, on_dynamic: block, on_error: block}
rules:
  - {name: no-secrets, match: {table: ["*.secrets"]}, action: block}
  - {name: no-vault, match: {table: ["test.vault"]}, action: block}
  - {name: no-quoted, match: {table: ['*."Quoted"']}, action: block}
"""
ONE_ONLY = """
version: 1
defaults: {action: block, on_unparsable: block, on_dynamic: block, on_error: block}
rules:
  - {name: one-table, match: {table: ["test.notes"]}, action: allow}
  - {name: settings, match: {kind: [session, metadata]}, action: allow}
"""


def is_refused(connection: Any, text: str) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute(text)
    except pymysql.err.MySQLError as error:
        return bool(error.args[0] == 1142)
    return False


def test_where_case_is_ignored_other_spellings_are_the_same_table(tmp_path: Path) -> None:
    with running_mariadb(tmp_path, "--lower-case-table-names=1") as server:
        server.execute("create database test")
        server.execute(
            *(f"create table {name} (i int)" for name in ("secrets", "vault", "quoted", "notes")), database="test"
        )
        with running_mysql_proxy(tmp_path / "proxy", server, workers=1, policy=POLICY) as proxy:
            with proxy.connect(database="TEST") as connection:
                for name in (
                    "secrets",
                    "SECRETS",
                    "Test.Secrets",
                    "`TEST`.`sEcReTs`",
                    "VAULT",
                    "TEST.vault",
                    "Vault",
                    "QUOTED",
                ):
                    assert is_refused(connection, f"select * from {name}"), name
                assert is_refused(connection, "insert into notes select * from Secrets")
                assert not is_refused(connection, "select * from NOTES")
            ran = server.fetch("select argument from mysql.general_log where user_host like 'app%'")
            texts = [text.decode() if isinstance(text, bytes) else text for (text,) in ran]
            assert "select * from NOTES" in texts
            assert not [text for text in texts if "ecret" in text.lower() or "vault" in text.lower()]
        with (
            running_mysql_proxy(tmp_path / "other", server, workers=1, policy=ONE_ONLY) as proxy,
            proxy.connect(database="test", autocommit=None, init_command=None) as connection,
        ):
            assert not is_refused(connection, "select * from notes")
            assert not is_refused(connection, "select * from TEST.Notes")
            assert is_refused(connection, "select * from secrets")


def test_where_case_counts_a_quoted_pattern_means_one_spelling(mariadb: MySQLServer, tmp_path: Path) -> None:
    mariadb.execute("create database if not exists test")
    names = ("secrets", "Secrets", "Quoted", "quoted", "notes", "Notes")
    mariadb.execute(*(f"create or replace table {name} (i int)" for name in names), database="test")
    with (
        running_mysql_proxy(tmp_path / "proxy", mariadb, workers=1, policy=POLICY) as proxy,
        proxy.connect(database="test") as connection,
    ):
        assert [name for name in names if is_refused(connection, f"select * from {name}")] == [
            "secrets",
            "Secrets",
            "Quoted",
        ]
    with (
        running_mysql_proxy(tmp_path / "other", mariadb, workers=1, policy=ONE_ONLY) as proxy,
        proxy.connect(database="test") as connection,
    ):
        assert not is_refused(connection, "select * from notes")
        assert is_refused(connection, "select * from Notes")
