"""A child that answers nothing is ended, one that is slow or starts is not."""

from __future__ import annotations

from dbproxy import ipc
from dbproxy.pulse import Pulse


class Child:
    """Implements dbproxy.pulse.Asked."""

    def __init__(self, *, is_starting: bool = False) -> None:
        self.is_starting = is_starting
        self.unanswered = 0
        self.asked = 0
        self.killed = ""

    def say(self, message: ipc.Message) -> bool:
        assert message == ipc.Ping()
        self.asked += 1
        return True

    def kill(self, why: str) -> None:
        self.killed = why


def test_child_that_does_not_answer_is_ended_and_others_are_not() -> None:
    silent, slow = Child(), Child()
    pulse = Pulse(lambda: [silent, slow], 60)
    for number in range(1, 14):
        assert not silent.killed
        pulse.look()
        if number % 10 == 0:
            slow.unanswered = 0
    assert (silent.asked, silent.killed) == (12, "did not answer for 60 s")
    assert (slow.asked, slow.killed) == (13, "")


def test_child_that_starts_has_longer_but_not_for_ever() -> None:
    starting = Child(is_starting=True)
    pulse = Pulse(lambda: [starting], 60)
    for _ in range(60):
        pulse.look()
    assert not starting.killed
    pulse.look()
    assert starting.killed == "did not answer for 300 s"
