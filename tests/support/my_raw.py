"""A MySQL client that sends what it is told to, as many commands at once as it is told to, and reads packets.

It is logged in by PyMySQL, over TLS; from then on PyMySQL only lends its socket.
"""

from __future__ import annotations

import struct
from typing import Any

from support import my_bytes as my

Packet = tuple[int, bytes]


class RawMySQL:
    """Over a PyMySQL connection that nothing else uses."""

    def __init__(self, connection: Any) -> None:
        self._socket = connection._sock
        self._pending = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def packet(self) -> Packet:
        """(sequence, payload) of the next packet. Raises EOFError when there is none any more."""
        while True:
            if len(self._pending) >= 4:
                (head,) = struct.unpack_from("<I", self._pending)
                end = 4 + (head & my.BIG)
                if len(self._pending) >= end:
                    payload, self._pending = self._pending[4:end], self._pending[end:]
                    return head >> 24, payload
            more = self._socket.recv(65_536)
            if not more:
                raise EOFError
            self._pending += more

    def until(self, marker: bytes) -> list[Packet]:
        """All packets up to the row that is the marker, and the packet that ends its result."""
        packets: list[Packet] = []
        row = my.string(marker)
        while not packets or packets[-1][1] != row:
            packets.append(self.packet())
        packets.append(self.packet())
        return packets

    def ask(self, *frames: bytes, marker: str) -> list[Packet]:
        """Send all at once and read every answer."""
        self.send(b"".join(frames) + my.query(f"select '{marker}'"))
        return self.until(marker.encode())

    def prepare(self, text: str) -> int | None:
        """The id of a prepared statement; None if it was refused."""
        self.send(my.prepare(text))
        _, payload = self.packet()
        if payload[:1] != b"\0":
            return None
        number, columns, parameters = struct.unpack_from("<IHH", payload, 1)
        for count in (parameters, columns):
            for _ in range(count + 1 if count else 0):
                self.packet()
        return int(number)
