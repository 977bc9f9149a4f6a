"""What a protocol core and the rest of the proxy say to each other, true of every database.

A relay is one client/server pair after login, without I/O: bytes in, calls on its host out. The session is its host.
Login before that is a generator, see protocol/login.py. Nothing here does I/O, knows a clock or logs.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Final, Protocol


class Side(IntEnum):
    """The two peers of a session."""

    CLIENT = 0
    """The person's tool."""
    SERVER = 1
    """The database."""


class Act(IntEnum):
    """What the client asks with a statement."""

    QUERY = 0
    """Text that runs at once (PostgreSQL Query, MySQL COM_QUERY)."""
    PREPARE = 1
    """Text that is announced and runs later (Parse, COM_STMT_PREPARE)."""
    EXECUTE = 2
    """Announced text with its parameters (judged at Bind in PostgreSQL, at COM_STMT_EXECUTE in MySQL)."""
    RESUME = 3
    """More rows from something that was executed before."""
    CALL = 4
    """A function called by number, without SQL text (FunctionCall)."""


class Statement:
    """One thing a client asks to be run. Filled once by the relay, not changed afterwards.

    id: unique and rising within the connection.
    text: the exact bytes between the protocol's delimiters; None when the text behind a name is not known.
    name: the prepared handle or portal name, b"" if unnamed.
    portal: the name that the running statement gets, b"" if none; set by the relay before it is judged.
    parameters: raw bound values, None for SQL NULL; formats: one per parameter, 0 text and 1 binary;
    types: the protocol's type numbers as far as they are known, may be shorter than parameters, 0 is unknown.
    A mutable slotted class, because building a frozen one costs four times as much on the hot path.
    """

    __slots__ = ("act", "formats", "id", "name", "parameters", "portal", "text", "types")

    def __init__(
        self,
        id: int,  # noqa: A002 - the field's name everywhere else too
        act: Act,
        text: bytes | None,
        name: bytes = b"",
        parameters: tuple[bytes | None, ...] = (),
        formats: tuple[int, ...] = (),
        types: tuple[int, ...] = (),
    ) -> None:
        self.id = id
        self.act = act
        self.text = text
        self.name = name
        self.parameters = parameters
        self.portal = b""
        self.formats = formats
        self.types = types


class Why(Enum):
    """Why a statement is refused or a session ended. Each protocol maps these to its own error codes."""

    BLOCKED = "blocked"
    """A policy rule, or text that cannot be vouched for."""
    LIMIT = "limit"
    """A row, byte or budget limit."""
    AUDIT_DOWN = "audit_down"
    """The audit trail cannot be written."""
    POLICY_ERROR = "policy_error"
    """The policy could not be evaluated."""
    CAPACITY = "capacity"
    """A cap on connections or sessions."""
    SHUTDOWN = "shutdown"
    """Drained, killed, or the person was disabled."""
    IDLE = "idle"
    """An idle or absolute session limit."""
    IDLE_IN_TRANSACTION = "idle_in_transaction"
    """Idle with a transaction open: others wait for what it locks."""
    TOO_LONG = "too_long"
    """A statement that ran longer than it may."""
    PROTOCOL = "protocol"
    """The peer broke the protocol."""
    TOO_LARGE = "too_large"
    """A statement or message above its cap."""
    LOGIN = "login"
    """Login refused."""
    UNKNOWN_PREPARED = "unknown_prepared"
    """Refused like BLOCKED, because nothing is known of the prepared statement; drivers prepare it again when they hear so."""
    UNKNOWN_CURSOR = "unknown_cursor"
    """Likewise, of the cursor or portal."""
    UNSUPPORTED = "unsupported"
    """A legal request that the proxy does not relay."""
    SERVER_LOST = "server_lost"
    """The database went away."""
    LEFT = "left"
    """The peer said goodbye; nothing is wrong."""


class Refusal:
    """What the client is told instead of running the statement.

    message: one sentence with rule name and request id; detail and hint: what matched, what to do next. May be "".
    """

    __slots__ = ("detail", "hint", "message", "why")

    def __init__(self, why: Why, message: str, detail: str = "", hint: str = "") -> None:
        self.why = why
        self.message = message
        self.detail = detail
        self.hint = hint


class Verdict:
    """The judge's answer. refusal None: forward the original bytes."""

    __slots__ = ("refusal",)

    def __init__(self, refusal: Refusal | None) -> None:
        self.refusal = refusal


FORWARD: Final = Verdict(None)


class Status(Enum):
    """How a statement ended."""

    OK = "ok"
    ERROR = "error"
    """The server refused or failed it."""
    SUSPENDED = "suspended"
    """Stopped after the row count the client asked for; a RESUME may follow."""
    SKIPPED = "skipped"
    """The server never ran it, because an earlier one in the same group failed."""
    BOUND_ONLY = "bound_only"
    """Planned, never executed."""
    REFUSED = "refused"
    """The proxy refused it; the server did not see it."""
    UNKNOWN = "unknown"
    """The connection ended before the server answered."""


class Outcome:
    """What came of a statement.

    rows: rows sent to the client, or for writes and COPY what the server reported, see tag.
    received_bytes: server→client message bytes of this statement; sent_bytes: COPY data from the client.
    tag: the server's own completion text ("SELECT 5"), several joined by "; " for multi-statement text.
    code: the server's error code if status is ERROR. transaction: as the server reports it right after this statement; None if it has
    not done so yet.
    """

    __slots__ = ("code", "received_bytes", "rows", "sent_bytes", "status", "tag", "transaction")

    def __init__(
        self,
        status: Status,
        rows: int = 0,
        received_bytes: int = 0,
        sent_bytes: int = 0,
        tag: bytes = b"",
        code: str = "",
        transaction: Transaction | None = None,
    ) -> None:
        self.status = status
        self.rows = rows
        self.received_bytes = received_bytes
        self.sent_bytes = sent_bytes
        self.tag = tag
        self.code = code
        self.transaction = transaction


class Transaction(Enum):
    """The server's transaction state as it reported it last."""

    IDLE = "idle"
    OPEN = "open"
    FAILED = "failed"


class Host(Protocol):
    """What a relay may ask of the world. Calls return at once. In tests the host is a recorder."""

    def send(self, side: Side, data: bytes) -> None:
        """Queue bytes for a peer. Bytes for the server leave only after this turn's audit records are written."""

    def judge(self, statement: Statement) -> Verdict | None:
        """Decide about a statement. None: held until Relay.resolve is called with the same id."""

    def finished(self, statement_id: int, outcome: Outcome) -> None:
        """The outcome of a judged statement; exactly once for each statement that judge saw."""

    def skipped(self, statement: Statement) -> None:
        """A statement dropped unjudged because an earlier one in its group was refused; nobody will run it."""

    def parameter(self, name: str, value: str) -> None:
        """The server confirmed a session parameter (PostgreSQL ParameterStatus, MySQL session tracking)."""

    def synced(self, transaction: Transaction) -> None:
        """The server is ready for the next command; nothing is in flight before this point."""

    def answered(self, value: str | None) -> None:
        """The answer to Relay.ask: its first field, None when the server could not answer."""

    def pause(self, *, on: bool) -> None:
        """Stop reading from the client: it sent more than may be kept while it is held; or go on."""

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call back in a later loop turn, so that others have theirs in between."""

    def close(self, side: Side, why: Why, detail: str) -> None:
        """The session must end; side is where the cause lies. The relay has sent what the client is to be told."""


class Relay(Protocol):
    """One client/server pair after login: bytes in, calls on its host out. Never raises but ProtocolError subclasses handled inside."""

    @property
    def is_busy(self) -> bool:
        """The server owes an answer; only then is there something to cancel."""

    @property
    def is_partial(self) -> bool:
        """The client has begun a message and not ended it."""

    def from_client(self, data: bytes) -> None: ...

    def from_server(self, data: bytes) -> None: ...

    def resolve(self, statement_id: int, verdict: Verdict) -> None:
        """Answer a held statement."""

    def end(self, refusal: Refusal) -> None:
        """Tell the client why and end the session at the next message boundary towards the client."""

    def ask(self, text: bytes) -> bool:
        """Run the proxy's own one-row query; its answer goes to Host.answered, client bytes wait meanwhile.

        Returns False, and asks nothing, unless the server is idle and not in a failed transaction.
        """

    def revoke(self, data: bytes, refusal: Refusal) -> bytes | None:
        """Take back what was to be sent to the server and has not been: data, all that was sent last. Its statements are refused.

        Returns what to send instead, so that the server's answers fit what is due; None if that cannot be: the session must end.
        """

    def rejudge(self) -> None:
        """Policy or session state changed: judgements made before do not hold for later executions."""

    def hold(self, *, on: bool) -> None:
        """Keep the client's bytes waiting (a cancel is under way), or let them go on."""

    def closed(self, side: Side) -> None:
        """A peer closed its connection."""
