"""pgbench through the proxy: every protocol mode, 32 clients, pipelines; the books must balance."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.two_ways import WAYS, TwoWays, Way

CLIENTS = 32
TRANSACTIONS = 20
PIPELINE = r"""
\set a random(1, 1000)
\startpipeline
select 1;
select count(*) from orders where id <= :a;
insert into log values (:a);
update counted set n = n + 1;
\endpipeline
"""
MIXED = r"""
\set a random(1, 1000)
begin;
select amount from orders where id = :a \gset
insert into log values (:a);
select 1 as x \; select 2 as y \; select 3 as z \aset
end;
select :x + :y + :z as six \gset
\if :six != 6
select 1/0;
\endif
\startpipeline
insert into log values (:six);
\endpipeline
"""


def _pgbench(two_ways: TwoWays, way: Way, *arguments: str | Path) -> str:
    done = way.run(two_ways.program("pgbench"), *arguments)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    assert not re.search(r"ERROR|aborted|failed transactions: [1-9]", said), said
    return said


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_books_balance_after_32_clients(two_ways: TwoWays, mode: str) -> None:
    with two_ways.open("proxied", "bench") as way:
        _pgbench(two_ways, way, "-i", "-q", "-s", "4")
        said = _pgbench(two_ways, way, "-n", "-M", mode, "-c", str(CLIENTS), "-j", "2", "-t", str(TRANSACTIONS))
        assert f"processed: {CLIENTS * TRANSACTIONS}/{CLIENTS * TRANSACTIONS}" in said
        _assert_balanced(way, CLIENTS * TRANSACTIONS)


@pytest.mark.parametrize("mode", ["simple", "prepared"])
def test_books_balance_over_tls(two_ways_tls: TwoWays, mode: str) -> None:
    with two_ways_tls.open("proxied", "bench_tls") as way:
        _pgbench(two_ways_tls, way, "-i", "-q", "-s", "1")
        _pgbench(two_ways_tls, way, "-n", "-M", mode, "-c", "8", "-t", "10")
        _assert_balanced(way, 80)


def test_books_balance_when_every_transaction_connects_anew(two_ways: TwoWays) -> None:
    with two_ways.open("proxied", "bench_reconnect") as way:
        _pgbench(two_ways, way, "-i", "-q", "-s", "1")
        _pgbench(two_ways, way, "-n", "-C", "-c", "8", "-t", "10")
        _assert_balanced(way, 80)


@pytest.mark.parametrize(("mode", "script"), [("extended", PIPELINE), ("prepared", PIPELINE), ("simple", MIXED)])
def test_scripts_with_pipelines_and_variables_run(two_ways: TwoWays, tmp_path: Path, mode: str, script: str) -> None:
    file = tmp_path / "script.sql"
    file.write_text(script if mode != "simple" else script.split("\\startpipeline")[0])
    for each in WAYS:
        with two_ways.open(each, "bench_script") as way:
            way.server.execute(
                "set role app; create table log (a int); create table counted (n int); insert into counted values (0)",
                database=way.database.name,
            )
            _pgbench(two_ways, way, "-n", "-f", file, "-M", mode, "-c", "8", "-j", "2", "-t", "50")
            assert way.database.fetch("select count(*) from log") == [(400,)]
            if script is PIPELINE:
                assert way.database.fetch("select n from counted") == [(400,)]


def _assert_balanced(way: Way, transactions: int) -> None:
    found = way.database.fetch(
        "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), "
        "(select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)"
    )[0]
    assert len(set(found[:4])) == 1
    assert found[4] == transactions
