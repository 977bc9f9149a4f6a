"""Tasks that are named, kept alive, ended together, and never crash in silence.

asyncio holds only weak references to tasks and reports a crash when the garbage collector happens to come by. Everything in dbproxy/
starts its tasks here instead. Each part that has tasks of its own makes one Tasks and is given none by others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class Tasks:
    """The running tasks of one part of the program.

    on_crash: called with (task name, exception) after a crash was logged; for counting, or to end the process when the task was vital.
    A name goes to the log: make it of words and numbers, never of a person's data.
    """

    __slots__ = ("_is_closing", "_on_crash", "_running")

    def __init__(self, on_crash: Callable[[str, BaseException], None] | None = None) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._on_crash = on_crash
        self._is_closing = False

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, coro: Coroutine[Any, Any, _Result], *, name: str) -> asyncio.Task[_Result]:
        """Start a task in the running loop and keep it until it ends.

        Raises RuntimeError after cancel_all has begun: what starts then would outlive its owner. The coroutine is closed, not leaked.
        """
        if self._is_closing:
            coro.close()
            raise RuntimeError(f"task {name} started during shutdown")
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def cancel_all(self, *, timeout_s: float) -> tuple[str, ...]:
        """Cancel every task and wait for them. No task can be started afterwards.

        Returns the names of tasks that had not ended after timeout_s, sorted; () is the good outcome.
        """
        self._is_closing = True
        current = asyncio.current_task()
        pending = {task for task in self._running if task is not current}
        for task in pending:
            task.cancel()
        if pending:
            _, pending = await asyncio.wait(pending, timeout=timeout_s)
        return tuple(sorted(task.get_name() for task in pending))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        # The exception's text and the frames' locals may hold statement text or a secret: only its type and place are logged.
        _log.error("task %s crashed: %s at %s", task.get_name(), type(error).__qualname__, _place(error))
        if self._on_crash is not None:
            self._on_crash(task.get_name(), error)


def _place(error: BaseException) -> str:
    """Where it was raised, as "module:line"; the innermost frame."""
    trace = error.__traceback__
    if trace is None:
        return "unknown place"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
