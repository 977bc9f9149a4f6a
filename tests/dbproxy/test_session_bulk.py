"""A session whose client sends more in one loop turn than should wait for the turn's end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from dbproxy.engine_postgres import POSTGRES
from dbproxy.metrics import Counters
from dbproxy.policy.model import Context
from dbproxy.session import Session, Start
from protocol.contract import Side


class _Turn:
    """An open turn that writes its records when flushed, then lets the sessions send."""

    is_open = True
    ledger = None

    def __init__(self) -> None:
        self.waiting: dict[str, Session] = {}
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        for session in self.waiting.values():
            session.release()
        self.waiting = {}


class _Link:
    """A link whose transport is itself, and keeps what is written."""

    def __init__(self) -> None:
        self.transport = self
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def _session(turn: _Turn, server: _Link) -> Session:
    start = Start("s1", Context("shop", "prod", "shop", "alice"), "app", 1, {}, {"server_version": "18.6"})
    judge = SimpleNamespace(sights=None)
    made: Any = Session(start, POSTGRES.dialect, judge, turn, Counters(), lambda: 0, None, 65536, lambda _: None)  # type: ignore[arg-type] # stand-ins
    made._write_server = server.write
    return cast("Session", made)


def test_small_messages_wait_for_the_end_of_the_turn() -> None:
    turn, server = _Turn(), _Link()
    session = _session(turn, server)
    for _ in range(10):
        session.send(Side.SERVER, b"x" * 100)
    assert (turn.flushes, server.written) == (0, [])


def test_bulk_leaves_at_once_after_its_records_were_written() -> None:
    # libuv reads a full socket up to 32 times in a turn, 256 kB each: 8 MB would pile up before anything is sent.
    turn, server = _Turn(), _Link()
    session = _session(turn, server)
    session.send(Side.SERVER, b"first")
    for _ in range(32):
        session.send(Side.SERVER, b"y" * 256_000)
    assert turn.flushes == 32
    assert [len(each) for each in server.written] == [256_005] + [256_000] * 31
