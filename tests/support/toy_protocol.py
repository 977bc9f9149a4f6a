"""The smallest protocol that keeps the contract, to show that the contract is about relays and not about one of them.

Client: lines of text, one statement each. Server: `+tag` or `-code` per statement. A refused line is answered by the
relay itself, in its turn: it waits in the reply queue like the others.
"""

from __future__ import annotations

from collections import deque

from protocol.contract import FORWARD, Act, Host, Outcome, Refusal, Side, Statement, Status, Transaction, Verdict, Why

MAX_LINE = 1000


class ToyRelay:
    """See protocol.contract.Relay."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._next_id = 1
        self._client = b""
        self._server = b""
        self._queue: deque[tuple[int, Refusal | None]] = deque()
        self._held: Statement | None = None
        self._is_held_by_host = False
        self._is_asking = False
        self._is_closed = False

    @property
    def is_busy(self) -> bool:
        return bool(self._queue)

    @property
    def is_partial(self) -> bool:
        return bool(self._client) and self._held is None

    def from_client(self, data: bytes) -> None:
        if self._is_closed:
            return
        self._client += data
        self._go_on()

    def _go_on(self) -> None:
        while not (self._is_closed or self._held or self._is_held_by_host or self._is_asking):
            line, end, rest = self._client.partition(b"\n")
            if not end:
                if len(line) > MAX_LINE:
                    self._break(Side.CLIENT, Why.TOO_LARGE)
                return
            if b"\0" in line:
                self._break(Side.CLIENT, Why.PROTOCOL)
                return
            self._client = rest
            statement = Statement(self._next_id, Act.QUERY, line)
            self._next_id += 1
            verdict = self._host.judge(statement)
            if verdict is None:
                self._held = statement
            else:
                self._decided(statement, verdict)

    def _decided(self, statement: Statement, verdict: Verdict) -> None:
        if self._is_closed:
            self._host.finished(statement.id, Outcome(Status.SKIPPED))
            return
        self._queue.append((statement.id, verdict.refusal))
        if verdict is FORWARD:
            self._host.send(Side.SERVER, (statement.text or b"") + b"\n")
        self._answer_refused()

    def _answer_refused(self) -> None:
        while self._queue and (refusal := self._queue[0][1]) is not None:
            statement_id, _ = self._queue.popleft()
            self._host.send(Side.CLIENT, b"-" + refusal.message.encode() + b"\n")
            self._host.finished(statement_id, Outcome(Status.REFUSED))

    def from_server(self, data: bytes) -> None:
        if self._is_closed:
            return
        self._server += data
        while b"\n" in self._server and not self._is_closed:
            line, _, self._server = self._server.partition(b"\n")
            if line[:1] not in (b"+", b"-") or not (self._queue or self._is_asking):
                self._break(Side.SERVER, Why.PROTOCOL)
                return
            if self._is_asking:
                self._is_asking = False
                self._host.answered(line[1:].decode() if line[:1] == b"+" else None)
                self._go_on()
                continue
            statement_id, _ = self._queue.popleft()
            self._host.send(Side.CLIENT, line + b"\n")
            status = Status.OK if line[:1] == b"+" else Status.ERROR
            self._host.finished(statement_id, Outcome(status, tag=line[1:] if status is Status.OK else b""))
            self._host.synced(Transaction.IDLE)
            self._answer_refused()

    def resolve(self, statement_id: int, verdict: Verdict) -> None:
        held = self._held
        if held is not None and held.id == statement_id and not self._is_closed:
            self._held = None
            self._decided(held, verdict)
            self._go_on()

    def end(self, refusal: Refusal) -> None:
        if not self._is_closed:
            self._host.send(Side.CLIENT, b"-" + refusal.message.encode() + b"\n")
            self._shut(Side.SERVER, refusal.why)

    def ask(self, text: bytes) -> bool:
        if self._is_closed or self._queue or self._held or self._is_asking or self._is_held_by_host:
            return False
        self._is_asking = True
        self._host.send(Side.SERVER, text + b"\n")
        return True

    def rejudge(self) -> None:
        """Nothing is judged before it runs here."""

    def hold(self, *, on: bool) -> None:
        self._is_held_by_host = on
        self._go_on()

    def closed(self, side: Side) -> None:
        if not self._is_closed:
            if side is Side.SERVER:
                self._host.send(Side.CLIENT, b"-lost\n")
            self._shut(side, Why.LEFT if side is Side.CLIENT else Why.SERVER_LOST)

    def _break(self, side: Side, why: Why) -> None:
        self._host.send(Side.CLIENT, b"-broken\n")
        self._shut(side, why)

    def _shut(self, side: Side, why: Why) -> None:
        self._is_closed = True
        for statement_id, refusal in self._queue:
            self._host.finished(statement_id, Outcome(Status.REFUSED if refusal else Status.UNKNOWN))
        if self._held is not None:
            self._host.finished(self._held.id, Outcome(Status.SKIPPED))
        self._queue.clear()
        self._host.close(side, why, "")
