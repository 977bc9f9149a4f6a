"""`dbproxy init`: a commented starter that `dbproxy check` accepts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from config.load import USERS_HEADER
from config.settings import SHIPPED_POLICIES
from dbproxy.cli.options import SETTINGS_NAME
from dbproxy.errors import StartError

SHIPPED = SHIPPED_POLICIES.parent
USERS = USERS_HEADER + "version: 1\npeople: []\n"


def init(
    directory: Annotated[Path, typer.Argument(help="Where to write; made if it does not exist.")] = Path(),
) -> None:
    """Write a commented settings file, a users file and a policy. Nothing that exists is overwritten."""
    contents = {
        SETTINGS_NAME: (SHIPPED / "example.yaml").read_bytes(),
        "policy.yaml": (SHIPPED / "example-policy.yaml").read_bytes(),
        "users.yaml": USERS.encode(),
    }
    existing = [name for name in contents if (directory / name).exists() or (directory / name).is_symlink()]
    if existing:
        raise StartError(f"{directory}: {', '.join(existing)} exist already; nothing was written")
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        for name, content in contents.items():
            _create(directory / name, content, 0o600 if name == "users.yaml" else 0o644)
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}") from error
    for name in contents:
        print(f"wrote {directory / name}")
    print(
        f"\nNext:\n  1. say where your database is in {directory / SETTINGS_NAME} (targets), and export DBPROXY_APP_PASSWORD\n"
        f"  2. dbproxy user add alice --settings {directory / SETTINGS_NAME}\n"
        f"  3. dbproxy check {directory / SETTINGS_NAME} && dbproxy serve --settings {directory / SETTINGS_NAME}"
    )


def _create(path: Path, content: bytes, mode: int) -> None:
    """Create a file that does not exist, with this mode whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
