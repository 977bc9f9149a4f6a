"""How the proxy's processes talk: typed messages in frames over unix sockets.

    ┌───────────────┬──────────────────────────────────┐
    │ length u32 BE │ {"is":"Hello","slot":1, …}        │   one JSON object, as long as it says
    └───────────────┴──────────────────────────────────┘

    supervisor ══ a socket pair for each child: orders, readiness, news
    worker     ── one connection to the control process: admission, figures, sessions, heads of the chain; orders back

Every message is a frozen dataclass below, and this module is all there is to know of the language. The first message of a worker is
its Hello with the version; a side that gets anything malformed, unknown, too long or out of place closes the connection: what is
not understood is not guessed at. Both ends are the same program started at once, so there is one version and no negotiation.
Not here: who may connect (peer credentials, controller.py), what the messages do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import struct
import typing
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import orjson

from dbproxy.errors import DbproxyError
from dbproxy.figures import Snapshot
from dbproxy.sessions_view import SessionInfo

VERSION = 4
"""Changes with every change of a message. The ends must have the same."""
MAX_FRAME_BYTES = 4 << 20
"""A longer frame was not made by us: whoever lists many things sends them in several messages."""
MAX_WAITING_BYTES = 32 << 20
"""What may wait for a peer that does not read. Beyond it the connection is given up: it would be kept in memory without end."""
_HEADER = struct.Struct("!I")


class BadFrameError(DbproxyError):
    """Bytes that are no message. The text says what is wrong with them, never what they contain."""


# ---- supervisor and its children ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """Child: it does its work from now on."""


@dataclass(frozen=True, slots=True)
class CannotStart:
    """Child: it ends, and why; text is for the operator."""

    text: str


@dataclass(frozen=True, slots=True)
class Ping:
    """To a child: answer with Pong as soon as the event loop comes to it."""


@dataclass(frozen=True, slots=True)
class Pong:
    """Child: its event loop turns."""


@dataclass(frozen=True, slots=True)
class Noted:
    """Control: it has on the disk what happened, up to the Happened of this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Drain:
    """To a child: take nothing new, let what runs come to its end. A worker ends then; control goes on until Finish.

    is_gentle: another worker takes its place: who is logging in may, and sessions may stay for as long as a drain lasts.
    """

    reason: str
    is_gentle: bool


@dataclass(frozen=True, slots=True)
class Finish:
    """To control: all workers have ended; close the ledger and end."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """To control: read policies, users and certificates again (SIGHUP)."""

    trigger: str


@dataclass(frozen=True, slots=True)
class Rotate:
    """To a child: end the segment of its chain, and begin the next (SIGUSR1)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One process of the proxy as the supervisor sees it. state: of operations.ProcessState; pid 0 while there is none."""

    role: str
    slot: int
    pid: int
    state: str
    started_at_ns: int
    restarts: int


@dataclass(frozen=True, slots=True)
class Team:
    """To control: all processes, whenever one changes. Only those named here may say Hello."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Happened:
    """To control, to be recorded and answered with Noted. number: of the supervisor's, growing.

    kind: started, crashed or ended. status: exit status, negative for a signal. reason: why the supervisor ended it, or what it said; "" if nothing is known.
    restart_in_s: negative if nobody takes its place.
    """

    number: int
    kind: str
    role: str
    slot: int
    pid: int
    trigger: str
    status: int
    reason: str
    restart_in_s: float
    at_ns: int


# ---- worker and control: who is there -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """One connection that counts for the caps. person: "" until it has logged in."""

    number: int
    address: str
    person: str


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker: first message of a connection."""

    version: int
    slot: int
    pid: int


@dataclass(frozen=True, slots=True)
class Claims:
    """Worker: connections it has, told after Hello, so that control counts right after a restart of its own."""

    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Worker: that was all. in_force: the digest of the policies and users it works with, "" if it has none yet."""

    in_force: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """Control: the answer to Enrolled. in_force: what is to be worked with."""

    version: int
    in_force: str


# ---- worker asks control --------------------------------------------------------------------------------------------


class Ask(StrEnum):
    """What a worker asks about."""

    ENTER = "enter"
    """A connection was accepted: is there room? Answer "" or why not."""
    TAKE = "take"
    """A person has logged in: is there room for one more session? Answer "" or why not."""
    THROTTLED = "throttled"
    """Are logins of this name from this address refused? Answer "", "first" or "again"."""
    PROVE = "prove"
    """As THROTTLED, and a proof begins, which Proved ends; waits while proofs under way could reach the limit."""
    HEARD = "heard"
    """Has all arrived that was said before? Answer ""."""


@dataclass(frozen=True, slots=True)
class Question:
    """Answered by an Answer of the same number. claim: 0 where it is not about one."""

    number: int
    ask: Ask
    claim: int
    address: str
    person: str


@dataclass(frozen=True, slots=True)
class Answer:
    number: int
    word: str


@dataclass(frozen=True, slots=True)
class Proved:
    """How a proof ended. was_begun: it was asked for with PROVE. Told before Enrolled, if it ended while control was away."""

    address: str
    person: str
    is_right: bool
    was_begun: bool


@dataclass(frozen=True, slots=True)
class Left:
    """The connection is over."""

    claim: int


@dataclass(frozen=True, slots=True)
class FindKey:
    """A cancel request whose key this worker does not know. Answered by Cancelled."""

    number: int
    address: str
    process_id: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of a cancel request, from its session's worker or from control. session: "" if no worker knows the key."""

    number: int
    result: str
    session: str


@dataclass(frozen=True, slots=True)
class Heads:
    """Where the worker's chain stands: number and hash of its last record on the disk, the file it is in, and totals."""

    seq: int
    hash: str
    segment: str
    records: int
    statements: int
    sessions: int


@dataclass(frozen=True, slots=True)
class CatalogueWanted:
    """The catalogue of a database is wanted. why: open, a first session there; ddl, definitions may have changed; miss, a name is not in it."""

    target: str
    database: str
    why: str


# ---- control asks a worker ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CancelHere:
    """Cancel what runs in the session with this key, if it is here. Answered by Cancelled."""

    number: int
    process_id: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Report:
    """Answered by Figures."""

    number: int


@dataclass(frozen=True, slots=True)
class Figures:
    """number 0: nobody asked, it is pushed."""

    number: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class ListSessions:
    """Answered by one Sessions or more. session: only this one; "" for all."""

    number: int
    session: str


@dataclass(frozen=True, slots=True)
class Sessions:
    number: int
    sessions: tuple[SessionInfo, ...]
    is_last: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """End a session if it is here. Answered by Killed."""

    number: int
    session: str
    message: str


@dataclass(frozen=True, slots=True)
class Killed:
    """sessions: the one that was ended, as it was; empty if it is not here. is_over: its connections are closed."""

    number: int
    sessions: tuple[SessionInfo, ...]
    is_over: bool


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Read what is in force, and the certificates, again. Answered by TakenOver."""

    number: int
    in_force: str
    trigger: str


@dataclass(frozen=True, slots=True)
class TakenOver:
    """in_force: what the worker works with now. problems: what it could not use, one sentence each."""

    number: int
    in_force: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The worker's chain is signed up to seq."""

    seq: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Statements must be refused, and why; "": they run again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The catalogue of a database was read, or could not be. sha256: of its content; file: where it is, "" if it was never read; problem: why it could not be read this time."""

    target: str
    database: str
    sha256: str
    file: str
    problem: str


Message = (
    Ready | CannotStart | Ping | Pong | Noted | Drain | Finish | ReadAgain | Rotate | Team | Happened
    | Hello | Claims | Enrolled | Welcome
    | Question | Answer | Proved | Left | FindKey | Cancelled | Heads
    | CancelHere | Report | Figures | ListSessions | Sessions | Kill | Killed | TakeOver | TakenOver | Checkpointed | Refuse
    | CatalogueWanted | Catalogue
)  # fmt: skip
FROM_CHILD = (Ready, CannotStart, Pong, Noted)
FROM_SUPERVISOR = (Ping, Drain, Finish, ReadAgain, Rotate, Team, Happened)
FROM_WORKER = (
    Hello, Claims, Enrolled, Question, Proved, Left, FindKey, Cancelled, Heads, Figures, Sessions, Killed, TakenOver,
    CatalogueWanted,
)  # fmt: skip
FROM_CONTROL = (
    Welcome, Answer, Cancelled, CancelHere, Report, ListSessions, Kill, TakeOver, Checkpointed, Refuse, Catalogue,
)  # fmt: skip
"""What each side may say; anything else closes the connection."""

_TYPES: dict[str, type[Message]] = {each.__name__: each for each in typing.get_args(Message)}


# ---- encoding -------------------------------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """One frame. Raises BadFrameError if it would be too long."""
    body = orjson.dumps({"is": type(message).__name__, **_plain_fields(message)})
    if len(body) > MAX_FRAME_BYTES:
        raise BadFrameError(f"a {type(message).__name__} of {len(body)} bytes is too long")
    return _HEADER.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """The message in a frame without its header. Raises BadFrameError unless it is one, exactly."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadFrameError("not JSON") from None
    if not isinstance(value, dict):
        raise BadFrameError("not an object")
    name = value.pop("is", None)
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise BadFrameError("a message of no known type")
    return cast("Message", _read_fields(kind, value))


class Frames:
    """Cuts a stream into frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are complete with these bytes. Raises BadFrameError when one is announced that is too long."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(buffer)
            if length > MAX_FRAME_BYTES:
                raise BadFrameError("a frame that is too long")
            end = _HEADER.size + length
            if len(buffer) < end:
                return
            body = bytes(memoryview(buffer)[_HEADER.size : end])
            del buffer[:end]
            yield body


def _plain_fields(value: Any) -> dict[str, Any]:
    return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, str):
        # Bytes that are no UTF-8 travel as the marks that Python has put in their place (surrogates), spelled out.
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return _plain_fields(value) if dataclasses.is_dataclass(value) else value


@functools.cache
def _readers(kind: type) -> dict[str, Any]:
    """The type of each field, annotations resolved."""
    hints = typing.get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


def _read_fields(kind: type, value: dict[str, Any]) -> object:
    wanted = _readers(kind)
    if value.keys() != wanted.keys():
        raise BadFrameError(f"a {kind.__name__} with other fields")
    return kind(**{name: _read(hint, value[name]) for name, hint in wanted.items()})


def _read(hint: Any, value: Any) -> Any:
    """The value, if it is of that type. Exactly: True is no 1, and 1 is no 1.0 but where a float is meant."""
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list):
        arguments = typing.get_args(hint)
        if arguments[-1] is ...:
            return tuple(_read(arguments[0], each) for each in value)
        if len(arguments) == len(value):
            return tuple(_read(each, one) for each, one in zip(arguments, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        element = typing.get_args(hint)[1]
        return {key: _read(element, each) for key, each in value.items()}
    elif hint is bytes and isinstance(value, str):
        try:
            return b64decode(value, validate=True)
        except (Base64Error, ValueError):
            pass
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint in (int, str, bool):
        if type(value) is hint:
            return value
    elif isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError:
            pass
    elif dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _read_fields(cast("type", hint), value)
    raise BadFrameError("a field of another type")


# ---- a connection ---------------------------------------------------------------------------------------------------


class Channel(asyncio.Protocol):
    """One end of a connection.

    allowed: what the peer may say. on_message: called for each message, in order. on_lost: called once when the connection is
    gone, with a word why ("closed" if the peer went).
    """

    def __init__(
        self, allowed: tuple[type, ...], on_message: Callable[[Message], object], on_lost: Callable[[str], object]
    ) -> None:
        self._allowed = allowed
        self._on_message = on_message
        self._on_lost = on_lost
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._reason = "closed"
        self._closed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports do not derive from asyncio's

    def send(self, message: Message) -> bool:
        """Say something. False if nobody is there to hear it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > MAX_WAITING_BYTES:
            self.close("the peer does not read")
            return False
        transport.write(encode(message))
        return True

    def close(self, reason: str) -> None:
        """Drop the connection; on_lost gets the reason."""
        if self.is_open and self._transport is not None:
            self._reason = reason
            self._transport.abort()

    async def finish(self, timeout_s: float = 1.0) -> None:
        """Close once all that was said has left; on_lost is called then."""
        if self._transport is not None:
            self._transport.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), timeout_s)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                message = decode(body)
                if not isinstance(message, self._allowed):
                    raise BadFrameError(f"a {type(message).__name__} from the wrong side")
                self._on_message(message)
                if not self.is_open:
                    return
        except BadFrameError as error:
            self.close(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
        self._on_lost(self._reason)


class Pending:
    """Questions under way, each waiting for the answer of its number."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    def open(self) -> tuple[int, asyncio.Future[Any]]:
        """A number for a question, and the future of its answer."""
        self._next += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._next] = future
        number = self._next
        future.add_done_callback(lambda _: self._waiting.pop(number, None))
        return number, future

    def answer(self, number: int, value: object) -> None:
        """The answer came; nothing happens if nobody waits for it any more."""
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(value)

    def fail(self, reason: str) -> None:
        """The peer is gone: whoever waits gets a ConnectionResetError."""
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(ConnectionResetError(reason))
