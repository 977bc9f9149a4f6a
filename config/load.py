"""Configuration files to frozen models: the only part of config that opens files.

Each check_… function returns everything it found; each load_… function returns the model or raises ConfigError with all of it.
Policies are read by dbproxy.policy.load, which knows the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import yaml

from config.check import check_document, salvage
from config.document import MAX_BYTES, Document, parse_document
from config.errors import ConfigError, Problem
from config.files import read_trusted, write_private
from config.relations import check_people, check_relations, check_users
from config.settings import Settings
from config.users import Users

T = TypeVar("T")

MAX_USERS_BYTES = 8 * 1024 * 1024

USERS_HEADER = """\
# People who may log in through the proxy. Written by `dbproxy user`: add, list, passwd, disable, enable, remove.
# It may be edited by hand; the next `dbproxy user` command drops comments.
"""


@dataclass(frozen=True, slots=True)
class Checked(Generic[T]):
    """A file that was looked at.

    value: None if there is an error. problems: errors and warnings, in the order of the file.
    rough: the value without the keys that are wrong, to look further; None if that leaves no valid value. Never to be used.
    """

    value: T | None
    problems: tuple[Problem, ...]
    rough: T | None = None

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if not problem.is_warning)

    def require(self) -> T:
        """The value. Raises ConfigError with all problems if there is none."""
        if self.value is None:
            raise ConfigError(self.problems)
        return self.value


def load_document(path: Path, max_bytes: int = MAX_BYTES) -> Document:
    """Read and parse a trusted file. Raises ConfigError."""
    return parse_document(read_trusted(path, max_bytes), str(path), max_bytes=max_bytes)


def check_settings(path: Path) -> Checked[Settings]:
    """Look at a settings file, and at every file it names except the policies."""
    try:
        document = load_document(path)
    except ConfigError as error:
        return Checked(None, error.problems)
    base = path.resolve().parent
    settings, problems = check_document(document, Settings, base)
    rough, lost = (settings, frozenset[tuple[str | int, ...]]()) if settings else salvage(document, Settings, base)
    if rough is not None:
        problems += check_relations(rough, document, lost)
        problems += _check_users_file(rough, document)
    return _checked(settings, problems, rough)


def load_settings(path: Path) -> Settings:
    """Read the settings file. Raises ConfigError with everything that is wrong."""
    return check_settings(path).require()


def check_users_file(path: Path) -> Checked[Users]:
    """Look at a users file by itself."""
    try:
        document = load_document(path, MAX_USERS_BYTES)
    except ConfigError as error:
        return Checked(None, error.problems)
    return _checked(*_read_users(document, path))


def load_users(path: Path) -> Users:
    """Read the users file. Raises ConfigError with everything that is wrong."""
    return check_users_file(path).require()


def parse_users(data: bytes, path: Path) -> Users:
    """The users file from its content. path: for messages. Raises ConfigError with everything that is wrong."""
    document = parse_document(data, str(path), max_bytes=MAX_USERS_BYTES)
    users, problems = check_document(document, Users, path.parent)
    if users is not None:
        problems += check_people(users, document)
    return _checked(users, problems).require()


def save_users(path: Path, users: Users) -> None:
    """Write the users file anew, people in their order. Comments in it are lost. Raises OSError."""
    people = [person.model_dump(mode="json", exclude_defaults=True) for person in users.people]
    text = yaml.safe_dump({"version": 1, "people": people}, sort_keys=False, allow_unicode=True, width=1000)
    write_private(path, USERS_HEADER.encode() + text.encode())


def _read_users(document: Document, path: Path) -> tuple[Users | None, list[Problem]]:
    users, problems = check_document(document, Users, path.parent)
    rough = users or salvage(document, Users, path.parent)[0]
    if rough is not None:
        problems += check_people(rough, document)
    if path.stat().st_mode & 0o004:
        problems.append(
            Problem(str(path), 0, 0, "", "everyone may read the verifiers in it; run chmod 600", is_warning=True)
        )
    return users, problems


def _check_users_file(settings: Settings, document: Document) -> list[Problem]:
    path = settings.users.file
    if path is None:
        return []
    try:
        users_document = load_document(path, MAX_USERS_BYTES)
    except ConfigError as error:
        return [
            problem if problem.line else document.problem(("users", "file"), f"{path}: {problem.text}")
            for problem in error.problems
        ]
    users, problems = _read_users(users_document, path)
    if users is not None:
        problems += check_users(settings, users, users_document)
    return problems


def _checked(value: T | None, problems: list[Problem], rough: T | None = None) -> Checked[T]:
    has_errors = any(not problem.is_warning for problem in problems)
    return Checked(None if has_errors else value, tuple(sorted(problems)), rough or value)
