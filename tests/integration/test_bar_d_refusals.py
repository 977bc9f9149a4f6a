"""SECURITY_BAR D2, D3, D4, D13 and DESIGN §4: a refusal is to the client what a genuine error at that place would be.

Every conversation is held twice: with the server itself, where the bad statement names a table that does not exist, and
through the proxy, where it names a protected one. Replies, transaction states and what stays in the database must be equal.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from support import pg_bytes as pg
from support.bar import BLOCKED, OPEN_POLICY
from support.figures import record, scaled
from support.proxy import Proxy
from support.raw_client import Message, RawClient, errors, logged_in, outline, states
from support.servers import Database

pytestmark = pytest.mark.workers(1)

SETUP = pg.query("create temp table t (id integer)")
END = "select 'the end'"
SECRETS = "select * from secrets"
MISSING = "select * from no_such_table"
COPY_SECRETS = "copy secrets from stdin"
COPY_MISSING = "copy secrets fromm stdin"  # fails where Parse is, as a refusal does
UNKNOWN_OID = 4_000_000_000
GENUINE = ("42P01", "42601", "42883", "26000", "34000")
# In a failed transaction 25P02 hides some of them, which ones depends on where the server finds the error.
# XX000 is the server's own confusion (18.6: "StartTransactionCommand: unexpected state") behind a Query with BEGIN in an
# open group, raised before it looks at the message: the stand-in gets it too, and the client is told of the refusal.
RANDOM_GENUINE = ("42P01", "42601", "25P02", "XX000")

Frames = list[bytes]


def insert(number: int) -> str:
    return f"insert into t values ({number})"


def step(sql: str, name: str = "") -> bytes:
    """One statement by the extended protocol, without Sync."""
    return pg.parse(name, sql) + pg.bind("", name) + pg.describe("P") + pg.execute()


SYNC = pg.sync()
SCENARIOS: dict[str, Callable[[str, str], Frames]] = {
    "autocommit": lambda bad, _: [pg.query(bad), pg.query(insert(1))],
    "open transaction": lambda bad, _: [
        *map(pg.query, ("begin", insert(1), bad, insert(2), "commit", insert(3))),
    ],
    "failed transaction": lambda bad, _: [*map(pg.query, ("begin", insert(1), "select 1/0", bad, "rollback"))],
    "savepoint": lambda bad, _: [
        *map(pg.query, ("begin", insert(1), "savepoint s", insert(2), bad, "rollback to s", insert(3), "commit")),
    ],
    "extended alone": lambda bad, _: [step(bad), SYNC, step(insert(1)), SYNC],
    "earlier unsynced statements": lambda bad, _: [step(insert(1)), step(insert(2)), step(bad), step(insert(3)), SYNC],
    "groups": lambda bad, _: [step(insert(1)), SYNC, step(insert(2)), step(bad), SYNC, step(insert(3)), SYNC],
    "group in an open transaction": lambda bad, _: [
        pg.query("begin"),
        step(insert(1)) + step(bad) + step(insert(2)) + SYNC,
        step(insert(3)) + SYNC,
        pg.query("commit"),
    ],
    "group in a failed transaction": lambda bad, _: [
        pg.query("begin"),
        pg.query("select 1/0"),
        step(bad) + SYNC,
        step("rollback") + SYNC,
    ],
    "genuine error before it": lambda bad, _: [step("select 1/0"), step(bad), SYNC],
    "genuine error behind it": lambda bad, _: [step(bad), step("select 1/0"), SYNC],
    "named statement": lambda bad, _: [
        pg.parse("a", insert(1)) + SYNC,
        pg.parse("b", bad) + SYNC,
        pg.bind("", "b") + pg.execute() + SYNC,
        pg.bind("", "a") + pg.execute() + SYNC,
    ],
    "unnamed statement survives a refused named one": lambda bad, _: [
        pg.parse("", insert(1)) + SYNC,
        pg.parse("b", bad) + SYNC,
        pg.bind() + pg.execute() + SYNC,
    ],
    "unnamed statement dies by a refused Query": lambda bad, _: [
        pg.parse("", insert(1)) + SYNC,
        pg.query(bad),
        pg.bind() + pg.execute() + SYNC,
    ],
    "Query behind an error, before Sync": lambda bad, _: [
        step(bad),
        pg.query(insert(1)),
        pg.query("select 1"),
        SYNC,
        pg.query(insert(2)),
    ],
    "Query without Sync before it": lambda bad, _: [step(insert(1)), pg.query(bad), SYNC, pg.query(insert(2))],
    "Flush between": lambda bad, _: [step(insert(1)), pg.flush(), step(bad), pg.flush(), step(insert(2)), SYNC],
    "suspended portal": lambda bad, _: [
        pg.query("begin"),
        pg.parse("p", "select id from notes order by id") + pg.bind("p", "p") + pg.execute("p", 2) + SYNC,
        pg.execute("p", 2) + SYNC,
        step(bad) + SYNC,
        pg.execute("p", 2) + SYNC,
        pg.query("rollback"),
    ],
    "suspended portal and Query": lambda bad, _: [
        pg.query("begin"),
        pg.parse("p", "select id from notes order by id") + pg.bind("p", "p") + pg.execute("p", 2) + SYNC,
        pg.query(bad),
        pg.execute("p", 2) + SYNC,
        pg.query("commit"),
    ],
    "refused behind a suspended portal in one group": lambda bad, _: [
        pg.parse("", "select id from notes order by id") + pg.bind() + pg.execute("", 3) + step(bad) + SYNC,
        pg.query(insert(1)),
    ],
    "refused COPY": lambda _, copy: [
        pg.query(copy),
        pg.copy_data("1\n"),
        pg.copy_done(),
        SYNC,
        pg.query(insert(1)),
    ],
    "refused COPY in a transaction": lambda _, copy: [
        pg.query("begin"),
        pg.query(copy),
        pg.copy_data("1\n") + pg.copy_fail("no"),
        pg.query("commit"),
    ],
    "refused extended COPY": lambda _, copy: [
        step(insert(1)) + pg.parse("", copy) + pg.bind() + pg.execute() + pg.copy_data("1\n") + pg.copy_done() + SYNC,
        pg.query(insert(2)),
    ],
    "behind a COPY": lambda bad, _: [
        pg.query("copy t from stdin"),
        pg.copy_data("1\n") + pg.copy_done(),
        pg.query(bad),
        pg.query("copy t from stdin"),
        pg.copy_data("2\n") + pg.copy_fail("no"),
        pg.query(bad),
    ],
    "behind an extended COPY in one group": lambda bad, _: [
        pg.parse("", "copy t from stdin") + pg.bind() + pg.execute() + pg.copy_data("1\n") + pg.copy_done(),
        step(bad) + SYNC,
        pg.query(insert(2)),
    ],
    "deferred constraint": lambda bad, _: [
        pg.query("create temp table d (id integer unique deferrable initially deferred)"),
        step("insert into d values (1), (1)") + SYNC,
        pg.query("begin"),
        pg.query("insert into d values (1), (1)"),
        pg.query(bad),
        pg.query("commit"),
    ],
    "prepared transaction state": lambda bad, _: [
        pg.query("begin isolation level serializable"),
        step(insert(1)) + SYNC,
        pg.query(bad),
        pg.query("commit and chain"),
        pg.query("rollback"),
    ],
}
FUNCTION = (
    pg.query("begin"),
    pg.query(insert(1)),
    pg.function_call(UNKNOWN_OID),
    pg.query(insert(2)),
    pg.query("commit"),
)


def converse(client: RawClient, frames: Frames, rng: Random | None = None) -> list[Message]:
    """Send all in one go, or in pieces; read to the end mark, then count what is left in the table."""
    data = b"".join(
        [*frames, pg.copy_done(), SYNC, *map(pg.query, ("rollback", END, "select count(*), sum(id) from t"))]
    )
    while rng is not None and data:
        size = rng.choice((1, 3, 7, 50, 400))
        client.send(data[:size])
        data = data[size:]
    if data:
        client.send(data)
    found = client.until(lambda message: message[0] == "D" and message[1].endswith(b"the end"))
    return found + client.ready(2)


def shown(messages: list[Message], bad_codes: tuple[str, ...]) -> list[str]:
    """The outline with the codes of a bad statement made one.

    A Bind or Execute of a name that stands for nothing is among them: the proxy cannot know that it does, and refuses it unseen.
    """
    return ["E-bad" if each[:1] == "E" and each[1:] in bad_codes else each for each in outline(messages)]


def compare(
    proxy: Proxy,
    database: Database,
    frames: tuple[Frames, Frames],
    rng: Random | None = None,
    codes: tuple[str, ...] = GENUINE,
) -> str:
    """Returns what differs, or nothing. codes: those that a bad statement can have at the server."""
    with logged_in(database.server.address(database.name)) as direct:
        direct.run(SETUP)
        expected = shown(converse(direct, frames[0]), codes)
    with logged_in(proxy.address(database=database.name)) as proxied:
        proxied.run(SETUP)
        seen = shown(converse(proxied, frames[1], rng), (BLOCKED, *codes))
    return "" if seen == expected else f"server: {expected}\nproxy:  {seen}"


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("version", ["newest", "older"])
def test_refusal_is_like_the_servers_own_error(
    name: str, version: str, request: pytest.FixtureRequest, strict_proxy: Proxy, older_proxy: Proxy
) -> None:
    database: Database = request.getfixturevalue("vault" if version == "newest" else "vault_tls")
    proxy = strict_proxy if version == "newest" else older_proxy
    make = SCENARIOS[name]
    difference = compare(proxy, database, (make(MISSING, COPY_MISSING), make(SECRETS, COPY_SECRETS)))
    assert not difference, difference


def test_refused_function_call_is_like_the_servers_own_error(strict_proxy: Proxy, vault: Database) -> None:
    frames = list(FUNCTION)
    difference = compare(strict_proxy, vault, (frames, frames))
    assert not difference, difference


def random_frames(rng: Random, bad: str, copy_bad: str) -> Frames:
    """A hostile but legal conversation. The same seed gives the same one but for the bad texts."""
    texts = (insert(1), insert(2), "select id from notes order by id", "select 1/0", "begin", "commit", "rollback", bad)
    frames: Frames = []
    for number in range(rng.randrange(4, 30)):
        match rng.randrange(9):
            case 0 | 1:
                frames.append(pg.query(rng.choice(texts)))
            case 2 | 3:
                frames.append(step(rng.choice(texts)))
            case 4:
                name = rng.choice("ab")
                frames.append(rng.choice((pg.parse(name, rng.choice(texts)), pg.close("S", name))))
                frames.append(pg.bind("", name) + pg.execute("", rng.choice((0, 0, 2))))
            case 5:
                frames.append(
                    pg.bind("p", rng.choice("ab")) + pg.execute("p", 2) + rng.choice((b"", SYNC)) + pg.execute("p")
                )
            case 6:
                end = rng.choice((pg.copy_done(), pg.copy_fail("no")))
                text = rng.choice(("copy t from stdin", "copy t from stdin", copy_bad))
                data = pg.copy_data(f"{number}\n") * rng.randrange(3)
                if rng.random() < 0.5:
                    frames.append(SYNC + pg.query(text) + data + end)
                else:
                    frames.append(pg.parse("", text) + pg.bind() + pg.execute() + data + end + SYNC)
            case 7:
                frames.append(pg.query(f"{insert(number)}; {rng.choice(texts[:4])}; {insert(number)}"))
            case _:
                frames.append(rng.choice((SYNC, SYNC, pg.flush())))
    return frames


def test_random_conversations_end_like_the_servers_own(make_proxy: Callable[..., Proxy], vault: Database) -> None:
    """D3, D13: every reply in order and every transaction state, in conversations that nobody wrote.

    Names that stand for nothing go on to the server here: a policy that blocks opaque code refuses them unseen, and then
    even the count of replies may differ (a portal whose Bind failed while planning answers Execute with nothing).
    """
    proxy = make_proxy(policy=OPEN_POLICY, database=vault.name)
    count = scaled(60, 3000)
    different: list[int] = []
    texts = ""
    replies = 0
    for seed in range(count):
        frames = (
            random_frames(Random(seed), MISSING, COPY_MISSING),
            random_frames(Random(seed), SECRETS, COPY_SECRETS),
        )
        replies += sum(map(len, frames))
        difference = compare(proxy, vault, frames, Random(seed) if seed % 2 else None, RANDOM_GENUINE)
        if difference:
            different.append(seed)
            texts = texts or difference
    record(
        "D13",
        "random conversations whose replies or transaction states differ from the server's",
        count=count,
        failures=len(different),
        seeds=different[:20],
        frames=replies,
        first=texts,
    )


MULTI = [
    ("first", "select * from secrets; insert into notes values (100, 'x'); commit"),
    ("middle", "insert into notes values (100, 'x'); select * from secrets; insert into notes values (101, 'x')"),
    ("last", "insert into notes values (100, 'x'); insert into notes values (101, 'x'); select * from secrets"),
    ("after COMMIT", "insert into notes values (100, 'x'); commit; select * from secrets"),
    ("between COMMITs", "begin; insert into notes values (100, 'x'); commit; delete from secrets; commit"),
    ("after ROLLBACK", "begin; rollback; insert into notes values (100, 'x'); commit; update secrets set value = ''"),
    ("drop behind", "create table notes2 (id int); commit; drop table notes"),
    ("truncate in front", "truncate notes; select 1"),
    ("opaque code", "insert into notes values (100, 'x'); commit; do $$ begin delete from notes; end $$"),
    ("not parsable", "insert into notes values (100, 'x'); commit; selct 1"),
    ("comment around", "insert into notes values (100, 'x'); commit;/**/select/**/*/**/from/**/secrets--"),
    ("SET that changes lexing", r"set standard_conforming_strings = off; select 'a\'; select * from secrets; --'"),
]


@pytest.mark.parametrize("prefix", ["", "begin"], ids=["autocommit", "open transaction"])
def test_text_of_several_statements_is_refused_whole(strict_proxy: Proxy, vault: Database, prefix: str) -> None:
    """D2: no prefix of it may run, because an inner COMMIT would make it permanent."""
    ran = []
    for place, text in MULTI:
        with logged_in(strict_proxy.address(database=vault.name)) as client:
            if prefix:
                client.query(prefix)
            mark = vault.server.log.mark()
            messages = client.query(text)
            assert errors(messages) == [BLOCKED], (place, errors(messages))
            assert states(messages) == ("E" if prefix else "I")
            if prefix:
                assert outline(client.query("commit")) == ["CROLLBACK", "ZI"]
        ran += [
            sql for sql in vault.statements(mark) if sql != "commit" and not sql.startswith('SELECT "dbproxy refused')
        ]
    assert vault.fetch("select count(*) from notes where id >= 100") == [(0,)]
    assert vault.has_table("notes")
    assert not vault.has_table("notes2")
    record(
        f"D2.{prefix or 'autocommit'}",
        "texts with a blocked part of which anything ran",
        count=len(MULTI),
        failures=len(ran),
    )


def test_what_follows_a_refused_parse_is_skipped_and_recorded_so(strict_proxy: Proxy, vault: Database) -> None:
    """D3: one ErrorResponse, one ReadyForQuery, the rest `skipped`, and the next group works."""
    with logged_in(strict_proxy.address(database=vault.name)) as client:
        client.send(step(insert_note(1)), step(SECRETS), step(insert_note(2)), step(insert_note(3)), SYNC)
        client.send(step(insert_note(4)), SYNC)
        first, second = client.ready(), client.ready()
    assert (errors(first), states(first)) == ([BLOCKED], "I")
    assert [kind for kind, _ in first] == ["1", "2", "n", "C", "E", "Z"]
    assert not errors(second)
    assert vault.fetch("select count(*) from notes where id >= 100") == [(1,)]
    session = strict_proxy.wait_for_record(
        lambda each: each["type"] == "session.end" and each["database"] == vault.name
    )
    mine = [each for each in strict_proxy.records() if each.get("session") == session["session"]]
    skipped = [each for each in mine if each["type"] == "statement.skipped"]
    assert len(skipped) == 5  # two Parse, three Bind
    executed = [each["sql"] for each in mine if each["type"] == "statement.intent"]
    assert executed == [insert_note(1), insert_note(4)]
    assert [sql for sql in vault.statements() if "(10" in sql] == [insert_note(1), insert_note(4)]


def insert_note(number: int) -> str:
    return f"insert into notes values ({100 + number}, 'x')"


def test_query_between_an_error_and_sync_is_not_run_and_not_recorded_as_run(
    strict_proxy: Proxy, vault: Database
) -> None:
    """D4, for a genuine error and for a refusal."""
    failures = 0
    texts = ["select 1/0", SECRETS, "select * from no_such_table", "select 'x'::int"]
    for text in texts:
        with logged_in(strict_proxy.address(database=vault.name)) as client:
            mark = vault.server.log.mark()
            client.send(step(text), pg.query("delete from notes"), pg.query("select 1"), SYNC)
            messages = client.ready()
            assert len(errors(messages)) == 1
            assert not errors(client.query("select 'still here'"))
            pid = client.process_id
        failures += "delete from notes" in vault.statements(mark)
        end = strict_proxy.wait_for_record(
            lambda each, pid=pid: (
                each["type"] == "session.end" and each["server_pid"] == pid and each["database"] == vault.name
            )
        )
        mine = [each for each in strict_proxy.records() if each.get("session") == end["session"]]
        ids = {each["statement"] for each in mine if each.get("sql") == "delete from notes"}
        ids |= {each["statement"] for each in mine if each.get("sql_bytes") == len("delete from notes")}
        assert len(ids) == 1
        kinds = [
            (each["type"], each.get("status"))
            for each in mine
            if each.get("statement") in ids and each["type"] != "statement.intent"
        ]
        failures += kinds not in ([("statement.skipped", None)], [("statement.outcome", "skipped")])
    assert vault.fetch("select count(*) from notes") == [(20,)]
    record(
        "D4", "Queries between an error and Sync that ran or are recorded as run", count=len(texts), failures=failures
    )
