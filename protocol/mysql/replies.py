"""What the server answers, packet by packet: matched with what is due, summed up as outcomes of statements.

What an answer may look like depends on the command (the kinds in line.py) and on what was agreed at login; the stages of one
are the constants below. Where packets begin and end is for server_walk.py. Counterpart: requests.py.
"""

from __future__ import annotations

from protocol.contract import Outcome, Status, Transaction
from protocol.errors import MalformedMessage, UnexpectedMessage
from protocol.mysql import line as due
from protocol.mysql.answers import Ok, is_end, parse_end, parse_error, parse_ok, parse_prepared
from protocol.mysql.infile import may_ask_for
from protocol.mysql.line import SERVER, Due, Line, Prepared
from protocol.mysql.wire import EOF, ERR, LOCAL_INFILE, OK, PROGRESS, Capability, read_length, read_text
from protocol.mysql.wire import Status as ServerStatus

# Where in an answer we are.
FIRST = 0
DEFINITIONS = 1
DEFINITIONS_END = 2
ROWS = 3

_DEPRECATE_EOF = int(Capability.DEPRECATE_EOF)
_SAYS_IF_DEFINED = int(Capability.OPTIONAL_RESULTSET_METADATA | Capability.MARIADB_CACHE_METADATA)
_LOCAL_FILES = int(Capability.LOCAL_FILES)
_PROGRESS = int(Capability.MARIADB_PROGRESS)
_IN_TRANS = int(ServerStatus.IN_TRANS)
_MORE_RESULTS = int(ServerStatus.MORE_RESULTS)
_CURSOR_EXISTS = int(ServerStatus.CURSOR_EXISTS)
_LAST_ROW_SENT = int(ServerStatus.LAST_ROW_SENT)
_STATES = (due.RESULTS, due.PLAIN, due.ROWS, due.FIELDS, due.END)
"""Answers whose last packet, if it is no error, says how the transaction stands."""
_MAX_TAG_BYTES = 200
_MAX_COLUMNS = 65_535


class Replies:
    """The handlers of one server's packets. stage: of the answer at the head of the queue."""

    __slots__ = ("_affected", "_fields", "_host", "_left", "_line", "_queue", "_second", "_tags", "stage")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._host = line.host
        self._queue = line.queue
        self.stage = FIRST
        self._left = 0  # definitions still to come in this group
        self._second = 0  # definitions of the next group: a prepared statement's columns after its parameters
        self._affected = 0
        self._tags: list[bytes] = []
        self._fields: list[str | None] | None = None  # of the proxy's own question

    def packet(self, head: Due, data: bytes, start: int, end: int) -> None:
        """The payload data[start:end], not empty, belongs to the answer at the head of the queue."""
        stage = self.stage
        first = data[start]
        if first == ERR:
            number, _, _ = parse_error(data, start, end)
            if number != PROGRESS or not self._line.capabilities & _PROGRESS:
                self._failed(head, number)
        elif stage == ROWS:
            if first == EOF and is_end(data, start, end - start, self._line.capabilities):
                self._rows_end(head, parse_end(data, start, end, self._line.capabilities))
            else:
                self._row(head, data, start, end)
        elif stage == DEFINITIONS:
            self._left -= 1
            if not self._left:
                self._defined(head)
        elif stage == DEFINITIONS_END:
            if first != EOF or end - start != 5:
                raise UnexpectedMessage(SERVER, "definitions without their end")
            self._defined_all(head, parse_end(data, start, end, 0))
        else:
            self._first(head, first, data, start, end)

    def _first(self, head: Due, first: int, data: bytes, start: int, end: int) -> None:
        kind = head.kind
        capabilities = self._line.capabilities
        if kind == due.RESULTS or kind == due.ASK:
            if first == OK:
                self._ok(head, parse_ok(data, start, end, capabilities))
            elif first == LOCAL_INFILE:
                self._asks_for_file(head, data[start + 1 : end])
            else:
                self._columns(head, data, start, end)
        elif kind == due.PREPARED and first == OK:
            self._prepared(head, data, start, end)
        elif kind == due.PLAIN and first == OK:
            self._ok(head, parse_ok(data, start, end, capabilities))
        elif kind == due.TEXT:
            self._finish(head, Status.OK)
        elif kind == due.FIELDS:
            if first == EOF and is_end(data, start, end - start, capabilities):
                ended = parse_end(data, start, end, capabilities)
                self._note(ended)
                self._finish(head, Status.OK)
        elif kind == due.END and first in (OK, EOF):
            ended = (
                parse_ok(data, start, end, capabilities) if first == OK else parse_end(data, start, end, capabilities)
            )
            self._note(ended)
            self._finish(head, Status.OK)
        else:
            raise UnexpectedMessage(SERVER, "an answer that nobody asked for, or of unknown type")

    def _columns(self, head: Due, data: bytes, start: int, end: int) -> None:
        """The number of columns: a result set begins."""
        capabilities = self._line.capabilities
        count, position = read_length(data, start, end, SERVER)
        is_defined = True
        if capabilities & _SAYS_IF_DEFINED:
            if end - position != 1 or data[position] > 1:
                raise MalformedMessage(SERVER, "a number of columns of impossible size")
            is_defined = data[position] == 1
        elif position != end:
            raise MalformedMessage(SERVER, "a number of columns of impossible size")
        if not 0 < count <= _MAX_COLUMNS:
            raise MalformedMessage(SERVER, "an impossible number of columns")
        if is_defined:
            self._left = count
            self.stage = DEFINITIONS
        else:
            self._defined(head)

    def _defined(self, head: Due) -> None:
        """All definitions of a group are there. Where EOF is not deprecated a packet says so."""
        if not self._line.capabilities & _DEPRECATE_EOF:
            self.stage = DEFINITIONS_END
        else:
            self._defined_all(head, None)

    def _defined_all(self, head: Due, ended: Ok | None) -> None:
        if ended is not None:
            self._note(ended)
        if head.kind == due.PREPARED:
            if self._second:
                self._left = self._second
                self._second = 0
                self.stage = DEFINITIONS
            else:
                self._finish_prepare(head)
        elif ended is not None and ended.status & _CURSOR_EXISTS:
            self._finish(head, Status.SUSPENDED)  # rows come when they are fetched
        else:
            self.stage = ROWS

    def _prepared(self, head: Due, data: bytes, start: int, end: int) -> None:
        statement_id, columns, parameters, is_defined = parse_prepared(data, start, end)
        prepared = head.payload
        if isinstance(prepared, Prepared):
            prepared.id = statement_id
            prepared.count = parameters
        if is_defined and (columns or parameters):
            self._left, self._second = (parameters, columns) if parameters else (columns, 0)
            self.stage = DEFINITIONS
        else:
            self._finish_prepare(head)

    def _finish_prepare(self, head: Due) -> None:
        line = self._line
        prepared = head.payload
        if isinstance(prepared, Prepared) and prepared.generation == line.generation:
            line.prepared[prepared.id] = prepared
        self._finish(head, Status.OK)

    def _row(self, head: Due, data: bytes, start: int, end: int) -> None:
        """A row that was not passed in a run."""
        self._line.rows += 1
        if head.kind == due.ASK and self._fields is None:
            fields: list[str | None] = []
            while start < end:
                if data[start] == LOCAL_INFILE:  # which stands for NULL here
                    fields.append(None)
                    start += 1
                else:
                    value, start = read_text(data, start, end, SERVER)
                    fields.append(value.decode("utf-8", "replace"))
            self._fields = fields

    def _rows_end(self, head: Due, ended: Ok) -> None:
        self._note(ended)
        self._tags.append(b"")
        if ended.status & _MORE_RESULTS and head.kind != due.ROWS:
            self.stage = FIRST
        elif ended.status & _CURSOR_EXISTS and not ended.status & _LAST_ROW_SENT:
            self._finish(head, Status.SUSPENDED)
        else:
            self._finish(head, Status.OK)

    def _ok(self, head: Due, ok: Ok) -> None:
        self._note(ok)
        self._affected += ok.affected
        tag = b"OK %d" % ok.affected
        info = ok.info
        if info and len(info) <= _MAX_TAG_BYTES and info.isascii() and info.decode("ascii").isprintable():
            tag += b" " + info
        self._tags.append(tag)
        if ok.status & _MORE_RESULTS and head.kind == due.RESULTS:
            self.stage = FIRST
        else:
            self._finish(head, Status.OK)

    def _note(self, ok: Ok) -> None:
        """What every OK and EOF packet says of the session."""
        line = self._line
        line.transaction = Transaction.OPEN if ok.status & _IN_TRANS else Transaction.IDLE
        line.has_diagnostics = ok.warnings > 0 or ok.affected > 0
        for name, value in ok.changes:
            self._host.parameter(name, value)

    def _asks_for_file(self, head: Due, name: bytes) -> None:
        """The server asks for a file of the client's: only one that the client has named itself."""
        line = self._line
        text = head.payload
        if not line.capabilities & _LOCAL_FILES or not isinstance(text, bytes) or not may_ask_for(text, name):
            raise UnexpectedMessage(SERVER, "the server asked for a file that no statement names")
        line.is_sending_file = True
        line.file_sequence = head.sequence

    def _failed(self, head: Due, number: int) -> None:
        line = self._line
        line.has_diagnostics = True
        prepared = head.payload
        if head.kind == due.PREPARED and line.last_prepared is prepared:
            line.last_prepared = None
        self._finish(head, Status.ERROR, str(number))

    def _finish(self, head: Due, status: Status, code: str = "") -> None:
        """The answer at the head is complete."""
        line = self._line
        self._queue.popleft()
        if head.kind == due.PREPARED:
            line.preparing -= 1
        self.stage = FIRST
        rows = line.rows
        if rows and head.kind != due.ASK:
            line.has_diagnostics = True
        if head.statement_id:
            tags = self._tags
            tag = b"; ".join(tags) if len(tags) > 1 else tags[0] if tags else b""
            says_state = status is not Status.ERROR and head.kind in _STATES
            transaction = line.transaction if says_state else None
            outcome = Outcome(status, rows or self._affected, line.received, line.sent, tag, code, transaction)
            self._host.finished(head.statement_id, outcome)
        line.rows = line.received = line.sent = 0
        self._affected = 0
        if self._tags:
            self._tags = []
        if head.kind == due.ASK:
            self._answered(is_failed=status is Status.ERROR)
        else:
            self._host.synced(line.transaction)

    def _answered(self, *, is_failed: bool) -> None:
        """The answer to the proxy's question: its first field, and session variables as `name=value` in all others."""
        fields, self._fields = self._fields, None
        self._line.has_diagnostics = False
        if is_failed or not fields:
            self._host.answered(None)
            return
        for field in fields[1:]:
            name, found, value = (field or "").partition("=")
            if found:
                self._host.parameter(name, value)
        self._host.answered(fields[0])
