"""A small model of a PostgreSQL backend's message loop, bytes in and bytes out, for tests of the relay.

It knows which message gets which replies, skip-until-Sync, COPY, transactions, the names of statements and portals, and
when the server flushes its output. Checked against PostgreSQL 15 and 18 by hand; it is not derived from code under test.
Statements are fake words; text after the word makes them unique:

    ok 1        runs once, tag UPDATE 1           rows3 2     three rows, tag SELECT 3
    fail 3      fails when it runs                badparse 4  fails when it is parsed
    badbind 5   fails at Bind                     copyin 6    COPY FROM STDIN
    copyout 7   COPY TO STDOUT, two lines         copybad 8   COPY FROM STDIN that fails at its end
    begin 9 / commit 10 / rollback 11             empty text  EmptyQueryResponse

Any other text fails when it is parsed, as an unknown column does. `decide` makes the model the reference for refusals:
what it refuses fails with 42501 in the place where the server would report an error of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from support import pg_bytes as pg

NAME_BYTES = 63
"""NAMEDATALEN - 1: the server compares no more than this of a statement or portal name."""


@dataclass
class Ran:
    """What the model did with one message: how is QUERY, PREPARE, EXECUTE (a Bind), RUN (an Execute), RESUME or CALL.

    result: "ok", "suspended", "bound" (a Bind whose portal never ran) or an SQLSTATE; rows: rows sent.
    bound: for RUN and RESUME the Bind that made the portal; is_bound: for a Bind, that it succeeded.
    """

    how: str
    text: bytes | None
    result: str = "ok"
    rows: int = 0
    bound: Ran | None = None
    is_bound: bool = False


@dataclass
class Portal:
    text: bytes
    bound: Ran
    position: int = 0
    is_started: bool = False
    is_done: bool = False
    is_failed: bool = False


class Failure(Exception):
    """An ERROR inside one message."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


Decide = Callable[[str, bytes | None], bool]


@dataclass
class Backend:
    """One backend. decide(act, text) is True where this model itself is to refuse, see the module text."""

    decide: Decide | None = None
    transaction: str = "I"
    prepared: dict[bytes, bytes] = field(default_factory=dict)
    portals: dict[bytes, Portal] = field(default_factory=dict)
    log: list[Ran] = field(default_factory=list)
    received: list[tuple[str, bytes]] = field(default_factory=list)
    is_skipping: bool = False
    is_dead: bool = False
    copy: str = ""
    copy_bytes: int = 0
    _in: bytearray = field(default_factory=bytearray)
    _out: bytearray = field(default_factory=bytearray)
    _flushed: bytearray = field(default_factory=bytearray)
    _rest: list[bytes] = field(default_factory=list)
    _copy_text: bytes = b""
    _copy_run: Ran | None = None
    _copy_portal: Portal | None = None

    # ---- wire

    def receive(self, data: bytes) -> None:
        self._in += data
        while len(self._in) >= 5 and not self.is_dead:
            size = int.from_bytes(self._in[1:5], "big") + 1
            if size < 5:
                self._fatal("08P01")
                return
            if len(self._in) < size:
                return
            kind, body = chr(self._in[0]), bytes(self._in[5:size])
            del self._in[:size]
            self.received.append((kind, body))
            self._message(kind, body)

    def take(self, size: int | None = None) -> bytes:
        """Flushed output not taken yet, at most size bytes."""
        data = bytes(self._flushed if size is None else self._flushed[:size])
        del self._flushed[: len(data)]
        return data

    @property
    def has_output(self) -> bool:
        return bool(self._flushed)

    def _send(self, *frames: bytes) -> None:
        for data in frames:
            self._out += data

    def _flush(self) -> None:
        self._flushed += self._out
        self._out.clear()

    def _error(self, code: str, severity: str = "ERROR") -> None:
        self._send(pg.error(code, "model says no", severity))
        self._flush()

    def _fatal(self, code: str) -> None:
        self._error(code, "FATAL")
        self.is_dead = True

    def _ready(self) -> None:
        if self.transaction == "I":
            self.portals.clear()
        self._send(pg.ready(self.transaction))
        self._flush()

    # ---- the loop

    def _message(self, kind: str, body: bytes) -> None:
        if self.copy:
            self._in_copy(kind, body)
            return
        if kind == "X":
            self.is_dead = True
            return
        if kind not in "QPBDECHSFdcf":
            self._fatal("08P01")
            return
        if kind == "S":
            self.is_skipping = False
            self._ready()
            return
        if self.is_skipping or kind in "dcf":
            return
        try:
            self._dispatch(kind, body)
        except Failure as failure:
            self._fail(failure.code, extended=kind in "PBDECH")

    def _fail(self, code: str, *, extended: bool) -> None:
        self._error(code)
        if self.transaction == "I":
            self.portals.clear()
        else:
            self.transaction = "E"
            for portal in self.portals.values():
                portal.is_failed = True
        if extended:
            self.is_skipping = True
        else:
            self._ready()

    def _dispatch(self, kind: str, body: bytes) -> None:
        if kind == "Q":
            self._query(body[:-1])
        elif kind == "P":
            name, _, rest = body.partition(b"\0")
            self._parse(name[:NAME_BYTES], rest.partition(b"\0")[0])
        elif kind == "B":
            portal, _, rest = body.partition(b"\0")
            self._bind(portal[:NAME_BYTES], rest.partition(b"\0")[0][:NAME_BYTES])
        elif kind == "D":
            self._describe(body[:1], body[1:-1][:NAME_BYTES])
        elif kind == "E":
            name, _, rest = body.partition(b"\0")
            self._execute(name[:NAME_BYTES], int.from_bytes(rest, "big", signed=True))
        elif kind == "C":
            (self.prepared if body[:1] == b"S" else self.portals).pop(body[1:-1][:NAME_BYTES], None)
            self._send(pg.close_complete())
        elif kind == "H":
            self._flush()
        elif kind == "F":
            self._call(int.from_bytes(body[:4], "big"))

    def _refuse(self, how: str, text: bytes | None) -> None:
        if self.decide is not None and self.decide(how, text):
            raise Failure("42501")

    def _note(self, how: str, text: bytes | None) -> Ran:
        ran = Ran(how, text)
        self.log.append(ran)
        return ran

    def _require_transaction(self, text: bytes) -> None:
        if self.transaction == "E" and word_of(text) not in {"rollback", "commit", ""}:
            raise Failure("25P02")

    # ---- messages

    def _query(self, text: bytes) -> None:
        self.prepared.pop(b"", None)
        self.portals.pop(b"", None)
        ran = self._note("QUERY", text)
        try:
            self._require_transaction(text.split(b";")[0])
            self._refuse("QUERY", text)
            statements = [part.strip() for part in text.split(b";") if part.strip()]
            if any(not is_known(part) for part in statements):
                raise Failure("42703")
            if not statements:
                self._send(pg.empty_query())
            self._rest = statements
            self._copy_run = ran
            self._run_rest()
        except Failure as failure:
            ran.result = failure.code
            raise

    def _run_rest(self) -> None:
        while self._rest:
            text = self._rest.pop(0)
            self._require_transaction(text)
            if word_of(text) == "badparse":
                raise Failure("42703")
            if self._start(text):
                self._copy_text = text
                self.copy = "query"
                return
            if word_of(text).startswith("rows"):
                self._send(pg.row_description())
            self._finish(text, count_of(text), 0)
        self._ready()

    def _parse(self, name: bytes, text: bytes) -> None:
        ran = self._note("PREPARE", text)
        try:
            if self.decide is not None and self.decide("PREPARE", text):  # a refusal spares the unnamed statement
                raise Failure("25P02" if self.transaction == "E" else "42501")
            if not name:
                self.prepared.pop(b"", None)
            self._require_transaction(text)
            if text and (not is_known(text) or word_of(text) == "badparse" or b";" in text):
                raise Failure("42703")
            if name in self.prepared:
                raise Failure("42P05")
        except Failure as failure:
            ran.result = failure.code
            raise
        self.prepared[name] = text
        self._send(pg.parse_complete())

    def _bind(self, portal: bytes, name: bytes) -> None:
        text = self.prepared.get(name)
        ran = self._note("EXECUTE", text)
        try:
            if text is None:
                raise Failure("26000")
            self._require_transaction(text)
            self._refuse("EXECUTE", text)
            if word_of(text) == "badbind":
                raise Failure("22P02")
            if portal and portal in self.portals:
                raise Failure("42P03")
        except Failure as failure:
            ran.result = failure.code
            raise
        ran.result = "bound"
        ran.is_bound = True
        self.portals[portal] = Portal(text, ran)
        self._send(pg.bind_complete())

    def _describe(self, what: bytes, name: bytes) -> None:
        if what == b"S":
            text = self.prepared.get(name)
            if text is None:
                raise Failure("26000")
        else:
            portal = self.portals.get(name)
            if portal is None:
                raise Failure("34000")
            text = portal.text
        has_rows = word_of(text).startswith("rows")
        if self.transaction == "E" and has_rows:
            raise Failure("25P02")
        if what == b"S":
            self._send(pg.parameter_description(()))
        self._send(pg.row_description() if has_rows else pg.no_data())

    def _execute(self, name: bytes, max_rows: int) -> None:
        portal = self.portals.get(name)
        text = portal.text if portal else None
        is_again = portal is None or portal.is_started
        ran = self._note("RESUME" if is_again else "RUN", text)
        if portal is not None:
            ran.bound = portal.bound
        first = portal.bound if portal is not None and not is_again else ran
        if portal is not None:
            portal.is_started = True
        try:
            self._run_portal(portal, max_rows, ran, is_again=is_again)
        except Failure as failure:
            ran.result = failure.code
        first.result, first.rows = ran.result, ran.rows
        if ran.result not in {"ok", "suspended"}:
            raise Failure(ran.result)

    def _run_portal(self, portal: Portal | None, max_rows: int, ran: Ran, *, is_again: bool) -> None:
        if portal is None:
            raise Failure("34000")
        text = portal.text
        if text == b"":
            self._send(pg.empty_query())
            return
        self._require_transaction(text)
        if portal.is_failed:
            raise Failure("55000")
        if is_again:
            self._refuse("RESUME", text)
        if portal.is_done and not word_of(text).startswith("rows"):
            raise Failure("55000")
        if self._start(text):
            self.copy, self._copy_text, self._copy_run, self._copy_portal = "execute", text, ran, portal
            return
        left = count_of(text) - portal.position
        sent = min(left, max_rows) if max_rows > 0 else left
        portal.position += sent
        ran.rows = sent
        if self._finish(text, sent, max_rows):
            ran.result = "suspended"
        else:
            portal.is_done = True

    def _call(self, oid: int) -> None:
        text = str(oid).encode()
        ran = self._note("CALL", text)
        if self.decide is not None and self.decide(
            "CALL", text
        ):  # a refusal is a failing Query: it takes the unnamed ones
            self.prepared.pop(b"", None)
            self.portals.pop(b"", None)
        try:
            if self.transaction == "E":
                raise Failure("25P02")
            self._refuse("CALL", text)
            if oid >= 9000:
                raise Failure("42883")
        except Failure as failure:
            ran.result = failure.code
            raise
        self._send(pg.function_call_response(b"1"))
        self._ready()

    # ---- statements

    def _start(self, text: bytes) -> bool:
        """Run what comes before rows; True if COPY IN begins."""
        word = word_of(text)
        if word in {"copyin", "copybad"}:
            self._send(pg.copy_in_response())
            self._flush()
            self.copy_bytes = 0
            return True
        return False

    def _finish(self, text: bytes, rows: int, max_rows: int) -> bool:
        """Run the rest of a statement; True if the portal is suspended."""
        word = word_of(text)
        if word == "fail":
            raise Failure("22012")
        if word == "copyout":
            self._send(pg.copy_out_response(), pg.copy_data("1\n"), pg.copy_data("2\n"), pg.copy_done())
            self._send(pg.command_complete("COPY 2"))
        elif word.startswith("rows"):
            for number in range(rows):
                self._send(pg.data_row([str(number)]))
            if max_rows > 0 and rows == max_rows:
                self._send(pg.portal_suspended())
                return True
            self._send(pg.command_complete(f"SELECT {rows}"))
        elif word == "begin":
            self.transaction = "T" if self.transaction == "I" else self.transaction
            self._send(pg.command_complete("BEGIN"))
        elif word in {"commit", "rollback"}:
            tag = "ROLLBACK" if word == "rollback" or self.transaction == "E" else "COMMIT"
            self.transaction = "I"
            self.portals.clear()
            self._send(pg.command_complete(tag))
        else:
            self._send(pg.command_complete("UPDATE 1"))
        return False

    # ---- COPY FROM STDIN

    def _in_copy(self, kind: str, body: bytes) -> None:
        if kind == "d":
            self.copy_bytes += len(body)
        elif kind in "SH":
            return
        elif kind == "c":
            if word_of(self._copy_text) == "copybad":
                self._end_copy("22P02")
            else:
                self._end_copy("")
        elif kind == "f":
            self._end_copy("57014")
        else:
            self._error("08P01")
            self._fatal("08P01")

    def _end_copy(self, code: str) -> None:
        how, self.copy = self.copy, ""
        run = self._copy_run
        if code:
            assert run is not None
            run.result = code
            if how == "execute" and self._copy_portal is not None:
                self._copy_portal.bound.result = code
            self._rest.clear()
            self._fail(code, extended=how == "execute")
            return
        self._send(pg.command_complete("COPY 1"))
        if how == "query":
            try:
                self._run_rest()
            except Failure as failure:
                assert run is not None
                run.result = failure.code
                self._rest.clear()
                self._fail(failure.code, extended=False)
        elif self._copy_portal is not None:
            self._copy_portal.is_done = True


def word_of(text: bytes) -> str:
    return text.split(b" ")[0].decode("latin-1") if text.strip() else ""


def count_of(text: bytes) -> int:
    word = word_of(text)
    return int(word[4:]) if word.startswith("rows") else 0


def is_known(text: bytes) -> bool:
    word = word_of(text)
    if word.startswith("rows"):
        return word[4:].isdigit()
    return word in {
        "ok",
        "fail",
        "badparse",
        "badbind",
        "copyin",
        "copyout",
        "copybad",
        "begin",
        "commit",
        "rollback",
        "",
    }
