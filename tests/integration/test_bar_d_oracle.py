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
from support.figures import record, scaled
from support.proxy import Proxy
from support.raw_client import logged_in
from support.servers import Database

SYNC = pg.sync()
MESSAGES_PER_SESSION = 400
UNLOGGED = {
    "query": {"42601"},
    "execute": {"25P02", "22P02", "42P01", "26000", "34000", "08P01", "42703"},
    "resume": {"25P02", "34000"},
}
"""Codes by which these texts fail before the server writes them to its log: a Query once it is parsed, the rest at Execute."""


def texts(rng: Random, serial: int) -> str:
    """A text, often one that nobody sent before."""
    plain = (
        "select id from notes order by id limit 3",
        "select count(*) from notes",
        "select * from secrets",
        "select 1/(id - id) from notes",
        "begin",
        "commit",
        "rollback",
        "select * from no_such_table",
        "select 'a' || body from notes where id = 3",
    )
    if rng.random() < 0.6:
        return rng.choice(plain)
    return rng.choice(
        (
            f"select {serial} as n",
            f"insert into notes values ({serial}, 'row') returning id",
            f"update notes set body = 'v{serial}' where id = {serial % 40}",
            f"delete from notes where id = {serial}",
            f"delete from secrets where id = {serial}",
            f"select {serial}; select id from notes limit 1; select 2",
            f"select {serial}; select * from secrets",
        )
    )


def conversation(rng: Random, start: int) -> list[bytes]:
    """Messages of one session: simple, extended, pipelined, COPY both ways, errors."""
    frames: list[bytes] = []
    serial = start
    while sum(map(len, (pg.split(frame) for frame in frames))) < MESSAGES_PER_SESSION:
        serial += 1
        text = texts(rng, serial)
        match rng.randrange(8):
            case 0 | 1:
                frames.append(SYNC + pg.query(text))
            case 2 | 3:
                name = rng.choice(("", "", "a", "b"))
                close = pg.close("S", name) if name else b""
                frames.append(close + pg.parse(name, text) + pg.bind("", name) + pg.describe("P") + pg.execute())
            case 4:
                name = rng.choice("ab")
                frames.append(pg.bind("", name) + pg.execute("", rng.choice((0, 1))))
            case 5:
                frames.append(
                    pg.parse("", "select body from notes where id = $1::int")
                    + pg.bind("", "", [rng.choice((b"1", b"7", b"x", None))])
                    + pg.execute()
                )
            case 6:
                if rng.random() < 0.5:
                    frames.append(
                        SYNC + pg.query("copy notes from stdin") + pg.copy_data(f"{serial}\tcopied\n") + pg.copy_done()
                    )
                else:
                    frames.append(SYNC + pg.query("copy (select id from notes limit 4) to stdout"))
            case _:
                frames.append(SYNC)
    return [*frames, SYNC, pg.query("rollback"), pg.query("select 'the end'")]


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
