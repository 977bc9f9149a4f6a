"""A database server on a host of its own, as far as the network goes: its packets can get lost, as when a cable is pulled or a firewall forgets.

A relay listens in a network namespace at the other end of a pair of virtual interfaces. Needs root, for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.cut_link import CutLink
from support.requirements import go_without
from support.servers import PostgresServer

_CLONE_NEWNET = 0x40000000  # linux/sched.h


class FarLink(CutLink):
    """vanish: from now on nothing that the far host sends arrives, and nobody is told; until come_back."""

    def __init__(self, server: PostgresServer, namespace: str, near: str, far: str) -> None:
        super().__init__(server)
        self._namespace = namespace
        self._near = near
        self._far = far

    @property
    def address(self) -> PostgresServer:
        return dataclasses.replace(self._server, host=self._far, port=self.port)

    def vanish(self) -> None:
        _ip("-n", self._namespace, "route", "add", "blackhole", f"{self._near}/32")

    def come_back(self) -> None:
        _ip("-n", self._namespace, "route", "del", "blackhole", f"{self._near}/32")

    async def _mend(self) -> None:
        self._listener = await asyncio.start_server(self._serve, sock=self._listen())

    def _listen(self) -> socket.socket:
        """A thread enters the namespace to make the socket, and ends: only the socket stays there."""

        def make() -> socket.socket:
            with Path(f"/run/netns/{self._namespace}").open() as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return socket.create_server((self._far, self.port))

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(make).result()


@contextlib.contextmanager
def far_link(server: PostgresServer) -> Iterator[FarLink]:
    number = os.getpid() % 16000
    namespace, near_end, far_end = f"dbproxy-{number}", f"dbn{number}", f"dbf{number}"
    # RFC 2544's addresses for such things: 198.18.0.0/15, four of them to each process.
    network = [198, 18 + number // 8192, number // 32 % 256, number % 32 * 4]
    near, far = (".".join(map(str, [*network[:3], network[3] + last])) for last in (1, 2))
    try:
        _ip("netns", "add", namespace)
    except (OSError, subprocess.CalledProcessError) as error:
        go_without(f"network namespaces cannot be made here ({error})")
    try:
        _ip("link", "add", near_end, "type", "veth", "peer", "name", far_end, "netns", namespace)
        _ip("addr", "add", f"{near}/30", "dev", near_end)
        _ip("link", "set", near_end, "up")
        _ip("-n", namespace, "addr", "add", f"{far}/30", "dev", far_end)
        _ip("-n", namespace, "link", "set", far_end, "up")
        link = FarLink(server, namespace, near, far)
        link.start()
        try:
            yield link
        finally:
            link.stop()
    finally:
        _ip("netns", "del", namespace)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)
