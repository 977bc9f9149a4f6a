"""Statements that are held for an answer, and the other reasons for which the client's bytes wait."""

from support import pg_bytes as pg
from support.recorder import Answered, feed, refuse
from support.relays import Pair, play

from protocol.contract import FORWARD, Side


def test_held_query_is_released_in_order() -> None:
    play("""
        ~ hold "slow"
        > Query "one"
        > Query "slow"
        > Query "three"
        = judge 1, "QUERY", b"one"
        = judge 2, "QUERY", b"slow"
        = > Query "one"
        < CommandComplete "SELECT 1"
        < ReadyForQuery "I"
        = < CommandComplete "SELECT 1"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = synced "IDLE"
        ! resolve 2, "forward"
        = judge 3, "QUERY", b"three"
        = > Query "slow"
        = > Query "three"
        < CommandComplete "A"
        < ReadyForQuery "I"
        < CommandComplete "B"
        < ReadyForQuery "I"
        = < CommandComplete "A"
        = < ReadyForQuery "I"
        = < CommandComplete "B"
        = < ReadyForQuery "I"
        = finished 2, "OK"
        = synced "IDLE"
        = finished 3, "OK"
        = synced "IDLE"
    """)


def test_held_statement_that_is_refused_is_replaced() -> None:
    play("""
        ~ hold "slow"
        > Parse "", "slow"
        > Bind
        > Execute
        > Sync
        = judge 1, "PREPARE"
        ! resolve 1, "refuse"
        = skipped "EXECUTE"
        = > Parse "_dbproxy", 'SELECT "dbproxy refused 1"'
        = > Sync
        < ErrorResponse "42703"
        < ReadyForQuery "I"
        = < Refused
        = < ReadyForQuery "I"
        = finished 1, "REFUSED"
        = synced "IDLE"
    """)


def test_flush_is_sent_before_waiting_behind_unanswered_messages() -> None:
    play("""
        ~ hold "slow"
        > Parse "", "one"
        > Bind
        > Execute
        > Parse "", "slow"
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = judge 3, "PREPARE"
        = > Parse "", "one"
        = > Bind
        = > Execute
        = > Flush
        < ParseComplete
        < BindComplete
        < CommandComplete "SELECT 1"
        = < ParseComplete
        = < BindComplete
        = < CommandComplete "SELECT 1"
        = finished 1, "OK"
        = finished 2, "OK"
        ! resolve 3, "forward"
        = > Parse "", "slow"
        = > Sync
        < ParseComplete
        < ReadyForQuery "I"
        = < ParseComplete
        = < ReadyForQuery "I"
        = finished 3, "OK"
        = synced "IDLE"
    """)


def test_held_statement_is_skipped_at_once_when_its_group_has_failed() -> None:
    """Nobody is asked about what the server will not run, and the client's Sync does not wait for an answer."""
    play("""
        ~ hold "slow"
        > Parse "", "one"
        > Bind
        > Execute
        > Query "slow"
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = judge 3, "QUERY"
        = > Parse "", "one"
        = > Bind
        = > Execute
        = > Flush
        < ParseComplete
        < BindComplete
        < ErrorResponse "22012"
        = < ParseComplete
        = < BindComplete
        = < ErrorResponse "22012"
        = finished 1, "OK"
        = finished 2, "ERROR", code="22012"
        = finished 3, "SKIPPED"
        = > Sync
        ! resolve 3, "forward"
        < ReadyForQuery "I"
        = < ReadyForQuery "I"
        = synced "IDLE"
    """)


def test_held_bind_is_skipped_at_once_when_its_group_has_failed() -> None:
    play("""
        ~ hold "slow"
        > Parse "", "one"
        > Sync
        = judge 1, "PREPARE"
        = > Parse "", "one"
        = > Sync
        < ParseComplete
        < ReadyForQuery "I"
        = < ParseComplete
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = synced "IDLE"
        > Bind
        > Parse "s", "slow"
        > Bind "p", "s"
        > Execute "p"
        > Sync
        = judge 2, "EXECUTE"
        = judge 3, "PREPARE"
        = > Bind
        = > Flush
        < ErrorResponse "22P02"
        = < ErrorResponse "22P02"
        = finished 2, "ERROR", code="22P02"
        = finished 3, "SKIPPED"
        = skipped "EXECUTE"
        = > Sync
    """)


def test_held_statement_has_an_outcome_when_the_client_leaves() -> None:
    pair = Pair(lambda _: None)
    pair.client(pg.query("slow"), pg.query("next"))
    pair.relay.closed(Side.CLIENT)
    assert [each.status for each in pair.host.outcomes().values()] in (["SKIPPED"], ["UNKNOWN"])
    assert not pair.host.open
    pair.relay.resolve(1, FORWARD)
    assert b"slow" not in pair.to_server()
    assert not pair.host.faults


def test_held_statement_has_an_outcome_when_the_server_leaves() -> None:
    pair = Pair(lambda _: None)
    pair.client(pg.parse("", "slow"))
    pair.relay.closed(Side.SERVER)
    assert not pair.host.open
    pair.relay.resolve(1, refuse())
    assert not pair.host.faults


def test_late_double_and_unknown_answers_are_ignored() -> None:
    pair = Pair(lambda statement: None if b"slow" in (statement.text or b"") else FORWARD)
    pair.relay.resolve(1, FORWARD)
    pair.client(pg.query("slow"))
    pair.relay.resolve(7, FORWARD)
    assert pair.to_server() == b""
    pair.relay.resolve(1, FORWARD)
    pair.relay.resolve(1, refuse())
    assert pair.to_server() == pg.query("slow")
    pair.relay.resolve(1, refuse())
    assert pair.to_server() == b""


def test_server_bytes_flow_while_the_client_is_held() -> None:
    pair = Pair(lambda statement: None if b"slow" in (statement.text or b"") else FORWARD)
    pair.client(pg.query("one"), pg.query("slow")).server(pg.row_description(), pg.data_row(), pg.notice())
    assert pg.kinds(pair.to_client()) == "TDN"


def test_reading_stops_only_above_the_held_cap_and_goes_on_after() -> None:
    pair = Pair(lambda statement: None if b"slow" in (statement.text or b"") else FORWARD, held_max_bytes=1000)
    pair.client(pg.query("slow")).client(pg.query("x" * 500))
    assert pair.host.pauses == []
    pair.client(pg.query("y" * 600))
    assert pair.host.pauses == [True]
    pair.relay.resolve(1, FORWARD)
    assert pair.host.pauses == [True, False]
    assert pair.to_server() == pg.query("slow") + pg.query("x" * 500) + pg.query("y" * 600)


def test_bind_to_a_name_of_an_unsettled_earlier_group_waits() -> None:
    """Had the second group failed before its Parse, `s` would still be the first text: judge only what is known."""
    play("""
        > Parse "s", "first"
        > Sync
        = judge 1, "PREPARE"
        = > Parse "s", "first"
        = > Sync
        < ParseComplete
        < ReadyForQuery "I"
        = < ParseComplete
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = synced "IDLE"
        > Close "S", "s"
        > Parse "x", "bad"
        > Parse "s", "second"
        > Sync
        > Bind "", "s"
        > Execute
        > Sync
        = judge 2, "PREPARE"
        = judge 3, "PREPARE"
        = > Close "S", "s"
        = > Parse "x", "bad"
        = > Parse "s", "second"
        = > Sync
        < CloseComplete
        = < CloseComplete
        < ErrorResponse "42601"
        = < ErrorResponse "42601"
        = finished 2, "ERROR"
        = finished 3, "SKIPPED"
        = judge 4, "EXECUTE", None, b"s"
        = > Bind "", "s"
        = > Execute
        = > Flush
    """)


def test_bind_to_a_name_of_its_own_group_does_not_wait() -> None:
    """Pipelines of unnamed statements must not cost a round trip per group."""
    pair = Pair()
    groups = [pg.parse("", f"select {n}") + pg.bind() + pg.execute() + pg.sync() for n in range(20)]
    pair.client(*groups)
    assert pair.to_server() == b"".join(groups)
    assert [each.text for each in pair.host.judged() if each.act == "EXECUTE"] == [
        f"select {n}".encode() for n in range(20)
    ]


def test_host_may_hold_the_client_and_let_it_go_on() -> None:
    play("""
        > Query "one"
        = judge 1, "QUERY"
        = > Query "one"
        ! hold True
        > Query "two"
        < CommandComplete "A"
        < ReadyForQuery "I"
        = < CommandComplete "A"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = synced "IDLE"
        ! hold False
        = judge 2, "QUERY"
        = > Query "two"
    """)


def test_answer_of_a_held_statement_waits_for_the_hosts_hold() -> None:
    play("""
        ~ hold "slow"
        > Query "slow"
        = judge 1, "QUERY"
        ! hold True
        ! resolve 1, "forward"
        ! hold False
        = > Query "slow"
    """)


def test_ask_runs_between_the_clients_statements_and_stays_hidden() -> None:
    """The unnamed statement and portal belong to the client, so the question goes under the reserved name."""
    for step in (0, 1):
        pair = Pair().client(pg.parse("", "mine"), pg.bind(), pg.sync())
        pair.server(pg.parse_complete(), pg.bind_complete(), pg.ready("T"))
        pair.to_server(), pair.to_client()
        assert pair.relay.ask(b"SHOW search_path")
        asked = pg.split(pair.to_server())
        assert not any(kind == "Q" for kind, _ in asked)
        assert all(b"_dbproxy" in body for kind, body in asked if kind != "S")
        feed(pair.relay, Side.CLIENT, pg.bind() + pg.execute() + pg.sync(), step=step)
        assert pair.to_server() == b""
        feed(pair.relay, Side.SERVER, pg.parameter_status("a", "b") + _replies(asked, "public", "T"), step=step)
        assert Answered("public") in pair.host.calls
        assert pair.to_client() == pg.parameter_status("a", "b")
        assert pair.to_server() == pg.bind() + pg.execute() + pg.sync()
        assert pair.host.judged()[-1].text == b"mine"


def _replies(asked: list[tuple[str, bytes]], value: str, state: str) -> bytes:
    """What the server says to the messages of ask."""
    rows = pg.data_row([value]) + pg.command_complete("SHOW")
    answers = {
        "C": pg.close_complete(),
        "P": pg.parse_complete(),
        "B": pg.bind_complete(),
        "E": rows,
        "D": pg.row_description(),
    }
    return b"".join(answers[kind] for kind, _ in asked if kind in answers) + pg.ready(state)


def test_ask_that_fails_answers_none_and_stays_hidden() -> None:
    pair = Pair()
    assert pair.relay.ask(b"SHOW nothing")
    pair.server(pg.close_complete(), pg.error("42704"), pg.ready())
    assert Answered(None) in pair.host.calls
    assert pair.to_client() == b""
    assert not pair.host.closed
    pair.to_server()
    assert pair.client(pg.query("next")).to_server() == pg.query("next")


def test_ask_is_declined_while_anything_is_open() -> None:
    def asked(pair: Pair) -> bool:
        return pair.relay.ask(b"SHOW x")

    assert not asked(Pair().client(pg.query("a")))
    assert not asked(Pair().client(pg.query("a")).server(pg.error(), pg.ready("E")))
    assert not asked(Pair(lambda _: None).client(pg.query("a")))
    assert asked(Pair().client(pg.query("a")).server(pg.command_complete("X"), pg.ready("T")))


def test_ask_is_declined_inside_an_open_group() -> None:
    """A Query between an Execute and its Sync would commit the implicit transaction."""
    pair = Pair().client(pg.parse("s", "insert"), pg.bind("", "s"), pg.execute(), pg.flush())
    pair.server(pg.parse_complete(), pg.bind_complete(), pg.command_complete("INSERT 0 1")).to_server()
    assert not pair.relay.ask(b"SHOW x")
    assert pair.to_server() == b""


def test_what_was_held_is_not_walked_in_one_turn() -> None:
    """One client's backlog must not stall the others: see promise P6."""
    pair = Pair()
    pair.client(pg.parse("s", "select 1"), pg.sync()).server(pg.parse_complete(), pg.ready())
    pair.host.has_turns = True
    pair.client(pg.query("select 'copy'"))
    triple = pg.bind("", "s") + pg.execute() + pg.sync()
    pair.client(triple * 20_000)
    before = len(pair.host.judged())
    pair.server(pg.command_complete("SELECT 1"), pg.ready())
    assert 0 < len(pair.host.judged()) - before <= 1000
    while pair.host.later:
        judged = len(pair.host.judged())
        pair.host.run_turn()
        assert len(pair.host.judged()) - judged <= 1000
    assert len(pair.host.judged()) - before == 20_000
    assert not pair.host.faults


def test_long_statement_among_held_bytes_is_completed() -> None:
    pair = Pair()
    pair.client(pg.query("select 'copy'"))
    long = "select '" + "x" * 100_000 + "'"
    pair.client(pg.query(long), pg.query("after"))
    pair.server(pg.command_complete("SELECT 1"), pg.ready())
    assert [each.text for each in pair.host.judged()][1:] == [long.encode(), b"after"]
