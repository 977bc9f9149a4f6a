"""What the server owes: the queue of expected replies, and the names that they will change.

The client may send far ahead of the replies, and the server drops whatever follows an error up to the next Sync. A sync
group is what stands between two Syncs. What names stand for is in names.py.

    client:  Parse s  Bind s  Execute  Sync | Bind s  Execute  Sync
    group:   0        0       0        0    | 1       1        1
                                              ^ waits while the Parse of group 0 is unconfirmed: had something in group 0
                                                failed, `s` would still be the older text
"""

from __future__ import annotations

from collections import deque
from typing import Final

from protocol.contract import Refusal
from protocol.postgres.names import Names, Portal, Prepared

# What a queue entry stands for; the entry is (kind, statement id or 0, payload). A tuple as payload is (ord("S") or
# ord("P"), name): the name that is forgotten, by Close or because a Query destroys the unnamed statement.
PARSE: Final = 1
BIND: Final = 2
DESCRIBE: Final = 3
EXECUTE: Final = 4
CLOSE: Final = 5
SYNC: Final = 6
QUERY: Final = 7
FUNCTION: Final = 8
REFUSED_STEP: Final = 9
"""Our failing Parse in place of a refused extended message; payload: Refused."""
REFUSED_QUERY: Final = 10
"""Our failing Query in place of a refused Query or FunctionCall; payload: Refused."""
ASK: Final = 11
"""The proxy's own query."""
WHOLE: Final = 12
"""Bind, Execute and Sync of the unnamed portal that came in one piece, the commonest thing that drivers send.

The change of the unnamed portal is not pending in `portals` unless the entry is expanded: whoever asks for that portal
while there is such an entry has to wait, see is_portal_unsettled.
"""
WHOLE_DESCRIBED: Final = 13
"""The same with a Describe of the portal after the Bind. INVARIANT: no kind but these two is as high as WHOLE."""


class Refused:
    """A refusal on its way. forgets_unnamed: its substitute is a Query, which destroys the unnamed statement."""

    __slots__ = ("forgets_unnamed", "refusal")

    def __init__(self, refusal: Refusal, *, forgets_unnamed: bool) -> None:
        self.refusal = refusal
        self.forgets_unnamed = forgets_unnamed


Entry = tuple[int, int, Prepared | Portal | Refused | tuple[int, bytes] | None]


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
