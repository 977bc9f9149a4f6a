"""What a child process is told at its start: its role, the settings, and which of the inherited descriptors are what.

The supervisor has read the settings once. It hands them on as it has them, so that all processes of a proxy have the same, also one
that is started again after somebody has edited the file. They travel over the socket pair that stays between the two.
"""

from __future__ import annotations

import pickle
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings

CONTROL, WORKER, SUPERVISOR = "control", "worker", "supervisor"
IPC_SOCKET = "ipc.sock"
"""Where workers reach control: its name in the state directory."""
_HEADER = struct.Struct("!I")
_MAX_BYTES = 16 << 20
HOME = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Orders:
    """listeners: name and descriptor of each listening socket, for a worker. ipc_fd, admin_fd: listening, for control; else -1.

    memory: descriptors of in_force.SharedMemory. throttle: of throttle_memory.ThrottleMemory, for control; else -1.
    trigger: start, crash or rolling. is_first: the proxy as a whole is starting. home: where the supervisor's program lies.
    """

    role: str
    slot: int
    trigger: str
    is_first: bool
    supervisor_pid: int
    home: Path
    settings: Settings
    settings_path: Path
    settings_sha256: str
    proxy_started_at_ns: int
    memory: tuple[int, int]
    listeners: tuple[tuple[str, int], ...] = ()
    throttle: tuple[int, int] = (-1, -1)
    ipc_fd: int = -1
    admin_fd: int = -1

    @property
    def name(self) -> str:
        """For the log and for people."""
        return f"{self.role} {self.slot}" if self.role == WORKER else self.role


def send_orders(channel: socket.socket, orders: Orders) -> None:
    """The first thing on the channel. Raises OSError."""
    data = pickle.dumps(orders)
    channel.sendall(_HEADER.pack(len(data)) + data)


def receive_orders(channel: socket.socket) -> Orders:
    """Raises OSError, ValueError if that is not what came."""
    (size,) = _HEADER.unpack(_receive(channel, _HEADER.size))
    if size > _MAX_BYTES:
        raise ValueError("not orders")
    found = pickle.loads(_receive(channel, size))  # noqa: S301 - as above: it was pickled by our own parent
    if not isinstance(found, Orders):
        raise ValueError("not orders")  # noqa: TRY004 - what came over the channel is wrong, not an argument
    return found


def _receive(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the supervisor is gone")
        data += part
    return data
