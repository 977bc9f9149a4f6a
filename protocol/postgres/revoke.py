"""Taking back what was judged and has not been sent: the same messages, with every statement in them made to fail at the server.

The relay has walked these bytes and noted the replies that are due; the record of a statement in them turned out not to be on the disk. Each of its
messages is replaced with one that the server answers as it would answer that message if it failed, so that the reply queue stays as it is and the
transaction, the pipeline and the reply order are the server's own:

    Query, FunctionCall   →  Query of a text that cannot be analysed
    Parse, Bind, Execute  →  Parse "_dbproxy" of that text; the server then skips up to Sync

What is no statement (Describe, Close, Flush, Sync) passes. Counterpart: Replies.revoked, which puts the refusal's text in place of the server's error.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.errors import MalformedMessage
from protocol.postgres import pipeline as due
from protocol.postgres.messages import parse_target
from protocol.postgres.pipeline import Entry
from protocol.postgres.wire import HEADER, RESERVED_NAME, message

_REFUSED_TEXT = b'SELECT "dbproxy refused '
_KINDS = {
    80: (due.PARSE, due.REFUSED_STEP),
    66: (due.BIND,),
    68: (due.DESCRIBE,),
    69: (due.EXECUTE,),
    67: (due.CLOSE,),
    83: (due.SYNC,),
    81: (due.QUERY, due.REFUSED_QUERY),
    70: (due.FUNCTION,),
}
"""Which entry of the reply queue a message makes, by its type byte; Flush makes none."""
_FLUSH = 72
_STATEMENTS = (due.PARSE, due.BIND, due.EXECUTE, due.QUERY, due.FUNCTION)


def revoke_messages(data: bytes, queue: Sequence[Entry]) -> tuple[bytes, list[int]] | None:
    """What to send in place of data, and the ids of the statements in it.

    data: the last bytes that the relay wanted to send, none of which were; queue: the replies that are due, those for data at its end.
    Returns None if they do not match in every detail, or if there is COPY data among them, whose messages may have begun earlier.
    """
    messages = _split(data)
    if messages is None:
        return None
    sent: list[bytes] = []
    ids: list[int] = []
    index = len(queue)
    inside = b""  # what is left of a WHOLE entry, from its end: E, perhaps D, B
    for number in range(len(messages) - 1, -1, -1):
        kind, body = messages[number]
        if kind == _FLUSH:
            sent.append(message(b"H", body))
            continue
        if inside:
            if kind == 68 and inside == b"DB":
                sent.append(message(b"D", body))
                inside = b"B"
                continue
            if kind != inside[0] or kind == 68:
                return None
            inside = (b"DB" if queue[index][0] == due.WHOLE_DESCRIBED else b"B") if kind == 69 else b""
            step = due.BIND
        else:
            index -= 1
            if index < 0:
                # The server failed before and skips up to a Sync: what it would skip has its outcome, and need not be sent.
                if any(each[0] == 83 for each in messages[: number + 1]):
                    return None
                break
            step = queue[index][0]
            if step >= due.WHOLE and kind == 83:
                inside = b"E"
                sent.append(message(b"S", body))
                continue
            if step not in _KINDS.get(kind, ()) or _is_ours(kind, body) != (
                step in (due.REFUSED_STEP, due.REFUSED_QUERY)
            ):
                return None
        if step not in _STATEMENTS:
            sent.append(message(bytes([kind]), body))
            continue
        statement_id = queue[index][1]
        ids.append(statement_id)
        text = b'%b%d"\0' % (_REFUSED_TEXT, statement_id)
        is_query = step in (due.QUERY, due.FUNCTION)
        sent.append(message(b"Q", text) if is_query else message(b"P", RESERVED_NAME + b"\0" + text + b"\0\0"))
    if inside:
        return None
    return b"".join(reversed(sent)), sorted(set(ids))


def _split(data: bytes) -> list[tuple[int, bytes]] | None:
    """Type and body of each message, if data is made of whole messages of the kinds above, and those that pass have the form they must have."""
    messages: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        if len(data) - position < 5:
            return None
        kind, size = HEADER.unpack_from(data, position)
        body = data[position + 5 : position + 1 + size]
        if size < 4 or len(body) != size - 4:
            return None
        position += size + 1
        if kind in (_FLUSH, 83):
            if body:
                return None
        elif kind in (67, 68):
            try:
                parse_target(body)
            except MalformedMessage:
                return None
        elif kind not in _KINDS:
            return None
        messages.append((kind, body))
    return messages


def _is_ours(kind: int, body: bytes) -> bool:
    """Whether this is what the relay itself put in place of a refused message."""
    if kind == 80:
        return body.startswith(RESERVED_NAME + b"\0")
    return kind == 81 and body.startswith(_REFUSED_TEXT)
