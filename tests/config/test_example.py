"""The shipped example: accepted as it is, and what its comments say about defaults is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from config.document import parse_document
from config.settings import SHIPPED_POLICIES, Settings
from config.users import Users

EXAMPLE = SHIPPED_POLICIES.parent / "example.yaml"
PLACEHOLDERS = {"certificate", "key", "ca", "proxy_protocol_from", "monitor"}
NAMES = set(Settings.model_fields) | {
    name for definition in Settings.model_json_schema()["$defs"].values() for name in definition.get("properties", {})
}


def read(text: str) -> dict[str, object]:
    plain = parse_document(text.encode(), "example.yaml").root.plain()
    assert isinstance(plain, dict)
    return plain


def uncommented() -> str:
    """The example with every commented-out setting in force, except those that need a file or say `nobody`."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        found = re.fullmatch(r"( *)# ( *)(\w+):( .*)?", line)
        if found and found[3] in NAMES - PLACEHOLDERS:
            line = f"{found[1]}{found[2]}{found[3]}:{found[4] or ''}"
        lines.append(line)
    return "\n".join(lines)


def test_commented_values_are_the_defaults() -> None:
    base = {"base": Path("/etc/dbproxy")}
    plain = Settings.model_validate_json(json.dumps(read(EXAMPLE.read_text())), context=base)
    full = Settings.model_validate_json(json.dumps(read(uncommented())), context=base)
    assert full == plain
    assert "write_buffer_bytes" in read(uncommented())["limits"]  # type: ignore[operator]  # a mapping, or the test fails


def test_every_setting_is_in_the_example() -> None:
    text = EXAMPLE.read_text()
    assert [name for name in sorted(NAMES) if not re.search(rf"\b{name}:", text)] == []


@pytest.mark.parametrize("model", [Settings, Users])
def test_schemas_are_valid_and_described(model: type[Settings | Users]) -> None:
    schema = model.model_json_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False


def test_the_schema_accepts_the_example() -> None:
    Draft202012Validator(Settings.model_json_schema()).validate(read(EXAMPLE.read_text()))
