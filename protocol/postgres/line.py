"""The line between one client and one server: what both directions must know of it, and how it ends.

The client's direction (client_walk.py, requests.py) and the server's (server_walk.py, replies.py) share nothing but this
object. It decodes no message and decides nothing; the replies that are due are in pipeline.py.
"""

from __future__ import annotations

from typing import Final

from protocol.contract import Host, Outcome, Refusal, Side, Statement, Status, Transaction, Why
from protocol.errors import MessageTooLarge, ProtocolError, UnsupportedFeature
from protocol.postgres import pipeline as due
from protocol.postgres.names import Portal
from protocol.postgres.pipeline import Pipeline
from protocol.postgres.wire import TERMINATE, refusal_error

CLIENT: Final = Side.CLIENT
SERVER: Final = Side.SERVER

# Why the client's bytes wait; a set of bits.
JUDGING: Final = 1
COPY: Final = 2
"""A statement that may start COPY IN was sent: whether a Sync behind it counts is only known from the answer."""
NAMES: Final = 4
"""The next message names something whose meaning depends on the fate of an earlier group."""
ASKING: Final = 8
HOST: Final = 16
TURN: Final = 32
"""More of what was held follows in the next loop turn: others must have theirs."""


class Line:
    """What both directions share. Fields are read and set by them directly: this is the hot path.

    is_closed: no more bytes pass. ending: the host's order to end, obeyed at the next boundary towards the client.
    client_owed, client_left: bytes of a CopyData message still to come, to be passed on and to be dropped.
    server_owed: bytes of a row still to come. waiting: why the client's bytes wait.
    judged: the held statement. is_group_open: the client sent extended messages and no Sync yet.
    ahead: the transaction state that directly follows the message at hand, if it is there already.
    rows, received, sent: of the answer at hand, as in Outcome; error_code: its error, "FATAL" once the server takes leave.
    is_copying: the server takes the client's CopyData; copies: how many COPY statements what was sent last may still
    start; is_sync_dropped: the last message that came during COPY was a Sync.
    """

    __slots__ = (
        "ahead",
        "client_left",
        "client_owed",
        "copies",
        "ending",
        "error_code",
        "host",
        "is_closed",
        "is_copying",
        "is_group_open",
        "is_skipping",
        "is_sync_dropped",
        "judged",
        "pipe",
        "queue",
        "received",
        "rows",
        "sent",
        "server_owed",
        "transaction",
        "waiting",
    )

    def __init__(self, host: Host) -> None:
        self.host = host
        self.pipe = Pipeline()
        self.queue = self.pipe.queue
        self.is_closed = False
        self.ending: Refusal | None = None
        self.client_owed = 0
        self.client_left = 0
        self.server_owed = 0
        self.waiting = 0
        self.is_skipping = False  # INVARIANT: true only between a failure and the client's next Sync
        self.is_group_open = False
        self.judged: Statement | None = None
        self.rows = 0
        self.received = 0
        self.sent = 0
        self.error_code = ""
        self.transaction = Transaction.IDLE
        self.ahead: Transaction | None = None
        self.is_copying = False
        self.copies = 0
        self.is_sync_dropped = False

    # Portals that end without an Execute, or with what ran them.

    def settle(self, portal: Portal, status: Status) -> None:
        if not portal.is_settled:
            portal.is_settled = True
            self.host.finished(portal.statement.id, Outcome(status))

    def settle_unstarted(self, portal: Portal) -> None:
        """The portal is gone: what was bound and never executed is settled with it."""
        if not portal.is_started:
            self.settle(portal, Status.BOUND_ONLY)

    def forget_portals(self) -> None:
        """The transaction is over: portals are gone (those not yet confirmed belong to a later group)."""
        confirmed = self.pipe.portals.confirmed
        if not confirmed:
            return
        for portal in confirmed.values():
            self.settle_unstarted(portal)
        confirmed.clear()

    # The end.

    def fail(self, fault: ProtocolError) -> None:
        """The bytes cannot be trusted any more: tell the client, end both sides."""
        if self.is_closed:
            return
        why = Why.PROTOCOL
        if isinstance(fault, MessageTooLarge):
            why = Why.TOO_LARGE
        elif isinstance(fault, UnsupportedFeature):
            why = Why.UNSUPPORTED
        if not self.server_owed:
            told = Refusal(why, f"dbproxy: {fault.detail}", hint="The session is closed.")
            self.host.send(CLIENT, refusal_error(told, fatal=True))
        self.shut(fault.side, why, fault.detail)

    def say_goodbye(self) -> None:
        """Obey the order to end; the client is at a message boundary."""
        refusal = self.ending
        if refusal is None:
            return
        self.host.send(CLIENT, refusal_error(refusal, fatal=True))
        if not self.client_owed:
            self.host.send(SERVER, TERMINATE)
        self.shut(SERVER, refusal.why, refusal.message)

    def shut(self, side: Side, why: Why, detail: str) -> None:
        """No more bytes pass. Every judged statement without an answer gets its outcome."""
        self.is_closed = True
        seen: set[int] = set()
        for kind, statement_id, payload in self.queue:
            if not statement_id or statement_id in seen:
                continue
            seen.add(statement_id)
            if isinstance(payload, Portal) and payload.statement.id == statement_id:
                if payload.is_settled:
                    continue
                payload.is_settled = True
            refused = kind in (due.REFUSED_STEP, due.REFUSED_QUERY)
            rows, received = (self.rows, self.received) if len(seen) == 1 else (0, 0)
            status = Status.REFUSED if refused else Status.UNKNOWN
            self.host.finished(statement_id, Outcome(status, rows, received, self.sent))
        self.queue.clear()
        for portal in self.pipe.portals.confirmed.values():
            self.settle_unstarted(portal)
        if self.judged is not None:
            self.host.finished(self.judged.id, Outcome(Status.SKIPPED))
        self.judged = None
        self.host.close(side, why, detail)
