"""`dbproxy policy check | explain`: mistakes in policies, and what a statement would meet. Neither needs a running proxy or a database."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from classifiers.effects import Kind, LexingState, NameCase, Report
from config.load import check_settings
from config.settings import BUILTIN, SHIPPED_POLICIES
from dbproxy.cli.exit import DONE, NO
from dbproxy.cli.options import (
    JsonOption,
    SettingsOption,
    count_problems,
    problem_fields,
    settings_path,
    write_json,
    write_problems,
)
from dbproxy.errors import DbproxyError
from dbproxy.policy.decide import decide
from dbproxy.policy.load import check_policy, load_policy
from dbproxy.policy.model import Action, Context, Decision, Mode, Policy

app = typer.Typer(help="Policies: check them for mistakes, explain what a statement would meet.", no_args_is_help=True)

FilesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Policy files, or builtin:NAME; those of the settings when not given.", show_default=False),
]
NEWEST_SERVER = 180000
"""The version of PostgreSQL to read a statement for, when it makes a difference."""

_COLOURS = {Action.ALLOW: "green", Action.ALERT: "yellow", Action.BLOCK: "red", Action.TERMINATE: "red"}


class PolicyCommandError(DbproxyError):
    """The question cannot be answered as it was put."""


@app.command()
def check(files: FilesArgument = None, settings: SettingsOption = None, json: JsonOption = False) -> None:
    """Report every problem of policy files as file:line:column. Exit codes: 0 usable, 1 errors found."""
    paths = _paths(files, settings)
    checked = check_policy(paths)
    if json:
        write_json(
            {
                "files": [str(path) for path in paths],
                "ok": checked.policy is not None,
                "sha256": checked.policy.sha256 if checked.policy else None,
                "rules": len(checked.policy.rules) if checked.policy else None,
                "unsafe": list(checked.policy.unsafe) if checked.policy else None,
                "problems": [problem_fields(problem) for problem in checked.problems],
            }
        )
    else:
        write_problems(checked.problems)
        counts = count_problems(checked.problems)
        if checked.policy is None:
            print(f"not usable ({counts})")
        else:
            unsafe = f", UNSAFE: {', '.join(checked.policy.unsafe)}" if checked.policy.unsafe else ""
            print(f"ok: {len(checked.policy.rules)} rules ({counts}), sha256 {checked.policy.sha256}{unsafe}")
    raise typer.Exit(NO if checked.policy is None else DONE)


@app.command()
def explain(
    files: FilesArgument = None,
    sql: Annotated[
        str | None,
        typer.Option(
            "--sql", help="The statement; - reads it from standard input. Without it: the rules.", show_default=False
        ),
    ] = None,
    dialect: Annotated[str, typer.Option(help="postgres or mysql.")] = "postgres",
    target: Annotated[str, typer.Option(help="The target's name.")] = "",
    env: Annotated[
        str | None, typer.Option(help="The target's env; that of the settings, else prod.", show_default=False)
    ] = None,
    database: Annotated[str, typer.Option(help="The database.")] = "",
    user: Annotated[str, typer.Option(help="The person.")] = "someone",
    group: Annotated[
        list[str] | None, typer.Option(help="A group of the person; may be repeated.", show_default=False)
    ] = None,
    account: Annotated[str, typer.Option(help="The account.")] = "",
    client: Annotated[str, typer.Option(help="The client's address.")] = "127.0.0.1",
    application: Annotated[str, typer.Option(help="application_name.")] = "",
    search_path: Annotated[
        str | None, typer.Option(help="Schemas, separated by commas; not known when not given.", show_default=False)
    ] = None,
    settings: SettingsOption = None,
    json: JsonOption = False,
) -> None:
    """Say what a statement would meet, and why; without --sql, list the rules. Exit codes: 0 it would run, 1 it would be refused."""
    policy = load_policy(_paths(files, settings)).policy
    if policy is None:  # load_policy raises instead
        raise typer.Exit(NO)
    if sql is None:
        _show_rules(policy, json=json)
        return
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        raise PolicyCommandError("--client must be an IP address") from None
    context = Context(
        target=target,
        env=env or _env_of(target, settings) or "prod",
        database=database,
        person=user,
        groups=tuple(group or ()),
        account=account,
        address=address,
        application=application,
        # In doubt about case, as a session is before the server has told: what is shown is the strictest reading.
        name_case=NameCase.WRITTEN if dialect == "postgres" else NameCase.UNKNOWN,
        search_path=None
        if search_path is None
        else tuple(part.strip() for part in search_path.split(",") if part.strip()),
    )
    report = _classify(dialect, sys.stdin.buffer.read() if sql == "-" else sql.encode())
    decision = decide(policy, report, context)
    if json:
        write_json({"decision": _decision_fields(decision), "report": _report_fields(report)})
    else:
        _show_decision(report, decision)
    raise typer.Exit(NO if decision.is_refused else DONE)


def _paths(files: list[str] | None, settings: Path | None) -> list[Path]:
    if files:
        return [
            SHIPPED_POLICIES / f"{name.removeprefix(BUILTIN)}.yaml" if name.startswith(BUILTIN) else Path(name)
            for name in files
        ]
    return list(check_settings(settings_path(settings)).require().policies.files)


def _env_of(target: str, settings: Path | None) -> str | None:
    path = settings_path(settings)
    loaded = check_settings(path).rough if target and path.exists() else None
    return next((each.env for each in loaded.targets if each.name == target), None) if loaded else None


def _classify(dialect: str, text: bytes) -> Report:
    # Imported here: it loads the SQL parser.
    from dbproxy.classifier.pool import classify_in_process

    return classify_in_process(dialect, text, LexingState(), NEWEST_SERVER)


def _show_rules(policy: Policy, *, json: bool) -> None:
    defaults = {
        "action": policy.default,
        "on_unparsable": policy.on_unparsable,
        "on_dynamic": policy.on_dynamic,
        "on_error": policy.on_error,
    }
    if json:
        rules = [
            {
                "name": rule.name,
                "action": rule.action,
                "mode": rule.mode,
                "severity": rule.severity,
                "message": rule.message,
            }
            for rule in policy.rules
        ]
        write_json({"sha256": policy.sha256, "defaults": defaults, "unsafe": list(policy.unsafe), "rules": rules})
        return
    table = Table("rule", "action", "mode", "severity", "message", box=None, pad_edge=False)
    for name, action in defaults.items():
        table.add_row(f"defaults.{name}", Text(action, _COLOURS[action]), "", "", "")
    for rule in policy.rules:
        colour = _COLOURS[rule.action] if rule.mode is Mode.ENFORCE else "dim"
        table.add_row(rule.name, Text(rule.action, colour), rule.mode, rule.severity, Text(rule.message))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"sha256 {policy.sha256}" + (f"\nUNSAFE: {', '.join(policy.unsafe)}" if policy.unsafe else ""))


def _show_decision(report: Report, decision: Decision) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(decision.action.upper(), f"bold {_COLOURS[decision.action]}"), Text(decision.message))
    for hit in decision.hits:
        shadow = " (shadow)" if hit.mode is Mode.SHADOW else ""
        console.print(Text(f"  {hit.rule}: {hit.action}{shadow}, {hit.severity}: {hit.matched}"))
    if not decision.hits:
        console.print("  no rule matches")
    console.print(
        Text(f"what it does: {report.command}" + (f" ({report.reason})" if report.reason else "")), style="dim"
    )
    for effect in report.effects:
        words = [
            str(effect.kind),
            *([f"{effect.mode} {effect.object}".strip()] if effect.object else []),
            *sorted(effect.flags),
        ]
        console.print(Text("  " + ", ".join(words)), style="dim")
    if report.functions:
        console.print(Text("  calls " + ", ".join(report.functions)), style="dim")


def _decision_fields(decision: Decision) -> dict[str, object]:
    return {
        "action": decision.action,
        "message": decision.message,
        "hits": [hit._asdict() for hit in decision.hits],
        "policy": decision.policy_sha256,
        "unsafe": list(decision.unsafe),
    }


def _report_fields(report: Report) -> dict[str, object]:
    return {
        "command": report.command,
        "statements": report.statements,
        "kinds": sorted(Kind(kind).value for kind in report.kinds),
        "flags": sorted(report.flags),
        "reads": list(report.reads),
        "writes": list(report.writes),
        "functions": list(report.functions),
        "reason": report.reason,
    }
