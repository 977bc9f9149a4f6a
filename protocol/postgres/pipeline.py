"""What the server owes: the queue of expected replies, and the names of prepared statements and portals.

The client may send far ahead of the replies, and the server drops whatever follows an error up to the next Sync. So a
Parse or Close changes a name only once the server has confirmed it; until then the change is pending, and is forgotten
if the server skipped it. A sync group is what stands between two Syncs.

    client:  Parse s  Bind s  Execute  Sync | Bind s  Execute  Sync
    group:   0        0       0        0    | 1       1        1
                                              ^ waits while the Parse of group 0 is unconfirmed: had something in group 0
                                                failed, `s` would still be the older text
"""

from __future__ import annotations

import re
from collections import deque
from typing import Generic, TypeVar

from protocol.contract import Refusal, Statement

# What a queue entry stands for; the entry is (kind, statement id or 0, payload). A tuple as payload is (ord("S") or
# ord("P"), name): the name that is forgotten, by Close or because a Query destroys the unnamed statement.
PARSE = 1
BIND = 2
DESCRIBE = 3
EXECUTE = 4
CLOSE = 5
SYNC = 6
QUERY = 7
FUNCTION = 8
REFUSED_STEP = 9
"""Our failing Parse in place of a refused extended message; payload: Refused."""
REFUSED_QUERY = 10
"""Our failing Query in place of a refused Query or FunctionCall; payload: Refused."""
ASK = 11
"""The proxy's own query."""
WHOLE = 12
"""Bind, Execute and Sync of the unnamed portal that came in one piece, the commonest thing that drivers send.

The change of the unnamed portal is not pending in `portals` unless the entry is expanded: whoever asks for that portal
while there is such an entry has to wait, see is_portal_unsettled.
"""
WHOLE_DESCRIBED = 13
"""The same with a Describe of the portal after the Bind. INVARIANT: no kind but these two is as high as WHOLE."""

MAX_NAME_BYTES = 63
_FORGETTING = re.compile(rb"(?:\A|[;\r\n'\"$]|\*/)\s*(?:deallocate|discard)\b", re.ASCII)
"""One of the two commands where a statement can begin, also inside a body of code; a column of that name rarely stands so."""
_DEALLOCATE_ONE = re.compile(
    rb'\s*deallocate\s+(?:prepare\s+)?(?:(?!all\b)([a-z_][a-z0-9_$]*)|"([^"\0]+)")\s*;?\s*', re.IGNORECASE | re.ASCII
)
"""DEALLOCATE of a single name and nothing else; drivers send it to make room for another."""

Entry = tuple[int, int, "Prepared | Portal | Refused | tuple[int, bytes] | None"]
V = TypeVar("V")


class Prepared:
    """A prepared statement as the server knows it. types are filled from Parse, later from ParameterDescription."""

    __slots__ = ("may_copy", "may_forget", "name", "text", "types")

    def __init__(self, name: bytes, text: bytes, types: tuple[int, ...]) -> None:
        self.name = name
        self.text = text
        self.types = types
        lower = text.lower()
        self.may_copy = b"copy" in lower
        self.may_forget = may_forget_names(lower)


def may_forget_names(lower: bytes) -> bool:
    """Whether SQL text, in lower case, may make the server forget prepared names, which SQL's PREPARE can then give anew."""
    return (b"deallocate" in lower or b"discard" in lower) and _FORGETTING.search(lower) is not None


class Portal:
    """A bound statement. is_started: an Execute was sent; is_settled: its Bind's statement has its outcome.

    epoch: the relay's judgement epoch when the Bind was judged. prepared: None if the name was not known.
    group: the sync group of its Bind, for a WHOLE entry.
    """

    __slots__ = ("epoch", "group", "is_settled", "is_started", "may_copy", "may_forget", "name", "statement")

    def __init__(self, name: bytes, statement: Statement, epoch: int, prepared: Prepared | None) -> None:
        self.name = name
        self.statement = statement
        self.epoch = epoch
        self.group = 0
        self.may_copy = prepared is None or prepared.may_copy
        # What SQL prepared cannot forget names: PREPARE takes queries only. Names outside ASCII may be anything.
        self.may_forget = not statement.name.isascii() if prepared is None else prepared.may_forget
        self.is_started = False
        self.is_settled = False


class Refused:
    """A refusal on its way. forgets_unnamed: its substitute is a Query, which destroys the unnamed statement."""

    __slots__ = ("forgets_unnamed", "refusal")

    def __init__(self, refusal: Refusal, *, forgets_unnamed: bool) -> None:
        self.refusal = refusal
        self.forgets_unnamed = forgets_unnamed


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


class Pipeline:
    """The reply queue with the names it changes. Fields are read by the relay directly: this is the hot path."""

    __slots__ = ("group", "portals", "prepared", "queue")

    def __init__(self) -> None:
        self.queue: deque[Entry] = deque()
        self.prepared: Names[Prepared] = Names()
        self.portals: Names[Portal] = Names()
        self.group = 0

    def is_portal_unsettled(self, name: bytes) -> bool:
        """As Names.is_unsettled, with what WHOLE entries will do to the unnamed portal."""
        if self.portals.pending and self.portals.is_unsettled(name, self.group):
            return True
        return not name and any(entry[0] >= WHOLE for entry in self.queue) and b"" not in self.portals.pending

    def may_reach(self, lower: bytes) -> tuple[bool, bool]:
        """Whether SQL text with EXECUTE in it may run something that Parse prepared that copies, or forgets names."""
        if b"execute" not in lower:
            return False, False
        names = self.prepared
        known = [
            *names.confirmed.values(),
            *(value for changes in names.pending.values() for _, value in changes if value),
        ]
        return any(each.may_copy for each in known), any(each.may_forget for each in known)

    def expand(self) -> None:
        """Put the single steps in place of the WHOLE entry at the head: its answer is not the usual one, or not all there."""
        kind, statement_id, portal = self.queue.popleft()
        if isinstance(portal, Portal):
            self.portals.pending.setdefault(b"", []).insert(0, (portal.group, portal))
        self.queue.appendleft((SYNC, 0, None))
        self.queue.appendleft((EXECUTE, statement_id, portal))
        if kind == WHOLE_DESCRIBED:
            self.queue.appendleft((DESCRIBE, 0, None))
        self.queue.appendleft((BIND, statement_id, portal))

    def skip_group(self) -> list[Entry]:
        """The server failed: take out everything up to the next Sync, undo its name changes, return it in order."""
        queue = self.queue
        skipped: list[Entry] = []
        while queue and queue[0][0] != SYNC:
            if queue[0][0] >= WHOLE:
                self.expand()
            entry = queue.popleft()
            kind, _, payload = entry
            if kind == PARSE and isinstance(payload, Prepared):
                self.prepared.settle(payload.name, confirmed=False)
            elif kind == BIND and isinstance(payload, Portal):
                self.portals.settle(payload.name, confirmed=False)
            elif isinstance(payload, tuple):
                names: Names[Prepared] | Names[Portal] = self.prepared if payload[0] == 83 else self.portals
                names.settle(payload[1], confirmed=False)
            elif isinstance(payload, Refused) and payload.forgets_unnamed:
                self.prepared.settle(b"", confirmed=False)
            skipped.append(entry)
        return skipped
