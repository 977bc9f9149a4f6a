"""Connection ids shared by the workers: only the owner finds them, and only while the session's worker is there."""

import json
import os
import subprocess
from pathlib import Path

from dbproxy.connection_ids import ConnectionIds

ALICE = ("alice", "app", "shop")


def test_an_owner_finds_a_session_of_another_worker_until_it_is_over(tmp_path: Path) -> None:
    one, other = ConnectionIds(tmp_path / "ids"), ConnectionIds(tmp_path / "ids")
    one.enter(2_147_483_700, ALICE, 41)
    assert other.find(2_147_483_700, ALICE) == 41
    assert other.find(2_147_483_701, ALICE) is None
    one.leave(2_147_483_700)
    one.leave(2_147_483_700)
    assert other.find(2_147_483_700, ALICE) is None


def test_nobody_else_finds_it(tmp_path: Path) -> None:
    ids = ConnectionIds(tmp_path)
    ids.enter(5, ALICE, 41)
    for owner in (("bob", "app", "shop"), ("alice", "root", "shop"), ("alice", "app", "other")):
        assert ids.find(5, owner) is None
    assert (tmp_path / "5").stat().st_mode & 0o777 == 0o600


def test_what_a_killed_worker_left_counts_for_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    (tmp_path / "5").write_text(json.dumps({"owner": ALICE, "server_id": 41, "pid": gone.pid}))
    assert ConnectionIds(tmp_path).find(5, ALICE) is None


def test_damaged_entries_and_missing_folders_count_for_nothing(tmp_path: Path) -> None:
    ids = ConnectionIds(tmp_path / "no" / "such" / "folder")
    ids.enter(5, ALICE, 41)
    assert ids.find(5, ALICE) is None
    for text in ("", "[]", "{}", '{"owner": 5}', json.dumps({"owner": ALICE, "pid": os.getpid(), "server_id": "x"})):
        (tmp_path / "6").write_text(text)
        assert ConnectionIds(tmp_path).find(6, ALICE) is None


def test_an_entry_is_never_overwritten(tmp_path: Path) -> None:
    ids = ConnectionIds(tmp_path)
    ids.enter(5, ALICE, 41)
    ids.enter(5, ("bob", "app", "shop"), 42)
    assert ids.find(5, ALICE) == 41
