"""One PostgreSQL client/server pair after login: judges what the client asks, follows what the server answers.

    relay.py  ─→  server_walk.py  ─→  client_walk.py       where messages begin and end, what passes, what waits
                      │     whole.py      │                Bind, Execute, Sync and their answer in one step
                  replies.py          requests.py          what each message means; revoke.py: taking it back
                      └─────  line.py  ───┘                the state both directions share, and the end
                        pipeline.py, names.py              the replies that are due, the names they settle

What is allowed stays one span of the original bytes; the statement-bearing messages go to the host. This file puts the parts
together and obeys the host. The relay never reads a clock, never waits, never logs.
Counterpart in the tests: tests/support/pg_model.py, a model of the server's message loop.
"""

from __future__ import annotations

from protocol.contract import Host, Refusal, Side, Transaction, Verdict, Why
from protocol.postgres import pipeline as due
from protocol.postgres.client_walk import ClientWalk
from protocol.postgres.line import ASKING, CLIENT, HOST, JUDGING, SERVER, Line
from protocol.postgres.replies import Replies
from protocol.postgres.requests import Requests
from protocol.postgres.revoke import revoke_messages
from protocol.postgres.server_walk import ServerWalk
from protocol.postgres.wire import RESERVED_NAME, SYNC, message, refusal_error


class PostgresRelay:
    """See protocol.contract.Relay.

    max_statement_bytes: cap on Query and Parse; max_message_bytes: on any other client message and on server messages
    that are kept whole; held_max_bytes: how much the client may send ahead while it is held; max_prepared: named
    statements per session. allow_copy_both: replication was allowed at login.
    """

    __slots__ = ("_client", "_line", "_replies", "_requests", "_server")

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
        line = Line(host)
        self._line = line
        self._requests = Requests(line, max_prepared=max_prepared)
        self._client = ClientWalk(
            line,
            self._requests,
            max_statement_bytes=max_statement_bytes,
            max_message_bytes=max_message_bytes,
            held_max_bytes=held_max_bytes,
        )
        self._replies = Replies(line, allow_copy_both=allow_copy_both)
        self._server = ServerWalk(line, self._replies, self._client, max_message_bytes=max_message_bytes)

    @property
    def is_busy(self) -> bool:
        """Whether the server owes an answer: only then may a cancel be passed on."""
        return bool(self._line.queue)

    @property
    def is_partial(self) -> bool:
        return self._client.is_partial

    @property
    def transaction(self) -> Transaction:
        """As the server reported it last."""
        return self._line.transaction

    def from_client(self, data: bytes) -> None:
        self._client.receive(data)

    def from_server(self, data: bytes) -> None:
        self._server.receive(data)

    def resolve(self, statement_id: int, verdict: Verdict) -> None:
        if not self._line.is_closed and self._requests.resolve(statement_id, verdict):
            self._client.release(JUDGING)

    def revoke(self, data: bytes, refusal: Refusal) -> bytes | None:
        line = self._line
        if line.is_closed or line.ending is not None or self._client.is_walking:
            return None
        found = revoke_messages(data, line.queue)
        if found is None:
            return None
        self._replies.revoked.update(dict.fromkeys(found[1], refusal))
        return found[0]

    def rejudge(self) -> None:
        self._requests.epoch += 1

    def hold(self, *, on: bool) -> None:
        if on:
            self._line.waiting |= HOST
        else:
            self._client.release(HOST)

    def ask(self, text: bytes) -> bool:
        line = self._line
        if line.is_closed or line.queue or line.waiting or line.is_copying or line.client_owed:
            return False
        if line.client_left or line.is_skipping or line.is_group_open or line.transaction is Transaction.FAILED:
            return False
        line.waiting |= ASKING
        self._replies.answer = None
        line.queue.append((due.ASK, 0, None))
        # Under names of our own: a simple Query would destroy the client's unnamed statement.
        close = message(b"C", b"S" + RESERVED_NAME + b"\0")
        bind = message(b"B", RESERVED_NAME + b"\0" + RESERVED_NAME + b"\0\0\0\0\0\0\0")
        execute = message(b"E", RESERVED_NAME + b"\0\0\0\0\0")
        parse = message(b"P", RESERVED_NAME + b"\0" + text + b"\0\0\0")
        done = message(b"C", b"P" + RESERVED_NAME + b"\0")
        line.host.send(SERVER, close + parse + bind + execute + done + close + SYNC)
        return True

    def end(self, refusal: Refusal) -> None:
        line = self._line
        if line.is_closed:
            return
        line.ending = refusal
        if not line.server_owed and not self._client.is_walking:
            line.say_goodbye()

    def closed(self, side: Side) -> None:
        line = self._line
        if line.is_closed:
            return
        if line.ending is not None:  # a peer that was dropped because the boundary never came
            line.shut(side, line.ending.why, line.ending.message)
            return
        if side is SERVER:
            lost = Refusal(Why.SERVER_LOST, "dbproxy: the connection to the database was lost")
            if not line.server_owed and line.error_code != "FATAL":
                line.host.send(CLIENT, refusal_error(lost, fatal=True))
        line.shut(side, Why.LEFT if side is CLIENT else Why.SERVER_LOST, "connection closed")
