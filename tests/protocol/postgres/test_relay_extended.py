"""The extended protocol and simple queries through the relay, where nothing is refused."""

from support import pg_bytes as pg
from support.recorder import Finished, Judged
from support.relays import Pair, play

from protocol.contract import Side


def test_simple_query_passes_with_its_outcome() -> None:
    play("""
        > Query "select a from t"
        = judge 1, "QUERY", b"select a from t", b"", ()
        = > Query "select a from t"
        < RowDescription ["a"]
        < DataRow ["1"]
        < DataRow [None]
        = < RowDescription ["a"]
        = < DataRow ["1"]
        = < DataRow [None]
        < CommandComplete "SELECT 2"
        < ReadyForQuery "I"
        = < CommandComplete "SELECT 2"
        = < ReadyForQuery "I"
        = finished 1, "OK", rows=2, tag=b"SELECT 2", code=""
        = synced "IDLE"
    """)


def test_statements_of_one_query_have_one_outcome_with_all_tags() -> None:
    play("""
        > Query "insert; select; delete"
        = judge 1, "QUERY"
        = > Query "insert; select; delete"
        < CommandComplete "INSERT 0 2"
        < RowDescription
        < DataRow
        < CommandComplete "SELECT 1"
        < ErrorResponse "22012", "division by zero"
        < ReadyForQuery "I"
        = < CommandComplete "INSERT 0 2"
        = < RowDescription
        = < DataRow
        = < CommandComplete "SELECT 1"
        = < ErrorResponse "22012", "division by zero"
        = < ReadyForQuery "I"
        = finished 1, "ERROR", tag=b"INSERT 0 2; SELECT 1", code="22012"
        = synced "IDLE"
    """)


def test_empty_query_passes() -> None:
    play("""
        > Query ""
        = judge 1, "QUERY", b""
        = > Query ""
        < EmptyQueryResponse
        < ReadyForQuery "I"
        = < EmptyQueryResponse
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = synced "IDLE"
    """)


def test_parse_bind_execute_is_judged_at_parse_and_at_bind() -> None:
    play("""
        > Parse "s", "select $1, $2", [23]
        > Describe "S", "s"
        > Bind "", "s", [b"1", None], [1]
        > Describe "P"
        > Execute
        > Sync
        = judge 1, "PREPARE", b"select $1, $2", b"s"
        = judge 2, "EXECUTE", b"select $1, $2", b"s", (b"1", None), (1, 1), (23,)
        = > Parse "s", "select $1, $2", [23]
        = > Describe "S", "s"
        = > Bind "", "s", [b"1", None], [1]
        = > Describe "P"
        = > Execute
        = > Sync
        < ParseComplete
        < ParameterDescription [23, 25]
        < RowDescription
        < BindComplete
        < RowDescription
        < DataRow
        < CommandComplete "SELECT 1"
        < ReadyForQuery "I"
        = < ParseComplete
        = < ParameterDescription [23, 25]
        = < RowDescription
        = < BindComplete
        = < RowDescription
        = < DataRow
        = < CommandComplete "SELECT 1"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = finished 2, "OK", rows=1, tag=b"SELECT 1"
        = synced "IDLE"
        # and again, with the types that the server named
        > Bind "", "s", [b"1", b"2"], []
        > Execute
        > Sync
        = judge 3, "EXECUTE", b"select $1, $2", b"s", (b"1", b"2"), (0, 0), (23, 25)
        = > Bind "", "s", [b"1", b"2"], []
        = > Execute
        = > Sync
        < BindComplete
        < CommandComplete "SELECT 0"
        < ReadyForQuery "I"
        = < BindComplete
        = < CommandComplete "SELECT 0"
        = < ReadyForQuery "I"
        = finished 3, "OK", rows=0, tag=b"SELECT 0"
        = synced "IDLE"
    """)


def test_bind_of_an_unknown_name_is_judged_without_text() -> None:
    play("""
        > Bind "", "by_sql"
        > Execute
        > Sync
        = judge 1, "EXECUTE", None, b"by_sql"
        = > Bind "", "by_sql"
        = > Execute
        = > Flush
        < BindComplete
        < CommandComplete "SELECT 0"
        = < BindComplete
        = < CommandComplete "SELECT 0"
        = finished 1, "OK", tag=b"SELECT 0"
        = > Sync
        < ReadyForQuery "I"
        = < ReadyForQuery "I"
        = synced "IDLE"
    """)


def test_bound_and_never_executed_is_bound_only() -> None:
    play("""
        > Parse "", "select f()"
        > Bind
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = > Parse "", "select f()"
        = > Bind
        = > Sync
        < ParseComplete
        < BindComplete
        < ReadyForQuery "I"
        = < ParseComplete
        = < BindComplete
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = finished 2, "BOUND_ONLY"
        = synced "IDLE"
    """)


def test_portal_closed_in_a_transaction_is_bound_only() -> None:
    play("""
        > Parse "", "select f()"
        > Bind "p"
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = > Parse "", "select f()"
        = > Bind "p"
        = > Sync
        < ParseComplete
        < BindComplete
        < ReadyForQuery "T"
        = < ParseComplete
        = < BindComplete
        = < ReadyForQuery "T"
        = finished 1, "OK"
        = synced "OPEN"
        > Close "P", "p"
        > Sync
        = > Close "P", "p"
        = > Sync
        < CloseComplete
        < ReadyForQuery "T"
        = < CloseComplete
        = < ReadyForQuery "T"
        = finished 2, "BOUND_ONLY"
        = synced "OPEN"
    """)


def test_second_execute_of_a_portal_is_judged_as_resume() -> None:
    play("""
        > Parse "", "select a from t"
        > Bind "p", "", [b"x"]
        > Execute "p", 2
        > Execute "p", 2
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = judge 3, "RESUME", b"select a from t"
        = > Parse "", "select a from t"
        = > Bind "p", "", [b"x"]
        = > Execute "p", 2
        = > Execute "p", 2
        = > Sync
        < ParseComplete
        < BindComplete
        < DataRow
        < DataRow
        < PortalSuspended
        < DataRow
        < CommandComplete "SELECT 1"
        < ReadyForQuery "I"
        = < ParseComplete
        = < BindComplete
        = < DataRow
        = < DataRow
        = < PortalSuspended
        = < DataRow
        = < CommandComplete "SELECT 1"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = finished 2, "SUSPENDED", rows=2
        = finished 3, "OK", rows=1
        = synced "IDLE"
    """)


def test_execute_of_a_portal_the_relay_never_saw_is_judged() -> None:
    """A cursor made by DECLARE can be executed by name."""
    play("""
        > Execute "c", 5
        > Sync
        = judge 1, "RESUME", None
        = > Execute "c", 5
        = > Flush
        < DataRow
        < PortalSuspended
        = < DataRow
        = < PortalSuspended
        = finished 1, "SUSPENDED", rows=1
        = > Sync
        < ReadyForQuery "T"
        = < ReadyForQuery "T"
        = synced "OPEN"
    """)


def test_first_execute_after_rejudge_is_judged_again() -> None:
    play("""
        > Parse "", "select 1"
        > Bind
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = > Parse "", "select 1"
        = > Bind
        ! rejudge
        > Execute
        > Sync
        = judge 3, "RESUME", b"select 1"
        = > Execute
        = > Sync
        = finished 2, "BOUND_ONLY"
        < ParseComplete
        < BindComplete
        < CommandComplete "SELECT 1"
        < ReadyForQuery "I"
        = < ParseComplete
        = < BindComplete
        = < CommandComplete "SELECT 1"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = finished 3, "OK"
        = synced "IDLE"
    """)


def test_error_skips_the_rest_of_the_group_and_the_next_group_works() -> None:
    play("""
        > Parse "", "select 1/0"
        > Bind
        > Execute
        > Parse "", "select 2"
        > Bind
        > Execute
        > Sync
        > Query "select 3"
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = judge 3, "PREPARE"
        = judge 4, "EXECUTE"
        = judge 5, "QUERY"
        = > Parse "", "select 1/0"
        = > Bind
        = > Execute
        = > Parse "", "select 2"
        = > Bind
        = > Execute
        = > Sync
        = > Query "select 3"
        < ParseComplete
        < BindComplete
        < ErrorResponse "22012", "division by zero"
        = < ParseComplete
        = < BindComplete
        = < ErrorResponse "22012", "division by zero"
        = finished 1, "OK"
        = finished 2, "ERROR", code="22012"
        = finished 3, "SKIPPED"
        = finished 4, "SKIPPED"
        < ReadyForQuery "I"
        < CommandComplete "SELECT 1"
        < ReadyForQuery "I"
        = < ReadyForQuery "I"
        = < CommandComplete "SELECT 1"
        = < ReadyForQuery "I"
        = synced "IDLE"
        = finished 5, "OK"
        = synced "IDLE"
    """)


def test_query_while_the_server_skips_is_dropped_and_not_judged() -> None:
    """The server would ignore it up to the Sync, so it must not look executed."""
    play("""
        > Parse "", "bad"
        = judge 1, "PREPARE"
        = > Parse "", "bad"
        < ErrorResponse "42601", "syntax error"
        = < ErrorResponse "42601", "syntax error"
        = finished 1, "ERROR", code="42601"
        > Query "drop table t"
        > FunctionCall 7
        > Flush
        > Close "S", "x"
        > Describe "S", "x"
        > Sync
        = skipped "QUERY", b"drop table t"
        = skipped "CALL"
        = > Sync
        < ReadyForQuery "I"
        = < ReadyForQuery "I"
        = synced "IDLE"
    """)


def test_bind_is_skipped_when_its_parse_failed_in_the_same_write() -> None:
    play("""
        > Parse "", "bad"
        > Bind
        > Execute
        > Query "select 1"
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = judge 3, "QUERY"
        = > Parse "", "bad"
        = > Bind
        = > Execute
        = > Query "select 1"
        = > Sync
        < ErrorResponse "42601"
        < ReadyForQuery "I"
        = < ErrorResponse "42601"
        = < ReadyForQuery "I"
        = finished 1, "ERROR", code="42601"
        = finished 2, "SKIPPED"
        = finished 3, "SKIPPED"
        = synced "IDLE"
    """)


def test_function_call_is_judged_by_its_number() -> None:
    play("""
        > FunctionCall 2025, [b"7", None], [0]
        = judge 1, "CALL", None, b"2025", (b"7", None), (0, 0)
        = > FunctionCall 2025, [b"7", None], [0]
        < FunctionCallResponse b"x"
        < ReadyForQuery "I"
        = < FunctionCallResponse b"x"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = synced "IDLE"
    """)


def test_messages_that_come_at_any_time_are_never_taken_as_an_answer() -> None:
    play("""
        < NoticeResponse "hello"
        < NotificationResponse 7, "channel", "payload"
        < ParameterStatus "application_name", "psql"
        = < NoticeResponse "hello"
        = < NotificationResponse 7, "channel", "payload"
        = < ParameterStatus "application_name", "psql"
        = parameter "application_name", "psql"
        > Parse "", "select 1"
        > Bind
        > Execute
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = > Parse "", "select 1"
        = > Bind
        = > Execute
        = > Sync
        < NoticeResponse "a"
        < ParseComplete
        < NotificationResponse 7, "c", "b"
        < BindComplete
        < ParameterStatus "search_path", "x"
        < NoticeResponse "c"
        < DataRow
        < NotificationResponse 7, "c", "d"
        < CommandComplete "SELECT 1"
        < NoticeResponse "e"
        < ReadyForQuery "I"
        = < NoticeResponse "a"
        = < ParseComplete
        = < NotificationResponse 7, "c", "b"
        = < BindComplete
        = < ParameterStatus "search_path", "x"
        = < NoticeResponse "c"
        = < DataRow
        = < NotificationResponse 7, "c", "d"
        = < CommandComplete "SELECT 1"
        = < NoticeResponse "e"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = parameter "search_path", "x"
        = finished 2, "OK", rows=1
        = synced "IDLE"
    """)


def test_error_at_the_implicit_commit_is_the_syncs() -> None:
    """A deferred constraint fails after CommandComplete; the Sync is answered all the same."""
    play("""
        > Parse "", "insert"
        > Bind
        > Execute
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = > Parse "", "insert"
        = > Bind
        = > Execute
        = > Sync
        < ParseComplete
        < BindComplete
        < CommandComplete "INSERT 0 1"
        < ErrorResponse "23503", "deferred"
        < ReadyForQuery "I"
        = < ParseComplete
        = < BindComplete
        = < CommandComplete "INSERT 0 1"
        = < ErrorResponse "23503", "deferred"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = finished 2, "OK", rows=1
        = synced "IDLE"
    """)


def test_transaction_state_is_the_servers() -> None:
    play("""
        > Query "begin"
        > Query "bad"
        > Query "rollback"
        = judge 1, "QUERY"
        = judge 2, "QUERY"
        = judge 3, "QUERY"
        = > Query "begin"
        = > Query "bad"
        = > Query "rollback"
        < CommandComplete "BEGIN"
        < ReadyForQuery "T"
        < ErrorResponse "42601"
        < ReadyForQuery "E"
        < CommandComplete "ROLLBACK"
        < ReadyForQuery "I"
        = < CommandComplete "BEGIN"
        = < ReadyForQuery "T"
        = < ErrorResponse "42601"
        = < ReadyForQuery "E"
        = < CommandComplete "ROLLBACK"
        = < ReadyForQuery "I"
        = finished 1, "OK"
        = synced "OPEN"
        = finished 2, "ERROR", code="42601"
        = synced "FAILED"
        = finished 3, "OK"
        = synced "IDLE"
    """)


def test_terminate_reaches_the_server_after_what_was_sent_before_it() -> None:
    play("""
        > Query "insert"
        > Terminate
        = judge 1, "QUERY"
        = > Query "insert"
        = > Terminate
        = finished 1, "UNKNOWN"
        = close "CLIENT", "LEFT"
    """)


def test_all_pass_through_chunks_are_the_same_object() -> None:
    """No copy of bulk data in either direction."""
    pair = Pair()
    chunk = pg.bind("", "s") + pg.execute() + pg.sync()
    pair.client(pg.parse("s", "select 1"), pg.sync()).server(pg.parse_complete(), pg.ready())
    pair.relay.from_client(chunk)
    assert pair.host.sends[-1][1] == chunk
    rows = pg.bind_complete() + pg.data_row() * 1000
    pair.relay.from_server(rows)
    assert pair.host.sends[-1][1] == rows
    assert len([each for each in pair.host.sends if each[1] == rows]) == 1


def test_at_most_one_write_per_chunk_and_side_when_nothing_is_refused() -> None:
    pair = Pair()
    pair.client(*(pg.parse("", f"select {n}") + pg.bind() + pg.execute() for n in range(50)), pg.sync())
    assert len(pair.host.sends) == 1


def test_received_bytes_are_those_of_the_statement() -> None:
    pair = Pair()
    pair.client(pg.query("a"), pg.query("b"))
    first = pg.row_description() + pg.data_row(["12345"]) * 3 + pg.command_complete("SELECT 3") + pg.ready()
    second = pg.command_complete("SET") + pg.ready()
    pair.server(first + second)
    outcomes = [call for call in pair.host.calls if isinstance(call, Finished)]
    assert [each.received_bytes for each in outcomes] == [len(first), len(second)]
    assert [each.rows for each in outcomes] == [3, 0]


def test_closed_client_gives_every_open_statement_an_outcome() -> None:
    pair = Pair()
    pair.client(pg.parse("", "a"), pg.bind(), pg.execute(), pg.query("b"), pg.function_call(1))
    judged = [call for call in pair.host.calls if isinstance(call, Judged)]
    pair.relay.closed(Side.CLIENT)
    assert len(judged) == 4
    assert {each.status for each in pair.host.outcomes().values()} == {"UNKNOWN"}
    assert not pair.host.open
    assert not pair.host.faults


def test_closed_server_tells_the_client_with_its_own_error() -> None:
    pair = Pair()
    pair.client(pg.query("a"))
    pair.relay.closed(Side.SERVER)
    [(kind, body)] = pg.split(pair.to_client())
    assert kind == "E"
    assert pg.fields_of(body)["C"] == "08006"
    assert not pair.host.open
