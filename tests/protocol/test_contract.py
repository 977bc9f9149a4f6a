"""What every relay owes to its host, run against each protocol and a toy one.

A new protocol takes part by one more `Dialect` below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest
from support import my_bytes as my
from support import pg_bytes as pg
from support.recorder import Answered, Closed, Finished, Judged, Recorder, Synced, feed, refuse
from support.relays import mysql_relay, postgres_relay
from support.toy_protocol import ToyRelay

from protocol.contract import FORWARD, Refusal, Relay, Side, Statement, Verdict, Why


@dataclass(frozen=True)
class Dialect:
    """How to say the same things in one protocol.

    error_of_refusal: what the server says to the relay's substitute. is_loss_told: a client hears of a lost server by more than
    the end of its own connection.
    """

    name: str
    relay: Callable[[Recorder], Relay]
    statement: Callable[[str], bytes]
    success: bytes
    failure: bytes
    answer_to_ask: Callable[[bytes], bytes]
    error_of_refusal: bytes
    garbage: bytes
    is_loss_told: bool = True


def _answer_to_ask(asked: bytes) -> bytes:
    """PostgreSQL's replies to whatever messages the relay asks with."""
    row = pg.data_row(["yes"]) + pg.command_complete("SHOW")
    replies = {"C": pg.close_complete(), "P": pg.parse_complete(), "B": pg.bind_complete(), "E": row}
    replies |= {"D": pg.row_description(), "Q": pg.row_description() + row}
    return b"".join(replies.get(kind, b"") for kind in pg.kinds(asked)) + pg.ready()


DIALECTS = [
    Dialect(
        "postgres",
        postgres_relay,
        pg.query,
        pg.command_complete("SELECT 0") + pg.ready(),
        pg.error("42601") + pg.ready(),
        _answer_to_ask,
        pg.error("42703") + pg.ready(),
        pg.frame("y", b"?"),
    ),
    Dialect(
        "mysql",
        mysql_relay,
        my.query,
        my.answer(*my.result()),
        my.answer(my.err()),
        lambda _: my.answer(*my.result(my.row("yes"))),
        b"",
        my.frame(b"", 7),
        is_loss_told=False,
    ),
    Dialect(
        "toy",
        ToyRelay,
        lambda text: text.encode() + b"\n",
        b"+SELECT 0\n",
        b"-42601\n",
        lambda _: b"+yes\n",
        b"",
        b"\0\n",
    ),
]


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


def answer(statement: Statement) -> Verdict | None:
    text = statement.text or b""
    if b"refused" in text:
        return refuse()
    return None if b"held" in text else FORWARD


def start(dialect: Dialect) -> tuple[Recorder, Relay]:
    host = Recorder(answer)
    return host, dialect.relay(host)


def statuses(host: Recorder) -> list[tuple[int, str]]:
    return [(call.id, call.status) for call in host.calls if isinstance(call, Finished)]


def test_forwarded_statement_is_the_clients_own_bytes(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.from_client(dialect.statement("one"))
    assert host.to_server == dialect.statement("one")
    relay.from_server(dialect.success)
    assert host.to_client == dialect.success
    assert statuses(host) == [(1, "OK")]


def test_statement_is_judged_before_any_of_its_bytes_are_sent(dialect: Dialect) -> None:
    host, relay = start(dialect)
    feed(relay, Side.CLIENT, dialect.statement("one") + dialect.statement("two"), step=1)
    assert host.sent_at_judgement == {1: 0, 2: len(dialect.statement("one"))}


def test_outcome_comes_before_the_synced_that_follows_it(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.from_client(dialect.statement("one"))
    relay.from_server(dialect.success)
    kinds = [type(call) for call in host.calls]
    assert kinds == [Judged, Finished, Synced]


def test_failure_is_the_servers_and_the_session_lives(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.from_client(dialect.statement("one") + dialect.statement("two"))
    relay.from_server(dialect.failure + dialect.success)
    assert host.to_client == dialect.failure + dialect.success
    assert statuses(host) == [(1, "ERROR"), (2, "OK")]
    assert not host.closed


def test_refused_bytes_never_reach_the_server_and_the_next_statement_works(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.from_client(dialect.statement("one") + dialect.statement("refused MARK") + dialect.statement("three"))
    assert b"MARK" not in host.to_server
    assert dialect.statement("three") in host.to_server
    relay.from_server(dialect.success + dialect.error_of_refusal + dialect.success)
    assert sorted(statuses(host)) == [(1, "OK"), (2, "REFUSED"), (3, "OK")]
    assert host.to_client.startswith(dialect.success)
    assert host.to_client.endswith(dialect.success)
    assert b"blocked by rule" in host.to_client
    assert not host.closed


def test_held_statement_holds_all_that_follows_until_it_is_resolved(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.from_client(dialect.statement("held") + dialect.statement("two"))
    relay.from_client(dialect.statement("three"))
    assert host.to_server == b""
    assert len(host.judged()) == 1
    relay.resolve(1, FORWARD)
    assert host.to_server == dialect.statement("held") + dialect.statement("two") + dialect.statement("three")
    relay.from_server(dialect.success * 3)
    assert statuses(host) == [(1, "OK"), (2, "OK"), (3, "OK")]


def test_held_statement_can_be_refused(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.from_client(dialect.statement("held MARK") + dialect.statement("two"))
    relay.resolve(1, refuse())
    assert b"MARK" not in host.to_server
    relay.from_server(dialect.error_of_refusal + dialect.success)
    assert statuses(host) == [(1, "REFUSED"), (2, "OK")]


def test_answers_for_other_or_settled_statements_change_nothing(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.resolve(1, FORWARD)
    relay.from_client(dialect.statement("held"))
    relay.resolve(2, FORWARD)
    assert host.to_server == b""
    relay.resolve(1, FORWARD)
    relay.resolve(1, refuse())
    assert host.to_server == dialect.statement("held")


@pytest.mark.parametrize("side", list(Side))
def test_every_open_statement_has_one_outcome_when_a_peer_leaves(dialect: Dialect, side: Side) -> None:
    host, relay = start(dialect)
    relay.from_client(dialect.statement("one") + dialect.statement("refused") + dialect.statement("held"))
    relay.closed(side)
    relay.closed(side)
    relay.resolve(3, FORWARD)
    assert [each.id for each in host.judged()] == [1, 2, 3]
    assert not host.open
    assert not host.faults
    assert len([call for call in host.calls if isinstance(call, Closed)]) == 1
    assert (host.to_client == b"") is (side is Side.CLIENT or not dialect.is_loss_told)


def test_nothing_happens_after_the_end(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.from_client(dialect.statement("one"))
    relay.end(Refusal(Why.SHUTDOWN, "the end"))
    assert b"the end" in host.to_client
    seen, judged = (host.to_client, host.to_server), len(host.judged())
    relay.from_client(dialect.statement("two"))
    relay.from_server(dialect.success)
    relay.end(Refusal(Why.SHUTDOWN, "again"))
    relay.hold(on=True)
    relay.hold(on=False)
    relay.rejudge()
    relay.closed(Side.CLIENT)
    assert not relay.ask(b"SHOW x")
    assert ((host.to_client, host.to_server), len(host.judged())) == (seen, judged)
    assert not host.open
    assert [call.why for call in host.calls if isinstance(call, Closed)] == ["SHUTDOWN"]


def test_garbage_ends_the_session_without_an_exception(dialect: Dialect) -> None:
    for side in Side:
        host, relay = start(dialect)
        relay.from_client(dialect.statement("one"))
        feed(relay, side, dialect.garbage)
        assert [call.side for call in host.calls if isinstance(call, Closed)] == [side.name]
        assert host.to_client
        assert not host.open
        assert host.to_server == dialect.statement("one")


def test_host_can_hold_the_client(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.hold(on=True)
    relay.from_client(dialect.statement("one"))
    assert host.judged() == []
    relay.hold(on=False)
    assert host.to_server == dialect.statement("one")


def test_the_proxys_own_question_is_invisible_to_the_client(dialect: Dialect) -> None:
    host, relay = start(dialect)
    assert relay.ask(b"SHOW x")
    asked = host.take(Side.SERVER)
    relay.from_client(dialect.statement("one"))
    assert host.to_server == b""
    relay.from_server(dialect.answer_to_ask(asked))
    assert Answered("yes") in host.calls
    assert host.to_client == b""
    assert host.to_server == dialect.statement("one")
    assert [each.id for each in host.judged()] == [1]


def test_question_is_declined_while_the_server_is_busy(dialect: Dialect) -> None:
    host, relay = start(dialect)
    relay.from_client(dialect.statement("one"))
    assert not relay.ask(b"SHOW x")
    assert host.to_server == dialect.statement("one")


def test_result_does_not_depend_on_how_bytes_arrive(dialect: Dialect) -> None:
    client = b"".join(map(dialect.statement, ("one", "refused two", "three", "four")))
    server = dialect.success + dialect.error_of_refusal + dialect.failure + dialect.success
    seen = set()
    for seed in range(60):
        rng = Random(seed)
        host, relay = start(dialect)
        for side, data in ((Side.CLIENT, client), (Side.SERVER, server)):
            at = 0
            while at < len(data):
                size = len(data) if seed == 0 else rng.choice((1, 2, 7, 40))
                feed(relay, side, data[at : at + size])
                at += size
        assert not host.faults
        seen.add((host.to_client, host.to_server, tuple(map(repr, host.calls))))
    assert len(seen) == 1


def test_judge_may_end_the_session_from_inside(dialect: Dialect) -> None:
    host, relay = start(dialect)

    def ending(statement: Statement) -> Verdict | None:
        if statement.text == b"two":
            relay.end(Refusal(Why.BLOCKED, "over"))
            return refuse()
        return FORWARD

    host.answer = ending
    relay.from_client(b"".join(map(dialect.statement, ("one", "two", "three"))))
    assert [each.text for each in host.judged()] == [b"one", b"two"]
    assert not host.open
    assert not host.faults
    assert dialect.statement("two") not in host.to_server
    assert dialect.statement("three") not in host.to_server
