"""A TCP relay in a thread that can be cut and mended: to the proxy, a database server that went away and came back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator

from support.servers import PostgresServer


class CutLink:
    """One address in front of a server. cut: every connection is reset and new ones are refused, until mend."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)

    @property
    def address(self) -> PostgresServer:
        """As a target for running_proxy."""
        return dataclasses.replace(self._server, host="127.0.0.1", port=self.port)

    def start(self) -> None:
        self._thread.start()
        self.mend()

    def stop(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def mend(self) -> None:
        asyncio.run_coroutine_threadsafe(self._mend(), self._loop).result(10)

    async def _mend(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            their_reader, their_writer = await asyncio.open_connection(self._server.host, self._server.port)
            pair = {writer, their_writer}
            self._writers |= pair
            await asyncio.gather(
                self._copy(reader, their_writer), self._copy(their_reader, writer), return_exceptions=True
            )
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


@contextlib.contextmanager
def cut_link(server: PostgresServer) -> Iterator[CutLink]:
    link = CutLink(server)
    link.start()
    try:
        yield link
    finally:
        link.stop()
