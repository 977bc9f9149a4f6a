"""`dbproxy user`: people in the users file. Passwords are asked for or read from standard input, never taken as an argument."""

from __future__ import annotations

import datetime as dt
import getpass
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.files import locked_directory
from config.load import load_settings, load_users, save_users
from config.settings import Settings
from config.users import Person, Users
from dbproxy.cli.options import JsonOption, SettingsOption, settings_path, write_json
from dbproxy.errors import DbproxyError
from protocol.native import build_native_verifier
from protocol.scram import build_verifier
from protocol.sha2 import MAX_PASSWORD_BYTES, build_sha2_verifier
from protocol.sha2 import SALT_BYTES as SHA2_SALT_BYTES

app = typer.Typer(help="People who may log in: add, list, remove, passwd, disable, enable.")

SALT_BYTES = 16
"""As PostgreSQL's own."""

NameArgument = Annotated[str, typer.Argument(help="The person's login name.", show_default=False)]
FileOption = Annotated[
    Path | None, typer.Option("--file", help="Users file; that of the settings when not given.", show_default=False)
]
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input.")
]
NativeOption = Annotated[
    bool,
    typer.Option(
        "--mysql-native-password",
        help="Store an unsalted SHA-1 verifier too, for MySQL clients that know nothing better; weak, see the README.",
    ),
]


class UserCommandError(DbproxyError):
    """The users file stays as it is."""


@app.command("list")
def list_people(file: FileOption = None, settings: SettingsOption = None, json: JsonOption = False) -> None:
    """List people. Verifiers are not shown."""
    people = load_users(_users_path(file, settings)).people
    now = dt.datetime.now(dt.UTC)
    if json:
        write_json([_fields(person) for person in people])
        return
    table = Table("name", "groups", "accounts", "status", "expires", box=None, pad_edge=False)
    for person in people:
        accounts = (
            "default"
            if person.accounts is None
            else " ".join(f"{t}:{a}" for t, each in person.accounts.items() for a in each)
        )
        expires = person.expires.isoformat(sep=" ") if person.expires else ""
        cells = (person.name, " ".join(person.groups), accounts or "none", _status(person, now), expires)
        table.add_row(*map(Text, cells))
    Console(highlight=False).print(table)


@app.command("add")
def add(
    name: NameArgument,
    group: Annotated[
        list[str] | None, typer.Option("--group", "-g", help="A group; may be repeated.", show_default=False)
    ] = None,
    account: Annotated[
        list[str] | None, typer.Option("--account", "-a", help="TARGET:ACCOUNT; may be repeated.", show_default=False)
    ] = None,
    default_account: Annotated[
        str | None, typer.Option(help="The account when the login names none.", show_default=False)
    ] = None,
    expires: Annotated[str | None, typer.Option(help="A date or time, such as 2030-01-31.", show_default=False)] = None,
    password_stdin: StdinOption = False,
    no_password: Annotated[bool, typer.Option("--no-password", help="Set one later; until then no log-in.")] = False,
    native: NativeOption = False,
    file: FileOption = None,
    settings: SettingsOption = None,
    json: JsonOption = False,
) -> None:
    """Add a person. Without --account: the default account of each target."""
    path = _users_path(file, settings)
    if load_users(path).person(name) is not None:
        raise UserCommandError(
            f"{path}: '{name}' exists already; to change the password run `dbproxy user passwd {name}`"
        )
    entry: dict[str, object] = {
        "name": name,
        "groups": group or [],
        "default_account": default_account,
        "expires": expires,
    }
    if account:
        entry["accounts"] = _accounts(account)
    person = _person(entry)  # before the password is asked for
    if not no_password:
        person = person.model_copy(update=_new_verifiers(name, password_stdin, native))

    def change(users: Users) -> Users:
        if users.person(name) is not None:
            raise UserCommandError(f"{path}: '{name}' exists already")
        return users.model_copy(update={"people": (*users.people, person)})

    _rewrite(path, change)
    _say(json, person, f"added {name} to {path}")
    if settings is not None or file is None:
        _hint_accounts(load_settings(settings_path(settings)), person)


@app.command("remove")
def remove(
    name: NameArgument, file: FileOption = None, settings: SettingsOption = None, json: JsonOption = False
) -> None:
    """Remove a person."""
    path = _users_path(file, settings)
    removed: list[Person] = []

    def change(users: Users) -> Users:
        removed.append(_find(users, name, path))
        return users.model_copy(update={"people": tuple(person for person in users.people if person.name != name)})

    _rewrite(path, change)
    _say(json, removed[0], f"removed {name} from {path}")


@app.command("passwd")
def passwd(
    name: NameArgument,
    password_stdin: StdinOption = False,
    native: NativeOption = False,
    file: FileOption = None,
    settings: SettingsOption = None,
    json: JsonOption = False,
) -> None:
    """Set a person's password. Nothing made of the old one is kept."""
    path = _users_path(file, settings)
    _find(load_users(path), name, path)
    person = _update(path, name, _new_verifiers(name, password_stdin, native))
    _say(json, person, f"changed the password of {name} in {path}")


@app.command("disable")
def disable(
    name: NameArgument, file: FileOption = None, settings: SettingsOption = None, json: JsonOption = False
) -> None:
    """Keep a person from logging in. A running proxy reads the file within seconds and ends the person's sessions."""
    path = _users_path(file, settings)
    _say(json, _update(path, name, {"disabled": True}), f"disabled {name} in {path}")


@app.command("enable")
def enable(
    name: NameArgument, file: FileOption = None, settings: SettingsOption = None, json: JsonOption = False
) -> None:
    """Let a disabled person log in again."""
    path = _users_path(file, settings)
    _say(json, _update(path, name, {"disabled": False}), f"enabled {name} in {path}")


def _users_path(file: Path | None, settings: Path | None) -> Path:
    if file is not None:
        return file
    loaded = load_settings(settings_path(settings))
    if loaded.users.file is None:
        raise UserCommandError(f"{settings_path(settings)}: users.file is not set")
    return loaded.users.file


def _rewrite(path: Path, change: Callable[[Users], Users]) -> None:
    """Read, change and write the users file while no other dbproxy command does."""
    try:
        with locked_directory(path):
            save_users(path, change(load_users(path)))
    except OSError as error:
        raise UserCommandError(f"{path}: cannot be written: {error.strerror}") from error


def _update(path: Path, name: str, values: dict[str, object]) -> Person:
    def change(users: Users) -> Users:
        _find(users, name, path)
        people = tuple(person.model_copy(update=values) if person.name == name else person for person in users.people)
        return users.model_copy(update={"people": people})

    _rewrite(path, change)
    return _find(load_users(path), name, path)


def _find(users: Users, name: str, path: Path) -> Person:
    person = users.person(name)
    if person is None:
        raise UserCommandError(f"{path}: there is nobody called '{name}'")
    return person


def _person(entry: dict[str, object]) -> Person:
    try:
        return Person.model_validate_json(orjson.dumps(entry))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        cause = first.get("ctx", {}).get("error", first["msg"])
        raise UserCommandError(f"{first['loc'][0]}: {cause}") from None


def _accounts(texts: list[str]) -> dict[str, list[str]]:
    accounts: dict[str, list[str]] = {}
    for text in texts:
        target, colon, account = text.partition(":")
        if not colon:
            raise UserCommandError(f"--account is TARGET:ACCOUNT, not '{text}'")
        accounts.setdefault(target, []).append(account)
    return accounts


def _new_verifiers(name: str, from_stdin: bool, has_native: bool) -> dict[str, object]:
    """Ask for a password; what is kept of it, for each protocol."""
    if from_stdin:
        password = sys.stdin.buffer.readline().rstrip(b"\r\n")
    else:
        password = getpass.getpass(f"Password for {name}: ").encode()
        if password != getpass.getpass("Once more: ").encode():
            raise UserCommandError("the two passwords differ; nothing was changed")
    if not password:
        raise UserCommandError("the password is empty; nothing was changed")
    sha2 = (
        build_sha2_verifier(password, secrets.token_bytes(SHA2_SALT_BYTES))
        if len(password) <= MAX_PASSWORD_BYTES
        else None
    )
    return {
        "verifier": build_verifier(password, secrets.token_bytes(SALT_BYTES)).encode(),
        "sha2_verifier": sha2.encode() if sha2 is not None else None,
        "native_verifier": build_native_verifier(password).encode() if has_native else None,
    }


def _hint_accounts(settings: Settings, person: Person) -> None:
    for target in settings.targets:
        if person.accounts is None and target.default_account is None:
            print(
                f"note: target '{target.name}' has no default_account, so {person.name} cannot use it", file=sys.stderr
            )
    for name, accounts in (person.accounts or {}).items():
        known = {account.name for target in settings.targets if target.name == name for account in target.accounts}
        for account in accounts:
            if account not in known:
                print(f"note: there is no account '{account}' on a target '{name}' in the settings", file=sys.stderr)


def _status(person: Person, now: dt.datetime) -> str:
    if person.disabled:
        return "disabled"
    if person.expires is not None and person.expires <= now:
        return "expired"
    return "active" if person.verifier else "no password"


def _fields(person: Person) -> dict[str, object]:
    shown = person.model_dump(mode="json", exclude={"verifier", "sha2_verifier", "native_verifier"})
    return {**shown, "has_password": person.verifier is not None}


def _say(json: bool, person: Person, text: str) -> None:
    if json:
        write_json(_fields(person))
    else:
        print(text)
