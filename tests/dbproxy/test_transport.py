"""The link's pauses, on a transport that only remembers whether it reads."""

from __future__ import annotations

import asyncio
from typing import Any

from dbproxy.transport import Link, Pause


class _Transport:
    def __init__(self) -> None:
        self.is_reading = False

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


def _link(received: list[bytes]) -> tuple[Link, _Transport]:
    transport: Any = _Transport()
    link = Link()
    link.connection_made(transport)
    link.attach(received.append, lambda: None, lambda _: None)
    return link, transport


def test_reading_starts_again_only_when_every_reason_is_gone() -> None:
    link, transport = _link([])
    link.pause(Pause.HELD)
    link.pause(Pause.PRESSURE)
    link.resume(Pause.PRESSURE)
    assert not transport.is_reading
    link.resume(Pause.HELD)
    assert transport.is_reading


def test_reason_that_does_not_stand_cannot_end() -> None:
    link, transport = _link([])
    link.pause(Pause.HELD)
    link.resume(Pause.TURN)
    assert not transport.is_reading


def test_a_receiver_with_a_share_gets_no_more_in_one_turn_and_all_of_it_before_the_end() -> None:
    received: list[bytes] = []
    ends: list[int] = []
    data = bytes(range(250)) * 40

    async def run() -> None:
        transport: Any = _Transport()
        link = Link()
        link.connection_made(transport)
        link.attach(received.append, lambda: ends.append(len(received)), lambda _: None, share_bytes=3000)
        link.data_received(data)
        assert received == [data[:3000]]
        assert not transport.is_reading
        link.data_received(b"more")
        for _ in range(4):
            await asyncio.sleep(0)
        assert transport.is_reading
        assert b"".join(received) == data + b"more"
        assert max(map(len, received)) == 3000
        link.data_received(data)
        link.connection_lost(None)
        assert b"".join(received) == data + b"more" + data
        assert ends == [len(received)]
        await asyncio.sleep(0)
        assert ends == [len(received)]

    asyncio.run(run())


def test_full_read_lets_others_have_their_turn_first() -> None:
    received: list[bytes] = []
    seen: list[bool] = []

    async def run() -> None:
        link, transport = _link(received)
        link.data_received(b"x" * 256_000)
        seen.append(transport.is_reading)
        await asyncio.sleep(0)
        seen.append(transport.is_reading)
        link.data_received(b"small")
        seen.append(transport.is_reading)

    asyncio.run(run())
    assert seen == [False, True, True]
    assert [len(each) for each in received] == [256_000, 5]
