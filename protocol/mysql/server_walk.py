"""The server's bytes: walked packet by packet, rows counted in runs, passed on in whole chunks.

What each packet means is for replies.py. When a chunk has been dealt with, the client's bytes go on if what they waited for has
come: this direction knows the client's walk, not the other way round. Counterpart: client_walk.py.
"""

from __future__ import annotations

from struct import Struct

from protocol.errors import MalformedMessage, MessageTooLarge, ProtocolError, UnexpectedMessage
from protocol.mysql import line as due
from protocol.mysql import replies as stages
from protocol.mysql.answers import parse_error
from protocol.mysql.client_walk import ClientWalk
from protocol.mysql.line import ASKING, CLIENT, FILE, PREPARING, SERVER, Line
from protocol.mysql.replies import Replies
from protocol.mysql.scan import scan_rows
from protocol.mysql.wire import EOF, ERR, MAX_PAYLOAD

_header = Struct("<I").unpack_from


class ServerWalk:
    """Takes chunks as they come. max_message_bytes: cap on packets that are kept whole, which rows are not."""

    __slots__ = ("_client", "_host", "_line", "_max_message", "_need", "_queue", "_replies", "_tail")

    def __init__(self, line: Line, replies: Replies, client: ClientWalk, *, max_message_bytes: int) -> None:
        self._line = line
        self._host = line.host
        self._queue = line.queue
        self._replies = replies
        self._client = client
        self._max_message = max_message_bytes
        self._tail = bytearray()
        self._need = 0

    def receive(self, data: bytes) -> None:
        if self._line.is_closed:
            return
        tail = self._tail
        if tail:
            tail += data
            if len(tail) < self._need:
                return
            data = bytes(tail)
            self._tail = bytearray()
        try:
            self._walk_packets(data)
        except ProtocolError as fault:
            self._line.fail(fault)

    def _walk_packets(self, data: bytes) -> None:
        """Count rows, follow the answers, pass everything on but the answer to the proxy's own question."""
        line = self._line
        replies = self._replies
        queue = self._queue
        position = span = 0
        end = len(data)
        self._need = 0
        if line.server_owed:
            position = min(line.server_owed, end)
            line.server_owed -= position
            line.received += position
        try:
            while line.ending is None or not line.is_at_boundary:
                head = queue[0] if queue else None
                if head is not None and replies.stage != stages.DEFINITIONS and not line.is_row_open:
                    if replies.stage == stages.FIRST and head.kind == due.ROWS:
                        replies.stage = stages.ROWS
                    if replies.stage == stages.ROWS and head.kind != due.ASK:
                        start = position
                        position, rows = scan_rows(data, position, end, head.sequence)
                        if rows:
                            line.rows += rows
                            line.received += position - start
                            head.sequence = (head.sequence + rows) & 0xFF
                if end - position < 4:
                    break
                (packed,) = _header(data, position)
                size = packed & 0xFFFFFF
                if not line.is_row_open:
                    if not size:
                        raise MalformedMessage(SERVER, "an empty packet")
                    if end - position == 4:
                        break
                following = position + size + 4
                if head is None:
                    if following > end and size <= 1024:
                        self._need = following - position
                        break
                    self._uninvited(data, position, following)
                    position = following
                    continue
                if head.kind == due.REFUSED or packed >> 24 != head.sequence:
                    raise UnexpectedMessage(SERVER, "packets out of order")
                is_row = line.is_row_open or (
                    replies.stage == stages.ROWS
                    and head.kind != due.ASK
                    and (data[position + 4] < EOF or (data[position + 4] == EOF and size == MAX_PAYLOAD))
                )
                if is_row:
                    # Incomplete, or of several packets: the proxy need not have all of a row before it passes it on.
                    head.sequence = (head.sequence + 1) & 0xFF
                    line.rows += not line.is_row_open
                    line.is_row_open = size == MAX_PAYLOAD
                    line.server_owed = max(following - end, 0)
                    line.received += min(following, end) - position
                    position = min(following, end)
                    continue
                if size == MAX_PAYLOAD:
                    raise MalformedMessage(SERVER, "a packet of impossible size")
                if following > end:
                    if size > self._max_message:
                        raise MessageTooLarge(SERVER, f"a packet of {size} bytes, the limit is {self._max_message}")
                    self._need = following - position
                    break
                head.sequence = (head.sequence + 1) & 0xFF
                line.received += following - position
                if head.kind == due.ASK:
                    if span < position:
                        self._host.send(CLIENT, data[span:position])
                    span = position = following
                    replies.packet(head, data, following - size, following)
                    if not queue:
                        self._client.release(ASKING)
                else:
                    replies.packet(head, data, position + 4, following)
                    position = following
                    if queue and queue[0].kind == due.REFUSED:
                        self._host.send(CLIENT, data[span:position])
                        span = position
                        line.answer_refused()
                if line.is_closed:
                    return
        except ProtocolError:
            if span < position:
                self._host.send(CLIENT, data[span:position])  # what came before the fault was as it should be
            raise
        if span < position:
            self._host.send(CLIENT, data if span == 0 and position == end else data[span:position])
        if line.ending is not None:
            if line.is_at_boundary:
                line.say_goodbye()
            return
        if position < end:
            self._tail = bytearray(data[position:])
        if line.waiting:
            self.go_on()

    def _uninvited(self, data: bytes, position: int, following: int) -> None:
        """A packet that answers nothing: the server's last words, or a breach of the protocol."""
        if following > len(data) or following - position < 7 or data[position + 4] != ERR:
            raise UnexpectedMessage(SERVER, "a packet that nobody asked for")
        parse_error(data, position + 4, following)
        self._line.is_leaving = True

    def go_on(self) -> None:
        """After the server's bytes were dealt with, or commands taken back: let the client's go on if what they waited for has come."""
        line = self._line
        if line.is_closed:
            return
        if line.waiting & FILE and (line.is_sending_file or not self._queue):
            self._client.release(FILE)
        if line.waiting & PREPARING and (line.last_prepared is None or line.last_prepared.id in line.prepared):
            self._client.release(PREPARING)
