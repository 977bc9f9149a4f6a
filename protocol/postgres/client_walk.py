"""The client's bytes: walked message by message, passed on as spans of the original bytes, held while something is awaited.

What each message means, and whether it may pass, is for requests.py. Counterpart: server_walk.py.
"""

from __future__ import annotations

from typing import Final

from protocol.contract import Why
from protocol.errors import MalformedMessage, MessageTooLarge, ProtocolError, UnexpectedMessage
from protocol.postgres import pipeline as due
from protocol.postgres.line import CLIENT, SERVER, TURN, Line
from protocol.postgres.requests import HOLD, PASS, REFUSE, STOP, Requests
from protocol.postgres.scan import COPY_DATA, read_header, scan_rows
from protocol.postgres.whole import join_whole
from protocol.postgres.wire import FLUSH, TERMINATE

_SLICE_BYTES: Final = 16_384
"""Of held bytes, walked in one loop turn: some 500 statements of the smallest kind."""

_UNSYNCED: Final = (due.PARSE, due.BIND, due.DESCRIBE, due.EXECUTE, due.CLOSE, due.REFUSED_STEP)


class ClientWalk:
    """Takes chunks as they come.

    max_statement_bytes: cap on Query and Parse; max_message_bytes: on any other message; held_max_bytes: how much the
    client may send ahead while it is held.
    """

    __slots__ = (
        "_held",
        "_held_max",
        "_host",
        "_is_paused",
        "_line",
        "_max_message",
        "_max_statement",
        "_need",
        "_requests",
        "_tail",
        "is_walking",
    )

    def __init__(
        self, line: Line, requests: Requests, *, max_statement_bytes: int, max_message_bytes: int, held_max_bytes: int
    ) -> None:
        self._line = line
        self._host = line.host
        self._requests = requests
        self._max_statement = max_statement_bytes
        self._max_message = max_message_bytes
        self._held_max = held_max_bytes
        self._tail = bytearray()
        self._need = 0
        self._held = bytearray()
        self._is_paused = False
        self.is_walking = False  # the host is called from within the walk: an end has to wait until it is over

    @property
    def is_partial(self) -> bool:
        return bool(self._tail or self._line.client_owed or self._line.client_left)

    def receive(self, data: bytes) -> None:
        line = self._line
        if line.is_closed or line.ending is not None:
            return
        if line.waiting:
            self._held += data
            if len(self._held) > self._held_max and not self._is_paused:
                self._is_paused = True
                self._host.pause(on=True)
            return
        tail = self._tail
        if tail:
            tail += data
            if len(tail) < self._need:
                return
            data = bytes(tail)
            self._tail = bytearray()
        self._walk(data)

    def release(self, reason: int) -> None:
        """A reason to wait is gone; go on with the held bytes if it was the last."""
        line = self._line
        line.waiting &= ~reason
        if line.waiting or line.is_closed:
            return
        if self._held:
            # A slice at a time, but enough to complete a message that was begun.
            size = max(_SLICE_BYTES, self._need - len(self._tail))
            share = bytes(self._tail + self._held[:size])
            del self._held[:size]
            self._tail = bytearray()
            self._walk(share)
            if self._held and not line.waiting and not line.is_closed:
                line.waiting |= TURN
                self._host.call_soon(self._next_slice)
        if self._is_paused and not self._held:
            self._is_paused = False
            self._host.pause(on=False)

    def _next_slice(self) -> None:
        self.release(TURN)

    def _walk(self, data: bytes) -> None:
        self.is_walking = True
        try:
            self._walk_messages(data)
        except ProtocolError as fault:
            self._line.fail(fault)
        finally:
            self.is_walking = False

    def _walk_messages(self, data: bytes) -> None:
        """Walk whole messages, send what may pass, keep the rest. Hot path: one send per chunk when all of it passes."""
        line = self._line
        requests = self._requests
        position = span = 0
        end = len(data)
        self._need = 0
        if line.client_owed or line.client_left:
            position, span = self._stream(end)
        try:
            while end - position >= 5:
                kind, size = read_header(data, position)
                following = position + size + 1
                if following > end or size < 4 or size > self._max_statement:
                    if not self._await_more(data, span, position, end, kind, size):
                        return
                    if following > end:
                        break
                if kind == 66:  # Bind
                    done = requests.bind(data[position + 5 : following])
                    if done == PASS:
                        following = join_whole(line, data, following)
                elif kind == 69:  # Execute
                    done = requests.execute(data[position + 5 : following])
                elif kind == 83:  # Sync
                    done = requests.sync(size)
                elif kind == 68:  # Describe
                    done = requests.describe(data[position + 5 : following])
                elif kind == COPY_DATA and line.is_copying and not line.is_skipping:
                    following, messages = scan_rows(data, position, end, COPY_DATA)
                    line.sent += following - position - 5 * messages
                    line.is_sync_dropped = False
                    done = PASS
                else:
                    done = requests.other(kind, data[position + 5 : following])
                if line.ending is not None:
                    if not line.server_owed:
                        line.say_goodbye()
                    return
                if done == PASS:
                    position = following
                    if line.waiting:
                        break
                    continue
                if span < position:
                    self._host.send(SERVER, data[span:position])
                    span = position
                if done == HOLD:
                    self._held = bytearray(data[position:]) + self._held
                    self._flush_ahead()
                    return
                if done == STOP:
                    self._host.send(SERVER, TERMINATE)
                    line.shut(CLIENT, Why.LEFT, "client said goodbye")
                    return
                if done == REFUSE:
                    requests.substitute()
                position = span = following
                if line.waiting:
                    break
        except ProtocolError:
            if span < position:
                self._host.send(SERVER, data[span:position])  # what came before the fault was judged, and runs
            raise
        if span < position:
            self._host.send(SERVER, data if span == 0 and position == end else data[span:position])
        if position < end:
            if line.waiting:
                self._held = bytearray(data[position:]) + self._held
            else:
                self._tail = bytearray(data[position:])
        if line.waiting:
            self._flush_ahead()

    def _await_more(self, data: bytes, span: int, position: int, end: int, kind: int, size: int) -> bool:
        """An incomplete or oversized message. False: everything of data is dealt with."""
        line = self._line
        if size < 4:
            raise MalformedMessage(CLIENT, "message length below 4")
        if kind == COPY_DATA:
            if position + size + 1 <= end:
                return True
            owed = position + size + 1 - end
            if line.is_copying and not line.is_skipping:
                self._host.send(SERVER, data[span:] if span else data)
                line.sent += size - 4
                line.is_sync_dropped = False
                line.client_owed = owed
            else:
                if span < position:
                    self._host.send(SERVER, data[span:position])
                line.client_left = owed
            return False
        cap = self._max_statement if kind in b"QP" else self._max_message
        if size > cap:
            raise MessageTooLarge(CLIENT, f"message of {size} bytes, the limit is {cap}")
        if kind not in b"QPBDECSHFXcf":
            raise UnexpectedMessage(CLIENT, "unknown message type")
        if position + size + 1 > end:
            self._need = size + 1
        return True

    def _stream(self, end: int) -> tuple[int, int]:
        """Pass on or drop the rest of a CopyData message. Returns (position, start of what is to be sent)."""
        line = self._line
        if line.client_left:
            taken = min(line.client_left, end)
            line.client_left -= taken
            return taken, taken
        taken = min(line.client_owed, end)
        line.client_owed -= taken
        return taken, 0

    def _flush_ahead(self) -> None:
        """Before a wait: make the server answer what it has, or the wait might never end."""
        queue = self._line.queue
        if queue and queue[-1][0] in _UNSYNCED:
            self._host.send(SERVER, FLUSH)
