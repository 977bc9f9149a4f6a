"""Transcripts of a relay's work: what arrives, and what must come of it. Replayed whole, in bytes and cut everywhere.

One item a line; arguments are Python literals, names of messages are the manual's:

    ~ refuse "drop"                        the judge refuses text with this word; `hold` leaves it open
    > Query "select 1"                     bytes from the client; neighbouring lines arrive as one chunk
    < CommandComplete "SELECT 1"           bytes from the server
    ! resolve 1, "forward"                 a call of the relay: resolve, rejudge, hold, closed, end, ask
    = > Query "select 1"                   bytes that the server must have been sent since the last step
    = < CommandComplete "SELECT 1"         the same for the client; `Refused` is the error that `refuse` leads to
    = judge 1, "QUERY", b"select 1"        a call of the host; fields that are not given are not compared
    = finished 1, "OK", tag=b"SELECT 1"
    = synced "IDLE"

After each step the bytes sent to both sides and the calls made must be exactly those listed, in order per side.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

from support import pg_bytes as pg
from support.recorder import (
    Answered,
    Call,
    Closed,
    Finished,
    Judged,
    Parameter,
    Recorder,
    Skipped,
    Synced,
    feed,
    refuse,
)

from protocol.contract import FORWARD, Refusal, Relay, Side, Statement, Verdict, Why

Builder = Callable[..., bytes]

FRONTEND: dict[str, Builder] = {
    "Query": pg.query,
    "Parse": pg.parse,
    "Bind": pg.bind,
    "Describe": pg.describe,
    "Execute": pg.execute,
    "Close": pg.close,
    "Flush": pg.flush,
    "Sync": pg.sync,
    "Terminate": pg.terminate,
    "FunctionCall": pg.function_call,
    "CopyData": pg.copy_data,
    "CopyDone": pg.copy_done,
    "CopyFail": pg.copy_fail,
    "Frame": pg.frame,
    "Raw": bytes,
}


def refused_error(code: str = "42501") -> bytes:
    refusal = refuse().refusal
    assert refusal is not None
    return pg.error(code, refusal.message, "ERROR", D=refusal.detail, H=refusal.hint)


BACKEND: dict[str, Builder] = {
    "ParseComplete": pg.parse_complete,
    "BindComplete": pg.bind_complete,
    "CloseComplete": pg.close_complete,
    "NoData": pg.no_data,
    "RowDescription": pg.row_description,
    "ParameterDescription": pg.parameter_description,
    "DataRow": pg.data_row,
    "CommandComplete": pg.command_complete,
    "EmptyQueryResponse": pg.empty_query,
    "PortalSuspended": pg.portal_suspended,
    "ErrorResponse": pg.error,
    "NoticeResponse": pg.notice,
    "NotificationResponse": pg.notification,
    "ParameterStatus": pg.parameter_status,
    "ReadyForQuery": pg.ready,
    "CopyInResponse": pg.copy_in_response,
    "CopyOutResponse": pg.copy_out_response,
    "CopyBothResponse": pg.copy_both_response,
    "CopyData": pg.copy_data,
    "CopyDone": pg.copy_done,
    "FunctionCallResponse": pg.function_call_response,
    "Refused": refused_error,
    "Frame": pg.frame,
    "Raw": bytes,
}

CALLS: dict[str, type[Call]] = {
    "judge": Judged,
    "finished": Finished,
    "skipped": Skipped,
    "parameter": Parameter,
    "synced": Synced,
    "answered": Answered,
    "close": Closed,
}


@dataclass
class Expected:
    """A host call with only the fields that the transcript gives."""

    of: type[Call]
    given: dict[str, object]

    def __repr__(self) -> str:
        return f"{self.of.__name__}({', '.join(f'{name}={value!r}' for name, value in self.given.items())})"

    def fits(self, call: Call) -> bool:
        return isinstance(call, self.of) and all(getattr(call, name) == value for name, value in self.given.items())


@dataclass
class Step:
    line: int
    act: str
    name: str = ""
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    to_client: bytearray = field(default_factory=bytearray)
    to_server: bytearray = field(default_factory=bytearray)
    calls: list[Expected] = field(default_factory=list)


@dataclass
class Transcript:
    refused: list[bytes]
    held: list[bytes]
    steps: list[Step]

    def answer(self, statement: Statement) -> Verdict | None:
        text = statement.text or statement.name
        if any(word in text for word in self.refused):
            return refuse()
        return None if any(word in text for word in self.held) else FORWARD

    def longest(self) -> int:
        return max((len(step.data) for step in self.steps), default=0)


def parse_transcript(source: str) -> Transcript:
    """The steps of a transcript. Raises ValueError with the line for anything it does not know."""
    transcript = Transcript([], [], [])
    before = ""
    for number, raw in enumerate(source.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        sign, rest = line[0], line[1:].strip()
        try:
            if sign == "~":
                name, args, _ = _call(rest)
                words = transcript.refused if name == "refuse" else transcript.held
                words.extend(str(arg).encode() for arg in args)
            elif sign in "<>":
                name, args, kwargs = _call(rest)
                if before != sign:
                    transcript.steps.append(Step(number, sign))
                transcript.steps[-1].data += (FRONTEND if sign == ">" else BACKEND)[name](*args, **kwargs)
            elif sign == "!":
                name, args, kwargs = _call(rest)
                transcript.steps.append(Step(number, sign, name, args, kwargs))
            elif sign == "=":
                _expect(transcript.steps[-1], rest)
            else:
                raise ValueError("a line starts with one of ~ > < ! = #")
        except (KeyError, IndexError, SyntaxError, TypeError, ValueError) as fault:
            raise ValueError(f"transcript line {number}: {line}: {fault!r}") from fault
        before = sign
    return transcript


def _expect(step: Step, rest: str) -> None:
    if rest[0] in "<>":
        name, args, kwargs = _call(rest[1:].strip())
        sent = (FRONTEND if rest[0] == ">" else BACKEND)[name](*args, **kwargs)
        (step.to_server if rest[0] == ">" else step.to_client).extend(sent)
        return
    name, args, kwargs = _call(rest)
    of = CALLS[name]
    given = dict(zip((each.name for each in fields(of)), args, strict=False)) | kwargs
    step.calls.append(Expected(of, given))


def _call(source: str) -> tuple[str, tuple[object, ...], dict[str, object]]:
    """`Name 1, b=2` → ("Name", (1,), {"b": 2})."""
    name, _, rest = source.partition(" ")
    call = ast.parse(f"f({rest})", mode="eval").body
    assert isinstance(call, ast.Call)
    args = tuple(ast.literal_eval(node) for node in call.args)
    return name, args, {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}


MakeRelay = Callable[[Recorder], Relay]


def replay(make_relay: MakeRelay, transcript: Transcript, *, step: int = 0, cut: int = 0) -> None:
    """Play the transcript once. step: chunk size, 0 whole; cut: instead, cut each chunk once at this position.

    Raises AssertionError naming the line of the step that went differently.
    """
    host = Recorder(transcript.answer)
    relay = make_relay(host)
    seen = 0
    for at in transcript.steps:
        _play(relay, at, step, cut)
        where = f"line {at.line} (step={step}, cut={cut})"
        sent_server, sent_client = host.take(Side.SERVER), host.take(Side.CLIENT)
        assert sent_server == bytes(at.to_server), (
            f"{where}: sent to server {show(sent_server)}, not {show(at.to_server)}"
        )
        assert sent_client == bytes(at.to_client), (
            f"{where}: sent to client {show(sent_client)}, not {show(at.to_client)}"
        )
        calls, seen = host.calls[seen:], len(host.calls)
        fits = len(calls) == len(at.calls) and all(want.fits(got) for want, got in zip(at.calls, calls, strict=True))
        assert fits, f"{where}: calls {calls}, not {at.calls}"
    assert not host.faults, host.faults


def replay_in_all_cuts(make_relay: MakeRelay, source: str) -> None:
    """Whole, byte by byte, and with every chunk cut at every position."""
    transcript = parse_transcript(source)
    replay(make_relay, transcript)
    replay(make_relay, transcript, step=1)
    for cut in range(1, transcript.longest()):
        replay(make_relay, transcript, cut=cut)


def _play(relay: Relay, at: Step, step: int, cut: int) -> None:
    if at.act != "!":
        side = Side.CLIENT if at.act == ">" else Side.SERVER
        for piece in _pieces(bytes(at.data), cut):
            feed(relay, side, piece, step=step)
    elif at.name == "resolve":
        relay.resolve(_number(at.args[0]), FORWARD if at.args[1] == "forward" else refuse())
    elif at.name == "rejudge":
        relay.rejudge()
    elif at.name == "hold":
        relay.hold(on=bool(at.args[0]))
    elif at.name == "closed":
        relay.closed(Side[str(at.args[0])])
    elif at.name == "end":
        relay.end(Refusal(Why[str(at.args[0])], str(at.args[1])))
    elif at.name == "ask":
        assert relay.ask(str(at.args[0]).encode()) is bool(at.kwargs.get("asked", True))
    else:
        raise ValueError(f"line {at.line}: no such call: {at.name}")


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _pieces(data: bytes, cut: int) -> Iterator[bytes]:
    if 0 < cut < len(data):
        yield data[:cut]
        yield data[cut:]
    else:
        yield data


def show(data: bytes | bytearray) -> str:
    """Readable form of a byte stream for failure messages."""
    try:
        return " ".join(f"{kind}{body!r}" for kind, body in pg.split(bytes(data))) or "nothing"
    except ValueError:
        return repr(bytes(data))
