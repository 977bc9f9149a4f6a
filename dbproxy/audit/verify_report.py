"""What the verifier says: status with its exit code, the first bad record of each chain, and how far what was found is proven."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

MAX_NOTES = 100
MAX_NOTE_LENGTH = 400

CHAINED_ONLY = "chained, not signed: proves internal consistency, not that the whole log was not replaced or that records after the last one were not cut off"


class Status(IntEnum):
    """The result; its value is the exit code."""

    OK = 0
    """Everything fits together; Result.level says how far that is proven."""
    TAMPERED = 1
    """Something was changed, removed or added."""
    TRUNCATED = 2
    """The end is torn or missing, as after a crash; no signature and no anchor says that there was more."""
    UNREADABLE = 3
    """There is no ledger, or it could not be read to the end."""
    UNANCHORED = 4
    """Keys or anchors were given, and what they prove ends before the ledger does. See verify.py for the exact rule."""


SEVERITY = (
    Status.OK,
    Status.UNANCHORED,
    Status.TRUNCATED,
    Status.UNREADABLE,
    Status.TAMPERED,
)
"""Of several problems the last in this order is the verdict."""


class Level(StrEnum):
    """What was given to verify with."""

    CHAINED = "chained"
    """Nothing: only the files themselves."""
    SIGNED = "signed"
    """Public keys."""
    ANCHORED = "anchored"
    """Anchors, with public keys or without."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The first bad record of a chain. line counts from 1, 0 is the file as a whole; seq: the number the record has or should have.

    until: 0, or the last record up to which the first bad one may be: a chain that was made anew differs somewhere between two signed records.
    """

    status: Status
    file: str
    line: int
    seq: int
    what: str
    until: int = 0


@dataclass(slots=True)
class ChainResult:
    """What was found in the chain of one slot, up to its first problem.

    pruned: records before the first one, deleted by policy. anchored, signed, chained: of the records found, how many are proven in which way, each counted
    once, in the best one. open_intents: at its end. heartbeats: whose totals agree with the records. dropped, unrecorded: events and refusals that the
    proxy itself says it could not record.
    """

    slot: int
    segments: int = 0
    records: int = 0
    size: int = 0
    first_seq: int = 0
    last_seq: int = 0
    last_hash: str = ""
    first_at: str = ""
    last_at: str = ""
    intents: int = 0
    outcomes: int = 0
    unknown_outcomes: int = 0
    open_intents: int = 0
    recoveries: int = 0
    heartbeats: int = 0
    dropped: int = 0
    unrecorded: int = 0
    pruned: int = 0
    anchored: int = 0
    signed: int = 0
    chained: int = 0
    is_closed: bool = False
    has_ended: bool = False
    notes: list[str] = field(default_factory=list)
    problem: Problem | None = None

    def note(self, text: str) -> None:
        """Keep a remark; not more than a hostile ledger may cause."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text[:MAX_NOTE_LENGTH])


@dataclass(slots=True)
class SealsResult:
    """What was found about checkpoints. last_signed, last_anchored: numbers, 0 if none; with their wall times.

    keys: ids of the keys whose signatures were checked. anchors: of each anchor file, how many of its checkpoints are in the ledger. is_final: the newest
    one that counts says that the proxy ended in good order.
    """

    ledger: str = ""
    checkpoints: int = 0
    rotations: int = 0
    unchecked: int = 0
    last_number: int = 0
    last_signed: int = 0
    last_signed_at: str = ""
    last_anchored: int = 0
    last_anchored_at: str = ""
    is_final: bool = False
    keys: list[str] = field(default_factory=list)
    anchors: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text[:MAX_NOTE_LENGTH])


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on all chains together; problem: the worst. proof: what is proven and what is not, in plain words."""

    status: Status
    level: Level
    chains: tuple[ChainResult, ...]
    seals: SealsResult
    problem: Problem | None
    proof: str

    @property
    def exit_code(self) -> int:
        return int(self.status)
