"""SECURITY_BAR A10: mutated conversations, both directions. Seeds are the loop numbers, so each input can be had again.

In this process the relay and the login generators; against the running proxy whole conversations with a real server,
whose log says whether anything ran that has no record.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from support import pg_bytes as pg
from support.bar import POLICY, statements_of_clients
from support.figures import record, scaled
from support.login_driver import LoginDriver
from support.mutations import mutated
from support.pg_model import Backend
from support.pg_pipelines import random_pipeline, refuses
from support.proxy import Proxy
from support.raw_client import RawClient, logged_in
from support.recorder import refuse
from support.relays import Pair
from support.servers import Database

from protocol.contract import FORWARD, Side, Statement, Verdict
from protocol.errors import ProtocolError
from protocol.login import (
    Authenticate,
    Cancel,
    Identify,
    IssuedKey,
    LoginRefused,
    OpenServer,
    ServerAccess,
    ServerReady,
    UsePassword,
)
from protocol.postgres.login import LoginOptions, login

HANG_S = 1.0


def answer(statement: Statement) -> Verdict | None:
    text = statement.text or b""
    return refuse() if b"!" in text else None if b"?" in text else FORWARD


def conversation(seed: int) -> list[tuple[Side, bytes]]:
    """Messages of both peers in the order of a real run, by the model of the server."""
    server = Backend(decide=refuses)
    turns: list[tuple[Side, bytes]] = []
    for frame in random_pipeline(Random(seed), 12):
        turns.append((Side.CLIENT, frame))
        server.receive(frame)
        turns += [(Side.SERVER, pg.frame(kind, body)) for kind, body in pg.split(server.take())]
    return turns


@pytest.mark.timeout(7200)
def test_relay_survives_mutated_conversations() -> None:
    target = scaled(4_000, 100_000)
    count = seed = 0
    failures: list[str] = []
    slowest = 0.0
    while count < target:
        seed += 1
        rng = Random(seed)
        turns = conversation(seed)
        for at in rng.sample(range(len(turns)), min(len(turns), rng.choice((1, 2, 4)))):
            side, frame = turns[at]
            turns[at] = (side if rng.random() < 0.9 else Side(1 - side), mutated(rng, frame))
            count += 1
        pair = Pair(answer, max_statement_bytes=1 << 16, max_message_bytes=1 << 17, held_max_bytes=1 << 16)
        started = time.perf_counter()
        try:
            for number, (side, data) in enumerate(turns):
                (pair.relay.from_client if side is Side.CLIENT else pair.relay.from_server)(data)
                if number % 3 == 0 and pair.host.open:
                    pair.relay.resolve(max(pair.host.open), FORWARD if number % 2 else refuse())
            pair.relay.closed(Side.CLIENT)
        except Exception as fault:
            failures.append(f"seed {seed}: {fault!r}")
        if pair.host.open or pair.host.faults:
            failures.append(f"seed {seed}: {pair.host.faults}, open: {len(pair.host.open)}")
        slowest = max(slowest, time.perf_counter() - started)
    hangs = int(slowest > HANG_S)
    record(
        "A10.relay",
        "mutated frames into the relay with a crash, a hang or a lost outcome",
        count=count,
        failures=len(failures) + hangs,
        seeds=seed,
        first=failures[:3],
        slowest_ms=round(slowest * 1e3, 1),
    )


class Granted:
    person, server_user, database = "alice", "app", "shop"


METHODS = frozenset({"password", "md5", "scram-sha-256", "trust"})
ANSWERS: dict[type, Any] = {
    Identify: UsePassword(),
    Authenticate: Granted(),
    OpenServer: ServerAccess("app", "shop", "disable", METHODS, 100_000, b"pw"),
    ServerReady: lambda step: IssuedKey(bytes(step.secret_size), "You are watched."),
    Cancel: None,
}


def login_conversation(rng: Random) -> tuple[bytes, bytes]:
    """(what the client sends, what the server sends): each a good login by the manual, but for the proofs."""
    client = rng.choice((b"", pg.gssenc_request())) + pg.ssl_request()
    parameters = {"user": "alice", "database": "shop", "options": "-c work_mem=1MB", "application_name": "x"}
    client += pg.startup(parameters, minor=rng.choice((0, 2))) + pg.password("secret")
    server = rng.choice(
        (
            b"",
            pg.authentication_md5(b"salt"),
            pg.authentication_cleartext(),
            pg.authentication_sasl(["SCRAM-SHA-256"]) + pg.authentication_sasl_continue(b"r=abc,s=c2FsdA==,i=4096"),
        )
    )
    server += pg.authentication_ok() + pg.parameter_status("server_version", "18.0") + pg.notice()
    return client, server + pg.backend_key_data(1, b"1234") + pg.ready()


@pytest.mark.timeout(7200)
def test_login_generators_survive_mutated_logins() -> None:
    """Whatever comes, a login ends in order: refused, a protocol error, the peer left, or Ready."""
    count = scaled(4_000, 100_000)
    failures: list[str] = []
    largest = admitted = 0
    for seed in range(count):
        rng = Random(seed)
        client, server = login_conversation(rng)
        if rng.random() < 0.6:
            client = mutated(rng, client)
        else:
            server = mutated(rng, server)
        driver = LoginDriver(client, server, ANSWERS)
        options = LoginOptions(lambda size: bytes(size), tls="allow")
        try:
            driver.run(login(options, lambda _: Pair().relay))
            admitted += 1
        except (ProtocolError, LoginRefused, ConnectionError):
            pass
        except Exception as fault:
            failures.append(f"seed {seed}: {fault!r}")
        largest = max(largest, driver.largest_read)
    assert 0 < admitted < count
    record(
        "A10.login",
        "mutated logins with a crash",
        count=count,
        failures=len(failures),
        first=failures[:3],
        admitted=admitted,
        largest_read=largest,
    )


def real_frames(rng: Random, serial: int) -> list[bytes]:
    return [
        pg.query(f"select {serial}"),
        pg.parse("s", f"select id from notes where id > {serial}")
        + pg.bind("p", "s")
        + pg.describe("P", "p")
        + pg.execute("p", 1),
        pg.sync(),
        pg.query("select * from secrets"),
        pg.query("copy notes from stdin") + pg.copy_data(f"{serial}\tcopied\n") + pg.copy_done(),
        pg.parse("", f"insert into notes values ({serial}, 'x')") + pg.bind() + pg.execute() + pg.sync(),
        pg.close("S", "s") + pg.flush() + pg.sync(),
        pg.function_call(1, [b"x"]),
        pg.query(f"delete from secrets where id = {serial}"),
    ]


@pytest.mark.timeout(7200)
def test_running_proxy_survives_mutated_clients_and_records_all_that_ran(
    make_proxy: Callable[..., Proxy], vault: Database
) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {
            "max_sessions_per_address": 500,
            "max_sessions_per_user": 500,
            "max_statement_bytes": 1 << 16,
        }
        settings["timeouts"] = {"partial_message_s": 5, "login_s": 5}

    proxy = make_proxy(policy=POLICY, database=vault.name, change=change)
    mark = vault.server.log.mark()
    target = scaled(400, 20_000)
    with logged_in(proxy.address()) as other:
        other.query("select 1")
        before = proxy.memory_kib()
        count = seed = 0
        slowest = 0.0
        while count < target:
            seed += 1
            rng = Random(seed)
            client = RawClient.open(proxy.host, proxy.port, 10)
            with contextlib.suppress(OSError):
                client.login(proxy.address())
                frames = [frame for number in range(4) for frame in real_frames(rng, seed * 10 + number)]
                for at in rng.sample(range(len(frames)), 4):
                    frames[at] = mutated(rng, frames[at])
                    count += 1
                client.send(*frames)
                client.stream.settimeout(0.1)
                client.to_the_end()
            client.close()
            started = time.perf_counter()
            assert [kind for kind, _ in other.query("select 1")] == ["T", "D", "C", "Z"]
            slowest = max(slowest, time.perf_counter() - started)
        # Every session ends, because every client has left.
        deadline = time.monotonic() + 60
        while len(proxy.records("session.start")) - len(proxy.records("session.end")) > 1:
            assert time.monotonic() < deadline, "sessions of clients that left do not end"
            time.sleep(0.2)
        grown = proxy.memory_kib() - before
    judged = {
        each["sql"].encode("utf-8", "surrogateescape") for each in proxy.records("statement.intent") if "sql" in each
    }
    judged |= {each.get("sql", "").encode() for each in proxy.records("statement.prepared")}
    ran = [each.sql for each in vault.server.log.statements(mark, database=vault.name) if each.how != "fastpath"]
    ran = [sql for sql in ran if not sql.startswith('SELECT "dbproxy refused ')]
    unrecorded = [
        sql for sql in ran if sql.encode("utf-8", "replace") not in judged and sql.isascii() and sql.isprintable()
    ]
    assert len(ran) > count / 3
    assert not [sql for sql in statements_of_clients(vault, mark) if "from secrets" in sql]
    assert vault.fetch("select count(*) from secrets") == [(20,)]
    record(
        "A10.proxy",
        "mutated frames after which the proxy was gone, hung, or the server ran what has no record",
        count=count,
        failures=len(unrecorded) + (slowest > 10) + (grown > 64 * 1024),
        sessions=seed,
        ran=len(ran),
        slowest_other_query_ms=round(slowest * 1e3, 1),
        rss_growth_kib=grown,
        first=unrecorded[:3],
    )
