"""Supervisor, control and workers on real servers: crashes, signals, reload, drain, rolling restart, caps. SECURITY_BAR B7, I1, I4, J1, J2, K1-K4."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any, Self

import psycopg
import pytest
import yaml
from support import pg_bytes as pg
from support.cut_link import cut_link
from support.figures import record, scaled
from support.proxy import Proxy
from support.raw_client import Left, RawClient, errors, logged_in
from support.servers import Database
from support.usage import children, is_alive

from dbproxy.admin_client import AdminClient
from dbproxy.audit.signing import load_public_key
from dbproxy.audit.verify import verify_directory
from dbproxy.operations import ADMIN_SOCKET

POLICY = """
version: 1
defaults: {{action: allow, on_unparsable: block, on_dynamic: block, on_error: block}}
rules:
  - {{name: rule-{number}, match: {{table: ["*.nothing_{number}"]}}, action: block, severity: high}}
"""


def wait_until(is_so: Callable[[], object], timeout_s: float = 10, what: str = "it") -> float:
    """Returns how long it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < timeout_s, f"{what} has not happened within {timeout_s} s"
        time.sleep(0.01)
    return time.monotonic() - began


def is_ready(proxy: Proxy) -> bool:
    with contextlib.suppress(OSError):
        return proxy.get("/readyz")[0] == 200
    return False


def admin(proxy: Proxy) -> AdminClient:
    return AdminClient(proxy.folder / "state" / ADMIN_SOCKET)


@contextlib.contextmanager
def sessions_in_both_workers(proxy: Proxy) -> Iterator[dict[int, list[psycopg.Connection[Any]]]]:
    """Sessions by slot, two in each worker."""
    with contextlib.ExitStack() as stack:
        found: dict[int, list[psycopg.Connection[Any]]] = {1: [], 2: []}
        for _ in range(60):
            with contextlib.ExitStack() as one:
                connection = one.enter_context(proxy.connect())
                mine = found[slot_of(proxy, connection)]
                if len(mine) < 2:  # else it goes again: there may be a cap
                    mine.append(connection)
                    stack.enter_context(one.pop_all())
            if min(map(len, found.values())) >= 2:
                break
        assert min(map(len, found.values())) >= 2, "the kernel gives one worker everything"
        yield found


def slot_of(proxy: Proxy, connection: psycopg.Connection[Any]) -> int:
    pid = connection.info.backend_pid
    found: list[int] = []

    def look() -> bool:
        found.extend(slot for slot in (1, 2) if any(each.get("server_pid") == pid for each in proxy.records_of(slot)))
        return bool(found)

    wait_until(look)
    return found[0]


def assert_whole(proxy: Proxy) -> None:
    """Nothing missing, and the last checkpoint covers every chain to its end."""
    found = verify_directory(proxy.ledger, keys=[load_public_key(proxy.folder / "state" / "signing.key.pub")])
    assert found.problem is None, found.problem
    payload = json.loads(proxy.records_of(0)[-2]["payload"])
    heads = {head["slot"]: head["seq"] for head in payload["heads"]}
    assert payload["final"]
    slots = [slot for slot in (1, 2, 3, 4) if proxy.records_of(slot)]
    assert {slot: proxy.records_of(slot)[-1]["seq"] for slot in slots} == {slot: heads[slot] for slot in slots}


# ---- crashes --------------------------------------------------------------------------------------------------------


def test_killed_worker_takes_only_its_sessions_and_is_back_at_once(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """Its chain goes on, what ran has an outcome, new connections meanwhile wait and are not refused."""
    proxy = make_proxy(database=database.name)
    with sessions_in_both_workers(proxy) as sessions, ThreadPoolExecutor(1) as threads:
        running = threads.submit(_error_of, sessions[1][0], "select pg_sleep(60)")
        wait_until(lambda: [each for each in proxy.records_of(1) if each.get("sql") == "select pg_sleep(60)"])
        victim = proxy.processes("worker")[0]
        helpers = children(victim)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        refused = 0
        while time.monotonic() - began < 1.5:
            try:
                with proxy.connect() as connection:
                    connection.execute("select 1")
            except psycopg.OperationalError:
                refused += 1
        assert running.result()
        with pytest.raises(psycopg.OperationalError):
            sessions[1][1].execute("select 1")
        for connection in sessions[2]:
            assert connection.execute("select 1").fetchone() == (1,)
        wait_until(lambda: is_ready(proxy))
    back = proxy.wait_for_record(lambda each: each["type"] == "process.started" and each["trigger"] == "crash")
    crashed = next(each for each in proxy.records("process.crashed"))
    assert (crashed["role"], crashed["slot"], crashed["status"], back["slot"]) == ("worker", 1, -signal.SIGKILL, 1)
    chain = proxy.records_of(1)
    policies = [each for each in chain if each["type"] == "policy.loaded"]
    took = _seconds(policies[1]["at"]) - _seconds(crashed["at"])
    unknown = [each for each in chain if each["type"] == "statement.outcome" and each["status"] == "unknown"]
    assert [each["reason"] for each in unknown] == ["the proxy ended before the outcome was known"]
    assert [each["type"] for each in chain].count("recovery") == 1
    assert proxy.metric("dbproxy_process_restarts_total", process="worker 1") == 1
    assert not [pid for pid in [victim, *helpers] if is_alive(pid)]
    assert not zombies(proxy)
    record(
        "K.worker",
        "connections refused while a worker is killed and comes back",
        count=1,
        failures=refused,
        back_after_s=round(took, 3),
    )
    assert took < 2
    proxy.stop()
    assert_whole(proxy)


def zombies(proxy: Proxy) -> list[int]:
    return [pid for pid in children(proxy.process.pid) if not is_alive(pid)]


def _seconds(at: str) -> float:
    return dt.datetime.fromisoformat(at).timestamp()


def test_killed_control_is_not_noticed_by_sessions_and_caps_still_hold(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {"max_sessions_per_user": 6}

    proxy = make_proxy(database=database.name, change=change)
    with sessions_in_both_workers(proxy) as sessions:
        mine = [each for both in sessions.values() for each in both]
        (control,) = proxy.processes("control")
        os.kill(control, signal.SIGKILL)
        began = time.monotonic()
        for connection in mine:
            assert connection.execute("select 1").fetchone() == (1,)
        with contextlib.ExitStack() as stack:  # a login waits, and succeeds
            taken = len(mine)
            while taken < 6:
                stack.enter_context(proxy.connect())
                taken += 1
            waited = time.monotonic() - began
            with pytest.raises(psycopg.OperationalError, match="too many sessions"):
                stack.enter_context(proxy.connect())
            stack.enter_context(proxy.connect("bob"))
        wait_until(lambda: is_ready(proxy))
        assert proxy.metric("dbproxy_sessions_open") >= len(mine)
        assert proxy.processes("control") != [control]
        for connection in mine:
            assert connection.execute("select 1").fetchone() == (1,)
    crashed = proxy.wait_for_record(lambda each: each["type"] == "process.crashed")
    assert (crashed["role"], crashed["slot"]) == ("control", 0)
    record(
        "K.control",
        "sessions that noticed the end of control",
        count=len(mine),
        failures=0,
        login_waited_s=round(waited, 3),
    )
    proxy.stop()
    assert_whole(proxy)


def test_without_control_logins_are_refused_when_their_time_is_over(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(database=database.name, change=lambda settings: settings.update(timeouts={"login_s": 2}))
    with proxy.connect() as connection:
        proxy.process.send_signal(signal.SIGSTOP)  # nobody starts it again
        try:
            os.kill(proxy.processes("control")[0], signal.SIGKILL)
            began = time.monotonic()
            with pytest.raises(psycopg.OperationalError, match="cannot take logins at the moment"), proxy.connect():
                pass
            assert 0.5 < time.monotonic() - began < 4
            assert connection.execute("select 1").fetchone() == (1,)
        finally:
            proxy.process.send_signal(signal.SIGCONT)
        wait_until(lambda: is_ready(proxy))
        with proxy.connect() as other:
            assert other.execute("select 1").fetchone() == (1,)


def test_logins_that_meet_a_frozen_control_are_told_so_and_sessions_go_on(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(database=database.name, change=lambda settings: settings.update(timeouts={"login_s": 5}))
    (control,) = proxy.processes("control")
    with proxy.connect() as connection:
        os.kill(control, signal.SIGSTOP)
        try:
            with pytest.raises(psycopg.OperationalError, match="cannot take logins at the moment"), proxy.connect():
                pass
            assert connection.execute("select 1").fetchone() == (1,)
        finally:
            os.kill(control, signal.SIGCONT)
        wait_until(lambda: is_ready(proxy))
        with proxy.connect() as other:
            assert other.execute("select 1").fetchone() == (1,)


def test_nothing_outlives_a_killed_supervisor_and_the_next_proxy_starts_at_once(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(database=database.name, is_clean_end_expected=False)
    everyone = [pid for each in proxy.pids for pid in (each, *children(each))]
    everyone += [pid for each in everyone for pid in children(each)]
    with proxy.connect() as connection:
        connection.execute("select 1")
        proxy.kill()
        wait_until(lambda: not [pid for pid in everyone if is_alive(pid)], 3, "the end of every process")
    began = time.monotonic()
    with running_again(proxy) as process:
        wait_until(lambda: is_ready(proxy), 20)
        assert time.monotonic() - began < 10
        with proxy.connect() as connection:
            connection.execute("select 1")
        process.terminate()
        assert process.wait(20) == 0
    assert_whole(proxy)


@contextlib.contextmanager
def running_again(proxy: Proxy) -> Iterator[subprocess.Popen[bytes]]:
    """The same settings, a new process."""
    with (proxy.folder / "stderr2.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dbproxy", "serve", "--settings", str(proxy.settings_path)], stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("what", ["policy", "address", "ledger"])
def test_proxy_that_cannot_start_says_why_and_leaves_nothing_running(
    make_proxy: Callable[..., Proxy], database: Database, what: str
) -> None:
    proxy = make_proxy(database=database.name)
    settings = yaml.safe_load(proxy.settings_path.read_text())
    if what != "address":
        settings["listeners"][0]["address"] = settings["admin"]["address"] = "127.0.0.1:0"
    if what != "ledger":
        settings["audit"]["directory"] = "ledger2"
    settings["state"] = {"directory": "state2"}
    if what == "policy":
        (proxy.folder / "broken.yaml").write_text("version: 1\nrules: [{name: x}]\n")
        (proxy.folder / "broken.yaml").chmod(0o600)
        settings["policies"] = {"files": ["broken.yaml"]}
    other = proxy.folder / "other.yaml"
    other.write_text(yaml.safe_dump(settings))
    other.chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-m", "dbproxy", "serve", "--settings", str(other)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert {"policy": "rules[0]", "address": "Address already in use", "ledger": "in use by another"}[what] in said
    assert "Traceback" not in said
    assert "dbproxy: ready" not in said
    assert "state2" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout.decode()


# ---- reaching every session -----------------------------------------------------------------------------------------


def test_cancel_works_at_whichever_worker_it_arrives(make_proxy: Callable[..., Proxy], database: Database) -> None:
    """B11: found across workers, whoever has the session; a wrong key is not."""
    proxy = make_proxy(database=database.name)
    rounds = scaled(16, 200)
    with logged_in(proxy.address()) as victim:
        for _ in range(rounds):
            victim.send(pg.query("select pg_sleep(30)"))
            wait_until(
                lambda: database.fetch(
                    "select 1 from pg_stat_activity where query like '%pg_sleep(30)' and state = 'active' and pid <> pg_backend_pid()"
                )
            )
            wrong = RawClient.open(proxy.host, proxy.port)
            wrong.send(pg.cancel_request(victim.process_id, bytes(4)))
            wrong.to_the_end()
            wrong.close()
            right = RawClient.open(proxy.host, proxy.port)
            right.send(pg.cancel_request(victim.process_id, victim.secret))
            assert errors(victim.ready()) == ["57014"]
            right.to_the_end()
            right.close()
            time.sleep(0.05)  # two requests a round: more than 50 a second are not looked at
        assert not proxy.metric("dbproxy_connections_refused_total", reason="throttled")
    by_slot = Counter(
        slot
        for slot in (1, 2)
        for each in proxy.records_of(slot)
        if each["type"] == "cancel.request" and each["result"] == "delivered"
    )
    assert min(by_slot[1], by_slot[2]) > 0, "one worker got every cancel"
    assert len([each for each in proxy.records("cancel.request") if each["result"] == "unknown key"]) == rounds
    record(
        "B11.workers",
        "cancels at either worker that did not stop their statement",
        count=rounds,
        failures=rounds - by_slot.total(),
    )


def test_guessed_keys_are_rate_limited_over_all_workers(make_proxy: Callable[..., Proxy], database: Database) -> None:
    proxy = make_proxy(database=database.name)
    count = scaled(400, 5000)
    with logged_in(proxy.address()) as victim:
        began = time.monotonic()
        for number in range(count):
            guess = RawClient.open(proxy.host, proxy.port)
            guess.send(pg.cancel_request(victim.process_id, number.to_bytes(4, "big")))
            guess.close()
        took = time.monotonic() - began
        assert not errors(victim.query("select 1"))
    time.sleep(0.5)
    looked_at = len(proxy.records("cancel.request"))
    record(
        "B11.rate",
        "keys looked at beyond 50 a second",
        count=count,
        failures=max(0, looked_at - int(50 * (took + 2))),
        looked_at=looked_at,
    )


def test_sessions_of_all_workers_are_listed_and_any_can_be_killed(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(database=database.name)
    with sessions_in_both_workers(proxy) as sessions:
        listed = admin(proxy).get("/v1/sessions")["sessions"]
        assert len(listed) == sum(map(len, sessions.values()))
        assert {each["worker"] for each in listed} == {1, 2}
        assert all(each["statements"] == 0 and each["person"] == "alice" for each in listed)
        for slot, (victim, *others) in sessions.items():
            start = next(
                each
                for each in proxy.records_of(slot)
                if each["type"] == "session.start" and each["server_pid"] == victim.info.backend_pid
            )
            with ThreadPoolExecutor(1) as threads:
                running = threads.submit(_error_of, victim, "select pg_sleep(60)")
                wait_until(
                    lambda session=start["session"]: admin(proxy).get(f"/v1/sessions/{session}")["state"] == "running"
                )  # type: ignore[misc] # bound now
                killed = admin(proxy).post(f"/v1/sessions/{start['session']}/kill", {"reason": "test of it"})
                assert killed["ended"]["id"] == start["session"]
                assert "57P01" in running.result(10)
            wait_until(
                lambda pid=victim.info.backend_pid: (
                    not database.fetch(f"select 1 from pg_stat_activity where pid = {pid}")
                )
            )  # type: ignore[misc] # as above
            assert all(each.execute("select 1").fetchone() == (1,) for each in others)
        assert len(proxy.records("session.killed")) == 2


def _error_of(connection: psycopg.Connection[Any], sql: str) -> str:
    try:
        connection.execute(sql.encode())
    except psycopg.Error as error:
        return f"{error.sqlstate} {error}"
    return ""


def test_disabled_person_loses_their_sessions_in_every_worker(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(database=database.name)
    with sessions_in_both_workers(proxy) as sessions, proxy.connect("bob") as bob:
        users = yaml.safe_load((proxy.folder / "users.yaml").read_text())
        for person in users["people"]:
            person["disabled"] = person["name"] == "alice"
        (proxy.folder / "users.new").write_text(yaml.safe_dump(users))
        (proxy.folder / "users.new").chmod(0o600)
        (proxy.folder / "users.new").replace(proxy.folder / "users.yaml")
        proxy.reload()
        proxy.wait_for_record(lambda each: each["type"] == "users.loaded")
        wait_until(lambda: len(proxy.records("session.end")) >= sum(map(len, sessions.values())))
        assert bob.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError), proxy.connect():
            pass


# ---- reload ---------------------------------------------------------------------------------------------------------


class Load:
    """Statements in many sessions, until stopped. failures: what went wrong."""

    def __init__(self, proxy: Proxy, threads: int, connects: bool = False) -> None:
        self._proxy = proxy
        self._connects = connects
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self.statements = 0
        self.connections = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, number: int) -> None:
        person = "alice" if number % 2 else "bob"
        while not self._stop.is_set():
            try:
                with logged_in(self._proxy.address(person)) as client:
                    self.connections += 1
                    while not self._stop.is_set():
                        found = errors(client.query(f"select {number}, item from orders where id = {number}"))
                        self.failures += found
                        self.statements += 1
                        if self._connects:
                            break
            except Exception as error:  # whatever it is, it should not have happened
                self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.01)


def test_reloads_under_load_leave_each_statement_with_exactly_one_policy(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """K1: in each chain a statement carries the policy that was loaded last before it."""
    reloads = scaled(12, 100)
    proxy = make_proxy(policy=POLICY.format(number=0), database=database.name)
    with Load(proxy, 8) as load:
        wait_until(lambda: load.statements > 50)
        for number in range(1, reloads + 1):
            before = len(proxy.records("policy.loaded"))
            proxy.write_policy(POLICY.format(number=number))
            proxy.reload()
            wait_until(lambda before=before: len(proxy.records("policy.loaded")) >= before + 2)  # type: ignore[misc] # bound now
    assert not load.failures, load.failures[:5]
    wrong = judged = 0
    for slot in (1, 2):
        current = ""
        for each in proxy.records_of(slot):
            if each["type"] == "policy.loaded":
                assert each.get("previous", "") == current or not current
                current = each["sha256"]
            elif each["type"] == "statement.intent":
                judged += 1
                wrong += each["policy"] != current
    assert len({each["sha256"] for each in proxy.records("policy.loaded")}) == reloads + 1
    record(
        "K1",
        "statements judged by another policy than the one in force, or failed",
        count=judged,
        failures=wrong,
        reloads=reloads,
    )


def test_broken_policy_stays_out_everywhere_also_after_a_crash(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """K2: a worker that is started while the file is broken has the last good policy too."""
    proxy = make_proxy(policy=POLICY.format(number=1), database=database.name)
    good = {each["sha256"] for each in proxy.records("policy.loaded")}
    proxy.write_policy("version: 1\nrules: [{nonsense")
    proxy.reload()
    proxy.wait_for_record(lambda each: each["type"] == "policy.rejected")
    killed = [*proxy.processes("control"), *proxy.processes("worker")]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(proxy.pids) == 4 and not set(proxy.pids) & set(killed))
    wait_until(lambda: is_ready(proxy), 20)
    with proxy.connect() as connection:
        connection.execute("select 1")
    assert {each["sha256"] for each in proxy.records("policy.loaded")} == good
    assert proxy.metric("dbproxy_policy_rejections_total") >= 1


def test_policy_that_comes_while_a_worker_starts_is_in_force_there_too(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """P2: the order to take it over arrives between the opening of the worker's chain and its first connection."""
    rounds = scaled(3, 20)
    proxy = make_proxy(policy=POLICY.format(number=0), database=database.name)
    wrong = 0
    for number in range(1, rounds + 1):
        count, before = len(proxy.records_of(1)), _policy_of(proxy, 2)
        os.kill(proxy.processes("worker")[0], signal.SIGKILL)
        wait_until(lambda count=count: len(proxy.records_of(1)) > count)  # type: ignore[misc] # bound now
        proxy.write_policy(POLICY.format(number=number))
        proxy.reload()
        wait_until(lambda before=before: _policy_of(proxy, 2) != before)  # type: ignore[misc] # bound now
        wait_until(lambda: is_ready(proxy))
        time.sleep(0.5)  # what takes longer has not been noticed at all
        wrong += _policy_of(proxy, 1) != _policy_of(proxy, 2)
    assert len({each["sha256"] for each in proxy.records("policy.loaded")}) == rounds + 1
    record("K1.start", "workers left with another policy than the one in force", count=rounds, failures=wrong)


def _policy_of(proxy: Proxy, slot: int) -> str:
    loaded: str = [each for each in proxy.records_of(slot) if each["type"] == "policy.loaded"][-1]["sha256"]
    return loaded


# ---- ending ---------------------------------------------------------------------------------------------------------


def test_drain_lets_what_runs_end_and_then_ends_the_rest(make_proxy: Callable[..., Proxy], database: Database) -> None:
    """K3: idle sessions, open transactions, a long COPY and a statement that takes too long."""
    sessions = scaled(20, 200)

    def change(settings: dict[str, Any]) -> None:
        settings["timeouts"] = {"drain_s": 4}
        settings["limits"] = {"max_sessions_per_user": 500, "max_sessions_per_address": 500}

    proxy = make_proxy(database=database.name, change=change)
    database.execute("set role app", "create table drained (note text)")
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(sessions + 8) as threads:
        idle = [stack.enter_context(logged_in(proxy.address())) for _ in range(sessions - 7)]
        committing = [stack.enter_context(logged_in(proxy.address())) for _ in range(3)]
        for number, client in enumerate(committing):
            client.query("begin")
            assert not errors(client.query(f"insert into drained values ('committed {number}')"))
        staying = stack.enter_context(logged_in(proxy.address()))
        staying.query("begin")
        assert not errors(staying.query("insert into drained values ('never committed')"))
        slow = stack.enter_context(logged_in(proxy.address()))
        slow.send(pg.query("select pg_sleep(60)"))
        copying = stack.enter_context(logged_in(proxy.address()))
        copying.send(
            pg.query("copy (select repeat('x', 1000), pg_sleep(0.002) from generate_series(1, 1000)) to stdout")
        )
        copying_began = copying.read()
        wait_until(lambda: proxy.metric("dbproxy_sessions_open") == sessions - 1)
        proxy.process.terminate()
        ended = [threads.submit(client.to_the_end) for client in idle]
        # Within the grace, work can be finished.
        wait_until(lambda: _is_refused(proxy))
        for client in committing:
            assert not errors(client.query("commit"))
        copied = copying.ready()
        assert [kind for kind, _ in copied].count("d") == 1000 - 1 + (copying_began[0] != "d")
        assert not errors(copied)
        codes = [errors(each.result(20)) for each in ended]
        assert all(code == ["57P01"] for code in codes), codes
        assert errors(slow.to_the_end()) == ["57P01"]
        assert errors(staying.to_the_end()) == ["57P01"]
    assert proxy.process.wait(20) == 0
    assert database.fetch("select note from drained order by note") == [(f"committed {number}",) for number in range(3)]
    assert [each["type"] for each in proxy.records_of(0)][-3:] == ["proxy.stop", "checkpoint", "segment.end"]
    for slot in (0, 1, 2):
        assert proxy.records_of(slot)[-1]["type"] == "segment.end"
    assert_whole(proxy)
    record("K3", "sessions that a drain did not treat as promised", count=sessions - 1, failures=0)


def _is_refused(proxy: Proxy) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((proxy.host, proxy.port), 5).close()
        return False
    return True


def test_rolling_restart_refuses_no_connection_and_leaves_no_gap(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """K4: twice, so that the second brings the slots back."""
    proxy = make_proxy(database=database.name, change=lambda settings: settings.update(timeouts={"drain_s": 2}))
    before = proxy.processes("worker")
    with Load(proxy, 6, connects=True) as load:
        wait_until(lambda: load.connections > 20)
        for expected in ([3, 4], [1, 2]):
            proxy.process.send_signal(signal.SIGUSR2)
            began = time.monotonic()
            wait_until(lambda expected=expected: sorted(_slots(proxy)) == expected, 60, f"workers {expected}")  # type: ignore[misc] # bound now
            took = time.monotonic() - began
    assert not set(before) & set(proxy.processes("worker"))
    ended = proxy.records("process.ended")
    assert len(ended) == 4
    record(
        "K4", "connections refused or broken during rolling restarts", count=load.connections, failures=len(load.failures),
        examples=load.failures[:3], seconds=round(took, 2),
    )  # fmt: skip
    assert proxy.stop() == 0
    assert_whole(proxy)
    for slot in (1, 2, 3, 4):
        assert proxy.records_of(slot)[-1]["type"] == "segment.end"


def test_worker_that_crashes_while_its_successor_starts_has_only_that_one(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    proxy = make_proxy(database=database.name, change=lambda settings: settings.update(timeouts={"drain_s": 2}))
    first = proxy.processes("worker")[0]
    proxy.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: len(proxy.processes("worker")) == 3)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: "rolling restart done" in proxy.stderr, 60)
    wait_until(lambda: is_ready(proxy), 20)
    team = [each["pid"] for each in admin(proxy).get("/v1/status")["processes"] if each["role"] == "worker"]
    assert sorted(team) == sorted(proxy.processes("worker"))
    assert sorted(_slots(proxy)) == [3, 4]


def _slots(proxy: Proxy) -> list[int]:
    return [
        each["slot"]
        for each in admin(proxy).get("/v1/status")["processes"]
        if each["role"] == "worker" and each["state"] in ("ready", "draining")
    ]


# ---- caps and floods ------------------------------------------------------------------------------------------------


def test_caps_hold_exactly_over_all_workers(make_proxy: Callable[..., Proxy], database: Database) -> None:
    """J2: per person, and per address, however the kernel spreads the connections."""

    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {"max_sessions_per_user": 7, "max_sessions_per_address": 20}

    proxy = make_proxy(database=database.name, change=change)
    rounds = scaled(3, 20)
    wrong = 0
    for _ in range(rounds):
        barrier = threading.Barrier(16)
        done = threading.Barrier(16)

        def attempt(_number: int, barrier: threading.Barrier = barrier, done: threading.Barrier = done) -> str:
            barrier.wait(20)
            try:
                with logged_in(proxy.address()):
                    done.wait(20)
                    return "in"
            except AssertionError as refused:
                done.wait(20)
                return str(refused)

        with ThreadPoolExecutor(16) as threads:
            words = list(threads.map(attempt, range(16)))
        wrong += words.count("in") != 7
        assert all("53300" in word for word in words if word != "in"), words
        wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(RawClient.open(proxy.host, proxy.port).stream) for _ in range(20)]
        wait_until(lambda: proxy.metric("dbproxy_connections_open") == 20)
        more = RawClient.open(proxy.host, proxy.port)
        assert more.to_the_end() == []  # turned away without a word
        more.close()
        idle[0].close()
        wait_until(lambda: proxy.metric("dbproxy_connections_open") == 19)
        with pytest.raises(AssertionError):  # one fits again, and this one is it
            stack.enter_context(logged_in(proxy.address("nobody")))
    record("J2.workers", "rounds in which a cap did not hold exactly", count=rounds, failures=wrong)


def test_connections_that_say_nothing_keep_nobody_out(make_proxy: Callable[..., Proxy], database: Database) -> None:
    """J1: each sends a byte now and then; they are gone at the login deadline."""
    count = scaled(150, 2000)

    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {"max_sessions_per_address": 5000, "max_sessions": 5000}
        settings["timeouts"] = {"login_s": 4}

    proxy = make_proxy(database=database.name, change=change)
    waits = []
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((proxy.host, proxy.port), 10)) for _ in range(count)]
        for each in slow:
            each.sendall(b"\0")
        began = time.monotonic()
        while time.monotonic() - began < 3:
            started = time.perf_counter()
            with logged_in(proxy.address()) as client:
                assert not errors(client.query("select 1"))
            waits.append(time.perf_counter() - started)
        time.sleep(max(0.0, 6 - (time.monotonic() - began)))
        left = 0
        for each in slow:
            each.settimeout(1)
            try:
                left += each.recv(1) != b""
            except TimeoutError:
                left += 1
            except OSError:
                pass
    p99 = sorted(waits)[int(len(waits) * 0.99)] * 1e3
    record(
        "J1",
        "silent connections that outlived the login deadline",
        count=count,
        failures=left,
        logins=len(waits),
        login_p99_ms=round(p99, 1),
    )


def test_clients_that_leave_at_the_end_of_their_login_leave_no_session(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """J8: the client's connection breaks while the session begins, whenever within the login that is."""
    proxy = make_proxy(database=database.name)
    until = time.monotonic() + scaled(8, 60)

    def come_and_go(number: int) -> int:
        rng = Random(number)
        count = 0
        while time.monotonic() < until:
            client = RawClient.open(proxy.host, proxy.port)
            breaking = threading.Timer(rng.random() * 0.03, _break, [client.stream])
            breaking.start()
            with contextlib.suppress(OSError, AssertionError, Left):
                client.login(proxy.address())
            breaking.join()
            client.close()
            count += 1
        return count

    with ThreadPoolExecutor(6) as threads:
        count = sum(threads.map(come_and_go, range(6)))
    wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0)
    wait_until(lambda: len(proxy.records("session.start")) == len(proxy.records("session.end")))
    started = len(proxy.records("session.start"))
    assert started, "nobody came as far as a session"
    record(
        "J8.login",
        "sessions left over by clients that left at the end of their login",
        count=count,
        failures=int(proxy.metric("dbproxy_sessions_open")),
        sessions=started,
    )
    assert "crashed" not in proxy.stderr


def _break(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)


def test_throttle_counts_failures_of_all_workers(make_proxy: Callable[..., Proxy], database: Database) -> None:
    """B7: tries at once in both workers: as many are looked at as the limit allows, no more."""
    limit = 5
    proxy = make_proxy(
        database=database.name,
        change=lambda settings: settings.update(
            limits={"login_failures": {"per_user": limit, "per_address": 10_000, "window_s": 3600}}
        ),
    )

    def attempt(_number: int) -> None:
        with pytest.raises(AssertionError), logged_in({**proxy.address(), "password": "wrong"}):
            pass

    count = scaled(40, 400)
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(attempt, range(count)))
    wait_until(lambda: len(proxy.records("login.failure")) >= limit + 1)
    reasons = Counter(each.get("reason", "") for each in proxy.records("login.failure"))
    assert reasons["login_failed"] == limit
    record(
        "B7.workers",
        "wrong passwords looked at beyond the limit",
        count=count,
        failures=abs(reasons["login_failed"] - limit),
        told=reasons["login_throttled"],
    )


# ---- the server goes away -------------------------------------------------------------------------------------------


def test_statement_whose_server_is_lost_ends_with_an_error_and_an_unknown_outcome(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """I1: mid-statement, mid-result, mid-COPY, in a transaction; nothing is tried again."""
    rounds = scaled(2, 50)
    with cut_link(database.server) as link:
        proxy = make_proxy(link.address, database=database.name)
        mark = database.server.log.mark()
        wrong = []
        texts = [
            "select pg_sleep(30) /* {n} */",
            "select repeat('x', 10000), pg_sleep(0.01) from generate_series(1, 100000) /* {n} */",
            "copy (select repeat('x', 10000), pg_sleep(0.01) from generate_series(1, 100000)) to stdout /* {n} */",
            "update orders set amount = amount where pg_sleep(0.01) is not null /* {n} */",
        ]
        for number in range(rounds):
            for text in texts:
                with logged_in(proxy.address()) as client:
                    client.send(pg.query(text.format(n=number)))
                    wait_until(
                        lambda: database.fetch(
                            "select 1 from pg_stat_activity where state = 'active' and query like '%pg_sleep%' and pid <> pg_backend_pid()"
                        )
                    )
                    link.cut()
                    found = errors(client.to_the_end())
                    # Where the server was cut off within a message, nothing can be said any more: the stream just ends.
                    if found != ["08006"] and not client.is_within_message:
                        wrong.append((text, found))
                    link.mend()
                database.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where state = 'active' and query like '%pg_sleep%' and pid <> pg_backend_pid()"
                )
        count = rounds * len(texts)
        wait_until(lambda: len(proxy.records("session.end")) >= count)
        outcomes = Counter(each["status"] for each in proxy.records("statement.outcome"))
        assert outcomes["unknown"] == count, outcomes
        ran = [each.sql for each in database.server.log.statements(mark, database=database.name) if "/* " in each.sql]
        assert len(ran) == count, "a statement was tried again"
        record(
            "I1",
            "lost servers after which the client was not told",
            count=count,
            failures=len(wrong),
            examples=wrong[:3],
        )


def test_restart_of_the_server_ends_all_sessions_and_new_ones_work(
    make_proxy: Callable[..., Proxy], database: Database
) -> None:
    """I4: nothing is left over."""
    count = scaled(30, 200)

    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {"max_sessions_per_user": 500, "max_sessions_per_address": 500}

    with cut_link(database.server) as link:
        proxy = make_proxy(link.address, database=database.name, change=change)
        before = proxy.metric("dbproxy_process_open_files")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(logged_in(proxy.address())) for _ in range(count)]
            began = time.monotonic()
            link.cut()
            told = [errors(client.to_the_end()) for client in clients]
            took = time.monotonic() - began
            with pytest.raises(AssertionError, match="cannot be reached"), logged_in(proxy.address()):
                pass
            link.mend()
            began = time.monotonic()
            with logged_in(proxy.address()) as client:
                assert not errors(client.query("select 1"))
            back = time.monotonic() - began
        wait_until(lambda: proxy.metric("dbproxy_connections_open") == 0)
        wait_until(lambda: proxy.metric("dbproxy_process_open_files") <= before + 4, 10, "closing of every socket")
    record(
        "I4", "sessions not told within 5 s that their server is gone", count=count, failures=sum(codes == [] for codes in told) + (took > 5),
        ended_after_s=round(took, 2), new_login_s=round(back, 2),
    )  # fmt: skip
