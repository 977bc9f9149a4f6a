"""`dbproxy schema`: the JSON Schema of everything that dbproxy reads or writes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import orjson
import typer

from dbproxy.cli.options import write_json

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class What(StrEnum):
    """Something that has a schema."""

    SETTINGS = "settings"
    USERS = "users"
    POLICY = "policy"
    AUDIT = "audit"


def schema(what: Annotated[What, typer.Argument(help="Which format.", show_default=False)]) -> None:
    """Print the JSON Schema of a format, for editors and validators."""
    write_json(schema_of(what))


def schema_of(what: What) -> dict[str, object]:
    """The schema; modules are imported here so that each is loaded only when needed."""
    match what:
        case What.SETTINGS:
            from config.settings import Settings

            return {"$schema": DIALECT, **Settings.model_json_schema()}
        case What.USERS:
            from config.users import Users

            return {"$schema": DIALECT, **Users.model_json_schema()}
        case What.POLICY:
            from dbproxy.policy.document import PolicyFile

            return {"$schema": DIALECT, **PolicyFile.model_json_schema()}
        case What.AUDIT:
            from dbproxy.audit.schema import read_schema

            loaded: dict[str, object] = orjson.loads(read_schema())
            return loaded
