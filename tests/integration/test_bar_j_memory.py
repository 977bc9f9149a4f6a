"""SECURITY_BAR J3, J4, J6: a reader that does not keep up holds up its server, not the proxy's memory.

The bar's own sizes (1 GB, 200 readers of 100 MB) run with BAR=full; the ordinary run is a scaled-down twin. 1 GB at 1 MB/s
is 17 minutes, so BAR=full reads 1 GB at 16 MB/s and 240 MiB at 1 MB/s; BAR=hours reads the 1 GB at 1 MB/s as well.
"""

from __future__ import annotations

import hashlib
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from support import pg_bytes as pg
from support.figures import IS_HOURS, record, scaled
from support.proxy import Proxy
from support.raw_client import RawClient, errors, logged_in, outline
from support.servers import Database
from support.slow_readers import slow_readers

ROW_BYTES = 8192
END = pg.ready("I")


def sized(rows: int) -> str:
    return f"select repeat(md5(n::text), {ROW_BYTES // 32}) from generate_series(1, {rows}) n"


def rows_for(megabytes: int) -> int:
    return megabytes * (1 << 20) // ROW_BYTES


def read_stream(client: RawClient, sql: str, bytes_per_s: float | None) -> tuple[str, int]:
    """Hash and size of the raw reply to a Query, read no faster than told."""
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.send(pg.query(sql))
    digest, size, tail = hashlib.sha256(), 0, b""
    started = time.monotonic()
    while not tail.endswith(END):
        data = client.stream.recv(1 << 16)
        assert data, "the connection ended in the middle of the result"
        digest.update(data)
        size += len(data)
        tail = (tail + data)[-len(END) :]
        if bytes_per_s:
            time.sleep(max(0.0, size / bytes_per_s - (time.monotonic() - started)))
    return digest.hexdigest(), size


def roomy(settings: dict[str, Any]) -> None:
    settings["limits"] = {"max_sessions_per_address": 1000, "max_sessions_per_user": 1000, "max_sessions": 2000}


READERS = {
    "fast": (scaled(96, 1024), None),
    "slow": (scaled(72, 1024), scaled(32 << 20, 16 << 20)),
    "slowest": (scaled(8, 1024 if IS_HOURS else 240), scaled(4 << 20, 1 << 20)),
}
"""How many MiB at how many bytes a second; None: as fast as it can."""


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("reader", READERS)
def test_large_result_passes_unharmed_and_takes_no_memory(
    make_proxy: Callable[..., Proxy], vault: Database, reader: str
) -> None:
    """J3: at most 32 MiB more, and not a byte changed."""
    megabytes, bytes_per_s = READERS[reader]
    proxy = make_proxy(database=vault.name, change=roomy)
    sql = sized(rows_for(megabytes))
    with logged_in(vault.server.address(vault.name), timeout_s=60) as direct:
        expected = read_stream(direct, sql, None)
    with logged_in(proxy.address(), timeout_s=60) as client:
        client.query("select 1")
        before = proxy.forget_peak()
        seen = read_stream(client, sql, bytes_per_s)
        grown = proxy.memory_kib("VmHWM") - before
        assert outline(client.query("select 1")) == ["T", "D(b'1',)", "CSELECT 1", "ZI"]
    outcome = proxy.wait_for_record(lambda each: each["type"] == "statement.outcome" and each["rows"] > 1000)
    assert (outcome["rows"], outcome["received_bytes"]) == (rows_for(megabytes), seen[1])
    record(
        f"J3.{reader}",
        "results changed on the way, or memory grown by more than 32 MiB",
        count=1,
        failures=int(seen != expected) + (grown > 32 * 1024),
        megabytes=megabytes,
        bytes_per_s=bytes_per_s,
        rss_growth_kib=grown,
    )


@pytest.mark.timeout(7200)
def test_reader_that_stops_stops_its_server(make_proxy: Callable[..., Proxy], vault: Database) -> None:
    """J3: back-pressure reaches the database; nothing is read ahead of the client."""
    proxy = make_proxy(database=vault.name, change=roomy)
    with logged_in(proxy.address(), timeout_s=60) as client:
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        before = proxy.forget_peak()
        client.send(pg.query(sized(rows_for(256))))
        client.stream.recv(1)
        deadline = time.monotonic() + 20
        waiting = (
            "select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and datname = current_database()"
        )
        while vault.fetch(waiting) != [(1,)]:
            assert time.monotonic() < deadline, "the server is not waiting for its client"
            time.sleep(0.1)
        grown = proxy.memory_kib("VmHWM") - before
        with logged_in(proxy.address("bob")) as other:
            assert not errors(other.query("select 1"))
    assert grown < 32 * 1024


def p99_ms(clients: Sequence[RawClient], seconds: float) -> list[float]:
    """Of one statement after the other on each in turn, with a pause of 2 ms between them."""
    waits: list[list[float]] = [[] for _ in clients]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for client, found in zip(clients, waits, strict=True):
            started = time.perf_counter()
            client.query("select 1")
            found.append(time.perf_counter() - started)
            time.sleep(0.002)
    return [sorted(found)[int(len(found) * 0.99)] * 1e3 for found in waits]


@pytest.mark.timeout(7200)
def test_many_slow_readers_stay_within_their_share(make_proxy: Callable[..., Proxy], vault: Database) -> None:
    """J4: 200 readers in 512 MiB, each with the whole of its result; the others go on as fast.

    Others' latency, in the full run only: rounds in which all read at 128 KiB/s, and between them rounds in which they read
    nothing; medians over the rounds. The same is measured on a direct connection: by what factor that one is slower, the
    machine is, with 200 busy servers and the readers on it. After the rounds the readers go on at 1 MiB/s.
    """
    readers = 200
    megabytes = scaled(6, 100)
    rounds = scaled(0, 16)
    proxy = make_proxy(database=vault.name, change=roomy)
    sql = sized(rows_for(megabytes))
    addresses = [proxy.address("alice" if number % 2 else "bob") for number in range(readers)]
    loaded, quiet = [], []
    with (
        logged_in(vault.server.address(vault.name), timeout_s=60) as direct,
        logged_in(proxy.address("carol"), timeout_s=60) as other,
    ):
        expected = read_stream(direct, sql, None)
        other.query("select 1")
        before = proxy.forget_peak()
        with slow_readers(addresses, sql, bytes_per_s=1 << 17) as slow:
            p99_ms([other, direct], 2)  # until every buffer on the way is full
            for _ in range(rounds):
                slow.go()
                loaded.append(p99_ms([other, direct], 3))
                slow.hold()
                p99_ms([other], 0.5)
                quiet.append(p99_ms([other, direct], 3))
            results = slow.finish(scaled(4 << 20, 1 << 20))
        grown = proxy.memory_kib("VmHWM") - before
    wrong = sum(result != expected for result in results) + readers - len(results)
    figures = {}
    is_slowed = False
    if rounds:
        with_readers, direct_with = (statistics.median(each) for each in zip(*loaded, strict=True))
        without, direct_without = (statistics.median(each) for each in zip(*quiet, strict=True))
        is_slowed = with_readers / without > 2 * max(1.0, direct_with / direct_without)
        figures = {
            "others_p99_ms": round(with_readers, 2),
            "others_p99_ms_without_readers": round(without, 2),
            "direct_p99_ms": round(direct_with, 2),
            "direct_p99_ms_without_readers": round(direct_without, 2),
        }
    record(
        "J4",
        "results changed on the way, memory grown beyond 512 MiB, or others' p99 more than twice that without readers",
        count=readers,
        failures=wrong + (grown > 512 * 1024) + is_slowed,
        megabytes_each=megabytes,
        rss_growth_kib=grown,
        **figures,
    )


@pytest.mark.timeout(3600)
def test_prepared_statements_are_capped_with_a_clear_error(make_proxy: Callable[..., Proxy], vault: Database) -> None:
    """J6: the session lives on, and closing one makes room for another."""
    count = scaled(3_000, 100_000)
    cap = scaled(2_000, 10_000)

    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {"max_prepared_per_session": cap}

    proxy = make_proxy(database=vault.name, change=change)
    with logged_in(proxy.address(), timeout_s=60) as client:
        client.query("select 1")
        before = proxy.forget_peak()
        codes: list[str] = []
        for start in range(0, count, 50):
            client.send(*(pg.parse(f"name_{n}", "select 1") + pg.sync() for n in range(start, start + 50)))
            codes += errors(client.ready(50))
        grown = proxy.memory_kib("VmHWM") - before
        assert not errors(client.run(pg.close("S", "name_1"), pg.sync()))
        assert not errors(client.run(pg.parse("another", "select 1"), pg.sync()))
        assert not errors(client.query("select 1"))
    assert set(codes) == {"53400"}
    record(
        "J6",
        "prepared statements above the cap that were let through, or memory grown by more than 64 MiB",
        count=count,
        failures=abs(len(codes) - (count - cap)) + (grown > 64 * 1024),
        rss_growth_kib=grown,
    )
