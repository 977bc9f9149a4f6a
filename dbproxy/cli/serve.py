"""`dbproxy serve`: run the proxy."""

from __future__ import annotations

import logging
import os
import sys

import typer

from dbproxy.cli.options import SettingsOption, settings_path
from dbproxy.siblings import ForeignPackageError, check_siblings


def serve(settings: SettingsOption = None) -> None:
    """Run the proxy until SIGTERM (drains first) or Ctrl+C. SIGHUP reads policies, users and certificates again."""
    try:
        check_siblings()
    except ForeignPackageError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    from dbproxy import app

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if os.geteuid() == 0:
        logging.getLogger("dbproxy").warning(
            "running as root: use an unprivileged account, nothing here needs more than its ports and files"
        )

    def say(lines: list[str]) -> None:
        for line in lines:
            print(f"dbproxy: {line}", file=sys.stderr)
        print("dbproxy: ready", file=sys.stderr, flush=True)

    raise typer.Exit(app.serve(settings_path(settings), say))
