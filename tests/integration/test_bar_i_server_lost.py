"""SECURITY_BAR I1, I4: the database server goes away under sessions that work, and comes back."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import pg_bytes as pg
from support.cut_link import CutLink, cut_link
from support.figures import record, scaled
from support.processes import wait_until, whole_proxy
from support.proxy import Proxy
from support.raw_client import RawClient, errors, logged_in
from support.servers import Database, PostgresServer, fresh_database

WORKING = (
    "select pid from pg_stat_activity where state = 'active' and query like '%/* %' and query not like '%pg_stat%'"
    " and wait_event in ('PgSleep', 'ClientWrite')"
)


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, "test_bar_i_server_lost") as fresh:
        yield fresh


@pytest.fixture(scope="module")
def link(database: Database) -> Iterator[CutLink]:
    with cut_link(database.server) as cuttable:
        yield cuttable


@pytest.fixture(scope="module")
def proxy(link: CutLink, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {"max_sessions_per_user": 500, "max_sessions_per_address": 500}

    with whole_proxy(tmp_path_factory.mktemp("lost"), link.address, database, change=change) as behind:
        yield behind


def _run(text: str) -> Callable[[RawClient, int], None]:
    def begin(client: RawClient, number: int) -> None:
        client.send(pg.query(f"{text} /* {number} */"))

    return begin


def _copy_in(client: RawClient, number: int) -> None:
    client.send(pg.query(f"copy slow from stdin /* {number} */"))
    client.until_kind("G")
    client.send(pg.frame("d", b"1\n2\n3\n"))


def _commit(client: RawClient, number: int) -> None:
    client.query("begin")
    assert not errors(client.query("insert into slow_in_the_end values (1)"))
    client.send(pg.query(f"commit /* {number} */"))


SITUATIONS = {
    "in a statement": _run("select pg_sleep(30)"),
    "in a result": _run("select repeat('x', 10000), pg_sleep(0.01) from generate_series(1, 100000)"),
    "in COPY OUT": _run("copy (select repeat('x', 10000), pg_sleep(0.01) from generate_series(1, 100000)) to stdout"),
    "in COPY IN": _copy_in,
    "in a write": _run("update orders set amount = amount where pg_sleep(0.01) is not null"),
    "in a commit": _commit,
}
SLOW_TABLES = """
create function take_time() returns trigger language plpgsql as $$begin perform pg_sleep(30); return new; end$$;
create table slow (n integer);
create trigger slow before insert on slow for each row execute function take_time();
create table slow_in_the_end (n integer);
create constraint trigger slow after insert on slow_in_the_end deferrable initially deferred
    for each row execute function take_time();
grant all on slow, slow_in_the_end to app
"""


def test_statement_whose_server_is_lost_ends_with_an_error_and_an_unknown_outcome(
    proxy: Proxy, link: CutLink, database: Database
) -> None:
    """I1: nothing is tried again; whether a commit in flight was done nobody can know."""
    rounds = scaled(2, 34)
    database.execute(SLOW_TABLES)
    mark = database.server.log.mark()
    ends, unknown = len(proxy.records("session.end")), _unknown(proxy)
    wrong = []
    for number in range(rounds):
        for name, begin in SITUATIONS.items():
            with logged_in(proxy.address()) as client:
                begin(client, number)
                wait_until(lambda: database.fetch(WORKING))
                link.cut()
                found = errors(client.to_the_end())
                # Where the server was cut off within a message, nothing can be said any more: the stream just ends.
                if found != ["08006"] and not client.is_within_message:
                    wrong.append((name, found))
                link.mend()
            database.execute(f"select pg_terminate_backend(pid) from ({WORKING}) as working")
            wait_until(lambda: not database.fetch(WORKING))
    count = rounds * len(SITUATIONS)
    wait_until(lambda: len(proxy.records("session.end")) - ends >= count)
    assert _unknown(proxy) - unknown == count
    ran = [text for text in database.statements(mark) if text.endswith(" */")]
    assert len(ran) == count, "a statement was tried again"
    assert {each["why"] for each in proxy.records("session.end")[ends : ends + count]} == {"server_lost"}
    record(
        "I1",
        "lost servers after which the client was not told, or the outcome was not unknown",
        count=count,
        failures=len(wrong),
        examples=wrong[:3],
    )


def _unknown(proxy: Proxy) -> int:
    return Counter(each["status"] for each in proxy.records("statement.outcome"))["unknown"]


def test_restart_of_the_server_ends_all_sessions_and_new_ones_work(proxy: Proxy, link: CutLink) -> None:
    """I4: nothing is left over."""
    count = scaled(30, 200)
    with logged_in(proxy.address()):
        pass  # what a first login opens for good is open
    wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0)
    before = proxy.metric("dbproxy_process_open_files")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(logged_in(proxy.address())) for _ in range(count)]
        began = time.monotonic()
        link.cut()
        told = [errors(client.to_the_end()) for client in clients]
        took = time.monotonic() - began
        with pytest.raises(AssertionError, match="cannot be reached"), logged_in(proxy.address()):
            pass
        link.mend()
        began = time.monotonic()
        with logged_in(proxy.address()) as client:
            assert not errors(client.query("select 1"))
        back = time.monotonic() - began
    wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0)
    wait_until(lambda: proxy.metric("dbproxy_process_open_files") <= before + 4, 10, "closing of every socket")
    record(
        "I4",
        "sessions not told within 5 s that their server is gone",
        count=count,
        failures=sum(codes == [] for codes in told) + (took > 5),
        ended_after_s=round(took, 2),
        new_login_s=round(back, 2),
    )
