"""Caps and throttle of the whole proxy are exact, however many workers ask. SECURITY_BAR B7, J2."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_clock import FakeClock

from config.settings import Limits, LoginFailures
from dbproxy.admission import Admission, connection_cap
from dbproxy.doorkeeper import TOO_MANY, TOO_MANY_OF_ADDRESS, TOO_MANY_SESSIONS
from dbproxy.throttle_memory import ThrottleMemory


def make(
    *,
    sessions: int = 1000,
    user: int = 100,
    address: int = 200,
    failures: int = 3,
    memory: ThrottleMemory | None = None,
    clock: FakeClock | None = None,
) -> tuple[Admission, FakeClock]:
    limits = Limits(
        max_sessions=sessions,
        max_sessions_per_user=user,
        max_sessions_per_address=address,
        login_failures=LoginFailures(per_user=failures, per_address=1000, window_s=60),
    )
    clock = clock or FakeClock()
    return Admission(limits, clock, memory), clock


def test_address_cap_holds_over_workers_and_room_comes_back() -> None:
    admission, _ = make(address=5)
    words = [admission.enter(number % 2 + 1, number, "10.0.0.1") for number in range(8)]
    assert words == [""] * 5 + [TOO_MANY_OF_ADDRESS] * 3
    assert admission.enter(1, 100, "10.0.0.2") == ""
    admission.leave(1, 0)
    assert admission.enter(2, 101, "10.0.0.1") == ""
    assert admission.enter(2, 102, "10.0.0.1") == TOO_MANY_OF_ADDRESS


def test_connections_have_a_cap_of_their_own() -> None:
    admission, _ = make(sessions=8, address=1000)
    words = [admission.enter(1, number, f"10.0.0.{number}") for number in range(40)]
    assert words.count("") == connection_cap(Limits(max_sessions=8)) == 26
    assert set(words[26:]) == {TOO_MANY}


def test_person_cap_holds_over_workers() -> None:
    admission, _ = make(user=3)
    for number in range(6):
        admission.enter(number % 2 + 1, number, "10.0.0.1")
    words = [admission.take(number % 2 + 1, number, "alice") for number in range(6)]
    assert words == [""] * 3 + [TOO_MANY_SESSIONS] * 3
    admission.leave(1, 0)
    assert admission.take(2, 5, "alice") == ""


def test_worker_that_is_gone_gives_everything_back() -> None:
    admission, _ = make(user=3, address=4)
    for number in range(3):
        admission.enter(1, number, "10.0.0.1")
        admission.take(1, number, "alice")
    assert admission.enter(2, 1, "10.0.0.1") == ""
    assert admission.take(2, 1, "alice") == TOO_MANY_SESSIONS
    admission.forget(1)
    assert (admission.connections, admission.sessions) == (1, 0)
    assert admission.take(2, 1, "alice") == ""


def test_what_workers_tell_after_a_restart_of_control_counts() -> None:
    admission, _ = make(user=2, address=3)
    admission.restore(1, [(1, "10.0.0.1", "alice"), (2, "10.0.0.1", "")])
    admission.restore(2, [(1, "10.0.0.1", "alice")])
    assert (admission.connections, admission.sessions) == (3, 2)
    assert admission.enter(2, 2, "10.0.0.1") == TOO_MANY_OF_ADDRESS
    assert admission.take(1, 2, "alice") == TOO_MANY_SESSIONS


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(0, 5), st.integers(0, 2)), max_size=80))
@settings(max_examples=200)
def test_counts_are_those_of_a_slow_twin(steps: list[tuple[int, int, int, int]]) -> None:
    admission, _ = make(sessions=6, user=3, address=5)
    held: dict[tuple[int, int], list[str]] = {}
    for what, worker, number, which in steps:
        address, person = f"10.0.0.{which}", f"person{which}"
        if what == 0 and (worker, number) not in held:
            if sum(each[0] == address for each in held.values()) < 5 and len(held) < 23:
                held[worker, number] = [address, ""]
                assert admission.enter(worker, number, address) == ""
            else:
                assert admission.enter(worker, number, address) != ""
        elif what == 1 and (worker, number) in held and not held[worker, number][1]:
            people = Counter(each[1] for each in held.values() if each[1])
            if people[person] < 3 and people.total() < 6:
                held[worker, number][1] = person
                assert admission.take(worker, number, person) == ""
            else:
                assert admission.take(worker, number, person) == TOO_MANY_SESSIONS
        elif what == 2:
            held.pop((worker, number), None)
            admission.leave(worker, number)
        elif what == 3 and which == 0:
            held = {key: value for key, value in held.items() if key[0] != worker}
            admission.forget(worker)
        assert admission.connections == len(held)
        assert admission.sessions == sum(bool(each[1]) for each in held.values())


# ---- throttle -------------------------------------------------------------------------------------------------------


def fail(admission: Admission, worker: int = 1, person: str = "alice", address: str = "10.0.0.1") -> str:
    """One wrong proof, if it is admitted. Returns the word."""
    words: list[str] = []
    admission.prove(worker, address, person, words.append)
    if words == [""]:
        admission.proved(worker, address, person, is_right=False, was_begun=True)
    return words[0]


def test_failures_in_different_workers_add_up_and_are_told_once() -> None:
    admission, clock = make(failures=3)
    assert [fail(admission, worker) for worker in (1, 2, 1, 2, 1)] == ["", "", "", "first", "again"]
    assert admission.throttled("10.0.0.1", "alice") == "again"
    assert fail(admission, 2, "bob") == ""
    assert fail(admission, 2, address="10.0.0.2") == ""
    clock.advance(61)
    assert fail(admission) == ""


def test_many_tries_at_once_in_many_workers_are_no_way_round() -> None:
    admission, _ = make(failures=3)
    answers: list[tuple[int, str]] = []
    for worker in range(1, 11):
        admission.prove(worker, "10.0.0.1", "alice", lambda word, worker=worker: answers.append((worker, word)))
    assert answers == [(1, ""), (2, ""), (3, "")]
    for worker in (1, 2, 3):
        admission.proved(worker, "10.0.0.1", "alice", is_right=False, was_begun=True)
    assert [word for _, word in answers] == [""] * 3 + ["first"] + ["again"] * 6


def test_who_waits_goes_on_when_a_proof_was_right() -> None:
    """A pool of connections of one person logs in at once: none of them is refused."""
    admission, _ = make(failures=3)
    answers: list[int] = []
    for number in range(20):
        admission.prove(
            1, "10.0.0.1", "alice", lambda word, number=number: answers.append(number) if not word else None
        )
    done = 0
    while done < len(answers):
        done += 1
        admission.proved(1, "10.0.0.1", "alice", is_right=True, was_begun=True)
    assert answers == list(range(20))


def test_proofs_of_a_worker_that_is_gone_count_as_failed() -> None:
    admission, _ = make(failures=3)
    for _ in range(3):
        admission.prove(1, "10.0.0.1", "alice", lambda _: None)
    waiting: list[str] = []
    admission.prove(2, "10.0.0.1", "alice", waiting.append)
    admission.prove(1, "10.0.0.1", "alice", waiting.append)
    admission.forget(1)
    assert waiting == ["first"]


def test_servers_own_refusals_count_too() -> None:
    admission, _ = make(failures=2)
    for _ in range(2):
        assert admission.throttled("10.0.0.1", "app") == ""
        admission.proved(1, "10.0.0.1", "app", is_right=False, was_begun=False)
    assert admission.throttled("10.0.0.1", "app") == "first"


def test_never_more_failures_than_the_limit_whatever_the_order() -> None:
    """1,000 interleavings of wrong proofs in 4 workers."""
    for seed in range(1000):
        rng = Random(seed)
        admission, _ = make(failures=4)
        running: list[int] = []
        admitted = 0

        def answer(word: str, worker: int) -> None:
            if not word:
                running.append(worker)  # noqa: B023 - called within this round

        for _ in range(30):
            if running and rng.random() < 0.5:
                worker = running.pop(rng.randrange(len(running)))
                admitted += 1
                admission.proved(worker, "10.0.0.1", "alice", is_right=False, was_begun=True)
            else:
                worker = rng.randint(1, 4)
                admission.prove(worker, "10.0.0.1", "alice", lambda word, worker=worker: answer(word, worker))
        assert admitted + len(running) <= 4, seed


# ---- throttle, after a restart of control ---------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[ThrottleMemory]:
    made = ThrottleMemory.create()
    yield made
    made.close()


def again(memory: ThrottleMemory) -> ThrottleMemory:
    """As the next control process finds it: the same descriptors, and nothing else."""
    return ThrottleMemory(memory.descriptors)


def test_failures_are_known_to_the_next_control_until_their_window_is_over(memory: ThrottleMemory) -> None:
    admission, clock = make(memory=memory)
    for worker in (1, 2, 1):
        fail(admission, worker)
    fail(admission, person="bob")
    clock.advance(59)
    admission, _ = make(memory=again(memory), clock=clock)
    assert fail(admission) == "first"
    assert [fail(admission, person="bob") for _ in range(3)] == ["", "", "first"]
    clock.advance(2)
    admission, _ = make(memory=again(memory), clock=clock)
    assert fail(admission) == ""


def test_proofs_under_way_when_control_ends_count_as_failed_unless_they_turn_out_right(memory: ThrottleMemory) -> None:
    admission, clock = make(memory=memory)
    for person in ("alice", "alice", "alice", "bob", "bob", "bob"):
        admission.prove(1, "10.0.0.1", person, lambda _: None)
    admission, _ = make(memory=again(memory), clock=clock)
    assert admission.throttled("10.0.0.1", "alice") == "first"
    assert admission.throttled("10.0.0.1", "bob") == "first"
    # What its worker tells of them later: a right one proves who it was, a wrong one has counted.
    admission.proved(1, "10.0.0.1", "bob", is_right=True, was_begun=True)
    admission.proved(1, "10.0.0.1", "alice", is_right=False, was_begun=True)
    assert admission.throttled("10.0.0.1", "bob") == ""
    assert admission.throttled("10.0.0.1", "alice") == "again"


def test_right_password_is_forgiven_by_the_next_control_too(memory: ThrottleMemory) -> None:
    admission, clock = make(memory=memory)
    fail(admission)
    fail(admission)
    admission.prove(1, "10.0.0.1", "alice", lambda _: None)
    admission.proved(1, "10.0.0.1", "alice", is_right=True, was_begun=True)
    admission, _ = make(memory=again(memory), clock=clock)
    assert [fail(admission) for _ in range(4)] == ["", "", "", "first"]


def test_whatever_happens_the_next_control_knows_as_much_as_the_last(memory: ThrottleMemory) -> None:
    """200 histories, each cut at a random place."""
    for seed in range(200):
        rng = Random(seed)
        clock = FakeClock()
        with contextlib.closing(ThrottleMemory.create()) as own:
            admission, _ = make(failures=4, memory=own, clock=clock)
            running: Counter[tuple[str, str]] = Counter()
            failed: Counter[tuple[str, str]] = Counter()
            for _ in range(rng.randrange(60)):
                who = (rng.choice(["10.0.0.1", "10.0.0.2"]), rng.choice(["alice", "bob"]))
                words: list[str] = []
                if rng.random() < 0.5 and running[who] + failed[who] < 4:
                    admission.prove(1, *who, words.append)
                    assert words == [""]
                    running[who] += 1
                elif running[who]:
                    is_right = rng.random() < 0.3
                    admission.proved(1, *who, is_right=is_right, was_begun=True)
                    running[who] -= 1
                    failed[who] = 0 if is_right else failed[who] + 1
                if rng.random() < 0.1:
                    own.rewrite(admission.counts())
            after, _ = make(failures=4, memory=again(own), clock=clock)
            for who in [(address, person) for address in ("10.0.0.1", "10.0.0.2") for person in ("alice", "bob")]:
                known = running[who] + failed[who]
                tried = 0
                while known + tried < 4:
                    assert fail(after, 1, who[1], who[0]) == "", seed
                    tried += 1
                assert fail(after, 1, who[1], who[0]) in ("first", "again"), seed
