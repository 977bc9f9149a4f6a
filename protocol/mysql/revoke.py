"""Taking back what was judged and has not been sent: its statements are refused, and never reach the server.

The relay has walked these bytes and noted the answers that are due. As each command has an answer of its own, a statement is simply left
out and its place in the queue becomes a refusal; what is no statement (COM_PING, COM_STMT_CLOSE and the like) is sent.
"""

from __future__ import annotations

from protocol.contract import Refusal
from protocol.mysql import line as due
from protocol.mysql.commands import Command
from protocol.mysql.line import Line, Prepared, Refused
from protocol.mysql.wire import HEADER, MAX_PAYLOAD

_UNANSWERED = (int(Command.STMT_CLOSE), int(Command.STMT_SEND_LONG_DATA))


def revoke_commands(line: Line, data: bytes, refusal: Refusal) -> bytes | None:
    """What to send in place of data, the last bytes that the relay wanted to send. None if they cannot be taken back."""
    commands = _split(data)
    if line.is_closed or line.is_sending_file or commands is None:
        return None
    answers = [each for each in line.queue if each.kind != due.REFUSED]
    wanted = sum(kind not in _UNANSWERED for kind, _ in commands)
    if wanted > len(answers):
        return None
    last = answers[len(answers) - wanted :]
    if any(each.kind == due.RESULTS and isinstance(each.payload, Prepared) for each in last):
        return None  # the server has pieces of parameters that the client takes for used up
    left: list[bytes] = []
    at = 0
    for kind, command in commands:
        if kind in _UNANSWERED:
            left.append(command)
            continue
        answer = last[at]
        at += 1
        if not answer.statement_id:
            left.append(command)
            continue
        if answer.kind == due.PREPARED:
            line.preparing -= 1
            if line.last_prepared is answer.payload:
                line.last_prepared = None
        answer.kind = due.REFUSED
        answer.payload = Refused(refusal)
    for prepared in line.prepared.values():
        prepared.server_types = None  # whether the server has them is not known any more: they are sent again
    line.answer_refused()
    return b"".join(left)


def _split(data: bytes) -> list[tuple[int, bytes]] | None:
    """(command byte, its packets) of each; None if data are not whole commands."""
    commands: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        start = position
        sequence = 0
        while True:
            if position + 4 > len(data):
                return None
            (head,) = HEADER.unpack_from(data, position)
            size = head & 0xFFFFFF
            if head >> 24 != sequence & 0xFF or position + 4 + size > len(data) or (not size and not sequence):
                return None
            position += 4 + size
            sequence += 1
            if size < MAX_PAYLOAD:
                break
        commands.append((data[start + 4], data[start:position]))
    return commands
