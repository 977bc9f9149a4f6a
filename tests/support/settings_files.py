"""Settings directories for tests: a good one to start from, and what `dbproxy check` says about a changed one."""

from __future__ import annotations

from pathlib import Path

import yaml

from config.load import check_settings

GOOD = """\
version: 1
listeners:
  - name: pg
    address: 127.0.0.1:6432
    target: shop
    tls: {mode: disable}
targets:
  - name: shop
    host: 127.0.0.1
    tls: {mode: disable}
    accounts:
      - {name: app, user: app, password: "${file:secret}"}
    default_account: app
users: {auth: local, file: users.yaml}
audit: {directory: audit}
"""


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def good_directory(directory: Path, settings: str = GOOD, users: str = "version: 1\npeople: []\n") -> Path:
    """A settings file with its users file and secret; returns the settings file."""
    write(directory / "secret", "sesame\n")
    write(directory / "users.yaml", users)
    return write(directory / "dbproxy.yaml", settings)


def problems_of(directory: Path, *replacements: tuple[str, str]) -> list[str]:
    """What is said about the good settings after some replacements, without the directory's name."""
    text = GOOD
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    found = check_settings(good_directory(directory, text)).problems
    return [str(problem).replace(f"{directory}/", "") for problem in found]


def dump(value: object) -> str:
    return str(yaml.safe_dump(value, sort_keys=False))
