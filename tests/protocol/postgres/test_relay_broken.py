"""Broken and unexpected messages, both directions: the session ends, nothing of the message is passed on."""

import pytest
from support import pg_bytes as pg
from support.recorder import Closed, refuse
from support.relays import Pair

from protocol.contract import FORWARD

CLIENT_TYPES = b"QPBDECSHFXdcf"
LONG = 1 << 20


def _idle() -> Pair:
    return Pair(max_statement_bytes=1000, max_message_bytes=2000)


def _in_pipeline() -> Pair:
    return _idle().client(pg.parse("", "select 1"), pg.bind())


def _skipping() -> Pair:
    return _idle().client(pg.parse("", "bad")).server(pg.error())


def _in_copy() -> Pair:
    return _idle().client(pg.query("copy t from stdin")).server(pg.copy_in_response())


def _copy_out() -> Pair:
    return _idle().client(pg.query("copy t to stdout")).server(pg.copy_out_response())


def _failed_transaction() -> Pair:
    return _idle().client(pg.query("bad")).server(pg.error(), pg.ready("E"))


def _refused() -> Pair:
    pair = _idle()
    pair.answer = lambda _: refuse()
    pair.client(pg.parse("", "no"))
    pair.answer = lambda _: FORWARD
    return pair


STATES = {
    "idle": _idle,
    "in a pipeline": _in_pipeline,
    "skipping": _skipping,
    "in COPY IN": _in_copy,
    "in a failed transaction": _failed_transaction,
    "after a refusal": _refused,
}


def _fatal(pair: Pair) -> str:
    """The SQLSTATE of the one FATAL error that the client was sent last."""
    kind, body = pg.split(pair.to_client())[-1]
    fields = pg.fields_of(body)
    assert (kind, fields["V"]) == ("E", "FATAL")
    return fields["C"]


@pytest.mark.parametrize("state", STATES)
def test_every_type_byte_outside_the_list_ends_the_session(state: str) -> None:
    """A7: all 256 types in every state after login; the body is one that would pass if anyone looked."""
    cases = 0
    for kind in range(256):
        if kind in CLIENT_TYPES:
            continue
        pair = STATES[state]()
        pair.to_server()
        judged = len(pair.host.judged())
        message = pg.frame(bytes([kind]), b"select 1\0")
        pair.client(message, pg.query("next"))
        assert pair.host.closed, f"type {kind} {state}"
        assert pair.to_server() == b""
        assert len(pair.host.judged()) == judged
        assert _fatal(pair) == "08P01"
        assert not pair.host.open
        assert [call.side for call in pair.host.calls if isinstance(call, Closed)] == ["CLIENT"]
        cases += 1
    assert cases == 243


def test_unknown_type_during_copy_out_ends_the_session_when_it_is_over() -> None:
    """What follows a statement that may COPY waits for the server's word, so the bytes are looked at later."""
    pair = _copy_out()
    pair.to_server()
    pair.client(pg.frame("y")).server(pg.copy_done(), pg.command_complete("COPY 0"), pg.ready())
    assert pair.host.closed
    assert pair.to_server() == b""


@pytest.mark.parametrize("kind", [chr(byte) for byte in CLIENT_TYPES])
@pytest.mark.parametrize("length", [0, 1, 2, 3, -1, -(1 << 31)])
def test_impossible_length_ends_the_session(kind: str, length: int) -> None:
    if kind == "d" and length < 0:
        kind = "c"  # CopyData outside COPY is dropped, however long it says it is
    pair = _idle().client(pg.frame(kind, b"x\0", length=length))
    assert pair.host.closed
    assert pair.to_server() == b""
    assert _fatal(pair) in {"08P01", "54000"}


@pytest.mark.parametrize("kind", [chr(byte) for byte in CLIENT_TYPES if byte not in b"dX"])
def test_message_over_its_cap_ends_the_session_before_it_arrives(kind: str) -> None:
    pair = _idle().client(pg.frame(kind, b"x" * 10, length=LONG))
    assert pair.host.closed
    assert pair.to_server() == b""
    assert _fatal(pair) in {"54000", "08P01"}


def test_statement_at_its_cap_passes_and_one_byte_more_does_not() -> None:
    fits = pg.query("x" * (1000 - 5))
    assert _idle().client(fits).to_server() == fits
    assert _idle().client(pg.query("x" * (1000 - 4))).host.closed


BROKEN = {
    "Query without NUL": pg.frame("Q", b"select 1"),
    "Query with NUL inside": pg.frame("Q", b"select 1\0; drop\0"),
    "Query with bytes behind": pg.frame("Q", b"select 1\0x"),
    "Query with two NULs": pg.frame("Q", b"select 1\0\0"),
    "empty Query body": pg.frame("Q", b""),
    "Parse without text": pg.frame("P", b"name\0"),
    "Parse without NUL": pg.frame("P", b"name"),
    "Parse without count": pg.frame("P", b"\0select\0"),
    "Parse with half a count": pg.frame("P", b"\0select\0\0"),
    "Parse with too few types": pg.frame("P", b"\0select\0" + pg.int16(2) + pg.int32(23)),
    "Parse with too many types": pg.frame("P", b"\0select\0" + pg.int16(0) + pg.int32(23)),
    "Parse with a huge count": pg.frame("P", b"\0select\0" + pg.int16(-1)),
    "Bind of nothing": pg.frame("B", b""),
    "Bind without statement": pg.frame("B", b"\0"),
    "Bind cut at formats": pg.frame("B", b"\0\0\0"),
    "Bind with a parameter of length -2": pg.frame(
        "B", b"\0\0" + pg.int16(0) + pg.int16(1) + pg.int32(-2) + pg.int16(0)
    ),
    "Bind with 65535 parameters and no data": pg.frame("B", b"\0\0" + pg.int16(0) + pg.int16(-1)),
    "Bind with 65535 formats and no data": pg.frame("B", b"\0\0" + pg.int16(-1)),
    "Bind with a parameter past the end": pg.frame(
        "B", b"\0\0" + pg.int16(0) + pg.int16(1) + pg.int32(99) + b"x" + pg.int16(0)
    ),
    "Bind with a parameter of 2^31-1": pg.frame(
        "B", b"\0\0" + pg.int16(0) + pg.int16(1) + pg.int32((1 << 31) - 1) + pg.int16(0)
    ),
    "Bind with bytes behind": pg.frame("B", pg.bind()[5:] + b"x"),
    "Bind without result formats": pg.frame("B", pg.bind()[5:-2]),
    "Bind with too few result formats": pg.frame("B", pg.bind()[5:-2] + pg.int16(2) + pg.int16(0)),
    "Bind with 2 formats for 3 parameters": pg.bind("", "", [b"1", b"2", b"3"], [0, 1]),
    "Describe of neither": pg.describe("X", "a"),
    "Describe without NUL": pg.frame("D", b"Sname"),
    "Describe with bytes behind": pg.frame("D", b"Sname\0x"),
    "empty Describe": pg.frame("D", b""),
    "Close of neither": pg.close("X", "a"),
    "Close without NUL": pg.frame("C", b"P"),
    "Execute without count": pg.frame("E", b"\0"),
    "Execute with bytes behind": pg.frame("E", b"\0\0\0\0\0\0"),
    "Execute without NUL": pg.frame("E", b"name"),
    "Sync with a body": pg.frame("S", b"x"),
    "Flush with a body": pg.frame("H", b"x"),
    "FunctionCall of nothing": pg.frame("F", b""),
    "FunctionCall with a length of -2": pg.frame(
        "F", pg.int32(1) + pg.int16(0) + pg.int16(1) + pg.int32(-2) + pg.int16(0)
    ),
    "FunctionCall with 65535 arguments": pg.frame("F", pg.int32(1) + pg.int16(0) + pg.int16(-1)),
    "FunctionCall with bytes behind": pg.frame("F", pg.function_call(1)[5:] + b"x"),
    "FunctionCall with 2 formats for 3": pg.function_call(1, [b"a", b"b", b"c"], [0, 1]),
    "password after login": pg.password("secret"),
    "SASL after login": pg.sasl_initial("SCRAM-SHA-256", b"n,,n=,r=x"),
    "start-up packet after login": pg.startup({"user": "x"}),
    "SSLRequest after login": pg.ssl_request(),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_client_message_ends_the_session_unforwarded(case: str) -> None:
    for step in (0, 1):
        pair = Pair()
        message = BROKEN[case] + pg.query("next")
        for at in range(0, len(message), step or len(message)):
            pair.relay.from_client(message[at : at + (step or len(message))])
        assert pair.host.closed
        assert pair.to_server() == b""
        assert pair.host.judged() == []
        assert _fatal(pair) in {"08P01", "54000"}
        [closed] = [call for call in pair.host.calls if isinstance(call, Closed)]
        assert (closed.side, closed.why) in {("CLIENT", "PROTOCOL"), ("CLIENT", "TOO_LARGE")}
        assert not pair.host.faults


IN_COPY_ONLY_ENDS = {"Query": pg.query("x"), "Parse": pg.parse("", "x"), "Bind": pg.bind(), "Execute": pg.execute(),
    "Describe": pg.describe("P"), "Close": pg.close("P"), "FunctionCall": pg.function_call(1),
    "CopyDone with a body": pg.frame("c", b"x"), "CopyFail without NUL": pg.frame("f", b"x")}  # fmt: skip


@pytest.mark.parametrize("case", IN_COPY_ONLY_ENDS)
def test_message_that_has_no_place_in_copy_ends_the_session(case: str) -> None:
    pair = _in_copy()
    pair.to_server()
    pair.client(IN_COPY_ONLY_ENDS[case])
    assert pair.host.closed
    assert pair.to_server() == b""
    assert len(pair.host.judged()) == 1
    assert not pair.host.open


def test_good_messages_before_a_broken_one_are_sent_however_they_arrive() -> None:
    """The server's stream and the records must not depend on how bytes arrive."""
    data = pg.query("good") + pg.frame("y")
    seen = set()
    for cut in range(len(data)):
        pair = Pair().client(data[:cut]).client(data[cut:])
        seen.add((pair.to_server(), tuple(map(repr, pair.host.calls))))
    assert len(seen) == 1
    assert seen.pop()[0] == pg.query("good")


BROKEN_SERVER = {
    "unknown type": pg.frame("y"),
    "authentication after login": pg.authentication_ok(),
    "backend key after login": pg.backend_key_data(1, b"1234"),
    "length 3": pg.frame("C", b"", length=3),
    "length 0": pg.frame("D", b"", length=0),
    "length over the cap": pg.frame("C", b"x", length=1 << 30),
    "row nobody asked for": pg.data_row(),
    "CommandComplete nobody asked for": pg.command_complete("SELECT 1"),
    "ReadyForQuery nobody asked for": pg.ready(),
    "ParseComplete nobody asked for": pg.parse_complete(),
    "BindComplete nobody asked for": pg.bind_complete(),
    "CloseComplete nobody asked for": pg.close_complete(),
    "PortalSuspended nobody asked for": pg.portal_suspended(),
    "NoData nobody asked for": pg.no_data(),
    "RowDescription nobody asked for": pg.row_description(),
    "ParameterDescription nobody asked for": pg.parameter_description(),
    "CopyInResponse nobody asked for": pg.copy_in_response(),
    "CopyOutResponse nobody asked for": pg.copy_out_response(),
    "CopyBothResponse nobody asked for": pg.copy_both_response(),
    "CopyData nobody asked for": pg.copy_data("x"),
    "CopyDone nobody asked for": pg.copy_done(),
    "EmptyQueryResponse nobody asked for": pg.empty_query(),
    "FunctionCallResponse nobody asked for": pg.function_call_response(),
    "ParameterStatus cut short": pg.frame("S", b"name\0value"),
    "ErrorResponse without end": pg.frame("E", b"SERROR\0"),
}


@pytest.mark.parametrize("case", BROKEN_SERVER)
def test_broken_server_message_ends_the_session(case: str) -> None:
    pair = Pair(max_message_bytes=1 << 20).server(BROKEN_SERVER[case])
    [closed] = [call for call in pair.host.calls if isinstance(call, Closed)]
    assert (closed.side, closed.why) in {("SERVER", "PROTOCOL"), ("SERVER", "TOO_LARGE"), ("SERVER", "UNSUPPORTED")}
    assert _fatal(pair) in {"08P01", "54000", "0A000"}
    pair.client(pg.query("next"))
    assert pair.to_server() == b""


WRONG_ANSWERS = {
    "BindComplete to Parse": (pg.parse("", "x"), pg.bind_complete()),
    "ParseComplete to Bind": (pg.bind(), pg.parse_complete()),
    "CommandComplete to Parse": (pg.parse("", "x"), pg.command_complete("X")),
    "row to Describe": (pg.describe("P"), pg.data_row()),
    "ReadyForQuery to Execute": (pg.bind() + pg.execute(), pg.bind_complete() + pg.ready()),
    "CloseComplete to Sync": (pg.sync(), pg.close_complete()),
    "ready in an unknown state": (pg.sync(), pg.ready("X")),
    "ready with two states": (pg.sync(), pg.ready("II")),
    "row with a negative field": (pg.query("x"), pg.frame("D", pg.int16(1) + pg.int32(-2))),
    "row with a field past its end": (pg.query("x"), pg.frame("D", pg.int16(1) + pg.int32(5) + b"x")),
    "row with bytes behind": (pg.query("x"), pg.frame("D", pg.data_row()[5:] + b"x")),
    "row of nothing": (pg.query("x"), pg.frame("D", b"")),
    "FunctionCallResponse to Query": (pg.query("x"), pg.function_call_response()),
    "PortalSuspended to Query": (pg.query("x"), pg.portal_suspended()),
    "CopyDone with a body": (pg.query("copy t to stdout"), pg.copy_out_response() + pg.frame("c", b"x")),
}


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_answer_that_does_not_belong_to_the_question_ends_the_session(case: str) -> None:
    asked, answered = WRONG_ANSWERS[case]
    pair = Pair().client(asked).server(answered)
    assert pair.host.closed
    assert not pair.host.open
    assert not pair.host.faults


def test_frame_that_says_n_and_brings_less_is_not_forwarded_in_part() -> None:
    pair = Pair().client(pg.query("drop table t")[:-1])
    assert pair.to_server() == b""
    assert pair.host.judged() == []
    assert not pair.host.closed


def test_bytes_beyond_the_length_are_the_next_message() -> None:
    pair = Pair().client(pg.query("a") + b"Q\0\0\0\6b\0")
    assert [each.text for each in pair.host.judged()] == [b"a", b"b"]


def test_declared_length_allocates_nothing() -> None:
    import tracemalloc

    tracemalloc.start()
    pairs = [Pair().client(b"Q\x00\xff\xff\xff") for _ in range(20)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert not any(pair.host.closed for pair in pairs)


def test_long_message_with_the_beginning_of_the_next_behind_it_does_not_stall_the_client() -> None:
    """What a message over the statement cap needed must not be awaited for the few bytes that follow it."""
    pair = _idle()
    long, after = pg.bind(parameters=[b"x" * 1200]), pg.query("select 2")
    pair.client(pg.parse("", "select $1"), long[:100])
    pair.client(long[100:], pg.execute(), pg.sync()[:3])
    pair.client(pg.sync()[3:])
    pair.server(pg.parse_complete(), pg.bind_complete(), pg.command_complete("SELECT 0"), pg.ready())
    pair.client(after)
    assert pair.to_server().endswith(pg.sync() + after)
    assert not pair.host.closed
