"""A worker refuses statements while nobody signs what it records, and takes them again when somebody does."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_clock import FakeClock

from dbproxy import ipc
from dbproxy.audit.ledger import AuditDown, Ledger
from dbproxy.proof_deadline import DEADLINE_S, ProofDeadline

BODY = b'"sql":"select 1","act":"query"'


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path, segment_bytes=1 << 20, reserve_bytes=64 << 10, now_ns=lambda: 1_700_000_000_000_000_000)
    made.open()
    return made


def is_refused(ledger: Ledger, number: int) -> str:
    try:
        ledger.intent(("s", number), BODY)
    except AuditDown as down:
        return down.reason
    return ""


def test_late_checkpoint_refuses_until_it_comes(ledger: Ledger) -> None:
    clock = FakeClock()
    deadline = ProofDeadline(ledger, clock, is_on=True)
    assert DEADLINE_S == 40
    clock.advance(39)
    deadline.look()
    assert is_refused(ledger, 1) == ""
    clock.advance(2)
    deadline.look()
    assert is_refused(ledger, 2) == "no signed checkpoint for 41 s"
    assert not ledger.is_down
    ledger.outcome(("s", 1), b'"status":"ok"')  # what runs may end
    deadline.note(ipc.Checkpointed(5))
    assert is_refused(ledger, 3) == ""
    ledger.outcome(("s", 3), b'"status":"ok"')
    ledger.close("test")


def test_trouble_that_control_has_refuses_at_once_and_lasts_until_it_says_otherwise(ledger: Ledger) -> None:
    deadline = ProofDeadline(ledger, FakeClock(), is_on=True)
    deadline.note(ipc.Refuse("no anchor has taken a checkpoint for 41 s"))
    deadline.note(ipc.Checkpointed(1))
    assert is_refused(ledger, 1) == "no anchor has taken a checkpoint for 41 s"
    deadline.note(ipc.Refuse(""))
    assert is_refused(ledger, 2) == ""
    ledger.outcome(("s", 2), b'"status":"ok"')
    ledger.close("test")


def test_without_signing_nothing_is_waited_for(ledger: Ledger) -> None:
    clock = FakeClock()
    deadline = ProofDeadline(ledger, clock, is_on=False)
    clock.advance(1000)
    deadline.look()
    assert is_refused(ledger, 1) == ""
    ledger.outcome(("s", 1), b'"status":"ok"')
    ledger.close("test")
