"""SECURITY_BAR D5, D6, D7, D8, D14: what was judged once is judged again when what it means, or the policy, has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support import pg_bytes as pg
from support.bar import BLOCKED, OPEN_POLICY, POLICY, reload_policy
from support.figures import record, scaled
from support.proxy import Proxy, running_proxy
from support.raw_client import Message, RawClient, error_texts, errors, logged_in, outline, rows, states
from support.servers import Database, PostgresServer

pytestmark = pytest.mark.workers(1)

SYNC = pg.sync()
NO_NOTES = POLICY + '  - {name: no-notes, match: {table: ["*.notes"]}, action: block, severity: high}\n'
SECRETS = "select * from secrets"
NOTES = "select id from notes order by id"


def run(name: str = "", max_rows: int = 0) -> bytes:
    return pg.bind("", name) + pg.execute("", max_rows) + SYNC


def ran(database: Database, mark: int, text: str) -> int:
    """How often the server began to run a text that contains this."""
    return sum(text in sql for sql in database.statements(mark))


def test_names_prepared_before_a_reload_are_judged_by_the_new_policy(
    make_proxy: Callable[..., Proxy], vault: Database
) -> None:
    """D5: Parse allowed, policy reloaded, Bind and Execute refused; portals bound before the reload too."""
    count = scaled(1000, 10_000)
    proxy = make_proxy(
        policy=POLICY, database=vault.name, change=lambda settings: settings.update(limits=_many_names(count))
    )
    with logged_in(proxy.address()) as client, logged_in(proxy.address()) as other:
        for start in range(0, count, 100):
            names = range(start, min(start + 100, count))
            messages = client.run(*(pg.parse(f"s{n}", f"select {n % 7} from notes") for n in names), SYNC)
            assert not errors(messages)
        other.query("begin")
        portals = range(50)
        other.run(*(pg.parse(f"p{n}", NOTES) + pg.bind(f"p{n}", f"p{n}") for n in portals), pg.execute("p0", 3), SYNC)
        mark = vault.server.log.mark()
        reload_policy(proxy, NO_NOTES)
        codes: list[str] = []
        for start in range(0, count, 100):
            client.send(*(run(f"s{n}") for n in range(start, min(start + 100, count))))
            codes += errors(client.ready(min(100, count - start)))
        first = errors(other.run(pg.execute("p0", 3), SYNC))
        assert first == [BLOCKED]
        later = [errors(other.run(pg.execute(f"p{n}"), SYNC)) for n in portals]
        assert all(code in (["25P02"], [BLOCKED], ["34000"]) for code in later), later
    executed = ran(vault, mark, "notes")
    assert codes == [BLOCKED] * count
    record(
        "D5", "statements prepared or bound before the reload that ran after it", count=count + 50, failures=executed
    )


def _many_names(count: int) -> dict[str, int]:
    return {"max_prepared_per_session": count + 10}


def test_portals_bound_before_a_reload_are_refused_one_by_one(
    make_proxy: Callable[..., Proxy], vault: Database
) -> None:
    """D5, D8: each in a transaction of its own, never executed before or suspended in the middle."""
    proxy = make_proxy(policy=POLICY, database=vault.name)
    count = 20
    for is_suspended in (False, True):
        reload_policy(proxy, POLICY + "# again\n")
        clients = [RawClient.open(proxy.host, proxy.port) for _ in range(count)]
        for client in clients:
            client.login(proxy.address())
            client.query("begin")
            start = pg.execute("p", 1) if is_suspended else b""
            assert not errors(client.run(pg.parse("s", NOTES) + pg.bind("p", "s") + start + SYNC))
        mark = vault.server.log.mark()
        reload_policy(proxy, NO_NOTES)
        refused = [errors(client.run(pg.execute("p", 1) + SYNC)) for client in clients]
        for client in clients:
            client.close()
        assert refused == [[BLOCKED]] * count
        record(
            f"D8.reload.{'suspended' if is_suspended else 'bound'}",
            "portals from before the reload that gave rows after it",
            count=count,
            failures=ran(vault, mark, "notes"),
        )


REUSE: dict[str, list[bytes]] = {
    "closed and parsed anew": [
        pg.parse("s", NOTES) + SYNC,
        pg.close("S", "s") + pg.parse("s", SECRETS) + SYNC,
        run("s"),
    ],
    "all in one group": [pg.parse("s", NOTES) + pg.close("S", "s") + pg.parse("s", SECRETS) + run("s")],
    "parsed over a live name": [pg.parse("s", NOTES) + SYNC, pg.parse("s", SECRETS) + SYNC, run("s")],
    "parsed over a live name in one group": [pg.parse("s", NOTES) + pg.parse("s", SECRETS) + run("s")],
    "unnamed reused": [pg.parse("", NOTES) + SYNC, pg.parse("", SECRETS) + SYNC, run()],
    "unnamed reused in one group": [pg.parse("", NOTES) + pg.parse("", SECRETS) + run()],
    "refused, then bound in the next group": [pg.parse("s", SECRETS) + SYNC, run("s")],
    "prepared by SQL": [pg.query("prepare s as " + SECRETS), run("s")],
    "deallocated, then prepared by SQL": [
        pg.parse("s", NOTES) + SYNC,
        pg.query("deallocate s"),
        pg.query("prepare s as " + SECRETS),
        run("s"),
    ],
    "long name": [
        pg.parse("n" * 63 + "1", NOTES) + SYNC,
        pg.close("S", "n" * 63 + "2") + SYNC,
        pg.parse("n" * 63 + "3", SECRETS) + SYNC,
        run("n" * 63 + "1"),
    ],
    "portal name reused": [
        pg.query("begin"),
        pg.parse("s", NOTES) + pg.bind("p", "s") + SYNC,
        pg.close("P", "p") + pg.parse("t", SECRETS) + pg.bind("p", "t") + SYNC,
        pg.execute("p") + SYNC,
    ],
    "two texts, then another name": [
        pg.parse("a", NOTES) + pg.parse("b", SECRETS) + SYNC,
        pg.bind("", "b") + pg.execute() + SYNC,
    ],
    "EXECUTE of a name parsed": [pg.parse("s", SECRETS) + SYNC, pg.query("execute s")],
    "cursor on it": [pg.query("begin"), pg.query("declare c cursor for " + SECRETS), pg.query("fetch all c")],
    "failed group in front": [
        pg.parse("s", NOTES) + SYNC,
        pg.parse("x", "select 1/0") + run("x"),
        pg.close("S", "s") + SYNC,
        pg.parse("s", SECRETS) + run("s"),
    ],
}


@pytest.mark.parametrize("cut", [0, 1, 17], ids=["whole", "bytes", "pieces"])
def test_what_a_name_stands_for_now_is_what_is_judged(strict_proxy: Proxy, vault: Database, cut: int) -> None:
    """D6: whatever was done to the name before, blocked text never runs."""
    executed = []
    for name, frames in REUSE.items():
        mark = vault.server.log.mark()
        with logged_in(strict_proxy.address(database=vault.name)) as client:
            data = b"".join(frames) + SYNC + pg.query("rollback") + pg.query("select 'the end'")
            for at in range(0, len(data), cut or len(data)):
                client.send(data[at : at + (cut or len(data))])
            messages = client.until(lambda message: message[0] == "D" and message[1].endswith(b"the end"))
            shown = [row for row in rows(messages) if b"classified" in b"".join(filter(None, row))]
        if ran(vault, mark, SECRETS) or shown:
            executed.append(name)
    record(
        f"D6.cut{cut}",
        "ways to run blocked text under another text's name",
        count=len(REUSE),
        failures=len(executed),
        which=executed,
    )


SWITCHES = {
    "set_config in a SELECT": ["select set_config('search_path', 'vault', false)"],
    "set_config in the extended protocol": ["+select set_config('search_path', 'vault', false)"],
    "SET": ["set search_path = vault"],
    "SET LOCAL in a transaction": ["begin", "set local search_path = vault"],
    "set_config in a CTE": ["with x as (select set_config('search_path', 'vault', false)) select * from x"],
    "set_config from a value": ["select set_config(n, v, false) from (values ('search_path', 'vault')) x(n, v)"],
    "SET SCHEMA": ["set schema 'vault'"],
    "two statements": ["select 1; set search_path = vault; select 2"],
    "function with a SET clause that is left": ["select switch_path()"],
    "rolled back to the other": ["begin", "set search_path = public", "rollback"],
    "RESET to the role's own": ["reset search_path"],
    "DISCARD ALL": ["discard all"],
}
START_IN_VAULT = ("rolled back to the other", "RESET to the role's own", "DISCARD ALL")
D7_POLICY = """
version: 1
defaults: {action: allow, unsafe_on_unparsable: allow, unsafe_on_dynamic: allow, on_error: block}
rules:
  - {name: no-vault, match: {table: ["vault.*"]}, action: block, severity: high}
"""


@pytest.fixture(scope="module", params=["newest", "older"])
def switched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Proxy, PostgresServer]]:
    """A proxy with that policy, and the server behind it."""
    server: PostgresServer = request.getfixturevalue("postgres" if request.param == "newest" else "postgres_tls")
    with running_proxy(tmp_path_factory.mktemp("switched"), server, policy=D7_POLICY, workers=1) as proxy:
        yield proxy, server


@pytest.mark.parametrize("is_one_batch", [False, True], ids=["waits", "pipelined"])
def test_prepared_text_that_changes_its_meaning_is_judged_again(
    switched: tuple[Proxy, PostgresServer], request: pytest.FixtureRequest, is_one_batch: bool
) -> None:
    """D7: one prepared text, another table after a switch of search_path that may not be reported."""
    proxy, server = switched
    database: Database = request.getfixturevalue("vault" if server.ca is None else "vault_tls")
    assert database.server is server
    database.execute(
        "create schema vault authorization app",
        "set role app; create table vault.t (v text); insert into vault.t values ('classified')",
        "set role app; create table public.t (v text); insert into public.t values ('plain')",
        "set role app; create function switch_path() returns text language sql as "
        "$$ select set_config('search_path', 'vault', false) $$",
    )
    address = proxy.address(database=database.name)
    read = "select v from t"
    leaks = []
    for name, texts in SWITCHES.items():
        parameters = [("options", "-c search_path=vault")] if name in START_IN_VAULT else []
        with logged_in(address, parameters) as client:
            if parameters:
                assert errors(client.run(pg.parse("s", read), run("s"))) == [BLOCKED]
                client.query("set search_path = public")
            assert not errors(client.run(pg.parse("s", read), SYNC)), name
            messages = client.run(run("s"))
            assert rows(messages) == [(b"plain",)], (name, error_texts(messages), details(messages))
            if name.startswith("rolled back"):
                client.query("set search_path = vault")
            steps = [
                pg.parse("", text[1:]) + pg.bind() + pg.execute() + SYNC if text[0] == "+" else pg.query(text)
                for text in texts
            ]
            if name == "DISCARD ALL":
                steps.append(pg.parse("s", read) + SYNC)
            if is_one_batch:
                client.send(*steps, run("s"))
                messages = client.ready(len(steps) + 1)
            else:
                messages = [message for step in steps for message in client.run(step)]
                messages += client.run(run("s"))
            if (b"classified",) in rows(messages) or errors(messages)[-1:] not in ([BLOCKED], ["25P02"], ["26000"]):
                leaks.append((name, outline(messages)))
    record(
        f"D7.postgres{database.server.major}.{'pipelined' if is_one_batch else 'waits'}",
        "switches of search_path after which a prepared text read the protected table",
        count=len(SWITCHES),
        failures=len(leaks),
        which=leaks,
    )


def details(messages: list[Message]) -> list[str]:
    return [pg.fields_of(body).get("D", "") for kind, body in messages if kind == "E"]


@pytest.mark.parametrize("name", ["x", "é", "a:b"])
def test_a_name_given_anew_by_parse_is_no_longer_what_sql_prepared(
    strict_proxy: Proxy, vault: Database, name: str
) -> None:
    """Parse and PREPARE share one name space: after Close and Parse, EXECUTE runs what Parse said."""
    with logged_in(strict_proxy.address(database=vault.name)) as client:
        assert not errors(client.query(f'prepare "{name}" as select 1'))
        text = "select body from notes"
        assert not errors(client.run(pg.close("S", name), pg.parse(name, text), SYNC))
        mark = vault.server.log.mark()
        assert errors(client.query(f'execute "{name}"')) == [BLOCKED]
        assert not errors(client.query(f'deallocate "{name}"'))
        assert not errors(client.query(f'prepare "{name}" as select 1'))
        assert not errors(client.query(f'deallocate "{name}"'))
        assert not errors(client.run(pg.parse(name, text), SYNC))
        assert errors(client.query(f'execute "{name}"')) == [BLOCKED]
    assert ran(vault, mark, "select body") == 0


def test_after_set_role_the_users_own_schema_is_another_one(
    make_proxy: Callable[..., Proxy], postgres: PostgresServer, vault: Database
) -> None:
    """Where a policy lets SET ROLE pass, "$user" in search_path is no longer the role that logged in."""
    postgres.execute(
        "create role deputy; grant deputy to app; create schema deputy authorization app;"
        " grant usage on schema deputy to deputy; create table deputy.pay as select 1 as id; grant select on deputy.pay to deputy",
        database=vault.name,
    )
    rule = '  - {name: no-pay, match: {table: ["deputy.pay"]}, action: block, severity: high}\n'
    try:
        proxy = make_proxy(policy=OPEN_POLICY + rule, database=vault.name)
        with logged_in(proxy.address()) as client:
            assert not errors(client.query("set role deputy"))
            assert errors(client.query("select id from pay")) == [BLOCKED]
    finally:
        postgres.execute("drop schema deputy cascade; drop role deputy", database=vault.name)


def test_switching_back_makes_the_prepared_text_allowed_again(strict_proxy: Proxy, vault: Database) -> None:
    vault.execute(
        "create schema other authorization app", "set role app; create table other.notes as select 7 as id, 'x' as body"
    )
    with logged_in(strict_proxy.address(database=vault.name)) as client:
        client.run(pg.parse("s", NOTES), SYNC)
        assert len(rows(client.run(run("s")))) == 20
        client.query("set search_path = other")
        assert rows(client.run(run("s"))) == [(b"7",)]
        client.query("set search_path = public")
        assert len(rows(client.run(run("s")))) == 20


def test_suspended_portals_are_recorded_execution_by_execution(strict_proxy: Proxy, vault: Database) -> None:
    """D8: each Execute has its record, and the rows in the records are the rows delivered."""
    delivered = 0
    with logged_in(strict_proxy.address(database=vault.name)) as client:
        client.query("begin")
        client.run(pg.parse("s", NOTES) + pg.bind("p", "s") + SYNC)
        for max_rows in (1, 1, 3, 7, 0):
            delivered += len(rows(client.run(pg.execute("p", max_rows) + SYNC)))
        client.query("declare c cursor for " + NOTES)
        for text in ("fetch 3 c", "fetch backward 1 c", "move 2 c", "fetch all c"):
            delivered += len(rows(client.query(text)))
        client.query("commit")
        pid = client.process_id
    end = strict_proxy.wait_for_record(
        lambda each: each["type"] == "session.end" and (each["database"], each["server_pid"]) == (vault.name, pid)
    )
    mine = [each for each in strict_proxy.records() if each.get("session") == end["session"]]
    outcomes = [each for each in mine if each["type"] == "statement.outcome"]
    portal = {each["statement"] for each in mine if each["type"] == "statement.intent" and each.get("sql") == NOTES}
    counted = [each["rows"] for each in outcomes if each["statement"] in portal]
    assert counted == [1, 1, 3, 7, 8]
    fetched = {
        each["statement"] for each in mine if each["type"] == "statement.intent" and each.get("sql", "")[:5] == "fetch"
    }
    total = sum(counted) + sum(each["rows"] for each in outcomes if each["statement"] in fetched)
    assert delivered == 20 + 3 + 1 + 16
    record(
        "D8",
        "rows delivered but not in the records of their executions",
        count=delivered,
        failures=abs(delivered - total),
    )


EVIL = (
    "create function hidden() returns int language sql volatile as $$ delete from notes; select 1 $$",
    "create function evil() returns int language plpgsql immutable as $$ begin perform hidden(); return 1; end $$",
)
TRICKS = {
    "evaluated at Bind": [pg.parse("", "select evil()") + pg.bind() + SYNC],
    "in a condition": [pg.parse("", "select 1 from orders where id = evil()") + pg.bind() + SYNC],
    "named": [pg.parse("s", "select evil()") + SYNC, pg.bind("", "s") + pg.describe("P") + SYNC],
    "EXPLAIN": [pg.query("explain select evil()")],
    "EXPLAIN in the extended protocol": [pg.parse("", "explain select evil()") + pg.bind() + pg.execute() + SYNC],
    "EXPLAIN with a condition": [pg.query("explain select 1 from orders where id = evil()")],
    "quoted": [pg.parse("", 'select "evil"()') + pg.bind() + SYNC],
    "qualified": [pg.parse("", "select public.evil()") + pg.bind() + SYNC],
}


def test_code_that_runs_while_planning_is_judged_before_it_is_planned(
    make_proxy: Callable[..., Proxy], vault: Database
) -> None:
    """D14: refused, it leaves no trace in the data; allowed, the record says `bound_only`."""
    vault.execute("set role app; " + EVIL[0], "set role app; " + EVIL[1])
    effects = []
    proxy = make_proxy(policy=POLICY, database=vault.name)
    for name, frames in TRICKS.items():
        with logged_in(proxy.address()) as client:
            for frame in frames:
                assert errors(client.run(frame)), name
        if vault.fetch("select count(*) from notes") != [(20,)]:
            effects.append(name)
    reload_policy(proxy, OPEN_POLICY)
    with logged_in(proxy.address()) as client:
        messages = client.run(TRICKS["evaluated at Bind"][0])
        assert (errors(messages), states(messages)) == ([], "I"), error_texts(messages)
        client.query("select 1")
    # The premise of this test: it does run without Execute.
    assert vault.fetch("select count(*) from notes") == [(0,)]
    outcome = proxy.wait_for_record(lambda each: each.get("status") == "bound_only")
    assert outcome["type"] == "statement.outcome"
    record(
        "D14",
        "refused texts whose functions ran while they were planned",
        count=len(TRICKS),
        failures=len(effects),
        which=effects,
    )


def test_a_portal_is_not_taken_for_an_older_cursor_of_that_name(strict_proxy: Proxy, vault: Database) -> None:
    with logged_in(strict_proxy.address(database=vault.name)) as client:
        for text in ("begin", "declare c cursor for select 1", "commit", "begin"):
            client.query(text)
        client.run(pg.parse("", "select body from notes"), pg.bind("c", ""), SYNC)
        assert errors(client.query("fetch all from c")) == [BLOCKED]  # what the name stands for is not known


@pytest.mark.parametrize(
    ("messages", "code", "why"),
    [
        (pg.bind("", "nothing") + pg.execute(), "26000", "unknown_prepared"),
        (pg.execute("nothing"), "34000", "unknown_cursor"),
    ],
    ids=["statement", "portal"],
)
def test_a_name_that_does_not_exist_has_the_servers_own_code(
    strict_proxy: Proxy, vault: Database, messages: bytes, code: str, why: str
) -> None:
    """Drivers that lose a prepared statement prepare it again when they see 26000; the database never sees the name."""
    with logged_in(strict_proxy.address(database=vault.name)) as client:
        answer = client.run(messages, pg.sync())
        assert errors(answer) == [code]
        assert "nothing" in error_texts(answer)[0]
        assert not errors(client.query("select 1"))
    [refused] = [each for each in strict_proxy.records("statement.refused") if each["database"] == vault.name]
    assert (refused["why"], refused["flags"], refused["action"]) == (why, ["unknown_prepared"], "block")
