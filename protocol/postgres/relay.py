"""One PostgreSQL client/server pair after login: judges what the client asks, follows what the server answers.

Client bytes are walked message by message; what is allowed stays one span of the original bytes. The statement-bearing
messages go to the host; a refused one is replaced with a message that makes the server itself fail, so that the
transaction, the pipeline and the reply order are the server's own, and only the text of the error is ours:

    refused Parse, Bind, Execute  →  Parse "_dbproxy" of a text that cannot be analysed, then all dropped until Sync
    refused Query, FunctionCall   →  Query of that text

The replies that are due stand in pipeline.py. The relay never reads a clock, never waits, never logs.
Counterpart in the tests: tests/support/pg_model.py, a model of the server's message loop.
"""

from __future__ import annotations

from struct import Struct

from protocol.contract import FORWARD, Act, Host, Outcome, Refusal, Side, Statement, Status, Transaction, Verdict, Why
from protocol.errors import MalformedMessage, MessageTooLarge, ProtocolError, UnexpectedMessage, UnsupportedFeature
from protocol.postgres import pipeline as due
from protocol.postgres.messages import (
    check_row,
    parse_bind,
    parse_execute,
    parse_function_call,
    parse_parameter_description,
    parse_parameter_status,
    parse_parse,
    parse_query,
    parse_row,
    parse_target,
)
from protocol.postgres.pipeline import Pipeline, Portal, Prepared, Refused, may_forget_names
from protocol.postgres.scan import COPY_DATA, DATA_ROW, scan_rows
from protocol.postgres.wire import FLUSH, RESERVED_NAME, SYNC, TERMINATE, message, parse_report, refusal_error, report

_header = Struct(">BI").unpack_from
CLIENT = Side.CLIENT
SERVER = Side.SERVER

# What the walk over the client's bytes does with the message it stands at.
_PASS = 0
_DROP = 1
_HOLD = 2
_STOP = 3
_REFUSE = 4

# Why the client's bytes wait; a set of bits.
_JUDGING = 1
_COPY = 2
"""A statement that may start COPY IN was sent: whether a Sync behind it counts is only known from the answer."""
_NAMES = 4
"""The next message names something whose meaning depends on the fate of an earlier group."""
_ASKING = 8
_HOST = 16

_ROWS = (DATA_ROW, COPY_DATA)

_UNSYNCED = (due.PARSE, due.BIND, due.DESCRIBE, due.EXECUTE, due.CLOSE, due.REFUSED_STEP)

_CHECKED_RUN_BYTES = 8192
"""Rows in runs up to this size are checked field by field, in longer ones only the first: the proxy does not read rows."""

_EXECUTE_SYNC = b"E\0\0\0\x09\0\0\0\0\0" + SYNC
_DESCRIBE_EXECUTE_SYNC = b"D\0\0\0\x06P\0" + _EXECUTE_SYNC
_BIND_COMPLETE = b"2\0\0\0\x04"
_NO_DATA = b"n\0\0\0\x04"
_READY = b"Z\0\0\0\x05"

_TRANSACTION = {73: Transaction.IDLE, 84: Transaction.OPEN, 69: Transaction.FAILED}


class PostgresRelay:
    """See protocol.contract.Relay.

    max_statement_bytes: cap on Query and Parse; max_message_bytes: on any other client message and on server messages
    that are kept whole; held_max_bytes: how much the client may send ahead while it is held; max_prepared: named
    statements per session. allow_copy_both: replication was allowed at login.
    """

    __slots__ = (
        "_allow_copy_both",
        "_answer",
        "_client_left",
        "_client_need",
        "_client_owed",
        "_client_tail",
        "_copies",
        "_copy_both",
        "_copy_in",
        "_ending",
        "_epoch",
        "_error_code",
        "_held",
        "_held_max",
        "_host",
        "_is_closed",
        "_is_group_open",
        "_is_paused",
        "_is_skipping",
        "_is_walking",
        "_judged",
        "_max_message",
        "_max_prepared",
        "_max_statement",
        "_next_id",
        "_pipe",
        "_queue",
        "_received",
        "_rows",
        "_sent",
        "_server_need",
        "_server_owed",
        "_server_tail",
        "_sync_dropped",
        "_tags",
        "_transaction",
        "_verdict",
        "_waiting",
    )

    def __init__(
        self,
        host: Host,
        *,
        max_statement_bytes: int = 16 << 20,
        max_message_bytes: int = 64 << 20,
        held_max_bytes: int = 16 << 20,
        max_prepared: int = 10_000,
        allow_copy_both: bool = False,
    ) -> None:
        self._host = host
        self._max_statement = max_statement_bytes
        self._max_message = max_message_bytes
        self._held_max = held_max_bytes
        self._max_prepared = max_prepared
        self._allow_copy_both = allow_copy_both
        self._pipe = Pipeline()
        self._queue = self._pipe.queue
        self._next_id = 1
        self._epoch = 0
        self._is_closed = False
        self._is_walking = False  # the host is called from within the walk: an end has to wait until it is over
        self._ending: Refusal | None = None
        # client → server
        self._client_tail = bytearray()
        self._client_need = 0
        self._client_owed = 0  # bytes of a CopyData message still to come and to be passed on
        self._client_left = 0  # the same, to be dropped
        self._held = bytearray()
        self._waiting = 0
        self._is_paused = False
        self._is_skipping = False  # INVARIANT: true only between a failure and the client's next Sync
        self._judged: Statement | None = None  # the held statement, and its verdict once it is there
        self._verdict: Verdict | None = None
        # server → client
        self._server_tail = bytearray()
        self._server_need = 0
        self._server_owed = 0
        self._rows = 0
        self._received = 0
        self._sent = 0
        self._tags: list[bytes] = []
        self._error_code = ""
        self._answer: str | None = None
        self._transaction = Transaction.IDLE
        # COPY
        self._copy_in = False
        self._copy_both = False
        self._copies = 0  # how many COPY statements what was sent last may still start
        self._sync_dropped = False
        self._is_group_open = False  # the client sent extended messages and no Sync yet

    # ---- what the host asks -------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether the server owes an answer: only then may a cancel be passed on."""
        return bool(self._queue)

    @property
    def is_partial(self) -> bool:
        return bool(self._client_tail or self._client_owed or self._client_left)

    @property
    def transaction(self) -> Transaction:
        """As the server reported it last."""
        return self._transaction

    def resolve(self, statement_id: int, verdict: Verdict) -> None:
        if self._is_closed or self._judged is None or self._judged.id != statement_id or self._verdict is not None:
            return
        self._verdict = verdict
        self._release(_JUDGING)

    def rejudge(self) -> None:
        self._epoch += 1

    def hold(self, *, on: bool) -> None:
        if on:
            self._waiting |= _HOST
        else:
            self._release(_HOST)

    def ask(self, text: bytes) -> bool:
        if self._is_closed or self._queue or self._waiting or self._copy_in or self._copy_both or self._client_owed:
            return False
        if self._client_left or self._is_skipping or self._is_group_open or self._transaction is Transaction.FAILED:
            return False
        self._waiting |= _ASKING
        self._answer = None
        self._queue.append((due.ASK, 0, None))
        # Under names of our own: a simple Query would destroy the client's unnamed statement.
        close = message(b"C", b"S" + RESERVED_NAME + b"\0")
        bind = message(b"B", RESERVED_NAME + b"\0" + RESERVED_NAME + b"\0\0\0\0\0\0\0")
        execute = message(b"E", RESERVED_NAME + b"\0\0\0\0\0")
        parse = message(b"P", RESERVED_NAME + b"\0" + text + b"\0\0\0")
        done = message(b"C", b"P" + RESERVED_NAME + b"\0")
        self._host.send(SERVER, close + parse + bind + execute + done + close + SYNC)
        return True

    def end(self, refusal: Refusal) -> None:
        if self._is_closed:
            return
        self._ending = refusal
        if not self._server_owed and not self._is_walking:
            self._say_goodbye()

    def closed(self, side: Side) -> None:
        if self._is_closed:
            return
        if side is SERVER and self._ending is None:
            lost = Refusal(Why.SERVER_LOST, "dbproxy: the database closed the connection")
            if not self._server_owed and self._error_code != "FATAL":
                self._host.send(CLIENT, refusal_error(lost, fatal=True))
        self._shut(side, Why.LEFT if side is CLIENT else Why.SERVER_LOST, "connection closed")

    # ---- client to server ---------------------------------------------------------------------------------------

    def from_client(self, data: bytes) -> None:
        if self._is_closed or self._ending is not None:
            return
        if self._waiting:
            self._held += data
            if len(self._held) > self._held_max and not self._is_paused:
                self._is_paused = True
                self._host.pause(on=True)
            return
        tail = self._client_tail
        if tail:
            tail += data
            if len(tail) < self._client_need:
                return
            data = bytes(tail)
            self._client_tail = bytearray()
        self._walk(data)

    def _walk(self, data: bytes) -> None:
        self._is_walking = True
        try:
            self._walk_client(data)
        except ProtocolError as fault:
            self._break(fault)
        finally:
            self._is_walking = False

    def _walk_client(self, data: bytes) -> None:
        """Walk whole messages, send what may pass, keep the rest. Hot path: one send per chunk when all of it passes."""
        position = span = 0
        end = len(data)
        self._client_need = 0
        if self._client_owed or self._client_left:
            position, span = self._stream_client(end)
        queue = self._queue
        try:
            while end - position >= 5:
                kind, size = _header(data, position)
                following = position + size + 1
                if following > end or size < 4 or size > self._max_statement:
                    if not self._await_more(data, span, position, end, kind, size):
                        return
                    if following > end:
                        break
                if kind == 66:  # Bind
                    done = self._bind(data[position + 5 : following])
                    if done == _PASS:
                        following = self._join_whole(data, following)
                elif kind == 69:  # Execute
                    done = self._execute(data[position + 5 : following])
                elif kind == 83:  # Sync
                    done = self._sync(size)
                elif kind == 68 and not self._is_skipping and not self._copy_in and not self._copy_both:  # Describe
                    space, name = parse_target(data[position + 5 : following])
                    if name == RESERVED_NAME and space == 83:
                        raise UnexpectedMessage(CLIENT, "the statement name _dbproxy is reserved")
                    self._is_group_open = True
                    queue.append((due.DESCRIBE, 0, self._pipe.prepared.find(name) if space == 83 else None))
                    done = _PASS
                elif kind == COPY_DATA and self._copy_in and not self._is_skipping:
                    following, messages = scan_rows(data, position, end, COPY_DATA)
                    self._sent += following - position - 5 * messages
                    self._sync_dropped = False
                    done = _PASS
                else:
                    done = self._other(kind, data[position + 5 : following])
                if self._ending is not None:
                    if not self._server_owed:
                        self._say_goodbye()
                    return
                if done == _PASS:
                    position = following
                    if self._waiting:
                        break
                    continue
                if span < position:
                    self._host.send(SERVER, data[span:position])
                    span = position
                if done == _HOLD:
                    self._held = bytearray(data[position:]) + self._held
                    self._flush_ahead()
                    return
                if done == _STOP:
                    self._host.send(SERVER, TERMINATE)
                    self._shut(CLIENT, Why.LEFT, "client said goodbye")
                    return
                if done == _REFUSE:
                    self._substitute()
                position = span = following
                if self._waiting:
                    break
        except ProtocolError:
            if span < position:
                self._host.send(SERVER, data[span:position])  # what came before the fault was judged, and runs
            raise
        if span < position:
            self._host.send(SERVER, data if span == 0 and position == end else data[span:position])
        if position < end:
            if self._waiting:
                self._held = bytearray(data[position:]) + self._held
            else:
                self._client_tail = bytearray(data[position:])
        if self._waiting:
            self._flush_ahead()

    def _await_more(self, data: bytes, span: int, position: int, end: int, kind: int, size: int) -> bool:
        """An incomplete or oversized message. False: everything of data is dealt with."""
        if size < 4:
            raise MalformedMessage(CLIENT, "message length below 4")
        if kind == COPY_DATA:
            in_copy = (self._copy_in or self._copy_both) and not self._is_skipping
            if position + size + 1 <= end:
                return True
            owed = position + size + 1 - end
            if in_copy:
                self._host.send(SERVER, data[span:] if span else data)
                self._sent += size - 4
                self._sync_dropped = False
                self._client_owed = owed
            else:
                if span < position:
                    self._host.send(SERVER, data[span:position])
                self._client_left = owed
            return False
        cap = self._max_statement if kind in b"QP" else self._max_message
        if size > cap:
            raise MessageTooLarge(CLIENT, f"message of {size} bytes, the limit is {cap}")
        if kind not in b"QPBDECSHFXcf":
            raise UnexpectedMessage(CLIENT, "unknown message type")
        self._client_need = size + 1
        return True

    def _stream_client(self, end: int) -> tuple[int, int]:
        """Pass on or drop the rest of a CopyData message. Returns (position, start of what is to be sent)."""
        if self._client_left:
            taken = min(self._client_left, end)
            self._client_left -= taken
            return taken, taken
        taken = min(self._client_owed, end)
        self._client_owed -= taken
        return taken, 0

    def _bind(self, body: bytes) -> int:
        if self._copy_in or self._copy_both:
            raise UnexpectedMessage(CLIENT, "Bind during COPY")
        portal_name, name, formats, values = parse_bind(body)
        if name == RESERVED_NAME:
            raise UnexpectedMessage(CLIENT, "the statement name _dbproxy is reserved")
        pipe = self._pipe
        prepared = pipe.prepared.find(name)
        if self._is_skipping:
            text = prepared.text if prepared else None
            return self._skip(Statement(self._new_id(), Act.EXECUTE, text, name, values, formats))
        statement = self._judged
        if statement is None:
            if pipe.prepared.pending and pipe.prepared.is_unsettled(name, pipe.group):
                self._waiting |= _NAMES
                return _HOLD
            statement_id = self._next_id
            self._next_id = statement_id + 1
            if prepared is None:
                statement = Statement(statement_id, Act.EXECUTE, None, name, values, formats)
            else:
                statement = Statement(statement_id, Act.EXECUTE, prepared.text, name, values, formats, prepared.types)
            verdict = self._host.judge(statement)
        else:
            verdict = self._take_verdict()
        if verdict is FORWARD:
            portal = Portal(portal_name, statement, self._epoch, prepared)
            self._queue.append((due.BIND, statement.id, portal))
            return _PASS  # what is left to do depends on what follows, see _join_whole
        return self._not_forwarded(statement, verdict, due.REFUSED_STEP)

    def _join_whole(self, data: bytes, position: int) -> int:
        """If the usual Execute and Sync follow the Bind that was just passed, take them in one step. Returns where they end.

        Saves the walk over three messages and back: 5 of 21 µs per prepared query.
        """
        _, statement_id, portal = self._queue[-1]
        if not isinstance(portal, Portal):
            return position
        kind = 0
        if not (portal.name or portal.may_copy or portal.may_forget):
            if data.startswith(_DESCRIBE_EXECUTE_SYNC, position):
                kind, size = due.WHOLE_DESCRIBED, len(_DESCRIBE_EXECUTE_SYNC)
            elif data.startswith(_EXECUTE_SYNC, position):
                kind, size = due.WHOLE, len(_EXECUTE_SYNC)
        pipe = self._pipe
        if not kind:
            pipe.portals.change(portal.name, pipe.group, portal)
            self._is_group_open = True
            return position
        portal.is_started = True
        portal.group = pipe.group
        self._queue[-1] = (kind, statement_id, portal)
        self._is_group_open = False
        pipe.group += 1
        return position + size

    def _execute(self, body: bytes) -> int:
        if self._copy_in or self._copy_both:
            raise UnexpectedMessage(CLIENT, "Execute during COPY")
        name = parse_execute(body)
        pipe = self._pipe
        if self._is_skipping:
            if self._judged is not None:
                return self._skip(self._judged)
            return _DROP  # its Bind was recorded as skipped, or was executed before
        if pipe.is_portal_unsettled(name):
            self._waiting |= _NAMES
            return _HOLD
        portal = pipe.portals.find(name)
        statement = self._judged
        if statement is None and portal is not None and not portal.is_started and portal.epoch == self._epoch:
            portal.is_started = True
            self._queue.append((due.EXECUTE, portal.statement.id, portal))
            self._is_group_open = True
            self._started(portal)
            return _PASS
        if statement is None:
            if portal is None:
                statement = Statement(self._new_id(), Act.RESUME, None, name)
            else:
                bound = portal.statement
                statement = Statement(
                    self._new_id(), Act.RESUME, bound.text, bound.name, bound.parameters, bound.formats, bound.types
                )
            verdict = self._host.judge(statement)
        else:
            verdict = self._take_verdict()
        if verdict is FORWARD:
            if portal is not None:
                if not portal.is_started:
                    self._settle(portal, Status.BOUND_ONLY)
                    portal.is_settled = True
                portal.is_started = True
            self._queue.append((due.EXECUTE, statement.id, portal))
            self._is_group_open = True
            self._started(portal)
            return _PASS
        return self._not_forwarded(statement, verdict, due.REFUSED_STEP)

    def _started(self, portal: Portal | None) -> None:
        """An Execute is about to be sent."""
        if portal is None or portal.may_copy:
            self._copies = 1
            self._waiting |= _COPY
        if portal is not None and portal.may_forget:
            self._pipe.prepared.forget(portal.statement.text or b"")

    def _sync(self, size: int) -> int:
        if size != 4:
            raise MalformedMessage(CLIENT, "Sync has a body")
        if (self._copy_in or self._copy_both) and not self._is_skipping:
            self._sync_dropped = True
            return _DROP
        self._is_skipping = False
        self._is_group_open = False
        self._pipe.group += 1
        self._queue.append((due.SYNC, 0, None))
        return _PASS

    def _other(self, kind: int, body: bytes) -> int:
        """The messages that are not on the hot path, by type byte."""
        if kind == 88:  # Terminate
            return _STOP
        if kind in b"dcf":
            return self._copy(kind, body)
        if self._copy_in or self._copy_both:
            if kind == 72:  # Flush: the server ignores it here
                return _DROP
            raise UnexpectedMessage(CLIENT, "this message is not allowed during COPY")
        if kind == 81:
            return self._query(parse_query(body))
        if kind == 80:
            return self._parse(body)
        if kind == 70:
            return self._function_call(body)
        if kind == 72:
            if body:
                raise MalformedMessage(CLIENT, "Flush has a body")
            return _DROP if self._is_skipping else _PASS
        if kind == 67:
            return self._close(body)
        if kind == 68:
            parse_target(body)
            return _DROP
        raise UnexpectedMessage(CLIENT, "unknown message type")

    def _query(self, text: bytes) -> int:
        if self._is_skipping:
            return self._skip(Statement(self._new_id(), Act.QUERY, text))
        statement = self._judged
        if statement is None:
            statement = Statement(self._new_id(), Act.QUERY, text)
            verdict = self._host.judge(statement)
        else:
            verdict = self._take_verdict()
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, due.REFUSED_QUERY)
        self._queue.append((due.QUERY, statement.id, self._forget_unnamed()))
        self._is_group_open = False
        lower = text.lower()
        copies, forgets = self._pipe.may_reach(lower)
        # An upper bound of the COPY statements in it.
        self._copies = lower.count(b"copy") + (lower.count(b"execute") if copies else 0)
        if self._copies:
            self._waiting |= _COPY
        if forgets or may_forget_names(lower):
            self._pipe.prepared.forget(b"" if forgets else text)
        return _PASS

    def _forget_unnamed(self) -> tuple[int, bytes] | None:
        """A Query destroys the unnamed statement. Returns what the queue entry has to settle."""
        prepared = self._pipe.prepared
        if prepared.find(b"") is None:
            return None
        prepared.change(b"", self._pipe.group, None)
        return (83, b"")

    def _parse(self, body: bytes) -> int:
        name, text, types = parse_parse(body)
        if name == RESERVED_NAME:
            raise UnexpectedMessage(CLIENT, "the statement name _dbproxy is reserved")
        if self._is_skipping:
            return self._skip(Statement(self._new_id(), Act.PREPARE, text, name))
        statement = self._judged
        names = self._pipe.prepared
        if statement is None:
            statement = Statement(self._new_id(), Act.PREPARE, text, name)
            verdict = self._host.judge(statement)
        else:
            verdict = self._take_verdict()
        if verdict is FORWARD and name and len(names.confirmed) + len(names.pending) >= self._max_prepared:
            hint = "close prepared statements that are no longer needed"
            refusal = Refusal(Why.LIMIT, f"dbproxy: more than {self._max_prepared} prepared statements", "", hint)
            verdict = Verdict(refusal)
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, due.REFUSED_STEP)
        prepared = Prepared(name, statement.text or b"", types)
        names.change(name, self._pipe.group, prepared)
        self._queue.append((due.PARSE, statement.id, prepared))
        self._is_group_open = True
        return _PASS

    def _function_call(self, body: bytes) -> int:
        oid, formats, values = parse_function_call(body)
        statement = self._judged
        if self._is_skipping:
            return self._skip(Statement(self._new_id(), Act.CALL, None, str(oid).encode(), values, formats))
        if statement is None:
            statement = Statement(self._new_id(), Act.CALL, None, str(oid).encode(), values, formats)
            verdict = self._host.judge(statement)
        else:
            verdict = self._take_verdict()
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, due.REFUSED_QUERY)
        self._queue.append((due.FUNCTION, statement.id, None))
        return _PASS

    def _close(self, body: bytes) -> int:
        space, name = parse_target(body)
        if name == RESERVED_NAME and space == 83:
            raise UnexpectedMessage(CLIENT, "the statement name _dbproxy is reserved")
        if self._is_skipping:
            return _DROP
        pipe = self._pipe
        if space == 83:
            pipe.prepared.change(name, pipe.group, None)
        else:
            pipe.portals.change(name, pipe.group, None)
        self._queue.append((due.CLOSE, 0, (space, name)))
        self._is_group_open = True
        return _PASS

    def _copy(self, kind: int, body: bytes) -> int:
        """CopyData, CopyDone, CopyFail. Outside COPY the server ignores them, so they are dropped."""
        if self._is_skipping or not (self._copy_in or self._copy_both):
            return _DROP
        if kind == COPY_DATA:
            self._sent += len(body)
            self._sync_dropped = False
            return _PASS
        if kind == 99 and body:
            raise MalformedMessage(CLIENT, "CopyDone has a body")
        if kind == 102 and body[-1:] != b"\0":
            raise MalformedMessage(CLIENT, "CopyFail is not terminated")
        self._copy_in = False
        self._sync_dropped = False
        if self._copies and self._queue and self._queue[0][0] == due.QUERY:
            self._waiting |= _COPY  # the same text may start another COPY
        return _PASS

    # ---- judging ------------------------------------------------------------------------------------------------

    def _new_id(self) -> int:
        statement_id = self._next_id
        self._next_id = statement_id + 1
        return statement_id

    def _take_verdict(self) -> Verdict | None:
        verdict = self._verdict
        self._judged = self._verdict = None
        return verdict

    def _not_forwarded(self, statement: Statement, verdict: Verdict | None, kind: int) -> int:
        if verdict is None:
            self._judged = statement
            self._waiting |= _JUDGING
            return _HOLD
        if verdict.refusal is None:
            raise UnexpectedMessage(CLIENT, "a verdict that is neither FORWARD nor a refusal")
        if kind == due.REFUSED_QUERY:
            forgets = self._forget_unnamed() is not None
        else:
            forgets = False
            self._is_skipping = True
        self._queue.append((kind, statement.id, Refused(verdict.refusal, forgets_unnamed=forgets)))
        return _REFUSE

    def _substitute(self) -> None:
        """In place of the message just refused, send what makes the server itself fail."""
        kind, statement_id, _ = self._queue[-1]
        text = b'SELECT "dbproxy refused %d"\0' % statement_id
        if kind == due.REFUSED_STEP:
            self._host.send(SERVER, message(b"P", RESERVED_NAME + b"\0" + text + b"\0\0"))
        else:
            self._host.send(SERVER, message(b"Q", text))

    def _skip(self, statement: Statement) -> int:
        """Nobody will run this: something before it in its group failed or was refused."""
        held = self._judged
        if held is not None:
            verdict = self._take_verdict()
            refused = verdict is not None and verdict.refusal is not None
            self._host.finished(held.id, Outcome(Status.REFUSED if refused else Status.SKIPPED))
            return _DROP
        self._host.skipped(statement)
        return _DROP

    def _release(self, reason: int) -> None:
        """A reason to wait is gone; go on with the held bytes if it was the last."""
        self._waiting &= ~reason
        if self._waiting or self._is_closed:
            return
        if self._is_paused:
            self._is_paused = False
            self._host.pause(on=False)
        if not self._held:
            return
        held = bytes(self._held)
        self._held = bytearray()
        if self._client_tail:
            held = bytes(self._client_tail) + held
            self._client_tail = bytearray()
        self._walk(held)

    def _flush_ahead(self) -> None:
        """Before a wait: make the server answer what it has, or the wait might never end."""
        if self._queue and self._queue[-1][0] in _UNSYNCED:
            self._host.send(SERVER, FLUSH)

    # ---- server to client ---------------------------------------------------------------------------------------

    def from_server(self, data: bytes) -> None:
        if self._is_closed:
            return
        tail = self._server_tail
        if tail:
            tail += data
            if len(tail) < self._server_need:
                return
            data = bytes(tail)
            self._server_tail = bytearray()
        try:
            self._walk_server(data)
        except ProtocolError as fault:
            self._break(fault)

    def _walk_server(self, data: bytes) -> None:
        """Count rows, follow the replies, pass everything on; only the answer to a refusal is replaced."""
        position = span = mark = 0
        end = len(data)
        self._server_need = 0
        queue = self._queue
        if self._server_owed:
            position = min(self._server_owed, end)
            self._server_owed -= position
            if self._ending is not None and not self._server_owed:
                self._host.send(CLIENT, data[:position])
                self._say_goodbye()
                return
        while True:
            start = position
            rows = 0
            if position < end and data[position] in _ROWS:
                position, rows = scan_rows(data, position, end, data[position])
            if rows:
                self._count_rows(data, start, position, rows)
                if self._waiting & _ASKING:
                    self._answer = _first_field(data, start)
                    if span < start:
                        self._host.send(CLIENT, data[span:start])
                    span = position
            if end - position < 5:
                break
            kind, size = _header(data, position)
            following = position + size + 1
            if size < 4:
                raise MalformedMessage(SERVER, "message length below 4")
            if following > end:
                if kind in (DATA_ROW, COPY_DATA) and not self._waiting & _ASKING:
                    self._count_rows(data, position, position, 1)
                    self._server_owed = following - end
                    position = end
                elif size > self._max_message:
                    raise MessageTooLarge(SERVER, f"message of {size} bytes, the limit is {self._max_message}")
                else:
                    self._server_need = size + 1
                break
            if queue and queue[0][0] >= due.WHOLE:
                answered = self._whole_answer(data, position, end) if kind == 50 else 0
                if answered:
                    position = mark = answered
                    if self._ending is not None:
                        break
                    continue
                if kind not in b"NAS":
                    self._pipe.expand()
            asking = self._waiting & _ASKING
            if asking and kind in b"123TCn":
                replacement: bytes | None = b""
            elif kind == 67:  # CommandComplete
                head = queue[0] if queue else None
                if head is not None and head[0] == due.EXECUTE:
                    queue.popleft()
                    self._executed(head, Status.OK, data[position + 5 : following - 1], following - mark)
                    mark = following
                else:
                    self._completed(head, data[position + 5 : following - 1])
                replacement = None
            elif kind == 90:  # ReadyForQuery
                self._received += following - mark
                mark = following
                replacement = self._ready(data[position + 5 : following])
            elif kind == 50:  # BindComplete
                self._bound()
                replacement = None
            elif kind == 84:  # RowDescription
                head = queue[0] if queue else None
                if head is not None and head[0] == due.DESCRIBE:
                    queue.popleft()
                elif head is None or head[0] != due.QUERY:
                    raise UnexpectedMessage(SERVER, "RowDescription that nobody asked for")
                replacement = None
            else:
                self._received += following - mark
                mark = following
                replacement = self._reply(kind, data[position + 5 : following])
            if replacement is not None:
                if span < position:
                    self._host.send(CLIENT, data[span:position])
                if replacement:
                    self._host.send(CLIENT, replacement)
                span = following
            position = following
            if self._is_closed:
                return
            if self._ending is not None:
                break
        self._received += position - mark
        if span < position:
            self._host.send(CLIENT, data if span == 0 and position == end else data[span:position])
        if self._ending is not None:
            if not self._server_owed:
                self._say_goodbye()
            return
        if position < end:
            self._server_tail = bytearray(data[position:])
        self._go_on()

    def _go_on(self) -> None:
        """After the server's bytes were dealt with: let the client's go on if what they waited for has come."""
        waiting = self._waiting
        if not waiting or self._is_closed:
            return
        if waiting & _JUDGING and self._is_skipping:
            self._release(_JUDGING)  # the server will drop it: nobody needs to be asked any more
        if waiting & _COPY:
            head = self._queue[-1] if self._queue else None
            if self._copy_in or not self._copies or head is None or head[0] not in (due.EXECUTE, due.QUERY):
                self._release(_COPY)
        if self._waiting & _NAMES and not self._is_closed:
            self._release(_NAMES)

    def _count_rows(self, data: bytes, start: int, end: int, rows: int) -> None:
        """A run of row messages data[start:end], or the start of one if end is start."""
        queue = self._queue
        if not queue or queue[0][0] not in (due.EXECUTE, due.QUERY, due.ASK):
            raise UnexpectedMessage(SERVER, "rows that nobody asked for")
        self._rows += rows
        if data[start] == DATA_ROW and start != end:
            self._check_rows(data, start, end)

    def _check_rows(self, data: bytes, start: int, end: int) -> None:
        """See _CHECKED_RUN_BYTES."""
        position = start
        while position < end:
            _, size = _header(data, position)
            check_row(data, position + 5, position + size + 1)
            position += size + 1
            if end - start > _CHECKED_RUN_BYTES:
                break

    def _whole_answer(self, data: bytes, start: int, end: int) -> int:
        """The usual answer to a WHOLE entry, if all of it is there: returns where it ends, else 0, and has changed nothing.

        BindComplete, RowDescription or NoData if it was asked for, rows, CommandComplete, ReadyForQuery.
        """
        position = start + 5
        size: int
        kind, statement_id, portal = self._queue[0]
        if not data.startswith(_BIND_COMPLETE, start):
            return 0
        if kind == due.WHOLE_DESCRIBED:
            if data.startswith(_NO_DATA, position):
                position += 5
            elif position + 5 <= end and data[position] == 84:
                _, size = _header(data, position)
                position += size + 1
            else:
                return 0
        first_row = position
        position, rows = scan_rows(data, position, end, DATA_ROW)
        if position + 5 > end:
            return 0
        kind, size = _header(data, position)
        tag_end = position + size
        if kind != 67 or size < 5 or tag_end + 7 > end or not data.startswith(_READY, tag_end + 1):
            return 0
        transaction = _TRANSACTION.get(data[tag_end + 6])
        if transaction is None or not isinstance(portal, Portal):
            return 0
        if rows:
            self._check_rows(data, first_row, position)
        self._queue.popleft()
        names = self._pipe.portals.confirmed
        if names:
            replaced = names.pop(b"", None)
            if replaced is not None:
                self._bound_only(replaced)
        if transaction is not Transaction.IDLE:
            names[b""] = portal
        portal.is_settled = True
        tag = data[position + 5 : tag_end]
        if not rows:
            rows = _count_in(tag)
        outcome = Outcome(Status.OK, rows, self._received + tag_end + 1 - start, 0, tag)
        self._received = 0
        self._host.finished(statement_id, outcome)
        self._transaction = transaction
        if names and transaction is Transaction.IDLE:
            self._forget_portals()
        self._host.synced(transaction)
        return tag_end + 7

    def _bound(self) -> None:
        queue = self._queue
        if not queue or queue[0][0] != due.BIND:
            raise UnexpectedMessage(SERVER, "BindComplete that nobody asked for")
        portal = queue.popleft()[2]
        if isinstance(portal, Portal):
            replaced = self._pipe.portals.settle(portal.name, confirmed=True)
            if replaced is not None:
                self._bound_only(replaced)

    def _executed(self, head: due.Entry, status: Status, tag: bytes, received: int) -> None:
        """An Execute is over, or suspended."""
        portal = head[2]
        if isinstance(portal, Portal):
            portal.is_settled = True
        rows = self._rows
        if not rows or tag.startswith(b"COPY"):
            rows = _count_in(tag) or rows
        self._host.finished(head[1], Outcome(status, rows, self._received + received, self._sent, tag))
        self._rows = self._received = self._sent = 0

    def _completed(self, head: due.Entry | None, tag: bytes) -> None:
        """CommandComplete of one statement of a Query."""
        if head is None or head[0] != due.QUERY:
            raise UnexpectedMessage(SERVER, "CommandComplete that nobody asked for")
        self._tags.append(tag)

    def _ready(self, body: bytes) -> bytes | None:
        """ReadyForQuery. Returns b"" if the client is not to see it."""
        transaction = _TRANSACTION.get(body[0]) if len(body) == 1 else None
        if transaction is None:
            raise MalformedMessage(SERVER, "ReadyForQuery without a transaction state")
        queue = self._queue
        if not queue:
            raise UnexpectedMessage(SERVER, "ReadyForQuery that nobody asked for")
        kind, statement_id, payload = queue[0]
        if kind not in (due.SYNC, due.QUERY, due.FUNCTION, due.REFUSED_QUERY, due.ASK):
            raise UnexpectedMessage(SERVER, "ReadyForQuery before the answers that are due")
        queue.popleft()
        self._transaction = transaction
        if kind == due.QUERY or kind == due.FUNCTION:
            if isinstance(payload, tuple):
                self._pipe.prepared.settle(payload[1], confirmed=True)
            self._finish_query(statement_id)
            self._copy_in = self._copy_both = False
        elif kind == due.REFUSED_QUERY:
            if isinstance(payload, Refused) and payload.forgets_unnamed:
                self._pipe.prepared.settle(b"", confirmed=True)
            self._host.finished(statement_id, Outcome(Status.REFUSED))
            self._reset_counts()
        elif kind == due.ASK:
            failed = bool(self._error_code)
            self._reset_counts()
            self._host.answered(None if failed else self._answer)
            self._release(_ASKING)
            return b""
        else:
            self._reset_counts()
        if transaction is Transaction.IDLE:
            self._forget_portals()
        elif kind == due.QUERY:
            unnamed = self._pipe.portals.confirmed.pop(b"", None)
            if unnamed is not None:
                self._bound_only(unnamed)
        self._host.synced(transaction)
        return None

    def _finish_query(self, statement_id: int) -> None:
        tags = self._tags
        rows = self._rows
        if not rows or any(tag.startswith(b"COPY") for tag in tags):
            rows = sum(_count_in(tag) for tag in tags) or rows
        status = Status.ERROR if self._error_code else Status.OK
        tag = b"; ".join(tags)
        outcome = Outcome(status, rows, self._received, self._sent, tag, self._error_code)
        self._reset_counts()
        self._host.finished(statement_id, outcome)

    def _reset_counts(self) -> None:
        self._rows = self._received = self._sent = 0
        self._error_code = ""
        if self._tags:
            self._tags = []

    def _forget_portals(self) -> None:
        """The transaction is over: portals are gone (those not yet confirmed belong to a later group)."""
        confirmed = self._pipe.portals.confirmed
        if not confirmed:
            return
        for portal in confirmed.values():
            self._bound_only(portal)
        confirmed.clear()

    def _bound_only(self, portal: Portal) -> None:
        if not portal.is_started:
            self._settle(portal, Status.BOUND_ONLY)

    def _settle(self, portal: Portal, status: Status) -> None:
        if not portal.is_settled:
            portal.is_settled = True
            self._host.finished(portal.statement.id, Outcome(status))

    def _reply(self, kind: int, body: bytes) -> bytes | None:
        """All other server messages. Returns what the client gets instead, b"" for nothing, None for the message itself."""
        queue = self._queue
        head = queue[0][0] if queue else 0
        if kind == 78 or kind == 65:  # NoticeResponse, NotificationResponse: at any time
            return None
        if kind == 83:  # ParameterStatus: at any time
            name, value = parse_parameter_status(body)
            self._host.parameter(name, value)
            return None
        if kind == 69:
            return self._failed(body)
        if kind == 49 and head == due.PARSE and not body:  # ParseComplete
            _, statement_id, prepared = queue.popleft()
            if isinstance(prepared, Prepared):
                self._pipe.prepared.settle(prepared.name, confirmed=True)
            self._host.finished(statement_id, Outcome(Status.OK))
            return None
        if kind == 51 and head == due.CLOSE and not body:  # CloseComplete
            self._closed_name(queue.popleft()[2])
            return None
        if kind == 116 and head == due.DESCRIBE:  # ParameterDescription, then RowDescription or NoData
            prepared = queue[0][2]
            types = parse_parameter_description(body)
            if isinstance(prepared, Prepared):
                prepared.types = types
            return None
        if kind == 110 and head == due.DESCRIBE and not body:  # NoData
            queue.popleft()
            return None
        if kind == 115 and head == due.EXECUTE and not body:  # PortalSuspended
            self._executed(queue.popleft(), Status.SUSPENDED, b"", 0)
            return None
        if kind == 73 and head == due.EXECUTE and not body:  # EmptyQueryResponse
            self._executed(queue.popleft(), Status.OK, b"", 0)
            return None
        if kind == 73 and head == due.QUERY and not body:
            return None
        if kind == 86 and head == due.FUNCTION:
            return None
        if head in (due.EXECUTE, due.QUERY):
            if kind == 71:  # CopyInResponse
                self._copy_in = True
                self._copies -= 1
                self._sync_dropped = False
                return None
            if kind == 72:  # CopyOutResponse
                self._copies -= 1
                return None
            if kind == 99 and not body:  # CopyDone
                return None
            if kind == 87:
                if not self._allow_copy_both:
                    raise UnsupportedFeature(SERVER, "the server started COPY BOTH, which is refused")
                self._copy_both = True
                return None
        raise UnexpectedMessage(SERVER, "a reply that nobody asked for, or of unknown type")

    def _closed_name(self, payload: object) -> None:
        if isinstance(payload, tuple):
            space, name = payload
            if space == 83:
                self._pipe.prepared.settle(name, confirmed=True)
                return
            replaced = self._pipe.portals.settle(name, confirmed=True)
            if replaced is not None:
                self._bound_only(replaced)

    def _failed(self, body: bytes) -> bytes | None:
        """ErrorResponse: a real one goes on as it is; the answer to a refusal becomes ours."""
        fields = parse_report(body)
        code = fields.get("C", "XX000")
        queue = self._queue
        if fields.get("V") == "FATAL" or fields.get("V") == "PANIC" or not queue:
            self._error_code = "FATAL"  # the server is closing; closed() settles what is still open
            return None
        head, _, payload = queue[0]
        if head == due.SYNC:
            return None  # for example a deferred constraint, at the implicit commit
        if head == due.REFUSED_QUERY and isinstance(payload, Refused):
            return None if code == "25P02" else refusal_error(payload.refusal)
        self._error_code = code
        if head == due.ASK:
            return b""
        if head in (due.QUERY, due.FUNCTION):
            self._copy_in = self._copy_both = False
            return None
        refusal = payload.refusal if head == due.REFUSED_STEP and isinstance(payload, Refused) else None
        outcome = Outcome(Status.ERROR, self._rows, self._received, self._sent, b"", code)
        self._reset_counts()
        self._settle_skipped(self._pipe.skip_group(), outcome)
        self._copy_in = self._copy_both = False
        if not queue:
            self._is_skipping = True  # the server drops everything up to a Sync that the client has yet to send
            if self._sync_dropped:
                self._send_late_sync()
        return refusal_error(refusal) if refusal is not None and code != "25P02" else None

    def _settle_skipped(self, entries: list[due.Entry], outcome: Outcome) -> None:
        """Outcomes for the failed entry, which comes first, and for all that the server skipped behind it."""
        executed = {entry[1] for entry in entries if entry[0] == due.EXECUTE}
        for index, (kind, statement_id, payload) in enumerate(entries):
            if kind in (due.REFUSED_STEP, due.REFUSED_QUERY):
                self._host.finished(statement_id, Outcome(Status.REFUSED))
            elif kind == due.BIND and isinstance(payload, Portal):
                if index == 0:
                    executed.discard(statement_id)
                    payload.is_settled = True
                    self._host.finished(statement_id, outcome)
                elif statement_id not in executed:
                    self._settle(payload, Status.SKIPPED)
            elif kind == due.EXECUTE and isinstance(payload, Portal) and payload.statement.id == statement_id:
                if not payload.is_settled:
                    payload.is_settled = True
                    self._host.finished(statement_id, outcome if index == 0 else Outcome(Status.SKIPPED))
            elif statement_id:
                self._host.finished(statement_id, outcome if index == 0 else Outcome(Status.SKIPPED))

    def _send_late_sync(self) -> None:
        """A Sync was dropped as the last message of a COPY that then failed: for the server it would have counted."""
        self._sync_dropped = False
        self._is_skipping = False
        self._pipe.group += 1
        self._queue.append((due.SYNC, 0, None))
        self._host.send(SERVER, SYNC)

    # ---- the end ------------------------------------------------------------------------------------------------

    def _break(self, fault: ProtocolError) -> None:
        """The bytes cannot be trusted any more: tell the client, end both sides."""
        if self._is_closed:
            return
        why = Why.PROTOCOL
        if isinstance(fault, MessageTooLarge):
            why = Why.TOO_LARGE
        elif isinstance(fault, UnsupportedFeature):
            why = Why.UNSUPPORTED
        if not self._server_owed:
            text = report(b"E", "FATAL", _CODES[why], f"dbproxy: {fault.detail}", "", "The session is closed.")
            self._host.send(CLIENT, text)
        self._shut(fault.side, why, fault.detail)

    def _say_goodbye(self) -> None:
        refusal = self._ending
        if refusal is None:
            return
        self._host.send(CLIENT, refusal_error(refusal, fatal=True))
        if not self._client_owed:
            self._host.send(SERVER, TERMINATE)
        self._shut(SERVER, refusal.why, refusal.message)

    def _shut(self, side: Side, why: Why, detail: str) -> None:
        """No more bytes pass. Every judged statement without an answer gets its outcome."""
        self._is_closed = True
        seen: set[int] = set()
        for kind, statement_id, payload in self._queue:
            if not statement_id or statement_id in seen:
                continue
            seen.add(statement_id)
            if isinstance(payload, Portal) and payload.statement.id == statement_id:
                if payload.is_settled:
                    continue
                payload.is_settled = True
            refused = kind in (due.REFUSED_STEP, due.REFUSED_QUERY)
            rows, received = (self._rows, self._received) if len(seen) == 1 else (0, 0)
            status = Status.REFUSED if refused else Status.UNKNOWN
            self._host.finished(statement_id, Outcome(status, rows, received, self._sent))
        self._queue.clear()
        for portal in self._pipe.portals.confirmed.values():
            self._bound_only(portal)
        if self._judged is not None:
            self._host.finished(self._judged.id, Outcome(Status.SKIPPED))
        self._judged = None
        self._host.close(side, why, detail)


_CODES = {Why.PROTOCOL: "08P01", Why.TOO_LARGE: "54000", Why.UNSUPPORTED: "0A000"}


def _first_field(data: bytes, position: int) -> str | None:
    """First field of the DataRow at position."""
    _, size = _header(data, position)
    fields = parse_row(data[position + 5 : position + size + 1])
    return fields[0].decode("utf-8", "replace") if fields and fields[0] is not None else None


def _count_in(tag: bytes) -> int:
    """The row count of a command tag ("COPY 5", "INSERT 0 5"), 0 if it has none."""
    last = tag.rpartition(b" ")[2]
    return int(last) if last.isdigit() else 0
