"""Starts that fail: each says why, and leaves nothing running."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.proxy import Proxy, running_proxy
from support.servers import PostgresServer

Ended = dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def proxy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One that runs already, and is in the way."""
    with running_proxy(tmp_path_factory.mktemp("start"), postgres) as running:
        yield running


@pytest.fixture(scope="module")
def failed(proxy: Proxy) -> Ended:
    """Exit status and messages of proxies that cannot start, by what is wrong with them. Started together: some wait a while first."""
    running = {what: _start(_settings(proxy, what)) for what in ("policy", "address", "ledger")}
    said = {what: each.communicate(timeout=60)[1].decode() for what, each in running.items()}
    return {what: (each.returncode, said[what]) for what, each in running.items()}


def _settings(proxy: Proxy, what: str) -> Path:
    """As of the running proxy, but for all that would be in the way, unless it is meant to be."""
    settings: dict[str, Any] = yaml.safe_load(proxy.settings_path.read_text())
    if what != "address":
        settings["listeners"][0]["address"] = settings["admin"]["address"] = "127.0.0.1:0"
    if what != "ledger":
        settings["audit"]["directory"] = f"ledger-{what}"
    settings["state"] = {"directory": f"state-{what}"}
    if what == "policy":
        (proxy.folder / "broken.yaml").write_text("version: 1\nrules: [{name: x}]\n")
        (proxy.folder / "broken.yaml").chmod(0o600)
        settings["policies"] = {"files": ["broken.yaml"]}
    path = proxy.folder / f"other-{what}.yaml"
    path.write_text(yaml.safe_dump(settings))
    path.chmod(0o600)
    return path


def _start(settings: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dbproxy", "serve", "--settings", str(settings)], stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(
    ("what", "why"),
    [("policy", "rules[0]"), ("address", "Address already in use"), ("ledger", "in use by another")],
)
def test_proxy_that_cannot_start_says_why_and_leaves_nothing_running(failed: Ended, what: str, why: str) -> None:
    status, said = failed[what]
    assert status == 2, said
    assert why in said
    assert "Traceback" not in said
    assert "dbproxy: ready" not in said
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout.decode()
    assert f"other-{what}" not in processes
