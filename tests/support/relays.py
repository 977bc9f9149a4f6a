"""Relays under test, made the same way everywhere."""

from __future__ import annotations

from typing import Any

from support.recorder import Recorder, always_forward
from support.transcripts import replay_in_all_cuts

from protocol.contract import Host, Side, Statement, Verdict
from protocol.mysql.relay import MySQLRelay
from protocol.postgres.relay import PostgresRelay


def postgres_relay(host: Host, **limits: Any) -> PostgresRelay:
    return PostgresRelay(host, **limits)


def mysql_relay(host: Host, **options: Any) -> MySQLRelay:
    return MySQLRelay(host, **options)


def play(source: str, **limits: Any) -> None:
    """Replay a transcript with a PostgreSQL relay: whole, in bytes, cut everywhere."""
    replay_in_all_cuts(lambda host: postgres_relay(host, **limits), source)


class Pair:
    """A relay and its recording host, for tests that are not transcripts."""

    def __init__(self, answer: Any = always_forward, **limits: Any) -> None:
        self.host = Recorder(self._answer)
        self.answer = answer
        self.relay = postgres_relay(self.host, **limits)

    def _answer(self, statement: Statement) -> Verdict | None:
        verdict: Verdict | None = self.answer(statement)
        return verdict

    def client(self, *frames: bytes) -> Pair:
        self.relay.from_client(b"".join(frames))
        return self

    def server(self, *frames: bytes) -> Pair:
        self.relay.from_server(b"".join(frames))
        return self

    def to_server(self) -> bytes:
        return self.host.take(Side.SERVER)

    def to_client(self) -> bytes:
        return self.host.take(Side.CLIENT)
