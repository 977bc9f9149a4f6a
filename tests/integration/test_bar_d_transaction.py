"""SECURITY_BAR D13 and B6: the transaction state in outcomes is the server's, and events name the role in force."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from support import pg_bytes as pg
from support.bar import wait_for_session_ends
from support.conversations import conversation
from support.figures import record, scaled
from support.proxy import Proxy
from support.raw_client import errors, logged_in
from support.servers import Database

STATES = {b"I": "idle", b"T": "open", b"E": "failed"}


def states(messages: list[tuple[str, bytes]]) -> list[str]:
    """What each ReadyForQuery said."""
    return [STATES[body] for kind, body in messages if kind == "Z"]


def of_type(proxy: Proxy, vault: Database, *types: str) -> list[dict[str, Any]]:
    return [each for each in proxy.records(*types) if each.get("database") == vault.name]


QUERIES = (
    "select 1", "begin", "select 2", "savepoint a", "select 1/0", "select 3", "rollback to a", "commit", "begin",
    "selct", "rollback", "begin; select 1", "commit; select 1", "commit", "", ";", "select 1; select 1/0",
    "begin; select 1/0; commit", "rollback", "copy notes to stdout", "begin read only", "insert into notes values (1, 'x')",
    "end", "start transaction", "prepare transaction 'd13'", "rollback prepared 'd13'", "select * from secrets", "begin",
    "select * from secrets", "rollback",
)  # fmt: skip


def test_outcome_of_a_query_says_what_ready_for_query_said(open_proxy: Proxy, vault: Database) -> None:
    seen = []
    with logged_in(open_proxy.address(database=vault.name)) as client:
        for text in QUERIES:
            messages = client.query(text)
            if "42501" not in errors(messages):  # a refused one has no outcome
                seen += states(messages)
        client.send(pg.terminate())
        client.to_the_end()
    wait_for_session_ends(open_proxy, 1, database=vault.name)
    ran = of_type(open_proxy, vault, "statement.outcome")
    assert len(ran) == len(seen) > 20
    assert [each.get("transaction") for each in ran] == seen


def test_last_outcome_of_a_group_says_it_where_it_is_known(open_proxy: Proxy, vault: Database) -> None:
    """Parse, Bind, Execute, Sync in one write: the server answers in one chunk."""
    seen = []
    texts = ("select 1", "begin", "select 2", "select 1/0", "rollback", "select 3")
    with logged_in(open_proxy.address(database=vault.name)) as client:
        for text in texts:
            seen += states(client.run(pg.parse("", text), pg.bind(), pg.execute(), pg.sync()))
        client.send(pg.terminate())
        client.to_the_end()
    wait_for_session_ends(open_proxy, 1, database=vault.name)
    outcomes = of_type(open_proxy, vault, "statement.outcome")
    assert len(outcomes) == len(texts)
    # Answers of 100 bytes come whole on loopback, but for an error: the server sends it before it reads the Sync.
    silent = [text for text, each in zip(texts, outcomes, strict=True) if "transaction" not in each]
    assert silent in ([], ["select 1/0"])
    assert [each.get("transaction", state) for each, state in zip(outcomes, seen, strict=True)] == seen


def test_statements_judged_behind_unanswered_ones_do_not_guess(open_proxy: Proxy, vault: Database) -> None:
    with logged_in(open_proxy.address(database=vault.name)) as client:
        client.send(pg.query("begin"), pg.query("select 1/0"), pg.query("select 2"), pg.query("rollback"))
        seen = states(client.ready(4))
    wait_for_session_ends(open_proxy, 1, database=vault.name)
    assert seen == ["open", "failed", "failed", "idle"]
    assert [each.get("transaction") for each in of_type(open_proxy, vault, "statement.outcome")] == seen


@pytest.mark.timeout(3600)
def test_no_event_contradicts_the_server(strict_proxy: Proxy, vault: Database) -> None:
    """D13 over conversations as D1's: every state in the audit is the one that the server reported at that point."""
    sessions = scaled(6, 100)
    wrong = told = 0
    for seed in range(sessions):
        frames = conversation(Random(seed), seed * 10_000 + 1000)
        with logged_in(strict_proxy.address(database=vault.name), timeout_s=60) as client:
            reported = ["idle"]
            for frame in frames:  # one at a time and answered, so that every state is known
                syncs = sum(kind in "QS" for kind, _ in pg.split(frame))
                client.send(frame, b"" if syncs else pg.sync())
                reported += states(client.ready(max(syncs, 1)))
            pid = client.process_id
            client.send(pg.terminate())
            client.to_the_end()
        end = strict_proxy.wait_for_record(
            lambda each, pid=pid: (
                each["type"] == "session.end" and (each["database"], each["server_pid"]) == (vault.name, pid)
            )
        )
        events = [each for each in strict_proxy.records("statement.outcome") if each["session"] == end["session"]]
        outcomes = [each["transaction"] for each in events if "transaction" in each]
        told += len(outcomes)
        # Reported states without their neighbours of the same value hold the told ones, in order.
        at = iter(reported)
        wrong += sum(not any(state == other for other in at) for state in outcomes)
    assert told > sessions * 20
    record("D13", "transaction states in the audit that the server did not report", count=told, failures=wrong)


# ------------------------------------------------------------------------------------------------- B6: the role


def test_events_name_the_role_in_force(open_proxy: Proxy, vault: Database) -> None:
    """`server_user` stays who logged in; `role` is who the server takes the session for."""
    vault.server.execute("create role d13_other", "grant d13_other to app")
    try:
        steps = (
            ("select 'before'", None),
            ("set role d13_other", None),
            ("select 'as other'", "d13_other"),
            ("reset role", "d13_other"),
            ("select 'back'", None),
            ("begin", None),
            ("set local role d13_other", None),
            ("select 'locally other'", "d13_other"),
            ("rollback", "d13_other"),
            ("select 'rolled back'", None),
            ("select set_config('role', 'd13_other', false)", None),
            ("select 'by a function'", "d13_other"),
            ("set session authorization default", "d13_other"),
            ("select 'authorized'", None),
        )
        with logged_in(open_proxy.address(database=vault.name)) as client:
            for text, _ in steps:
                assert not errors(client.query(text)), text
        intents = {each["sql"]: each for each in of_type(open_proxy, vault, "statement.intent")}
        assert {each["server_user"] for each in intents.values()} == {"app"}
        # "app" or no member at all while the account's own role is in force
        seen = [(text, intents[text].get("role")) for text, _ in steps]
        assert [(text, None if role == "app" else role) for text, role in seen] == list(steps)
    finally:
        vault.execute("drop owned by d13_other")
        vault.server.execute("drop role d13_other")


def test_role_that_cannot_be_known_is_null_and_not_the_old_one(open_proxy: Proxy, vault: Database) -> None:
    """Behind an unanswered SET ROLE nobody knows whether it worked."""
    with logged_in(open_proxy.address(database=vault.name)) as client:
        client.send(pg.query("set role app"), pg.query("select 'pipelined'"))
        client.ready(2)
    [event] = [each for each in of_type(open_proxy, vault, "statement.intent") if each["sql"] == "select 'pipelined'"]
    assert "role" in event
    assert event["role"] is None
