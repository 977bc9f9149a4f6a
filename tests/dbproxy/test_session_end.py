"""What a session leaves behind when it is over: nothing, at once, though relay, links and session refer to each other."""

from __future__ import annotations

import asyncio
import gc
import socket
from types import SimpleNamespace
from typing import Any

import uvloop

from dbproxy.engine_postgres import POSTGRES
from dbproxy.metrics import Counters
from dbproxy.policy.model import Context
from dbproxy.session import Session, Start
from dbproxy.transport import Link, Wire
from protocol.contract import Refusal, Why
from protocol.postgres.relay import PostgresRelay


def _left() -> list[object]:
    """Not asked with weak references: the compiled classes have none."""
    return [each for each in gc.get_objects() if isinstance(each, Session | Link | PostgresRelay)]


async def _pair() -> tuple[Link, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    return await Wire(ours, "peer").into_link(), theirs


async def _begin(ended: list[str]) -> tuple[socket.socket, socket.socket]:
    """A session between two peers, to which nothing of this test refers."""
    turn: Any = SimpleNamespace(ledger=None, is_open=False, append=lambda *_: None)
    start = Start("s1", Context("shop", "prod", "shop", "alice"), "app", 1, {}, {"server_version": "18.6"})
    judge: Any = SimpleNamespace(sights=None)
    session = Session(
        start,
        POSTGRES.dialect,
        judge,
        turn,
        Counters(),
        lambda: 0,
        None,
        65536,
        lambda over: ended.append(over.session_id),
    )
    (client, at_client), (server, at_server) = await _pair(), await _pair()
    session.begin(PostgresRelay(session), client, server)
    ended.append("begun")
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, session.end, Refusal(Why.IDLE, "enough"))
    return at_client, at_server


def test_session_that_is_over_is_freed_without_waiting_for_the_collector() -> None:
    async def run() -> None:
        ended: list[str] = []
        peers = await _begin(ended)
        assert _left()
        for peer in peers:
            peer.setblocking(False)
            while await asyncio.get_running_loop().sock_recv(peer, 1024):
                pass
            peer.close()
        await asyncio.sleep(0.05)
        assert ended == ["begun", "s1"]
        assert not _left()

    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    finally:
        gc.enable()
