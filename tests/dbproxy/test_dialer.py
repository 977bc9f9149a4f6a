"""Names whose servers do not answer: bounded, and nobody else's business."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest
import uvloop

from config.settings import Target, TargetTLS, TargetTLSMode
from dbproxy.dialer import Dialer
from protocol.login import LoginRefused

LOST = 'the database "shop" cannot be reached: '


def _target(host: str, port: int = 5432) -> Target:
    return Target(name="shop", host=host, port=port, tls=TargetTLS(mode=TargetTLSMode.DISABLE))


class _Names:
    """A resolver that never answers for silent.test, and knows no other name but localhost."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def look_up(self, host: str, port: int) -> Sequence[Any]:
        self.asked.append(host)
        if host == "silent.test":
            await asyncio.Event().wait()
        if host != "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


async def _detail(dialer: Dialer, host: str, port: int = 5432, timeout_s: float = 0.1) -> str:
    try:
        wire = await dialer.dial(_target(host, port), timeout_s)
    except LoginRefused as refused:
        return f"{refused.refusal.message}: {refused.detail}"
    wire.close()
    return "connected"


def test_a_name_is_looked_up_once_at_a_time_however_many_want_it() -> None:
    async def run() -> tuple[list[str], list[str], str]:
        names = _Names()
        dialer = Dialer(look_up=names.look_up)
        first = await asyncio.gather(*(_detail(dialer, "silent.test") for _ in range(20)))
        later = await _detail(dialer, "silent.test")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            other = await _detail(dialer, "localhost", listening.getsockname()[1])
        return names.asked, [*first, later], other

    asked, silent, other = asyncio.run(run())
    assert asked == ["silent.test", "localhost"]
    assert set(silent) == {LOST + "no answer within 0.1 s, looking up its name"}
    assert other == "connected"


def test_a_name_is_looked_up_anew_when_the_answer_has_come() -> None:
    async def run() -> tuple[list[str], list[str]]:
        names = _Names()
        dialer = Dialer(look_up=names.look_up)
        return [await _detail(dialer, "nobody.test") for _ in range(2)], names.asked

    details, asked = asyncio.run(run())
    assert details == [LOST + "Name or service not known"] * 2
    assert asked == ["nobody.test"] * 2


def test_a_name_that_no_host_can_have_is_refused_like_an_unknown_one() -> None:
    async def run() -> str:
        return await _detail(Dialer(), f"{'x' * 64}.test")  # by the system's own resolver, which asks nobody for that

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == LOST + "no host can have this name"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_not_looked_up(host: str) -> None:
    async def run() -> list[str]:
        names = _Names()
        await _detail(Dialer(look_up=names.look_up), host, 1)
        return names.asked

    assert asyncio.run(run()) == []
