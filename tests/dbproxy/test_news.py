"""What happens to processes is told until a control process has it on the disk."""

from __future__ import annotations

import logging

import pytest

from dbproxy import ipc
from dbproxy.news import MAX_KEPT, News


class Control:
    """Hears until it is gone. Implements dbproxy.news.Listener."""

    def __init__(self) -> None:
        self.told = self.noted = 0
        self.is_there = True
        self.heard: list[int] = []

    def say(self, message: ipc.Message) -> bool:
        if self.is_there and isinstance(message, ipc.Happened):
            self.heard.append(message.pid)
        return self.is_there


def happened(pid: int) -> ipc.Happened:
    return ipc.Happened(0, "crashed", "worker", 1, pid, "start", -9, "", 0.0, 1)


def test_each_is_told_once_while_control_lives() -> None:
    news, control = News(), Control()
    for pid in (1, 2):
        news.add(happened(pid))
        news.tell(control)
    control.noted = 1
    news.tell(control)
    assert control.heard == [1, 2]


def test_next_control_is_told_what_the_last_one_did_not_confirm() -> None:
    news, first, second = News(), Control(), Control()
    for pid in (1, 2, 3):
        news.add(happened(pid))
    news.tell(first)
    first.noted = 1
    news.forget(first)
    news.add(happened(4))
    news.tell(second)
    news.tell(second)
    assert second.heard == [2, 3, 4]


def test_what_could_not_be_said_is_said_later() -> None:
    news, dying, next_one = News(), Control(), Control()
    dying.is_there = False
    news.add(happened(1))
    news.tell(dying)
    assert (dying.told, dying.heard) == (0, [])
    news.tell(next_one)
    assert next_one.heard == [1]


def test_only_so_many_are_kept_and_the_oldest_goes_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    news, control = News(), Control()
    with caplog.at_level(logging.ERROR):
        for pid in range(MAX_KEPT + 2):
            news.add(happened(pid))
    assert len(caplog.records) == 2
    news.tell(control)
    assert control.heard == list(range(2, MAX_KEPT + 2))
