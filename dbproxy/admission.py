"""Who may come in, counted for the whole proxy: caps on connections and sessions, and the throttle of failed logins.

One Admission counts for all workers, in the control process, so that a cap holds exactly and a guesser gains nothing by spreading
over workers. It only counts: worker processes ask (control_link.py), workers.py hands their questions over.

A worker's connections are named by a number of its own. What a worker holds is forgotten with it. Failed logins are not forgotten with
this process: throttle_memory.py has them, proofs under way among them, as if they had failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from config.settings import Limits
from dbproxy.clock import Clock
from dbproxy.doorkeeper import TOO_MANY, TOO_MANY_OF_ADDRESS, TOO_MANY_SESSIONS
from dbproxy.identity.throttle import Key, Throttle
from dbproxy.throttle_memory import Counts, ThrottleMemory

Worker = int
"""The slot of a worker process."""


def connection_cap(limits: Limits) -> int:
    """How many connections are taken, logged in or not: some more than sessions, for those who are logging in."""
    return limits.max_sessions + limits.max_sessions // 4 + 16


@dataclass(slots=True)
class _Held:
    """What one worker has. claims: number → (address, person). proofs: (address, person) under way."""

    claims: dict[int, tuple[str, str]] = field(default_factory=dict)
    proofs: Counter[tuple[str, str]] = field(default_factory=Counter)


class Admission:
    """The caps and the throttle of the whole proxy.

    memory: where failures are kept beyond the life of this process; what is in it counts from the start. None: nowhere.
    """

    def __init__(self, limits: Limits, clock: Clock, memory: ThrottleMemory | None = None) -> None:
        self._limits = limits
        self._clock = clock
        self._memory = memory
        failures = limits.login_failures
        self._throttle = Throttle(clock, failures.per_address, failures.per_user, failures.window_s)
        self._held: dict[Worker, _Held] = {}
        self._addresses: Counter[str] = Counter()
        self._people: Counter[str] = Counter()
        self._proofs: Counter[Key] = Counter()  # under way, by address and by address and person
        self._waiting: list[tuple[Worker, str, str, Callable[[str], object]]] = []
        if memory is not None:
            for key, (count, since_ns) in memory.read().items():
                self._throttle.restore(key, count, since_ns)
            memory.rewrite(self.counts())

    # ---- caps ---------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        return self._addresses.total()

    @property
    def sessions(self) -> int:
        return self._people.total()

    def enter(self, worker: Worker, number: int, address: str) -> str:
        """Count a connection. Returns "", or why there is no room for it; it is not counted then."""
        if self._addresses[address] >= self._limits.max_sessions_per_address:
            return TOO_MANY_OF_ADDRESS
        if self.connections >= connection_cap(self._limits):
            return TOO_MANY
        self._keep(worker, number, address, "")
        return ""

    def take(self, worker: Worker, number: int, person: str) -> str:
        """Count a person's session; the connection has entered. Returns "", or why there is no room for it."""
        address, had = self._of(worker).claims.get(number, ("", ""))
        if self._people[person] >= self._limits.max_sessions_per_user or self.sessions >= self._limits.max_sessions:
            return TOO_MANY_SESSIONS
        if address and not had:
            self._keep(worker, number, address, person)
        return ""

    def leave(self, worker: Worker, number: int) -> None:
        """A connection is over."""
        address, person = self._of(worker).claims.pop(number, ("", ""))
        _take_one(self._addresses, address)
        _take_one(self._people, person)

    def restore(self, worker: Worker, claims: Iterable[tuple[int, str, str]]) -> None:
        """Count what a worker has already: number, address, person. Nothing is refused: these connections stand."""
        for number, address, person in claims:
            self._keep(worker, number, address, person)

    def forget(self, worker: Worker) -> None:
        """A worker is gone, with all it had. Its proofs under way count as failed: who can end a worker must not gain tries."""
        held = self._held.pop(worker, None)
        if held is None:
            return
        for address, person in held.claims.values():
            _take_one(self._addresses, address)
            _take_one(self._people, person)
        self._waiting = [each for each in self._waiting if each[0] != worker]
        for (address, person), count in held.proofs.items():
            for _ in range(count):
                self._end_proof(address, person, is_right=False)
        self._go_on()

    def _keep(self, worker: Worker, number: int, address: str, person: str) -> None:
        claims = self._of(worker).claims
        had_address, had_person = claims.get(number, ("", ""))
        claims[number] = (address, person)
        if not had_address:
            self._addresses[address] += 1
        if person and not had_person:
            self._people[person] += 1

    def _of(self, worker: Worker) -> _Held:
        return self._held.setdefault(worker, _Held())

    # ---- throttle -----------------------------------------------------------------------------------------------

    def throttled(self, address: str, person: str) -> str:
        """Whether logins are refused: "" to go on, "first" for the first refusal of this window, "again" for further ones."""
        return self._throttle.blocks(address, person)

    def prove(self, worker: Worker, address: str, person: str, answer: Callable[[str], object]) -> None:
        """A proof is about to be checked. answer: called with the word of `throttled`, later if proofs under way could reach the limit.

        After "" the worker must tell how it ended: tries made at once, in however many workers, are no way round the limit.
        """
        self._waiting.append((worker, address, person, answer))
        self._go_on()

    def proved(self, worker: Worker, address: str, person: str, *, is_right: bool, was_begun: bool) -> None:
        """A proof has ended. was_begun: it was announced by `prove`, to this control process or to the one before."""
        proofs = self._of(worker).proofs
        if was_begun and proofs[address, person]:
            _take_one(proofs, (address, person))
            self._end_proof(address, person, is_right=is_right)
        elif is_right or not was_begun:  # a wrong one of the process before counts already
            self._note(address, person, is_right=is_right)
        self._go_on()

    def counts(self) -> Counts:
        """Failures as they would count if this process ended now: proofs under way among them."""
        return {key: count for key in (*self._throttle.keys, *self._proofs) if (count := self._count(key))[0]}

    def _count(self, key: Key) -> tuple[int, int]:
        failures, since_ns = self._throttle.count(key)
        return failures + self._proofs[key], since_ns or self._clock.monotonic_ns()

    def _end_proof(self, address: str, person: str, *, is_right: bool) -> None:
        _take_one(self._proofs, (address, ""))
        _take_one(self._proofs, (address, person))
        self._note(address, person, is_right=is_right)

    def _note(self, address: str, person: str, *, is_right: bool) -> None:
        (self._throttle.succeeded if is_right else self._throttle.failed)(address, person)
        self._remember(address, person)

    def _remember(self, address: str, person: str) -> None:
        if self._memory is None:
            return
        if self._memory.is_full:
            self._memory.rewrite(self.counts())
        for key in ((address, ""), (address, person)):
            self._memory.note(key, *self._count(key))

    def _go_on(self) -> None:
        """Answer who need not wait any more, in the order they came."""
        waiting, self._waiting = self._waiting, []
        for worker, address, person, answer in waiting:
            word = self._throttle.blocks(address, person)
            if word:
                answer(word)
                continue
            by_address, by_person = self._throttle.room(address, person)
            if self._proofs[address, ""] >= by_address or self._proofs[address, person] >= by_person:
                self._waiting.append((worker, address, person, answer))
                continue
            self._proofs[address, ""] += 1
            self._proofs[address, person] += 1
            self._of(worker).proofs[address, person] += 1
            self._remember(address, person)  # before anybody may look at it
            answer("")


def _take_one(counter: Counter[str] | Counter[tuple[str, str]], key: object) -> None:
    """One less; a key that comes to nothing is forgotten, so that the table stays as large as what it counts."""
    if key not in counter:
        return
    counter[key] -= 1  # type: ignore[index] # the caller's key is of the counter's type
    if counter[key] <= 0:  # type: ignore[index] # as above
        del counter[key]
