"""SECURITY_BAR F1-F3, F5, F8 on a real MariaDB, as test_bar_f_rewrites.py: what a rule forbids is not done, in however many ways it is said."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT
from support.evasions_mariadb import (
    ACCOUNTS,
    LOGGING,
    LOGS,
    POLICY,
    PRIVILEGE,
    RULES,
    SESSION_STATE,
    STATE,
    TABLES,
    evasions,
)
from support.evasions_postgres import CANARY, CODE_RULE, Evasion
from support.figures import record, scaled
from support.my_proxy import MySQLProxy, running_mysql_proxy
from support.my_servers import MySQLServer, running_mariadb

CANARIES = (CANARY, CANARY.encode().hex())


@dataclass
class Arena:
    """A server of its own, whose account `app` may do everything, and the proxies in front of it.

    no_code: with the rule against stored code besides. root: a connection for questions.
    """

    server: MySQLServer
    proxy: MySQLProxy
    no_code: MySQLProxy
    folder: Path
    root: Any

    @property
    def made(self) -> Path:
        return self.folder / "made"

    def reset(self, *texts: str) -> str:
        """Make the tables anew, and what the texts make; returns the state."""
        with self.root.cursor() as cursor:
            cursor.execute("show databases")
            for (name,) in cursor.fetchall():
                if name.startswith("d") and name[1:].isdigit():
                    cursor.execute(f"drop database {name}")
            for text in (*TABLES, *texts):
                cursor.execute(text)
        return self.state()

    def state(self) -> str:
        """ "" if it cannot be told, which is a change as well."""
        found = []
        with self.root.cursor() as cursor:
            for text in STATE:
                try:
                    cursor.execute(text)
                except pymysql.err.Error:
                    return ""
                found.append(cursor.fetchall())
        return repr(found)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("files")
    for each in (folder, *folder.parents):
        if each.stat().st_mode & 0o5 != 0o5 and each.owner() == folder.owner() and each != Path("/tmp"):
            each.chmod(0o755)  # the server runs as another account
    folder.chmod(0o777)
    (folder / "canary").write_text(f"{CANARY}-file\n")
    (folder / "canary").chmod(0o644)
    with running_mariadb(tmp_path_factory.mktemp("tls")) as server:
        for host in ("%", "localhost"):
            server.execute(f"grant all on *.* to app@'{host}' with grant option")
        server.execute("create database if not exists test")
        with (
            running_mysql_proxy(tmp_path_factory.mktemp("proxy"), server, policy=POLICY) as proxy,
            running_mysql_proxy(tmp_path_factory.mktemp("code"), server, policy=POLICY + CODE_RULE) as no_code,
            contextlib.closing(server.connect()) as root,
        ):
            yield Arena(server, proxy, no_code, folder, root)


def send(connection: Any, evasion: Evasion) -> str:
    """Everything that came back, errors too."""
    answers: list[str] = []
    for text in evasion.messages:
        try:
            with connection.cursor() as cursor:
                cursor.execute(text)
                answers.append(repr(cursor.fetchall()))
                while cursor.nextset():
                    answers.append(repr(cursor.fetchall()))
        except pymysql.err.Error as error:
            answers.append(repr(error.args))
            if error.args and error.args[0] in (0, 2006, 2013):
                break
    return " ".join(answers)


def harm(arena: Arena, evasion: Evasion, connection: Any, before: tuple[str, Sequence[Any]]) -> str:
    """What came of it; "" if nothing."""
    answers = send(connection, evasion)
    done = [f"returned {canary}" for canary in CANARIES if canary in answers.lower()]
    session: Sequence[Any] = before[1]
    with contextlib.suppress(pymysql.err.Error):
        session = ask_session(connection)
    if arena.state() != before[0]:
        done.append("changed the server")
    if session != before[1]:
        done.append("changed the session")
    with contextlib.suppress(FileNotFoundError):
        arena.made.unlink()
        done.append("made a file")
    return ", ".join(done)


def ask_session(connection: Any) -> Sequence[Any]:
    with connection.cursor() as cursor:
        cursor.execute(SESSION_STATE)
        found: Sequence[Any] = cursor.fetchall()
        return found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rule", RULES)
def test_no_rewrite_of_what_is_forbidden_is_executed(arena: Arena, rule: str) -> None:
    wanted = scaled(5, 320)
    options = {"client_flag": CLIENT.MULTI_STATEMENTS, "database": "test"}
    more = {PRIVILEGE: ACCOUNTS, LOGGING: LOGS}.get(rule, ())
    state = arena.reset(*ACCOUNTS, *LOGS)
    assert state
    with arena.proxy.connect(database="test") as connection:
        before = state, ask_session(connection)
    tried = potent = 0
    ran, forms = [], set()
    for evasion in evasions(rule, 4, str(arena.made), str(arena.folder / "canary")):
        tried += 1
        assert tried < wanted * 8 + 20, "hardly any rewrite does anything: the templates are wrong"
        with contextlib.closing(arena.server.connect(user="app", **options)) as direct:
            is_potent = bool(harm(arena, evasion, direct, before))
        if not is_potent:
            continue
        before = arena.reset(*more), before[1]
        potent += 1
        forms.add(evasion.name)
        proxy = arena.no_code if evasion.is_trigger else arena.proxy
        with proxy.connect(**options) as connection:
            did = harm(arena, evasion, connection, before)
        if did:
            ran.append([did, *evasion.messages])
            before = arena.reset(*more), before[1]
        if potent == wanted:
            break
    record(
        f"F1.mariadb.{rule.replace(' ', '_')}",
        f"ways around a rule ({rule}) that a MariaDB behind the proxy executed",
        count=potent,
        failures=len(ran),
        tried=tried,
        forms=len(forms),
        ran=ran[:5],
    )
