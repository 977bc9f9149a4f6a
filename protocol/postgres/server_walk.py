"""The server's bytes: walked message by message, rows counted in runs, passed on in whole chunks.

What each message means is for replies.py. When a chunk has been dealt with, the client's bytes go on if what they waited for has
come: this direction knows the client's walk, not the other way round. Counterpart: client_walk.py.
"""

from __future__ import annotations

from typing import Final

from protocol.contract import Transaction
from protocol.errors import MalformedMessage, MessageTooLarge, ProtocolError
from protocol.postgres import pipeline as due
from protocol.postgres.client_walk import ClientWalk
from protocol.postgres.line import ASKING, CLIENT, COPY, JUDGING, NAMES, SERVER, Line
from protocol.postgres.replies import Replies
from protocol.postgres.rows import parse_first_field
from protocol.postgres.scan import COPY_DATA, DATA_ROW, read_header, scan_rows
from protocol.postgres.whole import settle_whole
from protocol.postgres.wire import READY, TRANSACTIONS

_ROWS: Final = (DATA_ROW, COPY_DATA)


def _transaction_at(data: bytes, position: int, end: int) -> Transaction | None:
    """What a ReadyForQuery at position says, None if there is none."""
    if position + 6 > end or data[position : position + 5] != READY:
        return None
    return TRANSACTIONS.get(data[position + 5])


class ServerWalk:
    """Takes chunks as they come. max_message_bytes: cap on messages that are kept whole, which rows are not."""

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
            self._walk_messages(data)
        except ProtocolError as fault:
            self._line.fail(fault)

    def _walk_messages(self, data: bytes) -> None:
        """Count rows, follow the replies, pass everything on; only the answer to a refusal is replaced."""
        line = self._line
        replies = self._replies
        position = span = mark = 0
        end = len(data)
        self._need = 0
        queue = self._queue
        if line.server_owed:
            position = min(line.server_owed, end)
            line.server_owed -= position
            if line.ending is not None and not line.server_owed:
                self._host.send(CLIENT, data[:position])
                line.say_goodbye()
                return
        while True:
            start = position
            rows = 0
            if position < end and data[position] in _ROWS:
                position, rows = scan_rows(data, position, end, data[position])
            if rows:
                replies.rows(data, start, position, rows)
                if line.waiting & ASKING:
                    replies.answer = parse_first_field(data, start)
                    if span < start:
                        self._host.send(CLIENT, data[span:start])
                    span = position
            if end - position < 5:
                break
            kind, size = read_header(data, position)
            following = position + size + 1
            if size < 4:
                raise MalformedMessage(SERVER, "message length below 4")
            if following > end:
                if kind in (DATA_ROW, COPY_DATA) and not line.waiting & ASKING:
                    replies.rows(data, position, position, 1)
                    line.server_owed = following - end
                    position = end
                elif size > self._max_message:
                    raise MessageTooLarge(SERVER, f"message of {size} bytes, the limit is {self._max_message}")
                else:
                    self._need = size + 1
                break
            if queue and queue[0][0] >= due.WHOLE:
                answered = settle_whole(line, data, position, end) if kind == 50 else 0
                if answered:
                    position = mark = answered
                    if line.ending is not None:
                        break
                    continue
                if kind not in b"NAS":
                    line.pipe.expand()
            line.received += following - mark
            mark = following
            if kind in b"CEIs":
                line.ahead = _transaction_at(data, following, end)
            if line.waiting & ASKING and kind in b"123TCn":
                replacement: bytes | None = b""
            elif kind == 67:  # CommandComplete
                replies.completed(data[position + 5 : following - 1])
                replacement = None
            elif kind == 90:  # ReadyForQuery
                replacement = replies.ready(data[position + 5 : following])
                if replacement is not None:
                    self._client.release(ASKING)
            elif kind == 50:  # BindComplete
                replies.bound()
                replacement = None
            elif kind == 84:  # RowDescription
                replies.described()
                replacement = None
            else:
                replacement = replies.other(kind, data[position + 5 : following])
            if replacement is not None:
                if span < position:
                    self._host.send(CLIENT, data[span:position])
                if replacement:
                    self._host.send(CLIENT, replacement)
                span = following
            position = following
            if line.is_closed:
                return
            if line.ending is not None:
                break
        line.received += position - mark
        if span < position:
            self._host.send(CLIENT, data if span == 0 and position == end else data[span:position])
        if line.ending is not None:
            if not line.server_owed:
                line.say_goodbye()
            return
        if position < end:
            self._tail = bytearray(data[position:])
        if line.waiting:
            self._go_on()

    def _go_on(self) -> None:
        """After the server's bytes were dealt with: let the client's go on if what they waited for has come."""
        line = self._line
        waiting = line.waiting
        if line.is_closed:
            return
        client = self._client
        if waiting & JUDGING and line.is_skipping:
            client.release(JUDGING)  # the server will drop it: nobody needs to be asked any more
        if waiting & COPY:
            last = self._queue[-1] if self._queue else None
            if line.is_copying or not line.copies or last is None or last[0] not in (due.EXECUTE, due.QUERY):
                client.release(COPY)
        if line.waiting & NAMES and not line.is_closed:
            client.release(NAMES)
