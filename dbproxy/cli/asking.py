"""What the commands share that ask the running proxy: its socket, and showing its answers."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dbproxy.admin_client import AdminClient
from dbproxy.audit.tail import clean
from dbproxy.cli.options import settings_path, state_directory
from dbproxy.operations import ADMIN_SOCKET

SocketOption = Annotated[
    Path | None,
    typer.Option("--socket", help="The proxy's admin socket; from the settings when not given.", show_default=False),
]
_CELL_MAX = 60
_PIPE_WIDTH = 1000
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def ask(socket: Path | None, settings: Path | None) -> AdminClient:
    """The proxy that these settings belong to."""
    return AdminClient(socket or state_directory(settings_path(settings)) / ADMIN_SOCKET)


def cell(value: object) -> Text:
    """A value that somebody else chose, for a terminal."""
    return Text("" if value is None else clean(str(value), _CELL_MAX))


def table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def show(*shown: Table | Text | str) -> None:
    """Print; what goes into a pipe is not squeezed into a terminal's width."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    for each in shown:
        console.print(each)


def ago(time: str | None, now: dt.datetime) -> str:
    """How long since a time of the API, in its two largest units: "3d 4h". "" for no time."""
    if not time:
        return ""
    left = max(0, int((now - dt.datetime.fromisoformat(time)).total_seconds()))
    parts: list[str] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return " ".join(parts) or "0s"


def size(count: Any) -> str:
    """Bytes, short: "12.3 MB"."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
