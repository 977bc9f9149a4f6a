"""People: who may log in through the proxy, how they prove it, and what they may act as.

The file is written by `dbproxy user` and may be edited by hand. Reading and writing is load.py and save_users.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from config.settings import Model, Name


def _verifier(text: str) -> str:
    """Check the form of a verifier. The value is not repeated in the error."""
    method, _, rest = text.partition("$")
    iterations, _, rest = rest.partition(":")
    salt, _, keys = rest.partition("$")
    stored, _, server = keys.partition(":")
    try:
        sizes = [len(base64.b64decode(part, validate=True)) for part in (salt, stored, server)]
    except (binascii.Error, ValueError):
        sizes = []
    if method != "SCRAM-SHA-256" or not iterations.isdigit() or not sizes or not sizes[0] or sizes[1:] != [32, 32]:
        raise ValueError("must be SCRAM-SHA-256$iterations:salt$stored:server; set it with `dbproxy user passwd`")
    if not 4096 <= int(iterations) <= 100_000:
        raise ValueError("the iteration count must be between 4096 and 100000")
    return text


def _sha2_verifier(text: str) -> str:
    """Check the form of MySQL's verifier. The value is not repeated in the error."""
    plain = text
    if text[:2].lower() == "0x":
        try:
            plain = bytes.fromhex(text[2:]).decode("ascii")
        except ValueError:
            plain = ""
    if not re.fullmatch(r"\$A\$0[0-9A-F]{2}\$[\x01-\x7f]{63}", plain) or not 1 <= int(plain[3:6], 16) <= 100:
        raise ValueError("must be $A$005$ and 63 characters, or that in hexadecimal; set it with `dbproxy user passwd`")
    return text


def _native_verifier(text: str) -> str:
    if not re.fullmatch(r"\*[0-9A-Fa-f]{40}", text):
        raise ValueError(
            "must be * and 40 hexadecimal digits; set it with `dbproxy user passwd --mysql-native-password`"
        )
    return text


def _expiry(text: object) -> dt.datetime:
    try:
        when = dt.datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError as error:
        raise ValueError("must be a date or time such as 2030-01-31 or 2030-01-31T18:00:00+01:00") from error
    return when if when.tzinfo else when.replace(tzinfo=dt.UTC)


Verifier = Annotated[str, AfterValidator(_verifier)]
Sha2Verifier = Annotated[str, AfterValidator(_sha2_verifier)]
NativeVerifier = Annotated[str, AfterValidator(_native_verifier)]
Expiry = Annotated[
    dt.datetime,
    BeforeValidator(_expiry),
    WithJsonSchema({"type": "string", "examples": ["2030-01-31", "2030-01-31T18:00:00+01:00"]}),
]


class Person(Model):
    """One person."""

    name: Name
    """The login name, unique."""
    groups: tuple[Name, ...] = ()
    """Policies match on them."""
    verifier: Verifier | None = Field(default=None, repr=False)
    """PostgreSQL's form of a SCRAM-SHA-256 verifier. Without one the person cannot log in with users.auth local."""
    sha2_verifier: Sha2Verifier | None = Field(default=None, repr=False)
    """MySQL's form of a caching_sha2_password verifier, of the same password. Needed to log in to MySQL and MariaDB with users.auth local."""
    native_verifier: NativeVerifier | None = Field(default=None, repr=False)
    """MySQL's form of a mysql_native_password verifier, of the same password. Weak: only for listeners with mysql_native_password."""
    disabled: bool = False
    """May not log in; sessions that are open end on reload."""
    expires: Expiry | None = None
    """From this moment on the person may not log in. Has a time zone, UTC when the file says none; a date is its first moment."""
    accounts: dict[Name, tuple[Name, ...]] | None = None
    """Which accounts of which target the person may use. When not set: the default account of each target; {} means none."""
    default_account: Name | None = None
    """The account when the login name says none. When not set: the only one listed, or the target's default if it is listed."""

    def account_for(self, target: str, target_default: str | None, asked: str | None) -> str | None:
        """The account to use on a target, None if there is none that this person may use.

        target_default: the target's default account. asked: the account named in the login, None if it names none.
        """
        if self.accounts is None:
            allowed: tuple[str, ...] = (target_default,) if target_default else ()
        else:
            allowed = self.accounts.get(target, ())
        if asked is not None:
            return asked if asked in allowed else None
        for choice in (self.default_account, target_default):
            if choice is not None and choice in allowed:
                return choice
        return allowed[0] if len(allowed) == 1 else None


class Users(Model):
    """The users file."""

    version: Literal[1] = 1
    """Version of this format: 1."""
    people: tuple[Person, ...] = ()

    def person(self, name: str) -> Person | None:
        """The person of that name."""
        return next((person for person in self.people if person.name == name), None)
