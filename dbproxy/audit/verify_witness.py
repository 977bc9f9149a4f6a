"""What the chains of a ledger say of each other, besides checkpoints: enough to miss whole files, also in a ledger without signatures.

* Control's heartbeats name every other slot and where its chain stood on the disk. A chain that ends before, or has no files, was cut.
* Control records processes that started and ended. One that ended in good order, or has lived for two minutes, had a chain.
* A worker's heartbeats say up to where it was told that a checkpoint covers its chain. If no checkpoint in slot 0 does, the end of slot 0 is missing.

None of it is proof against somebody who makes whole chains anew; that takes keys. Counterparts: verify_seals.py for checkpoints, ledger_watch.py, which
writes heartbeats.
"""

from __future__ import annotations

from calendar import timegm
from collections.abc import Callable, Mapping
from time import strptime
from typing import Any

from dbproxy.audit.checkpoint import INTERVAL_S, LATE_S, MAX_SLOTS
from dbproxy.audit.segment import segment_name
from dbproxy.audit.verify_chain import ChainCheck
from dbproxy.audit.verify_report import ChainResult, Problem, Status

CONTROL_SLOT = 0
LIVE_S = INTERVAL_S + LATE_S
"""How old the newest checkpoint of a running proxy may be, and how far apart the moments when its files were read."""
_HAS_OPENED_S = 120
"""A process that cannot open its chain gives up long before."""


def parse_time(at: str) -> int:
    """Seconds of a time as chain.format_time writes it; 0 for one that is none."""
    try:
        return timegm(strptime(at[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0


class Witness:
    """Takes control's heartbeats and records of processes while the chain of slot 0 is walked, and compares when all chains have been.

    chains: by slot, growing as more are found. look_again: asked for a slot that is not among them.
    missing: slots that must have files and have none.
    """

    def __init__(self, chains: Mapping[int, ChainCheck], look_again: Callable[[int], ChainCheck | None]) -> None:
        self.missing: dict[int, ChainResult] = {}
        self._chains = chains
        self._look_again = look_again
        self._heads: dict[int, tuple[int, str]] = {}  # by slot: a record that there was, and who says so
        self._running: dict[int, tuple[int, str, str]] = {}  # by slot: process, since when, and who says so

    def take(self, type_: bytes, record: dict[str, Any]) -> None:
        """Raises KeyError, TypeError for members of the wrong form."""
        told = f"record {record['seq']} of slot {CONTROL_SLOT}, of {record['at']}, says so"
        if type_ == b"heartbeat":
            for slot, seq in record.get("heads", ()):
                if not isinstance(slot, int) or not isinstance(seq, int) or not 0 <= slot < MAX_SLOTS:
                    raise TypeError
                if seq >= self._heads.get(slot, (0, ""))[0]:
                    self._heads[slot] = (seq, told)
        elif record["role"] == "worker":
            slot, process = record["slot"], record["process"]
            if not isinstance(slot, int) or not 0 <= slot < MAX_SLOTS:
                raise TypeError
            started = self._running.pop(slot, None)
            if type_ == b"process.started":
                self._running[slot] = (process, record["at"], told)
            elif type_ == b"process.ended":
                self._expect(slot, told)
            elif started is not None and started[0] == process:
                self._expect_if_old(slot, started, record["at"])

    def finish(self, *, last_at: str) -> None:
        """Compare. All chains have been walked to their ends. last_at: of control's last record. Raises OSError."""
        for slot, started in self._running.items():
            self._expect_if_old(slot, started, last_at)
        for slot, (seq, told) in sorted(self._heads.items()):
            if slot == CONTROL_SLOT:
                continue
            chain = self._chains.get(slot) or self._look_again(slot)
            if chain is None:
                what = f"all files of slot {slot} are missing; {told}"
                problem = Problem(Status.TAMPERED, segment_name(slot, 1), 0, 1, what, seq)
                self.missing[slot] = ChainResult(slot, problem=problem)
                continue
            chain.advance()
            if chain.seq < seq:
                torn = chain.result.problem
                what = f"the chain of slot {slot} has {chain.seq} records, and there were {seq}: {told}"
                chain.fail(chain.problem_missing(seq, f"{torn.what}; {what}" if torn is not None else what))

    def find_missing_checkpoints(self, covered: Mapping[int, int], last_at: str) -> str:
        """Why the end of control's chain must be missing, "" if nothing says so.

        covered: by slot, the last record that a checkpoint in control's chain covers. last_at: of control's last record.
        """
        for slot, chain in sorted(self._chains.items()):
            claim = chain.counts.checkpointed
            if slot == CONTROL_SLOT or claim is None or claim[0] <= covered.get(slot, 0):
                continue
            seq, at, number = claim
            if parse_time(at) - parse_time(last_at) > LIVE_S:
                return (
                    f"the chain of slot {CONTROL_SLOT} ends at {last_at}, and its checkpoints cover {covered.get(slot, 0)} records of slot {slot}; "
                    f"record {number} there, of {at}, says that {seq} are covered"
                )
        return ""

    def _expect_if_old(self, slot: int, started: tuple[int, str, str], at: str) -> None:
        if parse_time(at) - parse_time(started[1]) > _HAS_OPENED_S:
            self._expect(slot, started[2])

    def _expect(self, slot: int, told: str) -> None:
        if slot not in self._heads:
            self._heads[slot] = (0, told)
