"""Starts: one that fails says why and leaves nothing running, one that succeeds says what will not work."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command_line import CommandLine
from support.processes import wait_until
from support.proxy import Proxy, running_proxy
from support.servers import PostgresServer

NO_VARIABLE = "DBPROXY_TEST_NO_SUCH_VARIABLE"
Ended = dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def proxy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One that runs already, and is in the way. Nobody logs in: it has no password to do so."""

    def change(settings: dict[str, Any]) -> None:
        settings["targets"][0]["accounts"][0]["password"] = f"${{env:{NO_VARIABLE}}}"

    with running_proxy(tmp_path_factory.mktemp("start"), postgres, change=change) as running:
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


def test_first_records_of_every_worker_are_signed_within_seconds(proxy: Proxy) -> None:
    """Not with the next regular checkpoint, ten seconds later: were control frozen until then, statements would have to wait for it."""

    def signed() -> list[str]:
        found = [(each["at"], json.loads(each["payload"])["heads"]) for each in proxy.records("checkpoint")]
        return [at for at, heads in found if {0, 1, 2} <= {head["slot"] for head in heads}]

    wait_until(signed, 15)
    written = max(each["at"] for each in proxy.records("policy.loaded"))
    assert (dt.datetime.fromisoformat(signed()[0]) - dt.datetime.fromisoformat(written)).total_seconds() < 5


def test_proxy_without_a_settings_file_says_how_to_make_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dbproxy", "serve"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    said = done.stderr.decode().splitlines()[-1]
    assert said.startswith("dbproxy.yaml: there is no settings file")
    assert "dbproxy init" in said


def test_password_that_is_not_there_is_said_at_start_as_check_says_it(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be there at a later login, from a file for example: so the proxy starts, and says what fails until then."""
    (said,) = [line for line in proxy.stderr.splitlines() if NO_VARIABLE in line]
    words = f'nobody can log in with the account "app" of "shop" now: ${{env:{NO_VARIABLE}}}: environment variable is not set or empty'
    assert words in said
    assert "WARNING" in said
    checked = CommandLine(monkeypatch, capsys)("check", proxy.settings_path)
    assert checked.code == 0
    assert words in checked.out
