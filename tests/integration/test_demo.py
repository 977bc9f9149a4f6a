"""The tour of `make demo`, as a person would run it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from dbproxy.demo.client import Asyncpg, Login
from dbproxy.demo.tour import run_demo
from dbproxy.embedded.binaries import find_binaries
from dbproxy.embedded.certificates import CertificateAuthority
from dbproxy.embedded.server import EmbeddedPostgres

COMMAND = [sys.executable, "-W", "always::ResourceWarning", "-m", "dbproxy", "demo"]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("dbproxy-")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A TMPDIR of its own, so that what is left behind can be told from others' files; reachable for the server's account."""
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(parent.stat().st_mode | 0o011)
    (tmp_path / "t").mkdir()
    (tmp_path / "t").chmod(0o711)
    return tmp_path / "t"


@pytest.mark.parametrize("options", [(), ("--mysql",)], ids=["PostgreSQL", "MariaDB"])
def test_tour_checks_every_claim_and_leaves_nothing_behind(
    request: pytest.FixtureRequest, project_root: Path, folder: Path, options: tuple[str, ...]
) -> None:
    if options:
        request.getfixturevalue("mariadb")  # is to be there, or may be missing
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        [*COMMAND, "--once", *options], cwd=project_root, env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"All \d\d claims were checked and hold", done.stdout)
    assert 'rule "no-prod-drop"' in done.stdout
    assert "✗" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "ResourceWarning" not in done.stdout + done.stderr
    assert leftovers(folder) == []


def test_without_mariadb_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    assert run_demo(Console(width=300), once=True, is_mysql=True) == 1
    said = capsys.readouterr().out
    assert "there is no program mariadbd on this machine" in said
    assert "apt-get install mariadb-server-core mariadb-client" in said


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_demo_stays_up_until_it_is_told_to_end(project_root: Path, folder: Path, signal_: signal.Signals) -> None:
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        COMMAND, cwd=project_root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        seen = ""
        for line in demo.stdout:
            seen += line
            if "Ctrl+C ends everything" in line:
                break
        assert "PGPASSWORD=" in seen
        demo.send_signal(signal_)
        seen += demo.stdout.read()
        assert demo.wait(60) == 0, seen
    assert "cleaned up" in seen
    assert leftovers(folder) == []


def test_killed_demo_takes_its_proxy_and_its_server_with_it(project_root: Path, folder: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        COMMAND, cwd=project_root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "Ctrl+C ends everything" in line:
                break
        demo.kill()
        demo.wait(10)
        deadline = time.monotonic() + 40
        while processes := _processes_in(folder):
            assert time.monotonic() < deadline, processes
            time.sleep(0.05)


def _processes_in(folder: Path) -> list[str]:
    """Command lines that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def test_asyncpg_plays_psql_where_there_is_none(tmp_path: Path) -> None:
    files = CertificateAuthority(tmp_path).issue("server", "localhost")
    tls = (files.certificate, files.key, files.ca)
    with EmbeddedPostgres(find_binaries(needs_tls=True), tls=tls) as server:
        login = Login(server.host, server.port, server.user, server.password, "postgres", files.ca)
        ran = Asyncpg().run(login, ["select 1/0", "select 42 as answer"])
        assert ran.is_ok
        assert ran.output.splitlines() == ["ERROR:  division by zero", "answer: 42", "(1 rows)"]
        wrong = Asyncpg().run(Login(server.host, server.port, server.user, "wrong", "postgres", files.ca), ["select 1"])
        assert not wrong.is_ok
        assert "authentication failed" in wrong.output
        assert server.password not in repr(login)
