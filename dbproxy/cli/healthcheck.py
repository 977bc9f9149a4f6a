"""`dbproxy healthcheck`: ask the running proxy whether it is of use. One line, exit 0 or 1; for container health checks."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Annotated

import orjson
import typer
from pydantic import ValidationError

from config.address import Address
from config.load import load_document
from config.settings import AdminSettings
from dbproxy.cli.exit import DONE, NO
from dbproxy.cli.options import SettingsOption, settings_path
from dbproxy.errors import DbproxyError

_MAX_ANSWER_BYTES = 65_536


def healthcheck(
    settings: SettingsOption = None,
    address: Annotated[
        str,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="The admin listener; from the settings when not given.",
            show_default=False,
        ),
    ] = "",
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, max=60, help="Seconds to wait for the answer.")
    ] = 3.0,
) -> None:
    """Ask the running proxy whether it is ready: 0 it is; 1 it is not, or does not answer. It is not while the audit cannot be written."""
    code, line = check(_parse(address) if address else find_address(settings_path(settings)), timeout_s)
    print(line)
    raise typer.Exit(code)


def find_address(path: Path) -> Address:
    """The admin listener's address in a settings file, whatever else in the file is wrong: the running proxy may have read an older one.

    Raises ConfigError if the file cannot be read, DbproxyError if this address is wrong.
    """
    value = load_document(path).root.plain()
    admin = value.get("admin", {}) if isinstance(value, dict) else {}
    try:
        return (
            AdminSettings.model_validate({"address": admin["address"]}).address
            if "address" in admin
            else AdminSettings().address
        )
    except (ValidationError, TypeError):
        raise DbproxyError(f"{path}: admin.address: must be HOST:PORT") from None


def check(address: Address, timeout_s: float) -> tuple[int, str]:
    """The exit code and the line to print. A proxy that listens everywhere is asked on loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(address.host, address.host)  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(host, address.port, timeout=timeout_s)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        return NO, f"no answer from {address}: {type(error).__name__}"
    finally:
        connection.close()
    try:
        answer = orjson.loads(body)
        status, reasons = str(answer["status"]), [str(reason) for reason in answer["reasons"]]
    except (ValueError, KeyError, TypeError):
        return NO, f"{address} is not a dbproxy: HTTP status {response.status}"
    line = f"{status}: {', '.join(reasons)}" if reasons else status
    return (DONE if response.status == 200 and status == "ready" else NO), "".join(c for c in line if c.isprintable())


def _parse(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--address") from None
