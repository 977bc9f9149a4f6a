"""The lexer of MySQL and MariaDB against a real MariaDB: random texts, run there, give as many results, columns and values as tokens say."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
from pymysql.constants import CLIENT, COMMAND
from support.figures import record, scaled
from support.requirements import go_without

from classifiers.effects import LexingState
from classifiers.lexer_mysql import lex
from classifiers.statements_mysql import split_statements
from classifiers.tokens import STRING, Token, Unreadable

PIECES = [
    "'a'", "'b''c'", "'d\\'", "'", '"', '"e"', "`f`", "`", "\\", "\\'", "/*", "*/", "/*!", "/*!50000 ", "/*!50701 ", "/*!99999 ", "/*M!",
    "/*M!100000 ", "/*!100100", "-- ", "--", "--\t", "#", "\n", " ", ",", ",", ",1", ",2", "1.5", ".5", "0x41", "x'41'", "b'1'", "N'g'",
    "_utf8mb4", "'h' 'i'", ";", "select 1", "select 2,3", "@x", "+", "-", "*", "/", "1e1", "1.", "'\\n'", "'\\%'", "'\\Z'", " as z", "null",
    "\\N", "(", ")", "'中'", " é",
]  # fmt: skip
MODES = [
    ("", False, False),
    ("ANSI_QUOTES", True, False),
    ("NO_BACKSLASH_ESCAPES", False, True),
    ("ANSI_QUOTES,NO_BACKSLASH_ESCAPES", True, True),
]


def _program(name: str) -> str | None:
    return shutil.which(name) or next(
        (str(p / name) for p in (Path("/usr/sbin"), Path("/usr/libexec")) if (p / name).exists()), None
    )


@pytest.fixture(scope="module")
def socket_path() -> Iterator[str]:
    """A MariaDB that listens on a socket only."""
    server, install = _program("mariadbd"), _program("mariadb-install-db")
    if server is None or install is None:
        go_without("no MariaDB server: install Debian's package mariadb-server-core")
    account = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="dbproxy-mariadb-", dir="/tmp") as name:
        folder = Path(name)
        if account:
            shutil.chown(folder, account)
        options = ["--no-defaults", f"--datadir={folder}/data"]
        subprocess.run(
            [install, *options, "--auth-root-authentication-method=normal", "--skip-test-db"],
            user=account, cwd=folder, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        path = f"{folder}/socket"
        command = [
            server,
            *options,
            "--skip-networking",
            f"--socket={path}",
            f"--pid-file={folder}/pid",
            "--innodb-flush-log-at-trx-commit=0",
        ]
        with subprocess.Popen(
            command, user=account, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                _wait_for(path, process)
                yield path
            finally:
                process.terminate()
                process.wait(60)


def _wait_for(path: str, process: subprocess.Popen[bytes]) -> None:
    """pymysql leaves a socket open where it cannot connect, so a plain one knocks first."""
    deadline = time.monotonic() + 60
    while True:
        with socket.socket(socket.AF_UNIX) as knock:
            if knock.connect_ex(path) == 0:
                return
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Server:
    """One connection with its modes."""

    def __init__(self, path: str, mode: str, charset: str) -> None:
        self._arguments = {
            "unix_socket": path,
            "user": "root",
            "client_flag": CLIENT.MULTI_STATEMENTS,
            "charset": charset,
        }
        self._mode = mode
        self._connect()

    def _connect(self) -> None:
        self._connection = pymysql.connect(**self._arguments)
        self._connection.cursor().execute(f"SET SESSION sql_mode='{self._mode}'")

    @property
    def version(self) -> int:
        major, minor, patch = self._connection.get_server_info().split("-")[0].split(".")
        return int(major) * 10_000 + int(minor) * 100 + int(patch)

    def rows(self, text: bytes) -> list[tuple[object, ...]] | None:
        """The first row of every result; None if the server refuses any of the text."""
        connection, rows = self._connection, []
        try:
            connection._execute_command(COMMAND.COM_QUERY, text)
            connection._read_query_result()
            while True:
                if connection._result.rows:
                    rows.append(connection._result.rows[0])
                if not connection._result.has_next:
                    return rows
                connection._read_query_result()
        except pymysql.err.Error as error:
            if error.args and error.args[0] in (2006, 2013):
                self.close()
                self._connect()
            return None
        except UnicodeDecodeError:  # rows are left unread
            self.close()
            self._connect()
            return None

    def close(self) -> None:
        connection = self._connection
        if connection._rfile is not None:
            connection._rfile.close()
        connection._force_close()


def _columns(statement: list[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in statement[1:]:
        depth += (token.text == "(") - (token.text == ")")
        if token.text == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _agree(statements: list[list[Token]], rows: list[tuple[object, ...]]) -> bool:
    columns = [_columns(statement) for statement in statements]
    if [len(each) for each in columns] != [len(row) for row in rows]:
        return False
    for parts, row in zip(columns, rows, strict=True):
        for part, value in zip(parts, row, strict=True):
            is_text = len(part) == 1 and part[0].kind == STRING and not (part[0].value or "").startswith(("x'", "b'"))
            if is_text and isinstance(value, str) and "?" not in value and value != part[0].value:
                return False
    return True


@pytest.mark.timeout(1800)
def test_random_texts_mean_to_the_lexer_what_they_mean_to_the_server(socket_path: str) -> None:
    random_ = random.Random(20)
    accepted = refused = 0
    wrong: list[bytes] = []
    for mode, ansi_quotes, no_backslash_escapes in MODES:
        for charset in ("utf8mb4", "gbk"):
            server = Server(socket_path, mode, charset)
            state = LexingState(True, charset.upper(), ansi_quotes, no_backslash_escapes)
            for _ in range(scaled(400, 12_000)):
                text = "select 'q'," + "".join(random_.choice(PIECES) for _ in range(random_.randint(1, 8)))
                try:
                    data = text.encode("gbk" if charset == "gbk" else "utf-8")
                except UnicodeEncodeError:
                    continue
                if charset == "gbk" and random_.random() < 0.3:
                    data = data.replace(b"'a'", b"'\xbf\x5c'")
                rows = server.rows(data)
                if rows is None:
                    continue
                accepted += 1
                try:
                    statements = split_statements(lex(data, state, server.version).tokens)
                except Unreadable:
                    refused += 1
                    continue
                if not _agree(statements, rows):
                    wrong.append(data)
            server.close()
    assert accepted > 100
    assert refused < accepted / 10
    record(
        "F5.lexer.mariadb",
        "texts that the lexer reads otherwise than MariaDB",
        count=accepted,
        failures=len(wrong),
        refused=refused,
        wrong=[repr(w) for w in wrong[:5]],
    )
