"""Turns, shares and limits of the classifier's queue."""

from __future__ import annotations

from classifiers.effects import LexingState
from dbproxy.classifier.queue import SUSPECT_NS, FairQueue, Request


def _request(key: str, text: bytes = b"SELECT 1") -> Request:
    return Request("postgres", text, LexingState(), 150000, key, lambda _report: None)


def _queue(processes: int = 2, waiting: int = 100, waiting_bytes: int = 10_000, per_key: int = 50) -> FairQueue:
    return FairQueue(processes, waiting, waiting_bytes, per_key)


def _put(queue: FairQueue, *keys: str, now_ns: int = 1) -> list[Request]:
    requests = [_request(key) for key in keys]
    assert all(queue.put(request, now_ns) for request in requests)
    return requests


def _take_key(queue: FairQueue) -> object:
    request = queue.take()
    return None if request is None else request.key


def test_keys_take_turns_however_many_requests_one_has() -> None:
    queue = _queue(processes=100)
    _put(queue, "flood", "flood", "flood", "flood", "calm", "other")
    assert [_take_key(queue) for _ in range(7)] == ["flood", "calm", "other", "flood", "flood", "flood", None]


def test_no_more_run_than_there_are_processes() -> None:
    queue = _queue(processes=2)
    _put(queue, "a", "b", "c")
    assert [_take_key(queue) for _ in range(3)] == ["a", "b", None]
    assert queue.running == 2
    assert queue.waiting == 1


def test_one_key_leaves_a_process_to_the_others() -> None:
    queue = _queue(processes=2)
    _put(queue, "flood", "flood")
    assert _take_key(queue) == "flood"
    assert queue.take() is None
    _put(queue, "calm")
    assert _take_key(queue) == "calm"


def test_the_only_process_can_be_used() -> None:
    queue = _queue(processes=1)
    _put(queue, "a")
    assert _take_key(queue) == "a"


def test_all_suspects_together_leave_a_process_to_the_others() -> None:
    queue = _queue(processes=2)
    for key in ("slow 1", "slow 2"):
        _put(queue, key)
        request = queue.take()
        assert request is not None
        queue.ended(request, 10, was_slow=True)
    _put(queue, "slow 1", "slow 2", now_ns=11)
    assert _take_key(queue) == "slow 1"
    assert queue.take() is None
    _put(queue, "calm", now_ns=12)
    assert _take_key(queue) == "calm"


def test_suspects_wait_behind_the_others() -> None:
    queue = _queue(processes=1)
    (slow,) = _put(queue, "slow")
    assert queue.take() is slow
    queue.ended(slow, 10, was_slow=True)
    _put(queue, "slow", "calm", now_ns=11)
    assert _take_key(queue) == "calm"


def test_suspicion_ends() -> None:
    queue = _queue(processes=1)
    (slow,) = _put(queue, "slow")
    queue.take()
    queue.ended(slow, 10, was_slow=True)
    _put(queue, "slow", "calm", now_ns=10 + SUSPECT_NS)
    assert _take_key(queue) == "slow"


def test_a_key_has_a_limit_on_what_waits_and_runs() -> None:
    queue = _queue(per_key=2)
    _put(queue, "a", "a")
    queue.take()
    assert not queue.put(_request("a"), 1)
    assert queue.put(_request("b"), 1)


def test_waiting_requests_are_bounded_in_number_and_bytes() -> None:
    queue = _queue(waiting=2)
    _put(queue, "a", "b")
    assert not queue.put(_request("c"), 1)
    queue = _queue(waiting_bytes=100)
    assert queue.put(_request("a", b"x" * 60), 1)
    assert not queue.put(_request("b", b"x" * 41), 1)
    assert queue.put(_request("b", b"x" * 40), 1)


def test_a_removed_request_frees_its_room_and_is_not_taken() -> None:
    queue = _queue(per_key=1)
    (first,) = _put(queue, "a")
    assert queue.remove(first)
    assert not queue.remove(first)
    assert (queue.waiting, queue.bytes) == (0, 0)
    assert queue.take() is None
    _put(queue, "a")


def test_a_running_request_cannot_be_removed() -> None:
    queue = _queue()
    (request,) = _put(queue, "a")
    assert queue.take() is request
    assert not queue.remove(request)
    queue.ended(request, 5, was_slow=False)
    assert queue.running == 0


def test_remove_all_leaves_only_what_runs() -> None:
    queue = _queue(processes=1)
    requests = _put(queue, "a", "b", "c")
    queue.take()
    assert queue.remove_all() == requests[1:]
    assert (queue.waiting, queue.running) == (0, 1)
