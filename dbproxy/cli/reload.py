"""`dbproxy reload`: have the running proxy read policies, users and certificates again, and see what came of it."""

from __future__ import annotations

import typer
from rich.text import Text

from dbproxy.cli.asking import SocketOption, ask, show
from dbproxy.cli.exit import DONE, NO
from dbproxy.cli.options import JsonOption, SettingsOption, write_json


def reload(
    settings: SettingsOption = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Read policies, users and certificates again, in all workers. Recorded in the audit trail with your name.

    Exit codes: 0 what the files say is in force; 1 something is invalid, and for that part the old stays in force; 2 it could not
    be done. The settings file itself takes effect at a start only.
    """
    found = ask(socket, settings).post("/v1/reload", {})
    problems = [str(each) for each in found["problems"]]
    if json:
        write_json(found)
    else:
        show(*(Text(each, style="red") for each in problems))
        show(f"policy {found['policy_sha256'][:12]} is in force")
    raise typer.Exit(NO if problems else DONE)
