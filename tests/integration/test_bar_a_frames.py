"""SECURITY_BAR A1 to A7: frames that are not what they say, sent to the running proxy. It closes, records and lives on.

Fuzzing is in test_bar_a_fuzz.py; the relay alone is tested in tests/protocol.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from support import pg_bytes as pg
from support.bar import POLICY, fake_server, statements_of_clients
from support.fake_postgres import Session
from support.figures import record, scaled
from support.lying_counts import is_whole, lying_body
from support.proxy import Proxy, running_proxy
from support.raw_client import RawClient, errors, logged_in
from support.servers import Database, PostgresServer

CLOSED_AFTER_S = 5  # a hang limit, not a measurement


def end_of(client: RawClient) -> float:
    """Seconds until the proxy has closed the connection."""
    started = time.perf_counter()
    client.stream.settimeout(CLOSED_AFTER_S)
    client.to_the_end()
    return time.perf_counter() - started


def quick(settings: dict[str, Any]) -> None:
    settings["timeouts"] = {"login_s": 4, "partial_message_s": 1}
    settings["limits"] = {"max_sessions_per_address": 2000, "max_sessions_per_user": 2000}


@pytest.fixture(scope="module")
def proxy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """With short timeouts, for all that need no other settings."""
    folder = tmp_path_factory.mktemp("frames")
    with running_proxy(folder, postgres, policy=POLICY, workers=1, change=quick) as proxy:
        yield proxy


STARTUP_LENGTHS = (0, 3, 4, 7, 8, 10_001, 2**31 - 1, 2**31, 2**32 - 1)


def test_startup_packets_of_impossible_length_are_closed_at_once(proxy: Proxy, vault: Database) -> None:
    """A1: nothing is allocated by a declared length, the server hears nothing, each is recorded."""
    recorded = len(proxy.records("connection.rejected"))
    mark = vault.server.log.mark()
    rounds = scaled(5, 100)
    before = proxy.memory_kib()
    slowest = 0.0
    for _ in range(rounds):
        for length in STARTUP_LENGTHS:
            client = RawClient.open(proxy.host, proxy.port)
            client.send(length.to_bytes(4, "big") + b"\0\3\0\0")
            slowest = max(slowest, end_of(client))
            client.close()
    grown = proxy.memory_kib() - before
    # The longest that PostgreSQL takes: refused for its contents, not for its length.
    client = RawClient.open(proxy.host, proxy.port)
    filler = 10_000 - len(pg.startup({"user": "alice", "x.y": ""}))
    client.send(pg.startup({"user": "alice", "x.y": "v" * filler}))
    assert client.until_kind("RE")[-1][0] == "R"
    client.close()
    rejected = [
        each
        for each in proxy.records("connection.rejected")[recorded:]
        if each["why"] == "protocol" and each["detail"] != "peer closed the connection"
    ]
    opened = [each for each in vault.server.log.records(mark) if "connection authorized: user=app" in each.text]
    count = rounds * len(STARTUP_LENGTHS)
    assert not opened
    assert grown < 16 * 1024
    record(
        "A1",
        "start-up packets of impossible length that were not closed and recorded",
        count=count,
        failures=abs(count - len(rejected)),
        slowest_close_ms=round(slowest * 1e3, 1),
        rss_growth_kib=grown,
    )


TYPED_LENGTHS = (0, 1, 2, 3, -1, -(2**31), 2**31 - 1, (64 << 20) + 1)


def test_messages_of_impossible_length_end_the_session(proxy: Proxy, vault: Database) -> None:
    """A2: every type that is looked at, before anything of that size is read or made room for."""
    kinds = "QPBDECSHFXcfp"
    address = proxy.address(database=vault.name)
    with logged_in(address) as client:
        client.query("select 1")
    before, spent = proxy.memory_kib(), proxy.cpu_s()
    survivors = []
    cases = [(kind, length) for kind in kinds for length in TYPED_LENGTHS]
    for kind, length in cases:
        with logged_in(address) as client:
            client.send(pg.frame(kind, b"", length=length) + pg.query("delete from notes"))
            with contextlib.suppress(TimeoutError):
                end_of(client)
                continue
            survivors.append((kind, length))
    grown, spent = proxy.memory_kib() - before, proxy.cpu_s() - spent
    assert vault.fetch("select count(*) from notes") == [(20,)]
    assert grown < 32 * 1024
    record(
        "A2",
        "messages of impossible length that did not end the session",
        count=len(cases),
        failures=len(survivors),
        which=survivors,
        rss_growth_kib=grown,
        cpu_ms_each=round(spent / len(cases) * 1e3, 2),
    )


def test_copy_data_of_declared_megabytes_makes_no_room_for_them(proxy: Proxy, vault: Database) -> None:
    """A2: bulk data is not bounded by a cap, so it must not be collected either; outside COPY it is dropped."""
    for is_copying in (True, False):
        with logged_in(proxy.address(database=vault.name)) as client:
            if is_copying:
                client.send(pg.query("copy notes from stdin"))
                client.until_kind("G")
            before = proxy.memory_kib()
            client.send(pg.frame("d", b"1\tx\n", length=200 << 20))
            for _ in range(32):
                client.send(b"2\tyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\n" * 8192)
            assert proxy.memory_kib() - before < 16 * 1024


def test_unfinished_message_ends_the_session_in_time(proxy: Proxy, vault: Database) -> None:
    """A3: one byte short, and the client waits."""
    whole = [
        pg.query("delete from notes"),
        pg.parse("", "delete from notes"),
        pg.bind(),
        pg.execute(),
        pg.sync(),
    ]
    late = []
    stranger = RawClient.open(proxy.host, proxy.port)
    stranger.send(pg.startup({"user": "alice"})[:-1])
    clients = [RawClient.open(proxy.host, proxy.port) for _ in whole]
    for client, frame in zip(clients, whole, strict=True):
        client.login(proxy.address(database=vault.name))
        client.send(frame[:-1])
    for client, frame in zip(clients, whole, strict=True):
        try:
            messages = client.to_the_end()
        except TimeoutError:
            late.append(frame)
        else:
            assert errors(messages) == ["08P01"]
        client.close()
    assert vault.fetch("select count(*) from notes") == [(20,)]
    stranger.to_the_end()  # or TimeoutError: login_s is over long before
    stranger.close()
    record("A3.short", "unfinished messages that did not end the session in time", count=len(whole), failures=len(late))


def test_extra_bytes_are_the_next_message_and_never_the_last_one(strict_proxy: Proxy, vault: Database) -> None:
    """A3: what stands behind the declared length is judged as a message of its own."""
    with logged_in(strict_proxy.address(database=vault.name)) as client:
        text = b"select 1"
        client.send(pg.frame("Q", text + b"\0" + pg.query("select * from secrets"), length=len(text) + 5))
        assert errors(client.ready(2)) == ["42501"]
        client.send(pg.frame("Q", text + b"\0 union select id from secrets\0", length=len(text) + 5))
        client.to_the_end()
    assert not [
        sql
        for sql in statements_of_clients(vault, 0)
        if "secrets" in sql and "create" not in sql and "insert" not in sql
    ]
    record("A3.extra", "extra bytes taken for a part of the message before them", count=2, failures=0)


NUL_CASES = [
    pg.frame("Q", b"select 1\0; delete from notes\0"),
    pg.frame("Q", b"delete from notes"),
    pg.frame("Q", b"delete from notes\0\0"),
    pg.frame("Q", b"delete from notes\0x"),
    pg.frame("Q", b"\0delete from notes\0"),
    pg.frame("Q", b""),
    pg.frame("P", b"\0delete from notes\0\0\0x"),
    pg.frame("P", b"\0delete from notes\0"),
    pg.frame("P", b"\0delete from notes"),
    pg.frame("P", b"s"),
    pg.frame("P", b"\0select 1\0\0\1"),
    pg.frame("B", b"\0"),
    pg.frame("B", b"\0\0"),
    pg.frame("E", b"\0"),
    pg.frame("E", b"\0\0\0\0\0\0"),
    pg.frame("D", b"X\0"),
    pg.frame("D", b"S"),
    pg.frame("C", b"Sname"),
    pg.frame("S", b"x"),
    pg.frame("H", b"x"),
    pg.frame("F", b"\0"),
]
BIND_CASES = [
    pg.frame("B", b"\0\0" + pg.int16(0) + pg.int16(1) + pg.int32(-2) + pg.int16(0)),
    pg.frame("B", b"\0\0" + pg.int16(0) + pg.int16(-1)),
    pg.frame("B", b"\0\0" + pg.int16(0) + pg.int16(-1) + pg.int32(-1) * 100 + pg.int16(0)),
    pg.frame("B", b"\0\0" + pg.int16(0) + pg.int16(2) + pg.int32(2**31 - 1) + b"x" + pg.int32(1) + pg.int16(0)),
    pg.frame("B", b"\0\0" + pg.int16(0) + pg.int16(1) + pg.int32(-(2**31)) + pg.int16(0)),
    pg.frame("B", b"\0\0" + pg.int16(-1) + pg.int16(0) + pg.int16(0)),
    pg.frame("B", b"\0\0" + pg.int16(2) + pg.int16(0) * 2 + pg.int16(1) + pg.int32(-1) + pg.int16(0)),
    pg.frame("B", b"\0\0" + pg.int16(1) + pg.int16(7) + pg.int16(1) + pg.int32(-1) + pg.int16(0)),
    pg.frame("B", b"\0\0" + pg.int16(0) + pg.int16(0) + pg.int16(-1)),
    pg.frame("F", pg.int32(1) + pg.int16(0) + pg.int16(1) + pg.int32(-2) + pg.int16(0)),
    pg.frame("F", pg.int32(1) + pg.int16(0) + pg.int16(-1) + pg.int16(0)),
]


def lying_frames(kinds: str, count: int) -> list[bytes]:
    """Frames of these kinds whose body is not what its counts and lengths say."""
    frames: list[bytes] = []
    for seed in itertools.count():
        kind = kinds[seed % len(kinds)]
        body = lying_body(Random(seed), kind)
        if not is_whole(kind, body):
            frames.append(pg.frame(kind, body))
        if len(frames) == count:
            break
    return frames


@pytest.mark.parametrize(
    ("bar_id", "cases"),
    [("A5", NUL_CASES), ("A6", BIND_CASES), ("A6.generated", lying_frames("BBFP", scaled(100, 2000)))],
    ids=["A5", "A6", "A6.generated"],
)
def test_bodies_that_disagree_with_themselves_are_not_forwarded(
    strict_proxy: Proxy, vault: Database, bar_id: str, cases: list[bytes]
) -> None:
    """A5, A6: the session ends with 08P01, the server sees nothing of it, the end is recorded."""
    mark = vault.server.log.mark()
    survivors = []
    for case in cases:
        with logged_in(strict_proxy.address(database=vault.name)) as client:
            client.send(case, pg.query("delete from notes"), pg.sync())
            try:
                codes = errors(client.to_the_end())
            except TimeoutError:
                codes = ["hang"]
            if codes != ["08P01"]:
                survivors.append((case, codes))
    assert statements_of_clients(vault, mark) == []
    assert vault.fetch("select count(*) from notes") == [(20,)]
    ends = [each for each in strict_proxy.records("session.end") if each["database"] == vault.name]
    assert {each["why"] for each in ends} == {"protocol"}
    record(
        bar_id,
        "malformed bodies that did not end the session unforwarded",
        count=len(cases),
        failures=len(survivors),
        which=survivors,
    )


def test_row_with_a_negative_field_length_ends_the_session(postgres: PostgresServer, tmp_path: Any) -> None:
    """A6, the other direction: a server that lies."""
    bodies = [
        pg.int16(1) + pg.int32(-2),
        pg.int16(2) + pg.int32(1) + b"x",
        pg.int16(1) + pg.int32(100) + b"x",
        pg.int16(1) + pg.int32(1) + b"xy",
        pg.int16(-1),
        b"",
        *(frame[5:] for frame in lying_frames("D", scaled(60, 1000))),
    ]
    turn = itertools.count()

    async def script(session: Session, kind: str, body: bytes) -> None:
        row = pg.frame("D", bodies[next(turn) % len(bodies)])
        await session.send(pg.row_description(), row, pg.command_complete("SELECT 1"), pg.ready())

    def trust(settings: dict[str, Any]) -> None:
        settings["targets"][0]["accept_auth"] = ["trust"]

    survivors = []
    with (
        fake_server(postgres, script=script, parameters=(("server_version", "18.0"), ("search_path", "public"))) as (
            _,
            server,
        ),
        running_proxy(tmp_path / "proxy", server, workers=1, change=trust) as proxy,
    ):
        for body in bodies:
            with logged_in(proxy.address()) as client:
                client.send(pg.query("select 1"))
                messages = client.to_the_end()
                if errors(messages) != ["08P01"] or "Z" in [kind for kind, _ in messages]:
                    survivors.append(body)
    record(
        "A6.rows",
        "rows that disagree with themselves that passed",
        count=len(bodies),
        failures=len(survivors),
        which=survivors,
    )


ANY_TIME = "QPBDECSHFXdcf"
ALLOWED_IN_COPY = "dcfSHX"
NO_WAIT = ""
INTO_STATE: dict[str, tuple[bytes, str]] = {
    "idle": (b"", NO_WAIT),
    "busy": (pg.query("select pg_sleep(0.01)"), NO_WAIT),
    "in a group": (pg.parse("", "select 1") + pg.flush(), "1"),
    "skipping until Sync": (pg.parse("", "selct 1") + pg.flush(), "E"),
    "skipping after a refusal": (pg.parse("", "select * from secrets") + pg.flush(), "E"),
    "suspended portal": (pg.parse("", "select id from notes") + pg.bind() + pg.execute("", 1) + pg.flush(), "s"),
    "COPY IN": (pg.query("copy notes from stdin"), "G"),
    "open transaction": (pg.query("begin"), "Z"),
    "failed transaction": (pg.query("begin; select * from no_such_table"), "Z"),
}
"""What to send to be in that state, and the kind of message that says it is reached."""


def test_every_type_byte_outside_the_list_of_its_state_ends_the_session(proxy: Proxy, vault: Database) -> None:
    """A7: in every state after login; nothing that stands behind it is run. While the password is asked for: B2."""
    address = proxy.address(database=vault.name)
    mark = vault.server.log.mark()
    cases = [
        (state, chr(kind))
        for state in INTO_STATE
        for kind in range(256)
        if chr(kind) not in (ALLOWED_IN_COPY if state == "COPY IN" else ANY_TIME)
    ]

    def survives(case: tuple[str, str]) -> bool:
        state, kind = case
        frames, answer = INTO_STATE[state]
        with logged_in(address) as client:
            client.send(frames)
            if answer != NO_WAIT:
                client.until_kind(answer)
            client.send(
                pg.frame(kind.encode("latin-1"), b"drop table notes\0"), pg.sync(), pg.query("delete from notes")
            )
            try:
                messages = client.to_the_end()
            except TimeoutError:
                messages = []
            return errors(messages)[-1:] != ["08P01"]

    with ThreadPoolExecutor(4) as threads:
        survivors = [case for case, is_alive in zip(cases, threads.map(survives, cases), strict=True) if is_alive]
    assert not [sql for sql in statements_of_clients(vault, mark) if "delete" in sql or "drop" in sql]
    assert vault.fetch("select count(*) from notes") == [(20,)]
    record(
        "A7",
        "messages not allowed in their state that did not end the session",
        count=len(cases),
        failures=len(survivors),
        which=survivors[:20],
    )


@pytest.mark.parametrize("is_secured", [False, True], ids=["in clear", "inside TLS"])
def test_every_type_byte_in_place_of_a_startup_packet_is_closed_unanswered(
    proxy: Proxy, vault: Database, is_secured: bool
) -> None:
    """A7: a typed message where there are none yet. Read as a length it is always too small or too large."""
    context = ssl.create_default_context(cafile=str(proxy.ca))
    mark = vault.server.log.mark()
    survivors = []
    kinds = range(256)
    for kind in kinds:
        with contextlib.closing(RawClient.open(proxy.host, proxy.port, CLOSED_AFTER_S)) as client:
            if is_secured:
                client.secure(context)
            client.send(pg.frame(bytes([kind]), b"delete from notes\0"), pg.query("delete from notes"))
            try:
                answer = b"".join(iter(lambda: client.stream.recv(100), b""))
            except ConnectionError:
                answer = b""  # closed with bytes of ours unread
            except TimeoutError:
                answer = b"hang"
            # A first byte of 0x16 is a TLS handshake: what comes back is TLS's alert.
            if answer and not (kind == 0x16 and answer[:1] == b"\x15"):
                survivors.append((kind, answer))
    opened = [each for each in vault.server.log.records(mark) if "connection authorized: user=app" in each.text]
    assert not opened
    record(
        f"A7.startup{'_in_tls' if is_secured else ''}",
        "typed messages before the start-up packet that were answered",
        count=len(kinds),
        failures=len(survivors),
        which=survivors[:20],
    )


def test_bytes_one_by_one_and_all_at_once_give_the_same_records(strict_proxy: Proxy, vault: Database) -> None:
    """A4: 1-byte writes, 200 frames in one write: equal replies, equal server log, equal audit."""
    frames = [
        frame
        for number in range(scaled(25, 600))
        for frame in (
            pg.query(f"select {number % 5}"),
            pg.parse("s", "select id from notes where id = $1")
            + pg.bind("", "s", [b"3"])
            + pg.describe("P")
            + pg.execute(),
            pg.close("S", "s") + pg.sync(),
            pg.query("select * from secrets"),
            pg.query("copy notes from stdin") + pg.copy_data("5\tcopied\n") + pg.copy_done(),
            pg.parse("", "select * from secrets") + pg.bind() + pg.execute() + pg.sync(),
            pg.query("select id from notes limit 2; select 1"),
            pg.query("select 1/0"),
        )
    ]
    data = b"".join(frames)
    readies = sum(kind in "QS" for kind, _ in pg.split(data))
    results = []
    for cut in (1, len(data), 13):
        mark = vault.server.log.mark()
        with logged_in(strict_proxy.address(database=vault.name), timeout_s=120) as client:
            client.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            messages = []
            for at in range(0, len(data), cut):
                client.send(data[at : at + cut])
            messages = client.ready(readies)
            client.send(pg.terminate())
            client.to_the_end()
            pid = client.process_id
        end = strict_proxy.wait_for_record(
            lambda each, pid=pid: (
                each["type"] == "session.end" and (each["database"], each["server_pid"]) == (vault.name, pid)
            )
        )
        audit = [
            [
                each.get(name)
                for name in (
                    "type",
                    "statement",
                    "sql",
                    "act",
                    "status",
                    "rows",
                    "received_bytes",
                    "action",
                    "tag",
                    "code",
                )
            ]
            for each in strict_proxy.records()
            if each.get("session") == end["session"] and each["type"].startswith("statement.")
        ]
        # Outcomes stand where the server's answers came in, so only the order within each kind is fixed.
        audit.sort(key=lambda fields: (fields[0], fields[1]))
        replies = [(kind, pg.fields_of(body)["C"].encode() if kind == "E" else body) for kind, body in messages]
        results.append((replies, statements_of_clients(vault, mark), audit))
    names = ("replies", "server log", "audit")
    different = [names[part] for other in results[1:] for part in range(3) if other[part] != results[0][part]]
    record(
        "A4",
        "runs cut differently that differ in replies, server log or audit",
        count=len(pg.split(data)) * 3,
        failures=len(different),
        which=different,
    )
