"""What a real server does with the messages that the relay sends in place of refused ones, without the proxy between.

The design rests on this: a substitute must have the outcome of a statement that fails by itself, in every state, and
must leave the client's own statements and portals as they were. The second half checks the facts behind the name rules.
"""

import asyncio
from collections.abc import Sequence

import pytest
from support import pg_bytes as pg
from support.fake_postgres import raw_client
from support.servers import Database

TEXT = 'SELECT "dbproxy refused 7"'
STEP = pg.parse("_dbproxy", TEXT)
QUERY = pg.query(TEXT)
NATIVE_STEP = pg.parse("other", "SELECT no_such_column")
NATIVE_QUERY = pg.query("SELECT no_such_column")
SYNC = pg.sync()
SUSPENDED = pg.parse("", "SELECT generate_series(1, 5)") + pg.bind("p") + pg.execute("p", 2)
DELETE = pg.parse("", "DELETE FROM substitutes") + pg.bind() + pg.execute()


def run(database: Database, exchanges: Sequence[tuple[int, bytes]]) -> list[str]:
    """Send each, wait for that many ReadyForQuery; errors and ready states with their code."""

    async def talk() -> list[str]:
        server = database.server
        async with raw_client(
            server.port, server.superuser, server.password, database.name, host=server.host
        ) as client:
            await client.ask(pg.query("DROP TABLE IF EXISTS substitutes"))
            await client.ask(pg.query("CREATE TABLE substitutes AS SELECT generate_series(1, 5) AS a"))
            return [_summary(await client.ask(data, ready=count)) for count, data in exchanges]

    return asyncio.run(talk())


def _summary(messages: list[tuple[str, bytes]]) -> str:
    words = []
    for kind, body in messages:
        if kind == "E":
            words.append(pg.fields_of(body)["C"])
        elif kind == "Z":
            words.append("Z" + body.decode())
        elif kind == "D":
            words.append("D" + body[6:].decode())
        elif kind not in "NSAT":
            words.append(kind)
    return " ".join(words)


HERE = b"<the substitute>"
COUNT = (1, pg.query("SELECT count(*) FROM substitutes"))
STEPS = {
    "autocommit": ([(1, HERE + SYNC), COUNT], ["42703 ZI", "D5 C ZI"]),
    "followed by more in its group": (
        [(1, HERE + pg.bind("", "other") + pg.execute() + pg.query("SELECT 1") + SYNC)],
        ["42703 ZI"],
    ),
    "open transaction": (
        [
            (1, pg.query("BEGIN")),
            (1, pg.query("DELETE FROM substitutes")),
            (1, HERE + SYNC),
            (1, pg.query("COMMIT")),
            COUNT,
        ],
        ["C ZT", "C ZT", "42703 ZE", "C ZI", "D5 C ZI"],
    ),
    "failed transaction": (
        [(1, pg.query("BEGIN")), (1, pg.query("SELECT 1/0")), (1, HERE + SYNC), (1, pg.query("ROLLBACK"))],
        ["C ZT", "22012 ZE", "25P02 ZE", "C ZI"],
    ),
    "after an unsynced success": ([(1, DELETE + HERE + SYNC), COUNT], ["1 2 C 42703 ZI", "D5 C ZI"]),
    "after a genuine error": (
        [(1, pg.parse("", "SELECT 1/0") + pg.bind() + pg.execute() + HERE + SYNC)],
        ["1 22012 ZI"],
    ),
    "suspended portal, implicit transaction": (
        [(1, SUSPENDED + HERE + SYNC), (1, pg.execute("p") + SYNC)],
        ["1 2 D1 D2 s 42703 ZI", "34000 ZI"],
    ),
    "suspended portal, savepoint": (
        [
            (1, pg.query("BEGIN")),
            (1, SUSPENDED + SYNC),
            (1, pg.query("SAVEPOINT s")),
            (1, HERE + SYNC),
            (1, pg.query("ROLLBACK TO s")),
            (1, pg.execute("p", 2) + SYNC),
        ],
        ["C ZT", "1 2 D1 D2 s ZT", "C ZT", "42703 ZE", "C ZT", "D3 D4 s ZT"],
    ),
    "a named statement survives": (
        [(1, pg.parse("n", "SELECT 42") + SYNC), (1, HERE + SYNC), (1, pg.bind("", "n") + pg.execute() + SYNC)],
        ["1 ZI", "42703 ZI", "2 D42 C ZI"],
    ),
    "the unnamed statement survives": (
        [(1, pg.parse("", "SELECT 42") + SYNC), (1, HERE + SYNC), (1, pg.bind() + pg.execute() + SYNC)],
        ["1 ZI", "42703 ZI", "2 D42 C ZI"],
    ),
}
QUERIES = {
    "autocommit": ([(1, HERE), COUNT], ["42703 ZI", "D5 C ZI"]),
    "open transaction": (
        [(1, pg.query("BEGIN")), (1, pg.query("DELETE FROM substitutes")), (1, HERE), (1, pg.query("COMMIT")), COUNT],
        ["C ZT", "C ZT", "42703 ZE", "C ZI", "D5 C ZI"],
    ),
    "failed transaction": (
        [(1, pg.query("BEGIN")), (1, pg.query("SELECT 1/0")), (1, HERE), (1, pg.query("ROLLBACK"))],
        ["C ZT", "22012 ZE", "25P02 ZE", "C ZI"],
    ),
    "after an unsynced success": ([(2, DELETE + HERE + SYNC), COUNT], ["1 2 C 42703 ZI ZI", "D5 C ZI"]),
    "while the server skips": (
        [(1, pg.parse("", "SELECT 1/0") + pg.bind() + pg.execute() + HERE + SYNC)],
        ["1 22012 ZI"],
    ),
    "suspended portal, implicit transaction": (
        [(2, SUSPENDED + HERE + SYNC), (1, pg.execute("p") + SYNC)],
        ["1 2 D1 D2 s 42703 ZI ZI", "34000 ZI"],
    ),
    "the rest of the group runs": (
        [(2, HERE + pg.parse("", "SELECT 3") + pg.bind() + pg.execute() + SYNC)],
        ["42703 ZI 1 2 D3 C ZI"],
    ),
    "the unnamed statement dies, as with any Query": (
        [(1, pg.parse("", "SELECT 42") + SYNC), (1, HERE), (1, pg.bind() + SYNC)],
        ["1 ZI", "42703 ZI", "26000 ZI"],
    ),
}


def _with(message: bytes, exchanges: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [(count, data.replace(HERE, message)) for count, data in exchanges]


@pytest.mark.parametrize("state", STEPS)
def test_refused_step_has_the_outcome_of_a_parse_that_fails_by_itself(database: Database, state: str) -> None:
    exchanges, wanted = STEPS[state]
    assert run(database, _with(STEP, exchanges)) == wanted
    assert run(database, _with(NATIVE_STEP, exchanges)) == wanted


@pytest.mark.parametrize("state", QUERIES)
def test_refused_query_has_the_outcome_of_a_query_that_fails_by_itself(database: Database, state: str) -> None:
    exchanges, wanted = QUERIES[state]
    assert run(database, _with(QUERY, exchanges)) == wanted
    assert run(database, _with(NATIVE_QUERY, exchanges)) == wanted


def _bound_after(first: bytes, between: bytes, again: bytes) -> list[tuple[int, bytes]]:
    """Parse `first`, do something, then Bind it by the name `again`."""
    return [(1, pg.parse(first, "SELECT 42") + SYNC), (1, between), (1, pg.bind("", again) + pg.execute() + SYNC)]


def test_server_compares_63_bytes_of_a_name(database: Database) -> None:
    one, two = b"a" * 63 + b"1", b"a" * 63 + b"2"
    swap = pg.close("S", two) + pg.parse(two, "SELECT 66") + SYNC
    assert run(database, _bound_after(one, swap, one))[-1] == "2 D66 C ZI"


def test_server_converts_names_from_the_clients_encoding(database: Database) -> None:
    one, two = b"\xed\x40", b"\xfa\x5c"  # two spellings of one character in SJIS
    swap = pg.close("S", two) + pg.parse(two, "SELECT 66") + SYNC
    exchanges = [(1, pg.query("SET client_encoding = SJIS")), *_bound_after(one, swap, one)]
    assert run(database, exchanges)[-1] == "2 D66 C ZI"


def test_sql_can_give_a_protocol_name_another_text(database: Database) -> None:
    swap = pg.query("DEALLOCATE n; PREPARE n AS SELECT 66")
    assert run(database, _bound_after(b"n", swap, b"n"))[-1] == "2 D66 C ZI"


def test_sql_inside_a_do_block_can_give_a_protocol_name_another_text(database: Database) -> None:
    body = "BEGIN EXECUTE 'DEALL' || 'OCATE n'; EXECUTE 'PREPARE n AS SELECT 66'; END"
    assert run(database, _bound_after(b"n", pg.query(f"DO $$ {body} $$"), b"n"))[-1] == "2 D66 C ZI"


def test_protocol_can_execute_a_cursor_that_sql_declared_over_its_portal(database: Database) -> None:
    exchanges = [
        (1, pg.query("BEGIN")),
        (1, pg.parse("", "SELECT 42") + pg.bind("c") + SYNC),
        (1, pg.query("CLOSE c; DECLARE c CURSOR FOR SELECT 66")),
        (1, pg.execute("c", 1) + SYNC),
    ]
    assert run(database, exchanges)[-1] in {"D66 s ZT", "D66 C ZT"}


def test_sql_execute_runs_what_the_protocol_prepared(database: Database) -> None:
    """Even DEALLOCATE and COPY FROM STDIN, which SQL's own PREPARE does not take."""
    prepare = pg.parse("n", "SELECT 42") + pg.parse("d", "DEALLOCATE n") + SYNC
    exchanges = [(1, prepare), (1, pg.query("EXECUTE d")), (1, pg.bind("", "n") + SYNC)]
    assert run(database, exchanges) == ["1 1 ZI", "C ZI", "26000 ZI"]
    copy = pg.query("EXECUTE d") + pg.copy_data("7\n") + pg.copy_done()
    exchanges = [(1, pg.parse("d", "COPY substitutes FROM STDIN") + SYNC), (1, copy), COUNT]
    assert run(database, exchanges) == ["1 ZI", "G C ZI", "D6 C ZI"]
