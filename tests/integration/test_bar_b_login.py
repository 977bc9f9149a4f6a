"""SECURITY_BAR B1, B2, B3, B4, B5, B7, B8: who gets in, what a stranger can learn, and what a hostile server can get.

B6 (identity apart from role) is in test_bar_b_identity.py, cancel in test_bar_b_cancel.py.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import pg_bytes as pg
from support.bar import fake_server
from support.fake_postgres import Auth, FakePostgres, Fault
from support.figures import IS_FULL, record, scaled
from support.proxy import Proxy, running_proxy, scram_verifier
from support.raw_client import Left, RawClient, errors, logged_in
from support.servers import Database, PostgresServer

pytestmark = pytest.mark.workers(1)

NO_THROTTLE = {"login_failures": {"per_address": 1_000_000, "per_user": 1_000_000}}


def connections(server: PostgresServer, mark: int) -> int:
    """How many connections the server has authorized for the account of the proxy, ours among them not."""
    return sum("connection authorized: user=app" in each.text for each in server.log.records(mark))


def loosen(settings: dict[str, Any]) -> None:
    settings["limits"] = NO_THROTTLE


@pytest.fixture(scope="module")
def loose(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that takes no notice of how many logins fail."""
    with running_proxy(tmp_path_factory.mktemp("loose"), postgres, workers=1, change=loosen) as proxy:
        yield proxy


def refusal(proxy: Proxy, user: str, password: str) -> tuple[dict[str, str], float]:
    """The fields of the refusal of a login, and how long the whole of it took."""
    client = RawClient.open(proxy.host, proxy.port)
    started = time.perf_counter()
    try:
        client.send(pg.startup({"user": user, "database": proxy.default_database}))
        found: dict[str, str] = {}
        try:
            client.finish_login(password)
        except AssertionError as refused:
            found = refused.args[0] if isinstance(refused.args[0], dict) else {"text": str(refused.args[0])}
        return found, time.perf_counter() - started
    finally:
        client.close()


def test_all_failed_logins_look_alike(loose: Proxy, vault: Database) -> None:
    """B1: wrong password, unknown, disabled and expired; same words, same code, and (in full) the same time."""
    proxy = loose
    users = yaml.safe_load((proxy.folder / "users.yaml").read_text())
    common = {"accounts": {"shop": ["app"]}, "groups": []}
    users["people"] += [
        {"name": "dora", "verifier": scram_verifier("pw"), "disabled": True, **common},
        {"name": "emil", "verifier": scram_verifier("pw"), "expires": str(dt.date(2020, 1, 1)), **common},
        {"name": "fred", **common},
    ]
    new = proxy.folder / "users.new"
    new.write_text(yaml.safe_dump(users))
    new.chmod(0o600)
    new.replace(proxy.folder / "users.yaml")
    before = len(proxy.records("users.loaded"))
    proxy.reload()
    proxy.wait_for_next("users.loaded", before)
    mark = vault.server.log.mark()
    count = scaled(25, 1000)
    attempts = [
        ("alice", "wrong"),
        ("nobody", "wrong"),
        ("dora", "pw"),
        ("emil", "pw"),
        ("fred", "pw"),
    ]
    answers: dict[str, set[str]] = {}
    times: dict[str, list[float]] = {}
    for _ in range(count):
        for user, password in attempts:
            fields, taken = refusal(proxy, user, password)
            answers.setdefault(user, set()).add(str(fields).replace(user, "USER"))
            times.setdefault(user, []).append(taken)
    shown = {text for texts in answers.values() for text in texts}
    assert len(shown) == 1, shown
    assert "28P01" in shown.pop()
    assert connections(vault.server, mark) == 0
    medians = {user: statistics.median(each) for user, each in times.items()}
    spread = max(medians.values()) / min(medians.values()) - 1
    failures = sum(len(texts) - 1 for texts in answers.values())
    if IS_FULL:
        failures += spread > 0.05
    record(
        "B1",
        "failed logins that can be told apart",
        count=count * len(attempts),
        failures=failures,
        spread_of_medians=round(spread, 4),
        medians_ms={user: round(each * 1e3, 3) for user, each in medians.items()},
    )


def test_only_authentication_messages_are_taken_during_authentication(loose: Proxy, vault: Database) -> None:
    """B2, A7: every other type byte, at both steps; nothing is forwarded, no connection to the server is opened."""
    proxy = loose
    mark = vault.server.log.mark()
    survivors = []
    kinds = [chr(kind) for kind in range(256) if chr(kind) != "p"]
    for kind in kinds:
        for step in ("first", "second"):
            client = RawClient.open(proxy.host, proxy.port, 5)
            client.send(pg.startup({"user": "alice", "database": vault.name}))
            client.until_kind("R")
            if step == "second":
                client.send(pg.sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abcdefghijkl"))
                client.until_kind("R")
            client.send(pg.frame(kind.encode("latin-1"), b"delete from notes\0"), pg.query("delete from notes"))
            messages = client.to_the_end()
            client.close()
            if any(kind in "RZKC" for kind, _ in messages):
                survivors.append((kind, step))
    assert connections(vault.server, mark) == 0
    assert vault.fetch("select count(*) from notes") == [(20,)]
    assert proxy.process.poll() is None
    record(
        "B2",
        "messages during authentication that did not end it",
        count=2 * len(kinds),
        failures=len(survivors),
        which=survivors,
    )


def test_client_cannot_ask_for_weaker_authentication(loose: Proxy, vault: Database) -> None:
    """B3: another mechanism, a bare password, an md5 answer, a binding that is not there."""
    proxy = loose
    tries = [
        pg.sasl_initial("SCRAM-SHA-1", b"n,,n=,r=abcdefghijkl"),
        pg.sasl_initial("PLAIN", b"\0alice\0alice-pw"),
        pg.sasl_initial("", b""),
        pg.sasl_initial("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abcdefghijkl"),
        pg.sasl_initial("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abcdefghijkl"),
        pg.sasl_initial("SCRAM-SHA-256", None),
        pg.sasl_initial("SCRAM-SHA-256", b"n,a=bob,n=,r=abcdefghijkl"),
        pg.password("alice-pw"),
        pg.password("md5" + "0" * 32),
    ]
    admitted = 0
    for frame in tries:
        client = RawClient.open(proxy.host, proxy.port, 5)
        client.send(pg.startup({"user": "alice", "database": vault.name}))
        client.until_kind("R")
        client.send(frame)
        messages = client.to_the_end() if b"SCRAM-SHA-256\0" not in frame else [client.read()]
        client.close()
        admitted += messages[-1][0] != "E"
    record("B3", "weaker ways to log in that were taken up", count=len(tries), failures=admitted)


@pytest.fixture(scope="module")
def cheated(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakePostgres, Proxy]]:
    """A scripted server, which each test makes behave as it likes, and a proxy in front of it."""

    def change(settings: dict[str, Any]) -> None:
        settings["timeouts"] = {"connect_s": 2, "login_s": 5}
        settings["limits"] = NO_THROTTLE

    with (
        fake_server(postgres, auth=Auth.SCRAM) as (fake, server),
        running_proxy(tmp_path_factory.mktemp("cheated"), server, workers=1, change=change) as proxy,
    ):
        yield fake, proxy


def contains_secret(sessions: list[Any]) -> bool:
    """Whether the fake server was sent the password in any form from which it can be had, or any proof at all."""
    return any(session.secrets for session in sessions)


def test_server_that_does_as_it_should_gets_a_session(cheated: tuple[FakePostgres, Proxy]) -> None:
    """The premise of B4 and B5: it is what the server does wrong that ends a login there."""
    fake, proxy = cheated
    fake.auth, fake.fault = Auth.SCRAM, Fault.NONE
    with logged_in(proxy.address()):
        pass


@pytest.mark.parametrize("auth", [Auth.CLEARTEXT, Auth.MD5, Auth.TRUST])
def test_server_that_asks_for_less_gets_nothing(cheated: tuple[FakePostgres, Proxy], auth: Auth) -> None:
    """B4: aborted, no byte of the password on the wire, an event that says so."""
    fake, proxy = cheated
    fake.auth, fake.fault = auth, Fault.NONE
    sessions, events = len(fake.sessions), len(proxy.records("server_auth_downgrade"))
    with pytest.raises(AssertionError), logged_in(proxy.address()):
        pass
    event = proxy.wait_for_next("server_auth_downgrade", events)
    assert event["person"] == "alice"
    assert len(fake.sessions) == sessions + 1
    failures = contains_secret(fake.sessions[sessions:])
    record(
        f"B4.{auth.value}", "secrets sent to a server that asks for a weaker method", count=1, failures=int(failures)
    )


HOSTILE = [Fault.HUGE_ITERATIONS, Fault.ONE_ITERATION, Fault.EMPTY_SALT, Fault.OTHER_NONCE]


@pytest.mark.parametrize(
    "fault", [*HOSTILE, Fault.WRONG_SIGNATURE, Fault.NO_FINAL, Fault.ROW_BEFORE_LOGIN, Fault.CLOSES_AT_STARTUP]
)
def test_server_that_cheats_at_scram_gets_no_session(cheated: tuple[FakePostgres, Proxy], fault: Fault) -> None:
    """B5: the iteration cap holds before any hashing, and the server has to prove that it knows the password."""
    fake, proxy = cheated
    fake.auth, fake.fault = Auth.SCRAM, fault
    before, count = proxy.cpu_s(), len(fake.sessions)
    with pytest.raises(AssertionError), logged_in(proxy.address()):
        pass
    spent = proxy.cpu_s() - before
    sessions = fake.sessions[count:]
    assert len(sessions) == (fault is not Fault.CLOSES_AT_STARTUP)
    assert not [each for each in sessions if each.is_ready and fault is Fault.WRONG_SIGNATURE and each.received[2:]]
    failures = int(fault in HOSTILE and any(len(each.secrets) > 0 for each in sessions))
    assert spent < 2  # 10^9 iterations would be minutes
    record(
        f"B5.{fault.name.lower()}", "sessions or proofs a cheating server got", count=1, failures=failures, cpu_s=spent
    )


@pytest.mark.parametrize("fault", [Fault.TLS_SILENCE, Fault.SILENT_AT_STARTUP, Fault.SILENT_AT_PROOF])
def test_client_of_a_silent_server_is_told_before_its_deadline(
    postgres: PostgresServer, tmp_path: Path, fault: Fault
) -> None:
    """I3, at login: whatever the server leaves unanswered, the client hears why, and the event names it."""

    def change(settings: dict[str, Any]) -> None:
        settings["timeouts"] = {"connect_s": 30, "login_s": 2}
        if fault is Fault.TLS_SILENCE:
            settings["targets"][0]["tls"] = {"mode": "require"}

    with (
        fake_server(postgres, auth=Auth.SCRAM, fault=fault) as (_, server),
        running_proxy(tmp_path / "proxy", server, workers=1, change=change) as proxy,
    ):
        started = time.monotonic()
        with (
            pytest.raises(AssertionError, match=r"FATAL.*08006.*did not answer in time"),
            contextlib.closing(RawClient.open(proxy.host, proxy.port, 10)) as client,
        ):
            client.login(proxy.address())
        taken = time.monotonic() - started
        event = proxy.wait_for_record(lambda each: each["type"] == "login.failure")
    assert taken < 2 + 1
    assert (event["why"], event["reason"]) == ("server_lost", "server_silent")


def test_failed_logins_of_one_person_do_not_lock_out_another(make_proxy: Callable[..., Proxy], vault: Database) -> None:
    """B7: limited after the configured number; each failure recorded once, the throttle itself once."""
    count = scaled(60, 1000)

    def change(settings: dict[str, Any]) -> None:
        settings["limits"] = {"login_failures": {"per_address": 1_000_000, "per_user": 10, "window_s": 3600}}

    proxy = make_proxy(database=vault.name, change=change)
    for _ in range(count):
        refusal(proxy, "alice", "wrong")
    assert "28P01" in str(refusal(proxy, "alice", "alice-pw")[0])  # the right one, too late
    started = time.perf_counter()
    with logged_in(proxy.address("bob")) as client:
        assert not errors(client.query("select 1"))
    taken = time.perf_counter() - started
    failures = proxy.records("login.failure")
    wrong = [each for each in failures if each.get("reason") != "login_throttled"]
    assert all(each["person"] == "alice" for each in failures)
    record(
        "B7",
        "failures recorded otherwise than once each until the limit, and once for the limit",
        count=count,
        failures=abs(len(failures) - 11),
        recorded=len(failures),
        unthrottled=len(wrong),
        other_login_ms=round(taken * 1e3, 1),
    )


REFUSED_PARAMETERS: list[list[tuple[str, str]]] = [
    [("replication", "database")],
    [("replication", "true")],
    [("options", "-c")],
    [("options", "-c =")],
    [("options", "-c =x")],
    [("options", "-c search_path")],
    [("options", "-f s")],
    [("options", "-B 10")],
    [("options", "-W 5")],
    [("options", "--=1")],
    [("options", "-- name=1")],
    [("options", "-c a=1 -c A=2")],
    [("application_name", "a"), ("application_name", "b")],
    [("DateStyle", "ISO"), ("datestyle", "SQL")],
    [("options", "-c x.y=1"), ("options", "-c x.z=1")],
    [("user", "bob")],
    [("database", "postgres")],
    [("", "x")],
    [("a b", "1")],
    [("se\tarch_path", "1")],
    [("session_authorization", "postgres")],
    [("role", "postgres")],
    [("options", "-c role=postgres")],
    [("options", "-crole=postgres")],
    [("options", "--role=postgres")],
    [("options", "-c log_statement=none")],
    [("options", "-c\\ log_statement=none")],
    [("session_preload_libraries", "evil")],
    [("local_preload_libraries", "evil")],
    [("options", "-c session_preload_libraries=evil")],
    [(f"x.p{n}", "1") for n in range(1000)],
    [(f"x.p{n}", "1") for n in range(201)],
]
KEPT_PARAMETERS: list[tuple[list[tuple[str, str]], str, bytes]] = [
    ([("options", "-c statement_timeout=777")], "show statement_timeout", b"777ms"),
    ([("options", "-cstatement_timeout=778 --lock_timeout=5")], "show lock_timeout", b"5ms"),
    ([("options", "-c x.y=a\\ b")], "show x.y", b"a b"),
    ([("options", "--search-path=c")], "show search_path", b"c"),
    ([("options", "-c statement_timeout=1"), ("statement_timeout", "2")], "show statement_timeout", b"2ms"),
    ([("standard_conforming_strings", "off")], r"select 'a\\b'", b"a\\b"),
    ([("extra_float_digits", "0"), ("_pq_.nothing", "1")], "show extra_float_digits", b"0"),
    ([("client_encoding", "LATIN1")], "show client_encoding", b"LATIN1"),
]


def test_startup_parameters_are_refused_or_kept_as_the_client_said(
    make_proxy: Callable[..., Proxy], vault: Database
) -> None:
    """B8: under the shipped policy. Refused ones open no connection to the server; kept ones hold in the session."""
    proxy = make_proxy(policy="default", database=vault.name, change=loosen)
    mark = vault.server.log.mark()
    admitted = []
    before = proxy.cpu_s()
    for parameters in REFUSED_PARAMETERS:
        client = RawClient.open(proxy.host, proxy.port, 10)
        client.send(pg.startup([("user", "alice"), ("database", vault.name), *parameters]))
        try:
            client.finish_login("alice-pw")
            admitted.append(parameters[:3])
        except (AssertionError, Left):
            pass
        finally:
            client.close()
    spent = proxy.cpu_s() - before
    assert connections(vault.server, mark) == 0
    wrong = []
    for parameters, question, expected in KEPT_PARAMETERS:
        with logged_in(proxy.address(), parameters) as client:
            if client.rows(question) != [(expected,)]:
                wrong.append((parameters, client.rows(question)))
    assert spent < 5
    record(
        "B8",
        "start-up parameters admitted that should not be, or lost",
        count=len(REFUSED_PARAMETERS) + len(KEPT_PARAMETERS),
        failures=len(admitted) + len(wrong),
        admitted=admitted,
        wrong=wrong,
        cpu_s=round(spent, 2),
    )
