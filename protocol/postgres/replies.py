"""What the server answers, message by message: matched with what is due, summed up as outcomes of statements.

A handler returns what the client gets in place of the message: None for the message itself, b"" for nothing. Only the answer to a
refusal, and what answers the proxy's own question, is ever replaced. Where messages begin and end is for server_walk.py.
Counterpart: requests.py.
"""

from __future__ import annotations

from protocol.contract import Outcome, Refusal, Status, Transaction
from protocol.errors import MalformedMessage, UnexpectedMessage, UnsupportedFeature
from protocol.postgres import pipeline as due
from protocol.postgres.line import SERVER, Line
from protocol.postgres.messages import parse_parameter_description, parse_parameter_status
from protocol.postgres.names import Portal, Prepared
from protocol.postgres.pipeline import Refused
from protocol.postgres.rows import check_rows, parse_row_count
from protocol.postgres.scan import DATA_ROW
from protocol.postgres.wire import SYNC, TRANSACTIONS, parse_report, refusal_error


class Replies:
    """The handlers of one server's messages.

    allow_copy_both: replication was allowed at login. answer: the first field of what the proxy itself asked for.
    revoked: statements that were made to fail after they had been let through, see revoke.py, and what the client is told.
    """

    __slots__ = ("_allow_copy_both", "_host", "_line", "_pipe", "_queue", "_tags", "answer", "revoked")

    def __init__(self, line: Line, *, allow_copy_both: bool) -> None:
        self._line = line
        self._host = line.host
        self._pipe = line.pipe
        self._queue = line.queue
        self._allow_copy_both = allow_copy_both
        self._tags: list[bytes] = []
        self.answer: str | None = None
        self.revoked: dict[int, Refusal] = {}

    def rows(self, data: bytes, start: int, end: int, rows: int) -> None:
        """A run of row messages data[start:end], or the start of one if end is start."""
        queue = self._queue
        if not queue or queue[0][0] not in (due.EXECUTE, due.QUERY, due.ASK):
            raise UnexpectedMessage(SERVER, "rows that nobody asked for")
        self._line.rows += rows
        if data[start] == DATA_ROW and start != end:
            check_rows(data, start, end)

    def bound(self) -> None:
        """BindComplete."""
        queue = self._queue
        if not queue or queue[0][0] != due.BIND:
            raise UnexpectedMessage(SERVER, "BindComplete that nobody asked for")
        portal = queue.popleft()[2]
        if isinstance(portal, Portal):
            replaced = self._pipe.portals.settle(portal.name, confirmed=True)
            if replaced is not None:
                self._line.settle_unstarted(replaced)

    def described(self) -> None:
        """RowDescription, asked for by Describe or unasked in the answer to a Query."""
        queue = self._queue
        head = queue[0] if queue else None
        if head is not None and head[0] == due.DESCRIBE:
            queue.popleft()
        elif head is None or head[0] != due.QUERY:
            raise UnexpectedMessage(SERVER, "RowDescription that nobody asked for")

    def completed(self, tag: bytes) -> None:
        """CommandComplete, of an Execute or of one statement of a Query."""
        queue = self._queue
        head = queue[0][0] if queue else 0
        if head == due.EXECUTE:
            self._executed(Status.OK, tag)
        elif head == due.QUERY:
            self._tags.append(tag)
        else:
            raise UnexpectedMessage(SERVER, "CommandComplete that nobody asked for")

    def _executed(self, status: Status, tag: bytes) -> None:
        """The Execute at the head is over, or suspended."""
        line = self._line
        _, statement_id, portal = self._queue.popleft()
        if isinstance(portal, Portal):
            portal.is_settled = True
        rows = line.rows
        if not rows or tag.startswith(b"COPY"):
            rows = parse_row_count(tag) or rows
        self._host.finished(statement_id, Outcome(status, rows, line.received, line.sent, tag, "", line.ahead))
        line.rows = line.received = line.sent = 0

    def ready(self, body: bytes) -> bytes | None:
        """ReadyForQuery. Returns b"" if the client is not to see it: the proxy's own question is answered."""
        line = self._line
        transaction = TRANSACTIONS.get(body[0]) if len(body) == 1 else None
        if transaction is None:
            raise MalformedMessage(SERVER, "ReadyForQuery without a transaction state")
        queue = self._queue
        if not queue:
            raise UnexpectedMessage(SERVER, "ReadyForQuery that nobody asked for")
        kind, statement_id, payload = queue[0]
        if kind not in (due.SYNC, due.QUERY, due.FUNCTION, due.REFUSED_QUERY, due.ASK):
            raise UnexpectedMessage(SERVER, "ReadyForQuery before the answers that are due")
        queue.popleft()
        line.transaction = transaction
        if kind == due.QUERY or kind == due.FUNCTION:
            if isinstance(payload, tuple):
                self._pipe.prepared.settle(payload[1], confirmed=True)
            self._finish_query(statement_id)
            line.is_copying = False
        elif kind == due.REFUSED_QUERY:
            if isinstance(payload, Refused) and payload.forgets_unnamed:
                self._pipe.prepared.settle(b"", confirmed=True)
            self._host.finished(statement_id, Outcome(Status.REFUSED))
            self._reset_counts()
        elif kind == due.ASK:
            failed = bool(line.error_code)
            self._reset_counts()
            self._host.answered(None if failed else self.answer)
            return b""
        else:
            self._reset_counts()
        if transaction is Transaction.IDLE:
            line.forget_portals()
        elif kind == due.QUERY:
            unnamed = self._pipe.portals.confirmed.pop(b"", None)
            if unnamed is not None:
                line.settle_unstarted(unnamed)
        self._host.synced(transaction)
        return None

    def _finish_query(self, statement_id: int) -> None:
        line = self._line
        tags = self._tags
        rows = line.rows
        if not rows or any(tag.startswith(b"COPY") for tag in tags):
            rows = sum(parse_row_count(tag) for tag in tags) or rows
        status = Status.ERROR if line.error_code else Status.OK
        tag = b"; ".join(tags)
        outcome = Outcome(status, rows, line.received, line.sent, tag, line.error_code, line.transaction)
        if self.revoked and self.revoked.pop(statement_id, None) is not None:
            outcome = Outcome(Status.REFUSED)
        self._reset_counts()
        self._host.finished(statement_id, outcome)

    def _reset_counts(self) -> None:
        line = self._line
        line.rows = line.received = line.sent = 0
        line.error_code = ""
        if self._tags:
            self._tags = []

    def other(self, kind: int, body: bytes) -> bytes | None:
        """All other server messages, by type byte."""
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
            self._closed(queue.popleft()[2])
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
            self._executed(Status.SUSPENDED, b"")
            return None
        if kind == 73 and head == due.EXECUTE and not body:  # EmptyQueryResponse
            self._executed(Status.OK, b"")
            return None
        if kind == 73 and head == due.QUERY and not body:
            return None
        if kind == 86 and head == due.FUNCTION:
            return None
        if head in (due.EXECUTE, due.QUERY):
            return self._copying(kind, body)
        raise UnexpectedMessage(SERVER, "a reply that nobody asked for, or of unknown type")

    def _copying(self, kind: int, body: bytes) -> bytes | None:
        line = self._line
        if kind == 71:  # CopyInResponse
            line.is_copying = True
            line.copies -= 1
            line.is_sync_dropped = False
            return None
        if kind == 72:  # CopyOutResponse
            line.copies -= 1
            return None
        if kind == 99 and not body:  # CopyDone
            return None
        if kind == 87:  # CopyBothResponse
            if not self._allow_copy_both:
                raise UnsupportedFeature(SERVER, "the server started COPY BOTH, which is refused")
            line.is_copying = True
            return None
        raise UnexpectedMessage(SERVER, "a reply that nobody asked for, or of unknown type")

    def _closed(self, payload: object) -> None:
        if isinstance(payload, tuple):
            space, name = payload
            if space == 83:
                self._pipe.prepared.settle(name, confirmed=True)
                return
            replaced = self._pipe.portals.settle(name, confirmed=True)
            if replaced is not None:
                self._line.settle_unstarted(replaced)

    def _failed(self, body: bytes) -> bytes | None:
        """ErrorResponse: a real one goes on as it is; the answer to a refusal becomes ours."""
        line = self._line
        fields = parse_report(body)
        code = fields.get("C", "XX000")
        queue = self._queue
        if fields.get("V") == "FATAL" or fields.get("V") == "PANIC" or not queue:
            line.error_code = "FATAL"  # the server is closing; what is still open is settled when it has
            return None
        head, statement_id, payload = queue[0]
        revoked = self.revoked.get(statement_id) if self.revoked else None
        if head == due.SYNC:
            return None  # for example a deferred constraint, at the implicit commit
        if head == due.REFUSED_QUERY and isinstance(payload, Refused):
            return None if code == "25P02" else refusal_error(payload.refusal)
        line.error_code = code
        if head == due.ASK:
            return b""
        if head in (due.QUERY, due.FUNCTION):
            line.is_copying = False
            return refusal_error(revoked) if revoked is not None and code != "25P02" else None
        refusal = payload.refusal if head == due.REFUSED_STEP and isinstance(payload, Refused) else revoked
        outcome = Outcome(Status.ERROR, line.rows, line.received, line.sent, b"", code, line.ahead)
        if revoked is not None:
            outcome = Outcome(Status.REFUSED)
        self._reset_counts()
        self._settle_skipped(self._pipe.skip_group(), outcome)
        line.is_copying = False
        if not queue:
            line.is_skipping = True  # the server drops everything up to a Sync that the client has yet to send
            if line.is_sync_dropped:
                self._send_late_sync()
        return refusal_error(refusal) if refusal is not None and code != "25P02" else None

    def _settle_skipped(self, entries: list[due.Entry], outcome: Outcome) -> None:
        """Outcomes for the failed entry, which comes first, and for all that the server skipped behind it."""
        executed = {entry[1] for entry in entries if entry[0] == due.EXECUTE}
        for index, (kind, statement_id, payload) in enumerate(entries):
            if self.revoked:
                self.revoked.pop(statement_id, None)
            if kind in (due.REFUSED_STEP, due.REFUSED_QUERY):
                self._host.finished(statement_id, Outcome(Status.REFUSED))
            elif kind == due.BIND and isinstance(payload, Portal):
                if index == 0:
                    executed.discard(statement_id)
                    payload.is_settled = True
                    self._host.finished(statement_id, outcome)
                elif statement_id not in executed:
                    self._line.settle(payload, Status.SKIPPED)
            elif kind == due.EXECUTE and isinstance(payload, Portal) and payload.statement.id == statement_id:
                if not payload.is_settled:
                    payload.is_settled = True
                    self._host.finished(statement_id, outcome if index == 0 else Outcome(Status.SKIPPED))
            elif statement_id:
                self._host.finished(statement_id, outcome if index == 0 else Outcome(Status.SKIPPED))

    def _send_late_sync(self) -> None:
        """A Sync was dropped as the last message of a COPY that then failed: for the server it would have counted."""
        self._line.is_sync_dropped = False
        self._line.is_skipping = False
        self._pipe.group += 1
        self._queue.append((due.SYNC, 0, None))
        self._host.send(SERVER, SYNC)
