"""A reference to a secret: where it is, never what it is.

Settings hold references only, so that they may be printed, compared and dumped. The value is read when it is needed, so that a
rotated password is picked up by the next login.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

_REFERENCE = re.compile(r"\$\{(env|file):([^{}\x00]+)\}")

MAX_SECRET_BYTES = 4096
"""A password file larger than this is a mistake, such as the path of a data file."""


class SecretError(Exception):
    """The reference cannot be read now. Its text names the reference and the cause, never a value."""


class SecretRef:
    """`${env:NAME}` or `${file:/path}`. Build with parse; equal when they refer to the same place."""

    __slots__ = ("name", "source")

    def __init__(self, source: str, name: str) -> None:
        self.source = source
        self.name = name

    @classmethod
    def parse(cls, text: str, base: Path | None = None) -> SecretRef:
        """Read a reference. base: directory that a relative file name starts from.

        Raises ValueError if the text is not a reference; the text is not repeated, since it may be a password.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise ValueError(
                "a secret must not be written here: put it elsewhere and refer to it with ${env:NAME} or ${file:/path}"
            )
        source, name = found.group(1), found.group(2)
        if source == "file":
            name = str((base or Path()) / Path(name))
        return cls(source, name)

    def resolve(self) -> bytes:
        """Read the secret now. One trailing newline of a file is dropped.

        Raises SecretError if it is unset, unreadable, empty, too large, or in a file that others may read or change.
        """
        if self.source == "env":
            value = os.environb.get(os.fsencode(self.name))
            if not value:
                raise SecretError(f"{self}: environment variable is not set or empty")
            return value
        try:
            with Path(self.name).open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if not stat.S_ISREG(mode):
                    raise SecretError(f"{self}: not a regular file")
                if mode & 0o022 or mode & 0o004:
                    raise SecretError(f"{self}: others may read or change the file; run chmod 600")
                value = file.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            raise SecretError(f"{self}: {error.strerror}") from error
        value = value.removesuffix(b"\n").removesuffix(b"\r")
        if not value or len(value) > MAX_SECRET_BYTES:
            raise SecretError(f"{self}: the file is {'too large' if value else 'empty'}")
        return value

    def __str__(self) -> str:
        return f"${{{self.source}:{self.name}}}"

    def __repr__(self) -> str:
        return f"SecretRef({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretRef) and (self.source, self.name) == (other.source, other.name)

    def __hash__(self) -> int:
        return hash((self.source, self.name))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: str, info: ValidationInfo) -> SecretRef:
            return cls.parse(value, (info.context or {}).get("base"))

        return core_schema.with_info_after_validator_function(
            read, core_schema.str_schema(), serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "string",
            "pattern": r"^\$\{(env|file):[^{}]+\}$",
            "examples": ["${env:DB_PASSWORD}", "${file:/run/secrets/db}"],
        }
