"""Who is let in, as what, and that every failure looks alike. SECURITY_BAR B1, B6, B7 and G1's names."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_clock import FakeClock

from config.settings import Account, Auth, Target
from config.users import Person, Users
from dbproxy.identity.access import server_access
from dbproxy.identity.authorization import Authorization
from dbproxy.identity.identity import Attempt, Identity, UsersError
from protocol.contract import Why
from protocol.login import AuthenticationFailed, LoginRefused, Startup, TLSInfo, UseExchange, UsePassword
from protocol.scram import SCRAM, SCRAM_PLUS, ClientExchange, build_verifier

VERIFIER = build_verifier(b"secret", b"salt" * 4).encode()
TLS = TLSInfo("TLSv1.3", "x", None, b"e" * 32, None)
TARGET = Target(
    name="shop-prod",
    host="db.example",
    accounts=(
        Account.model_validate({"name": "app", "user": "app_rw", "password": "${env:TEST_APP_PASSWORD}"}),
        Account(name="reporting", user="report_ro"),
    ),
    default_account="app",
)


def person(name: str = "alice", **more: Any) -> Person:
    return Person(name=name, **{"verifier": VERIFIER, **more})


def make(*people: Person, auth: Auth = Auth.LOCAL) -> Identity:
    users = Users(people=people or (person(),))
    return Identity(auth, users, FakeClock(), b"mock-secret", lambda size: b"n" * size)


def startup(login: str = "alice", database: str | None = None) -> Startup:
    return Startup(login, database, (), (3, 0))


def prove(attempt: Attempt, asked: Startup, password: bytes = b"secret", tls: TLSInfo | None = None) -> str:
    """Run the exchange as a client; returns the server-first message."""
    way = attempt.identify(asked, tls)
    assert isinstance(way, UseExchange)
    binding = tls.end_point if tls else b""
    ours = ClientExchange(password, b"c" * 18, binding, iterations=(1, 100_000))
    first = way.exchange.first(SCRAM_PLUS if tls else SCRAM, ours.first())
    with contextlib.suppress(AuthenticationFailed):
        ours.verify(way.exchange.final(ours.final(first)))
    return first.decode()


def log_in(
    identity: Identity, asked: Startup, password: bytes = b"secret", *, address: str = "10.0.0.1"
) -> Authorization:
    attempt = identity.attempt(TARGET, address)
    prove(attempt, asked, password)
    return attempt.authenticate(asked)


def refusal(identity: Identity, login: str = "alice", password: bytes = b"secret") -> LoginRefused:
    with pytest.raises(LoginRefused) as caught:
        log_in(identity, startup(login), password)
    return caught.value


# --------------------------------------------------------------------------------------------------------- auth: local


def test_right_password_gives_an_authorization() -> None:
    authorization = log_in(make(person(groups=("dba",))), startup())
    assert authorization == Authorization(
        person="alice",
        canonical="alice",
        login="alice",
        groups=("dba",),
        target="shop-prod",
        account="app",
        server_user="app_rw",
        database="app_rw",
        address="10.0.0.1",
    )


def test_plus_uses_the_end_point_of_the_client_s_tls() -> None:
    attempt = make().attempt(TARGET, "10.0.0.1")
    prove(attempt, startup(), tls=TLS)
    assert attempt.authenticate(startup()).person == "alice"


FAILURES = {
    "wrong password": (person(), "alice", b"wrong"),
    "unknown person": (person(), "mallory", b"secret"),
    "no such name": (person(), "", b"secret"),
    "only an account": (person(), "+app", b"secret"),
    "disabled": (person(disabled=True), "alice", b"secret"),
    "expired": (person(expires="2025-12-31"), "alice", b"secret"),
    "no verifier": (person(verifier=None), "alice", b"secret"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_every_failure_looks_alike(case: str) -> None:
    who, login, password = FAILURES[case]
    identity = make(who)
    asked = startup(login)
    attempt = identity.attempt(TARGET, "10.0.0.1")
    first = prove(attempt, asked, password)
    assert re.fullmatch(r"r=[\w+/=]{48},s=[\w+/]{22}==,i=4096", first)
    with pytest.raises(LoginRefused) as caught:
        attempt.authenticate(asked)
    assert (caught.value.refusal.why, caught.value.refusal.message) == (Why.LOGIN, "")
    assert (caught.value.refusal.detail, caught.value.refusal.hint) == ("", "")
    assert caught.value.event == "login_failed"


@pytest.mark.parametrize("who", [person(disabled=True), person(expires="2025-12-31")])
def test_salt_does_not_tell_who_is_disabled(who: Person) -> None:
    shown = prove(make(who).attempt(TARGET, "10.0.0.1"), startup())
    assert shown == prove(make().attempt(TARGET, "10.0.0.1"), startup())


def test_unknown_person_is_shown_the_same_salt_each_time_and_the_usual_iterations() -> None:
    strong = build_verifier(b"secret", b"salt" * 4, 8192).encode()
    identity = make(person(verifier=strong), person("bob", verifier=strong), person("carol"))
    shown = [prove(identity.attempt(TARGET, "10.0.0.1"), startup("mallory")) for _ in range(2)]
    assert shown[0] == shown[1]
    assert shown[0].endswith(",i=8192")
    assert prove(identity.attempt(TARGET, "10.0.0.1"), startup("MALLORY")) == shown[0]


def test_expiry_is_a_moment() -> None:
    identity = make(person(expires="2026-01-01T00:00:10+00:00"))
    log_in(identity, startup())
    identity.clock.advance(10)  # type: ignore[attr-defined] # a FakeClock
    assert refusal(identity).detail == "expired"


def test_authenticate_needs_a_proof_of_this_attempt() -> None:
    identity = make()
    with pytest.raises(LoginRefused):
        identity.attempt(TARGET, "10.0.0.1").authenticate(startup())
    attempt = identity.attempt(TARGET, "10.0.0.1")
    attempt.identify(startup(), None)
    with pytest.raises(LoginRefused):
        attempt.authenticate(startup(), b"secret")


def test_one_proof_gives_one_authorization() -> None:
    attempt = make().attempt(TARGET, "10.0.0.1")
    prove(attempt, startup())
    attempt.authenticate(startup())
    with pytest.raises(LoginRefused):
        attempt.authenticate(startup())


def test_person_disabled_during_the_exchange_is_refused() -> None:
    identity = make()
    attempt = identity.attempt(TARGET, "10.0.0.1")
    prove(attempt, startup())
    identity.reload(Users(people=(person(disabled=True),)))
    with pytest.raises(LoginRefused, match="disabled"):
        attempt.authenticate(startup())


@pytest.mark.parametrize("login", ["alice+reporting", "alice%reporting", "alice reporting", "ALICE+reporting"])
def test_account_is_chosen_in_the_login_name(login: str) -> None:
    authorization = log_in(make(person(accounts={"shop-prod": ("app", "reporting")})), startup(login))
    assert (authorization.person, authorization.account, authorization.server_user) == (
        "alice",
        "reporting",
        "report_ro",
    )


@pytest.mark.parametrize("login", ["alice+reporting", "alice+nosuch", "alice+", "alice+APP"])
def test_account_that_is_not_the_person_s_is_refused_after_the_proof(login: str) -> None:
    refused = refusal(make(), login)
    assert refused.event == "account_refused"
    assert "may not use" in refused.refusal.message
    assert refusal(make(), login, b"wrong").event == "login_failed"


def test_person_without_accounts_is_refused() -> None:
    assert refusal(make(person(accounts={}))).event == "account_refused"


@pytest.mark.parametrize(
    ("login", "database", "default", "opened"),
    [
        ("alice", None, None, "app_rw"),
        ("alice", "alice", None, "app_rw"),
        ("alice", "alice", "shop", "shop"),
        ("alice", None, "shop", "shop"),
        ("alice", "crm", "shop", "crm"),
        ("alice+app", "alice+app", "shop", "shop"),
        ("alice app", "alice+app", "shop", "shop"),
        ("alice+app", "alice", "shop", "alice"),
    ],
)
def test_database_named_like_the_login_means_the_default(
    login: str, database: str | None, default: str | None, opened: str
) -> None:
    target = TARGET.model_copy(update={"database": default})
    attempt = make().attempt(target, "10.0.0.1")
    prove(attempt, startup(login, database))
    assert attempt.authenticate(startup(login, database)).database == opened


def test_database_name_that_the_server_would_cut_is_refused() -> None:
    with pytest.raises(LoginRefused, match="too long"):
        log_in(make(), startup("alice", "x" * 64))


# ------------------------------------------------------------------------------------------------------------- people


@pytest.mark.parametrize("variant", ["Alice", "ALICE", "ａｌｉｃｅ", "ⓐlice"])
def test_variants_of_a_name_are_the_same_person(variant: str) -> None:
    assert log_in(make(), startup(variant)).person == "alice"
    with pytest.raises(UsersError, match="cannot be told apart"):
        make(person(), person(variant))


def test_reload_with_ambiguous_names_keeps_the_old_people() -> None:
    identity = make()
    with pytest.raises(UsersError):
        identity.reload(Users(people=(person("bob"), person("Bob"))))
    assert log_in(identity, startup()).person == "alice"


def test_objections_to_open_sessions_after_a_reload() -> None:
    identity = make()
    authorization = log_in(identity, startup())
    assert identity.objection(authorization) == ""
    for people, objection in (
        ((), "removed"),
        ((person(disabled=True),), "disabled"),
        ((person(expires=dt.date(2025, 1, 1).isoformat()),), "expired"),
        ((person(accounts={"shop-prod": ("reporting",)}),), "account"),
        ((person(),), ""),
    ):
        identity.reload(Users(people=people))
        assert identity.objection(authorization) == objection


# --------------------------------------------------------------------------------------------- names to count failures by


def test_variants_of_a_name_are_counted_under_one() -> None:
    attempt = make().attempt(TARGET, "10.0.0.1")
    assert {attempt.name_of(startup(login)) for login in ("alice", "ALICE", "ａｌｉｃｅ+app")} == {"alice"}
    assert attempt.is_settled_here


def test_role_is_counted_under_its_whole_name() -> None:
    attempt = make(auth=Auth.UPSTREAM).attempt(TARGET, "10.0.0.1")
    assert attempt.name_of(startup("bob+x")) == "bob+x"
    assert not attempt.is_settled_here


# ----------------------------------------------------------------------------------------------------- auth: upstream


def test_role_logs_in_with_its_own_password() -> None:
    attempt = make(auth=Auth.UPSTREAM).attempt(TARGET, "10.0.0.1")
    assert attempt.identify(startup("bob+x"), TLS) == UsePassword()
    authorization = attempt.authenticate(startup("bob+x"), b"pa55word")
    assert (authorization.person, authorization.server_user, authorization.account) == ("bob+x", "bob+x", None)
    assert authorization.database == "bob+x"
    assert authorization.is_personal
    assert "pa55word" not in repr(authorization)
    assert authorization.without_password().password is None
    access = server_access(authorization, TARGET)
    assert (access.password, access.is_personal, access.tls) == (b"pa55word", True, "verify-full")
    assert "pa55word" not in repr(access)


@pytest.mark.parametrize(
    ("who", "login", "password"),
    [
        (person(disabled=True), "alice", b"secret"),
        (person(disabled=True), "ALICE", b"secret"),
        (person(expires="2025-12-31"), "alice", b"secret"),
        (person(), "alice", b""),
        (person(), "alice", None),
        (person(), "x" * 64, b"secret"),
    ],
)
def test_upstream_login_is_refused_here(who: Person, login: str, password: bytes | None) -> None:
    attempt = make(who, auth=Auth.UPSTREAM).attempt(TARGET, "10.0.0.1")
    attempt.identify(startup(login), TLS)
    with pytest.raises(LoginRefused) as caught:
        attempt.authenticate(startup(login), password)
    assert (caught.value.refusal.why, caught.value.refusal.message) == (Why.LOGIN, "")


def test_listed_role_has_groups_and_unlisted_ones_may_stay_after_a_reload() -> None:
    identity = make(person(groups=("dba",)), auth=Auth.UPSTREAM)
    attempt = identity.attempt(TARGET, "10.0.0.1")
    attempt.identify(startup(), TLS)
    authorization = attempt.authenticate(startup(), b"secret")
    assert authorization.groups == ("dba",)
    identity.reload(Users())
    assert identity.objection(authorization) == ""
    identity.reload(Users(people=(person(disabled=True),)))
    assert identity.objection(authorization) == "disabled"


# ------------------------------------------------------------------------------------------------------------- access


def test_account_s_credential_is_read_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    authorization = log_in(make(), startup())
    with pytest.raises(LoginRefused) as caught:
        server_access(authorization, TARGET)
    assert caught.value.event == "credential_unavailable"
    assert "TEST_APP_PASSWORD" not in caught.value.refusal.message
    monkeypatch.setenv("TEST_APP_PASSWORD", "s3cret-value")
    access = server_access(authorization, TARGET)
    assert (access.user, access.password, access.is_personal) == ("app_rw", b"s3cret-value", False)
    assert access.allowed == {"scram-sha-256-plus", "scram-sha-256"}
    assert "s3cret-value" not in repr(access)


def test_nobody_else_makes_an_authorization() -> None:
    root = Path(__file__).parents[3]
    sources = [
        path for package in ("dbproxy", "protocol", "classifiers", "config") for path in (root / package).rglob("*.py")
    ]
    makers = {path.parent.name for path in sources if re.search(r"(?<!class )\bAuthorization\(", path.read_text())}
    assert makers == {"identity"}


@given(st.text(max_size=30), st.one_of(st.none(), st.text(max_size=30)), st.sampled_from(list(Auth)))
def test_any_login_name_is_refused_or_known(login: str, database: str | None, auth: Auth) -> None:
    identity = make(auth=auth)
    attempt = identity.attempt(TARGET, "10.0.0.1")
    attempt.identify(startup(login, database), TLS)
    with pytest.raises(LoginRefused):
        attempt.authenticate(startup(login, database))
