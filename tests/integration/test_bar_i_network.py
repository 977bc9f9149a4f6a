"""SECURITY_BAR I2: the database's host is gone and says nothing, not even that it is gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import pg_bytes as pg
from support.far_link import FarLink, far_link
from support.figures import record, scaled
from support.processes import wait_until, whole_proxy
from support.proxy import Proxy
from support.raw_client import RawClient, errors, logged_in
from support.servers import Database, PostgresServer, fresh_database

LOST_S = scaled(3, 25)
"""25 is what the product has where nothing is said."""
MOST_S = 30.0


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, "test_bar_i_network") as fresh:
        yield fresh


@pytest.fixture(scope="module")
def link(database: Database) -> Iterator[FarLink]:
    with far_link(database.server) as far:
        yield far


@pytest.fixture(scope="module")
def proxy(link: FarLink, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    def change(settings: dict[str, Any]) -> None:
        settings["timeouts"] = {"server_lost_s": LOST_S, "connect_s": 1}
        settings["limits"] = {"max_sessions_per_user": 500, "max_sessions_per_address": 500}

    with whole_proxy(tmp_path_factory.mktemp("far"), link.address, database, change=change) as behind:
        yield behind


def _nothing(_: RawClient) -> None:
    pass


def _begin(client: RawClient) -> None:
    client.query("begin")


def _sleep(client: RawClient) -> None:
    client.send(pg.query("select pg_sleep(120)"))


def _stream(client: RawClient) -> None:
    client.send(pg.query("select n, pg_sleep(0.01) from generate_series(1, 1000000) n"))
    client.until_kind("D")


def _copy_in(client: RawClient) -> None:
    client.send(pg.query("copy orders from stdin"))
    client.until_kind("G")


def _query(client: RawClient) -> None:
    client.send(pg.query("select 1"))


def _commit(client: RawClient) -> None:
    client.send(pg.query("commit"))


def _copy_data(client: RawClient) -> None:
    client.send(pg.frame("d", b"x" * 10_000))


SITUATIONS: dict[str, tuple[Callable[[RawClient], None], Callable[[RawClient], None]]] = {
    "idle": (_nothing, _nothing),
    "in a statement": (_sleep, _nothing),
    "in a result": (_stream, _nothing),
    "about to send": (_nothing, _query),
    "about to commit": (_begin, _commit),
    "in COPY": (_copy_in, _copy_data),
}
"""What the client does before the host is gone, and what it sends afterwards."""


@pytest.mark.timeout(600)
def test_host_that_is_gone_without_a_word_is_noticed_and_the_client_told(
    proxy: Proxy, link: FarLink, database: Database
) -> None:
    count = scaled(1, 10)
    names = [name for name in SITUATIONS for _ in range(count)]
    mark = len(proxy.records("session.end"))
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(names)) as threads:
        clients = [stack.enter_context(logged_in(proxy.address(), timeout_s=90)) for _ in names]
        for name, client in zip(names, clients, strict=True):
            SITUATIONS[name][0](client)
        time.sleep(0.3)  # what was sent is acknowledged: the kernel has nothing to send again
        link.vanish()
        began = time.monotonic()
        try:
            for name, client in zip(names, clients, strict=True):
                SITUATIONS[name][1](client)

            def wait(client: RawClient) -> tuple[str, float]:
                code = "".join(errors(client.to_the_end()))
                # Where the last that came is a part of a message, nothing can be said any more: the stream just ends.
                return "08006" if client.is_within_message and not code else code, time.monotonic() - began

            told = list(threads.map(wait, clients))
            with pytest.raises(AssertionError, match="cannot be reached"), logged_in(proxy.address()):
                pass
        finally:
            link.come_back()
        with logged_in(proxy.address()) as client:
            assert not errors(client.query("select 1"))
    wait_until(lambda: len(proxy.records("session.end")) >= mark + len(names))
    ends = proxy.records("session.end")[mark : mark + len(names)]
    assert {each["why"] for each in ends} == {"server_lost"}
    assert {each["detail"] for each in ends} <= {
        f"the host of the database has not answered for {LOST_S} s",
        "Connection timed out",
        "connection timed out",
    }
    unknown = [each for each in proxy.records("statement.outcome") if each["status"] == "unknown"]
    assert len(unknown) == count * 5  # all but the idle one
    wrong = [(name, *each) for name, each in zip(names, told, strict=True) if each[0] != "08006" or each[1] > MOST_S]
    record(
        "I2",
        "sessions not told within 30 s that the host of their database is gone",
        count=len(names),
        failures=len(wrong),
        examples=wrong[:3],
        server_lost_s=LOST_S,
        first_after_s=round(min(after for _, after in told), 1),
        last_after_s=round(max(after for _, after in told), 1),
    )


@pytest.mark.timeout(600)
def test_server_that_is_there_and_does_not_read_keeps_its_sessions(proxy: Proxy, database: Database) -> None:
    """Waiting for a lock it takes nothing of a COPY: that is no lost host, however long it lasts."""
    with database.connect() as holder, logged_in(proxy.address(), timeout_s=90) as client:
        holder.execute("begin")
        holder.execute("lock table orders in access exclusive mode")
        try:
            # The lock is waited for before the COPY begins: so it is a pipeline that is not read.
            client.send(pg.query("select count(*) from orders"))
            client.stream.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while True:
                    client.send(pg.query("select '" + "x" * 60_000 + "'"))
            time.sleep(LOST_S + 4)
        finally:
            holder.execute("rollback")
        client.stream.settimeout(60)
        assert not errors(client.ready(2))
