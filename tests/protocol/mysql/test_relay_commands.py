"""All other commands: every one of the 256 command bytes has its verdict."""

import struct

import pytest
from support import my_bytes as my
from support.my_relays import client, converse, outcomes, server
from support.recorder import Answered, Closed, Finished, Parameter, Recorder, feed

from protocol.contract import FORWARD, Refusal, Side, Statement, Transaction, Verdict, Why
from protocol.mysql.relay import MySQLRelay

REFUSED = {0x05, 0x06, 0x08, 0x0D, 0x11, 0x12, 0x13, 0x14, 0x15, 0x1D, 0x1E, 0x20, 0x21, 0xFE}
TEXTS = {
    0x02: (b"shop", b"USE `shop`"),
    0x04: (b"orders\0%", b"SHOW COLUMNS FROM `orders`"),
    0x07: (b"\6", b"FLUSH LOGS, TABLES"),
    0x0A: (b"", b"SHOW PROCESSLIST"),
    0x0C: (struct.pack("<I", 77), b"KILL 77"),
}
CALLS = {0x09: b"COM_STATISTICS", 0x1B: b"COM_SET_OPTION", 0x1F: b"COM_RESET_CONNECTION"}
SILENT = {0x01: "LEFT"}
UNJUDGED = {0x0E}
WITH_BODIES = {0x03, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1C, 0xFA}


@pytest.mark.parametrize("code", range(256))
def test_every_command_byte_has_a_verdict(code: int) -> None:
    body = TEXTS[code][0] if code in TEXTS else b""
    frame = my.command(code, body)
    host = converse(client(frame), capabilities=my.BULK)
    closed = [(call.side, call.why) for call in host.calls if isinstance(call, Closed)]
    if code in REFUSED:
        assert [(each.act, each.text) for each in host.judged()] == [("CALL", None)]
        assert host.judged()[0].name.startswith(b"COM_")
        assert host.to_server == b""
        assert my.split(host.to_client)[0][1].startswith(b"\xff\xd3\x04#42000")
        assert not closed
        assert outcomes(host)[0][1] == "REFUSED"
    elif code in TEXTS:
        assert [(each.act, each.text) for each in host.judged()] == [("QUERY", TEXTS[code][1])]
        assert host.to_server == frame
    elif code in CALLS:
        assert [(each.act, each.name) for each in host.judged()] == [("CALL", CALLS[code])]
        assert host.to_server == frame
    elif code in UNJUDGED:
        assert not host.judged()
        assert host.to_server == frame
    elif code == 0x01:
        assert (host.to_server, closed) == (frame, [("CLIENT", "LEFT")])
    elif code in (0x03, 0x16):
        assert [each.text for each in host.judged()] == [b""]
    else:
        assert host.to_server == b""
        assert closed == [("CLIENT", "PROTOCOL")]
    assert (code in WITH_BODIES) <= (code not in REFUSED)


def test_bulk_is_unknown_where_it_was_not_agreed() -> None:
    assert [call.why for call in converse(client(my.command(0xFA))).calls if isinstance(call, Closed)] == ["PROTOCOL"]


@pytest.mark.parametrize(
    ("code", "body", "text"),
    [
        (0x02, b"a`b", b"USE `a``b`"),
        (0x02, "é".encode(), "USE `é`".encode()),
        (0x04, b"t\0na%", b"SHOW COLUMNS FROM `t` LIKE 'na%'"),
        (0x04, b"t\0", b"SHOW COLUMNS FROM `t`"),
    ],
)
def test_names_in_commands_become_sql(code: int, body: bytes, text: bytes) -> None:
    assert [each.text for each in converse(client(my.command(code, body))).judged()] == [text]


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (2, b""),
        (2, b"a\0"),
        (2, b"\x81`"),
        (4, b"t"),
        (4, b"t\0'"),
        (4, b"t\0\\"),
        (7, b"\0"),
        (12, b"\1"),
        (12, b"\1\0\0\0\0"),
    ],
)
def test_what_cannot_be_written_as_sql_ends_the_session(code: int, body: bytes) -> None:
    host = converse(client(my.command(code, body)))
    assert host.to_server == b""
    assert [call.why for call in host.calls if isinstance(call, Closed)] == ["PROTOCOL"]


@pytest.mark.parametrize("caps", [0, my.DEPRECATE_EOF])
def test_answers_of_the_other_commands_are_followed(caps: int) -> None:
    end = my.ok(head=0xFE) if caps else my.eof()
    answers = {
        my.command(0x0E): [my.ok()],
        my.command(0x02, "shop"): [my.ok()],
        my.command(0x09): [b"Uptime: 5  Threads: 1"],
        my.command(0x1B, b"\0\0"): [end],
        my.command(0x04, b"t\0"): [my.column() + b"\xfb", my.column() + b"\xfb", end],
        my.command(0x0A): my.result(my.row("1"), caps=caps),
    }
    for frame, payloads in answers.items():
        for answer in (my.answer(*payloads), my.answer(my.err())):
            host = converse(
                client(frame), server(answer), client(my.query("x")), server(my.answer(my.ok())), capabilities=caps
            )
            assert host.to_client == answer + my.answer(my.ok())
            assert not [call for call in host.calls if isinstance(call, Closed)]
            assert outcomes(host)[-1][1] == "OK"


# ------------------------------------------------------------------------------------------------ the server's side


@pytest.mark.parametrize(
    "answer",
    [
        my.answer(my.ok(), sequence=2),
        my.answer(b"\xfe\0\0\2\0"),
        my.answer(b"\xfa\0"),
        my.answer(b"\0\0"),
        my.answer(b"\xff"),
        my.answer(b"\1", my.column(), my.column()),
        my.answer(b"\1", my.column(), my.eof()) + my.answer(my.row("x"), sequence=9),
        my.frame(b"", 1),
        my.answer(my.ok()) + my.answer(my.ok(), sequence=2),
        my.answer(b"\xfb/etc/passwd"),
        my.frame(b"x", 1, length=my.BIG),
    ],
)
def test_answers_that_no_server_gives_end_the_session(answer: bytes) -> None:
    host = Recorder()
    relay = MySQLRelay(host)
    relay.from_client(my.query("select"))
    feed(relay, Side.SERVER, answer)
    assert [call.side for call in host.calls if isinstance(call, Closed)] == ["SERVER"]
    assert not host.open
    assert b"passwd" not in host.to_client


def test_the_servers_last_words_reach_an_idle_client() -> None:
    words = my.frame(my.err(4031, "inactive", "HY000"), 0)
    host = converse(server(words), lambda relay: relay.closed(Side.SERVER))
    assert host.to_client == words
    assert [call.why for call in host.calls if isinstance(call, Closed)] == ["SERVER_LOST"]


# ------------------------------------------------------------------------------------------------ LOAD DATA LOCAL

LOAD = b"LOAD DATA LOCAL INFILE '/tmp/a.csv' INTO TABLE t"


def test_a_named_file_is_passed_on_and_counted() -> None:
    packets = my.frame(b"1,2\n", 2) + my.frame(b"3,4\n", 3) + my.frame(b"", 4)
    host = converse(
        client(my.query(LOAD)),
        server(my.answer(b"\xfb/tmp/a.csv")),
        client(packets, my.query("next")),
        server(my.answer(my.ok(2, info=b"Records: 2"), sequence=5)),
        server(my.answer(my.ok())),
        capabilities=my.LOCAL_FILES,
    )
    assert host.to_server == my.query(LOAD) + packets + my.query("next")
    assert [(call.status, call.rows, call.sent_bytes) for call in host.calls if isinstance(call, Finished)] == [
        ("OK", 2, 8),
        ("OK", 0, 0),
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"select 1", b"/tmp/a.csv"),
        (LOAD, b"/etc/passwd"),
        (b"select '/etc/passwd'", b"/etc/passwd"),
        (LOAD, b""),
    ],
)
def test_an_uninvited_request_for_a_file_ends_the_session(text: bytes, name: bytes) -> None:
    host = converse(client(my.query(text)), server(my.answer(b"\xfb" + name)), capabilities=my.LOCAL_FILES)
    assert [call.side for call in host.calls if isinstance(call, Closed)] == ["SERVER"]
    assert name == b"" or b"\xfb" + name not in host.to_client


def test_a_file_out_of_sequence_ends_the_session() -> None:
    host = converse(
        client(my.query(LOAD)),
        server(my.answer(b"\xfb/tmp/a.csv")),
        client(my.frame(b"x", 3)),
        capabilities=my.LOCAL_FILES,
    )
    assert [call.side for call in host.calls if isinstance(call, Closed)] == ["CLIENT"]
    assert host.to_server == my.query(LOAD)


# ------------------------------------------------------------------------------------------------ the client's side


@pytest.mark.parametrize("sequence", [1, 2, 255])
def test_a_command_out_of_sequence_is_not_run(sequence: int) -> None:
    host = converse(client(my.query("one"), my.frame(b"\x03two", sequence)))
    assert host.to_server == my.query("one")
    assert [call.side for call in host.calls if isinstance(call, Closed)] == ["CLIENT"]


def test_a_continuation_out_of_sequence_is_not_run() -> None:
    data = my.frame(b"\x03" + b"x" * (my.BIG - 1), 0) + my.frame(b"x", 2)
    host = Recorder()
    MySQLRelay(host, max_statement_bytes=32 << 20).from_client(data)
    assert host.to_server == b""
    assert not host.judged()


def test_a_chain_above_the_cap_ends_the_session_before_it_is_there() -> None:
    host = Recorder()
    relay = MySQLRelay(host, max_statement_bytes=1 << 20)
    relay.from_client(my.frame(b"\x03xxxx", 0, length=my.BIG)[:9])
    assert [call.why for call in host.calls if isinstance(call, Closed)] == ["TOO_LARGE"]
    assert b"a command of more than 1048576 bytes" in host.to_client


def test_a_chain_may_end_with_an_empty_packet() -> None:
    text = b"x" * (my.BIG - 1)
    assert my.query(text).endswith(b"\0\0\0\1")
    host = Recorder()
    relay = MySQLRelay(host, max_statement_bytes=32 << 20)
    relay.from_client(my.query(text)[:-4])
    assert not host.judged()
    relay.from_client(my.query(text)[-4:])
    assert [each.text for each in host.judged()] == [text]


def test_an_empty_command_ends_the_session() -> None:
    host = converse(client(my.frame(b"")))
    assert [call.side for call in host.calls if isinstance(call, Closed)] == ["CLIENT"]


# ------------------------------------------------------------------------------------------------ KILL, questions, the end


def own(number: int) -> int | None:
    return {2_147_483_700: 41}.get(number)


@pytest.mark.parametrize(
    ("frame", "sent"),
    [
        (my.query("KILL QUERY 2147483700"), my.query("KILL QUERY 41")),
        (my.query(" kill 2147483700 ; "), my.query("KILL CONNECTION 41")),
        (my.by_id(0x0C, 2_147_483_700), my.query("KILL CONNECTION 41")),
    ],
)
def test_killing_an_own_session_kills_what_the_server_knows_it_as(frame: bytes, sent: bytes) -> None:
    host = converse(client(frame), server(my.answer(my.ok())), own_session=own)
    assert host.to_server == sent
    assert [(each.act, each.text, each.name) for each in host.judged()] == [("CALL", None, b"KILL of an own session")]


@pytest.mark.parametrize("text", ["KILL 41", "KILL QUERY 2147483701", "KILL QUERY 2147483700 + 1", "KILL @x"])
def test_killing_anything_else_is_judged_as_it_is(text: str) -> None:
    host = converse(client(my.query(text)), own_session=own)
    assert host.to_server == my.query(text)
    assert [each.text for each in host.judged()] == [text.encode()]


def ask(relay: MySQLRelay) -> None:
    assert relay.ask(b"SELECT x")


def test_the_question_tells_variables_besides_its_answer() -> None:
    row = my.row("shop", "sql_mode=ANSI", None, "character_set_client=gbk")
    host = converse(ask, server(my.answer(*my.result(row, columns=4))))
    assert [call for call in host.calls if isinstance(call, Parameter | Answered)] == [
        Parameter("sql_mode", "ANSI"),
        Parameter("character_set_client", "gbk"),
        Answered("shop"),
    ]
    assert host.to_client == b""


@pytest.mark.parametrize("answer", [my.answer(my.err()), my.answer(*my.result()), my.answer(my.ok())])
def test_a_question_without_an_answer_says_so(answer: bytes) -> None:
    host = converse(ask, server(answer), client(my.query("x")))
    assert [call for call in host.calls if isinstance(call, Answered)] == [Answered(None)]
    assert host.to_server.endswith(my.query("x"))


@pytest.mark.parametrize("left", [my.ok(3), my.ok(warnings=1), my.err()], ids=["rows", "warnings", "an error"])
def test_what_the_last_statement_left_can_be_seen_before_the_question_is_asked(left: bytes) -> None:
    shown = my.answer(*my.result(my.row("Note"), status=my.AUTOCOMMIT, warnings=1))
    host = converse(
        client(my.query("set x")),
        server(my.answer(left)),
        ask,
        client(my.query("SHOW WARNINGS")),
        server(shown),
        client(my.query("select 2")),
        server(my.answer(*my.result(my.row("shop")))),
    )
    assert host.to_server == my.query("set x") + my.query("SHOW WARNINGS") + my.query("SELECT x") + my.query("select 2")
    assert [call for call in host.calls if isinstance(call, Answered)] == [Answered("shop")]


def test_the_question_is_asked_when_an_answer_is_complete_also_where_files_may_be_sent() -> None:
    class Asking(Recorder):
        def synced(self, transaction: Transaction) -> None:
            super().synced(transaction)
            self.asked = relay.ask(b"SELECT x")

    host = Asking()
    relay = MySQLRelay(host, capabilities=my.LOCAL_FILES)
    relay.from_client(my.query("set x") + my.query("next"))
    relay.from_server(my.answer(my.ok()))
    assert host.asked
    assert host.to_server == my.query("set x") + my.query("SELECT x")
    relay.from_server(my.answer(*my.result(my.row("shop"))))
    assert host.to_server.endswith(my.query("next"))
    assert Answered("shop") in host.calls


def test_an_end_waits_for_the_end_of_a_row() -> None:
    big = my.row(b"x" * 5000)
    result = my.answer(*my.result(my.row("1"), big, my.row("3")))
    cut = result.index(b"x" * 100) + 50
    host = Recorder()
    relay = MySQLRelay(host)
    relay.from_client(my.query("select"))
    relay.from_server(result[:cut])
    relay.end(Refusal(Why.SHUTDOWN, "the end"))
    assert b"the end" not in host.to_client
    relay.from_server(result[cut:])
    packets = my.split(host.to_client)
    assert packets[-1][1].startswith(b"\xff\x1d\x04#08S01the end")
    assert packets[-1][0] == len(packets)
    assert host.to_server == my.query("select") + my.command(1)


@pytest.mark.parametrize("side", Side)
def test_peer_dropped_within_a_row_is_recorded_as_ended(side: Side) -> None:
    host = Recorder()
    relay = MySQLRelay(host)
    relay.from_client(my.query("select"))
    row = my.answer(*my.result(my.row(b"x" * 5000)))
    relay.from_server(row[: row.index(b"x" * 100) + 50])
    relay.end(Refusal(Why.TOO_LONG, "long enough"))
    relay.closed(side)
    assert [(each.why, each.detail) for each in host.calls if isinstance(each, Closed)] == [("TOO_LONG", "long enough")]


def test_an_idle_client_reads_the_end_as_the_answer_to_what_it_sends_next() -> None:
    host = Recorder()
    MySQLRelay(host).end(Refusal(Why.IDLE, "idle"))
    assert my.split(host.to_client)[0][0] == 1


def test_held_bytes_have_a_limit() -> None:
    def answer(statement: Statement) -> Verdict | None:
        return None if statement.text == b"held" else FORWARD

    host = Recorder(answer)
    relay = MySQLRelay(host, held_max_bytes=1000)
    relay.from_client(my.query("held") + my.query("x" * 2000))
    relay.from_client(my.query("y"))
    assert host.pauses == [True]
    relay.resolve(1, FORWARD)
    assert host.pauses == [True, False]
    assert len(host.judged()) == 3
