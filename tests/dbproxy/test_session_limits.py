"""Each limit of time, to the tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from config.settings import Timeouts
from dbproxy.session_limits import SessionLimits, SessionWatch
from protocol.contract import Relay, Transaction

SECOND = 1_000_000_000


@dataclass
class _Session:
    """A session and its relay in one, as the watch sees them."""

    started_ns: int = 0
    last_active_ns: int = 0
    transaction: Transaction = Transaction.IDLE
    is_held: bool = False
    is_busy: bool = False
    is_partial: bool = False
    finished: int = 0

    @property
    def totals(self) -> tuple[int, ...]:
        return (self.finished, 0, 0, 0, 0)


def _watch(**timeouts: Any) -> SessionWatch:
    return SessionWatch(SessionLimits(Timeouts(**{"idle_s": None, **timeouts})))


def _ends(watch: SessionWatch, session: _Session, at_s: float) -> str:
    refusal = watch.exceeded(session, cast("Relay", session), int(at_s * SECOND))
    return refusal.why.value if refusal is not None else ""


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, "idle"),
        ({"transaction": Transaction.OPEN}, "idle"),
        ({"is_busy": True}, ""),
        ({"is_held": True}, ""),
    ],
)
def test_idle_is_without_a_statement_that_runs_or_is_held(state: dict[str, Any], expected: str) -> None:
    watch, session = _watch(idle_s=10), _Session(last_active_ns=5 * SECOND, **state)
    assert _ends(watch, session, 15) == ""
    assert _ends(watch, session, 15.1) == expected


@pytest.mark.parametrize("transaction", Transaction)
def test_an_open_or_failed_transaction_has_a_limit_of_its_own(transaction: Transaction) -> None:
    watch, session = _watch(idle_s=100, idle_in_transaction_s=10), _Session(transaction=transaction)
    assert _ends(watch, session, 10) == ""
    assert _ends(watch, session, 10.1) == ("" if transaction is Transaction.IDLE else "idle_in_transaction")
    session.is_busy = True
    assert _ends(watch, session, 11) == ""


@pytest.mark.parametrize("state", [{}, {"is_busy": True}, {"is_held": True}, {"last_active_ns": 99 * SECOND}])
def test_the_absolute_limit_asks_for_nothing_else(state: dict[str, Any]) -> None:
    watch, session = _watch(session_s=100), _Session(**state)
    assert _ends(watch, session, 100) == ""
    assert _ends(watch, session, 100.1) == "idle"


def test_a_statement_waits_from_when_the_one_before_it_has_ended() -> None:
    watch, session = _watch(statement_s=10), _Session()
    assert _ends(watch, session, 5) == ""
    session.is_busy = True
    assert _ends(watch, session, 6) == ""
    session.finished = 1  # of a pipeline
    assert _ends(watch, session, 15) == ""
    assert _ends(watch, session, 25) == ""
    assert _ends(watch, session, 25.1) == "too_long"


def test_the_time_without_a_statement_does_not_count_for_the_next() -> None:
    watch, session = _watch(statement_s=10), _Session(is_busy=True)
    assert _ends(watch, session, 1) == ""
    session.is_busy = False
    assert _ends(watch, session, 2) == ""
    session.is_busy = True  # the same number have ended: this one is a statement that returned rows in part
    assert _ends(watch, session, 50) == ""
    assert _ends(watch, session, 60.1) == "too_long"


def test_a_message_must_come_to_its_end() -> None:
    watch, session = _watch(partial_message_s=10), _Session(is_partial=True)
    assert _ends(watch, session, 1) == ""
    assert _ends(watch, session, 11) == ""
    assert _ends(watch, session, 11.1) == "protocol"
    session.is_partial = False
    assert _ends(watch, session, 12) == ""
    session.is_partial = True
    assert _ends(watch, session, 13) == ""
    assert _ends(watch, session, 23) == ""


def test_without_limits_nothing_ends() -> None:
    assert _ends(_watch(), _Session(is_busy=True, transaction=Transaction.OPEN), 1e6) == ""
