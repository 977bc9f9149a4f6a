"""What every store does. Parametrised over the implementations; each makes its own place under tmp_path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.fake_clock import FakeClock

from dbproxy.store.contract import RUNS_KEPT, Ending, Run, Store, StoreError
from dbproxy.store.sqlite import open_store

Opened = Callable[[], Any]
Opener = Callable[[Path], Coroutine[Any, Any, Store]]


async def _sqlite(place: Path) -> Store:
    return await open_store(place, FakeClock())


@pytest.fixture(params=[_sqlite], ids=["sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """A context manager that opens the store of this test; opened again, it is the same one after a restart."""
    opener: Opener = request.param

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Store]:
        store = await opener(tmp_path)
        try:
            yield store
        finally:
            await store.close()

    return open_it


def test_a_run_is_shown_from_start_to_end(opened: Opened) -> None:
    async def scenario() -> None:
        async with opened() as store:
            first = await store.begin_run("supervisor", None, 100, "1.0", 10)
            second = await store.begin_run("worker", 1, 101, "1.0", 11)
            await store.end_run(second, Ending.CRASHED, "signal 9", 12)
            assert await store.runs(10) == (
                Run(second, "worker", 1, 101, "1.0", 11, 12, Ending.CRASHED, "signal 9"),
                Run(first, "supervisor", None, 100, "1.0", 10),
            )
            assert [each.id for each in await store.runs(1)] == [second]

    asyncio.run(scenario())


def test_the_first_ending_that_was_noted_stays(opened: Opened) -> None:
    async def scenario() -> None:
        async with opened() as store:
            number = await store.begin_run("worker", 1, 101, "1.0", 11)
            await store.end_run(number, Ending.CRASHED, "signal 9", 12)
            await store.end_run(number, Ending.STOPPED, "", 13)
            await store.end_run(number + 1000, Ending.STOPPED, "", 13)
            (run,) = await store.runs(10)
            assert (run.ending, run.ended_at_ns) == (Ending.CRASHED, 12)

    asyncio.run(scenario())


def test_runs_that_nobody_saw_end_are_lost_at_the_next_start(opened: Opened) -> None:
    async def scenario() -> None:
        async with opened() as store:
            await store.end_run(await store.begin_run("worker", 1, 101, "1.0", 11), Ending.STOPPED, "", 12)
            await store.begin_run("worker", 2, 102, "1.0", 11)
        async with opened() as store:
            assert await store.lose_open_runs(20) == 1
            assert await store.lose_open_runs(21) == 0
            assert [(each.slot, each.ending, each.ended_at_ns) for each in await store.runs(10)] == [
                (2, Ending.LOST, 20),
                (1, Ending.STOPPED, 12),
            ]

    asyncio.run(scenario())


def test_only_the_latest_runs_are_kept(opened: Opened) -> None:
    async def scenario() -> None:
        async with opened() as store:
            running = await store.begin_run("supervisor", None, 1, "1.0", 1)
            for number in range(RUNS_KEPT + 50):
                await store.end_run(
                    await store.begin_run("worker", 1, number, "1.0", number), Ending.CRASHED, "", number
                )
            kept = await store.runs(RUNS_KEPT * 2)
            assert len(kept) == RUNS_KEPT + 1
            assert kept[-1].id == running

    asyncio.run(scenario())


def test_a_number_is_never_given_twice(opened: Opened) -> None:
    async def scenario() -> None:
        seen = set()
        for _ in range(3):
            async with opened() as store:
                seen.add(await store.begin_run("control", 0, 5, "1.0", 1))
        assert len(seen) == 3

    asyncio.run(scenario())


def test_calls_at_the_same_time_all_take_effect(opened: Opened) -> None:
    async def scenario() -> None:
        async with opened() as store:
            numbers = await asyncio.gather(*(store.begin_run("worker", slot, slot, "1.0", slot) for slot in range(50)))
            assert len(set(numbers)) == 50
            assert {each.slot for each in await store.runs(100)} == set(range(50))

    asyncio.run(scenario())


def test_a_closed_store_says_so(opened: Opened) -> None:
    async def scenario() -> None:
        async with opened() as store:
            await store.close()
            with pytest.raises(StoreError, match="closed"):
                await store.runs(1)

    asyncio.run(scenario())
