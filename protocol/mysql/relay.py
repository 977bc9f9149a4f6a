"""One MySQL client/server pair after login: judges what the client asks, follows what the server answers.

    relay.py  ─→  server_walk.py  ─→  client_walk.py       where packets begin and end, what passes, what waits
                      │                   │
                  replies.py          requests.py          what each packet means
                      │  answers.py       │  commands.py, parameters.py
                      └─────  line.py  ───┘                the state both directions share, and the end

What is allowed stays one span of the original bytes; the commands that run something go to the host. A refused command never
reaches the server; the ERR packet that answers it waits for its turn. The relay never reads a clock, never waits, never logs.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.contract import Host, Refusal, Side, Transaction, Verdict, Why
from protocol.mysql.client_walk import ClientWalk
from protocol.mysql.line import CLIENT, FILE, HOST, JUDGING, Line
from protocol.mysql.replies import Replies
from protocol.mysql.requests import Requests
from protocol.mysql.revoke import revoke_commands
from protocol.mysql.server_walk import ServerWalk


def nobody(number: int) -> int | None:
    """No connection id is one of the client's own."""
    return None


class MySQLRelay:
    """See protocol.contract.Relay.

    max_statement_bytes: cap on texts; max_message_bytes: on any other command, and on packets of the server that are kept
    whole; held_max_bytes: how much the client may send ahead while it is held; max_prepared: prepared statements per session.
    own_session: see Requests.
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
        capabilities: int = 0,
        own_session: Callable[[int], int | None] = nobody,
    ) -> None:
        line = Line(host)
        line.capabilities = capabilities
        self._line = line
        self._requests = Requests(line, max_prepared=max_prepared, own_session=own_session)
        self._client = ClientWalk(
            line,
            self._requests,
            max_statement_bytes=max_statement_bytes,
            max_message_bytes=max_message_bytes,
            held_max_bytes=held_max_bytes,
        )
        self._replies = Replies(line)
        self._server = ServerWalk(line, self._replies, self._client, max_message_bytes=max_message_bytes)

    def agree(self, capabilities: int, own_session: Callable[[int], int | None]) -> None:
        """What the login has settled; called once, before the first byte."""
        self._line.capabilities = capabilities
        self._requests.own_session = own_session

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
        """See protocol.contract.Relay."""
        left = revoke_commands(self._line, data, refusal)
        if left is not None:
            self._server.go_on()
        return left

    def rejudge(self) -> None:
        """Every execution is judged when it comes: nothing is kept."""

    def hold(self, *, on: bool) -> None:
        if on:
            self._line.waiting |= HOST
        else:
            self._client.release(HOST)

    def ask(self, text: bytes) -> bool:
        """See protocol.contract.Relay. Asked later if the last answer has left something that the client may want to see."""
        line = self._line
        if line.is_closed or line.ending is not None or line.queue or line.waiting & ~FILE or line.is_sending_file:
            return False
        if self._client.is_partial:
            return False
        if line.has_diagnostics:
            self._requests.question = text
        else:
            self._requests.ask(text)
        return True

    def end(self, refusal: Refusal) -> None:
        line = self._line
        if line.is_closed:
            return
        line.ending = refusal
        if line.is_at_boundary and not self._client.is_walking:
            line.say_goodbye()

    def closed(self, side: Side) -> None:
        line = self._line
        if line.is_closed:
            return
        if line.ending is not None:  # a peer that was dropped because the boundary never came
            line.shut(side, line.ending.why, line.ending.message)
            return
        # Nothing is said about a lost server: programs know a lost connection by the number that their own library gives it, 2006 or 2013.
        line.shut(side, Why.LEFT if side is CLIENT else Why.SERVER_LOST, "connection closed")
