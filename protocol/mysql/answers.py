"""The server's OK, EOF, ERR and PREPARE_OK payloads, decoded. Layouts depend on the capabilities that both ends agreed on.

    OK   00 affected(lenenc) insert_id(lenenc) status(2) warnings(2) info [session state]
    EOF  FE warnings(2) status(2)              with DEPRECATE_EOF: FE and the rest of an OK
    ERR  FF number(2) '#' sqlstate(5) text     PREPARE_OK  00 id(4) columns(2) parameters(2) 00 warnings(2) [metadata follows]

Which of them is due is for replies.py.
"""

from __future__ import annotations

from protocol.contract import Side
from protocol.errors import MalformedMessage
from protocol.mysql.wire import MAX_EOF_BYTES, UINT16, UINT32, Capability, Status, read_length, read_text

SERVER = Side.SERVER

_SYSTEM_VARIABLES = 0
_SCHEMA = 1
_DEPRECATE_EOF = int(Capability.DEPRECATE_EOF)
_SESSION_TRACK = int(Capability.SESSION_TRACK)
_STATE_CHANGED = int(Status.SESSION_STATE_CHANGED)


class Ok:
    """An OK or EOF packet. affected, info: zero and empty in an EOF. changes: (name, value) of tracked session variables;
    the default database has the name "database".
    """

    __slots__ = ("affected", "changes", "info", "status", "warnings")

    def __init__(
        self,
        status: int,
        warnings: int,
        affected: int = 0,
        info: bytes = b"",
        changes: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.status = status
        self.warnings = warnings
        self.affected = affected
        self.info = info
        self.changes = changes


def parse_ok(data: bytes, position: int, end: int, capabilities: int) -> Ok:
    """The OK payload data[position:end], whose first byte is 00, or FE where EOF is deprecated. Raises MalformedMessage."""
    affected, position = read_length(data, position + 1, end, SERVER)
    _, position = read_length(data, position, end, SERVER)
    if end - position < 4:
        raise MalformedMessage(SERVER, "OK packet is too short")
    (status,) = UINT16.unpack_from(data, position)
    (warnings,) = UINT16.unpack_from(data, position + 2)
    position += 4
    if position == end:
        return Ok(status, warnings, affected)
    if not capabilities & _SESSION_TRACK:
        return Ok(status, warnings, affected, data[position:end])
    info, position = read_text(data, position, end, SERVER)
    changes: tuple[tuple[str, str], ...] = ()
    if status & _STATE_CHANGED:
        state, position = read_text(data, position, end, SERVER)
        changes = parse_session_state(state)
    return Ok(status, warnings, affected, info, changes)


def parse_session_state(state: bytes) -> tuple[tuple[str, str], ...]:
    """Tracked variables and the default database; other trackers (GTIDs, transactions) are passed over."""
    changes: list[tuple[str, str]] = []
    position, end = 0, len(state)
    while position < end:
        kind = state[position]
        entry, position = read_text(state, position + 1, end, SERVER)
        if kind == _SYSTEM_VARIABLES:
            at = 0
            while at < len(entry):
                name, at = read_text(entry, at, len(entry), SERVER)
                value, at = read_text(entry, at, len(entry), SERVER)
                changes.append((name.decode("utf-8", "replace").lower(), value.decode("utf-8", "surrogateescape")))
        elif kind == _SCHEMA:
            name, _ = read_text(entry, 0, len(entry), SERVER)
            changes.append(("database", name.decode("utf-8", "surrogateescape")))
    return tuple(changes)


def is_end(data: bytes, position: int, size: int, capabilities: int) -> bool:
    """Whether the packet with this payload, whose first byte is FE, ends a run of rows or definitions."""
    if capabilities & _DEPRECATE_EOF:
        return size < 0xFFFFFF
    return size < MAX_EOF_BYTES


def parse_end(data: bytes, position: int, end: int, capabilities: int) -> Ok:
    """What ends rows or definitions: an EOF packet, or an OK packet with the first byte FE where EOF is deprecated."""
    if capabilities & _DEPRECATE_EOF:
        return parse_ok(data, position, end, capabilities)
    if end - position != 5:
        raise MalformedMessage(SERVER, "EOF packet of impossible size")
    (warnings,) = UINT16.unpack_from(data, position + 1)
    (status,) = UINT16.unpack_from(data, position + 3)
    return Ok(status, warnings)


def parse_error(data: bytes, position: int, end: int) -> tuple[int, str, str]:
    """(number, SQLSTATE, text) of the ERR payload data[position:end]. Before PROTOCOL_41 applies there is no SQLSTATE: ""."""
    if end - position < 3:
        raise MalformedMessage(SERVER, "ERR packet is too short")
    (number,) = UINT16.unpack_from(data, position + 1)
    if data[position + 3 : position + 4] == b"#" and end - position >= 9:
        state = data[position + 4 : position + 9].decode("ascii", "replace")
        return number, state, data[position + 9 : end].decode("utf-8", "replace")
    return number, "", data[position + 3 : end].decode("utf-8", "replace")


def parse_prepared(data: bytes, position: int, end: int) -> tuple[int, int, int, bool]:
    """(statement id, columns, parameters, whether their definitions follow) of a PREPARE_OK payload. Raises MalformedMessage."""
    if end - position < 10:
        raise MalformedMessage(SERVER, "answer to a prepare is too short")
    (statement_id,) = UINT32.unpack_from(data, position + 1)
    (columns,) = UINT16.unpack_from(data, position + 5)
    (parameters,) = UINT16.unpack_from(data, position + 7)
    follows = end - position < 13 or data[position + 12] != 0
    return statement_id, columns, parameters, follows
