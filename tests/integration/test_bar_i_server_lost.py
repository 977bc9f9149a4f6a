"""SECURITY_BAR I1, I4: the database server goes away under sessions that work, and comes back."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support import pg_bytes as pg
from support.cut_link import CutLink, cut_link
from support.figures import record, scaled
from support.processes import wait_until, whole_proxy
from support.proxy import Proxy
from support.raw_client import errors, logged_in
from support.servers import Database, PostgresServer, fresh_database

WORKING = (
    "select pid from pg_stat_activity where state = 'active' and query like '%pg_sleep%' and pid <> pg_backend_pid()"
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


def test_statement_whose_server_is_lost_ends_with_an_error_and_an_unknown_outcome(
    proxy: Proxy, link: CutLink, database: Database
) -> None:
    """I1: mid-statement, mid-result, mid-COPY, in a transaction; nothing is tried again."""
    rounds = scaled(2, 50)
    mark = database.server.log.mark()
    ends, unknown = len(proxy.records("session.end")), _unknown(proxy)
    wrong = []
    texts = [
        "select pg_sleep(30) /* {n} */",
        "select repeat('x', 10000), pg_sleep(0.01) from generate_series(1, 100000) /* {n} */",
        "copy (select repeat('x', 10000), pg_sleep(0.01) from generate_series(1, 100000)) to stdout /* {n} */",
        "update orders set amount = amount where pg_sleep(0.01) is not null /* {n} */",
    ]
    for number in range(rounds):
        for text in texts:
            with logged_in(proxy.address()) as client:
                client.send(pg.query(text.format(n=number)))
                wait_until(lambda: database.fetch(WORKING))
                link.cut()
                found = errors(client.to_the_end())
                # Where the server was cut off within a message, nothing can be said any more: the stream just ends.
                if found != ["08006"] and not client.is_within_message:
                    wrong.append((text, found))
                link.mend()
            database.execute(f"select pg_terminate_backend(pid) from ({WORKING}) as working")
    count = rounds * len(texts)
    wait_until(lambda: len(proxy.records("session.end")) - ends >= count)
    assert _unknown(proxy) - unknown == count
    ran = [each.sql for each in database.server.log.statements(mark, database=database.name) if "/* " in each.sql]
    assert len(ran) == count, "a statement was tried again"
    record(
        "I1", "lost servers after which the client was not told", count=count, failures=len(wrong), examples=wrong[:3]
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
