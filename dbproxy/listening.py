"""Listening TCP sockets, made before anybody serves them. Counterpart: unix_socket.py."""

from __future__ import annotations

import socket

from dbproxy.errors import StartError

_BACKLOG = 1024
_HTTP_BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 lets the system choose. "localhost" is 127.0.0.1, whatever the resolver says. Raises StartError."""
    host = "127.0.0.1" if host == "localhost" else host
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_HTTP_BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {host} port {port} for metrics and health: {error.strerror}") from error
    listener.setblocking(False)  # noqa: FBT003 - the socket's own signature
    return listener


def listen_shared(host: str, port: int, count: int) -> list[socket.socket]:
    """Listening sockets on one address, among which the kernel spreads connections. Raises OSError if somebody else has the address."""
    found: list[socket.socket] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        for number in range(count):
            each = socket.socket(family, socket.SOCK_STREAM)
            found.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if number:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind((host, port))
            # The first is bound without it: so an address that another process of this user shares already is refused as taken.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = each.getsockname()[1]
        for each in found:
            each.listen(_BACKLOG)
            each.setblocking(False)  # noqa: FBT003 - the socket API
    except OSError:
        for each in found:
            each.close()
        raise
    return found


def address_of(listening: socket.socket) -> str:
    """HOST:PORT, for people."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
