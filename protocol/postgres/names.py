"""Names of prepared statements and portals, and what they will stand for once the server has answered.

A Parse, Bind or Close changes a name only once the server has confirmed it; until then the change is pending, and is
forgotten if the server skipped it. Which answer confirms what is for pipeline.py.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

from protocol.contract import Statement

MAX_NAME_BYTES: Final = 63
_FORGETTING: Final = re.compile(rb"(?:\A|[;\r\n'\"$]|\*/)\s*(?:deallocate|discard)\b", re.ASCII)
"""One of the two commands where a statement can begin, also inside a body of code; a column of that name rarely stands so."""
_DEALLOCATE_ONE: Final = re.compile(
    rb'\s*deallocate\s+(?:prepare\s+)?(?:(?!all\b)([a-z_][a-z0-9_$]*)|"([^"\0]+)")\s*;?\s*', re.IGNORECASE | re.ASCII
)
"""DEALLOCATE of a single name and nothing else; drivers send it to make room for another."""

V = TypeVar("V")


class Prepared:
    """A prepared statement as the server knows it. types are filled from Parse, later from ParameterDescription."""

    __slots__ = ("may_copy", "may_execute", "may_forget", "name", "text", "types")

    def __init__(self, name: bytes, text: bytes, types: tuple[int, ...]) -> None:
        self.name = name
        self.text = text
        self.types = types
        lower = text.lower()
        self.may_copy = b"copy" in lower
        self.may_forget = may_forget_names(lower)
        self.may_execute = b"execute" in lower  # SQL's EXECUTE runs what Parse prepared, COPY and DEALLOCATE too


def may_forget_names(lower: bytes) -> bool:
    """Whether SQL text, in lower case, may make the server forget prepared names, which SQL's PREPARE can then give anew."""
    return (b"deallocate" in lower or b"discard" in lower) and _FORGETTING.search(lower) is not None


class Portal:
    """A bound statement. is_started: an Execute was sent; is_settled: its Bind's statement has its outcome.

    epoch: the relay's judgement epoch when the Bind was judged. prepared: None if the name was not known.
    group: the sync group of its Bind, for a WHOLE entry.
    """

    __slots__ = (
        "epoch",
        "group",
        "is_settled",
        "is_started",
        "may_copy",
        "may_execute",
        "may_forget",
        "name",
        "statement",
    )

    def __init__(self, name: bytes, statement: Statement, epoch: int, prepared: Prepared | None) -> None:
        self.name = name
        self.statement = statement
        self.epoch = epoch
        self.group = 0
        self.may_copy = prepared is None or prepared.may_copy
        # What SQL prepared cannot forget names: PREPARE takes queries only. Names outside ASCII may be anything.
        self.may_forget = not statement.name.isascii() if prepared is None else prepared.may_forget
        self.may_execute = prepared is not None and prepared.may_execute
        self.is_started = False
        self.is_settled = False


class Names(Generic[V]):
    """Names with pending changes. INVARIANT: pending changes of one name are in the order of the reply queue.

    The server compares the first 63 bytes (NAMEDATALEN) of a name in its own encoding. So names are cut, and what a name
    with bytes outside ASCII stands for is never claimed to be known: two spellings can be one name.
    """

    __slots__ = ("confirmed", "pending")

    def __init__(self) -> None:
        self.confirmed: dict[bytes, V] = {}
        self.pending: dict[bytes, list[tuple[int, V | None]]] = {}

    def change(self, name: bytes, group: int, value: V | None) -> None:
        """A message was sent that gives the name this value (None: forgets it) if the server gets that far."""
        self.pending.setdefault(name[:MAX_NAME_BYTES], []).append((group, value))

    def find(self, name: bytes) -> V | None:
        """The value that a message sent now would meet, assuming nothing before it in its group fails."""
        if len(name) > MAX_NAME_BYTES:
            name = name[:MAX_NAME_BYTES]
        if not name.isascii():
            return None
        changes = self.pending.get(name)
        return changes[-1][1] if changes else self.confirmed.get(name)

    def is_unsettled(self, name: bytes, group: int) -> bool:
        """Whether the name's value depends on the fate of an earlier group."""
        changes = self.pending.get(name[:MAX_NAME_BYTES])
        return changes is not None and changes[-1][0] != group

    def forget(self, text: bytes) -> None:
        """SQL text that may forget names was sent: what they stand for is not known until they are given anew."""
        one = _DEALLOCATE_ONE.fullmatch(text)
        if one is not None:
            name = one[1].lower() if one[1] is not None else one[2]
            names = [name[:MAX_NAME_BYTES]]
        else:
            names = [*self.confirmed, *self.pending]
        for name in names:
            self.confirmed.pop(name, None)
            if name in self.pending:
                self.pending[name] = [(group, None) for group, _ in self.pending[name]]

    def settle(self, name: bytes, *, confirmed: bool) -> V | None:
        """The oldest pending change of the name took effect, or was skipped. Returns the value it replaced, if any."""
        name = name[:MAX_NAME_BYTES]
        changes = self.pending[name]
        value = changes.pop(0)[1]
        if not changes:
            del self.pending[name]
        if not confirmed:
            return None
        replaced = self.confirmed.pop(name, None)
        if value is not None:
            self.confirmed[name] = value
        return replaced
