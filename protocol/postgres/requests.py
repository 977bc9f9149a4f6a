"""What the client asks, message by message: judged, noted among the replies that are due, or refused.

Each handler takes the body of one message and answers what is to become of its bytes; client_walk.py does it. A refused message
is replaced with one that makes the server itself fail, so that the transaction, the pipeline and the reply order are the
server's own, and only the text of the error is ours:

    refused Parse, Bind, Execute  →  Parse "_dbproxy" of a text that cannot be analysed, then all dropped until Sync
    refused Query, FunctionCall   →  Query of that text

Counterpart: replies.py.
"""

from __future__ import annotations

from typing import Final

from protocol.contract import FORWARD, Act, Outcome, Refusal, Statement, Status, Verdict, Why
from protocol.errors import MalformedMessage, UnexpectedMessage
from protocol.postgres import pipeline as due
from protocol.postgres.line import CLIENT, COPY, JUDGING, NAMES, SERVER, Line
from protocol.postgres.messages import (
    parse_bind,
    parse_execute,
    parse_function_call,
    parse_parse,
    parse_query,
    parse_target,
)
from protocol.postgres.names import Portal, Prepared, may_forget_names
from protocol.postgres.pipeline import Refused
from protocol.postgres.scan import COPY_DATA
from protocol.postgres.wire import RESERVED_NAME, message

# What becomes of a message.
PASS: Final = 0
DROP: Final = 1
HOLD: Final = 2
STOP: Final = 3
REFUSE: Final = 4

_EXECUTE: Final = Act.EXECUTE


class Requests:
    """The handlers of one client's messages.

    epoch: which judgements still hold for later executions. max_prepared: named statements per session.
    """

    __slots__ = ("_host", "_line", "_max_prepared", "_next_id", "_pipe", "_queue", "_verdict", "epoch")

    def __init__(self, line: Line, *, max_prepared: int) -> None:
        self._line = line
        self._host = line.host
        self._pipe = line.pipe
        self._queue = line.queue
        self._max_prepared = max_prepared
        self._next_id = 1
        self._verdict: Verdict | None = None  # of the held statement, once it is there
        self.epoch = 0

    def bind(self, body: bytes) -> int:
        """Bind. If it passes, what is left to do depends on what follows, see join_whole."""
        line = self._line
        if line.is_copying:
            raise UnexpectedMessage(CLIENT, "Bind during COPY")
        portal_name, name, formats, values = parse_bind(body)
        if name == RESERVED_NAME:
            raise UnexpectedMessage(CLIENT, "the statement name _dbproxy is reserved")
        pipe = self._pipe
        prepared = pipe.prepared.find(name)
        if line.is_skipping:
            text = prepared.text if prepared else None
            return self._skip(line.judged or Statement(self._new_id(), Act.EXECUTE, text, name, values, formats))
        statement = line.judged
        if statement is None:
            if pipe.prepared.pending and pipe.prepared.is_unsettled(name, pipe.group):
                line.waiting |= NAMES
                return HOLD
            statement_id = self._next_id
            self._next_id = statement_id + 1
            if prepared is None:
                statement = Statement(statement_id, _EXECUTE, None, name, values, formats)
            else:
                statement = Statement(statement_id, _EXECUTE, prepared.text, name, values, formats, prepared.types)
            if portal_name:
                statement.portal = portal_name
            verdict = self._host.judge(statement)
        else:
            verdict = self._take_verdict()
        if verdict is FORWARD:
            portal = Portal(portal_name, statement, self.epoch, prepared)
            self._queue.append((due.BIND, statement.id, portal))
            return PASS
        return self._not_forwarded(statement, verdict, due.REFUSED_STEP)

    def describe(self, body: bytes) -> int:
        line = self._line
        if line.is_copying:
            raise UnexpectedMessage(CLIENT, "Describe during COPY")
        space, name = parse_target(body)
        if name == RESERVED_NAME and space == 83:
            raise UnexpectedMessage(CLIENT, "the statement name _dbproxy is reserved")
        if line.is_skipping:
            return DROP
        line.is_group_open = True
        self._queue.append((due.DESCRIBE, 0, self._pipe.prepared.find(name) if space == 83 else None))
        return PASS

    def execute(self, body: bytes) -> int:
        line = self._line
        if line.is_copying:
            raise UnexpectedMessage(CLIENT, "Execute during COPY")
        name = parse_execute(body)
        pipe = self._pipe
        if line.is_skipping:
            if line.judged is not None:
                return self._skip(line.judged)
            return DROP  # its Bind was recorded as skipped, or was executed before
        if pipe.is_portal_unsettled(name):
            line.waiting |= NAMES
            return HOLD
        portal = pipe.portals.find(name)
        statement = line.judged
        if statement is None and portal is not None and not portal.is_started and portal.epoch == self.epoch:
            portal.is_started = True
            self._queue.append((due.EXECUTE, portal.statement.id, portal))
            line.is_group_open = True
            self._started(portal)
            return PASS
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
                line.settle_unstarted(portal)
                portal.is_started = True
            self._queue.append((due.EXECUTE, statement.id, portal))
            line.is_group_open = True
            self._started(portal)
            return PASS
        return self._not_forwarded(statement, verdict, due.REFUSED_STEP)

    def _started(self, portal: Portal | None) -> None:
        """An Execute is about to be sent."""
        if portal is None or portal.may_copy:
            self._line.copies = 1
            self._line.waiting |= COPY
        if portal is None:
            return
        if portal.may_forget:
            self._pipe.prepared.forget(portal.statement.text or b"")
        if portal.may_execute:
            copies, forgets = self._pipe.may_reach((portal.statement.text or b"").lower())
            if copies:
                self._line.copies = 1
                self._line.waiting |= COPY
            if forgets:
                self._pipe.prepared.forget(b"")

    def sync(self, size: int) -> int:
        """Sync. size: what its length field says."""
        line = self._line
        if size != 4:
            raise MalformedMessage(CLIENT, "Sync has a body")
        if line.is_copying and not line.is_skipping:
            line.is_sync_dropped = True
            return DROP
        line.is_skipping = False
        line.is_group_open = False
        self._pipe.group += 1
        self._queue.append((due.SYNC, 0, None))
        return PASS

    def other(self, kind: int, body: bytes) -> int:
        """The messages that are not on the hot path, by type byte."""
        line = self._line
        if kind == 88:  # Terminate
            return STOP
        if kind in b"dcf":
            return self._copy(kind, body)
        if line.is_copying:
            if kind == 72:  # Flush: the server ignores it here
                return DROP
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
            return DROP if line.is_skipping else PASS
        if kind == 67:
            return self._close(body)
        raise UnexpectedMessage(CLIENT, "unknown message type")

    def _query(self, text: bytes) -> int:
        line = self._line
        statement = line.judged or Statement(self._new_id(), Act.QUERY, text)
        if line.is_skipping:
            return self._skip(statement)
        verdict = self._judge(statement)
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, due.REFUSED_QUERY)
        self._queue.append((due.QUERY, statement.id, self._forget_unnamed()))
        line.is_group_open = False
        lower = text.lower()
        copies, forgets = self._pipe.may_reach(lower)
        # An upper bound of the COPY statements in it.
        line.copies = lower.count(b"copy") + (lower.count(b"execute") if copies else 0)
        if line.copies:
            line.waiting |= COPY
        if forgets or may_forget_names(lower):
            self._pipe.prepared.forget(b"" if forgets else text)
        return PASS

    def _forget_unnamed(self) -> tuple[int, bytes] | None:
        """A Query destroys the unnamed statement. Returns what the queue entry has to settle."""
        prepared = self._pipe.prepared
        if prepared.find(b"") is None:
            return None
        prepared.change(b"", self._pipe.group, None)
        return (83, b"")

    def _parse(self, body: bytes) -> int:
        line = self._line
        name, text, types = parse_parse(body)
        if name == RESERVED_NAME:
            raise UnexpectedMessage(CLIENT, "the statement name _dbproxy is reserved")
        statement = line.judged or Statement(self._new_id(), Act.PREPARE, text, name)
        if line.is_skipping:
            return self._skip(statement)
        verdict = self._judge(statement)
        names = self._pipe.prepared
        if verdict is FORWARD and name and len(names.confirmed) + len(names.pending) >= self._max_prepared:
            hint = "close prepared statements that are no longer needed"
            refusal = Refusal(Why.LIMIT, f"dbproxy: more than {self._max_prepared} prepared statements", "", hint)
            verdict = Verdict(refusal)
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, due.REFUSED_STEP)
        prepared = Prepared(name, statement.text or b"", types)
        names.change(name, self._pipe.group, prepared)
        self._queue.append((due.PARSE, statement.id, prepared))
        line.is_group_open = True
        return PASS

    def _function_call(self, body: bytes) -> int:
        line = self._line
        oid, formats, values = parse_function_call(body)
        statement = line.judged or Statement(self._new_id(), Act.CALL, None, str(oid).encode(), values, formats)
        if line.is_skipping:
            return self._skip(statement)
        verdict = self._judge(statement)
        if verdict is not FORWARD:
            return self._not_forwarded(statement, verdict, due.REFUSED_QUERY)
        self._queue.append((due.FUNCTION, statement.id, None))
        return PASS

    def _close(self, body: bytes) -> int:
        space, name = parse_target(body)
        if name == RESERVED_NAME and space == 83:
            raise UnexpectedMessage(CLIENT, "the statement name _dbproxy is reserved")
        if self._line.is_skipping:
            return DROP
        pipe = self._pipe
        if space == 83:
            pipe.prepared.change(name, pipe.group, None)
        else:
            pipe.portals.change(name, pipe.group, None)
        self._queue.append((due.CLOSE, 0, (space, name)))
        self._line.is_group_open = True
        return PASS

    def _copy(self, kind: int, body: bytes) -> int:
        """CopyData, CopyDone, CopyFail. Outside COPY the server ignores them, so they are dropped."""
        line = self._line
        if line.is_skipping or not line.is_copying:
            return DROP
        if kind == COPY_DATA:
            line.sent += len(body)
            line.is_sync_dropped = False
            return PASS
        if kind == 99 and body:
            raise MalformedMessage(CLIENT, "CopyDone has a body")
        if kind == 102 and body[-1:] != b"\0":
            raise MalformedMessage(CLIENT, "CopyFail is not terminated")
        line.is_copying = False
        line.is_sync_dropped = False
        if line.copies and self._queue and self._queue[0][0] == due.QUERY:
            line.waiting |= COPY  # the same text may start another COPY
        return PASS

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

    def _not_forwarded(self, statement: Statement, verdict: Verdict | None, kind: int) -> int:
        line = self._line
        if verdict is None:
            line.judged = statement
            line.waiting |= JUDGING
            return HOLD
        if verdict.refusal is None:
            raise UnexpectedMessage(CLIENT, "a verdict that is neither FORWARD nor a refusal")
        if kind == due.REFUSED_QUERY:
            forgets = self._forget_unnamed() is not None
        else:
            forgets = False
            line.is_skipping = True
        self._queue.append((kind, statement.id, Refused(verdict.refusal, forgets_unnamed=forgets)))
        return REFUSE

    def substitute(self) -> None:
        """In place of the message just refused, send what makes the server itself fail."""
        kind, statement_id, _ = self._queue[-1]
        text = b'SELECT "dbproxy refused %d"\0' % statement_id
        if kind == due.REFUSED_STEP:
            self._host.send(SERVER, message(b"P", RESERVED_NAME + b"\0" + text + b"\0\0"))
        else:
            self._host.send(SERVER, message(b"Q", text))

    def _skip(self, statement: Statement) -> int:
        """Nobody will run this: something before it in its group failed or was refused."""
        if self._line.judged is None:
            self._host.skipped(statement)
            return DROP
        verdict = self._take_verdict()
        refused = verdict is not None and verdict.refusal is not None
        self._host.finished(statement.id, Outcome(Status.REFUSED if refused else Status.SKIPPED))
        return DROP
