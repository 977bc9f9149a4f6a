"""`dbproxy session`, `status`, `reload` and `state backup` against a real proxy with several workers and a real server."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.command_line import CommandLine, Result
from support.proxy import Proxy, running_proxy
from support.servers import Database, PostgresServer, fresh_database

WORKERS = 2
SLEEP = "select pg_sleep(60)"
Cli = Callable[..., Result]


def two_workers(settings: dict[str, Any]) -> None:
    settings["processes"] = {"workers": WORKERS}


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[Database]:
    with fresh_database(postgres, "test_session_cli") as fresh:
        yield fresh


@pytest.fixture(scope="module")
def one_proxy(
    postgres: PostgresServer, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("session-cli")
    with running_proxy(folder, postgres, database=database.name, change=two_workers) as proxy:
        yield proxy


@pytest.fixture
def cli(one_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line as somebody would use it in the proxy's folder."""
    run = CommandLine(monkeypatch, capsys)
    monkeypatch.setenv("DBPROXY_SETTINGS", str(one_proxy.settings_path))
    return run


@pytest.fixture
def proxy(one_proxy: Proxy, cli: Cli) -> Proxy:
    """Without anybody, and with everybody allowed."""
    wait_until(lambda: not sessions(cli), "everybody of the test before has left")
    return one_proxy


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def sessions(cli: Cli) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cli("session", "list", "--json").json
    return found


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 10) -> float:
    """Returns how long it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def started(cli: Cli, count: int, text: str = "running") -> list[dict[str, Any]]:
    """The sessions that run something, once there are that many."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [each for each in sessions(cli) if each["state"] == text]
        return len(found) == count

    wait_until(look, f"{count} sessions that are {text}")
    return found


def ended_with(running: Future[Any]) -> psycopg.Error:
    error = running.exception(timeout=15)
    assert isinstance(error, psycopg.Error), error
    return error


def is_asleep(database: Database) -> bool:
    text = f"select count(*) from pg_stat_activity where state = 'active' and query = '{SLEEP}'"
    return bool(database.fetch(text)[0][0])


def test_sessions_of_all_workers_are_listed_with_their_counts(cli: Cli, proxy: Proxy) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(proxy.connect(name)) for name in ("alice", "bob", "carol") * 8]
        for connection in connections:
            connection.execute("select n from generate_series(1, 10) n").fetchall()
        connections[0].execute("begin")
        found = sessions(cli)
        assert len(found) == len(connections)
        assert {each["worker"] for each in found} == set(range(1, WORKERS + 1))
        by_id = {each["session"]: each for each in proxy.records("session.start")}
        for each in found:
            start = by_id[each["id"]]
            same = ("person", "account", "server_user", "database", "target", "client")
            assert [each[name] for name in same] == [start[name] for name in same]
            assert (each["rows"], each["refused"], each["state"]) == (10, 0, "idle")
            assert each["statements"] >= 1
            assert each["received_bytes"] > 100
        assert sorted(each["transaction"] for each in found)[-2:] == ["idle", "open"]
        own = cli("session", "list", "--person", "bob").out
        assert own.count("bob") == 8
        assert own.endswith("8 sessions\n")
        assert cli("session", "show", found[0]["id"], "--json").json["id"] == found[0]["id"]
    wait_until(lambda: not sessions(cli), "everybody has left")


def test_a_running_statement_is_ended_and_the_person_told_why(
    cli: Cli, proxy: Proxy, database: Database, threads: ThreadPoolExecutor
) -> None:
    with proxy.connect("alice") as alice, proxy.connect("bob") as bob:
        running = threads.submit(alice.execute, SLEEP)
        (session,) = started(cli, 1)
        wait_until(lambda: is_asleep(database), "the server works on it")
        began = time.monotonic()
        result = cli("session", "kill", session["id"], "--reason", "runaway report")
        assert (result.code, result.out.split()[:4]) == (0, ["ended", session["id"], "of", "alice"])
        error = ended_with(running)
        took_s = time.monotonic() - began
        assert error.sqlstate == "57P01"
        assert str(error).splitlines()[0] == "dbproxy: ended by an operator: runaway report"
        assert getpass.getuser() not in str(error)
        wait_until(lambda: not is_asleep(database), "the server has stopped working on it", 5)
        assert bob.execute("select 1").fetchone() == (1,)
        assert [each["person"] for each in sessions(cli)] == ["bob"]
        again = cli("session", "kill", session["id"], "--reason", "again")
        assert (again.code, again.err) == (1, "there is no such session; it may have ended\n")
    killed = [each for each in proxy.records("session.killed") if each["session"] == session["id"]]
    assert [(each["session"], each["person"], each["actor"], each["reason"]) for each in killed] == [
        (session["id"], "alice", getpass.getuser(), "runaway report")
    ]
    end = proxy.wait_for_record(lambda each: each["type"] == "session.end" and each["session"] == session["id"])
    outcomes = [each["status"] for each in proxy.records("statement.outcome") if each["session"] == session["id"]]
    assert outcomes[-1] == "unknown"
    assert end["why"] == "shutdown"
    print(f"from the command to the client's error: {took_s:.3f} s")


def test_an_open_transaction_is_rolled_back(cli: Cli, proxy: Proxy, database: Database) -> None:
    database.execute("create table kept (n integer)", "alter table kept owner to app")
    with proxy.connect("alice") as alice:
        alice.execute("begin")
        alice.execute("insert into kept values (1)")
        (session,) = sessions(cli)
        assert session["transaction"] == "open"
        assert (
            cli("session", "kill", session["id"], "-r", "left open").out.rstrip().endswith("its transaction was open")
        )
        with pytest.raises(psycopg.OperationalError, match="ended by an operator: left open"):
            alice.execute("commit")
    assert database.fetch("select count(*) from kept") == [(0,)]


def test_many_sessions_are_ended_in_all_workers(cli: Cli, proxy: Proxy, threads: ThreadPoolExecutor) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(proxy.connect("alice")) for _ in range(20)]
        running = [threads.submit(connection.execute, SLEEP) for connection in connections]
        found = started(cli, len(connections))
        assert {each["worker"] for each in found} == set(range(1, WORKERS + 1))
        for each in found:
            assert cli("session", "kill", each["id"], "-r", "all of them").code == 0
        assert {ended_with(each).sqlstate for each in running} == {"57P01"}
        assert sessions(cli) == []
    assert {each["session"] for each in proxy.records("session.killed")} >= {each["id"] for each in found}


def test_disabling_a_person_ends_their_sessions_in_all_workers(
    cli: Cli, proxy: Proxy, threads: ThreadPoolExecutor
) -> None:
    with contextlib.ExitStack() as stack:
        alices = [stack.enter_context(proxy.connect("alice")) for _ in range(12)]
        bob = stack.enter_context(proxy.connect("bob"))
        running = [threads.submit(each.execute, SLEEP) for each in alices[:6]]
        assert {each["worker"] for each in started(cli, 6) + sessions(cli)} == set(range(1, WORKERS + 1))
        assert cli("user", "disable", "alice").code == 0
        assert cli("reload").code == 0
        took_s = wait_until(lambda: {each["person"] for each in sessions(cli)} == {"bob"}, "only bob is left")
        assert {ended_with(each).sqlstate for each in running} == {"57P01"}
        for connection in alices[6:]:
            with pytest.raises(psycopg.OperationalError, match="no longer allowed"):
                connection.execute("select 1")
        with pytest.raises(psycopg.OperationalError), proxy.connect("alice"):
            pass
        assert bob.execute("select 1").fetchone() == (1,)
    assert cli("user", "enable", "alice").code == 0
    assert cli("reload").code == 0
    with proxy.connect("alice") as alice:
        assert alice.execute("select 1").fetchone() == (1,)
    print(f"until the last of 12 sessions in {WORKERS} workers had ended: {took_s:.3f} s")


def test_status_and_reload(cli: Cli, proxy: Proxy) -> None:
    status = cli("status", "--json").json
    assert (status["ready"], status["problems"]) == (True, [])
    assert [(each["role"], each["slot"]) for each in status["processes"]] == [
        ("supervisor", None),
        ("control", 0),
        *(("worker", slot) for slot in range(1, WORKERS + 1)),
    ]
    assert status["audit"]["is_writable"] is True
    assert cli("status").code == 0
    users = proxy.folder / "users.yaml"
    good = users.read_text()
    try:
        users.write_text("version: 1\npeople: [{nonsense: 1}]\n")
        result = cli("reload")
        assert result.code == 1
        assert "users.yaml" in result.out
    finally:
        users.write_text(good)
    assert cli("reload").code == 0
    assert {each["actor"] for each in proxy.records("admin.reload")} == {getpass.getuser()}
    with proxy.connect("alice") as alice:
        assert alice.execute("select 1").fetchone() == (1,)


def test_a_worker_that_was_killed_is_in_the_history(cli: Cli, proxy: Proxy) -> None:
    before = {
        each["slot"]: each["pid"] for each in cli("status", "--json").json["processes"] if each["role"] == "worker"
    }
    os.kill(before[1], signal.SIGKILL)

    def is_back() -> bool:
        status = cli("status", "--json").json
        pids = {each["slot"]: each["pid"] for each in status["processes"] if each["role"] == "worker"}
        return bool(status["ready"]) and pids.get(1) not in (None, 0, before[1])

    wait_until(is_back, "another worker in its place", 20)
    status = cli("status", "--json").json
    crashed = [(each["slot"], each["pid"]) for each in status["runs"] if each["ending"] == "crashed"]
    assert crashed == [(1, before[1])]
    assert {each["slot"]: each["pid"] for each in status["processes"]}[2] == before[2]
    shown = cli("status").out
    assert "crashed" in shown
    assert "signal 9" in shown


def test_the_state_can_be_copied_while_the_proxy_runs(cli: Cli, proxy: Proxy, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert cli("state", "backup", copy).code == 0
    with closing(sqlite3.connect(copy)) as connection:
        roles = [row[0] for row in connection.execute("SELECT role FROM process_runs ORDER BY id")]
    assert roles.count("worker") >= WORKERS


def test_when_the_proxy_has_stopped_the_commands_say_so(
    make_proxy: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy, cli = make_proxy(change=two_workers), CommandLine(monkeypatch, capsys)
    assert cli("status", "-s", proxy.settings_path).code == 0
    assert proxy.stop() == 0
    for words in (("status",), ("session", "list"), ("reload",)):
        result = cli(*words, "-s", proxy.settings_path)
        assert result.code == 2
        assert "no proxy is running" in result.err
        assert str(proxy.folder.resolve() / "state" / "admin.sock") in result.err
