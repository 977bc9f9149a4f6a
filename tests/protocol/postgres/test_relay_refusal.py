"""Refusals: what reaches the server in place of a refused message, and what the client is told."""

import pytest
from support import pg_bytes as pg
from support.recorder import Closed, refuse
from support.relays import Pair, play

from protocol.contract import FORWARD, Refusal, Side, Statement, Verdict, Why


def test_refused_query_is_replaced_and_the_next_one_works() -> None:
    play("""
        ~ refuse "drop"
        > Query "drop table t"
        > Query "select 1"
        = judge 1, "QUERY", b"drop table t"
        = judge 2, "QUERY", b"select 1"
        = > Query 'SELECT "dbproxy refused 1"'
        = > Query "select 1"
        < ErrorResponse "42703", 'column "dbproxy refused 1" does not exist'
        < ReadyForQuery "I"
        < CommandComplete "SELECT 1"
        < ReadyForQuery "I"
        = < Refused
        = < ReadyForQuery "I"
        = < CommandComplete "SELECT 1"
        = < ReadyForQuery "I"
        = finished 1, "REFUSED"
        = synced "IDLE"
        = finished 2, "OK"
        = synced "IDLE"
    """)


def test_refused_query_in_a_failed_transaction_gets_the_servers_own_error() -> None:
    play("""
        ~ refuse "drop"
        > Query "drop table t"
        = judge 1, "QUERY"
        = > Query 'SELECT "dbproxy refused 1"'
        < ErrorResponse "25P02", "current transaction is aborted"
        < ReadyForQuery "E"
        = < ErrorResponse "25P02", "current transaction is aborted"
        = < ReadyForQuery "E"
        = finished 1, "REFUSED"
        = synced "FAILED"
    """)


def test_refused_query_keeps_earlier_replies_in_order() -> None:
    play("""
        ~ refuse "drop"
        > Parse "", "insert"
        > Bind
        > Execute
        > Query "drop table t"
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = judge 3, "QUERY"
        = > Parse "", "insert"
        = > Bind
        = > Execute
        = > Query 'SELECT "dbproxy refused 3"'
        = > Sync
        < ParseComplete
        < BindComplete
        < CommandComplete "INSERT 0 1"
        < ErrorResponse "42703"
        < ReadyForQuery "I"
        < ReadyForQuery "I"
        = < ParseComplete
        = < BindComplete
        = < CommandComplete "INSERT 0 1"
        = < Refused
        = < ReadyForQuery "I"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = finished 2, "OK", rows=1
        = finished 3, "REFUSED"
        = synced "IDLE"
        = synced "IDLE"
    """)


def test_refused_query_followed_by_stray_copy_messages_is_replaced_once() -> None:
    play("""
        ~ refuse "drop"
        > Query "drop table t"
        > CopyData "x"
        > CopyDone
        > CopyFail "y"
        > Sync
        = judge 1, "QUERY"
        = > Query 'SELECT "dbproxy refused 1"'
        = > Sync
    """)


def test_refused_parse_swallows_until_sync() -> None:
    play("""
        ~ refuse "drop"
        > Parse "s", "drop table t"
        > Describe "S", "s"
        > Bind "", "s"
        > Execute
        > Flush
        > Close "S", "s"
        > Query "select 1"
        > FunctionCall 1
        > CopyData "x"
        > Parse "", "select 2"
        > Sync
        = judge 1, "PREPARE", b"drop table t", b"s"
        = skipped "EXECUTE"
        = skipped "QUERY", b"select 1"
        = skipped "CALL"
        = skipped "PREPARE", b"select 2"
        = > Parse "_dbproxy", 'SELECT "dbproxy refused 1"'
        = > Sync
        < ErrorResponse "42703"
        < ReadyForQuery "I"
        = < Refused
        = < ReadyForQuery "I"
        = finished 1, "REFUSED"
        = synced "IDLE"
        > Query "select 3"
        = judge 6, "QUERY"
        = > Query "select 3"
        < CommandComplete "SELECT 1"
        < ReadyForQuery "I"
        = < CommandComplete "SELECT 1"
        = < ReadyForQuery "I"
        = finished 6, "OK"
        = synced "IDLE"
    """)


def test_refused_bind_rolls_back_what_stands_before_it() -> None:
    pair = Pair(_refuse_act("EXECUTE", b"f()"))
    pair.client(
        pg.parse("", "insert"), pg.bind(), pg.execute(), pg.parse("", "select f()"), pg.bind(), pg.execute(), pg.sync()
    )
    assert pair.to_server() == (
        pg.parse("", "insert") + pg.bind() + pg.execute() + pg.parse("", "select f()") + _substitute(4) + pg.sync()
    )
    pair.server(pg.parse_complete(), pg.bind_complete(), pg.command_complete("INSERT 0 1"), pg.parse_complete())
    pair.server(pg.error("42703"), pg.ready())
    assert pg.kinds(pair.to_client()) == "12C1EZ"
    assert [each.status for each in pair.host.outcomes().values()] == ["OK", "OK", "OK", "REFUSED"]


def _refuse_act(act: str, word: bytes) -> object:
    def answer(statement: Statement) -> Verdict | None:
        return refuse() if statement.act.name == act and word in (statement.text or b"") else FORWARD

    return answer


def _substitute(statement_id: int) -> bytes:
    return pg.parse("_dbproxy", f'SELECT "dbproxy refused {statement_id}"')


def test_earlier_genuine_error_voids_the_refusal() -> None:
    play("""
        ~ refuse "drop"
        > Parse "", "select 1/0"
        > Bind
        > Execute
        > Parse "", "drop table t"
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = judge 3, "PREPARE"
        = > Parse "", "select 1/0"
        = > Bind
        = > Execute
        = > Parse "_dbproxy", 'SELECT "dbproxy refused 3"'
        = > Sync
        < ParseComplete
        < BindComplete
        < ErrorResponse "22012"
        < ReadyForQuery "I"
        = < ParseComplete
        = < BindComplete
        = < ErrorResponse "22012"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = finished 2, "ERROR", code="22012"
        = finished 3, "REFUSED"
        = synced "IDLE"
    """)


def test_refused_parse_in_a_failed_transaction_gets_the_servers_own_error() -> None:
    play("""
        ~ refuse "drop"
        > Parse "", "drop table t"
        > Sync
        = judge 1, "PREPARE"
        = > Parse "_dbproxy", 'SELECT "dbproxy refused 1"'
        = > Sync
        < ErrorResponse "25P02", "aborted"
        < ReadyForQuery "E"
        = < ErrorResponse "25P02", "aborted"
        = < ReadyForQuery "E"
        = finished 1, "REFUSED"
        = synced "FAILED"
    """)


def test_refused_resume_leaves_the_first_rows_counted() -> None:
    pair = Pair(_refuse_act("RESUME", b"rows"))
    pair.client(pg.parse("", "rows"), pg.bind("p"), pg.execute("p", 1), pg.execute("p", 1), pg.sync())
    assert pair.to_server() == (pg.parse("", "rows") + pg.bind("p") + pg.execute("p", 1) + _substitute(3) + pg.sync())
    pair.server(pg.parse_complete(), pg.bind_complete(), pg.data_row(), pg.portal_suspended())
    pair.server(pg.error("42703"), pg.ready())
    assert pg.kinds(pair.to_client()) == "12DsEZ"
    assert [(each.status, each.rows) for each in pair.host.outcomes().values()] == [
        ("OK", 0),
        ("SUSPENDED", 1),
        ("REFUSED", 0),
    ]


def test_refused_function_call_is_a_failing_query() -> None:
    play("""
        ~ refuse "2025"
        > FunctionCall 2025, [b"x"]
        > Sync
        = judge 1, "CALL", None, b"2025"
        = > Query 'SELECT "dbproxy refused 1"'
        = > Sync
        < ErrorResponse "42703"
        < ReadyForQuery "I"
        < ReadyForQuery "I"
        = < Refused
        = < ReadyForQuery "I"
        = < ReadyForQuery "I"
        = finished 1, "REFUSED"
        = synced "IDLE"
        = synced "IDLE"
    """)


def test_refused_unnamed_parse_spares_the_older_unnamed_statement() -> None:
    play("""
        ~ refuse "drop"
        > Parse "", "select 42"
        > Sync
        > Parse "", "drop table t"
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "PREPARE"
        = > Parse "", "select 42"
        = > Sync
        = > Parse "_dbproxy", 'SELECT "dbproxy refused 2"'
        = > Sync
        < ParseComplete
        < ReadyForQuery "I"
        < ErrorResponse "42703"
        < ReadyForQuery "I"
        = < ParseComplete
        = < ReadyForQuery "I"
        = < Refused
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = synced "IDLE"
        = finished 2, "REFUSED"
        = synced "IDLE"
        > Bind
        > Sync
        = judge 3, "EXECUTE", b"select 42"
        = > Bind
        = > Sync
    """)


def test_each_reason_has_its_own_code() -> None:
    codes = {
        Why.BLOCKED: "42501",
        Why.LIMIT: "53400",
        Why.AUDIT_DOWN: "58030",
        Why.POLICY_ERROR: "58000",
        Why.TOO_LARGE: "54000",
    }
    for why, code in codes.items():
        pair = Pair(lambda _, why=why: refuse(why=why))
        pair.client(pg.query("x")).server(pg.error("42703"), pg.ready())
        [(_, body), _] = pg.split(pair.to_client())
        fields = pg.fields_of(body)
        assert (fields["S"], fields["V"], fields["C"]) == ("ERROR", "ERROR", code)
        assert (fields["M"], fields["D"], fields["H"]) == (
            'dbproxy: blocked by rule "test"',
            "detail of the refusal",
            "hint of the refusal",
        )


def test_refused_bytes_never_reach_the_server_in_any_cut() -> None:
    """The refused text carries a mark; whatever the arrival, the server's stream never has it."""
    data = (
        pg.parse("", "select 1")
        + pg.bind()
        + pg.execute()
        + pg.parse("x", "SECRETMARK refused")
        + pg.bind("", "x", [b"SECRETMARK"])
    )
    data += pg.execute() + pg.sync() + pg.query("SECRETMARK refused; select 2") + pg.query("select 3")
    streams = set()
    for cut in range(len(data)):
        pair = Pair(lambda statement: refuse() if b"refused" in (statement.text or b"") else FORWARD)
        pair.client(data[:cut]).client(data[cut:])
        streams.add(pair.to_server())
        assert not pair.host.faults
    assert len(streams) == 1
    assert b"SECRETMARK" not in streams.pop()


def test_refused_pipeline_of_many_groups_refuses_only_its_own() -> None:
    pair = Pair(lambda statement: refuse() if b"refused" in (statement.text or b"") else FORWARD)
    groups = [
        pg.parse("", f"{'refused' if n % 3 == 1 else 'ok'} {n}") + pg.bind() + pg.execute() + pg.sync()
        for n in range(30)
    ]
    pair.client(*groups)
    texts = [body.split(b"\0")[1] for kind, body in pg.split(pair.to_server()) if kind == "P"]
    assert [text.startswith(b'SELECT "dbproxy') for text in texts] == [n % 3 == 1 for n in range(30)]
    assert len(texts) == 30


def test_end_tells_the_client_and_stops_both_directions() -> None:
    pair = Pair()
    pair.client(pg.query("a")).to_server()
    pair.relay.end(Refusal(Why.SHUTDOWN, "dbproxy: the server is shutting down"))
    [(kind, body)] = pg.split(pair.to_client())
    assert (kind, pg.fields_of(body)["V"], pg.fields_of(body)["C"]) == ("E", "FATAL", "57P01")
    assert pair.host.closed
    assert not pair.host.open
    pair.client(pg.query("b")).server(pg.command_complete("SELECT 1"), pg.ready())
    assert pair.to_server() in {b"", pg.terminate()}
    assert pair.to_client() == b""
    assert len(pair.host.judged()) == 1


def test_end_waits_for_the_message_boundary_and_takes_no_more_statements() -> None:
    pair = Pair()
    pair.client(pg.query("a"))
    row = pg.data_row(["x" * 100])
    pair.server(pg.row_description(), row[:50])
    pair.relay.end(Refusal(Why.SHUTDOWN, "dbproxy: over"))
    pair.client(pg.query("b"))
    assert len(pair.host.judged()) == 1, "a statement was judged after the session's end was ordered"
    pair.server(row[50:], pg.data_row())
    assert pg.kinds(pair.to_client()) == "TDE"
    assert pair.host.closed


@pytest.mark.parametrize("side", Side)
def test_peer_dropped_before_the_message_boundary_came_is_recorded_as_ended(side: Side) -> None:
    pair = Pair()
    pair.client(pg.query("a")).to_server()
    pair.server(pg.row_description(), pg.data_row(["x" * 100])[:50])
    pair.relay.end(Refusal(Why.IDLE, "dbproxy: long enough"))
    pair.to_client()
    pair.relay.closed(side)
    assert [(each.why, each.detail) for each in pair.host.calls if isinstance(each, Closed)] == [
        ("IDLE", "dbproxy: long enough")
    ]
    assert pair.to_client() == b""


def test_judge_may_end_the_session_and_nothing_more_is_sent() -> None:
    """What a rule with the action terminate does."""
    pair = Pair()

    def answer(statement: Statement) -> Verdict | None:
        if b"terminate" in (statement.text or b""):
            pair.relay.end(Refusal(Why.BLOCKED, "dbproxy: terminated"))
            return refuse()
        return FORWARD

    pair.answer = answer
    pair.client(pg.query("first"), pg.query("terminate"), pg.query("second"), pg.parse("", "third"))
    assert b"second" not in pair.host.to_server
    assert b"terminate" not in pair.host.to_server.replace(pg.terminate(), b"")
    assert [each.text for each in pair.host.judged()] == [b"first", b"terminate"]
    assert not pair.host.open
    assert not pair.host.faults
    assert pg.kinds(pair.host.to_client) == "E"
    assert pair.host.sent[Side.SERVER].count(b"dbproxy refused") == 0
