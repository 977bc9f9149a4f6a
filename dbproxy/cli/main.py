"""The `dbproxy` command. A subcommand's module is imported only when it is asked for, so that each one starts fast.

A module gives either a function of its own name (one command) or `app` (a group of commands). Exit codes are the same everywhere: see EXIT.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import typer

from config.errors import ConfigError
from dbproxy.cli.exit import CANNOT
from dbproxy.errors import DbproxyError

COMMANDS = (
    "serve",
    "check",
    "demo",
    "init",
    "user",
    "policy",
    "classify",
    "catalogue",
    "session",
    "status",
    "reload",
    "audit",
    "state",
    "healthcheck",
    "schema",
    "version",
)
"""Subcommands in the order of --help; each is dbproxy/cli/NAME.py."""

HELP = "A proxy between people and their databases: judges every statement before the server sees it, and records it."
EXIT = "Exit codes: 0 done, or yes; 1 the answer is no (errors found, verification failed); 2 wrong usage, or it cannot be done. `dbproxy audit verify` has more."


def build(names: Sequence[str]) -> typer.Typer:
    """The command line with these subcommands."""
    root = typer.Typer(
        name="dbproxy",
        help=HELP,
        epilog=EXIT,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @root.callback()
    def dbproxy() -> None:
        pass

    for name in names:
        module = importlib.import_module(f"dbproxy.cli.{name}")
        command = getattr(module, name, None)
        if command is not None:
            root.command(name)(command)
        else:
            root.add_typer(module.app, name=name)
    return root


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. arguments: those of the process when not given."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    root = build([words[0]] if words and words[0] in COMMANDS else COMMANDS)
    try:
        root(args=words, prog_name="dbproxy")
    except (ConfigError, DbproxyError) as error:
        print(error, file=sys.stderr)
        sys.exit(CANNOT)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away; nothing more can be said to it
        sys.exit(CANNOT)
