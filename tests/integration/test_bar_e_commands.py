"""SECURITY_BAR E3-E10, E13 on a real server: commands that hide behind others, and what the server's general log says of them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT
from support import my_bytes as my
from support.bar import POLICY, reload_policy
from support.figures import record, scaled
from support.my_proxy import MySQLProxy, running_mysql_proxy
from support.my_raw import RawMySQL, login
from support.my_relays import client, converse, server
from support.my_servers import MySQLServer
from support.proxy import PEOPLE_PASSWORDS
from support.recorder import Closed

pytestmark = pytest.mark.integration
TABLES = (
    "create or replace table secrets (id int, value text)",
    "create or replace table notes (id int primary key, body text)",
    *(f"insert into secrets values ({number}, 'classified-{number}')" for number in range(5)),
    *(f"insert into notes values ({number}, 'note {number}')" for number in range(20)),
)
BLOCKED, UNSUPPORTED, BROKEN, UNKNOWN_STATEMENT = 1142, 1235, 1835, 1243
PROXYS = "SELECT CAST(IFNULL(DATABASE()"


@pytest.fixture(scope="module")
def guarded(mariadb: MySQLServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQLProxy]:
    """In front of MariaDB, whose own commands (bulk execution, id -1) are among what is tried."""
    mariadb.execute("create database if not exists test")
    mariadb.execute(*TABLES, database="test")
    with running_mysql_proxy(tmp_path_factory.mktemp("guarded"), mariadb, policy=POLICY) as proxy:
        yield proxy


@contextlib.contextmanager
def session(proxy: MySQLProxy, **options: Any) -> Iterator[tuple[RawMySQL, int]]:
    """(a client that nobody reads answers for, its thread on the server)."""
    with proxy.connect(database="test", **options) as connection, connection.cursor() as cursor:
        cursor.execute("select connection_id()")
        thread = cursor.fetchone()[0]
        yield RawMySQL(connection), thread


def errors(packets: list[tuple[int, bytes]]) -> list[int]:
    return [int.from_bytes(payload[1:3], "little") for _, payload in packets if payload[:1] == b"\xff"]


def asked(proxy: MySQLProxy, thread: int, *kinds: str) -> list[str]:
    """The texts that the server was asked, without the proxy's own."""
    log = proxy.server.log_of(thread)
    return [text for kind, text in log if kind in (kinds or ("Query", "Execute")) and not text.startswith(PROXYS)]


def test_every_statement_of_a_batch_is_judged(guarded: MySQLProxy) -> None:
    tried = failures = 0
    allowed = ["select 1", "insert into notes values (1000, 'x')", "commit", "set @a = 1"]
    blocked = ["select * from secrets", "drop table notes", "truncate notes", "delete from secrets"]
    for way in ("login", "option"):
        with session(guarded, client_flag=CLIENT.MULTI_STATEMENTS if way == "login" else 0) as (raw, thread):
            if way == "option":
                raw.ask(my.command(0x1B, struct.pack("<H", 0)), marker="on")
            for bad in blocked:
                for place in range(5):
                    texts = [*allowed[:place], bad, *allowed[place:]]
                    tried += 1
                    if errors(raw.ask(my.query("; ".join(texts)), marker=f"{tried}")) != [BLOCKED]:
                        failures += 1
            answer = raw.ask(my.query("select 1; select 2; select 3"), marker="last")
            assert not errors(answer)
            assert [payload for _, payload in answer if payload in (b"\1" + b"1", b"\1" + b"2", b"\1" + b"3")] == [
                *(b"\x011", b"\x012", b"\x013")
            ]
            seen = asked(guarded, thread)
            failures += sum(any(bad in text for bad in (*blocked, "notes values")) for text in seen)
    record(
        "E3", "batches with a blocked statement in which anything reached the server", count=tried, failures=failures
    )


def test_an_execution_is_judged_when_it_runs(guarded: MySQLProxy) -> None:
    count = scaled(40, 1000)
    tried = failures = 0
    rng = Random(4)
    with session(guarded) as (raw, thread):
        numbers = [raw.prepare(f"select id + {each}, ? from notes") for each in range(count)]
        assert None not in numbers
        value = (253, my.string("now"))
        one = raw.ask(my.execute(numbers[0] or 0, [value]), marker="one")
        assert not errors(one)
        last = raw.ask(my.execute(0xFFFFFFFF, [value]), marker="last of all")
        assert not errors(last)
        before = len(asked(guarded, thread, "Execute"))
        assert before == 2
        assert asked(guarded, thread, "Execute")[1].startswith(f"select id + {count - 1}, ")
        stricter = POLICY + '  - {name: no-notes, match: {table: ["*.notes"]}, action: block}\n'
        reload_policy(guarded.proxy, stricter)
        try:
            for number in numbers:
                tried += 1
                frames = [my.execute(number or 0, [value], flags=rng.choice((0, 1)))]
                if rng.random() < 0.3:
                    sent = my.long_data(number or 0, 0, b"x" * rng.randrange(100))
                    frames = [sent, my.execute(number or 0, [value], skip=[0])]
                failures += errors(raw.ask(*frames, marker=f"{tried}")) != [BLOCKED]
            for frame in (
                my.execute(0xFFFFFFFF, [value]),
                my.fetch(numbers[0] or 0, 5),
            ):
                tried += 1
                failures += not errors(raw.ask(frame, marker=f"{tried}"))
        finally:
            reload_policy(guarded.proxy, POLICY)
        for _ in range(count):  # ids that nobody was given, or that are closed
            tried += 1
            wrong = rng.choice((0, max(each or 0 for each in numbers) + rng.randrange(1, 1000), rng.getrandbits(31)))
            if wrong in numbers:
                continue
            said = errors(raw.ask(my.execute(wrong, [value]), marker=f"{tried}"))
            failures += said != [UNKNOWN_STATEMENT]
        raw.ask(my.by_id(0x19, numbers[0] or 0), marker="closed")
        failures += errors(raw.ask(my.execute(numbers[0] or 0, [value]), marker="gone")) != [UNKNOWN_STATEMENT]
        failures += len(asked(guarded, thread, "Execute")) - before
    record(
        "E4",
        "prepared statements executed against the policy in force, or under a wrong id",
        count=tried,
        failures=failures,
    )


def test_bulk_executions_are_judged_with_every_row(guarded: MySQLProxy) -> None:
    count = scaled(30, 300)
    failures = 0
    raw, offered = login(guarded.proxy.port, "alice", PEOPLE_PASSWORDS["alice"], capabilities=my.BULK, database="test")
    assert offered & my.BULK
    with contextlib.closing(raw):
        number = raw.prepare("insert into notes values (?, ?)")
        assert number is not None
        rng = Random(5)
        wanted = 0
        for step in range(count):
            rows = rng.randrange(1, 60)
            wanted += rows
            body = struct.pack("<IH", number, 128) + struct.pack("<HH", 3, 253)
            for each in range(rows):
                body += b"\0" + struct.pack("<i", 100_000 + step * 100 + each) + b"\0" + my.string(f"bulk {each}")
            answer = raw.ask(my.command(0xFA, body), marker=f"bulk {step}")
            failures += bool(errors(answer))
            if (
                step % 10 == 0
            ):  # decoded or not at all: a row less than promised ends the session, so it is a session of its own
                other, _ = login(
                    guarded.proxy.port, "alice", PEOPLE_PASSWORDS["alice"], capabilities=my.BULK, database="test"
                )
                with contextlib.closing(other):
                    prepared = other.prepare("insert into notes values (?, ?)")
                    other.send(my.command(0xFA, struct.pack("<I", prepared or 0) + body[4:-3]))
                    failures += errors([other.packet()]) != [BROKEN]
    executed = [
        each
        for each in guarded.proxy.records("statement.intent")
        if each["act"] == "execute" and each["sql"] == "insert into notes values (?, ?)"
    ]
    recorded = sum(_rows_of(each["parameters"]) for each in executed)
    there = guarded.server.fetch("select count(*) from notes where id >= 100000", database="test")[0][0]
    failures += abs(recorded - wanted) + abs(there - wanted)
    record(
        "E5",
        "rows of bulk executions that were not recorded, or run although malformed",
        count=wanted,
        failures=failures,
    )


def _rows_of(parameters: list[dict[str, Any]]) -> int:
    assert all(each["type"] in ("int", "varchar") for each in parameters)
    return len(parameters) // 2


def test_fifty_commands_in_one_write_are_judged_one_by_one(guarded: MySQLProxy) -> None:
    depth = 50
    places = range(0, depth, scaled(7, 1))
    failures = tried = 0
    with session(guarded) as (raw, thread):
        for place in places:
            texts = [f"select {place} * {each}" for each in range(depth)]
            texts[place] = "select * from secrets"
            answer = raw.ask(*map(my.query, texts), marker=f"end {place}")
            tried += depth
            failures += errors(answer) != [BLOCKED]
            seen = [text for text in asked(guarded, thread) if text.startswith(f"select {place} *")]
            failures += seen != texts[:place] + texts[place + 1 :]
        failures += sum("secrets" in text for text in asked(guarded, thread))
    record("E6", "commands hidden behind others in one write that were not judged", count=tried, failures=failures)


BODIES = {
    **{code: struct.pack("<I", 0x7FFFFFF0) for code in (0x0C,)},
    **dict.fromkeys((2, 5, 6), b"test"),
    0x03: b"select 1",
    0x04: b"notes\0",
    0x07: b"\4",
    0x16: b"select 1",
    0x17: struct.pack("<IBI", 999, 0, 1),
    0x18: struct.pack("<IH", 999, 0),
    0x19: struct.pack("<I", 999),
    0x1A: struct.pack("<I", 999),
    0x1B: struct.pack("<H", 0),
    0x1C: struct.pack("<II", 999, 1),
}
SILENT = {0x01, 0x18, 0x19}
WITHOUT_EVENT = {0x0E, 0x16, 0x18, 0x19, 0x1A}
"""They ask for nothing that a policy could forbid: PING, an announcement, what becomes part of an execution, or a statement that is not there."""
SERVED = {0x02, 0x03, 0x04, 0x07, 0x09, 0x0A, 0x0C, 0x0E, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1F}
LOGGED = {"Connect", "Quit", "Query", "Init DB", "Field List", "Refresh", "Processlist", "Kill", "Statistics", "Prepare", "Close stmt"}  # fmt: skip
REPLICATION = {0x12: "binlog", 0x13: "table", 0x15: "replica", 0x1E: "binlog by GTID", 0x20: "clone", 0x1D: "daemon", 0xFE: "multi"}  # fmt: skip


def test_all_256_commands_have_a_verdict_and_an_event(guarded: MySQLProxy) -> None:
    failures: list[tuple[int, str]] = []
    delivered = 0
    threads: dict[int, int] = {}
    for code in range(256):
        with session(guarded) as (raw, thread):
            threads[thread] = code
            raw.send(my.command(code, BODIES.get(code, b"")) + (my.query("select 'after'") if code != 1 else b""))
            try:
                packets = raw.until(b"after")
                is_open = True
            except (EOFError, OSError):
                is_open = False
            refused_always = code in REPLICATION or code in (0x05, 0x06, 0x08, 0x0D, 0x11, 0x14, 0x21)
            if is_open != (code in SERVED or refused_always):
                failures.append((code, f"open: {is_open}"))
            if is_open and refused_always and errors(packets) not in ([UNSUPPORTED], [BLOCKED]):
                failures.append((code, f"said {errors(packets)}"))
            if is_open and code in REPLICATION:
                delivered += sum(len(payload) for _, payload in packets if b"binlog" in payload)
    log = guarded.server.fetch("select thread_id, command_type from mysql.general_log")
    records = guarded.proxy.records()
    for thread, code in threads.items():
        kinds = {kind for number, kind in log if number == thread}
        if kinds - LOGGED:
            failures.append((code, f"reached the server: {kinds - LOGGED}"))
        events = [each for each in records if each.get("server_pid") == thread]
        if code in WITHOUT_EVENT or code == 0x01:
            continue
        closed = [each for each in events if each["type"] == "session.end" and each["why"] == "protocol"]
        judged = [each for each in events if each["type"].startswith("statement.") and _is_of(each)]
        if not judged and not closed:
            failures.append((code, "no event"))
    record(
        "E7",
        "command bytes without a verdict or an event, or with another than theirs",
        count=256,
        failures=len(failures),
        first=failures[:5],
    )
    record("E8", "bytes of a binary log or a clone delivered", count=len(REPLICATION), failures=delivered)


def _is_of(event: dict[str, Any]) -> bool:
    """Not the frame around the command under test."""
    return event.get("sql") not in (
        "SET NAMES utf8mb4",
        "SET AUTOCOMMIT = 1",
        "select connection_id()",
        "select 'after'",
    )


def test_capabilities_are_those_that_both_ends_decode(guarded: MySQLProxy) -> None:
    failures: list[tuple[int, str]] = []
    masked = [5, 7, 26, 33]  # compress, local files, zstd, MariaDB's COM_MULTI
    for bit in (each for each in range(39) if each not in (0, 3)):
        flag = 1 << bit
        try:
            raw, offered = login(guarded.proxy.port, "alice", PEOPLE_PASSWORDS["alice"], capabilities=flag)
        except (pymysql.err.OperationalError, EOFError, OSError) as error:
            if bit in (5, 26, 33):
                continue
            failures.append((bit, f"refused: {error}"))
            continue
        if offered & sum(1 << each for each in masked):
            failures.append((bit, "offered what is not decoded"))
        with contextlib.closing(raw):
            # Whatever was agreed on, an answer is one: its row comes, and the next one after it.
            attributes = bool(flag & my.QUERY_ATTRIBUTES & offered)
            for text in ("select 'row'", "select 'again'"):
                raw.send(my.query(text, attributes=attributes))
                try:
                    raw.until(text.split("'")[1].encode())
                except (EOFError, OSError) as error:
                    failures.append((bit, f"{text}: {error}"))
                    break
    record(
        "E9",
        "capability flags that the two ends understand differently",
        count=37,
        failures=len(failures),
        first=failures[:5],
    )


def test_a_server_gets_no_file_that_no_statement_names() -> None:
    """A rogue server, scripted: real ones do not ask uninvited."""
    count = scaled(500, 10_000)
    rng = Random(10)
    names = [b"/etc/passwd", b"/root/.ssh/id_rsa", b"x", b"", b"C:\\secret.txt"]
    texts = [
        b"select 1",
        b"load data infile '/etc/passwd' into table t",
        b"load data local infile '/tmp/own.csv' into table t",
        b"insert into t values ('load data local infile')",
        b"set @a = 1",
    ]
    failures = 0
    content = b"root:x:0:0:secret"
    for _ in range(count):
        text, name = rng.choice(texts), rng.choice(names)
        ask = my.answer(b"\xfb" + name, sequence=1)
        if rng.random() < 0.3:
            ask = my.answer(*my.result(my.row("1"), status=my.AUTOCOMMIT | my.MORE), b"\xfb" + name)
        capabilities = my.LOCAL_FILES if rng.random() < 0.7 else 0
        host = converse(client(my.query(text)), server(ask), client(my.frame(content, 2)), capabilities=capabilities)
        closed = any(isinstance(call, Closed) for call in host.calls)
        failures += not closed or content in host.to_server or b"\xfb" + name in host.to_client[-len(name) - 1 :]
    record(
        "E10", "requests for a file that no statement names and that reached the client", count=count, failures=failures
    )


def test_rows_are_rows_whatever_they_begin_with(guarded: MySQLProxy) -> None:
    count = 10_000
    text = (
        "select case seq % 7 when 0 then null when 1 then '' else concat(char(seq % 256), repeat(char(255), seq % 300)) end, "
        f"char(3, 254, 255, 0, 1), seq from seq_1_to_{count}"
    )
    with guarded.server.connect("test") as direct, direct.cursor() as cursor:
        cursor.execute(text)
        wanted = cursor.fetchall()
    failures = 0
    with guarded.connect(database="test") as connection, connection.cursor() as cursor:
        cursor.execute(text)
        failures += cursor.fetchall() != wanted
    with session(guarded) as (raw, thread):
        number = raw.prepare(text)
        packets = raw.ask(my.execute(number or 0), marker="after the rows")
        failures += sum(1 for _, payload in packets if payload[:1] == b"\0" and len(payload) > 8) != count
        failures += bool(errors(packets))
        seen = asked(guarded, thread)
    outcomes = [each for each in guarded.proxy.records("statement.outcome") if each["rows"] == count]
    failures += len(outcomes) != 2
    failures += len(seen) != 4  # SET NAMES, connection_id(), the execution, the marker
    record("E13", "rows taken for the end of a result, an error or a command", count=2 * count, failures=failures)
