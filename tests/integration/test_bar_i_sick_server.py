"""SECURITY_BAR I3: a database server that is ill in one way or another: its clients are told in time and clearly, all others notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from support import pg_bytes as pg
from support.bar import fake_server
from support.fake_postgres import Fault, Session, model_script
from support.figures import record, scaled
from support.processes import wait_until, whole_proxy
from support.proxy import Proxy
from support.raw_client import error_texts, errors, logged_in
from support.servers import Database, PostgresServer, fresh_database
from support.steady import Steady

LOGIN_S, CONNECT_S, STATEMENT_S = 5.0, 1.5, 2.0
SLACK_S = 5.0
"""What a busy machine may add to a time limit."""
CLIENTS = 6
"""Of each kind at once."""
ROUNDS = scaled(1, 30)

FULL = "test_bar_i_full"


async def trickle(session: Session, kind: str, body: bytes) -> None:
    """Answer a query with a row whose rest comes a byte a second, or not at all."""
    if kind == "Q" and b"trickle" in body:
        row = pg.data_row(["x" * 1000])
        await session.send(pg.row_description(), row[:50])
        for byte in row[50:]:
            await session.send(bytes([byte]))
            await asyncio.sleep(1)
    elif kind == "Q" and b"silence" in body:
        await asyncio.Event().wait()
    else:
        await model_script(session, kind, body)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, "test_bar_i_sick_server") as fresh:
        yield fresh


@pytest.fixture(scope="module")
def full(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, FULL) as fresh:
        fresh.execute(f'alter database "{fresh.name}" connection limit 0')
        yield fresh


@pytest.fixture(scope="module")
def sick(postgres: PostgresServer, full: Database) -> Iterator[dict[str, PostgresServer]]:
    """By what is wrong with it."""
    with (
        fake_server(postgres, fault=Fault.SILENT_AT_STARTUP) as (_, silent),
        fake_server(postgres, fault=Fault.TRICKLES_AT_STARTUP) as (_, slow),
        fake_server(postgres, script=trickle) as (_, trickling),
        socket.create_server(("127.0.0.1", 0), backlog=0) as deaf,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(3):  # the queue of `deaf` is full then: its kernel does not answer any more
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(deaf.getsockname())
        here = dataclasses.replace(postgres, host="127.0.0.1", ca=None, client=None)
        yield {
            "silent": silent,
            "slow": slow,
            "trickling": trickling,
            "deaf": dataclasses.replace(here, port=deaf.getsockname()[1]),
            "refusing": dataclasses.replace(here, port=_closed_port()),
            "unknown": dataclasses.replace(here, host=f"{'x' * 64}.test"),  # no label is so long: nobody is asked
            "full": here,
        }


@pytest.fixture(scope="module")
def proxy(
    postgres: PostgresServer,
    database: Database,
    sick: dict[str, PostgresServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    def change(settings: dict[str, Any]) -> None:
        settings["timeouts"] = {"login_s": LOGIN_S, "connect_s": CONNECT_S, "statement_s": STATEMENT_S}
        settings["limits"] = {"max_sessions_per_user": 500, "max_sessions_per_address": 500}
        listener, target = settings["listeners"][0], settings["targets"][0]
        for name, server in sick.items():
            settings["targets"].append(
                {
                    **target,
                    "name": name,
                    "host": server.host,
                    "port": server.port,
                    "accept_auth": ["trust", "scram-sha-256"],
                    "tls": {"mode": "disable"},
                }
            )
            address = f"127.0.0.1:{_closed_port()}"
            settings["listeners"].append({**listener, "name": name, "target": name, "address": address})

    with whole_proxy(tmp_path_factory.mktemp("sick"), postgres, database, change=change) as among_others:
        yield among_others


def _ports(proxy: Proxy) -> dict[str, int]:
    listeners = yaml.safe_load(proxy.settings_path.read_text())["listeners"]
    return {each["name"]: int(each["address"].rpartition(":")[2]) for each in listeners}


LOGINS = {
    "silent": ("08006", LOGIN_S, "did not answer in time"),
    "slow": ("08006", LOGIN_S, "did not answer in time"),
    "deaf": ("08006", CONNECT_S, "cannot be reached"),
    "refusing": ("08006", 0.0, "cannot be reached"),
    "unknown": ("08006", 0.0, "cannot be reached"),
    "full": ("53300", 0.0, "too many connections"),
}
"""What a login is told, after how long, and in what words."""
STATEMENTS = {"silence": "57014", "trickle": ""}
"""After a login that works: within a row the client can be told nothing."""


def _log_in(proxy: Proxy, kind: str) -> tuple[str, str, float]:
    """Code, words, and how long it took."""
    began = time.monotonic()
    address = {**proxy.address("alice", FULL if kind == "full" else None), "port": _ports(proxy)[kind]}
    try:
        with logged_in(address):
            return "", "", time.monotonic() - began
    except AssertionError as refused:
        told = str(refused)
    return ("53300" if "53300" in told else "08006" if "08006" in told else told), told, time.monotonic() - began


def _ask(proxy: Proxy, text: str) -> tuple[str, str, float]:
    with logged_in({**proxy.address(), "port": _ports(proxy)["trickling"]}) as client:
        client.query("select 1")
        client.send(pg.query(f"select '{text}'"))
        began = time.monotonic()
        told = client.to_the_end()
        return "".join(errors(told)), "".join(error_texts(told)), time.monotonic() - began


@pytest.mark.timeout(900)
def test_sick_server_is_reported_in_time_and_is_nobody_elses_business(proxy: Proxy) -> None:
    with Steady(proxy.address("bob"), per_login=50) as without:
        time.sleep(scaled(1, 60))
    kinds = [kind for _ in range(ROUNDS) for kind in LOGINS for _ in range(CLIENTS)]
    texts = [text for _ in range(ROUNDS) for text in STATEMENTS for _ in range(CLIENTS)]
    with (
        Steady(proxy.address("bob"), per_login=50) as others,
        ThreadPoolExecutor(CLIENTS * (len(LOGINS) + len(STATEMENTS))) as threads,
    ):
        logins = threads.map(lambda kind: _log_in(proxy, kind), kinds)
        answers = threads.map(lambda text: _ask(proxy, text), texts)
        wrong: list[tuple[Any, ...]] = []
        for kind, (code, words, took) in zip(kinds, logins, strict=True):
            expected, most_s, said = LOGINS[kind]
            if code != expected or said not in words or took > most_s + SLACK_S:
                wrong.append((kind, code, words, round(took, 2)))
        for text, (code, words, took) in zip(texts, answers, strict=True):
            if code != STATEMENTS[text] or not STATEMENT_S - 1 <= took <= STATEMENT_S + SLACK_S:
                wrong.append((text, code, words, round(took, 2)))
    assert not others.seen.failures
    failed = [each for each in proxy.records("login.failure") if each["target"] in LOGINS]
    assert {each["target"] for each in failed} == set(LOGINS)
    assert len(failed) >= len(kinds)
    wait_until(lambda: sum(each["why"] == "too_long" for each in proxy.records("session.end")) >= len(texts))
    record(
        "I3",
        "clients of sick servers not told in time and clearly, or statements of others that failed",
        count=len(kinds) + len(texts),
        failures=len(wrong),
        examples=wrong[:5],
        others_p99_ms=others.seen.p99_ms,
        others_p99_ms_without=without.seen.p99_ms,
        others_slowest_login_ms=others.seen.slowest_login_ms,
        others_statements=others.seen.statements,
    )
