"""`dbproxy audit …` as a user runs it."""

from __future__ import annotations

import json
import platform
import random
import re
import time
from pathlib import Path

import pytest
from support.ledger_mutations import Log, forge_edit
from support.ledgers import SmallProxy
from typer.testing import CliRunner

from config.settings import SHIPPED_POLICIES
from dbproxy.audit.ledger import Ledger
from dbproxy.audit.locks import DirectoryLock
from dbproxy.audit.signing import SigningKey, load_signing_key, save_signing_key
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


# --- keys, anchors, pruning ----------------------------------------------------------------------------------------------------


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A directory with settings, a signed and anchored ledger, and its keys where a proxy keeps them."""
    (tmp_path / "dbproxy.yaml").write_text(
        (SHIPPED_POLICIES.parent / "example.yaml")
        .read_text()
        .replace("  # anchors: []", "  anchors: [{file: anchors}]\n  retention: {max_age_days: 1}\n  # ")
    )
    (tmp_path / "users.yaml").write_text("version: 1\npeople: []\n")
    (tmp_path / "users.yaml").chmod(0o600)
    (tmp_path / "policy.yaml").write_bytes((SHIPPED_POLICIES.parent / "example-policy.yaml").read_bytes())
    key = SigningKey.generate()
    (tmp_path / "state").mkdir(mode=0o700)
    save_signing_key(key, tmp_path / "state/signing.key")
    proxy = SmallProxy(tmp_path, 1, key=key, node=platform.node())
    proxy.start()
    proxy.checkpoint()
    proxy.work(40)
    proxy.stop()
    return tmp_path


@pytest.fixture
def settings(signed: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("DBPROXY_APP_PASSWORD", "x")
    return ["--settings", str(signed / "dbproxy.yaml")]


def test_verify_with_key_and_anchor_says_so(signed: Path) -> None:
    command = ["verify", str(signed / "audit"), "--key", str(signed / "state/signing.key.pub")]
    result = run.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("OK, signed: ")
    result = run.invoke(app, [*command, "--anchor", str(signed / "anchors")])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("OK, anchored: ")
    assert "2 chained only" in result.stdout
    assert "a final one" in result.stdout
    answer = json.loads(run.invoke(app, [*command, "--json"]).stdout)
    assert (answer["status"], answer["level"], answer["seals"]["last_signed"]) == ("ok", "signed", 2)


def test_verify_takes_keys_and_anchors_from_the_settings(signed: Path, settings: list[str]) -> None:
    result = run.invoke(app, ["verify", *settings])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("OK, anchored: ")


def test_verify_compares_with_the_proxys_own_note_of_the_last_checkpoint(signed: Path, settings: list[str]) -> None:
    """Only where the settings say where it stands; it is no anchor."""
    anchors = (signed / "anchors").read_bytes().splitlines(keepends=True)
    (signed / "anchors").unlink()
    (signed / "state/audit-checkpoint.json").write_bytes(anchors[-1])
    result = run.invoke(app, ["verify", *settings])
    assert (result.exit_code, result.stdout.startswith("OK, signed: ")) == (0, True), result.output
    control = sorted((signed / "audit").glob("audit-0-*.jsonl"))
    last = next(path for path in control if b'"final\\":true' in path.read_bytes())
    for path in control[control.index(last) :]:
        path.unlink()
    key = str(signed / "state/signing.key.pub")
    assert run.invoke(app, ["verify", str(signed / "audit"), "--key", key]).exit_code == 2
    result = run.invoke(app, ["verify", *settings])
    assert result.exit_code == 1
    assert "audit-checkpoint.json has 2 of" in result.stdout


def test_verify_has_an_exit_code_for_what_is_not_anchored(signed: Path) -> None:
    anchors = signed / "anchors"
    anchors.write_bytes(anchors.read_bytes().splitlines(keepends=True)[0])
    command = ["verify", str(signed / "audit"), "--anchor", str(anchors)]
    result = run.invoke(app, command)
    assert result.exit_code == 4
    assert result.stdout.startswith("UNANCHORED ")
    assert "more may have been cut off" in result.stdout
    at = json.loads(json.loads(anchors.read_bytes())["payload"])["at"]
    assert run.invoke(app, [*command, "--as-of", at]).exit_code == 0
    assert run.invoke(app, [*command, "--as-of", "yesterday"]).exit_code == 2


def test_verify_names_the_span_that_was_made_anew(signed: Path) -> None:
    files = {path.name: path.read_bytes() for path in (signed / "audit").glob("*.jsonl")}
    log = Log(files, {0: 0, 1: 10, 2: 0})
    forge_edit(random.Random(1), log, log)
    for name, data in log.files.items():
        (signed / "audit" / name).write_bytes(data)
    result = run.invoke(app, ["verify", str(signed / "audit"), "--key", str(signed / "state/signing.key.pub")])
    assert result.exit_code == 1
    assert re.match(r"TAMPERED   audit-1-\d+\.jsonl, line \d+, record \d+ to \d+: records up to", result.stdout), (
        result.stdout
    )


def test_verify_refuses_a_private_key(signed: Path) -> None:
    result = run.invoke(app, ["verify", str(signed / "audit"), "--key", str(signed / "state/signing.key")])
    assert result.exit_code == 3
    assert "this is a private key" in result.stderr


def test_keygen_makes_a_key_and_public_key_prints_its_half(tmp_path: Path) -> None:
    path = tmp_path / "k"
    result = run.invoke(app, ["keygen", str(path)])
    assert result.exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    printed = run.invoke(app, ["public-key", str(path)])
    assert printed.stdout == (tmp_path / "k.pub").read_text()
    assert printed.stderr.strip() in result.stdout.replace(":", "")
    assert run.invoke(app, ["keygen", str(path)]).exit_code == 2
    assert run.invoke(app, ["public-key", str(tmp_path / "none")]).exit_code == 2
    path.chmod(0o644)
    assert run.invoke(app, ["public-key", str(path)]).exit_code == 2


def test_rotate_key_leaves_a_key_that_waits(signed: Path, settings: list[str]) -> None:
    result = run.invoke(app, ["rotate-key", *settings])
    assert result.exit_code == 0, result.output
    waiting = load_signing_key(signed / "state/signing.key.next")
    assert waiting.id in result.stdout
    again = run.invoke(app, ["rotate-key", *settings])
    assert again.exit_code == 2
    assert "a rotation waits" in again.stderr
    assert run.invoke(app, ["public-key", *settings]).exit_code == 0


def test_prune_says_what_would_go_and_then_does_it(signed: Path, settings: list[str]) -> None:
    before = sorted(path.name for path in (signed / "audit").glob("*.jsonl"))
    dry = run.invoke(app, ["prune", "--dry-run", *settings])
    assert dry.exit_code == 0, dry.output
    assert "would go" in dry.stdout
    assert sorted(path.name for path in (signed / "audit").glob("*.jsonl")) == before
    done = run.invoke(app, ["prune", *settings])
    assert done.exit_code == 0, done.output
    assert done.stdout.replace("deleted", "would go") == dry.stdout
    gone = set(before) - {path.name for path in (signed / "audit").glob("*.jsonl")}
    assert gone == {line.split(":")[0] for line in dry.stdout.splitlines()[:-1]}
    result = run.invoke(app, ["verify", *settings])
    assert result.exit_code == 0, result.output
    assert "pruned by policy" in result.stdout
    assert "0 segments" in run.invoke(app, ["prune", *settings]).stdout


def test_prune_leaves_a_running_proxy_alone(signed: Path, settings: list[str]) -> None:
    before = sorted(path.name for path in (signed / "audit").iterdir())
    lock = DirectoryLock(signed / "audit")
    lock.acquire()
    result = run.invoke(app, ["prune", *settings])
    assert result.exit_code == 2
    assert "in use by another process" in result.stderr
    assert sorted(path.name for path in (signed / "audit").iterdir()) == before
    lock.release()


def test_prune_deletes_nothing_that_no_anchor_was_told(
    signed: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbproxy.audit.anchor_sender.ATTEMPTS", 1)
    before = {path.name for path in (signed / "audit").glob("*.jsonl")}
    (signed / "anchors").unlink()
    (signed / "anchors").mkdir()
    result = run.invoke(app, ["prune", *settings])
    assert result.exit_code == 2
    assert before <= {path.name for path in (signed / "audit").glob("*.jsonl")}
