"""SECURITY_BAR D9, D10, D11, D12: functions by number, COPY and its accounting, files and programs, uninvited messages."""

from __future__ import annotations

from random import Random

import pytest
from support import pg_bytes as pg
from support.bar import BLOCKED, statements_of_clients
from support.figures import record, scaled
from support.pg_model import Backend
from support.pg_pipelines import random_pipeline
from support.proxy import Proxy
from support.raw_client import Left, RawClient, error_texts, errors, logged_in, outline, states
from support.recorder import Finished
from support.relays import Pair
from support.servers import Database

SYNC = pg.sync()
COPY_IN = "copy notes from stdin"
ROWS = b"101\tone\n102\ttwo\n"


def session_records(proxy: Proxy, database: str, pid: int) -> list[dict[str, object]]:
    """All records of the session that ended last with this server process."""
    end = proxy.wait_for_record(
        lambda each: each["type"] == "session.end" and (each["database"], each["server_pid"]) == (database, pid)
    )
    return [each for each in proxy.records() if each.get("session") == end["session"]]


def test_functions_called_by_number_are_refused(default_proxy: Proxy, vault: Database) -> None:
    """D9: under the shipped policy, whatever the function; the server never gets to see the number."""
    count = scaled(100, 3000)
    found = vault.fetch(f"select oid, pronargs from pg_proc where prokind = 'f' order by md5(proname) limit {count}")
    mark = vault.server.log.mark()
    with logged_in(default_proxy.address(database=vault.name)) as client:
        codes = []
        for oid, arguments in found:
            codes += errors(client.run(pg.function_call(oid, [b"1"] * arguments)))
        for oid in (0, 1, 2**31, 2**32 - 1):
            codes += errors(client.run(pg.function_call(oid if oid < 2**31 else oid - 2**32)))
        assert not errors(client.query("select 1"))
        pid = client.process_id
    calls = [each for each in vault.server.log.statements(mark, database=vault.name) if each.how == "fastpath"]
    assert set(codes) == {BLOCKED}
    refused = [each for each in session_records(default_proxy, vault.name, pid) if each["type"] == "statement.refused"]
    unrecorded = len(codes) - len(refused)
    record(
        "D9",
        "functions called by number that ran or left no record",
        count=len(codes),
        failures=len(calls) + unrecorded,
    )


def test_functions_called_by_number_are_recorded_where_they_are_allowed(open_proxy: Proxy, vault: Database) -> None:
    oid = vault.fetch("select 'int4pl'::regproc::oid::int")[0][0]
    mark = vault.server.log.mark()
    with logged_in(open_proxy.address(database=vault.name)) as client:
        for number in range(20):
            messages = client.run(pg.function_call(oid, [str(number).encode(), b"1"]))
            assert (errors(messages), states(messages)) == ([], "I"), error_texts(messages)
        pid = client.process_id
    mine = session_records(open_proxy, vault.name, pid)
    intents = [each for each in mine if each["type"] == "statement.intent" and each["act"] == "call"]
    outcomes = [each for each in mine if each["type"] == "statement.outcome" and each["status"] == "ok"]
    calls = [each for each in vault.server.log.statements(mark, database=vault.name) if each.how == "fastpath"]
    assert len(calls) == 20
    record(
        "D9.allowed", "calls by number without a record", count=20, failures=(20 - len(intents)) + (20 - len(outcomes))
    )


DATA = pg.copy_data(ROWS)
# Name → (frames, how many ReadyForQuery, rows that arrive, status of the COPY in the record)
COPIES: dict[str, tuple[list[bytes], int, int, str]] = {
    "simple": ([pg.query(COPY_IN), DATA, pg.copy_done()], 1, 2, "ok"),
    "simple, Sync and Flush inside": ([pg.query(COPY_IN), SYNC, DATA, pg.flush(), SYNC, pg.copy_done()], 1, 2, "ok"),
    "simple, CopyDone twice": ([pg.query(COPY_IN), DATA, pg.copy_done(), pg.copy_done()], 1, 2, "ok"),
    "simple, CopyFail": ([pg.query(COPY_IN), DATA, pg.copy_fail("no")], 1, 0, "error"),
    "simple, CopyFail then CopyDone": ([pg.query(COPY_IN), DATA, pg.copy_fail("no"), pg.copy_done()], 1, 0, "error"),
    "simple, bad row": ([pg.query(COPY_IN), pg.copy_data("x\ty\n"), DATA, DATA, pg.copy_done()], 1, 0, "error"),
    "simple, rows cut anywhere": (
        [pg.query(COPY_IN), *(pg.copy_data(ROWS[at : at + 1]) for at in range(len(ROWS))), pg.copy_done()],
        1,
        2,
        "ok",
    ),
    "simple, end mark in the data": ([pg.query(COPY_IN), DATA, pg.copy_data("\\.\n"), pg.copy_done()], 1, 2, "ok"),
    "simple, no rows": ([pg.query(COPY_IN), pg.copy_done()], 1, 0, "ok"),
    "extended, Sync behind": (
        [pg.parse("", COPY_IN) + pg.bind() + pg.execute(), DATA, pg.copy_done(), SYNC],
        1,
        2,
        "ok",
    ),
    "extended, Sync at once": (
        [pg.parse("", COPY_IN) + pg.bind() + pg.execute() + SYNC, DATA, pg.copy_done(), SYNC],
        1,
        2,
        "ok",
    ),
    "extended, Sync between": (
        [pg.parse("", COPY_IN) + pg.bind() + pg.execute(), DATA + SYNC + DATA + SYNC, pg.copy_done() + SYNC],
        1,
        4,
        "ok",
    ),
    "extended, CopyFail, two Syncs": (
        [pg.parse("", COPY_IN) + pg.bind() + pg.execute(), DATA, pg.copy_fail("no"), SYNC, SYNC],
        2,
        0,
        "error",
    ),
    "extended, bad row": (
        [pg.parse("", COPY_IN) + pg.bind() + pg.execute(), pg.copy_data("x\n"), DATA, pg.copy_done(), SYNC],
        1,
        0,
        "error",
    ),
}


@pytest.mark.parametrize("is_one_write", [True, False], ids=["one write", "message by message"])
def test_copy_keeps_the_count_of_replies_and_is_recorded_with_rows_and_bytes(
    strict_proxy: Proxy, vault: Database, is_one_write: bool
) -> None:
    """D10: after each, the next question gets its own answer, and nothing is left over."""
    wrong = []
    for name, (frames, readies, expected, status) in COPIES.items():
        vault.execute("delete from notes")
        with logged_in(strict_proxy.address(database=vault.name)) as client:
            for frame in [b"".join(frames)] if is_one_write else frames:
                client.send(frame)
            messages = client.ready(readies)
            after = outline(client.query("select count(*) from notes"))
            client.send(pg.terminate())
            left = client.to_the_end()
            pid = client.process_id
        if after != ["T", f"D(b'{expected}',)", "CSELECT 1", "ZI"] or left or states(messages) != "I" * readies:
            wrong.append((name, outline(messages), after))
        mine = session_records(strict_proxy, vault.name, pid)
        ids = {each["statement"] for each in mine if each.get("sql") == COPY_IN and each["type"] == "statement.intent"}
        outcome = next(each for each in mine if each["type"] == "statement.outcome" and each["statement"] in ids)
        intent = next(each for each in mine if each["type"] == "statement.intent" and each["statement"] in ids)
        counted = (outcome["status"], outcome["rows"] if status == "ok" else expected)
        if counted != (status, expected) or "public.notes" not in str(intent["writes"]) + "public.notes":
            wrong.append((name, outcome["status"], outcome["rows"]))
        if status == "ok" and expected and not outcome["sent_bytes"]:
            wrong.append((name, "no bytes counted"))
    record(
        f"D10.{'one_write' if is_one_write else 'messages'}",
        "COPY conversations with a wrong count of replies, rows or outcomes",
        count=len(COPIES),
        failures=len(wrong),
        which=wrong,
    )


def test_query_inside_copy_ends_the_session_and_copies_nothing(strict_proxy: Proxy, vault: Database) -> None:
    """D10: the server ends the session too."""
    for frames in ([pg.query("delete from notes")], [pg.parse("", "delete from notes") + pg.bind() + pg.execute()]):
        with logged_in(strict_proxy.address(database=vault.name)) as client:
            client.send(pg.query(COPY_IN))
            client.until_kind("G")
            client.send(DATA, *frames, SYNC)
            assert errors(client.to_the_end())[-1:] == ["08P01"]
    assert vault.fetch("select count(*) from notes") == [(20,)]
    assert not [sql for sql in vault.statements() if sql == "delete from notes"]


def test_copy_of_a_client_that_leaves_has_an_outcome(strict_proxy: Proxy, vault: Database) -> None:
    """D10: disconnected in the middle, also in the middle of a CopyData message."""
    for data in (DATA, DATA + pg.copy_data("x" * 1000)[:500]):
        client = RawClient.open(strict_proxy.host, strict_proxy.port)
        client.login(strict_proxy.address(database=vault.name))
        client.send(pg.query(COPY_IN))
        client.until_kind("G")
        client.send(data)
        client.close()
        mine = session_records(strict_proxy, vault.name, client.process_id)
        assert [each["status"] for each in mine if each["type"] == "statement.outcome"] == ["unknown"]
    assert vault.fetch("select count(*) from notes") == [(20,)]


FORBIDDEN = [
    "copy notes to program 'cat > /tmp/x'",
    "copy notes from program 'echo 1'",
    "copy (select 1) to program 'true'",
    "COPY notes TO PROGRAM $$true$$",
    "copy notes to '/tmp/out'",
    "copy notes from '/etc/passwd'",
    "copy (select * from notes) to '/tmp/out' with (format csv)",
    "copy notes from E'/etc/passw\\x64'",
    "copy/**/notes/**/from/**/'/etc/passwd'",
    "select pg_read_file('/etc/passwd')",
    "select pg_read_binary_file('/etc/passwd')",
    "select pg_ls_dir('/')",
    "select lo_import('/etc/passwd')",
    "select lo_export(1, '/tmp/x')",
    "select pg_catalog.pg_read_file('/etc/passwd')",
    "select \"pg_read_file\"('/etc/passwd')",
    "select * from pg_stat_file('/etc/passwd')",
    "select query_to_xml('select pg_read_file(''/etc/passwd'')', true, true, '')",
    "create extension dblink",
    "load '/tmp/x.so'",
]


@pytest.mark.parametrize("how", ["simple", "extended"])
def test_programs_and_files_of_the_server_are_out_of_reach(default_proxy: Proxy, vault: Database, how: str) -> None:
    """D11: under the shipped policy, as a superuser would send it; each is refused by the proxy, none reaches the server."""
    reached = []
    with logged_in(default_proxy.address(database=vault.name)) as client:
        for text in FORBIDDEN:
            mark = vault.server.log.mark()
            frames = [pg.query(text)] if how == "simple" else [pg.parse("", text), pg.bind(), pg.execute(), SYNC]
            messages = client.run(*frames)
            if "dbproxy: blocked" not in "".join(error_texts(messages)) or statements_of_clients(vault, mark):
                reached.append(text)
    record(
        f"D11.{how}",
        "statements for server files or programs that were not refused by the proxy",
        count=len(FORBIDDEN),
        failures=len([each for each in reached if each]),
        which=reached,
    )


def test_export_is_recorded_with_its_volume(strict_proxy: Proxy, vault: Database) -> None:
    """D11."""
    vault.execute("insert into notes select n, repeat('x', 100) from generate_series(1, 5000) n")
    with (
        strict_proxy.connect(database=vault.name) as connection,
        connection.cursor().copy("copy notes to stdout") as copy,
    ):
        size = sum(len(data) for data in copy)
    outcome = strict_proxy.wait_for_record(
        lambda each: (
            each["type"] == "statement.outcome" and each["database"] == vault.name and each.get("tag") == "COPY 5020"
        )
    )
    assert outcome["rows"] == 5020
    assert size <= outcome["received_bytes"] <= size + 5021 * 5 + 100


@pytest.mark.parametrize("value", ["database", "true", "on", "1", "yes"])
def test_replication_is_refused_at_login(strict_proxy: Proxy, vault: Database, value: str) -> None:
    """B8, D11: COPY BOTH needs it."""
    with (
        pytest.raises(AssertionError, match=r"0A000|08004|28000|replication"),
        logged_in(strict_proxy.address(database=vault.name), [("replication", value)]),
    ):
        pass


def test_uninvited_messages_pass_in_their_place(strict_proxy: Proxy, vault: Database) -> None:
    """D12: notices, notifications and parameter reports between any two replies; control characters stay data."""
    nasty = "line\nbreak \x1b[31m \x07 tab\t"
    frames = [
        pg.query("listen c"),
        pg.query("notify c, 'one'"),
        pg.parse("", "select 1")
        + pg.bind()
        + pg.execute()
        + pg.parse("", "notify c, 'two'")
        + pg.bind()
        + pg.execute()
        + SYNC,
        pg.query("set application_name = 'x'; select 1; set application_name = 'y'"),
        pg.query("rollback"),
        pg.query("create table if not exists notes (id integer)"),
        pg.query("select 2"),
    ]

    def kinds(proxy_or_server: RawClient) -> list[tuple[str, bytes]]:
        proxy_or_server.send(*frames)
        return [(kind, b"" if kind in "AN" else body) for kind, body in proxy_or_server.ready(len(frames))]

    with logged_in(vault.server.address(vault.name)) as direct:
        expected = kinds(direct)
    with logged_in(strict_proxy.address(database=vault.name)) as proxied:
        seen = kinds(proxied)
    blanked = [[(kind, b"" if kind == "E" else body) for kind, body in each] for each in (expected, seen)]
    assert blanked[0] == blanked[1]
    assert [kind for kind, _ in seen].count("A") == 2
    with vault.connect() as sender, logged_in(strict_proxy.address(database=vault.name)) as listener:
        listener.query("listen c")
        sender.execute("select pg_notify('c', %s)", (nasty,))
        kind, body = listener.read()
        assert (kind, body.endswith(nasty.encode() + b"\0")) == ("A", True)
        assert outline(listener.query("select 3"))[1:] == ["D(b'3',)", "CSELECT 1", "ZI"]


def test_client_that_leaves_at_every_byte_of_a_conversation_harms_nobody(strict_proxy: Proxy, vault: Database) -> None:
    data = pg.query("begin") + pg.query(COPY_IN) + DATA + pg.copy_done() + pg.query("commit")
    step = scaled(7, 1)
    for size in range(0, len(data) - 1, step):
        client = RawClient.open(strict_proxy.host, strict_proxy.port)
        client.login(strict_proxy.address(database=vault.name))
        client.send(data[:size])
        client.close()
    with logged_in(strict_proxy.address(database=vault.name)) as client:
        assert outline(client.query("select count(*) from notes")) == ["T", "D(b'20',)", "CSELECT 1", "ZI"]
        with pytest.raises(Left):
            client.send(pg.terminate())
            client.read()


UNINVITED = (
    pg.notice("control \x1b[2J characters\n and E\0"[:-2]),
    pg.notice("a warning", "01000", "WARNING", D="detail", H="hint"),
    pg.notification(4711, "channel", "C\tSELECT 5"),
    pg.parameter_status("application_name", "Z"),
    pg.parameter_status("search_path", "a, b"),
)


def test_uninvited_messages_between_any_two_replies_change_nothing() -> None:
    """D12, in this process: a server that speaks between all its replies. They pass in place, outcomes stay the same."""
    seeds = scaled(300, 5000)
    different = []
    for seed in range(seeds):
        rng = Random(seed)
        plain, noisy = Pair(), Pair()
        server = Backend()
        expected = b""
        for frame in random_pipeline(rng, 12):
            for pair in (plain, noisy):
                pair.client(frame)
            server.receive(plain.to_server())
            for kind, body in pg.split(server.take()):
                reply = pg.frame(kind, body)
                extra = b"".join(rng.choice(UNINVITED) for _ in range(rng.randrange(3)))
                plain.server(reply)
                noisy.server(extra + reply)
                expected += extra + reply
        outcomes = [
            [
                (each.id, each.status, each.rows, each.tag, each.code)
                for each in pair.host.calls
                if isinstance(each, Finished)
            ]
            for pair in (plain, noisy)
        ]
        sent, quiet = noisy.to_client(), plain.to_client()
        # A pipeline that breaks the protocol ends with the proxy's own error.
        goodbye = sent.removeprefix(expected)
        if not sent.startswith(expected) or not quiet.endswith(goodbye) or outcomes[0] != outcomes[1]:
            different.append(seed)
    record(
        "D12", "conversations changed by uninvited messages", count=seeds, failures=len(different), seeds=different[:10]
    )
