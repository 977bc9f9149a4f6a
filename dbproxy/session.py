"""One person's session: the host of its relay. Holds who it is, what the server has confirmed, and what is being judged.

    relay ── judge(statement) ──► cache ──► decision ──► audit intent ──► FORWARD, or a refusal
                                    └─ miss ─► classifier process ─► relay.resolve

Bytes for the server wait in `_outgoing` until the turn's records are written (turn.py); bytes for the client go at once.
Nothing here knows which database it is: what differs is in dialect.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from classifiers.composition import compose
from classifiers.effects import Kind
from dbproxy.audit.ledger import AuditDown
from dbproxy.audit.record import array_member, encode_text, members, parameter_digest, parameter_value, text_member
from dbproxy.audit.types import EventType
from dbproxy.catalogue.resolve import ANYTHING, EVERY_NAME, find_made
from dbproxy.classifier.queue import Request
from dbproxy.dialect import Dialect
from dbproxy.judge import Entry, Judge, Ruling, make_entry, unknown_report
from dbproxy.metrics import Counters
from dbproxy.names import Names
from dbproxy.policy.model import Action, Context
from dbproxy.session_state import SessionState
from dbproxy.transport import Link, Pause
from dbproxy.turn import Turn
from protocol.contract import FORWARD, Act, Outcome, Refusal, Relay, Side, Statement, Status, Transaction, Verdict, Why

_ACT = {act: act.name.lower().encode() for act in Act}
_STATUS = {status: status.value.encode() for status in Status}
_TRANSACTION: dict[Transaction | None, bytes] = {
    state: b',"transaction":"%b"' % state.value.encode() for state in Transaction
} | {None: b""}
_READY_MAX = 256
_DERIVED_MAX = 500
_DEFINES = frozenset({Kind.DDL, Kind.DYNAMIC})
_READY_TEXT_BYTES = 4096
_ON_DYNAMIC = "defaults.on_dynamic"
_HINT = "Ask your security team if you need this; give them the request id."
_HINTS = {
    "defaults.on_unparsable": "dbproxy cannot vouch for its reading of this text. Check the spelling; if the database does accept it, "
    "give your security team the request id."
}
_BULK_BYTES = 65536
"""A chunk above this does not wait for the end of the turn: libuv reads a full socket 32 times in one, which would pile up 8 MB a session."""
_SHARE_BYTES = 16384
"""A client's bytes in one turn: they may be 550 statements of 30 bytes, which take 15 ms, and others wait meanwhile."""


@dataclass(frozen=True, slots=True)
class Start:
    """What login hands over. identity: audit members that every event of the session carries; parameters: as the server confirmed them."""

    session_id: str
    context: Context
    server_user: str
    server_pid: int
    identity: dict[str, object]
    parameters: dict[str, str]


class Session:
    """See protocol.contract.Host. Made at the end of login; `begin` gives it its relay and links.

    on_end: called once, when both connections are closed. digest_key: for bound parameters; None: their values are recorded;
    b"": only how many there are.
    """

    __slots__ = (
        "_client",
        "_context",
        "_counters",
        "_dialect",
        "_digest_key",
        "_ended",
        "_has_defined",
        "_identity",
        "_is_asking",
        "_is_watched",
        "_judge",
        "_ledger",
        "_members",
        "_monotonic_ns",
        "_name_members",
        "_names",
        "_on_end",
        "_outgoing",
        "_pending",
        "_ready",
        "_running",
        "_server",
        "_server_user",
        "_state",
        "_statements",
        "_total_received",
        "_total_refused",
        "_total_rows",
        "_total_sent",
        "_total_statements",
        "_total_unrecorded",
        "_transaction",
        "_turn",
        "_type_names",
        "_write_buffer_bytes",
        "_write_client",
        "_write_server",
        "last_active_ns",
        "relay",
        "session_id",
        "started_ns",
    )

    def __init__(
        self,
        start: Start,
        dialect: Dialect,
        judge: Judge,
        turn: Turn,
        counters: Counters,
        monotonic_ns: Callable[[], int],
        digest_key: bytes | None,
        write_buffer_bytes: int,
        on_end: Callable[[Session], None],
    ) -> None:
        self.session_id = start.session_id
        self._dialect = dialect
        self._judge = judge
        self._turn = turn
        self._ledger = turn.ledger
        self._counters = counters
        self._monotonic_ns = monotonic_ns
        self._digest_key = digest_key
        self._write_buffer_bytes = write_buffer_bytes
        self._on_end = on_end
        self._identity = dict(start.identity)
        self._members = members(self._identity)
        self._server_user = start.server_user
        self._state = SessionState(dialect, dict(start.parameters), start.server_user)
        state = self._state
        self._context = replace(start.context, search_path=state.search_path, name_case=state.name_case)
        self._is_asking = False
        self._is_watched = judge.sights is not None and judge.sights.watches(start.context.target)
        self._has_defined = (
            False  # in this transaction something may have been defined that the catalogue does not have
        )
        self._transaction = Transaction.IDLE
        self._names = Names()
        # By act and text: the ruling in the present context, the beginning of its intent record, whether the disk must have that first.
        self._ready: tuple[dict[bytes, tuple[Ruling, bytes, bool]], ...] = tuple({} for _ in Act)
        # Forwarded statements: their entry, and when on the monotonic clock.
        self._running: dict[int, tuple[Entry, int]] = {}
        self._name_members: dict[bytes, bytes] = {}
        self._type_names: dict[int, bytes] = {}
        self._statements = counters.statements
        self._pending: tuple[Statement, int, Request] | None = None
        self._outgoing: list[bytes] = []
        self._write_client: Callable[[bytes], object] = _write_nowhere
        self._write_server: Callable[[bytes], object] = _write_nowhere
        self._total_statements = 0
        self._total_unrecorded = 0  # of its statement numbers, how many have no record
        self._total_refused = 0
        self._total_rows = 0
        self._total_received = 0
        self._total_sent = 0
        self._ended = False
        self.started_ns = self.last_active_ns = monotonic_ns()
        self.relay: Relay | None = None
        self._client: Link | None = None
        self._server: Link | None = None

    # ---- life ---------------------------------------------------------------------------------------------------

    @property
    def person(self) -> str:
        return self._context.person

    @property
    def is_idle(self) -> bool:
        """Nothing runs, nothing is being judged, no transaction is open."""
        return not self._running and self._pending is None and self._transaction is Transaction.IDLE

    @property
    def application(self) -> str:
        return self._context.application

    @property
    def transaction(self) -> Transaction:
        """As the server last said."""
        return self._transaction

    @property
    def is_held(self) -> bool:
        """A statement waits for its judgement."""
        return self._pending is not None

    @property
    def totals(self) -> tuple[int, ...]:
        """So far: statements, refused, rows, bytes from the server in answer, bytes of bulk data to it."""
        return (
            self._total_statements,
            self._total_refused,
            self._total_rows,
            self._total_received,
            self._total_sent,
        )

    def begin(self, relay: Relay, client: Link, server: Link) -> None:
        """Login is over: bytes flow from now on."""
        self.relay = relay
        self._client = client
        self._server = server
        for link in (client, server):
            if link.transport is not None and not link.transport.is_closing():
                link.transport.set_write_buffer_limits(self._write_buffer_bytes)
        if client.transport is not None:
            self._write_client = client.transport.write
        if server.transport is not None:
            self._write_server = server.transport.write
        server.attach(relay.from_server, lambda: relay.closed(Side.SERVER), self._server_pressure)
        self._settle()  # before the client's first bytes, which may be here already: they are judged with what is learnt
        client.attach(
            relay.from_client, lambda: relay.closed(Side.CLIENT), self._client_pressure, share_bytes=_SHARE_BYTES
        )

    def end(self, refusal: Refusal) -> None:
        """End the session: the client is told why."""
        if self.relay is not None:
            self.relay.end(refusal)

    @property
    def server_link(self) -> Link | None:
        return self._server

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(link for link in (self._client, self._server) if link is not None)

    def abort(self) -> None:
        """Drop both connections; nothing more is said to anybody."""
        for link in self.links:
            link.abort()

    def policy_changed(self) -> None:
        """Another policy is in force: what was judged before does not hold for what runs later."""
        self._changed()

    # ---- bytes --------------------------------------------------------------------------------------------------

    def send(self, side: Side, data: bytes) -> None:
        if side is Side.CLIENT:
            self._write_client(data)
            return
        outgoing = self._outgoing
        if outgoing:
            outgoing.append(data)
        elif self._turn.is_open:
            outgoing.append(data)
            self._turn.waiting[self.session_id] = self
        else:
            self._write_server(data)
            return
        if len(data) > _BULK_BYTES:
            self._turn.flush()

    def release(self) -> None:
        outgoing = self._outgoing
        if not outgoing:
            return
        self._outgoing = []
        self._write_server(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))
        if self._ended:
            self._leave_server()

    def _leave_server(self) -> None:
        if self._server is not None and self._server.transport is not None:
            self._server.transport.close()
        self._write_server = _write_nowhere

    def hold(self) -> bytes:
        outgoing = self._outgoing
        self._outgoing = [b""]  # INVARIANT: not empty while something is handed over, so that nothing overtakes it
        if self._client is not None:
            self._client.pause(Pause.SYNC)
        return outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)

    def deliver(self, data: bytes) -> None:
        self._write_server(data)

    def unhold(self) -> None:
        if self._client is not None:
            self._client.resume(Pause.SYNC)

    def revoke(self, reason: str, statements: tuple[int, ...], data: bytes) -> None:
        data += b"".join(self._outgoing)
        self._outgoing = []  # INVARIANT: what was not recorded is not sent
        if self._ended:
            self._leave_server()
            return
        if not data:
            return
        text = f"dbproxy: the audit trail cannot be written ({reason}); the statement was not run"
        if self.relay is not None:
            refusal = Refusal(Why.AUDIT_DOWN, text, "", "Try again; the session stays open.")
            instead = self.relay.revoke(data, refusal)
            if instead is not None:
                self._write_server(instead)
                return
        for statement_id in statements:
            self.finished(statement_id, Outcome(Status.REFUSED))
        self.end(Refusal(Why.AUDIT_DOWN, text, "", "Connect again when the audit trail is writable."))

    def pause(self, *, on: bool) -> None:
        if self._client is not None:
            (self._client.pause if on else self._client.resume)(Pause.HELD)

    def call_soon(self, function: Callable[[], None]) -> None:
        self._turn.call_soon(function)

    def _client_pressure(self, is_full: bool) -> None:  # noqa: FBT001 - asyncio's own callback
        _throttle(self._server, is_full)

    def _server_pressure(self, is_full: bool) -> None:  # noqa: FBT001 - asyncio's own callback
        _throttle(self._client, is_full)

    # ---- judging ------------------------------------------------------------------------------------------------

    def judge(self, statement: Statement) -> Verdict | None:
        text = statement.text
        if text is None:
            return self._decide(statement, self._unknown_entry(statement), 0)
        if not self._state.is_unsettled:
            ready = self._ready[statement.act].get(text)
            if ready is not None:
                self._judge.hits += 1
                return self._forward_ready(statement, ready)
        state = self._state.lexing_for(statement.act)
        entry = self._judge.cache_for(self._dialect.name, state, self._state.version).get(text)
        if entry is not None:
            self._judge.hits += 1
            return self._decide(statement, entry, 0)
        asked_ns = self._monotonic_ns()
        request = self._judge.classify(
            self._dialect.name,
            text,
            state,
            self._state.version,
            self._context.person,  # all sessions of a person share one turn in the queue
            lambda found: self._classified(statement, found),
        )
        self._pending = (statement, asked_ns, request)
        return None

    def _classified(self, statement: Statement, entry: Entry) -> None:
        pending = self._pending
        if pending is None or pending[0] is not statement or self.relay is None:
            return
        self._pending = None
        held_ns = self._monotonic_ns() - pending[1]
        self.relay.resolve(statement.id, self._decide(statement, entry, held_ns))

    def _unknown_entry(self, statement: Statement) -> Entry:
        if statement.act is Act.CALL:
            return make_entry(None, self._dialect.call_report(statement.name))
        known = self._names.find("cursor" if statement.act is Act.RESUME else "prepared", statement.name)
        if known is not None:
            return make_entry(None, known)
        return make_entry(None, unknown_report("EXECUTE", "unknown_prepared", "the text behind this name is not known"))

    def _decide(self, statement: Statement, entry: Entry, held_ns: int) -> Verdict:
        """Decide with what the session knows now, record, and answer. Never None."""
        began_ns = self._monotonic_ns()
        verdict = self._decide_now(statement, entry, held_ns)
        counters = self._counters
        counters.judge_ns += self._monotonic_ns() - began_ns
        counters.judge_calls += 1
        return verdict

    def _decide_now(self, statement: Statement, entry: Entry, held_ns: int) -> Verdict:
        report = entry.report
        if not entry.is_self_contained:
            entry = make_entry(statement.text, compose(report, self._names.known))
        elif statement.act is Act.EXECUTE and statement.name and self._names.known:
            # PREPARE in SQL and Parse share one name space, and only the server knows which came last.
            other = self._names.find("prepared", statement.name)
            if other is not None:
                both = replace(report, effects=report.effects + other.effects)
                entry = make_entry(statement.text, both)
        context = self._context
        if self._state.is_unsettled and context.search_path is not None:
            context = replace(context, search_path=None)
        ruling = self._judge.rule(entry, context)
        start = b'%b,"act":"%b",%b' % (self._members, _ACT[statement.act], ruling.members)
        if ruling.is_refused:
            return self._refuse(statement, ruling, start)
        text = statement.text
        if (
            text is not None
            and entry is not None
            and not self._state.is_unsettled
            and entry.is_self_contained
            and entry.is_neutral
            and statement.act in (Act.QUERY, Act.EXECUTE)
            and not (statement.act is Act.EXECUTE and (self._names.known or self._state.lexing_changed))
            and len(text) <= _READY_TEXT_BYTES
            and not (self._is_watched and entry.makes)
        ):
            ready = self._ready[statement.act]
            if len(ready) >= _READY_MAX:
                ready.clear()
            ready[text] = (ruling, start, self._must_sync(ruling))
        return self._forward(statement, ruling, start, held_ns)

    def _forward_ready(self, statement: Statement, ready: tuple[Ruling, bytes, bool]) -> Verdict:
        """As _forward, for a neutral, self-contained text that was ruled before: the hot path."""
        body = ready[1]
        if statement.parameters:
            body += b"," + self._describe_parameters(statement)
        name = statement.name
        if name:
            body += self._name_members.get(name) or self._name_member(name)
        try:
            self._ledger.intent((self.session_id, statement.id), body)
        except AuditDown as down:
            return self._refuse_unrecorded(down)
        if not self._turn.is_open:
            self._turn.schedule()
        if ready[2]:
            self._turn.must_sync(self.session_id, statement.id)
        if statement.portal and self._names.known:
            self._names.bound(statement.portal)
        ruling = ready[0]
        now = self.last_active_ns = self._monotonic_ns()
        self._running[statement.id] = (ruling.entry, now)
        try:
            self._statements[ruling.counted] += 1
        except KeyError:
            self._counters.count_statement(*ruling.counted)
        return FORWARD

    def _must_sync(self, ruling: Ruling) -> bool:
        """Whether the statement's record must be on the disk before the server may see it."""
        return self._turn.syncs_all or (self._turn.syncs_some and not ruling.is_plain_read)

    def _name_member(self, name: bytes) -> bytes:
        if len(self._name_members) >= _READY_MAX:
            self._name_members.clear()
        member = self._name_members[name] = b"," + text_member(b"name", name)
        return member

    def _refuse_unrecorded(self, down: AuditDown) -> Verdict:
        self._not_recorded()
        self._total_refused += 1
        ledger = self._ledger
        missing = "proven" if ledger.refusal and not ledger.is_down else "written"
        text = f"dbproxy: the audit trail cannot be {missing}, so nothing may run"
        return Verdict(Refusal(Why.AUDIT_DOWN, text, down.reason, "Try again; the session stays open."))

    def _forward(self, statement: Statement, ruling: Ruling, start: bytes, held_ns: int) -> Verdict:
        """Record the intent and let the relay forward; or refuse because it cannot be recorded."""
        entry = ruling.entry
        body = start
        if statement.parameters:
            body += b"," + self._describe_parameters(statement)
        if held_ns:
            body += b',"held_ms":%.3f' % (held_ns / 1e6)
        try:
            if statement.act is Act.PREPARE:
                self._names.announce(statement.id, statement.name)
                named = b',"statement":%d,%b' % (statement.id, text_member(b"name", statement.name))
                self._turn.prepared(self.session_id, b'"session":"%b",' % self.session_id.encode() + body + named)
                if self._must_sync(ruling):
                    self._turn.must_sync(self.session_id, statement.id)
                return FORWARD
            if statement.name:
                body += b"," + text_member(b"name", statement.name)
            self._turn.intent((self.session_id, statement.id), body)
        except AuditDown as down:
            self._names.withdraw(statement.id)
            return self._refuse_unrecorded(down)
        if self._must_sync(ruling):
            self._turn.must_sync(self.session_id, statement.id)
        now = self.last_active_ns = self._monotonic_ns()
        self._running[statement.id] = (entry, now)
        self._counters.count_statement(*ruling.counted)
        if not entry.is_neutral and self._state.forwarded(
            changes_meaning=entry.changes_meaning, changes_role=entry.changes_role
        ):
            self._state_changed()
        if not entry.is_self_contained:
            self._names.sent(entry.report)
        if statement.portal and self._names.known:
            self._names.bound(statement.portal)
        if self._is_watched and entry.makes:
            self._note_made(ruling)
        return FORWARD

    def _note_made(self, ruling: Ruling) -> None:
        """What this session makes is known to it at once; the catalogue will have it when the transaction is over."""
        report = ruling.entry.report
        if not report.kinds.isdisjoint(_DEFINES):
            self._has_defined = True
        if ruling.resolution is None:
            return
        before = dict(self._context.derived)
        if EVERY_NAME in before:
            return
        derived = dict(before)
        for name, origins in find_made(report, ruling.resolution):
            derived[name] = tuple(sorted({*derived.get(name, ()), *origins}))
        if len(derived) > _DERIVED_MAX:  # more is not kept in mind: from now on every name may be a copy of anything
            derived = {EVERY_NAME: (ANYTHING,)}
        if derived != before:
            self._context = replace(self._context, derived=tuple(derived.items()))
            self._changed()

    def _refuse(self, statement: Statement, ruling: Ruling, start: bytes) -> Verdict:
        decision = ruling.decision
        request = f"{self.session_id}-{statement.id}"
        rule = decision.rule or "policy"
        reason = ruling.entry.report.reason
        why = Why.BLOCKED if decision.hits else Why.POLICY_ERROR
        told = f'blocked by rule "{rule}"'
        if statement.text is None and statement.act is not Act.CALL and rule == _ON_DYNAMIC:
            # Nothing is known behind the name, and most often there is nothing: what clients understand is the server's own code.
            why = Why.UNKNOWN_CURSOR if statement.act is Act.RESUME else Why.UNKNOWN_PREPARED
            what = "portal or cursor" if statement.act is Act.RESUME else "prepared statement"
            told = f'{what} "{statement.name.decode("utf-8", "replace")}" is not known; {told}'
        refusal = Refusal(
            why,
            f"dbproxy: {told} (request {request})",
            "; ".join(filter(None, [decision.hits[0].matched if decision.hits else "", reason])),
            decision.message or _HINTS.get(rule, _HINT),
        )
        body = b'"session":"%b","statement":%d,%b' % (self.session_id.encode(), statement.id, start)
        if statement.parameters:
            body += b"," + self._describe_parameters(statement)
        fields = {"why": refusal.why.value, "message": refusal.message, "detail": refusal.detail, "request": request}
        try:
            self._turn.append(EventType.STATEMENT_REFUSED, body + b"," + members(fields))
        except AuditDown:
            self._not_recorded()
        self._total_refused += 1
        self.last_active_ns = self._monotonic_ns()
        self._counters.count_statement(*ruling.counted)
        if decision.action is Action.TERMINATE:
            self._turn.call_soon(lambda: self.end(refusal))
        return Verdict(refusal)

    def _describe_parameters(self, statement: Statement) -> bytes:
        """Bound parameters: digests need the type's name only, values are decoded."""
        key = self._digest_key
        if key == b"":
            return b'"parameter_count":%d' % len(statement.parameters)
        types = statement.types
        elements: list[bytes] = []
        for index, raw in enumerate(statement.parameters):
            number = types[index] if index < len(types) else 0
            name = self._type_names.get(number) or self._type_name(number)
            if raw is None:
                elements.append(b'{"type":"%b","size":null}' % name)
            elif key is not None:
                elements.append(parameter_digest(name, raw, key))
            else:
                _, text = self._dialect.decode_parameter(number, statement.formats[index], raw)
                elements.append(parameter_value(name, raw, (text or "").encode("utf-8", "surrogateescape")))
        return array_member(b"parameters", elements)

    def _type_name(self, number: int) -> bytes:
        if len(self._type_names) >= _READY_MAX:
            self._type_names.clear()
        name = self._type_names[number] = self._dialect.decode_parameter(number, 0, None)[0].encode()
        return name

    # ---- what became of it --------------------------------------------------------------------------------------

    def finished(self, statement_id: int, outcome: Outcome) -> None:
        running = self._running.pop(statement_id, None)
        if running is None:
            self._names.announced(statement_id)
            pending = self._pending
            if pending is not None and pending[0].id == statement_id:
                self._pending = None  # skipped before it was judged
                self._judge.withdraw(pending[2])
                self.skipped(pending[0])
            return
        entry, started_ns = running
        rows, received, sent, tag = outcome.rows, outcome.received_bytes, outcome.sent_bytes, outcome.tag
        self._total_statements += 1
        self._total_rows += rows
        self._total_received += received
        self._total_sent += sent
        counters = self._counters
        counters.rows += rows
        counters.received_bytes += received
        counters.sent_bytes += sent
        now = self.last_active_ns = self._monotonic_ns()
        micros = (now - started_ns) // 1000
        body = b'%b,"status":"%b"%b,"rows":%d,"received_bytes":%d,"sent_bytes":%d,"duration_ms":%d.%03d' % (
            self._members,
            _STATUS[outcome.status],
            _TRANSACTION[outcome.transaction],
            rows,
            received,
            sent,
            micros // 1000,
            micros % 1000,
        )
        if tag:
            body += b',"tag":"%b"' % tag if tag.replace(b" ", b"").isalnum() else b"," + text_member(b"tag", tag)
        if outcome.code:
            body += b',"code":%b' % (encode_text(outcome.code.encode()) or b'""')
        self._ledger.outcome((self.session_id, statement_id), body)
        if not self._turn.is_open:
            self._turn.schedule()
        if (
            entry.is_read_only
            and tag
            and (not tag.startswith(b"SELECT") or b";" in tag)
            and self._dialect.is_write_tag(tag)
        ):
            self._server_contradicts(statement_id, tag)
        if not entry.is_self_contained and outcome.status is Status.OK:
            self._names.succeeded(entry.report)
            if self._names.known:
                self._forget_ready()

    def skipped(self, statement: Statement) -> None:
        body = b'"session":"%b","statement":%d,%b,"act":"%b"' % (
            self.session_id.encode(),
            statement.id,
            self._members,
            _ACT[statement.act],
        )
        text = statement.text
        entry = None
        if text is not None:
            # Only a text that was read before can be shown: one that was not may hold a password.
            entry = self._judge.cache_for(self._dialect.name, self._state.lexing, self._state.version).get(text)
            shown = entry.members if entry is not None else b'"sql_bytes":%d' % len(text)
            body += b"," + shown
        try:
            self._turn.append(EventType.STATEMENT_SKIPPED, body)
        except AuditDown:
            self._not_recorded()

    def _not_recorded(self) -> None:
        """A statement number without a record: the totals tell, or the verifier would take it for a record that is missing."""
        self._ledger.unrecorded += 1
        self._total_unrecorded += 1

    def _server_contradicts(self, statement_id: int, tag: bytes) -> None:
        """The server wrote where nothing but reading was judged: the text was misread. Everybody must hear of it."""
        body = b'"session":"%b","statement":%d,%b,%b' % (
            self.session_id.encode(),
            statement_id,
            self._members,
            text_member(b"tag", tag),
        )
        try:
            self._turn.append(EventType.CRITICAL_SERVER_TRUTH, body)
        except AuditDown:
            return  # the ledger counts what it had to drop

    # ---- what the server confirms -------------------------------------------------------------------------------

    def parameter(self, name: str, value: str) -> None:
        if self._state.parameters.get(name) == value:
            return
        changed = self._state.parameter(name, value)
        if name == "application_name":
            self._context = replace(self._context, application=value)
            self._identity["application"] = value
            changed = True
        if changed:
            self._state_changed()

    def synced(self, transaction: Transaction) -> None:
        self._transaction = transaction
        if self._has_defined and transaction is Transaction.IDLE:
            self._has_defined = False
            if self._judge.sights is not None:
                self._judge.sights.defined(self._context.target, self._context.database)
        if self._state.is_unsettled and not self._running:
            self._settle()

    def answered(self, value: str | None) -> None:
        self._is_asking = False
        if value is not None and self._state.answered(value):
            self._state_changed()

    def _settle(self) -> None:
        """Nothing is in flight: what the server does not report by itself is asked for."""
        if not self._state.is_unsettled or self.relay is None or self._is_asking:
            return
        question = self._state.question()
        if question is not None and self.relay.ask(question):
            self._is_asking = True

    def _state_changed(self) -> None:
        """What is judged and recorded from now on is judged and recorded with what the state is now."""
        state = self._state
        if (state.search_path, state.name_case) != (self._context.search_path, self._context.name_case):
            self._context = replace(self._context, search_path=state.search_path, name_case=state.name_case)
        if state.role == self._server_user:  # events name the role where it may be another than the login's
            self._identity.pop("role", None)
        else:
            self._identity["role"] = state.role
        self._members = members(self._identity)
        self._changed()

    def _forget_ready(self) -> None:
        for ready in self._ready:
            ready.clear()

    def _changed(self) -> None:
        self._forget_ready()
        if self.relay is not None:
            self.relay.rejudge()

    # ---- the end ------------------------------------------------------------------------------------------------

    def close(self, side: Side, why: Why, detail: str) -> None:
        if self._ended:
            return
        self._ended = True
        if self._pending is not None:
            self._judge.withdraw(self._pending[2])
            self._pending = None
        for statement_id in list(self._running):
            self.finished(statement_id, Outcome(Status.UNKNOWN))
        link = self._server if why is Why.SERVER_LOST else self._client if why is Why.LEFT else None
        if link is not None and link.problem:
            detail = link.problem
        if why in (Why.PROTOCOL, Why.TOO_LARGE, Why.UNSUPPORTED):
            self._counters.protocol_errors += 1
        fields = {
            "session": self.session_id,
            **self._identity,
            "why": why.value,
            "side": side.name.lower(),
            "detail": detail,
            "statements": self._total_statements,
            "refused": self._total_refused,
            "unrecorded": self._total_unrecorded,
            "rows": self._total_rows,
            "received_bytes": self._total_received,
            "sent_bytes": self._total_sent,
            "duration_ms": (self._monotonic_ns() - self.started_ns) / 1e6,
        }
        with suppress(AuditDown):  # the ledger counts what it had to drop
            self._turn.append(EventType.SESSION_END, members(fields))
        if self._client is not None and self._client.transport is not None:
            self._client.transport.close()
        if not self._outgoing:
            self._leave_server()
        self._on_end(self)
        # The relay and the transports refer to the session: a TLS transport has large buffers, which must not wait for the collector.
        self._write_client = _write_nowhere
        self.relay = None


def _write_nowhere(data: bytes) -> None:
    """In place of a connection that is not there yet."""


def _throttle(link: Link | None, is_full: bool) -> None:  # noqa: FBT001 - the callbacks' argument
    """Stop reading from the peer whose bytes the other one does not take fast enough."""
    if link is not None:
        (link.pause if is_full else link.resume)(Pause.PRESSURE)
