"""The names that SQL text gives to statements and cursors in one session, and what stands behind them.

Names that the protocol gives are the relay's; but PREPARE and Parse share one name space, as do DECLARE and Bind, and only the server
knows which came last. So a name is known here only while nothing else may have taken it; what is not known is refused when it is used.
"""

from __future__ import annotations

from dataclasses import replace

from classifiers.composition import remember
from classifiers.effects import Report

_MAX = 10_000
_NAME_BYTES = 63
"""The server compares no more of a name."""


class Names:
    """known: reports by "prepared:x" and "cursor:x"; read by the session directly, because most sessions never have one."""

    __slots__ = ("_announced", "known")

    def __init__(self) -> None:
        self.known: dict[str, Report] = {}
        self._announced: dict[int, str | None] = {}  # statements sent with Parse; the key that they will take

    def find(self, space: str, name: bytes) -> Report | None:
        """What stands behind a name. space: "prepared" or "cursor"."""
        return self.known.get(f"{space}:" + name.decode("utf-8", "surrogateescape"))

    def announce(self, statement_id: int, name: bytes) -> None:
        """Text is sent under this name: what SQL prepared under it is gone, if the announcement succeeds."""
        self._announced[statement_id] = self._forget("prepared:", name) if name else None

    def withdraw(self, statement_id: int) -> None:
        """The announcement was not sent after all."""
        self._announced.pop(statement_id, None)

    def announced(self, statement_id: int) -> None:
        """An announcement was answered: which of the two now stands behind its name is not known."""
        key = self._announced.pop(statement_id, None)
        if key is not None:
            self.known.pop(key, None)

    def bound(self, portal: bytes) -> None:
        """A Bind takes this name: a cursor that SQL declared under it before is gone, or the Bind fails."""
        self._forget("cursor:", portal)

    def sent(self, report: Report) -> None:
        """From the moment a text is forwarded, names that it may change stand for nothing that can be relied on."""
        if not self.known:
            return
        self.known = remember(replace(report, prepares=(), cursors=()), self.known)
        for name, _ in report.prepares:
            self.known.pop(f"prepared:{name}", None)
        for name, _ in report.cursors:
            self.known.pop(f"cursor:{name}", None)

    def succeeded(self, report: Report) -> None:
        """The server has run the text: its names are known."""
        if len(self.known) > _MAX:
            return
        self.known = remember(report, self.known)
        for key in self._announced.values():
            if key is not None:
                self.known.pop(key, None)

    def _forget(self, space: str, name: bytes) -> str:
        if not name.isascii():  # two spellings can be one name
            self.known = {key: known for key, known in self.known.items() if key.isascii()}
        key = space + name[:_NAME_BYTES].decode("utf-8", "surrogateescape")
        self.known.pop(key, None)
        return key
