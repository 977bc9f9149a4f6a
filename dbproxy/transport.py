"""One TCP connection, first as a wire that is read exactly, then as a link that feeds a session.

Until it is known whether a connection will be encrypted it stays a raw socket: exactly the bytes of one request are read from it, and
what follows stays in the kernel, where it can be seen (`has_waiting`) before the socket is handed to TLS. There is no start_tls here:
bytes buffered before a handshake have been taken for encrypted ones in too many programs.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable
from enum import IntFlag

from protocol.login import TLSInfo

_LOGIN_BUFFER_BYTES = 128 * 1024
"""How much of a TLS peer's bytes is kept during login before reading pauses."""

LOST_S = 60.0
"""A peer whose host gives no sign of life for so long is gone, unless told otherwise."""
_PROBES = 3
_TCP_INFO = getattr(socket, "TCP_INFO", None)  # Linux
_TCP_INFO_BYTES = 60

_FULL_READ_BYTES = 200_000
"""libuv reads 256,000 bytes at a time, and a socket that fills that up to 32 times in a row: 8 MB before anybody else has a turn."""


class Pause(IntFlag):
    """Why nothing is read from a connection: it is read again when no reason is left."""

    HELD = 1
    """What it sent ahead of a held statement reached its limit."""
    PRESSURE = 2
    """The other side does not take the bytes fast enough."""
    TURN = 4
    """It had its share of this loop turn."""
    SYNC = 8
    """What it sent waits for the disk to have its audit records."""


class Link:
    """The loop's view of a connection. During login bytes wait in a buffer; afterwards they go straight to the receiver.

    on_data, on_lost: set once by attach. on_pressure(True): our writes are not taken fast enough; (False): they are again.
    problem: why the connection was lost, "" if the peer closed it.
    """

    __slots__ = (
        "_buffer",
        "_lost",
        "_on_data",
        "_on_lost",
        "_on_pressure",
        "_paused",
        "_rest",
        "_share_bytes",
        "_wanted",
        "problem",
        "transport",
    )

    def __init__(self) -> None:
        self._paused = Pause(0)
        self.problem = ""
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._wanted: tuple[int, asyncio.Future[None]] | None = None
        self._lost = False
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[], None] | None = None
        self._on_pressure: Callable[[bool], None] | None = None
        self._share_bytes = 0
        self._rest = bytearray()  # read, and for a later turn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # stream connections get a Transport

    def data_received(self, data: bytes) -> None:
        if self._on_data is not None:
            share = self._share_bytes
            if self._rest:
                self._rest += data
                return
            if share and len(data) > share:
                self._rest += data[share:]
                data = data[:share]
                self.pause(Pause.TURN)
                asyncio.get_running_loop().call_soon(self._next_share)
            elif len(data) >= _FULL_READ_BYTES:
                self.pause(Pause.TURN)
                asyncio.get_running_loop().call_soon(self.resume, Pause.TURN)
            self._on_data(data)
            return
        self._buffer += data
        if self._wanted is not None and len(self._buffer) >= self._wanted[0] and not self._wanted[1].done():
            self._wanted[1].set_result(None)
        if len(self._buffer) > _LOGIN_BUFFER_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _next_share(self) -> None:
        data = bytes(self._rest[: self._share_bytes])
        del self._rest[: self._share_bytes]
        if self._rest:
            asyncio.get_running_loop().call_soon(self._next_share)
        else:
            self.resume(Pause.TURN)
        if data and self._on_data is not None:
            self._on_data(data)

    def eof_received(self) -> None:
        """The peer sends no more. Returning None has the transport close; uvloop calls this without asking whether it is there."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if isinstance(exc, OSError):
            self.problem = self.problem or exc.strerror or ""
        if self._wanted is not None and not self._wanted[1].done():
            self._wanted[1].set_exception(ConnectionResetError("peer closed the connection"))
        if self._rest and self._on_data is not None:
            rest = bytes(self._rest)
            self._rest.clear()
            self._on_data(rest)
        if self._on_lost is not None:
            self._on_lost()
        self._let_go()

    def _let_go(self) -> None:
        """Nothing comes any more: refer to nobody, so that a session is freed when it is over and not when a collection finds it."""
        self._on_data = self._on_lost = self._on_pressure = None
        self.transport = None

    def pause_writing(self) -> None:
        if self._on_pressure is not None:
            self._on_pressure(True)  # noqa: FBT003 - the callback's only argument

    def resume_writing(self) -> None:
        if self._on_pressure is not None:
            self._on_pressure(False)  # noqa: FBT003 - the callback's only argument

    def pause(self, reason: Pause) -> None:
        """After login: read nothing until this reason, and every other one, is gone."""
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        self._paused |= reason

    def resume(self, reason: Pause) -> None:
        """End this reason; it need not stand."""
        if not self._paused & reason:
            return
        self._paused &= ~reason
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    async def read_exactly(self, size: int) -> bytes:
        """Exactly size bytes. Raises ConnectionResetError if the peer leaves first."""
        if len(self._buffer) < size:
            if self._lost:
                raise ConnectionResetError("peer closed the connection")
            if self.transport is not None:
                self.transport.resume_reading()
            waiter = asyncio.get_running_loop().create_future()
            self._wanted = (size, waiter)
            try:
                await waiter
            finally:
                self._wanted = None
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def attach(
        self,
        on_data: Callable[[bytes], None],
        on_lost: Callable[[], None],
        on_pressure: Callable[[bool], None],
        *,
        share_bytes: int = 0,
    ) -> None:
        """End of login: from now on bytes go to the receiver; what was read ahead goes first.

        share_bytes: at most so many in one turn of the loop, where each may cost the receiver much; 0: no limit.
        """
        self._share_bytes = share_bytes
        self._on_data = on_data
        self._on_lost = on_lost
        self._on_pressure = on_pressure
        early = bytes(self._buffer)
        self._buffer.clear()
        if early:
            on_data(early)
        if self._lost:
            on_lost()
            self._let_go()
        elif self.transport is not None and not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self, problem: str = "") -> None:
        """Drop the connection; what was not sent yet never is."""
        self.problem = self.problem or problem
        if self.transport is not None:
            self.transport.abort()

    def is_silent(self, for_s: float) -> bool:
        """Whether the peer's host has given no sign of life for so long, though it was asked for one again and again.

        The kernel would ask for a quarter of an hour (tcp_retries2). Its own limit, TCP_USER_TIMEOUT, also ends connections to a peer that is
        there and does not read for as long, which a database that waits for a lock does during COPY.
        Source: tcp_get_info in the kernel; struct tcp_info begins with single bytes, of which 2 counts what was sent again and 3 probes, both without
        an answer; at 56 are the milliseconds since the last acknowledgement.
        """
        if self.transport is None or _TCP_INFO is None:
            return False
        info = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
        if len(info) < _TCP_INFO_BYTES or max(info[2], info[3]) < 2:
            return False
        return int.from_bytes(info[56:60], sys.byteorder) >= for_s * 1000


class Wire:
    """A connection during login. raw: a connected, non-blocking socket; this object owns it.

    address: the peer as "host:port", or what a trusted balancer says it is. lost_s: an idle peer without a sign of life is given up then.
    """

    __slots__ = ("_link", "_raw", "address", "tls")

    def __init__(self, raw: socket.socket, address: str, lost_s: float = LOST_S) -> None:
        raw.setblocking(False)  # noqa: FBT003 - the socket API
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        interval_s = max(1, int(lost_s / (2 + _PROBES)))
        idle_s = max(1, int(lost_s) - _PROBES * interval_s)
        for name, value in (("TCP_KEEPIDLE", idle_s), ("TCP_KEEPINTVL", interval_s), ("TCP_KEEPCNT", _PROBES)):
            if hasattr(socket, name):
                raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._raw: socket.socket | None = raw
        self._link: Link | None = None
        self.address = address
        self.tls: TLSInfo | None = None

    async def read_exactly(self, size: int) -> bytes:
        """Exactly size bytes, and from a raw socket not one more is taken. Raises ConnectionResetError if the peer leaves first."""
        if self._link is not None:
            return await self._link.read_exactly(size)
        if self._raw is None:
            raise ConnectionResetError("connection is closed")
        loop = asyncio.get_running_loop()
        parts: list[bytes] = []
        missing = size
        while missing:
            part = await loop.sock_recv(self._raw, missing)
            if not part:
                raise ConnectionResetError("peer closed the connection")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    async def peek_byte(self) -> bytes:
        """The next byte without taking it, b"" if the peer left. Only before TLS."""
        if self._raw is None:
            raise ConnectionResetError("connection is closed")
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        descriptor = self._raw.fileno()
        while True:
            try:
                return self._raw.recv(1, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                readable = loop.create_future()
                loop.add_reader(descriptor, _wake, readable)
                try:
                    await readable
                finally:
                    loop.remove_reader(descriptor)

    @property
    def has_waiting(self) -> bool:
        """Whether bytes wait on the raw socket. Before TLS there must be none: nobody may speak ahead of the handshake."""
        if self._raw is None:
            return False
        try:
            return self._raw.recv(1, socket.MSG_PEEK) != b""
        except (BlockingIOError, InterruptedError):
            return False

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        if self._link is not None:
            if self._link.transport is None or self._link.transport.is_closing():
                raise ConnectionResetError("connection is closed")
            self._link.transport.write(data)
        elif self._raw is not None:
            await asyncio.get_running_loop().sock_sendall(self._raw, data)
        else:
            raise ConnectionResetError("connection is closed")

    async def start_tls(self, context: ssl.SSLContext, *, server_name: str | None, timeout_s: float) -> ssl.SSLObject:
        """Hand the raw socket to TLS. server_name None: we are the server; otherwise whose certificate is expected."""
        raw, self._raw = self._raw, None
        if raw is None:
            raise ConnectionResetError("connection is closed")
        loop = asyncio.get_running_loop()
        link = Link()
        try:
            if server_name is None:
                await loop.connect_accepted_socket(
                    lambda: _protocol(link), raw, ssl=context, ssl_handshake_timeout=timeout_s
                )
            else:
                await loop.create_connection(
                    lambda: _protocol(link),
                    sock=raw,
                    ssl=context,
                    server_hostname=server_name,
                    ssl_handshake_timeout=timeout_s,
                )
        except BaseException:
            raw.close()
            raise
        self._link = link
        if link.transport is None:
            raise ConnectionResetError("peer closed the connection")
        found: ssl.SSLObject | None = link.transport.get_extra_info("ssl_object")
        if found is None:
            raise ConnectionResetError("peer closed the connection")
        return found

    async def into_link(self) -> Link:
        """The link that will feed a session. The wire is used up."""
        if self._link is None:
            raw, self._raw = self._raw, None
            if raw is None:
                raise ConnectionResetError("connection is closed")
            link = Link()
            try:
                transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: _protocol(link), raw)
            except BaseException:
                raw.close()
                raise
            if not transport.is_closing():  # else the peer has left already, which the session will be told
                transport.pause_reading()  # until the session is attached
            self._link = link
        return self._link

    def close(self) -> None:
        """Close without ceremony; what was given to the kernel is still sent."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None
        if self._link is not None and self._link.transport is not None:
            self._link.transport.close()


def _protocol(link: Link) -> asyncio.Protocol:
    """What it is to the loop, which asks for methods, not for a base class."""
    return link  # type: ignore[return-value]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
