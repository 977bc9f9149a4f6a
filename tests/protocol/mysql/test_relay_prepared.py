"""Prepared statements: what runs is the text that was prepared, with the parameters that the server reads."""

import hashlib
import struct

import pytest
from support import my_bytes as my
from support.my_relays import Step, client, converse, outcomes, server
from support.recorder import Closed, Recorder, by_text, refuse

from protocol.contract import FORWARD, Act, Refusal, Statement, Verdict, Why
from protocol.mysql.relay import MySQLRelay

INT, STRING, BLOB = 3, 253, 252


def int4(value: int) -> bytes:
    return struct.pack("<i", value)


def prepared(statement_id: int = 7, *, columns: int = 0, parameters: int = 2, caps: int = 0) -> bytes:
    parts = [my.prepared(statement_id, columns, parameters) + (b"\1" if caps & my.OPTIONAL_METADATA else b"")]
    for count in (parameters, columns):
        if count:
            parts += [my.column("?")] * count + ([] if caps & my.DEPRECATE_EOF else [my.eof()])
    return my.answer(*parts)


def start(text: str = "insert", **options: int) -> tuple[Step, Step]:
    return client(my.prepare(text)), server(prepared(**options))


@pytest.mark.parametrize("caps", [0, my.DEPRECATE_EOF, my.OPTIONAL_METADATA])
def test_an_execution_is_judged_with_text_and_parameters(caps: int) -> None:
    values = [(INT, int4(5)), (STRING, my.string("é")), (BLOB, None)]
    host = converse(
        *start(parameters=3, columns=2, caps=caps),
        client(my.execute(7, values)),
        server(my.answer(*my.result(my.row("1", "2"), columns=2, caps=caps))),
        capabilities=caps,
    )
    assert [each.act for each in host.judged()] == ["PREPARE", "EXECUTE"]
    judged = host.judged()[1]
    assert (judged.text, judged.name) == (b"insert", b"7")
    assert (judged.parameters, judged.types) == ((int4(5), "é".encode(), None), (INT, STRING, BLOB))
    assert [each[:3] for each in outcomes(host)] == [(1, "OK", 0), (2, "OK", 1)]
    assert host.to_server == my.prepare("insert") + my.execute(7, values)


def test_types_are_remembered_when_they_are_not_sent_again() -> None:
    first, second = [(INT, int4(1)), (STRING, my.string("a"))], [(INT, int4(2)), (STRING, my.string("bb"))]
    host = converse(
        *start(), client(my.execute(7, first), my.execute(7, second, types=False)), server(my.answer(my.ok()) * 2)
    )
    assert host.judged()[2].parameters == (int4(2), b"bb")
    assert host.judged()[2].types == (INT, STRING)


def test_types_of_a_refused_execution_reach_the_server_with_the_next_one() -> None:
    values = [(INT, int4(1)), (STRING, my.string("a"))]
    refusals = iter([True, False])

    def answer(statement: Statement) -> Verdict:
        return refuse() if statement.act is Act.EXECUTE and next(refusals) else FORWARD

    host = Recorder(answer)
    relay = MySQLRelay(host)
    relay.from_client(my.prepare("insert"))
    relay.from_server(prepared())
    relay.from_client(my.execute(7, values))
    relay.from_client(my.execute(7, values, types=False))
    assert host.to_server == my.prepare("insert") + my.execute(7, values)


def test_types_that_were_never_sent_end_the_session() -> None:
    host = converse(*start(), client(my.execute(7, [(INT, int4(1)), (INT, int4(1))], types=False)))
    assert [call.side for call in host.calls if isinstance(call, Closed)] == ["CLIENT"]
    assert host.to_server == my.prepare("insert")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\7\0\0\0",
        my.execute(7, [(INT, int4(5))] * 2)[5:-1],
        my.execute(7, [(INT, int4(5))] * 2)[5:] + b"x",
        my.execute(7, [(INT, int4(5))])[5:],
        my.execute(7, [(INT, int4(5)), (STRING, b"\xff")])[5:],
        my.execute(7, [(INT, int4(5)), (STRING, b"\xfe" + b"\xff" * 8)])[5:],
        my.execute(7, [(INT, int4(5)), (STRING, b"\x05abc")])[5:],
        my.execute(7, [(INT, int4(5)), (0xE0, b"abc")])[5:],
        my.execute(7, [(INT, int4(5)), (12, b"\x03abc")])[5:],
        my.execute(7, [(INT, int4(5)), (0x0103, int4(5))])[5:],
        my.execute(7, [(INT, int4(5))] * 2, flags=0x10)[5:],
    ],
)
def test_an_execution_that_is_not_as_long_as_it_says_ends_the_session(body: bytes) -> None:
    host = converse(*start(), client(my.command(0x17, body)))
    assert [call.side for call in host.calls if isinstance(call, Closed)] == ["CLIENT"]
    assert host.to_server == my.prepare("insert")


def test_long_data_is_part_of_what_is_judged() -> None:
    host = converse(
        *start(),
        client(my.long_data(7, 1, b"abc"), my.long_data(7, 1, b"def"), my.long_data(7, 9, b"nothing")),
        client(my.execute(7, [(INT, int4(1)), (BLOB, b"")], skip=[1])),
        server(my.answer(my.ok())),
        client(my.execute(7, [(INT, int4(2)), (BLOB, my.string("now"))])),
    )
    assert host.judged()[1].parameters == (int4(1), b"abcdef")
    assert host.judged()[2].parameters == (int4(2), b"now")
    assert b"nothing" not in host.to_server


@pytest.mark.slow
def test_of_very_long_data_size_and_digest_are_judged() -> None:
    piece = b"z" * 40_000
    host = converse(
        *start(parameters=1),
        client(my.long_data(7, 0, piece), my.long_data(7, 0, piece)),
        client(my.execute(7, [(BLOB, b"")], skip=[0])),
    )
    judged = host.judged()[1]
    digest = hashlib.sha256(piece * 2).hexdigest().encode()
    assert judged.parameters == (b"<80000 bytes, sha256 " + digest + b">",)
    assert judged.types == (0x1000,)


def test_reset_forgets_long_data() -> None:
    host = converse(
        *start(parameters=1),
        client(my.long_data(7, 0, b"abc"), my.by_id(0x1A, 7)),
        server(my.answer(my.ok())),
        client(my.execute(7, [(BLOB, my.string("x"))])),
    )
    assert host.judged()[1].parameters == (b"x",)


def test_an_unknown_statement_is_refused_whatever_the_policy_says() -> None:
    host = converse(*start(), client(my.execute(8), my.fetch(9, 1), my.by_id(0x1A, 5), my.by_id(0x19, 5)))
    assert host.to_server == my.prepare("insert")
    assert [payload[1:3] for _, payload in my.split(host.to_client)[-3:]] == [(1243).to_bytes(2, "little")] * 3
    assert [each[1] for each in outcomes(host)] == ["OK", "REFUSED", "REFUSED", "REFUSED"]


def test_a_closed_statement_is_gone() -> None:
    host = converse(*start(), client(my.by_id(0x19, 7), my.execute(7)))
    assert host.to_server == my.prepare("insert") + my.by_id(0x19, 7)
    assert outcomes(host)[-1][1] == "REFUSED"


def test_a_refused_prepare_leaves_nothing_to_execute() -> None:
    host = converse(client(my.prepare("refused"), my.execute(0xFFFFFFFF)), answer=by_text(), capabilities=my.BULK)
    assert host.to_server == b""
    assert [each[1] for each in outcomes(host)] == ["REFUSED", "REFUSED"]


def test_the_last_prepared_statement_becomes_its_id() -> None:
    values = [(INT, int4(5)), (STRING, my.string("x"))]
    host = converse(
        client(my.prepare("insert"), my.execute(0xFFFFFFFF, values)),
        server(prepared()),
        server(my.answer(my.ok(1))),
        capabilities=my.BULK,
    )
    assert host.to_server == my.prepare("insert") + my.execute(7, values)
    assert [each.text for each in host.judged()] == [b"insert", b"insert"]
    assert host.judged()[1].name == b"7"


def test_the_last_prepared_statement_is_none_after_a_failure() -> None:
    host = converse(
        client(my.prepare("broken"), my.execute(0xFFFFFFFF)), server(my.answer(my.err())), capabilities=my.BULK
    )
    assert host.to_server == my.prepare("broken")
    assert [each[1] for each in outcomes(host)] == ["ERROR", "REFUSED"]


def test_bulk_rows_are_all_decoded() -> None:
    types = struct.pack("<HH", INT, STRING)
    rows = b"\0" + int4(1) + b"\0" + my.string("a") + b"\1" + b"\2" + b"\0" + int4(3) + b"\3"
    frame = my.command(0xFA, struct.pack("<IH", 7, 128) + types + rows)
    host = converse(*start(), client(frame), server(my.answer(my.ok(3))), capabilities=my.BULK)
    judged = host.judged()[1]
    assert judged.parameters == (int4(1), b"a", None, b"", int4(3), b"")
    assert judged.types == (INT, STRING, INT, 0x1001, INT, 0x1002)
    assert host.to_server.endswith(frame)
    for cut in range(1, len(rows)):
        broken = my.command(0xFA, struct.pack("<IH", 7, 128) + types + rows[:-cut])
        host = converse(*start(), client(broken), capabilities=my.BULK)
        assert host.to_server in (
            my.prepare("insert"),
            my.prepare("insert") + broken,
        )  # a cut between row sets is one less
    assert [call.why for call in converse(*start(), client(frame)).calls if isinstance(call, Closed)] == ["PROTOCOL"]


def test_many_bulk_rows_are_noted() -> None:
    rows = b"".join(b"\0" + int4(number) for number in range(3000))
    frame = my.command(0xFA, struct.pack("<IH", 7, 128) + struct.pack("<H", INT) + rows)
    host = converse(*start(parameters=1), client(frame), capabilities=my.BULK)
    judged = host.judged()[1]
    assert len(judged.parameters) == 1001
    assert (judged.parameters[-1] or b"").startswith(b"<2000 more values of 3000 row sets, sha256 ")


@pytest.mark.parametrize("caps", [0, my.DEPRECATE_EOF])
def test_a_cursor_is_fetched_in_pieces(caps: int) -> None:
    opened = my.CURSOR | my.AUTOCOMMIT
    if caps:
        first = my.answer(b"\1", my.column(), my.ok(0, opened, head=0xFE))
        ends = [my.ok(0, opened, head=0xFE), my.ok(0, opened | my.LAST_ROW, head=0xFE)]
    else:
        first = my.answer(b"\1", my.column(), my.eof(opened))
        ends = [my.eof(opened), my.eof(opened | my.LAST_ROW)]
    host = converse(
        *start("select", parameters=0, columns=1, caps=caps),
        client(my.execute(7, flags=1)),
        server(first),
        client(my.fetch(7, 2)),
        server(my.answer(b"\0\0\1a", b"\0\0\1b", ends[0])),
        client(my.fetch(7, 2)),
        server(my.answer(b"\0\0\1c", ends[1])),
        capabilities=caps,
    )
    assert [each.act for each in host.judged()] == ["PREPARE", "EXECUTE", "RESUME", "RESUME"]
    assert [each[1:3] for each in outcomes(host)] == [("OK", 0), ("SUSPENDED", 0), ("SUSPENDED", 2), ("OK", 1)]


def test_reset_connection_forgets_all_statements_also_those_on_their_way() -> None:
    host = converse(
        *start(),
        client(my.prepare("later"), my.command(0x1F)),
        server(prepared(8), my.answer(my.ok())),
        client(my.execute(7), my.execute(8)),
    )
    assert [each[1] for each in outcomes(host)] == ["OK", "OK", "OK", "REFUSED", "REFUSED"]


def test_statements_are_limited() -> None:
    steps = [step for number in range(1, 4) for step in (client(my.prepare("x")), server(prepared(number)))]
    host = converse(*steps[:4], client(my.prepare("x")), max_prepared=2)
    assert b"more than 2 prepared statements" in host.to_client
    assert host.to_server == my.prepare("x") * 2


def test_what_was_not_sent_can_be_taken_back() -> None:
    host = Recorder()
    relay = MySQLRelay(host)
    frames = my.query("one") + my.command(0x0E) + my.prepare("two") + my.by_id(0x19, 7)
    relay.from_client(frames)
    assert relay.revoke(host.to_server, Refusal(Why.AUDIT_DOWN, "not recorded")) == my.command(0x0E)
    relay.from_server(my.answer(my.ok()))
    assert [each[1] for each in outcomes(host)] == ["REFUSED", "REFUSED"]
    assert host.to_client.count(b"not recorded") == 2
    assert relay.revoke(b"junk", Refusal(Why.AUDIT_DOWN, "not recorded")) is None
