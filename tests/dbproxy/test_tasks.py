"""Tasks are kept, named, ended together, and their crashes are told without data."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from dbproxy.tasks import Tasks


async def _forever() -> None:
    await asyncio.Event().wait()


async def _crash(secret: str) -> None:
    raise ValueError(secret)


def test_a_running_task_survives_garbage_collection() -> None:
    async def scenario() -> None:
        tasks = Tasks()
        reached = asyncio.Event()

        async def work() -> None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(waiter.set_result, None)
            await waiter
            reached.set()

        tasks.spawn(work(), name="work")
        gc.collect()
        await asyncio.wait_for(reached.wait(), 5)
        await asyncio.sleep(0)
        assert len(tasks) == 0

    asyncio.run(scenario())


def test_a_crash_is_logged_with_name_and_type_but_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    crashes: list[tuple[str, str]] = []

    async def scenario() -> None:
        tasks = Tasks(on_crash=lambda name, error: crashes.append((name, type(error).__name__)))
        await asyncio.wait({tasks.spawn(_crash("hunter2"), name="reader 7")})
        await asyncio.sleep(0)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(scenario())
    assert crashes == [("reader 7", "ValueError")]
    assert "task reader 7 crashed: ValueError at " in caplog.text
    assert "hunter2" not in caplog.text


def test_cancel_all_ends_every_task_and_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> tuple[str, ...]:
        tasks = Tasks()
        started = [tasks.spawn(_forever(), name=f"wait {n}") for n in range(10)]
        await asyncio.sleep(0)
        late = await tasks.cancel_all(timeout_s=5)
        assert all(task.cancelled() for task in started)
        return late

    assert asyncio.run(scenario()) == ()
    assert caplog.text == ""


def test_cancel_all_names_the_task_that_will_not_end() -> None:
    async def scenario() -> tuple[str, ...]:
        release = asyncio.Event()

        async def stubborn() -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        tasks = Tasks()
        task = tasks.spawn(stubborn(), name="stubborn")
        await asyncio.sleep(0)
        late = await tasks.cancel_all(timeout_s=0.01)
        release.set()
        await task
        return late

    assert asyncio.run(scenario()) == ("stubborn",)


def test_nothing_starts_after_shutdown_began() -> None:
    async def scenario() -> None:
        tasks = Tasks()
        await tasks.cancel_all(timeout_s=1)
        with pytest.raises(RuntimeError, match="started during shutdown"):
            tasks.spawn(_forever(), name="late")

    asyncio.run(scenario())


def test_an_owner_can_cancel_the_others_from_within_its_own_task() -> None:
    async def scenario() -> tuple[str, ...]:
        tasks = Tasks()
        tasks.spawn(_forever(), name="other")

        async def closer() -> tuple[str, ...]:
            return await tasks.cancel_all(timeout_s=5)

        return await tasks.spawn(closer(), name="closer")

    assert asyncio.run(scenario()) == ()
