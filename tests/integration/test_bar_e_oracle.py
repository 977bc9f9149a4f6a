"""SECURITY_BAR E1: what the audit says was executed is what MariaDB's general log says it was asked, in order, per session."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pymysql.constants import CLIENT
from support.bar import POLICY, wait_for_session_ends
from support.figures import record, scaled
from support.my_conversations import OWN_QUESTION, TABLES, Session, entry_of, tidy
from support.my_proxy import running_mysql_proxy
from support.my_raw import RawMySQL
from support.my_servers import MySQLServer

pytestmark = pytest.mark.integration
COMMANDS_PER_SESSION = 400
IGNORED = {"Connect", "Quit", "Ping", "Prepare", "Close stmt", "Reset stmt", "Long Data", "Fetch", "Reset connection"}
"""Entries that are no execution: nothing of a table is read or changed by them."""
Entry = tuple[str, str]


def logged(server: MySQLServer, threads: set[int]) -> dict[int, list[Entry]]:
    """What the server says it was asked, by thread, in order."""
    found: dict[int, list[Entry]] = {thread: [] for thread in threads}
    for thread, kind, text in server.fetch("select thread_id, command_type, argument from mysql.general_log"):
        shown = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else str(text)
        if int(thread) in threads and kind not in IGNORED and not shown.startswith(OWN_QUESTION):
            found[int(thread)].append((str(kind), tidy(shown)))
    return found


def differences(audited: list[Entry], seen: list[Entry]) -> tuple[int, int]:
    """(missing in the audit, invented by it), in order."""
    missing = invented = 0
    for tag, first, past, other, other_past in SequenceMatcher(None, audited, seen, autojunk=False).get_opcodes():
        if tag != "equal":
            invented += past - first
            missing += other_past - other
    return missing, invented


@pytest.mark.timeout(3600)
def test_audit_and_general_log_tell_the_same_story(mariadb: MySQLServer, tmp_path: Path) -> None:
    sessions = scaled(8, 260)
    mariadb.execute("create database if not exists test")
    mariadb.execute(*TABLES, database="test")
    long_values: dict[str, str] = {}
    commands = 0
    with running_mysql_proxy(tmp_path / "proxy", mariadb, policy=POLICY) as proxy:
        for seed in range(sessions):
            with proxy.connect(database="test", client_flag=CLIENT.MULTI_STATEMENTS) as connection:
                session = Session(RawMySQL(connection), Random(seed), (seed + 1) * 10_000)
                session.run(COMMANDS_PER_SESSION)
            commands += session.commands
            long_values |= session.long_values
        wait_for_session_ends(proxy.proxy, sessions)
        records = proxy.proxy.records()
    threads = {each["session"]: each["server_pid"] for each in records if each["type"] == "session.start"}
    ran: dict[int, list[Entry]] = {thread: [] for thread in threads.values()}
    for each in records:
        if each["type"] == "statement.intent" and (entry := entry_of(each, long_values)) is not None:
            ran[threads[each["session"]]].append((entry[0], tidy(entry[1])))
    log = logged(mariadb, set(threads.values()))
    missing = invented = 0
    first: list[Any] = []
    for thread, entries in log.items():
        here = differences(ran[thread], entries)
        missing, invented = missing + here[0], invented + here[1]
        if any(here) and not first:
            first = [[each for each in zip(ran[thread], entries, strict=False) if each[0] != each[1]][:2], here]
    shown = sum(map(len, log.values()))
    refused = sum(each["type"] == "statement.refused" for each in records)
    leaked = sum("secrets" in text or "truncate" in text for entries in log.values() for _, text in entries)
    kinds = {kind for entries in log.values() for kind, _ in entries}
    assert {"Query", "Execute", "Init DB", "Field List", "Statistics"} <= kinds
    assert shown > commands / 3
    assert refused > commands / 20
    record(
        "E1",
        "commands in the general log without a record, recorded but not asked, or blocked and asked",
        count=commands,
        failures=missing + invented + leaked,
        logged=shown,
        refused=refused,
        missing=missing,
        invented=invented,
        first=first,
    )
