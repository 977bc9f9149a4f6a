"""`dbproxy status`: the running proxy's processes, audit trail, policy and latest runs."""

from __future__ import annotations

import datetime as dt
from typing import Any

import typer
from rich.text import Text

from dbproxy.audit.tail import clean
from dbproxy.cli.asking import SocketOption, ago, ask, cell, show, table
from dbproxy.cli.exit import DONE, NO
from dbproxy.cli.options import JsonOption, SettingsOption, write_json

_ENDINGS_SHOWN = 5
_WARNING_MAX = 500


def status(settings: SettingsOption = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show how the running proxy is. Exit codes: 0 it is ready; 1 it is not; 2 it does not answer."""
    found = ask(socket, settings).get("/v1/status")
    if json:
        write_json(found)
    else:
        _show(found, dt.datetime.now(dt.UTC))
    raise typer.Exit(DONE if found["ready"] else NO)


def _show(found: dict[str, Any], now: dt.datetime) -> None:
    ready = (
        Text("ready", style="green") if found["ready"] else Text(f"not ready: {', '.join(found['problems'])}", "red")
    )
    show(
        Text.assemble("dbproxy ", cell(found["version"]), " for ", ago(found["started_at"], now), ": ", ready),
        Text.assemble("settings  ", cell(found["settings_file"])),
        Text.assemble("policy    ", found["policy_sha256"][:12]),
        Text.assemble("sessions  ", str(found["sessions"])),
        Text.assemble("audit     ", _audit(found["audit"], now)),
        *(Text.assemble("warning   ", (clean(each, _WARNING_MAX), "yellow")) for each in found["warnings"]),
        "",
    )
    processes = table("process", "slot", "pid", "state", "for", "restarts", "sessions", "version")
    for each in found["processes"]:
        cells = (each["role"], each["slot"], each["pid"] or "", each["state"], ago(each["started_at"], now))
        processes.add_row(*map(cell, (*cells, each["restarts"], each["sessions"], each["version"])))
    show(processes)
    endings = [each for each in found["runs"] or () if each["ending"] in ("crashed", "lost")][:_ENDINGS_SHOWN]
    if endings:
        crashes = table("ended by itself", "slot", "pid", "ago", "how", "")
        for each in endings:
            cells = (each["role"], each["slot"], each["pid"], ago(each["ended_at"], now), each["ending"])
            crashes.add_row(*map(cell, (*cells, each["detail"])))
        show("", crashes)


def _audit(audit: dict[str, Any], now: dt.datetime) -> Text:
    parts = [
        Text("writable") if audit["is_writable"] else Text(f"cannot be written: {audit['reason']}", style="red"),
        Text(f"durability {audit['durability']}"),
        Text(f"{audit['records']} records"),
    ]
    if not audit["is_signing"]:
        parts.append(Text("not signed"))
    elif audit["checkpoint_at"]:
        anchored = "anchored" if audit["is_anchored"] else "not anchored"
        parts.append(Text(f"checkpoint {audit['checkpoint']}, {ago(audit['checkpoint_at'], now)} ago, {anchored}"))
    elif audit["checkpoint"]:
        parts.append(Text(f"signed, checkpoint {audit['checkpoint']} is from before the start, the next one is due"))
    else:
        parts.append(Text("signed, the first checkpoint is due"))
    return Text(", ").join(parts)
