"""The client's bytes: walked command by command, passed on as spans of the original bytes, held while something is awaited.

What each command means, and whether it may pass, is for requests.py. Counterpart: server_walk.py.
"""

from __future__ import annotations

from struct import Struct

from protocol.contract import Why
from protocol.errors import MalformedMessage, MessageTooLarge, ProtocolError, UnexpectedMessage
from protocol.mysql.commands import Command
from protocol.mysql.line import CLIENT, FILE, SERVER, TURN, Line
from protocol.mysql.requests import DROP, HOLD, PASS, REPLACE, STOP, Requests
from protocol.mysql.wire import MAX_PAYLOAD, packet

_header = Struct("<I").unpack_from

_SLICE_BYTES = 16_384
"""Of held bytes, walked in one loop turn: some 500 statements of the smallest kind."""
_TEXTS = (int(Command.QUERY), int(Command.STMT_PREPARE))
_LARGE = (*_TEXTS, int(Command.STMT_EXECUTE), int(Command.STMT_SEND_LONG_DATA), int(Command.STMT_BULK_EXECUTE))
_SMALL_BYTES = 65_536
"""Above this, only the commands that carry texts or values."""


class ClientWalk:
    """Takes chunks as they come.

    max_statement_bytes: cap on texts; max_message_bytes: on any other command; held_max_bytes: how much the client may send
    ahead while it is held.
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
        "_owed",
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
        self._owed = 0  # bytes of a file's packet still to come
        self._held = bytearray()
        self._is_paused = False
        self.is_walking = False  # the host is called from within the walk: an end has to wait until it is over

    @property
    def is_partial(self) -> bool:
        return bool(self._tail or self._owed)

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
            # A slice at a time, but enough to complete a command that was begun.
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
            self._walk_packets(data)
        except ProtocolError as fault:
            self._line.fail(fault)
        finally:
            self.is_walking = False

    def _walk_packets(self, data: bytes) -> None:
        """Walk whole commands, send what may pass, keep the rest. Hot path: one send per chunk when all of it passes."""
        line = self._line
        requests = self._requests
        position = span = 0
        end = len(data)
        self._need = 0
        if self._owed:
            position = min(self._owed, end)
            self._owed -= position
        try:
            while end - position >= 4:
                if line.is_sending_file:
                    position = self._file(data, position, end)
                    if line.waiting or self._owed:
                        break
                    continue
                (head,) = _header(data, position)
                size = head & 0xFFFFFF
                following = position + size + 4
                if head >> 24:
                    raise UnexpectedMessage(CLIENT, "packets out of order")
                if following > end or size == MAX_PAYLOAD or size > self._max_statement:
                    chain = self._chain(data, position, end)
                    if chain is None:
                        break
                    payload, following, sequence = chain
                    done = requests.command(payload, 0, len(payload), sequence)
                elif size:
                    done = requests.command(data, position + 4, following, 1)
                else:
                    raise MalformedMessage(CLIENT, "an empty command")
                if line.ending is not None:
                    if line.is_at_boundary:
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
                    break
                if done == STOP:
                    self._host.send(SERVER, packet(0, b"\x01"))
                    line.shut(CLIENT, Why.LEFT, "client said goodbye")
                    return
                position = span = following
                if done == REPLACE:
                    self._host.send(SERVER, requests.replacement)
                elif done == DROP:
                    line.answer_refused()
                if line.waiting or line.is_closed:
                    break
        except ProtocolError:
            if span < position:
                self._host.send(SERVER, data[span:position])  # what came before the fault was judged, and runs
            raise
        if span < position:
            self._host.send(SERVER, data if span == 0 and position == end else data[span:position])
        if position < end and not line.is_closed:
            if line.waiting:
                self._held = bytearray(data[position:]) + self._held
            else:
                self._tail = bytearray(data[position:])

    def _chain(self, data: bytes, position: int, end: int) -> tuple[bytes, int, int] | None:
        """A command of several packets, or one that is incomplete or large: (payload, where it ends, sequence of the answer).

        None: more bytes are needed. A payload of 2^24-1 bytes goes on in the next packet, which may be empty.
        """
        parts: list[bytes] = []
        at = position
        total = 0
        cap = self._max_message
        sequence = 0
        while True:
            if end - at < 4:
                self._need = at + 4 - position
                return None
            (head,) = _header(data, at)
            size = head & 0xFFFFFF
            if head >> 24 != sequence:
                raise UnexpectedMessage(CLIENT, "packets out of order")
            sequence = (sequence + 1) & 0xFF
            if at == position and end - at > 4:
                kind = data[at + 4]
                if kind in _TEXTS:
                    cap = self._max_statement
                elif kind not in _LARGE:
                    cap = min(cap, _SMALL_BYTES)
            total += size
            if total > cap:
                raise MessageTooLarge(CLIENT, f"a command of more than {cap} bytes")
            following = at + size + 4
            if following > end:
                self._need = following - position
                return None
            parts.append(data[at + 4 : following])
            if size < MAX_PAYLOAD:
                break
            at = following
        if not total:
            raise MalformedMessage(CLIENT, "an empty command")
        return parts[0] if len(parts) == 1 else b"".join(parts), following, sequence

    def _file(self, data: bytes, position: int, end: int) -> int:
        """Packets of a file that the server asked for; an empty one ends it. Returns the end of what passes."""
        line = self._line
        while end - position >= 4:
            (head,) = _header(data, position)
            size = head & 0xFFFFFF
            if head >> 24 != line.file_sequence:
                raise UnexpectedMessage(CLIENT, "packets out of order")
            line.file_sequence = (line.file_sequence + 1) & 0xFF
            position += 4
            if not size:
                line.is_sending_file = False
                line.waiting |= FILE
                line.queue[0].sequence = line.file_sequence
                break
            line.sent += size
            if position + size > end:
                self._owed = position + size - end
                return end
            position += size
        return position
