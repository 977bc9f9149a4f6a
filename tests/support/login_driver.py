"""Runs a login generator on scripted bytes: what dbproxy/login.py does with sockets. Counterpart: protocol/login.py."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from protocol.contract import Side
from protocol.login import PeekByte, ReadExactly, Send, StartTLS, TLSInfo

TLS = TLSInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", "postgresql", b"", None)


class LoginDriver:
    """Give it the bytes each peer will send, and an answer (a value or a function of the step) for each other step type.

    reply: called with side and data at each Send; what it returns is what that peer sends next.
    An exception as an answer is thrown into the generator. sent: what each peer got. steps: the types, in order.
    """

    def __init__(
        self,
        client: bytes = b"",
        server: bytes = b"",
        answers: dict[type, Any] | None = None,
        reply: Callable[[Side, bytes], bytes] | None = None,
    ) -> None:
        self.waiting = {Side.CLIENT: bytearray(client), Side.SERVER: bytearray(server)}
        self.sent = {Side.CLIENT: bytearray(), Side.SERVER: bytearray()}
        self.steps: list[Any] = []
        self.answers = {StartTLS: TLS, **(answers or {})}
        self.reply = reply
        self.result: Any = None
        self.largest_read = 0

    def run(self, generator: Generator[Any, Any, Any], *, max_steps: int = 5000) -> Any:
        """Run to the end. Raises what the generator raises."""
        answer: Any = None
        for _ in range(max_steps):
            try:
                step = generator.throw(answer) if isinstance(answer, BaseException) else generator.send(answer)
            except StopIteration as stop:
                self.result = stop.value
                return stop.value
            self.steps.append(step)
            answer = self._answer(step)
        raise AssertionError("the login does not end")

    def names(self) -> list[str]:
        """The types of the steps taken, without reads and writes."""
        return [type(step).__name__ for step in self.steps if not isinstance(step, ReadExactly | Send | PeekByte)]

    def _answer(self, step: Any) -> Any:
        if isinstance(step, ReadExactly):
            waiting = self.waiting[step.side]
            self.largest_read = max(self.largest_read, step.size)
            assert step.size > 0
            if len(waiting) < step.size:
                return ConnectionResetError("the peer left")
            data = bytes(waiting[: step.size])
            del waiting[: step.size]
            return data
        if isinstance(step, PeekByte):
            return bytes(self.waiting[Side.CLIENT][:1])
        if isinstance(step, Send):
            self.sent[step.side] += step.data
            if self.reply is not None:
                self.waiting[step.side] += self.reply(step.side, step.data)
            return None
        if isinstance(step, StartTLS) and step.answer:
            self.sent[step.side] += step.answer
        answer = self.answers.get(type(step))
        return answer(step) if callable(answer) else answer
