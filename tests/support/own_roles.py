"""A proxy through which people of the users file carry the names and passwords of the server's own roles.

So a program gives the same user and password whether it goes direct or through the proxy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from support.proxy import Proxy, running_proxy, scram_verifier
from support.servers import PASSWORDS, PostgresServer


@contextlib.contextmanager
def proxy_with_own_roles(
    folder: Path,
    server: PostgresServer,
    *,
    policy: str = "observe",
    database: str = "postgres",
    roles: Mapping[str, str] | None = None,
    change: Callable[[dict[str, Any]], None] = lambda settings: None,
) -> Iterator[Proxy]:
    """Run a proxy. roles: names and passwords; when not given `app` and the superuser of the server."""
    known = {"app": PASSWORDS["app"], server.superuser: server.password} if roles is None else dict(roles)

    def edit(settings: dict[str, Any]) -> None:
        target = settings["targets"][0]
        target["accounts"] = []
        for name, password in known.items():
            _private(folder / f"{name}.secret", password)
            target["accounts"].append({"name": name, "user": name, "password": f"${{file:{name}.secret}}"})
        target["default_account"] = next(iter(known))
        people = [
            {
                "name": name,
                "verifier": scram_verifier(password),
                "accounts": {target["name"]: [name]},
                "default_account": name,
            }
            for name, password in known.items()
        ]
        _private(folder / "roles.yaml", yaml.safe_dump({"version": 1, "people": people}))
        settings["users"]["file"] = "roles.yaml"
        settings["limits"] = {"max_sessions_per_address": 1000, "max_sessions_per_user": 1000}
        change(settings)

    with running_proxy(folder, server, policy=policy, database=database, change=edit) as proxy:
        yield proxy


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
