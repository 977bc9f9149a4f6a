"""A host that records what a relay asks of it, with scripted answers of the judge.

Counterpart of dbproxy's session in tests of relays; works for every protocol. It also checks what no relay may ever do:
finish a statement twice, finish one that was never judged, use an id twice or let ids fall.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.contract import FORWARD, Outcome, Refusal, Relay, Side, Statement, Transaction, Verdict, Why

Answer = Callable[[Statement], Verdict | None]


@dataclass(frozen=True)
class Judged:
    """A statement as the judge saw it, by value."""

    id: int
    act: str
    text: bytes | None
    name: bytes = b""
    parameters: tuple[bytes | None, ...] = ()
    formats: tuple[int, ...] = ()
    types: tuple[int, ...] = ()

    @classmethod
    def of(cls, statement: Statement) -> Judged:
        return cls(
            statement.id,
            statement.act.name,
            statement.text,
            statement.name,
            tuple(statement.parameters),
            tuple(statement.formats),
            tuple(statement.types),
        )


@dataclass(frozen=True)
class Finished:
    id: int
    status: str
    rows: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    tag: bytes = b""
    code: str = ""


@dataclass(frozen=True)
class Skipped:
    act: str
    text: bytes | None


@dataclass(frozen=True)
class Parameter:
    name: str
    value: str


@dataclass(frozen=True)
class Synced:
    transaction: str


@dataclass(frozen=True)
class Answered:
    value: str | None


@dataclass(frozen=True)
class Closed:
    side: str
    why: str
    detail: str = field(compare=False, default="")


Call = Judged | Finished | Skipped | Parameter | Synced | Answered | Closed


def refuse(message: str = 'dbproxy: blocked by rule "test"', why: Why = Why.BLOCKED) -> Verdict:
    return Verdict(Refusal(why, message, "detail of the refusal", "hint of the refusal"))


def always_forward(_: Statement) -> Verdict | None:
    return FORWARD


def by_text(*, refused: bytes = b"refused", held: bytes = b"held", verdict: Verdict | None = None) -> Answer:
    """Answers by what the text contains: one word refuses it, another one holds it; unknown text is forwarded."""
    refusal = verdict or refuse()

    def answer(statement: Statement) -> Verdict | None:
        text = statement.text or b""
        if refused in text:
            return refusal
        return None if held in text else FORWARD

    return answer


class Recorder:
    """Records in order; `sent` keeps each side's byte stream, `calls` all else.

    answer: what judge says; may be replaced between steps.
    `pauses` and the cut of `sends` may depend on how bytes arrive, so they are kept apart.
    Each call of judge also notes how many bytes the server had been sent, see `sent_at_judgement`.
    """

    def __init__(self, answer: Answer = always_forward) -> None:
        self.answer = answer
        self.sent: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self.calls: list[Call] = []
        self.sends: list[tuple[Side, bytes]] = []
        self.sent_at_judgement: dict[int, int] = {}
        self.open: set[int] = set()
        self.last_id = 0
        self.pauses: list[bool] = []
        self.faults: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.has_turns = False  # True: what is for a later turn waits until run_turn
        self._is_in_turn = False

    def run_turn(self) -> None:
        """The next loop turn."""
        later, self.later = self.later, []
        for function in later:
            function()

    # ---- the contract

    def call_soon(self, function: Callable[[], None]) -> None:
        self.later.append(function)
        if self.has_turns or self._is_in_turn:
            return
        self._is_in_turn = True
        while self.later:
            self.run_turn()
        self._is_in_turn = False

    def send(self, side: Side, data: bytes) -> None:
        self.sends.append((side, bytes(data)))
        self.sent[side].extend(data)
        if self.closed and side is Side.SERVER:
            self.faults.append("bytes for the server after close")

    def judge(self, statement: Statement) -> Verdict | None:
        if statement.id <= self.last_id:
            self.faults.append(f"statement id {statement.id} after {self.last_id}")
        self.last_id = statement.id
        self.open.add(statement.id)
        self.sent_at_judgement[statement.id] = len(self.sent[Side.SERVER])
        self.calls.append(Judged.of(statement))
        return self.answer(statement)

    def finished(self, statement_id: int, outcome: Outcome) -> None:
        if statement_id not in self.open:
            self.faults.append(f"finished({statement_id}) twice or without judge")
        self.open.discard(statement_id)
        self.calls.append(
            Finished(
                statement_id,
                outcome.status.name,
                outcome.rows,
                outcome.received_bytes,
                outcome.sent_bytes,
                outcome.tag,
                outcome.code,
            )
        )

    def skipped(self, statement: Statement) -> None:
        self.calls.append(Skipped(statement.act.name, statement.text))

    def parameter(self, name: str, value: str) -> None:
        self.calls.append(Parameter(name, value))

    def synced(self, transaction: Transaction) -> None:
        self.calls.append(Synced(transaction.name))

    def answered(self, value: str | None) -> None:
        self.calls.append(Answered(value))

    def pause(self, *, on: bool) -> None:
        self.pauses.append(on)

    def close(self, side: Side, why: Why, detail: str) -> None:
        self.calls.append(Closed(side.name, why.name, detail))

    # ---- what tests ask

    @property
    def to_client(self) -> bytes:
        return bytes(self.sent[Side.CLIENT])

    @property
    def to_server(self) -> bytes:
        return bytes(self.sent[Side.SERVER])

    @property
    def closed(self) -> bool:
        return any(isinstance(call, Closed) for call in self.calls)

    def judged(self) -> list[Judged]:
        return [call for call in self.calls if isinstance(call, Judged)]

    def outcomes(self) -> dict[int, Finished]:
        return {call.id: call for call in self.calls if isinstance(call, Finished)}

    def take(self, side: Side) -> bytes:
        """What was sent to a side since the last take."""
        data = bytes(self.sent[side])
        self.sent[side].clear()
        return data


def feed(relay: Relay, side: Side, data: bytes, *, step: int = 0) -> None:
    """Give data to the relay at once, or in pieces of `step` bytes."""
    give = relay.from_client if side is Side.CLIENT else relay.from_server
    if not step:
        give(data)
        return
    for at in range(0, len(data), step):
        give(data[at : at + step])
