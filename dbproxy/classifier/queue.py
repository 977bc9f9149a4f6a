"""Whose text is read next: bounded, fair between sessions, and hard on those whose texts were slow.

Pure bookkeeping: no process, no timer, no clock. Keys take turns; no key has more than its share running, so that one session cannot
hold every process; a key whose text took too long is a suspect for a while: suspects wait behind the others and all of them together
leave one process free.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from classifiers.effects import LexingState, Report

SUSPECT_NS = 30_000_000_000
"""How long one slow text is held against its key."""
_MAX_SUSPECTS = 4096


class Request:
    """One text on its way. Filled by the pool.

    done: what to call with the report, None once it was called or nobody wants it. queued_ns: when it began to wait.
    failure: why it could not be read, once that is so and only its secrets are looked for; "" before. spent_ns: time in processes.
    expiry: the pool's timer for its wait. is_running: taken from the queue to be read.
    lane: where it waits or from where it was taken; None before and after.
    """

    __slots__ = (
        "dialect",
        "done",
        "expiry",
        "failure",
        "is_running",
        "key",
        "lane",
        "queued_ns",
        "server_version",
        "spent_ns",
        "state",
        "text",
    )

    def __init__(
        self,
        dialect: str,
        text: bytes,
        state: LexingState,
        server_version: int,
        key: Hashable,
        done: Callable[[Report], object],
    ) -> None:
        self.dialect = dialect
        self.text = text
        self.state = state
        self.server_version = server_version
        self.key = key
        self.done: Callable[[Report], object] | None = done
        self.queued_ns = 0
        self.failure = ""
        self.spent_ns = 0
        self.expiry: TimerHandle | None = None
        self.is_running = False
        self.lane: Lane | None = None


class Lane:
    """Waiting requests by key, keys in the order of their turns; and how many requests of this lane are running."""

    __slots__ = ("limit", "running", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.waiting: OrderedDict[Hashable, deque[Request]] = OrderedDict()


class FairQueue:
    """Requests that wait or run.

    processes: how many may run. max_waiting, max_waiting_bytes: of all keys; max_per_key: of one, waiting or running.
    """

    __slots__ = (
        "_load",
        "_max_bytes",
        "_max_per_key",
        "_max_waiting",
        "_normal",
        "_processes",
        "_running_of",
        "_slow",
        "_suspects",
        "bytes",
        "waiting",
    )

    def __init__(self, processes: int, max_waiting: int, max_waiting_bytes: int, max_per_key: int) -> None:
        self._processes = processes
        self._max_waiting = max_waiting
        self._max_bytes = max_waiting_bytes
        self._max_per_key = max_per_key
        self._normal = Lane(processes)
        self._slow = Lane(max(1, processes - 1))
        self._load: dict[Hashable, int] = {}
        self._running_of: dict[Hashable, int] = {}
        self._suspects: OrderedDict[Hashable, int] = OrderedDict()
        self.waiting = 0
        self.bytes = 0

    @property
    def running(self) -> int:
        return self._normal.running + self._slow.running

    def put(self, request: Request, now_ns: int) -> bool:
        """Let a request wait. False if there is no room for it."""
        load = self._load.get(request.key, 0)
        size = len(request.text)
        if load >= self._max_per_key or self.waiting >= self._max_waiting or self.bytes + size > self._max_bytes:
            return False
        self._load[request.key] = load + 1
        self.waiting += 1
        self.bytes += size
        request.queued_ns = now_ns
        request.lane = lane = self._slow if self._is_suspect(request.key, now_ns) else self._normal
        lane.waiting.setdefault(request.key, deque()).append(request)
        return True

    def take(self) -> Request | None:
        """The next request to run, which counts as running from now on; None if none may run now."""
        if self.running >= self._processes:
            return None
        return self._take(self._normal) or self._take(self._slow)

    def remove(self, request: Request) -> bool:
        """Take out a request that waits. False if it does not wait."""
        lane = request.lane
        if lane is None or request.is_running:
            return False
        requests = lane.waiting[request.key]
        requests.remove(request)
        if not requests:
            del lane.waiting[request.key]
        self._leave(request)
        request.lane = None
        _decrease(self._load, request.key)
        return True

    def ended(self, request: Request, now_ns: int, *, was_slow: bool) -> None:
        """A running request has ended; was_slow makes its key a suspect."""
        if request.lane is None or not request.is_running:
            raise ValueError("the request was not running")
        request.lane.running -= 1
        request.lane = None
        _decrease(self._running_of, request.key)
        _decrease(self._load, request.key)
        if was_slow:
            self._suspects[request.key] = now_ns + SUSPECT_NS
            self._suspects.move_to_end(request.key)
            if len(self._suspects) > _MAX_SUSPECTS:
                self._suspects.popitem(last=False)

    def is_slow(self, request: Request) -> bool:
        """Whether it waits or runs with those whose texts were slow."""
        return request.lane is self._slow

    def waiting_of(self, key: Hashable) -> list[Request]:
        """What waits of one key."""
        return [request for lane in (self._normal, self._slow) for request in lane.waiting.get(key, ())]

    def remove_all(self) -> list[Request]:
        """Take out all that wait."""
        waiting = [
            request for lane in (self._normal, self._slow) for requests in lane.waiting.values() for request in requests
        ]
        for request in waiting:
            self.remove(request)
        return waiting

    def _take(self, lane: Lane) -> Request | None:
        if lane.running >= lane.limit:
            return None
        share = max(1, self._processes - 1)
        # At most as many keys as there are processes have their share running, so this loop is short however long the line is.
        key = next((key for key in lane.waiting if self._running_of.get(key, 0) < share), None)
        if key is None:
            return None
        requests = lane.waiting[key]
        request = requests.popleft()
        if requests:
            lane.waiting.move_to_end(key)
        else:
            del lane.waiting[key]
        self._leave(request)
        request.is_running = True
        lane.running += 1
        self._running_of[key] = self._running_of.get(key, 0) + 1
        return request

    def _leave(self, request: Request) -> None:
        self.waiting -= 1
        self.bytes -= len(request.text)

    def _is_suspect(self, key: Hashable, now_ns: int) -> bool:
        until_ns = self._suspects.get(key)
        if until_ns is None:
            return False
        if until_ns <= now_ns:
            del self._suspects[key]
            return False
        return True


def _decrease(counts: dict[Hashable, int], key: Hashable) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
