"""`dbproxy version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version

from dbproxy.cli.options import JsonOption, write_json


def version(json: JsonOption = False) -> None:
    """Say which version this is."""
    try:
        number = distribution_version("dbproxy")
    except PackageNotFoundError:
        number = "unknown (not installed)"
    if json:
        write_json({"dbproxy": number, "python": platform.python_version(), "platform": platform.platform()})
    else:
        print(f"dbproxy {number} (Python {platform.python_version()}, {platform.platform()})")
