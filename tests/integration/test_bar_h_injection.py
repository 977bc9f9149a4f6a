"""SECURITY_BAR H14 over the wire: 1,000 texts made to break a log, as SQL, user, application_name and database of real sessions."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from support import pg_bytes as pg
from support.figures import record
from support.proxy import Proxy
from support.raw_client import Left, RawClient, logged_in
from support.servers import Database

pytestmark = pytest.mark.integration

HARMLESS_LINE = re.compile(
    "[^\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]*"
)
ATTACKS = [
    b"\r\n", b"\n", b"\r", b"\x1b[2J\x1b[1;31m", b"\x07", b"\x08\x08\x08", b"\x7f", b"\t\v\f", "\u2028".encode(), "\u2029".encode(),
    "\u0085".encode(), "\u009b31m".encode(), "\u202egnp.exe".encode(), "\u2066x\u2069".encode(), "\u200b\u200f\ufeff\u061c".encode(),
    "\U000e0041".encode(), "\U0001f600".encode(), b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x28\xa1", b"\x80",
    b'","type":"policy.loaded","x":"', b'"}\n{"v":"dbproxy.audit/1"', b'","hash":"' + b"0" * 64 + b'"}\n', b"\\", b"\\u0000", b'\\"',
    b"${jndi:ldap://x}", b"<script>alert(1)</script>", b"%s%n", b"=cmd|' /C calc'!A0", "\u00e9\u6f22\u5b57".encode(), b"'; DROP TABLE x; --",
]  # fmt: skip
SQL, NAMES = 1000, 100


def vectors() -> list[bytes]:
    rng = random.Random(1414)
    found = list(ATTACKS)
    while len(found) < SQL + 9 * NAMES:
        found.append(b"SELECT 1 ".join(rng.choice(ATTACKS) for _ in range(rng.randrange(1, 6))))
    return found


def is_name(text: bytes) -> bool:
    """What is not UTF-8 is refused before it becomes a name; + and % divide a person from an account."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return not {b"+"[0], b"%"[0]} & set(text)


def patient(settings: dict[str, Any]) -> None:
    settings["limits"] = {
        "login_failures": {"per_address": 10_000, "per_user": 10_000, "window_s": 60},
        "max_sessions_per_user": 500,
    }


def original(fields: dict[str, Any], name: str) -> bytes:
    if name + "_base64" in fields:
        return base64.b64decode(fields[name + "_base64"])
    return str(fields.get(name, "")).encode("utf-8", "surrogateescape")


def test_1000_injections_stay_one_harmless_line_each(make_proxy: Callable[..., Proxy], vault: Database) -> None:
    proxy = make_proxy(database=vault.name, change=patient)
    address = proxy.address("alice", vault.name)
    texts = vectors()
    sql, names = texts[:SQL], [text for text in texts[SQL:] if is_name(text)]
    users, applications, databases = (names[n * NAMES : (n + 1) * NAMES] for n in range(3))
    assert len(databases) == NAMES
    with logged_in(address) as client:
        for text in sql:
            client.query(text)
    for text in applications:
        client = RawClient.open(address["host"], address["port"])
        try:
            client.send(pg.startup([("user", "alice"), ("database", vault.name), ("application_name", text)]))
            client.finish_login(address["password"])
        except (Left, AssertionError):
            pass  # PostgreSQL, or the proxy, may not take the name
        finally:
            client.close()
    for user, database in [*((text, vault.name) for text in users), *(("alice", text) for text in databases)]:
        client = RawClient.open(address["host"], address["port"])
        try:
            client.send(pg.startup([("user", user), ("database", database)]))
            client.finish_login(address["password"])
        except (Left, AssertionError):
            pass
        finally:
            client.close()
    assert proxy.stop() == 0

    records, broken = [], 0
    for path in proxy.ledger.glob("*.jsonl"):
        lines = path.read_bytes().decode().split("\n")
        assert lines.pop() == ""
        for line in lines:
            broken += HARMLESS_LINE.fullmatch(line) is None
            records.append(json.loads(line))
    intents = [each for each in records if each["type"] == "statement.intent"]
    told = [each for each in intents if not each["redacted"]]
    assert [original(each, "sql") for each in told] == [
        text for text, each in zip(sql, intents, strict=True) if not each["redacted"]
    ]
    assert len(told) >= 700, "more was redacted than unreadable texts with hints of a secret give cause for"
    logins = [each for each in records if each["type"] in {"login.success", "login.failure", "connection.rejected"}]
    known = {name: {original(each, name) for each in records} for name in ("person", "application", "database")}
    missing = (
        [text for text in users if text not in known["person"]]
        + [text for text in applications if text not in known["application"]]
        + [text for text in databases if text not in known["database"]]
    )
    assert len(logins) >= 3 * NAMES
    record(
        "H14",
        "texts made to break a log: lines broken, or bytes not recoverable",
        count=len(told) + 3 * NAMES,
        failures=broken + len(missing),
        missing=[text.hex() for text in missing[:5]],
    )
