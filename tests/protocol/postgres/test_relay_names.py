"""Names of prepared statements: what is judged at Bind must be the text that the server would run.

The first three kinds of confusion were reproduced on PostgreSQL 15 and 18.
"""

import pytest
from support import pg_bytes as pg
from support.relays import Pair


def _parsed(pair: Pair, name: bytes | str, text: str) -> None:
    pair.client(pg.parse(name, text), pg.sync()).server(pg.parse_complete(), pg.ready())


def _text_judged_at_bind(pair: Pair, name: bytes | str) -> bytes | None:
    pair.client(pg.bind("", name), pg.execute(), pg.sync())
    return [each for each in pair.host.judged() if each.act == "EXECUTE"][-1].text


def test_names_that_agree_in_63_bytes_are_one_name() -> None:
    """NAMEDATALEN: the server looks no further, so closing one of them closes the other."""
    pair = Pair()
    first, second = "a" * 63 + "1", "a" * 63 + "2"
    _parsed(pair, first, "harmless")
    pair.client(pg.close("S", second), pg.sync()).server(pg.close_complete(), pg.ready())
    _parsed(pair, second, "drop everything")
    assert _text_judged_at_bind(pair, first) == b"drop everything"


def test_portal_names_that_agree_in_63_bytes_are_one_name() -> None:
    pair = Pair()
    first, second = "a" * 63 + "1", "a" * 63 + "2"
    _parsed(pair, "s", "one")
    pair.client(pg.bind(first, "s"), pg.execute(second), pg.sync())
    assert [each.act for each in pair.host.judged()] == ["PREPARE", "EXECUTE"]


@pytest.mark.parametrize("name", [b"\xe9", "é".encode(), b"\xed\x40"])
def test_name_with_bytes_outside_ascii_is_never_vouched_for(name: bytes) -> None:
    """The server converts names from client_encoding: two spellings can be one name, and it can change in between."""
    pair = Pair()
    _parsed(pair, name, "harmless")
    assert _text_judged_at_bind(pair, name) is None


@pytest.mark.parametrize(
    "sql",
    [
        "DEALLOCATE n",
        "deallocate all",
        "DISCARD ALL",
        "select 1; Deallocate n",
        "DO $$BEGIN EXECUTE 'DEALLOCATE n'; END$$",
    ],
)
def test_name_that_sql_may_have_redefined_is_not_vouched_for(sql: str) -> None:
    pair = Pair()
    _parsed(pair, "n", "harmless")
    pair.client(pg.query(sql)).server(pg.command_complete("X"), pg.ready())
    pair.client(pg.query("PREPARE n AS evil")).server(pg.command_complete("PREPARE"), pg.ready())
    assert _text_judged_at_bind(pair, "n") is None


def test_name_that_sql_may_have_redefined_is_not_vouched_for_in_one_write() -> None:
    pair = Pair()
    _parsed(pair, "n", "harmless")
    pair.client(pg.query("DEALLOCATE n; PREPARE n AS evil"), pg.bind("", "n"), pg.execute(), pg.sync())
    asked = [each for each in pair.host.judged() if each.act == "EXECUTE"]
    assert [each.text for each in asked] in ([], [None])


def test_name_that_an_executed_statement_may_have_redefined_is_not_vouched_for() -> None:
    pair = Pair()
    _parsed(pair, "n", "harmless")
    _parsed(pair, "d", "DEALLOCATE n")
    pair.client(pg.bind("", "d"), pg.execute(), pg.sync())
    pair.server(pg.bind_complete(), pg.command_complete("DEALLOCATE"), pg.ready())
    pair.client(pg.query("PREPARE n AS evil")).server(pg.command_complete("PREPARE"), pg.ready())
    assert _text_judged_at_bind(pair, "n") is None


def test_name_parsed_again_after_deallocate_is_known_again() -> None:
    pair = Pair()
    _parsed(pair, "n", "harmless")
    pair.client(pg.query("DEALLOCATE ALL")).server(pg.command_complete("DEALLOCATE ALL"), pg.ready())
    _parsed(pair, "n", "another")
    assert _text_judged_at_bind(pair, "n") == b"another"


def test_unnamed_statement_is_unknown_after_a_query() -> None:
    pair = Pair()
    _parsed(pair, "", "harmless")
    pair.client(pg.query("x")).server(pg.command_complete("X"), pg.ready())
    assert _text_judged_at_bind(pair, "") is None


def test_unnamed_statement_is_unknown_after_a_query_in_the_same_write() -> None:
    pair = Pair()
    pair.client(pg.parse("", "harmless"), pg.query("x"), pg.bind(), pg.sync())
    assert [(each.act, each.text) for each in pair.host.judged()] == [
        ("PREPARE", b"harmless"),
        ("QUERY", b"x"),
        ("EXECUTE", None),
    ]


def test_skipped_query_does_not_destroy_the_unnamed_statement() -> None:
    pair = Pair()
    _parsed(pair, "", "kept")
    pair.client(pg.parse("x", "bad"), pg.query("q"), pg.sync()).server(pg.error(), pg.ready())
    assert _text_judged_at_bind(pair, "") == b"kept"
    pair.server(pg.bind_complete(), pg.command_complete("X"), pg.ready())
    _parsed(pair, "", "newer")
    assert _text_judged_at_bind(pair, "") == b"newer"


def test_failed_parse_over_a_live_name_leaves_the_older_text() -> None:
    pair = Pair()
    _parsed(pair, "n", "older")
    pair.client(pg.parse("n", "newer"), pg.sync()).server(pg.error("42P05"), pg.ready())
    assert _text_judged_at_bind(pair, "n") == b"older"


def test_text_follows_close_and_parse() -> None:
    pair = Pair()
    _parsed(pair, "n", "older")
    pair.client(pg.close("S", "n"), pg.parse("n", "newer"), pg.bind("", "n"), pg.execute(), pg.sync())
    assert [each.text for each in pair.host.judged() if each.act == "EXECUTE"] == [b"newer"]


def test_closing_what_is_not_there_is_no_error() -> None:
    pair = Pair().client(pg.close("S", "n"), pg.close("P", "p"), pg.sync())
    pair.server(pg.close_complete(), pg.close_complete(), pg.ready())
    assert pg.kinds(pair.to_client()) == "33Z"
    assert not pair.host.closed


@pytest.mark.parametrize(
    "message",
    [
        pg.parse("_dbproxy", "select 1"),
        pg.bind("", "_dbproxy"),
        pg.close("S", "_dbproxy"),
        pg.describe("S", "_dbproxy"),
    ],
)
def test_reserved_name_ends_the_session(message: bytes) -> None:
    pair = Pair().client(message, pg.sync())
    assert pair.host.closed
    assert pair.to_server() == b""
    [(kind, body)] = pg.split(pair.to_client())
    assert (kind, pg.fields_of(body)["C"]) == ("E", "08P01")


def test_more_names_than_the_cap_are_refused_and_the_session_lives() -> None:
    pair = Pair(max_prepared=100)
    for number in range(150):
        pair.client(pg.parse(f"n{number}", "select 1"), pg.sync())
        kind, _ = pg.split(pair.to_server())[0]
        assert kind == "P"
        answer = pg.parse_complete() if number < 100 else pg.error("42703")
        pair.server(answer, pg.ready())
    statuses = [each.status for each in pair.host.outcomes().values()]
    assert statuses == ["OK"] * 100 + ["REFUSED"] * 50
    assert not pair.host.closed


def test_closing_names_makes_room_below_the_cap() -> None:
    pair = Pair(max_prepared=2)
    for _ in range(5):
        _parsed(pair, "n", "x")
        pair.client(pg.close("S", "n"), pg.sync()).server(pg.close_complete(), pg.ready())
    assert {each.status for each in pair.host.outcomes().values()} == {"OK"}


def test_column_called_like_discard_costs_no_names() -> None:
    """Else each later execution in the session would be judged without its text, and refused where that is the rule."""
    pair = Pair()
    _parsed(pair, "n", "select 1")
    _parsed(pair, "d", "update t set discarded_at = now()")
    pair.client(pg.bind("", "d"), pg.execute(), pg.sync())
    pair.server(pg.bind_complete(), pg.command_complete("UPDATE 1"), pg.ready())
    pair.client(pg.query("select * from t where discarded_at is null"))
    pair.server(pg.command_complete("SELECT 0"), pg.ready())
    assert _text_judged_at_bind(pair, "n") == b"select 1"
    pair.server(pg.bind_complete(), pg.command_complete("SELECT 1"), pg.ready())
    assert _text_judged_at_bind(pair, "d") == b"update t set discarded_at = now()"


def test_sql_execute_of_a_prepared_deallocate_is_not_vouched_for() -> None:
    """SQL's EXECUTE runs what Parse prepared, DEALLOCATE too (seen on PostgreSQL 18)."""
    pair = Pair()
    _parsed(pair, "n", "harmless")
    _parsed(pair, "d", "DEALLOCATE n")
    pair.client(pg.query("EXECUTE d")).server(pg.command_complete("DEALLOCATE"), pg.ready())
    pair.client(pg.query("PREPARE n AS evil")).server(pg.command_complete("PREPARE"), pg.ready())
    assert _text_judged_at_bind(pair, "n") is None
