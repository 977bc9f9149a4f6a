"""COPY in both directions: what counts, what is dropped, and the Sync that earns no ReadyForQuery."""

from support import pg_bytes as pg
from support.relays import Pair, play


def test_copy_in_by_query_is_streamed_and_counted() -> None:
    play("""
        > Query "COPY t FROM STDIN"
        = judge 1, "QUERY"
        = > Query "COPY t FROM STDIN"
        < CopyInResponse
        = < CopyInResponse
        > CopyData "1\\n"
        > CopyData "22\\n"
        > CopyDone
        > Query "select 1"
        = > CopyData "1\\n"
        = > CopyData "22\\n"
        = > CopyDone
        = judge 2, "QUERY", b"select 1"
        = > Query "select 1"
        < CommandComplete "COPY 2"
        < ReadyForQuery "I"
        = < CommandComplete "COPY 2"
        = < ReadyForQuery "I"
        = finished 1, "OK", rows=2, sent_bytes=5, tag=b"COPY 2"
        = synced "IDLE"
    """)


def test_what_follows_a_possible_copy_waits_for_the_servers_word() -> None:
    """A Sync that the server reads inside COPY earns no ReadyForQuery, one that it reads after does."""
    play("""
        > Parse "", "Copy t FROM STDIN"
        > Bind
        > Execute
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = > Parse "", "Copy t FROM STDIN"
        = > Bind
        = > Execute
        = > Flush
        < ParseComplete
        < BindComplete
        < CopyInResponse
        = < ParseComplete
        = < BindComplete
        = < CopyInResponse
        = finished 1, "OK"
        > Flush
        > CopyData "1\\n"
        > CopyDone
        > Sync
        = > CopyData "1\\n"
        = > CopyDone
        = > Sync
        < CommandComplete "COPY 1"
        < ReadyForQuery "I"
        = < CommandComplete "COPY 1"
        = < ReadyForQuery "I"
        = finished 2, "OK", rows=1, sent_bytes=2
        = synced "IDLE"
    """)


def test_word_copy_without_a_copy_costs_only_a_flush() -> None:
    play("""
        > Parse "", "select 'copy'"
        > Bind
        > Execute
        > Sync
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = > Parse "", "select 'copy'"
        = > Bind
        = > Execute
        = > Flush
        < ParseComplete
        < BindComplete
        < DataRow
        < CommandComplete "SELECT 1"
        = < ParseComplete
        = < BindComplete
        = < DataRow
        = < CommandComplete "SELECT 1"
        = finished 1, "OK"
        = finished 2, "OK"
        = > Sync
    """)


def test_sync_inside_copy_counts_for_nothing_later() -> None:
    """Sync in COPY, then its end, then an error in the extended protocol: only the client's own Sync is sent."""
    pair = Pair().client(pg.query("copy t from stdin")).server(pg.copy_in_response())
    pair.client(pg.copy_data("1\n"), pg.sync(), pg.copy_done()).server(pg.command_complete("COPY 1"), pg.ready())
    pair.to_server()
    pair.client(pg.execute("nothing")).server(pg.error("34000"))
    pair.client(pg.sync())
    assert pg.kinds(pair.to_server()).replace("H", "") == "ES"


def test_sync_inside_copy_counts_for_nothing_after_copy_fail() -> None:
    pair = Pair().client(pg.parse("", "copy t from stdin"), pg.bind(), pg.execute())
    pair.server(pg.parse_complete(), pg.bind_complete(), pg.copy_in_response()).to_server()
    pair.client(pg.sync(), pg.copy_fail("no")).server(pg.error("57014"))
    pair.client(pg.sync())
    assert pg.kinds(pair.to_server()) == "fS"


def test_copy_fail_by_query_ends_the_copy_and_stray_data_is_dropped() -> None:
    play("""
        > Query "copy t from stdin"
        = judge 1, "QUERY"
        = > Query "copy t from stdin"
        < CopyInResponse
        = < CopyInResponse
        > CopyFail "no"
        > CopyData "late"
        > CopyDone
        = > CopyFail "no"
        < ErrorResponse "57014"
        < ReadyForQuery "I"
        = < ErrorResponse "57014"
        = < ReadyForQuery "I"
        = finished 1, "ERROR", code="57014"
        = synced "IDLE"
        > CopyData "later"
        > CopyDone
        > Sync
        = > Sync
        < ReadyForQuery "I"
        = < ReadyForQuery "I"
        = synced "IDLE"
    """)


def test_copy_that_the_server_fails_drops_what_the_client_still_sends() -> None:
    play("""
        > Parse "", "copy t from stdin"
        > Bind
        > Execute
        = judge 1, "PREPARE"
        = judge 2, "EXECUTE"
        = > Parse "", "copy t from stdin"
        = > Bind
        = > Execute
        = > Flush
        < ParseComplete
        < BindComplete
        < CopyInResponse
        = < ParseComplete
        = < BindComplete
        = < CopyInResponse
        = finished 1, "OK"
        > CopyData "x\\n"
        = > CopyData "x\\n"
        < ErrorResponse "22P02"
        = < ErrorResponse "22P02"
        = finished 2, "ERROR", code="22P02"
        > CopyData "y\\n"
        > CopyDone
        > Sync
        = > Sync
        < ReadyForQuery "I"
        = < ReadyForQuery "I"
        = synced "IDLE"
    """)


def test_two_copies_in_one_query() -> None:
    play("""
        > Query "copy a from stdin; copy b from stdin"
        > CopyData "1"
        > CopyDone
        > CopyData "2"
        > CopyDone
        > Query "next"
        = judge 1, "QUERY"
        = > Query "copy a from stdin; copy b from stdin"
        < CopyInResponse
        = < CopyInResponse
        = > CopyData "1"
        = > CopyDone
        < CommandComplete "COPY 1"
        < CopyInResponse
        = < CommandComplete "COPY 1"
        = < CopyInResponse
        = > CopyData "2"
        = > CopyDone
        = judge 2, "QUERY", b"next"
        = > Query "next"
        < CommandComplete "COPY 1"
        < ReadyForQuery "I"
        = < CommandComplete "COPY 1"
        = < ReadyForQuery "I"
        = finished 1, "OK", rows=2, sent_bytes=2, tag=b"COPY 1; COPY 1"
        = synced "IDLE"
    """)


def test_copy_out_streams_and_stray_client_data_is_dropped() -> None:
    play("""
        > Query "copy t to stdout"
        = judge 1, "QUERY"
        = > Query "copy t to stdout"
        < CopyOutResponse
        < CopyData "1\\n"
        = < CopyOutResponse
        = < CopyData "1\\n"
        < CopyData "2\\n"
        < CopyDone
        < CommandComplete "COPY 2"
        < ReadyForQuery "I"
        = < CopyData "2\\n"
        = < CopyDone
        = < CommandComplete "COPY 2"
        = < ReadyForQuery "I"
        = finished 1, "OK", rows=2, tag=b"COPY 2"
        = synced "IDLE"
    """)


def test_query_inside_copy_ends_the_session_unforwarded() -> None:
    pair = Pair().client(pg.query("copy t from stdin")).server(pg.copy_in_response())
    pair.to_server()
    pair.client(pg.query("drop table t"))
    assert pair.host.closed
    assert b"drop" not in pair.to_server()
    assert len(pair.host.judged()) == 1
    assert not pair.host.open


def test_copy_both_is_refused() -> None:
    pair = Pair().client(pg.query("start_replication")).server(pg.copy_both_response())
    assert pair.host.closed
    assert pg.kinds(pair.to_client()) == "E"
    assert not pair.host.open


def test_large_copy_data_streams_without_being_kept() -> None:
    """A message far over every cap passes in pieces: COPY data and rows are never gathered."""
    pair = Pair(max_message_bytes=1000, max_statement_bytes=1000, held_max_bytes=1000)
    pair.client(pg.query("copy t from stdin")).server(pg.copy_in_response())
    data = pg.copy_data(b"x" * 100_000)
    pair.to_server()
    for at in range(0, len(data), 1000):
        pair.client(data[at : at + 1000])
        assert pair.to_server() == data[at : at + 1000]
    pair.client(pg.copy_done()).server(pg.command_complete("COPY 1"), pg.ready())
    assert pair.host.outcomes()[1].sent_bytes == 100_000


def test_large_row_streams_without_being_kept() -> None:
    pair = Pair(max_message_bytes=1000).client(pg.query("select")).server(pg.row_description())
    pair.to_client()
    row = pg.data_row(["x" * 100_000])
    for at in range(0, len(row), 1000):
        pair.server(row[at : at + 1000])
        assert pair.to_client() == row[at : at + 1000] or at == 0
    pair.server(pg.command_complete("SELECT 1"), pg.ready())
    assert pair.host.outcomes()[1].rows == 1


def test_sync_behind_sql_execute_of_a_prepared_copy_waits() -> None:
    """SQL's EXECUTE runs what Parse prepared, COPY FROM STDIN too (seen on PostgreSQL 18): the Sync would be ignored."""
    pair = Pair().client(pg.parse("c", "copy t from stdin"), pg.sync()).server(pg.parse_complete(), pg.ready())
    pair.to_server()
    pair.client(pg.query("EXECUTE c"), pg.sync()).server(pg.copy_in_response())
    pair.client(pg.copy_data("1\n"), pg.copy_done())
    pair.server(pg.command_complete("COPY 1"), pg.ready())
    pair.client(pg.sync())
    assert pg.kinds(pair.to_server()) == "QdcS"


def test_copy_both_flows_both_ways_and_ends_with_ready_for_query() -> None:
    """The word copy in the text makes the client wait for an answer: COPY BOTH is one, as COPY IN is."""
    pair = Pair(allow_copy_both=True).client(pg.query("start_replication slot copy_1 logical 0/0"))
    pair.to_server()
    pair.client(pg.copy_data("early"))
    assert pair.to_server() == b""
    pair.server(pg.copy_both_response(), pg.copy_data("change"))
    assert pair.to_server() == pg.copy_data("early")
    pair.client(pg.copy_data("reply"), pg.copy_done())
    assert pair.to_server() == pg.copy_data("reply") + pg.copy_done()
    answer = pg.copy_done() + pg.command_complete("COPY 0") + pg.ready()
    pair.server(answer).client(pg.query("next"))
    assert pair.to_client().endswith(answer)
    assert pair.to_server() == pg.query("next")
    assert not pair.host.closed


def test_sync_behind_a_bound_execute_of_a_prepared_copy_waits() -> None:
    """As the same by a Query: Parse of `EXECUTE c` where Parse made c a COPY (seen on PostgreSQL 18)."""
    pair = Pair().client(pg.parse("c", "copy t from stdin"), pg.sync()).server(pg.parse_complete(), pg.ready())
    pair.client(pg.parse("", "EXECUTE c"), pg.bind(), pg.execute(), pg.sync()).to_server()
    pair.server(pg.parse_complete(), pg.bind_complete(), pg.copy_in_response())
    pair.client(pg.copy_data("1\n"), pg.copy_done())
    pair.server(pg.command_complete("COPY 1"))
    pair.client(pg.sync())
    assert pg.kinds(pair.to_server()) == "dcS"
    pair.server(pg.ready())
    pair.client(pg.query("after")).server(pg.row_description(["a"]), pg.command_complete("SELECT 0"), pg.ready())
    assert not pair.host.closed
