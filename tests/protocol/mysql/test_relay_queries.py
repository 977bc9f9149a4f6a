"""COM_QUERY and the other texts: answers of every shape, counted and passed on as they are."""

import pytest
from support import my_bytes as my
from support.my_relays import client, converse, outcomes, server
from support.recorder import Closed, Parameter, Recorder, Synced, by_text

from protocol.mysql.relay import MySQLRelay

CAPS = {
    "plain": 0,
    "deprecated EOF": my.DEPRECATE_EOF,
    "everything of MySQL": my.DEPRECATE_EOF | my.OPTIONAL_METADATA | my.SESSION_TRACK,
    "MariaDB's metadata": my.CACHE_METADATA,
}


@pytest.fixture(params=CAPS.values(), ids=CAPS)
def caps(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def ok(affected: int = 0, status: int = my.AUTOCOMMIT, *, caps: int = 0, info: bytes = b"") -> bytes:
    return my.ok(affected, status, info=my.string(info) if caps & my.SESSION_TRACK and info else info)


def test_rows_are_counted_and_passed_on(caps: int) -> None:
    rows = [my.row(str(number), "x" * number, None) for number in range(200)]
    result = my.answer(*my.result(*rows, columns=3, caps=caps))
    host = converse(client(my.query("select")), server(result), capabilities=caps)
    assert host.to_client == result
    assert outcomes(host) == [(1, "OK", 200, b"", "")]
    assert host.calls[-1] == Synced("IDLE")


def test_a_write_says_how_many_rows_it_changed(caps: int) -> None:
    answer = my.answer(ok(5, my.AUTOCOMMIT | my.IN_TRANS, caps=caps, info=b"Rows matched: 5  Changed: 5  Warnings: 0"))
    host = converse(client(my.query("update")), server(answer), capabilities=caps)
    assert outcomes(host) == [(1, "OK", 5, b"OK 5 Rows matched: 5  Changed: 5  Warnings: 0", "")]
    assert host.calls[-1] == Synced("OPEN")


def test_several_results_are_one_outcome(caps: int) -> None:
    first = my.result(my.row("1"), my.row("2"), caps=caps, status=my.AUTOCOMMIT | my.MORE)
    answer = my.answer(*first, ok(3, my.AUTOCOMMIT | my.MORE, caps=caps), *my.result(my.row("4"), caps=caps))
    host = converse(client(my.query("a; b; c")), server(answer), capabilities=caps)
    assert host.to_client == answer
    assert outcomes(host) == [(1, "OK", 3, b"; OK 3; ", "")]


def test_an_error_may_come_at_any_point_of_an_answer(caps: int) -> None:
    whole = my.result(my.row("1"), my.row("2"), columns=2, caps=caps)
    for size in range(len(whole)):
        if size in (1, 2):
            continue  # within the definitions, tested below
        answer = my.answer(*whole[:size], my.err(1317, "interrupted", "70100"))
        host = converse(client(my.query("select")), server(answer), capabilities=caps)
        assert host.to_client == answer
        assert [(each[1], each[4]) for each in outcomes(host)] == [("ERROR", "1317")]


def test_rows_that_look_like_other_packets_are_rows() -> None:
    rows = [
        my.row(b"\xfe\0\0\2\0"),
        my.row(b"\xff" * 9),
        my.row(None),
        my.row(b""),
        my.row(None, b"\0"),
        my.row(b"\x03drop"),
    ]
    result = my.answer(*my.result(*rows))
    host = converse(client(my.query("select")), server(result))
    assert host.to_client == result
    assert outcomes(host)[0][2] == len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("size", [my.BIG - 5, my.BIG - 4, my.BIG - 3, my.BIG, 2 * my.BIG - 9, 2 * my.BIG - 8])
def test_rows_of_several_packets_are_one_row(size: int) -> None:
    big = my.row(b"\xff" * size)
    result = my.answer(*my.result(my.row("small"), big, my.row("last")))
    host = Recorder()
    relay = MySQLRelay(host)
    relay.from_client(my.query("select"))
    for at in range(0, len(result), 1_000_003):
        relay.from_server(result[at : at + 1_000_003])
    assert host.to_client == result
    assert outcomes(host)[0][1:3] == ("OK", 3)


def test_definitions_that_do_not_come_are_not_waited_for() -> None:
    for caps in (my.OPTIONAL_METADATA, my.CACHE_METADATA | my.DEPRECATE_EOF):
        tail = (
            [my.eof(), my.row("1", "2"), my.eof()]
            if not caps & my.DEPRECATE_EOF
            else [my.row("1", "2"), my.ok(head=0xFE)]
        )
        answer = my.answer(my.lenenc(2) + b"\0", *tail)
        host = converse(client(my.query("select")), server(answer), capabilities=caps)
        assert outcomes(host) == [(1, "OK", 1, b"", "")]


def test_progress_reports_are_no_end() -> None:
    report = b"\xff\xff\xff\1\1\1\0\0\0\5stage"
    answer = my.answer(report, report, my.ok(1))
    host = converse(client(my.query("alter")), server(answer), capabilities=my.PROGRESS)
    assert host.to_client == answer
    assert outcomes(host) == [(1, "OK", 1, b"OK 1", "")]
    host = converse(client(my.query("alter")), server(answer))
    assert [call.side for call in host.calls if isinstance(call, Closed)] == ["SERVER"]


def test_tracked_variables_are_told() -> None:
    changes = [my.variable("character_set_client", "gbk"), (3, b"\0\3abc"), my.schema("shop"), (5, b"\x08T_______")]
    answer = my.answer(my.ok_tracked(changes, info=b"changed"))
    host = converse(client(my.query("set names gbk")), server(answer), capabilities=my.SESSION_TRACK)
    assert [call for call in host.calls if isinstance(call, Parameter)] == [
        Parameter("character_set_client", "gbk"),
        Parameter("database", "shop"),
    ]
    assert outcomes(host)[0][3] == b"OK 0 changed"


def test_query_attributes_are_parameters_and_the_text_is_the_text() -> None:
    attributes = b"\1\1" + b"\0" + b"\1" + b"\xfd\0" + my.string("trace") + my.string("abc")
    host = converse(client(my.command(3, attributes + b"select 1")), capabilities=my.QUERY_ATTRIBUTES)
    judged = host.judged()[0]
    assert (judged.text, judged.parameters, judged.types, judged.formats) == (b"select 1", (b"abc",), (253,), (1,))
    host = converse(client(my.query("select 2", attributes=True)), capabilities=my.QUERY_ATTRIBUTES)
    assert host.judged()[0].text == b"select 2"


def test_a_refusal_is_an_error_packet_in_its_turn_and_the_server_hears_nothing() -> None:
    host = converse(
        client(my.query("one"), my.query("refused"), my.query("three")),
        server(my.answer(my.ok(1)), my.answer(*my.result(my.row("3")))),
        answer=by_text(),
    )
    assert host.to_server == my.query("one") + my.query("three")
    packets = my.split(host.to_client)
    assert packets[0] == (1, my.ok(1))
    sequence, told = packets[1]
    assert sequence == 1
    assert told.startswith(b"\xff\x76\x04#42000dbproxy: blocked by rule")
    assert b"detail of the refusal. hint of the refusal" in told
    assert [each[:2] for each in outcomes(host)] == [(1, "OK"), (2, "REFUSED"), (3, "OK")]


def test_a_refusal_of_several_packets_has_the_sequence_that_the_client_expects() -> None:
    text = b"refused" + b"x" * my.BIG
    host = converse_large(my.query(text))
    assert my.split(host.to_client)[0][0] == 2
    assert host.to_server == b""


def converse_large(data: bytes) -> Recorder:
    host = Recorder(by_text())
    relay = MySQLRelay(host, max_statement_bytes=64 << 20)
    for at in range(0, len(data), 5_000_011):
        relay.from_client(data[at : at + 5_000_011])
    return host


@pytest.mark.slow
@pytest.mark.parametrize("size", [my.BIG - 2, my.BIG - 1, my.BIG, 2 * my.BIG - 1])
def test_commands_of_several_packets_are_judged_whole(size: int) -> None:
    text = b"s" * size
    host = converse_large(my.query(text))
    assert host.to_server == my.query(text)
    assert [len(each.text or b"") for each in host.judged()] == [size]


def test_fifty_commands_in_one_write_are_judged_one_by_one() -> None:
    texts = [f"select {number}" for number in range(50)]
    host = converse(client(*map(my.query, texts)), server(my.answer(my.ok()) * 50))
    assert [each.text for each in host.judged()] == [text.encode() for text in texts]
    assert host.to_client == my.answer(my.ok()) * 50


@pytest.mark.parametrize("status", [my.AUTOCOMMIT, my.IN_TRANS])
def test_a_refusal_leaves_the_transaction_as_it_is(status: int) -> None:
    host = converse(
        client(my.query("begin")), server(my.answer(my.ok(0, status))), client(my.query("refused")), answer=by_text()
    )
    assert host.to_server == my.query("begin")
    assert [call.transaction for call in host.calls if isinstance(call, Synced)] == ["OPEN" if status & 1 else "IDLE"]
