"""What several commands have in common: finding the settings file, and writing answers for people or for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.text import Text

from config.errors import Problem
from config.load import load_document
from config.settings import StateSettings
from dbproxy.errors import DbproxyError

SETTINGS_NAME = "dbproxy.yaml"
SETTINGS_VARIABLE = "DBPROXY_SETTINGS"

SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        "-s",
        help=f"Settings file; ${SETTINGS_VARIABLE} or ./{SETTINGS_NAME} when not given.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


def settings_path(given: Path | None) -> Path:
    """The settings file to use."""
    return given or Path(os.environ.get(SETTINGS_VARIABLE) or SETTINGS_NAME)


def state_directory(path: Path) -> Path:
    """The state directory that a settings file names, whatever else in it is wrong: the running proxy may have read an older one.

    Raises ConfigError if the file cannot be read, DbproxyError if this key is wrong.
    """
    value = load_document(path).root.plain()
    state = value.get("state") if isinstance(value, dict) else None
    directory = state.get("directory") if isinstance(state, dict) else None
    if (state is not None and not isinstance(state, dict)) or not isinstance(directory, str | None):
        raise DbproxyError(f"{path}: state.directory: must be a path")
    return path.resolve().parent / (Path(directory).expanduser() if directory else StateSettings().directory)


def write_json(value: object) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def write_problems(problems: Iterable[Problem]) -> None:
    """One line per problem, as compilers write them; coloured on a terminal."""
    console = Console(soft_wrap=True, highlight=False)
    for problem in problems:
        console.print(Text(str(problem), style="yellow" if problem.is_warning else "red"))


def count_problems(problems: Sequence[Problem]) -> str:
    """For example "1 error, 2 warnings"."""
    warnings = sum(problem.is_warning for problem in problems)
    counts = {"error": len(problems) - warnings, "warning": warnings}
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())


def problem_fields(problem: Problem) -> dict[str, object]:
    """A problem for JSON."""
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "key": problem.key,
        "text": problem.text,
        "severity": "warning" if problem.is_warning else "error",
    }
