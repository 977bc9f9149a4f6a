"""SECURITY_BAR D1: what the audit says was executed is what the server's own log says it began to run, in order, per session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher
from random import Random
from typing import Any

import pytest
from support import pg_bytes as pg
from support.bar import POLICY, wait_for_session_ends
from support.conversations import conversation
from support.figures import record, scaled
from support.proxy import Proxy
from support.raw_client import logged_in
from support.servers import Database

UNLOGGED = {
    "query": {"42601"},
    "execute": {"25P02", "22P02", "42P01", "26000", "34000", "08P01", "42703"},
    "resume": {"25P02", "34000"},
}
"""Codes by which these texts fail before the server writes them to its log: a Query once it is parsed, the rest at Execute."""


def executed(records: list[dict[str, Any]]) -> list[str]:
    """The texts that by the records of one session the server began to run, in order."""
    outcomes = {each["statement"]: each for each in records if each["type"] == "statement.outcome"}
    found = []
    for each in records:
        if each["type"] != "statement.intent":
            continue
        outcome = outcomes[each["statement"]]
        has_run = outcome["status"] in ("ok", "suspended") or (
            outcome["status"] == "error" and outcome.get("code") not in UNLOGGED[each["act"]]
        )
        if has_run:
            found.append(each["sql"])
    return found


def differences(audited: list[str], logged: list[str]) -> tuple[int, int]:
    """(missing in the audit, invented by it), in order."""
    missing = invented = 0
    for tag, first, past, other, other_past in SequenceMatcher(None, audited, logged, autojunk=False).get_opcodes():
        if tag != "equal":
            invented += past - first
            missing += other_past - other
    return missing, invented


@pytest.mark.timeout(3600)
def test_audit_and_server_log_tell_the_same_story(make_proxy: Callable[..., Proxy], vault: Database) -> None:
    sessions = scaled(8, 260)
    proxy = make_proxy(policy=POLICY, database=vault.name)
    mark = vault.server.log.mark()
    messages = 0
    for seed in range(sessions):
        rng = Random(seed)
        frames = conversation(rng, seed * 10_000 + 1000)
        with logged_in(proxy.address(), timeout_s=60) as client:
            data = b"".join(frames)
            messages += len(pg.split(data))
            at = 0
            while at < len(data):
                size = rng.choice((1, 100, 2000, 20_000))
                client.send(data[at : at + size])
                at += size
            client.until(lambda message: message[0] == "D" and message[1].endswith(b"the end"))
            client.ready()
            client.send(pg.terminate())
            client.to_the_end()
    wait_for_session_ends(proxy, sessions)
    by_session: dict[str, list[dict[str, Any]]] = {}
    pids: dict[int, str] = {}
    for each in proxy.records():
        if "session" in each:
            by_session.setdefault(each["session"], []).append(each)
        if each["type"] == "session.start":
            pids[each["server_pid"]] = each["session"]
    logged: dict[str, list[str]] = {session: [] for session in pids.values()}
    for each in vault.server.log.statements(mark, database=vault.name):
        if not each.sql.startswith('SELECT "dbproxy refused ') and each.sql != "SHOW search_path":
            logged[pids[each.pid]].append(each.sql)
    missing = invented = 0
    first: list[Any] = []
    for session, lines in logged.items():
        here = differences(executed(by_session[session]), lines)
        missing, invented = missing + here[0], invented + here[1]
        if any(here) and not first:
            first = [session, here]
    shown = sum(map(len, logged.values()))
    refused = Counter(each["type"] for each in proxy.records())["statement.refused"]
    leaked = sum("secrets" in sql for lines in logged.values() for sql in lines)
    assert shown > messages / 20
    assert refused > messages / 100
    record(
        "D1",
        "statements in the server's log without a record, recorded but not run, or blocked and run",
        count=messages,
        failures=missing + invented + leaked,
        logged=shown,
        refused=refused,
        missing=missing,
        invented=invented,
        first=first,
    )
