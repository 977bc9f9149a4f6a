"""`dbproxy check`: everything that is wrong with a settings file and the files it names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from config.errors import ConfigError, Problem
from config.load import check_settings, load_users
from config.settings import Settings
from config.users import Users
from dbproxy.cli.exit import DONE, NO
from dbproxy.cli.options import JsonOption, count_problems, problem_fields, settings_path, write_json, write_problems
from dbproxy.policy.against import check_against
from dbproxy.policy.load import check_policy


def check(
    file: Annotated[
        Path | None, typer.Argument(help="Settings file; ./dbproxy.yaml when not given.", show_default=False)
    ] = None,
    json: JsonOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Take warnings for errors.")] = False,
) -> None:
    """Check the settings file, the users file and the policies, and report every problem as file:line:column."""
    path = settings_path(file)
    problems = find_problems(path)
    errors = [problem for problem in problems if not problem.is_warning]
    is_good = not problems if strict else not errors
    if json:
        write_json({"file": str(path), "ok": is_good, "problems": [problem_fields(problem) for problem in problems]})
    else:
        write_problems(problems)
        print(f"{path}: {'ok' if is_good else 'not usable'} ({count_problems(problems)})")
    raise typer.Exit(DONE if is_good else NO)


def find_problems(path: Path) -> tuple[Problem, ...]:
    """All problems of the settings file, its users file and its policies; settings first."""
    checked = check_settings(path)
    problems = list(checked.problems)
    if checked.rough is not None:
        policy = check_policy(checked.rough.policies.files)
        problems += policy.problems
        problems += sorted(check_against(policy, checked.rough, _users(checked.rough)))
    return tuple(problems)


def _users(settings: Settings) -> Users | None:
    try:
        return load_users(settings.users.file) if settings.users.file else None
    except ConfigError:
        return None  # check_settings has reported what is wrong with it
