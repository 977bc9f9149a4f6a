"""`dbproxy session list | show | kill`: who is connected through the running proxy."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from dbproxy.admin_client import AdminError
from dbproxy.audit.tail import clean
from dbproxy.cli.asking import SocketOption, ago, ask, cell, show, size, table
from dbproxy.cli.exit import NO
from dbproxy.cli.options import JsonOption, SettingsOption, write_json
from dbproxy.operations import REASON_MAX

app = typer.Typer(no_args_is_help=True, help="Who is connected: list, show, end.")

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The session, as `session list` and the audit trail name it.")
]
_NOT_FOUND = 404


@app.command("list")
def list_sessions(
    person: Annotated[str, typer.Option("--person", "-p", help="Only this person's.")] = "",
    target: Annotated[str, typer.Option("--target", "-t", help="Only at this target.")] = "",
    settings: SettingsOption = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """List the sessions of all workers, oldest first. Exit codes: 0 done; 2 the proxy does not answer."""
    sessions = [
        each
        for each in ask(socket, settings).get("/v1/sessions")["sessions"]
        if person in ("", each["person"]) and target in ("", each["target"])
    ]
    if json:
        write_json(sessions)
        return
    now = dt.datetime.now(dt.UTC)
    shown = table(
        "id", "person", "account", "target", "database", "client", "application", "state", "for", "idle", "statements",
        "rows", "received",
    )  # fmt: skip
    for each in sessions:
        idle = ago(each["last_active_at"], now) if each["state"] == "idle" else ""
        shown.add_row(
            *map(cell, (each["id"], each["person"], each["account"], each["target"], each["database"], each["client"])),
            cell(each["application"]),
            _state(each),
            *map(cell, (ago(each["started_at"], now), idle, each["statements"], each["rows"])),
            cell(size(each["received_bytes"])),
        )
    show(shown, f"{len(sessions)} session{'' if len(sessions) == 1 else 's'}")


@app.command("show")
def show_session(
    session: IdArgument, settings: SettingsOption = None, socket: SocketOption = None, json: JsonOption = False
) -> None:
    """Show one session. Exit codes: 0 done; 1 there is no such session; 2 the proxy does not answer.

    What it ran is in the audit trail: dbproxy audit tail --session ID
    """
    try:
        found = ask(socket, settings).get(_path(session))
    except AdminError as error:
        raise _no(error) from error
    if json:
        write_json(found)
        return
    _show_fields(found)


@app.command("kill")
def kill(
    session: IdArgument,
    reason: Annotated[
        str, typer.Option("--reason", "-r", help=f"Why, in at most {REASON_MAX} characters. The person is told.")
    ],
    settings: SettingsOption = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """End a session at once, whatever it runs. Recorded in the audit trail with your name and the reason.

    The person sees "ended by an operator" and the reason. An open transaction is rolled back by the server; what the server had
    begun may go on there until it notices. Exit codes: 0 it is over; 1 there is no such session; 2 it could not be done.
    """
    try:
        ended = ask(socket, settings).post(f"{_path(session)}/kill", {"reason": reason})["ended"]
    except AdminError as error:
        raise _no(error) from error
    if json:
        write_json(ended)
        return
    told = f"ended {ended['id']} of {ended['person']} from {ended['client']}"
    if ended["transaction"] != "idle":
        told += "; its transaction was open"
    show(Text(clean(told, 300)))


def _path(session: str) -> str:
    return f"/v1/sessions/{quote(session, safe='')}"


def _no(error: AdminError) -> typer.Exit | AdminError:
    """There is none: that is an answer. Anything else is not."""
    if error.status != _NOT_FOUND:
        return error
    typer.echo(str(error), err=True)
    return typer.Exit(NO)


def _state(session: dict[str, Any]) -> Text:
    transaction = {"idle": "", "open": " in transaction", "failed": " in failed transaction"}[session["transaction"]]
    return Text(session["state"] + transaction, style="" if session["state"] == "idle" else "bold")


def _show_fields(session: dict[str, Any]) -> None:
    shown = table("", "")
    shown.show_header = False
    for name, value in session.items():
        shown.add_row(name.replace("_", " "), cell(size(value) if name.endswith("_bytes") else value))
    show(shown)
