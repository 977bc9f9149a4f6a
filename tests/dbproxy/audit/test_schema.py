"""The published schema, the enum of types and what the ledger writes are the same thing."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dbproxy.audit.ledger import AuditDown, Ledger
from dbproxy.audit.record import array_member, members, parameter_digest, sql_members
from dbproxy.audit.schema import read_schema
from dbproxy.audit.types import EventType

SCHEMA = json.loads(read_schema())
VALIDATOR = Draft202012Validator(SCHEMA)
ENVELOPE = {"v": "dbproxy.audit/1", "seq": 1, "prev": "0" * 64, "at": "2026-01-01T00:00:00.000000Z", "hash": "0" * 64}


def test_schema_is_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_schema_and_enum_have_the_same_types() -> None:
    names = [type_.value.decode() for type_ in EventType]
    assert SCHEMA["properties"]["type"]["enum"] == names
    assert [branch["if"]["properties"]["type"]["const"] for branch in SCHEMA["allOf"]] == names
    assert set(names) <= set(SCHEMA["$defs"])


@pytest.mark.parametrize("type_", list(EventType), ids=lambda type_: type_.value.decode())
def test_unknown_fields_are_not_allowed(type_: EventType) -> None:
    record = ENVELOPE | {"type": type_.value.decode(), "not_a_field": 1}
    assert any("not_a_field" in error.message for error in VALIDATOR.iter_errors(record))


def check(directory: Path) -> set[str]:
    found = set()
    for path in directory.glob("audit-*.jsonl"):
        for line in path.read_bytes().splitlines():
            record = json.loads(line)
            assert [error.message for error in VALIDATOR.iter_errors(record)] == []
            found.add(record["type"])
    return found


def test_records_of_the_ledger_itself_fit_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time_ns()]
    ledger = Ledger(tmp_path, segment_bytes=4096, reserve_bytes=64 << 10, now_ns=lambda: now[0])
    ledger.open()
    body = sql_members(b"SELECT 1", is_redacted=False) + b',"act":"query","action":"allow"'
    for number in range(20):
        ledger.intent(("s1", number), body)
        ledger.flush()
    next(tmp_path.glob("*.jsonl"))
    max(tmp_path.glob("*.jsonl")).unlink()
    now[0] += 1_000_000_000
    ledger.outcome(("s1", 0), b'"status":"ok"')
    ledger.flush()
    write = os.write

    def fail(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", fail)
    ledger.outcome(("s1", 1), b'"status":"ok"')
    with pytest.raises(AuditDown):
        ledger.flush()
    monkeypatch.setattr(os, "write", write)
    assert ledger.try_resume()
    ledger._release_files()
    last = max(tmp_path.glob("*.jsonl"))
    os.truncate(last, last.stat().st_size - 10)
    ledger = Ledger(tmp_path, segment_bytes=4096, reserve_bytes=64 << 10, now_ns=time.time_ns)
    ledger.open()
    ledger.close("test")
    assert {
        "segment.start",
        "segment.end",
        "segment.lost",
        "recovery",
        "statement.intent",
        "statement.outcome",
    } <= check(tmp_path)


def test_a_full_statement_event_fits_the_schema() -> None:
    body = b",".join(
        [
            members(
                {
                    "session": "s1", "statement": 5, "person": "alice", "account": "app", "server_user": "app", "database": b"shop", "target": "shop",
                    "env": "prod", "client": "127.0.0.1:5000", "tls": "TLSv1.3", "server_pid": 77, "application": b"psql\xff", "act": "execute",
                    "kinds": ["dml_read"], "flags": [], "reads": ["customers"], "writes": [], "functions": ["lower"], "command": "SELECT",
                    "action": "alert", "policy": "a" * 64, "unsafe": [],
                    "rules": [{"name": "r1", "mode": "enforce", "action": "alert", "severity": "low", "matched": "kind dml_read"}],
                }
            ),
            sql_members(b"SELECT 1", is_redacted=False),
            array_member(b"parameters", [parameter_digest(b"int4", b"1234", b"k" * 32), parameter_digest(b"text", None, b"k" * 32)]),
        ]
    )  # fmt: skip
    record = ENVELOPE | {"type": "statement.intent"} | json.loads(b"{%b}" % body)
    assert [error.message for error in VALIDATOR.iter_errors(record)] == []
