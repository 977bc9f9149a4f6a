"""The least that a proxy in Python can cost: bytes from one socket to the other on uvloop, unread.

    python tests/bench/empty_relay.py LISTEN_PORT SERVER_PORT

Run by bench.contenders; its figures are the floor under dbproxy's.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

HOST = "127.0.0.1"


class Leg(asyncio.Protocol):
    """One connection; what it receives goes to the other one. server_port: set on the client's leg only."""

    def __init__(self, server_port: int | None) -> None:
        self._server_port = server_port
        self._early: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.other: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._server_port is not None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(self._server_port))

    async def _connect(self, port: int) -> None:
        leg = Leg(None)
        leg.other = self.transport
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: leg, HOST, port)
        self.other = transport
        for data in self._early:
            transport.write(data)
        if self.transport is None or self.transport.is_closing():
            transport.close()

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self.other.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.resume_reading()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


async def main(listen_port: int, server_port: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Leg(server_port), HOST, listen_port)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2])))
