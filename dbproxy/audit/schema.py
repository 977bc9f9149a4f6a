"""The published JSON Schema of a record, draft 2020-12. The file beside this module is the source; a test holds it against EventType."""

from __future__ import annotations

from importlib.resources import files


def read_schema() -> bytes:
    """The schema as JSON text."""
    return files("dbproxy.audit").joinpath("schema.json").read_bytes()
