"""What a PostgreSQL server itself says it ran: the oracle against which audit and refusals are checked.

Needs the settings LOG_SETTINGS. The text of each record is given back as the server got it (it indents continuation
lines by a tab when it writes them).
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LOG_SETTINGS = {
    "log_statement": "all",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_line_prefix": "%m|%p|%c|%d|",
    "log_min_messages": "info",
    "log_min_error_statement": "panic",  # an error's STATEMENT line would look like a statement that ran
    "log_error_verbosity": "default",
    "log_duration": "off",
}
# The prefix, then severity and two spaces. Database names with `|` or a newline would confuse it: tests use none.
_HEAD = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \w+\|(\d+)\|([^|]*)\|([^|]*)\|([A-Z0-9]+):  ", re.MULTILINE)
_EXECUTE = re.compile(r"(execute fetch from|execute) (.*?): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of the server's log. session: the server's own id of the connection (%c)."""

    pid: int
    session: str
    database: str
    severity: str
    text: str


@dataclass(frozen=True, slots=True)
class Logged:
    """One statement that the server began to run.

    how: `simple`, `execute` (extended protocol), `fetch` (Execute of a portal suspended before), `fastpath`.
    name: what the server calls the prepared statement or portal, `<unnamed>` for the unnamed; empty for simple and fastpath.
    """

    pid: int
    session: str
    database: str
    how: str
    name: str
    sql: str


class ServerLog:
    """The log of one server. Positions are only good for the same log."""

    def __init__(self, read: Callable[[int], tuple[str, int]], run: Callable[[str], object]) -> None:
        self._read = read
        self._run = run

    def mark(self) -> int:
        """The position after everything logged so far."""
        self._settle()
        return self._read(0)[1]

    def records(self, since: int = 0) -> list[LogRecord]:
        """Every record after the position since, in the server's order."""
        self._settle()
        text = self._read(since)[0]
        heads = list(_HEAD.finditer(text))
        ends = [head.start() for head in heads[1:]] + [len(text)]
        return [
            LogRecord(
                int(head[1]), head[2], head[3], head[4], text[head.end() : end].removesuffix("\n").replace("\n\t", "\n")
            )
            for head, end in zip(heads, ends, strict=True)
        ]

    def statements(self, since: int = 0, *, database: str | None = None, pid: int | None = None) -> list[Logged]:
        """Every statement that began to run after since, in order; of one database or one server process if asked."""
        found = []
        for record in self.records(since):
            if (
                record.severity != "LOG"
                or (database is not None and record.database != database)
                or pid not in (None, record.pid)
            ):
                continue
            parsed = _parse_statement(record.text)
            if parsed is not None and not parsed[2].startswith(_MARK):
                found.append(Logged(record.pid, record.session, record.database, *parsed))
        return found

    def _settle(self) -> None:
        """Wait until the log is complete up to now: a statement of our own has to be in it."""
        mark = f"{_MARK}{uuid.uuid4().hex} */ select 1"
        self._run(mark)
        deadline = time.monotonic() + 10
        while mark not in self._read(0)[0][-100_000:]:
            if time.monotonic() > deadline:
                raise AssertionError("the server's log does not show our own statement after 10 s")
            time.sleep(0.02)


_MARK = "/* server-log mark "


def _parse_statement(text: str) -> tuple[str, str, str] | None:
    if text.startswith("statement: "):
        return "simple", "", text.removeprefix("statement: ")
    if text.startswith("fastpath function call: "):
        return "fastpath", "", text.removeprefix("fastpath function call: ")
    match = _EXECUTE.fullmatch(text)
    if match:
        return ("execute" if match[1] == "execute" else "fetch"), match[2], match[3]
    return None


def file_reader(path: Callable[[], Path]) -> Callable[[int], tuple[str, int]]:
    """Read a log file from a byte position."""

    def read(since: int) -> tuple[str, int]:
        with path().open("rb") as file:
            file.seek(since)
            data = file.read()
        return data.decode(errors="replace"), since + len(data)

    return read
