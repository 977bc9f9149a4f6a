"""What the client asks for, command by command: judged, or passed as it is, or refused.

A handler says what is to become of its bytes; client_walk.py does it. A refused command never reaches the server: its answer
waits in the queue for its turn, so that earlier answers come first, and the transaction stays as it is. Every command byte has
its place in the tables below; what has none ends the session.

Counterpart: replies.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from protocol.contract import FORWARD, Act, Outcome, Refusal, Statement, Status, Verdict, Why
from protocol.errors import MalformedMessage, UnexpectedMessage
from protocol.mysql import line as due
from protocol.mysql.commands import (
    LAST_PREPARED,
    Command,
    LongData,
    field_list_text,
    insert_types,
    parse_bulk,
    parse_execute,
    parse_query,
    parse_statement_id,
    refresh_text,
    use_text,
)
from protocol.mysql.line import ASKING, CLIENT, FILE, JUDGING, PREPARING, Due, Line, Prepared, Refused
from protocol.mysql.parameters import LONG_DATA
from protocol.mysql.wire import UINT32, UNKNOWN_STATEMENT, Capability, packet

# What becomes of a command.
PASS = 0
DROP = 1
HOLD = 2
STOP = 3
REPLACE = 4
"""Other bytes go in its place, see Requests.replacement."""

_LOCAL_FILES = int(Capability.LOCAL_FILES)
_QUERY_ATTRIBUTES = int(Capability.QUERY_ATTRIBUTES)
_BULK = int(Capability.MARIADB_BULK)

_QUERY = int(Command.QUERY)
_EXECUTE = int(Command.STMT_EXECUTE)

REFUSED_ALWAYS = {
    int(command): ("COM_" + command.name).encode()
    for command in (
        Command.CREATE_DB,
        Command.DROP_DB,
        Command.SHUTDOWN,
        Command.DEBUG,
        Command.CHANGE_USER,
        Command.BINLOG_DUMP,
        Command.TABLE_DUMP,
        Command.CONNECT_OUT,
        Command.REGISTER_SLAVE,
        Command.DAEMON,
        Command.BINLOG_DUMP_GTID,
        Command.CLONE,
        Command.SUBSCRIBE_GROUP_REPLICATION_STREAM,
        Command.MULTI,
    )
}
"""Known and never relayed, whatever the policy says; each attempt is judged all the same, so that it is on record."""
KILL_OWN = b"KILL of an own session"
"""Name of the CALL that a KILL becomes when its target is a session of the same person."""

_KILL = re.compile(rb"\s*kill\s+(?:(query|connection)\s+)?(\d{1,10})\s*;?\s*", re.IGNORECASE)
_DIAGNOSTICS = re.compile(
    rb"\s*(?:show\s+(?:count\s*\(\s*\*\s*\)\s+)?(?:warnings|errors)\b|get\s+(?:current\s+)?diagnostics\b)"
    rb"|.{0,200}\b(?:row_count|found_rows|last_insert_id)\s*\(|.{0,200}@@(?:warning|error)_count\b",
    re.IGNORECASE | re.DOTALL,
)
"""Statements that read what the one before has left; the proxy's own question would wipe it out."""

_KEPT_LONG_DATA = 65_536
"""Of a parameter sent in pieces, kept for the audit trail as it is; of longer ones the size and a digest."""


def _note_long_data(types: tuple[int, ...], long_data: dict[int, LongData]) -> tuple[int, ...]:
    """The types, with LONG_DATA where the value is only a note of what was sent in pieces."""
    noted = list(types)
    for index, sent in long_data.items():
        if index < len(noted) and sent.head is None:
            noted[index] = LONG_DATA
    return tuple(noted)


class Requests:
    """The handlers of one client's commands.

    max_prepared: prepared statements per session. own_session: the server's id for the connection id that a client of the same
    person was given, None for any other number.
    question: of the proxy, waits for a command that does not look at what the last one has left.
    """

    __slots__ = (
        "_host",
        "_line",
        "_max_prepared",
        "_next_id",
        "_queue",
        "_verdict",
        "own_session",
        "question",
        "replacement",
    )

    def __init__(self, line: Line, *, max_prepared: int, own_session: Callable[[int], int | None]) -> None:
        self._line = line
        self._host = line.host
        self._queue = line.queue
        self._max_prepared = max_prepared
        self.own_session = own_session
        self._next_id = 1
        self._verdict: Verdict | None = None  # of the held statement, once it is there
        self.question = b""
        self.replacement = b""

    def command(self, data: bytes, position: int, end: int, sequence: int) -> int:
        """The command whose payload is data[position:end], not empty. sequence: of the answer's first packet."""
        kind = data[position]
        if self.question and not self._reads_diagnostics(kind, data, position, end):
            self.ask(self.question)
            return HOLD
        if kind == _QUERY:
            return self._query(data, position + 1, end, sequence)
        if kind == _EXECUTE:
            return self._execute(data, position + 1, end, sequence)
        return self._other(kind, data, position + 1, end, sequence)

    def ask(self, text: bytes) -> None:
        """Send the proxy's own question. INVARIANT: the queue is empty."""
        line = self._line
        self.question = b""
        line.waiting |= ASKING
        self._queue.append(Due(due.ASK, 0, 1))
        line.host.send(due.SERVER, packet(0, b"\x03" + self._no_attributes() + text))

    def _no_attributes(self) -> bytes:
        return b"\0\x01" if self._line.capabilities & Capability.QUERY_ATTRIBUTES else b""

    def _reads_diagnostics(self, kind: int, data: bytes, position: int, end: int) -> bool:
        if self._queue:
            return True  # cannot be asked now
        if kind == Command.QUERY:
            return _DIAGNOSTICS.match(data, position + 1, min(end, position + 1024)) is not None
        return kind == Command.QUIT

    # The commands that carry a text, or run one.

    def _query(self, data: bytes, position: int, end: int, sequence: int) -> int:
        line = self._line
        text, values, types = parse_query(data, position, end, line.capabilities)
        if text[:1] in b"kK \t\r\n" and len(text) < 64:
            killed = _KILL.fullmatch(text)
            own = self.own_session(int(killed[2])) if killed is not None else None
            if killed is not None and own is not None:
                return self._kill_own(own, killed[1] or b"connection", sequence)
        statement = line.judged
        if statement is None:
            statement_id = self._next_id
            self._next_id = statement_id + 1
            if values:
                statement = Statement(statement_id, Act.QUERY, text, b"", values, (1,) * len(values), types)
            else:
                statement = Statement(statement_id, Act.QUERY, text)
            verdict = self._host.judge(statement)
        else:
            verdict = self._take_verdict()
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, sequence)
        if line.capabilities & _LOCAL_FILES:
            line.waiting |= FILE
            self._queue.append(Due(due.RESULTS, statement.id, sequence, text))
        else:
            self._queue.append(Due(due.RESULTS, statement.id, sequence))
        return PASS

    def _kill_own(self, server_id: int, what: bytes, sequence: int) -> int:
        """KILL with the connection id that the proxy made up at login: it becomes the server's own id."""
        statement = self._line.judged or Statement(self._new_id(), Act.CALL, None, KILL_OWN)
        verdict = self._judge(statement)
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, sequence)
        self._queue.append(Due(due.PLAIN, statement.id, sequence))
        text = b"KILL %b %d" % (what.upper(), server_id)
        # The client may have needed several packets, so that the answer has another number than 1: no KILL is as long.
        self.replacement = packet(0, b"\x03" + self._no_attributes() + text)
        return REPLACE

    def _execute(self, data: bytes, position: int, end: int, sequence: int) -> int:
        line = self._line
        if end - position < 4:
            raise MalformedMessage(CLIENT, "a command of impossible size")
        (statement_id,) = UINT32.unpack_from(data, position)
        prepared = line.prepared.get(statement_id)
        if prepared is None:
            if statement_id == LAST_PREPARED and line.last_prepared is not None:
                return self._last(data, position, end, sequence)
            return self._refuse_unknown(statement_id, sequence)
        values, types, left_out = parse_execute(
            data, position, end, line.capabilities, prepared.count, prepared.types, prepared.long_data
        )
        done = self._run(prepared, values, types, types, sequence)
        if done == PASS and types:
            if left_out and prepared.server_types != types:
                has_names = bool(line.capabilities & _QUERY_ATTRIBUTES)
                payload = insert_types(data[position - 1 : end], left_out - position + 1, types, has_names=has_names)
                self.replacement = packet(0, payload)
                done = REPLACE
            prepared.server_types = types
        return done

    def _bulk(self, data: bytes, position: int, end: int, sequence: int) -> int:
        line = self._line
        if end - position < 4:
            raise MalformedMessage(CLIENT, "a command of impossible size")
        (statement_id,) = UINT32.unpack_from(data, position)
        prepared = line.prepared.get(statement_id)
        if prepared is None:
            if statement_id == LAST_PREPARED and line.last_prepared is not None:
                return self._last(data, position, end, sequence)
            return self._refuse_unknown(statement_id, sequence)
        _, values, types, row = parse_bulk(data, position, end, prepared.count, prepared.server_types)
        done = self._run(prepared, values, types, row, sequence)
        if done == PASS:
            prepared.server_types = row
        return done

    def _run(
        self,
        prepared: Prepared,
        values: tuple[bytes | None, ...],
        types: tuple[int, ...],
        row: tuple[int, ...],
        sequence: int,
    ) -> int:
        line = self._line
        prepared.types = row
        statement = line.judged
        if statement is None:
            number = self._next_id
            self._next_id = number + 1
            name = b"%d" % prepared.id
            if values and prepared.long_data:
                # The value may be a note of what was sent in pieces; its type says so.
                types = tuple(
                    due_type
                    if index not in prepared.long_data or prepared.long_data[index].head is not None
                    else 0x1000
                    for index, due_type in enumerate(types)
                )
            statement = Statement(number, Act.EXECUTE, prepared.text, name, values, (1,) * len(values), types)
            verdict = self._host.judge(statement)
        else:
            verdict = self._take_verdict()
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, sequence)
        if prepared.long_data:
            prepared.long_data = {}
            self._queue.append(Due(due.RESULTS, statement.id, sequence, prepared))
        else:
            self._queue.append(Due(due.RESULTS, statement.id, sequence))
        return PASS

    def _last(self, data: bytes, position: int, end: int, sequence: int) -> int:
        """MariaDB's id -1: replaced by the id that it stands for, so that there is only one reading of it."""
        line = self._line
        prepared = line.last_prepared
        if prepared is None:
            return self._refuse_unknown(LAST_PREPARED, sequence)
        if line.prepared.get(prepared.id) is not prepared:
            line.waiting |= PREPARING
            return HOLD
        payload = data[position - 1 : position] + UINT32.pack(prepared.id) + data[position + 4 : end]
        done = self.command(payload, 0, len(payload), sequence)
        if done == PASS:
            self.replacement = packet(0, payload)
            return REPLACE
        return done  # with types put in, that is the replacement

    def _prepare(self, text: bytes, sequence: int) -> int:
        line = self._line
        statement = line.judged or Statement(self._new_id(), Act.PREPARE, text)
        verdict = self._judge(statement)
        if verdict is FORWARD and len(line.prepared) + line.preparing >= self._max_prepared:
            hint = "Close prepared statements that are no longer needed."
            verdict = Verdict(
                Refusal(Why.LIMIT, f"dbproxy: more than {self._max_prepared} prepared statements", "", hint)
            )
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, sequence)
        prepared = line.last_prepared = Prepared(text, line.generation)
        line.preparing += 1
        self._queue.append(Due(due.PREPARED, statement.id, sequence, prepared))
        return PASS

    def _fetch(self, data: bytes, position: int, end: int, sequence: int) -> int:
        if end - position != 8:
            raise MalformedMessage(CLIENT, "a command of impossible size")
        statement_id = parse_statement_id(data, position, position + 4, 4)
        prepared = self._line.prepared.get(statement_id)
        if prepared is None:
            return self._refuse_unknown(statement_id, sequence)
        statement = self._line.judged or Statement(self._new_id(), Act.RESUME, prepared.text, b"%d" % statement_id)
        return self._asked(statement, due.ROWS, sequence)

    # All others.

    def _other(self, kind: int, data: bytes, position: int, end: int, sequence: int) -> int:
        """The commands that are not on the hot path, by command byte."""
        line = self._line
        body = data[position:end]
        if kind == Command.STMT_PREPARE:
            return self._prepare(body, sequence)
        if kind == Command.STMT_CLOSE:
            return self._close(data, position, end)
        if kind == Command.STMT_FETCH:
            return self._fetch(data, position, end, sequence)
        if kind == Command.STMT_SEND_LONG_DATA:
            return self._long_data(body)
        if kind == Command.STMT_RESET:
            return self._reset(data, position, end, sequence)
        if kind == Command.STMT_BULK_EXECUTE and line.capabilities & _BULK:
            return self._bulk(data, position, end, sequence)
        if kind == Command.QUIT:
            return STOP
        if kind == Command.PING:
            return self._unjudged(due.PLAIN, sequence)
        if kind == Command.INIT_DB:
            return self._as_text(use_text(body), due.PLAIN, sequence)
        if kind == Command.FIELD_LIST:
            return self._as_text(field_list_text(body), due.FIELDS, sequence)
        if kind == Command.REFRESH:
            return self._as_text(refresh_text(body), due.PLAIN, sequence)
        if kind == Command.PROCESS_INFO:
            return self._as_text(b"SHOW PROCESSLIST", due.RESULTS, sequence)
        if kind == Command.PROCESS_KILL:
            return self._kill(data, position, end, sequence)
        if kind == Command.STATISTICS:
            return self._asked(line.judged or self._call(b"COM_STATISTICS"), due.TEXT, sequence)
        if kind == Command.SET_OPTION:
            return self._asked(line.judged or self._call(b"COM_SET_OPTION"), due.END, sequence)
        if kind == Command.RESET_CONNECTION:
            done = self._asked(line.judged or self._call(b"COM_RESET_CONNECTION"), due.PLAIN, sequence)
            if done == PASS:
                line.forget_prepared()
            return done
        name = REFUSED_ALWAYS.get(kind)
        if name is None:
            raise UnexpectedMessage(CLIENT, "unknown command")
        return self._never(name, sequence)

    def _call(self, name: bytes) -> Statement:
        return Statement(self._new_id(), Act.CALL, None, name)

    def _asked(self, statement: Statement, kind: int, sequence: int) -> int:
        """Judge, and expect this kind of answer."""
        verdict = self._judge(statement)
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, sequence)
        self._queue.append(Due(kind, statement.id, sequence))
        return PASS

    def _as_text(self, text: bytes | None, kind: int, sequence: int) -> int:
        """A command that does what this SQL does, and is judged as such."""
        if text is None:
            raise MalformedMessage(CLIENT, "a name that cannot be read with certainty")
        return self._asked(self._line.judged or Statement(self._new_id(), Act.QUERY, text), kind, sequence)

    def _kill(self, data: bytes, position: int, end: int, sequence: int) -> int:
        number = parse_statement_id(data, position, end, 4)
        own = self.own_session(number)
        if own is not None:
            return self._kill_own(own, b"connection", sequence)
        return self._as_text(b"KILL %d" % number, due.PLAIN, sequence)

    def _unjudged(self, kind: int, sequence: int) -> int:
        self._queue.append(Due(kind, 0, sequence))
        return PASS

    def _close(self, data: bytes, position: int, end: int) -> int:
        statement_id = parse_statement_id(data, position, end, 4)
        line = self._line
        gone = line.prepared.pop(statement_id, None)
        if gone is None:
            return DROP  # the server would not answer either
        if gone is line.last_prepared:
            line.last_prepared = None
        return PASS

    def _reset(self, data: bytes, position: int, end: int, sequence: int) -> int:
        statement_id = parse_statement_id(data, position, end, 4)
        prepared = self._line.prepared.get(statement_id)
        if prepared is None:
            return self._refuse_unknown(statement_id, sequence)
        prepared.long_data = {}
        return self._unjudged(due.PLAIN, sequence)

    def _long_data(self, body: bytes) -> int:
        """A piece of a parameter. It is not answered; what it amounts to is judged with the execution."""
        if len(body) < 6:
            raise MalformedMessage(CLIENT, "a piece of a parameter without its number")
        prepared = self._line.prepared.get(int.from_bytes(body[:4], "little"))
        index = int.from_bytes(body[4:6], "little")
        if prepared is None or index >= prepared.count:
            return DROP  # no parameter: the server fails the execution, or has no such statement
        sent = prepared.long_data.get(index)
        if sent is None:
            sent = prepared.long_data[index] = LongData()
        sent.add(body[6:], _KEPT_LONG_DATA)
        return PASS

    def _refuse_unknown(self, statement_id: int, sequence: int) -> int:
        """A prepared statement that the proxy does not know is refused, whatever the policy says."""
        statement = self._line.judged or Statement(self._new_id(), Act.EXECUTE, None, b"%d" % statement_id)
        verdict = self._judge(statement)
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, sequence)
        text = f"Unknown prepared statement handler ({statement_id}) given to EXECUTE"
        self._queue.append(Due(due.REFUSED, statement.id, sequence, Refused(None, UNKNOWN_STATEMENT, text)))
        return DROP

    def _never(self, name: bytes, sequence: int) -> int:
        statement = self._line.judged or self._call(name)
        verdict = self._judge(statement)
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, sequence)
        told = Refusal(Why.UNSUPPORTED, f"dbproxy: {name.decode()} is not relayed")
        self._queue.append(Due(due.REFUSED, statement.id, sequence, Refused(told)))
        return DROP

    # Judging.

    def resolve(self, statement_id: int, verdict: Verdict) -> bool:
        """The verdict about the held statement. False if that is not the one, or has a verdict."""
        judged = self._line.judged
        if judged is None or judged.id != statement_id or self._verdict is not None:
            return False
        self._verdict = verdict
        return True

    def _new_id(self) -> int:
        statement_id = self._next_id
        self._next_id = statement_id + 1
        return statement_id

    def _judge(self, statement: Statement) -> Verdict | None:
        """The verdict, asked for or taken if the statement was held for it."""
        return self._host.judge(statement) if self._line.judged is None else self._take_verdict()

    def _take_verdict(self) -> Verdict | None:
        verdict = self._verdict
        self._line.judged = self._verdict = None
        return verdict

    def _not_forwarded(self, statement: Statement, verdict: Verdict | None, sequence: int) -> int:
        line = self._line
        if verdict is None:
            line.judged = statement
            line.waiting |= JUDGING
            return HOLD
        if verdict.refusal is None:
            raise UnexpectedMessage(CLIENT, "a verdict that is neither FORWARD nor a refusal")
        if line.is_closed:
            self._host.finished(statement.id, Outcome(Status.REFUSED))
            return DROP
        self._queue.append(Due(due.REFUSED, statement.id, sequence, Refused(verdict.refusal)))
        return DROP
