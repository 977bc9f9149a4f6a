"""What the judge asks: read this text, and never raise, never hang, never take longer than agreed.

A text that cannot be read in time ends its process and is unparsable; a spare takes the place at once. Waiting is bounded in number,
bytes and time. Every failure is a report of kind "unparsable" with its reason, so that policy decides about it like about any other.
What could not be read is looked through for passwords by another process, so that the audit can show the rest; if that fails as well,
or the text never got its turn, all of the text counts as secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

from classifiers.effects import LexingState, Report
from dbproxy.classifier.frames import CLASSIFY, OUT_OF_MEMORY, SCRUB, unparsable, whole
from dbproxy.classifier.processes import BAD_ANSWER, TOOK_TOO_LONG, Child, Processes, ProcessSettings
from dbproxy.classifier.queue import FairQueue, Request
from dbproxy.clock import Clock, SystemClock
from dbproxy.errors import StartError

TOO_LONG = "it is longer than the classifier reads"
_SCRUB_S_PER_BYTE = 5e-7
"""Beyond what any text gets, for looking for secrets in a long one: 8 s for 16 MiB, of which it needs 1 s of processor time."""
OVERLOADED = "the classifier is overloaded"
WAITED_TOO_LONG = "it waited too long for the classifier"
CLOSING = "the proxy is shutting down"


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Bounds of the pool.

    processes: texts read at the same time; one spare process is kept besides.
    deadline_s: to the answer, from the moment a process gets the text; a third of it is kept for finding the secrets in a text that
    could not be read. For the texts of a key whose texts were slow, from the moment it asks: who is slow does not wait as well.
    queue_wait_s: how long the others may wait.
    max_text_bytes: longer texts are unparsable unread, only their secrets are looked for, so that what runs is on record. max_queued, max_queued_bytes: of all keys; max_per_key: of one, running or waiting.
    memory_bytes: address space of a process. retire_after_s: busy seconds after which a process is replaced; the kernel ends it at twice that.
    start_timeout_s: for the template to import and warm up.
    classify, scrub, dialects, import_paths: the functions that read, what they are warmed up with, where they are found besides the
    proxy's own place.
    """

    processes: int = 2
    deadline_s: float = 0.25
    queue_wait_s: float = 2.0
    max_text_bytes: int = 1 << 20
    max_queued: int = 1024
    max_queued_bytes: int = 64 << 20
    max_per_key: int = 16
    memory_bytes: int = 512 << 20
    retire_after_s: float = 60.0
    start_timeout_s: float = 30.0
    classify: str = "classifiers.classify:classify"
    scrub: str = "classifiers.redact:find_secret_spans"
    dialects: tuple[str, ...] = ("postgres",)
    import_paths: tuple[str, ...] = ()


class PoolStats:
    """What happened since the start; plain counters that the metrics read.

    busy_ns: time that processes spent on requests, answered or not; queue_ns: time that requests waited before.
    """

    __slots__ = (
        "bad_answers",
        "busy_ns",
        "deaths",
        "overloads",
        "queue_ns",
        "queue_timeouts",
        "requests",
        "retired",
        "timeouts",
        "too_long",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.timeouts = 0
        self.deaths = 0
        self.bad_answers = 0
        self.overloads = 0
        self.queue_timeouts = 0
        self.too_long = 0
        self.retired = 0
        self.busy_ns = 0
        self.queue_ns = 0


class ClassifierPool:
    """Processes that read SQL. Made and used in one event loop."""

    def __init__(self, settings: PoolSettings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.stats = PoolStats()
        self._clock = clock or SystemClock()
        self._queue = FairQueue(
            settings.processes, settings.max_queued, settings.max_queued_bytes, settings.max_per_key
        )
        self._idle: list[Child] = []
        self._read_s = settings.deadline_s * 0.66
        self._scrub_s = settings.deadline_s * 0.2
        self._suspect_wait_s = min(settings.queue_wait_s, self._read_s / 2)
        self._is_closing = False
        self._processes = Processes(
            ProcessSettings(
                processes=settings.processes + 1,
                memory_bytes=settings.memory_bytes,
                cpu_s=max(1, int(settings.retire_after_s * 2)),
                start_timeout_s=settings.start_timeout_s,
                classify=settings.classify,
                scrub=settings.scrub,
                dialects=settings.dialects,
                import_paths=settings.import_paths,
            ),
            self,
        )

    @property
    def is_ready(self) -> bool:
        """Whether a process is there to read the next text."""
        return self._processes.ready.is_set()

    @property
    def queued(self) -> int:
        """Requests that wait for a process."""
        return self._queue.waiting

    @property
    def processes(self) -> int:
        """Processes that are alive, busy or not, the spare included."""
        return self._processes.alive

    @property
    def restarts(self) -> int:
        """How often the template process had to be started again."""
        return self._processes.restarts

    @property
    def template_pid(self) -> int:
        """Process id of the template, the parent of all the others; 0 while there is none."""
        return self._processes.template_pid

    async def start(self) -> None:
        """Start the processes; returns when the first is ready and the others are on their way.

        Raises StartError with the reason if none is within start_timeout_s; nothing is left running then.
        """
        try:
            await self._processes.start()
        except StartError:
            await self.close()
            raise

    async def classify(
        self, dialect: str, text: bytes, state: LexingState, server_version: int, key: Hashable
    ) -> Report:
        """What the text does. Every failure is an unparsable report with its reason.

        key: who asks; requests of one key take turns with those of others. Cancelling the caller withdraws the request.
        """
        future: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        request = self.submit(dialect, text, state, server_version, key, partial(_resolve, future))
        try:
            return await future
        except asyncio.CancelledError:
            self.withdraw(request)
            raise

    def submit(
        self,
        dialect: str,
        text: bytes,
        state: LexingState,
        server_version: int,
        key: Hashable,
        done: Callable[[Report], object],
    ) -> Request:
        """As classify, for callers without a task: done(report) is called once, later, from the event loop, unless withdrawn before."""
        request = Request(dialect, text, state, server_version, key, done)
        self.stats.requests += 1
        loop = asyncio.get_running_loop()
        if len(text) > self.settings.max_text_bytes:
            self.stats.too_long += 1
            request.failure = TOO_LONG
        if self._is_closing:
            refusal = CLOSING
        elif not self._queue.put(request, self._clock.monotonic_ns()):
            self.stats.overloads += 1
            refusal = OVERLOADED
        else:
            self._dispatch()
            if not request.is_running:
                wait_s = self._suspect_wait_s if self._queue.is_slow(request) else self.settings.queue_wait_s
                request.expiry = loop.call_later(wait_s, self._expire, request)
            return request
        loop.call_soon(_deliver, request, unparsable(refusal, whole(text)))
        return request

    def withdraw(self, request: Request) -> None:
        """Nobody wants the answer any more: done will not be called. A text that is being read is read to its end or deadline."""
        request.done = None
        _cancel_expiry(request)
        self._queue.remove(request)

    async def close(self) -> None:
        """End all processes. Requests under way are answered as unparsable. Safe to call twice."""
        self._is_closing = True
        for request in self._queue.remove_all():
            _cancel_expiry(request)
            _deliver(request, unparsable(CLOSING, whole(request.text)))
        await self._processes.close()
        self._idle.clear()

    def on_idle(self, child: Child) -> None:
        """A child can read."""
        self._idle.append(child)
        self._dispatch()

    def on_answer(self, child: Child, report: Report) -> None:
        """A child has read its request."""
        request = self._take(child)
        if child.busy_ns > self.settings.retire_after_s * 1_000_000_000 or report.reason == OUT_OF_MEMORY:
            self.stats.retired += 1
            self._processes.discard(child)
        else:
            self._idle.append(child)
        if request is None:
            self._dispatch()
        else:
            self._end(request, unparsable(request.failure, report.secret_spans) if request.failure else report)

    def on_failure(self, child: Child, reason: str) -> None:
        """A child is gone, and with it the answer to what it was reading."""
        if child in self._idle:
            self._idle.remove(child)
        request = self._take(child)
        if request is None or not request.failure:
            self._count_failure(reason)
        if request is None:
            self._dispatch()
        elif request.failure or not self._idle or not self.is_ready:
            reason = CLOSING if self._is_closing else request.failure or reason
            self._end(request, unparsable(reason, whole(request.text)))
        else:
            request.failure = reason
            self._read(request, self._idle.pop(), SCRUB, self._scrub_s)

    def _count_failure(self, reason: str) -> None:
        if reason is TOOK_TOO_LONG:
            self.stats.timeouts += 1
        elif reason is BAD_ANSWER:
            self.stats.bad_answers += 1
        elif not self._is_closing:
            self.stats.deaths += 1

    def _dispatch(self) -> None:
        """Give waiting requests to idle children."""
        while self.is_ready and self._idle and (request := self._queue.take()) is not None:
            waited_ns = self._clock.monotonic_ns() - request.queued_ns
            self.stats.queue_ns += waited_ns
            _cancel_expiry(request)
            if request.failure:
                self._read(request, self._idle.pop(), SCRUB, self._scrub_s + len(request.text) * _SCRUB_S_PER_BYTE)
                continue
            # Half of it is plenty for any text but a hostile one, and the answer then comes in time although it had to wait.
            deadline_s = max(self._read_s - waited_ns / 1e9, self._read_s / 2)
            self._read(request, self._idle.pop(), CLASSIFY, deadline_s)

    def _read(self, request: Request, child: Child, operation: str, deadline_s: float) -> None:
        child.started_ns = self._clock.monotonic_ns()
        child.read(request, operation, deadline_s)

    def _take(self, child: Child) -> Request | None:
        """What the child was reading, which it no longer does; its time is booked."""
        request = child.release()
        if request is not None:
            spent_ns = self._clock.monotonic_ns() - child.started_ns
            self.stats.busy_ns += spent_ns
            child.busy_ns += spent_ns
            request.spent_ns += spent_ns
        return request

    def _end(self, request: Request, report: Report) -> None:
        """The request no longer runs: book that, give the children their next work, deliver the report."""
        was_slow = request.failure not in ("", TOO_LONG) or request.spent_ns > self.settings.deadline_s * 500_000_000
        self._queue.ended(request, self._clock.monotonic_ns(), was_slow=was_slow)
        if was_slow:
            self._hurry(request.key)
        self._dispatch()
        _deliver(request, report)

    def _hurry(self, key: Hashable) -> None:
        """What waits behind a slow text of the same key has no longer to wait than any text of a slow key."""
        loop, now_ns = asyncio.get_running_loop(), self._clock.monotonic_ns()
        for request in self._queue.waiting_of(key):
            _cancel_expiry(request)
            left_s = self._suspect_wait_s - (now_ns - request.queued_ns) / 1e9
            if left_s > 0:
                request.expiry = loop.call_later(left_s, self._expire, request)
            else:
                self._expire(request)

    def _expire(self, request: Request) -> None:
        if self._queue.remove(request):
            self.stats.queue_timeouts += 1
            _deliver(request, unparsable(WAITED_TOO_LONG, whole(request.text)))


def classify_in_process(dialect: str, text: bytes, state: LexingState, server_version: int) -> Report:
    """Read a text here and now, without a net: for command-line tools that judge trusted text. It may hang or end the process.

    Never raises for a text that the classifier cannot read; that is an unparsable report.
    """
    # Imported here: the proxy's own process must not carry a parser.
    from classifiers.classify import classify

    try:
        return classify(dialect, text, state, server_version)
    except Exception as error:  # noqa: BLE001 - as in the child: any failure to read is the same answer
        return unparsable(f"the classifier failed with {type(error).__name__}", whole(text))


def _cancel_expiry(request: Request) -> None:
    if request.expiry is not None:
        request.expiry.cancel()


def _resolve(future: asyncio.Future[Report], report: Report) -> None:
    if not future.done():  # cancelled in this very turn, and the task that waits for it has not run yet
        future.set_result(report)


def _deliver(request: Request, report: Report) -> None:
    """Call done, once."""
    done, request.done = request.done, None
    if done is not None:
        done(report)
