"""MySQL conversations for tests of the relay: played whole, byte by byte and in odd pieces, with one result or the test fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.recorder import Answer, Finished, Recorder, always_forward, feed

from protocol.contract import Side
from protocol.mysql.relay import MySQLRelay

Step = tuple[str, bytes] | Callable[[MySQLRelay], object]


def client(*frames: bytes) -> Step:
    return ">", b"".join(frames)


def server(*frames: bytes) -> Step:
    return "<", b"".join(frames)


def converse(*steps: Step, answer: Answer = always_forward, **options: Any) -> Recorder:
    """The recorder after all steps; equal however the bytes were cut."""
    seen = [_play(steps, answer, size, options) for size in (0, 1, 7)]
    for other in seen[1:]:
        assert other.to_client == seen[0].to_client
        assert other.to_server == seen[0].to_server
        assert other.calls == seen[0].calls
    return seen[0]


def _play(steps: tuple[Step, ...], answer: Answer, size: int, options: dict[str, Any]) -> Recorder:
    host = Recorder(answer)
    relay = MySQLRelay(host, **options)
    for step in steps:
        if callable(step):
            step(relay)
        else:
            feed(relay, Side.CLIENT if step[0] == ">" else Side.SERVER, step[1], step=size)
    assert not host.faults, host.faults
    return host


def outcomes(host: Recorder) -> list[tuple[object, ...]]:
    """(id, status, rows, tag, code) of what was finished, in order."""
    return [(call.id, call.status, call.rows, call.tag, call.code) for call in host.calls if isinstance(call, Finished)]
