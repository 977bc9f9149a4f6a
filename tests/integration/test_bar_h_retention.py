"""SECURITY_BAR H7, H8: retention in the running proxy. What goes leaves a signed record with its digests, and the ledger verifies all the while."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from support.figures import record
from support.processes import wait_until
from support.proxy import Proxy, running_proxy
from support.servers import Database

from dbproxy.audit.segment import find_segments

pytestmark = pytest.mark.integration

MAX_BYTES = 1 << 20
STATEMENTS = 24
TEXT = 60_000


def audited(anchor: Path, **retention: float) -> Callable[[dict[str, Any]], None]:
    def change(settings: dict[str, Any]) -> None:
        settings["audit"] |= {
            "segment_bytes": 64 << 10,
            "compression": "none",
            "retention": retention,
            "anchors": [{"file": str(anchor)}],
        }
        settings["processes"] = {"workers": 1}

    return change


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("audit-*.jsonl*")}


def verify(proxy: Proxy, *more: str) -> subprocess.CompletedProcess[str]:
    """The command, with what the settings name unless more does."""
    command = [sys.executable, "-m", "dbproxy", "audit", "verify", "--settings", str(proxy.settings_path), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def fill(connection: psycopg.Connection[Any], rng: Random) -> None:
    for _ in range(STATEMENTS):
        connection.execute(f"select length('{rng.randbytes(TEXT // 2).hex()}')".encode())


def test_what_retention_takes_leaves_its_digest_and_the_ledger_whole(tmp_path: Path, vault: Database) -> None:
    """By size, then by age, each while statements run; then somebody takes one more, which is no retention."""
    anchor = tmp_path / "anchor.jsonl"
    folder = tmp_path / "proxy"
    rng = Random(5)

    def start(**retention: float) -> Any:
        return running_proxy(folder, vault.server, database=vault.name, change=audited(anchor, **retention))

    with start() as proxy, proxy.connect("alice", vault.name) as connection:
        fill(connection, rng)
    first = before = digests(proxy.ledger)
    gone, ended = 0, time.monotonic()
    for retention in ({"max_bytes": MAX_BYTES}, {"max_age_days": 0.0001}):
        if "max_age_days" in retention:  # 8.64 s
            wait_until(lambda: time.monotonic() - ended > 10, 11)
        with start(**retention) as proxy, proxy.connect("alice", vault.name) as connection:
            pruned = proxy.wait_for_record(lambda each, known=gone: each["type"] == "retention.pruned" and len(proxy.records("retention.pruned")) > (known > 0), 20)  # type: ignore[misc] # bound now  # fmt: skip
            pruned = proxy.records("retention.pruned")[-1]
            assert pruned["segments"], "an empty record"
            wait_until(
                lambda: not [each for each in pruned["segments"] if (proxy.ledger / each["file"]).exists()],  # noqa: B023
                what="deletion",
            )
            connection.execute("select 1")
            live = verify(proxy)
            assert live.returncode == 0, live.stdout
            assert live.stdout.startswith("OK, anchored:"), live.stdout
            assert "pruned by policy" in live.stdout
            told = {each["file"]: each["sha256"] for each in pruned["segments"]}
            assert told.items() <= before.items()
            gone += len(told)
            if "max_bytes" in retention:
                left = sum(path.stat().st_size for path in proxy.ledger.glob("audit-*.jsonl*"))
                assert MAX_BYTES - (128 << 10) < left < MAX_BYTES + (128 << 10)
                fill(connection, rng)
            else:
                assert not [name for name in first if (proxy.ledger / name).exists()]
        before = before | digests(proxy.ledger)
    result = verify(proxy, "--json")
    answer = json.loads(result.stdout)
    assert (result.returncode, answer["status"], answer["level"]) == (0, "ok", "anchored")
    assert {chain["slot"] for chain in answer["chains"] if chain["pruned"]} == {0, 1}
    find_segments(proxy.ledger)[1][0][1].unlink()
    tampered = verify(proxy)
    assert tampered.returncode == 1
    assert "no record says that it was pruned" in tampered.stdout or "are missing" in tampered.stdout, tampered.stdout
    record("H.retention", "pruned segments whose digest is not the one that the file had", count=gone, failures=0)
