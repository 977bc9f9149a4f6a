"""The pool with real processes: hangs, deaths, lies, floods and shutdown. tests/support/toy_classifier.py does the misbehaving."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from classifiers.effects import Kind, LexingState, Report
from dbproxy.classifier import pool as pool_module
from dbproxy.classifier.frames import OUT_OF_MEMORY
from dbproxy.classifier.pool import CLOSING, OVERLOADED, TOO_LONG, WAITED_TOO_LONG, ClassifierPool, PoolSettings
from dbproxy.classifier.processes import BAD_ANSWER, PROCESS_DIED, TOOK_TOO_LONG
from dbproxy.errors import StartError

SUPPORT = str(Path(__file__).resolve().parent.parent / "support")
TOY = PoolSettings(
    classify="toy_classifier:classify",
    scrub="toy_classifier:scrub",
    import_paths=(SUPPORT,),
    deadline_s=5.0,
    queue_wait_s=20.0,
)
HASTY = replace(TOY, deadline_s=0.1)
STATE = LexingState()

Scenario = Callable[[ClassifierPool], Awaitable[None]]


@asynccontextmanager
async def _running(settings: PoolSettings) -> AsyncIterator[ClassifierPool]:
    pool = ClassifierPool(settings)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def _run(
    settings: PoolSettings, scenario: Scenario, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), _running(settings) as pool:
            await scenario(pool)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


@pytest.fixture
def run() -> Callable[[PoolSettings, Scenario], None]:
    """Run a scenario with a started pool in the event loop that the proxy uses."""
    return lambda settings, scenario: _run(settings, scenario, uvloop.new_event_loop)


async def _ask(pool: ClassifierPool, text: bytes, key: str = "a") -> Report:
    return await pool.classify("postgres", text, STATE, 150000, key)


async def _all_alive(pool: ClassifierPool) -> None:
    """Until the processes that should be there are there; the timeout of the scenario bounds it."""
    while pool.processes < pool.settings.processes + 1:
        await asyncio.sleep(0)


def _assert_unparsable(report: Report, reason: str) -> None:
    assert report.kinds == {Kind.UNPARSABLE}
    assert report.reason == reason


def test_text_state_and_version_reach_the_classifier(run: Callable[[PoolSettings, Scenario], None]) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        assert (await _ask(pool, b"caf\xc3\xa9")).reads == ("café",)
        report = await pool.classify("other", b"state", LexingState(None, "LATIN1"), 99, "a")
        assert report.functions == ("other", "None", "LATIN1", "99")

    run(TOY, scenario)


def test_the_standard_event_loop_will_do() -> None:
    async def scenario(pool: ClassifierPool) -> None:
        assert (await _ask(pool, b"t")).reads == ("t",)
        assert (await _ask(pool, b"spin")).reason == TOOK_TOO_LONG
        assert (await _ask(pool, b"die")).reason == PROCESS_DIED
        assert (await _ask(pool, b"t")).reads == ("t",)

    _run(HASTY, scenario, None)


def test_text_that_hangs_the_parser_costs_only_its_own_statement(run: Callable[[PoolSettings, Scenario], None]) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        _assert_unparsable(await _ask(pool, b"spin"), TOOK_TOO_LONG)
        assert (await _ask(pool, b"t")).reads == ("t",)
        await _all_alive(pool)
        assert pool.stats.timeouts == 1

    run(HASTY, scenario)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"die", PROCESS_DIED),
        (b"babble", BAD_ANSWER),
        (b"lie 1", BAD_ANSWER),
        (b"lie 77", BAD_ANSWER),
        (b"hoard", OUT_OF_MEMORY),
    ],
    ids=[
        "killed by a signal",
        "bytes that are no frame",
        "a report without fields",
        "a wrong sequence number",
        "out of memory",
    ],
)
def test_a_process_that_fails_is_replaced(
    run: Callable[[PoolSettings, Scenario], None], text: bytes, reason: str
) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        await _all_alive(pool)
        before = _children(pool)
        _assert_unparsable(await _ask(pool, text), reason)
        await _all_alive(pool)
        after = _children(pool)
        assert len(after - before) == 1
        assert all([(await _ask(pool, b"t", key)).reads == ("t",) for key in "abcdef"])

    run(TOY, scenario)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"raise", "the classifier failed with ValueError"),
        (b"recurse", "it is nested too deep"),
        (b"large", "its description is too large"),
    ],
)
def test_a_text_that_cannot_be_read_leaves_the_process_alive(
    run: Callable[[PoolSettings, Scenario], None], text: bytes, reason: str
) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        await _all_alive(pool)
        before = _children(pool)
        _assert_unparsable(await _ask(pool, text), reason)
        assert _children(pool) == before

    run(TOY, scenario)


def test_a_child_can_open_nothing_and_knows_nothing(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[PoolSettings, Scenario], None]
) -> None:
    monkeypatch.setenv("DBPROXY_CANARY", "hunter2")

    async def scenario(pool: ClassifierPool) -> None:
        assert (await _ask(pool, b"escape")).functions == ("open OSError", "socket OSError", "write OSError")
        environment, descriptors, _, parent = (await _ask(pool, b"look")).functions
        assert "CANARY" not in environment
        assert set(environment.split()[1:]) <= {"LANG", "LC_CTYPE", "LD_LIBRARY_PATH"}
        assert descriptors == "fds 4"  # three times /dev/null, and the socket to the proxy
        assert parent == f"parent {pool.template_pid}"
        assert b"hunter2" not in Path(f"/proc/{pool.template_pid}/environ").read_bytes()

    listening = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(listening, True)  # even one that somebody forgot to protect
    try:
        run(TOY, scenario)
    finally:
        os.close(listening)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        (b"spin", ()),
        (b"spin PASSWORD 'hunter2'", ((15, 22),)),
        (b"die 'hunter2'", ((5, 12),)),
        (b"raise hunter2", ((6, 13),)),
        (b"hoard hunter2", ((6, 13),)),
        (b"spin scrub-spin hunter2", ((0, 23),)),
        (b"spin scrub-raise hunter2", ((0, 24),)),
        (b"raise scrub-raise hunter2", ((0, 25),)),
    ],
)
def test_secrets_are_found_in_what_cannot_be_read_or_all_of_it_is_one(
    run: Callable[[PoolSettings, Scenario], None], text: bytes, spans: tuple[tuple[int, int], ...]
) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        await _all_alive(pool)
        report = await _ask(pool, text)
        assert report.kinds == {Kind.UNPARSABLE}
        assert report.secret_spans == spans
        assert report.flags == ({"secret_literal"} if spans else frozenset())
        assert (await _ask(pool, b"t")).reads == ("t",)

    run(HASTY, scenario)


def test_of_a_text_above_the_limit_only_the_secrets_are_looked_for(
    run: Callable[[PoolSettings, Scenario], None],
) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        report = await _ask(pool, b"x" * 101)
        _assert_unparsable(report, TOO_LONG)
        assert report.secret_spans == ()
        assert (await _ask(pool, b"x" * 100)).reads == ("x" * 100,)
        report = await _ask(pool, b"x" * 101 + b"hunter2")
        _assert_unparsable(report, TOO_LONG)
        assert report.secret_spans == ((101, 108),)
        report = await _ask(pool, b"x" * 101 + b"scrub-spin")
        _assert_unparsable(report, TOO_LONG)
        assert report.secret_spans == ((0, 111),)
        assert pool.stats.too_long == 3

    run(replace(TOY, max_text_bytes=100), scenario)


def test_a_megabyte_goes_through(run: Callable[[PoolSettings, Scenario], None]) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        text = b"state " + b"x" * ((1 << 20) - 6)
        assert (await _ask(pool, text)).functions[0] == "postgres"

    run(TOY, scenario)


def test_a_flood_is_refused_beyond_its_share_and_others_are_served(
    run: Callable[[PoolSettings, Scenario], None],
) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        answers: list[Report] = []
        for _ in range(40):
            pool.submit("postgres", b"spin", STATE, 0, "flood", answers.append)
        reports = [await _ask(pool, b"t", f"calm {number}") for number in range(200)]
        assert {report.reads for report in reports} == {("t",)}
        assert [answer.reason for answer in answers] == [OVERLOADED] * 24
        assert pool.queued == 15

    run(replace(TOY, max_per_key=16), scenario)


def test_waiting_has_an_end(run: Callable[[PoolSettings, Scenario], None]) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        first = asyncio.ensure_future(_ask(pool, b"spin"))
        await asyncio.sleep(0)
        _assert_unparsable(await _ask(pool, b"second"), WAITED_TOO_LONG)
        assert pool.stats.queue_timeouts == 1
        assert pool.queued == 0
        first.cancel()

    run(replace(TOY, queue_wait_s=0.05), scenario)


def test_whoever_is_slow_gets_every_answer_in_time_waiting_included(
    run: Callable[[PoolSettings, Scenario], None],
) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            started, taken = loop.time(), list[float]()
            for _ in range(8):
                pool.submit("postgres", b"spin", STATE, 0, "slow", lambda _: taken.append(loop.time() - started))  # noqa: B023
            while len(taken) < 8:
                await asyncio.sleep(0.01)
            assert max(taken) < 1.0

    run(replace(TOY, deadline_s=1.0), scenario)


def test_a_cancelled_caller_leaves_the_queue(run: Callable[[PoolSettings, Scenario], None]) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        running = asyncio.ensure_future(_ask(pool, b"nap 0.05"))
        waiting = asyncio.ensure_future(_ask(pool, b"t"))
        await asyncio.sleep(0)
        assert pool.queued == 1
        for task in (running, waiting):
            task.cancel()
        await asyncio.wait((running, waiting))
        assert pool.queued == 0
        assert (await _ask(pool, b"t")).reads == ("t",)

    run(TOY, scenario)


def test_a_process_retires_after_its_share_of_work(run: Callable[[PoolSettings, Scenario], None]) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        before = _children(pool)
        await _ask(pool, b"nap 0.02")
        await _all_alive(pool)
        assert _children(pool) != before
        assert pool.stats.retired == 1

    run(replace(TOY, retire_after_s=0.01), scenario)


def test_the_pool_recovers_when_the_template_is_killed(run: Callable[[PoolSettings, Scenario], None]) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        await _all_alive(pool)
        orphans = _children(pool)
        asked = asyncio.ensure_future(_ask(pool, b"spin"))
        await asyncio.sleep(0)
        os.kill(pool.template_pid, signal.SIGKILL)
        _assert_unparsable(await asked, PROCESS_DIED)
        assert not pool.is_ready
        assert (await _ask(pool, b"t", "b")).reads == ("t",)
        await _all_alive(pool)
        assert pool.restarts == 1
        await _gone(orphans)

    run(TOY, scenario)


def test_close_answers_what_is_under_way_and_leaves_no_process(run: Callable[[PoolSettings, Scenario], None]) -> None:
    async def scenario(pool: ClassifierPool) -> None:
        await _all_alive(pool)
        processes = _children(pool) | {pool.template_pid}
        asked = [asyncio.ensure_future(_ask(pool, b"spin", key)) for key in "aab"]
        await asyncio.sleep(0)
        await pool.close()
        assert [(await report).reason for report in asked] == [CLOSING] * 3
        assert (await _ask(pool, b"t")).reason == CLOSING
        assert not pool.is_ready
        await pool.close()
        await _gone(processes)

    run(TOY, scenario)


def test_a_classifier_that_cannot_be_imported_is_a_start_error() -> None:
    async def main() -> None:
        pool = ClassifierPool(replace(TOY, classify="no_such_module:classify"))
        with pytest.raises(
            StartError, match="the classifier cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"
        ):
            await pool.start()
        assert pool.template_pid == 0

    asyncio.run(main())


def test_a_template_that_does_not_become_ready_is_a_start_error() -> None:
    async def main() -> None:
        pool = ClassifierPool(replace(TOY, start_timeout_s=0.001))
        with pytest.raises(StartError, match="did not start in time"):
            await pool.start()
        assert pool.template_pid == 0

    asyncio.run(main())


def test_the_processes_die_with_the_proxy() -> None:
    """A proxy that is killed cannot close anything."""
    program = f"""
import asyncio, sys
sys.path[:0] = {[str(Path(pool_module.__file__).parents[2])]!r}
from classifiers.effects import LexingState
from dbproxy.classifier.pool import ClassifierPool, PoolSettings
async def main():
    pool = ClassifierPool(PoolSettings(classify="toy_classifier:classify", scrub="toy_classifier:scrub", import_paths=({SUPPORT!r},), deadline_s=600))
    await pool.start()
    while pool.processes < 3:
        await asyncio.sleep(0)
    pool.submit("postgres", b"spin", LexingState(), 0, "a", print)
    await asyncio.sleep(0)
    print(pool.template_pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

    async def main() -> None:
        proxy = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        assert proxy.stdout is not None
        template = int(await proxy.stdout.readline())
        processes = {template, *_children_of(template)}
        assert len(processes) == 4
        proxy.kill()
        await proxy.wait()
        await _gone(processes)

    asyncio.run(main())


def _children(pool: ClassifierPool) -> set[int]:
    return _children_of(pool.template_pid)


def _children_of(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def _gone(pids: set[int]) -> None:
    """Wait until none of the processes runs (one that nobody has reaped yet does not run); at most ten seconds."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        ended = await asyncio.to_thread(poller.poll, 10_000)
        os.close(handle)
        assert ended, f"process {pid} still runs"
