"""Record bodies: one line, valid JSON, original bytes recoverable, whatever the client sends (H14)."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import time
from pathlib import Path

import pytest

from dbproxy.audit.ledger import Ledger
from dbproxy.audit.record import (
    array_member,
    encode_text,
    members,
    parameter_digest,
    parameter_value,
    sql_members,
    text_member,
)
from dbproxy.audit.types import EventType
from dbproxy.audit.verify import Status, verify_directory

HARMLESS_LINE = re.compile(
    "[^\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]*"
)

ATTACKS = [
    b"\r\n", b"\n", b"\r", b"\x00", b"\x1b[2J\x1b[1;31m", b"\x07", b"\x08\x08\x08", b"\x7f", b"\t\v\f",
    "\u2028".encode(), "\u2029".encode(), "\u0085".encode(), "\u009b31m".encode(), "\u202egnp.exe".encode(), "\u2066x\u2069".encode(),
    "\u200b\u200f\ufeff\u061c".encode(), "\U000e0041".encode(), "\U0001f600".encode(), b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"\xe2\x28\xa1", b"\x80", b'","type":"policy.loaded","x":"', b'"}\n{"v":"dbproxy.audit/1"', b'","hash":"' + b"0" * 64 + b'"}\n', b"\\", b"\\u0000", b'\\"',
    b"${jndi:ldap://x}", b"<script>alert(1)</script>", b"%s%n", b"=cmd|' /C calc'!A0", "é漢字".encode(), "\uffff\ufffe".encode(), b"'; DROP TABLE x; --",
]  # fmt: skip


def vectors() -> list[bytes]:
    """1,000 texts: every attack alone, then random ones put together."""
    rng = random.Random(14)
    found = list(ATTACKS)
    while len(found) < 1000:
        found.append(b"SELECT 1 ".join(rng.choice(ATTACKS) for _ in range(rng.randrange(1, 6))))
    return found


def original(fields: dict[str, str], name: str) -> bytes:
    return base64.b64decode(fields[name + "_base64"]) if name + "_base64" in fields else fields[name].encode()


def test_1000_injections_stay_one_harmless_line_with_their_bytes_recoverable(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, segment_bytes=1 << 30, reserve_bytes=4 << 20, now_ns=time.time_ns, node="test")
    ledger.open()
    texts = vectors()
    names = ("sql", "person", "application", "database")
    for number, text in enumerate(texts):
        body = b",".join(text_member(name.encode(), text) for name in names)
        ledger.intent(("s1", number), body)
        ledger.outcome(
            ("s1", number), members({"status": "ok", "tag": text, "code": text.decode("utf-8", "surrogateescape")})
        )
    ledger.close("test")
    assert verify_directory(tmp_path).status is Status.OK
    data = next(tmp_path.glob("*.jsonl")).read_bytes()
    lines = data.decode().split("\n")
    assert lines.pop() == ""
    assert len(lines) == 2 * len(texts) + 2
    for line in lines:
        assert HARMLESS_LINE.fullmatch(line)
    intents = [json.loads(line) for line in lines if '"type":"statement.intent"' in line[:250]]
    outcomes = [json.loads(line) for line in lines if '"type":"statement.outcome"' in line[:250]]
    for text, intent, outcome in zip(texts, intents, outcomes, strict=True):
        for name in names:
            assert original(intent, name) == text
        assert original(outcome, "tag") == original(outcome, "code") == text
        assert intent["type"] == "statement.intent"


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_and_characters_come_back(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        data = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
        assert original(json.loads(b"{%b}" % text_member(b"x", data)), "x") == data
        text = "".join(
            chr(rng.choice([rng.randrange(128), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))
            for _ in range(rng.randrange(40))
        )
        encoded = encode_text(text.encode())
        assert encoded is not None
        assert json.loads(encoded) == text
        assert HARMLESS_LINE.fullmatch(encoded.decode())


def test_text_that_is_not_utf8_has_no_plain_member() -> None:
    assert encode_text(b"\xff") is None
    assert json.loads(b"{%b}" % text_member(b"sql", b"\xff")) == {"sql_base64": "/w=="}


def test_lone_surrogates_in_names_are_kept() -> None:
    fields = json.loads(
        b"{%b}"
        % members({"person": "a\udcff", "database": "\ud800", "list": ["a\udcff"], "none": None, "n": 1.5, "yes": True})
    )
    assert base64.b64decode(fields["person_base64"]) == b"a\xff"
    assert base64.b64decode(fields["database_base64"]) == "\ud800".encode("utf-8", "surrogatepass")
    assert fields["list"] == ["a\\udcff"]
    assert (fields["none"], fields["n"], fields["yes"]) == (None, 1.5, True)


def test_nested_text_is_made_harmless_too() -> None:
    encoded = members({"rules": [{"matched": "\u202e\u2028\x7f"}]})
    assert HARMLESS_LINE.fullmatch(encoded.decode())
    assert json.loads(b"{%b}" % encoded) == {"rules": [{"matched": "\u202e\u2028\x7f"}]}


def test_no_members_is_an_empty_body() -> None:
    assert members({}) == b""


def test_sql_is_stored_with_length_and_digest_of_what_is_stored() -> None:
    sql = "ALTER ROLE é PASSWORD '***'".encode()
    fields = json.loads(b"{%b}" % sql_members(sql, is_redacted=True))
    assert fields == {
        "sql": sql.decode(),
        "sql_sha256": hashlib.sha256(sql).hexdigest(),
        "sql_bytes": len(sql),
        "redacted": True,
    }


def test_a_16_mib_statement_is_encoded_whole() -> None:
    for sql in (b"x" * (16 << 20), b"\x01" * (1 << 20), b"\xff" * (1 << 20), "\u2028".encode() * (1 << 18)):
        fields = json.loads(b"{%b}" % sql_members(sql, is_redacted=False))
        assert original(fields, "sql") == sql
        assert fields["sql_bytes"] == len(sql)


def test_parameters() -> None:
    key = b"k" * 32
    encoded = array_member(
        b"parameters",
        [
            parameter_digest(b"int4", b"\x00\x00\x00\x01", key),
            parameter_digest(b"text", None, key),
            parameter_value(b"int4", b"\x00\x00\x00\x01", b"1"),
            parameter_value(b"bytea", b"\xff"),
            parameter_value(b"text", None),
        ],
    )
    digest, null, value, raw, null_value = json.loads(b"{%b}" % encoded)["parameters"]
    assert (digest["type"], digest["size"], len(digest["digest"])) == ("int4", 4, 64)
    assert null == null_value == {"type": "text", "size": None}
    assert value == {"type": "int4", "size": 4, "value": "1"}
    assert raw == {"type": "bytea", "size": 1, "value_base64": "/w=="}


def test_equal_parameters_have_equal_digests_under_one_key_only() -> None:
    assert parameter_digest(b"text", b"x", b"a" * 32) == parameter_digest(b"text", b"x", b"a" * 32)
    assert parameter_digest(b"text", b"x", b"a" * 32) != parameter_digest(b"text", b"x", b"b" * 32)


def test_event_types_go_into_records_by_their_value(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=time.time_ns)
    ledger.open()
    for type_ in EventType:
        if not type_.value.startswith((b"segment.", b"statement.intent", b"statement.outcome", b"recovery")):
            ledger.append(type_, b'"x":1')
    ledger.flush()
    found = [json.loads(line)["type"] for line in next(tmp_path.glob("*.jsonl")).read_bytes().splitlines()[1:]]
    assert found == [
        t.value.decode()
        for t in EventType
        if not t.value.startswith((b"segment.", b"statement.intent", b"statement.outcome", b"recovery"))
    ]
