from __future__ import annotations

import getpass
import threading
from pathlib import Path

import pytest
from support.command_line import CommandLine
from support.settings_files import good_directory

from config.load import load_users
from dbproxy.cli import user
from protocol.scram import Verifier, build_verifier, parse_verifier


@pytest.fixture
def dbproxy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return good_directory(tmp_path)


def verifier_of(settings: Path, name: str) -> Verifier:
    person = load_users(settings.parent / "users.yaml").person(name)
    assert person is not None
    assert person.verifier is not None
    return parse_verifier(person.verifier)


def is_password(settings: Path, name: str, password: bytes) -> bool:
    stored = verifier_of(settings, name)
    return build_verifier(password, stored.salt, stored.iterations).encode() == stored.encode()


def test_a_person_is_added_with_a_password_from_standard_input(dbproxy: CommandLine, settings: Path) -> None:
    result = dbproxy(
        "user", "add", "alice", "-g", "dba", "-g", "ops", "-a", "shop:app", "--expires", "2030-01-31", "--password-stdin",
        "-s", settings, stdin="sésame öffne\n".encode(),
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert is_password(settings, "alice", "sésame öffne".encode())
    shown = dbproxy("user", "list", "-s", settings, "--json").json
    assert shown == [
        {
            "name": "alice",
            "groups": ["dba", "ops"],
            "disabled": False,
            "expires": "2030-01-31T00:00:00Z",
            "accounts": {"shop": ["app"]},
            "default_account": None,
            "has_password": True,
        }
    ]
    assert dbproxy("check", settings).code == 0


def test_a_password_is_asked_for_twice(dbproxy: CommandLine, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["one", "two", "one", "one"])
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(answers))
    differ = dbproxy("user", "add", "alice", "-s", settings)
    assert (differ.code, differ.err) == (2, "the two passwords differ; nothing was changed\n")
    assert load_users(settings.parent / "users.yaml").people == ()
    assert dbproxy("user", "add", "alice", "-s", settings).code == 0
    assert is_password(settings, "alice", b"one")


def test_passwd_changes_only_the_verifier(dbproxy: CommandLine, settings: Path) -> None:
    dbproxy("user", "add", "alice", "-g", "dba", "--password-stdin", "-s", settings, stdin=b"old\n")
    dbproxy("user", "add", "bob", "--no-password", "-s", settings)
    assert dbproxy("user", "passwd", "alice", "--password-stdin", "-s", settings, stdin=b"new").code == 0
    assert is_password(settings, "alice", b"new")
    people = load_users(settings.parent / "users.yaml").people
    assert [(person.name, person.groups) for person in people] == [("alice", ("dba",)), ("bob", ())]


def test_the_weak_verifier_is_stored_only_where_it_is_asked_for(dbproxy: CommandLine, settings: Path) -> None:
    def stored() -> str | None:
        person = load_users(settings.parent / "users.yaml").person("alice")
        assert person is not None
        return person.native_verifier

    dbproxy("user", "add", "alice", "--password-stdin", "-s", settings, stdin=b"password\n")
    assert stored() is None
    done = dbproxy(
        "user", "passwd", "alice", "--password-stdin", "--mysql-native-password", "-s", settings, stdin=b"password\n"
    )
    assert done.code == 0
    assert stored() == "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"
    assert "2470C0" not in dbproxy("user", "list", "-s", settings, "--json").out
    dbproxy("user", "passwd", "alice", "--password-stdin", "-s", settings, stdin=b"other\n")
    assert stored() is None  # or the old password would still do


def test_people_are_disabled_enabled_and_removed(dbproxy: CommandLine, settings: Path) -> None:
    for name in ("alice", "bob"):
        dbproxy("user", "add", name, "--password-stdin", "-s", settings, stdin=b"x\n")
    assert dbproxy("user", "disable", "alice", "-s", settings, "--json").json["disabled"] is True
    assert "disabled" in dbproxy("user", "list", "-s", settings).out
    assert dbproxy("user", "enable", "alice", "-s", settings).code == 0
    assert "disabled" not in dbproxy("user", "list", "-s", settings).out
    assert dbproxy("user", "remove", "alice", "-s", settings).code == 0
    assert [person["name"] for person in dbproxy("user", "list", "-s", settings, "--json").json] == ["bob"]


@pytest.mark.parametrize(
    ("words", "stdin", "problem"),
    [
        (
            ["add", "alice", "--password-stdin"],
            b"x",
            "'alice' exists already; to change the password run `dbproxy user passwd alice`",
        ),
        (["add", "a+b", "--password-stdin"], b"x", "name: must be a name of 1 to 63 characters"),
        (["add", "bob", "--password-stdin"], b"\n", "the password is empty; nothing was changed"),
        (["add", "bob", "--password-stdin"], b"", "the password is empty; nothing was changed"),
        (["add", "bob", "-a", "app", "--password-stdin"], b"x", "--account is TARGET:ACCOUNT, not 'app'"),
        (["add", "bob", "--expires", "soon", "--password-stdin"], b"x", "expires: must be a date or time"),
        (["passwd", "bob", "--password-stdin"], b"x", "there is nobody called 'bob'"),
        (["remove", "bob"], b"", "there is nobody called 'bob'"),
        (["disable", "bob"], b"", "there is nobody called 'bob'"),
    ],
)
def test_mistakes_change_nothing(
    dbproxy: CommandLine, settings: Path, words: list[str], stdin: bytes, problem: str
) -> None:
    dbproxy("user", "add", "alice", "--password-stdin", "-s", settings, stdin=b"canary-77\n")
    before = (settings.parent / "users.yaml").read_bytes()
    result = dbproxy("user", *words, "-s", settings, stdin=stdin)
    assert result.code == 2
    assert problem in result.err
    assert (settings.parent / "users.yaml").read_bytes() == before


def test_no_password_is_ever_an_argument_or_shown(dbproxy: CommandLine, settings: Path) -> None:
    shown = dbproxy("user", "add", "alice", "--password-stdin", "-s", settings, "--json", stdin=b"canary-77\n")
    listed = dbproxy("user", "list", "-s", settings), dbproxy("user", "list", "-s", settings, "--json")
    for result in (shown, *listed):
        assert "canary-77" not in result.out + result.err
        assert "SCRAM" not in result.out + result.err
    assert dbproxy("user", "add", "bob", "--password", "canary-77", "-s", settings).code == 2
    assert dbproxy("user", "passwd", "alice", "canary-77", "-s", settings).code == 2


def test_an_unknown_account_is_noted(dbproxy: CommandLine, settings: Path) -> None:
    result = dbproxy("user", "add", "alice", "-a", "shop:ap", "--password-stdin", "-s", settings, stdin=b"x")
    assert (result.code, result.err) == (0, "note: there is no account 'ap' on a target 'shop' in the settings\n")


def test_a_users_file_of_others_is_not_touched(dbproxy: CommandLine, settings: Path) -> None:
    path = settings.parent / "users.yaml"
    path.chmod(0o666)
    result = dbproxy("user", "add", "alice", "--password-stdin", "--file", path, stdin=b"x")
    assert (result.code, result.err) == (2, f"{path}: everyone may write to it; run chmod go-w\n")


def test_commands_at_the_same_time_lose_nobody(settings: Path) -> None:
    path = settings.parent / "users.yaml"

    def add(number: int) -> None:
        person = user._person({"name": f"p{number}"})
        user._rewrite(path, lambda users: users.model_copy(update={"people": (*users.people, person)}))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_users(path).people) == 12
