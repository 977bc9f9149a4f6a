"""`dbproxy state backup`: what lasts besides the audit trail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbproxy.cli.options import SettingsOption, settings_path, state_directory
from dbproxy.store.sqlite import back_up

app = typer.Typer(no_args_is_help=True, help="What must outlast a restart, besides the audit ledger.")


@app.callback()
def _state() -> None:
    """A group, though it has one command so far."""


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the copy; must not exist.")],
    settings: SettingsOption = None,
) -> None:
    """Copy the state as it is at this moment, while the proxy runs or not. To restore, stop the proxy and put it in place of state.db."""
    size = back_up(state_directory(settings_path(settings)), file)
    print(f"{file}: {size} bytes")
