"""`dbproxy session`, `dbproxy status` and `dbproxy state`: what people and programs see, and the exit codes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.command_line import CommandLine
from support.fake_clock import FakeClock
from support.fake_operations import ALICE, BEGAN_NS, BOB, STATUS, FakeProxy, Served, serving
from support.settings_files import good_directory

from dbproxy.operations import AuditStatus, Reloaded
from dbproxy.store.sqlite import open_store


@pytest.fixture
def dbproxy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_directory(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="module")
def one_server(settings: Path) -> Iterator[Served]:
    """A proxy that runs with these settings: the command line finds its socket beside them."""
    with serving(settings.parent / "state") as served:
        yield served


@pytest.fixture
def proxy(one_server: Served) -> FakeProxy:
    one_server.proxy.reset()
    return one_server.proxy


def test_list_shows_who_is_connected(dbproxy: CommandLine, settings: Path, proxy: FakeProxy) -> None:
    result = dbproxy("session", "list", "--settings", settings)
    assert result.code == 0
    header, alice, bob, count = result.out.splitlines()
    assert header.split()[:4] == ["id", "person", "account", "target"]
    assert alice.split()[:7] == [
        ALICE.id,
        "alice",
        "app",
        "main",
        "shop",
        "127.0.0.1:40000",
        "psql",
    ]
    assert "running in transaction" in alice
    assert alice.rstrip().endswith("12.3 kB")
    assert bob.split()[0] == BOB.id
    assert count == "2 sessions"


def test_what_a_client_calls_itself_cannot_move_the_cursor(
    dbproxy: CommandLine, settings: Path, proxy: FakeProxy
) -> None:
    for words in (("list",), ("show", BOB.id), ("kill", BOB.id, "-r", "x")):
        out = dbproxy("session", *words, "--settings", settings).out
        assert "\x1b" not in out
        assert out


def test_list_can_be_narrowed_and_read_by_programs(dbproxy: CommandLine, settings: Path, proxy: FakeProxy) -> None:
    result = dbproxy("session", "list", "--person", "bob", "--json", "-s", settings)
    assert [each["id"] for each in result.json] == [BOB.id]
    assert dbproxy("session", "list", "--target", "elsewhere", "--json", "-s", settings).json == []
    assert dbproxy("session", "list", "--person", "bob", "-s", settings).out.endswith("1 session\n")


def test_show_one(dbproxy: CommandLine, settings: Path, proxy: FakeProxy) -> None:
    result = dbproxy("session", "show", ALICE.id, "-s", settings)
    shown = dict(line.split(None, 1) for line in result.out.splitlines() if len(line.split()) > 1)
    assert (
        shown["person"].strip(),
        shown["rows"].strip(),
        shown["worker"].strip(),
    ) == ("alice", "42", "1")
    assert dbproxy("session", "show", ALICE.id, "--json", "-s", settings).json["started_at"].startswith("2026-01-01T")


@pytest.mark.parametrize("words", [("show", "nobody"), ("kill", "nobody", "--reason", "x")])
def test_no_such_session_is_an_answer(
    dbproxy: CommandLine, settings: Path, proxy: FakeProxy, words: tuple[str, ...]
) -> None:
    result = dbproxy("session", *words, "-s", settings)
    assert (result.code, result.out, result.err) == (
        1,
        "",
        "there is no such session; it may have ended\n",
    )


def test_kill_says_whom(dbproxy: CommandLine, settings: Path, proxy: FakeProxy) -> None:
    result = dbproxy("session", "kill", ALICE.id, "--reason", "runaway", "-s", settings)
    assert result.code == 0
    assert result.out.rstrip() == (f"ended {ALICE.id} of alice from 127.0.0.1:40000; its transaction was open")
    assert proxy.killed == [(ALICE.id, "ended by an operator: runaway")]
    assert dbproxy("session", "kill", BOB.id, "-r", "y", "--json", "-s", settings).json["id"] == BOB.id


def test_kill_needs_a_reason(dbproxy: CommandLine, settings: Path, proxy: FakeProxy) -> None:
    assert dbproxy("session", "kill", ALICE.id, "-s", settings).code == 2
    result = dbproxy("session", "kill", ALICE.id, "--reason", " ", "-s", settings)
    assert (result.code, result.err) == (2, "say why: reason must be text\n")
    assert proxy.killed == []


def test_kill_that_cannot_be_recorded_is_not_done(dbproxy: CommandLine, settings: Path, proxy: FakeProxy) -> None:
    proxy.is_audit_down = True
    result = dbproxy("session", "kill", ALICE.id, "--reason", "x", "-s", settings)
    assert (result.code, result.err) == (
        2,
        "the audit trail cannot be written, so nothing was done\n",
    )
    assert proxy.killed == []


def test_status_of_a_proxy_that_is_well(dbproxy: CommandLine, settings: Path, proxy: FakeProxy) -> None:
    result = dbproxy("status", "-s", settings)
    assert result.code == 0
    assert result.out.startswith("dbproxy 1.2.3 for ")
    assert ": ready\n" in result.out
    assert "writable, durability tiered, 1234 records, checkpoint 7, " in result.out
    assert [line.split()[:2] for line in result.out.splitlines() if line.startswith(("control", "worker"))] == [
        ["control", "0"],
        ["worker", "1"],
        ["worker", "1"],
    ]
    assert "crashed  signal 9" in result.out


def test_status_of_a_proxy_that_is_not(dbproxy: CommandLine, settings: Path, proxy: FakeProxy) -> None:
    proxy.now = replace(
        STATUS,
        problems=("audit cannot be written",),
        audit=AuditStatus(False, "disk full", "durable", 5, False, 0, 0, False),
    )
    proxy.is_store_broken = True
    result = dbproxy("status", "-s", settings)
    assert result.code == 1
    assert "not ready: audit cannot be written\n" in result.out
    assert "warning   the history of processes cannot be read: state.db: disk I/O error\n" in result.out
    assert "cannot be written: disk full, durability durable, 5 records, not signed" in result.out
    assert dbproxy("status", "--json", "-s", settings).json["ready"] is False


@pytest.mark.parametrize(
    ("checkpoint", "at_ns", "is_anchored", "words"),
    [
        (0, 0, False, "signed, the first checkpoint is due"),
        (7, 0, False, "signed, checkpoint 7 is from before the start, the next one is due"),
        (8, BEGAN_NS, False, "checkpoint 8, "),
    ],
)
def test_status_right_after_a_start_does_not_call_a_signed_trail_unsigned(
    dbproxy: CommandLine,
    settings: Path,
    proxy: FakeProxy,
    checkpoint: int,
    at_ns: int,
    is_anchored: bool,
    words: str,
) -> None:
    audit = AuditStatus(True, "", "tiered", 5, True, checkpoint, at_ns, is_anchored)
    proxy.now = replace(STATUS, audit=audit)
    result = dbproxy("status", "-s", settings)
    assert words in result.out
    assert "not signed" not in result.out


def test_reload_says_what_is_invalid(dbproxy: CommandLine, settings: Path, proxy: FakeProxy) -> None:
    result = dbproxy("reload", "-s", settings)
    assert (result.code, result.out) == (0, "policy bbbbbbbbbbbb is in force\n")
    proxy.reloaded = Reloaded("c" * 64, ("policy.yaml:3:1: unknown key",))
    result = dbproxy("reload", "-s", settings)
    assert (result.code, result.out) == (1, "policy.yaml:3:1: unknown key\npolicy cccccccccccc is in force\n")
    assert dbproxy("reload", "--json", "-s", settings).json["problems"] == ["policy.yaml:3:1: unknown key"]
    assert proxy.reloads == 3


@pytest.mark.parametrize(
    "words",
    [
        ("session", "list"),
        ("session", "show", "x"),
        ("session", "kill", "x", "-r", "y"),
        ("status",),
        ("reload",),
    ],
)
def test_when_no_proxy_runs_the_socket_that_was_tried_is_named(
    dbproxy: CommandLine, tmp_path: Path, words: tuple[str, ...]
) -> None:
    result = dbproxy(*words, "-s", good_directory(tmp_path))
    socket = tmp_path.resolve() / "state" / "admin.sock"
    assert (result.code, result.out, result.err) == (
        2,
        "",
        f"no proxy is running: there is no {socket}\n",
    )


def test_the_socket_can_be_given(dbproxy: CommandLine, one_server: Served, proxy: FakeProxy, tmp_path: Path) -> None:
    assert dbproxy("status", "--socket", one_server.socket).code == 0
    assert "no proxy is running" in dbproxy("status", "--socket", tmp_path / "none").err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state: {directory: elsewhere/here}", "elsewhere/here/admin.sock"),
        ("state: {}", "state/admin.sock"),
        ("state:", "state/admin.sock"),
    ],
)
def test_the_socket_is_found_whatever_else_is_wrong_in_the_settings(
    dbproxy: CommandLine, tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "dbproxy.yaml").write_text(f"version: 1\nnonsense: true\n{text}\n")
    assert str(tmp_path.resolve() / expected) in dbproxy("status", "-s", tmp_path / "dbproxy.yaml").err


@pytest.mark.parametrize("text", ["state: [x]", "state: {directory: 7}", "state: there"])
def test_a_state_directory_that_is_none(dbproxy: CommandLine, tmp_path: Path, text: str) -> None:
    (tmp_path / "dbproxy.yaml").write_text(f"version: 1\n{text}\n")
    result = dbproxy("status", "-s", tmp_path / "dbproxy.yaml")
    assert (result.code, result.err) == (
        2,
        f"{tmp_path / 'dbproxy.yaml'}: state.directory: must be a path\n",
    )


def test_the_state_is_copied(dbproxy: CommandLine, tmp_path: Path) -> None:
    settings = good_directory(tmp_path)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)

    async def make() -> None:
        await (await open_store(state, FakeClock())).close()

    asyncio.run(make())
    copy = tmp_path / "copy.db"
    result = dbproxy("state", "backup", copy, "-s", settings)
    assert (result.code, result.out) == (0, f"{copy}: {copy.stat().st_size} bytes\n")
    again = dbproxy("state", "backup", copy, "-s", settings)
    assert (again.code, again.err) == (2, f"{copy}: File exists; nothing was written\n")
