"""`dbproxy audit …` as a user runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from config.settings import SHIPPED_POLICIES
from dbproxy.audit.ledger import Ledger
from dbproxy.audit.types import EventType
from dbproxy.cli.audit import app

run = CliRunner()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path / "audit", segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=time.time_ns, node="test")
    ledger.open()
    ledger.intent(("s1", 1), b'"person":"alice","action":"allow","sql":"SELECT 1"')
    ledger.outcome(("s1", 1), b'"status":"ok","rows":1,"tag":"SELECT 1"')
    ledger.append(
        EventType.STATEMENT_REFUSED,
        b'"session":"s1","statement":2,"person":"alice","action":"block","sql":"DROP TABLE x","rules":[{"name":"no-drop"}]',
    )
    ledger.append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:1","person":"mallory"')
    ledger.close("test")
    return tmp_path / "audit"


def test_verify_says_what_is_proven_and_what_not(log: Path) -> None:
    result = run.invoke(app, ["verify", str(log)])
    assert result.exit_code == 0
    assert result.stdout.startswith("OK")
    assert "6 records" in result.stdout
    assert "chained, not signed" in result.stdout


def test_verify_names_file_and_record_after_one_byte_is_changed(log: Path) -> None:
    path = next(log.glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b"SELECT 1", b"SELECT 2", 1))
    result = run.invoke(app, ["verify", str(log)])
    assert result.exit_code == 1
    assert result.stdout.startswith(f"TAMPERED   {path.name}, line 2, record 2: its hash does not match its bytes")


def test_verify_has_an_exit_code_for_a_torn_end(log: Path) -> None:
    path = next(log.glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-5])
    assert run.invoke(app, ["verify", str(path)]).exit_code == 2


def test_verify_has_an_exit_code_for_nothing_to_read(tmp_path: Path) -> None:
    assert run.invoke(app, ["verify", str(tmp_path)]).exit_code == 3
    assert run.invoke(app, ["verify"]).exit_code == 3  # no dbproxy.yaml here either
    assert run.invoke(app, ["verify", "--settings", str(tmp_path / "missing.yaml")]).exit_code == 3


def test_verify_as_json(log: Path) -> None:
    answer = json.loads(run.invoke(app, ["verify", str(log), "--json"]).stdout)
    assert (answer["status"], answer["exit_code"], answer["problem"]) == ("ok", 0, None)
    assert answer["chains"][0]["records"] == 6
    path = next(log.glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b"SELECT 1", b"SELECT 2", 1))
    answer = json.loads(run.invoke(app, ["verify", str(log), "--json"]).stdout)
    assert answer["problem"] == {
        "status": "tampered", "file": path.name, "line": 2, "seq": 2, "what": "its hash does not match its bytes", "until": 0,
    }  # fmt: skip


def test_tail_shows_one_line_for_each_record(log: Path) -> None:
    result = run.invoke(app, ["tail", str(log), "-n", "4"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert "statement.refused" in lines[1]
    assert "block [no-drop] DROP TABLE x" in lines[1]
    assert "mallory" in lines[2]


def test_tail_filters_and_prints_records_as_stored(log: Path) -> None:
    result = run.invoke(app, ["tail", str(log), "--json", "--type", "statement", "--person", "alice"])
    stored = next(log.glob("*.jsonl")).read_text().splitlines(keepends=True)
    assert result.stdout == "".join(stored[1:4])


def test_tail_of_nothing_fails_plainly(tmp_path: Path) -> None:
    result = run.invoke(app, ["tail", str(tmp_path / "missing")])
    assert result.exit_code == 3
    assert "cannot read the ledger" in result.stderr


def test_schema_is_printed(log: Path) -> None:
    assert json.loads(run.invoke(app, ["schema"]).stdout)["title"] == "dbproxy.audit/1"


def test_without_arguments_the_settings_at_hand_name_the_ledger(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = log.parent / "dbproxy.yaml"
    settings.write_bytes((SHIPPED_POLICIES.parent / "example.yaml").read_bytes())
    (log.parent / "users.yaml").write_text("version: 1\npeople: []\n")
    (log.parent / "users.yaml").chmod(0o600)
    (log.parent / "policy.yaml").write_bytes((SHIPPED_POLICIES.parent / "example-policy.yaml").read_bytes())
    monkeypatch.setenv("DBPROXY_APP_PASSWORD", "x")
    monkeypatch.setenv("DBPROXY_SETTINGS", str(settings))
    assert run.invoke(app, ["verify"]).exit_code == 0
    assert "DROP TABLE x" in run.invoke(app, ["tail"]).stdout
