"""The line between one client and one server: what both directions must know of it, and how it ends.

The client's direction (client_walk.py, requests.py) and the server's (server_walk.py, replies.py) share nothing but this
object. It decodes no packet and decides nothing.
"""

from __future__ import annotations

from collections import deque

from protocol.contract import Host, Outcome, Refusal, Side, Statement, Status, Transaction, Why
from protocol.errors import MessageTooLarge, ProtocolError, UnsupportedFeature
from protocol.mysql.commands import LongData
from protocol.mysql.wire import error, packet, refusal_error

CLIENT = Side.CLIENT
SERVER = Side.SERVER

# Why the client's bytes wait; a set of bits.
JUDGING = 1
PREPARING = 2
"""The next command concerns the statement prepared last, whose answer is not there yet."""
ASKING = 4
HOST = 8
TURN = 16
"""More of what was held follows in the next loop turn: others must have theirs."""
FILE = 32
"""The answer may be a request for a file, and then what follows is no command."""

# What an answer looks like; the kind of a queue entry.
PLAIN = 1
"""One OK or ERR packet."""
RESULTS = 2
"""Any number of result sets or OK packets, as of COM_QUERY and COM_STMT_EXECUTE."""
PREPARED = 3
"""PREPARE_OK with definitions, or ERR; payload: Prepared."""
ROWS = 4
"""Rows without a header, as of COM_STMT_FETCH."""
FIELDS = 5
"""Definitions without a header, as of COM_FIELD_LIST."""
TEXT = 6
"""One packet of text, as of COM_STATISTICS."""
END = 7
"""One EOF packet (or what stands for it) or ERR, as of COM_SET_OPTION."""
REFUSED = 8
"""Nothing is due from the server; payload: Refused."""
ASK = 9
"""The answer to the proxy's own query: as RESULTS, but not for the client."""


class Prepared:
    """A prepared statement. id: given by the server, -1 until then. count: its parameters. types: as the client bound them last.

    server_types: as the server was told last; after a refused execution it has older ones, or none.
    long_data: what COM_STMT_SEND_LONG_DATA gave, by index of the parameter. generation: see Line.
    """

    __slots__ = ("count", "generation", "id", "long_data", "server_types", "text", "types")

    def __init__(self, text: bytes, generation: int) -> None:
        self.id = -1
        self.text = text
        self.count = 0
        self.types: tuple[int, ...] | None = None
        self.server_types: tuple[int, ...] | None = None
        self.long_data: dict[int, LongData] = {}
        self.generation = generation


class Refused:
    """An answer that the relay gives itself, in its turn. refusal None: the number and text say it."""

    __slots__ = ("number", "refusal", "text")

    def __init__(self, refusal: Refusal | None, number: int = 0, text: str = "") -> None:
        self.refusal = refusal
        self.number = number
        self.text = text


class Due:
    """An answer that is due. sequence: of its next packet. statement_id: 0 if nobody judged what it answers.

    payload: as the kind says; with RESULTS the text of a query that may make the server ask for a file, or the prepared statement
    whose parameters were sent in pieces.
    """

    __slots__ = ("kind", "payload", "sequence", "statement_id")

    def __init__(self, kind: int, statement_id: int, sequence: int, payload: object = None) -> None:
        self.kind = kind
        self.statement_id = statement_id
        self.sequence = sequence
        self.payload = payload


class Line:
    """What both directions share. Fields are read and set by them directly: this is the hot path.

    capabilities: as both ends agreed. is_closed: no more bytes pass. ending: the host's order to end, obeyed at the next
    boundary towards the client. server_owed: bytes of a row's packet still to come; is_row_open: the row goes on in the next
    packet. waiting: why the client's bytes wait. preparing: prepares without an answer.
    judged: the held statement. prepared: by the server's id; last_prepared: None if there is none or its prepare failed.
    generation: rises when the server forgets all prepared statements.
    rows, received, sent: of the answer at hand, as in Outcome.
    is_sending_file: the client sends a file that the server asked for; file_sequence: of its next packet.
    has_diagnostics: the last answer left something that SHOW WARNINGS or ROW_COUNT() would show.
    is_leaving: the server has said why it ends the session.
    """

    __slots__ = (
        "capabilities",
        "ending",
        "file_sequence",
        "generation",
        "has_diagnostics",
        "host",
        "is_closed",
        "is_leaving",
        "is_row_open",
        "is_sending_file",
        "judged",
        "last_prepared",
        "prepared",
        "preparing",
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
        self.queue: deque[Due] = deque()
        self.capabilities = 0
        self.is_closed = False
        self.ending: Refusal | None = None
        self.server_owed = 0
        self.is_row_open = False
        self.preparing = 0
        self.waiting = 0
        self.judged: Statement | None = None
        self.prepared: dict[int, Prepared] = {}
        self.last_prepared: Prepared | None = None
        self.generation = 0
        self.rows = 0
        self.received = 0
        self.sent = 0
        self.is_sending_file = False
        self.file_sequence = 0
        self.has_diagnostics = False
        self.is_leaving = False
        self.transaction = Transaction.IDLE

    def forget_prepared(self) -> None:
        """The server is about to forget all prepared statements, also those whose answers are not there yet."""
        self.generation += 1
        self.prepared.clear()
        self.last_prepared = None

    @property
    def is_at_boundary(self) -> bool:
        """The client has had whole packets, and no part of a row."""
        return not self.server_owed and not self.is_row_open

    @property
    def next_sequence(self) -> int:
        """Of a packet that the client can take now. An idle client reads it as the answer to what it sends next."""
        head = self.queue[0] if self.queue else None
        return 1 if head is None or head.kind == ASK else head.sequence

    def answer_refused(self) -> None:
        """Give the answers whose turn has come."""
        queue = self.queue
        while queue and queue[0].kind == REFUSED and not self.is_closed:
            due = queue.popleft()
            refused = due.payload
            if isinstance(refused, Refused):
                if refused.refusal is not None:
                    told = refusal_error(due.sequence, refused.refusal)
                else:
                    told = error(due.sequence, refused.number, refused.text)
                self.has_diagnostics = False
                self.host.send(CLIENT, told)
            self.host.finished(due.statement_id, Outcome(Status.REFUSED))

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
        if self.is_at_boundary:
            told = Refusal(why, f"dbproxy: {fault.detail}", hint="The session is closed.")
            self.host.send(CLIENT, refusal_error(self.next_sequence, told))
        self.shut(fault.side, why, fault.detail)

    def say_goodbye(self) -> None:
        """Obey the order to end; the client is at a packet boundary."""
        refusal = self.ending
        if refusal is None:
            return
        self.host.send(CLIENT, refusal_error(self.next_sequence, refusal))
        if not self.is_sending_file:
            self.host.send(SERVER, packet(0, b"\x01"))
        self.shut(SERVER, refusal.why, refusal.message)

    def shut(self, side: Side, why: Why, detail: str) -> None:
        """No more bytes pass. Every judged statement without an answer gets its outcome."""
        self.is_closed = True
        is_first = True
        for due in self.queue:
            if due.statement_id:
                rows, received, sent = (self.rows, self.received, self.sent) if is_first else (0, 0, 0)
                status = Status.REFUSED if due.kind == REFUSED else Status.UNKNOWN
                self.host.finished(due.statement_id, Outcome(status, rows, received, sent))
            is_first = False
        self.queue.clear()
        if self.judged is not None:
            self.host.finished(self.judged.id, Outcome(Status.SKIPPED))
        self.judged = None
        self.host.close(side, why, detail)
