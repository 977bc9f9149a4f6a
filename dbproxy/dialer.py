"""Connects to database servers: finds the address, opens the connection, within a deadline, and says plainly what did not work.

Names are looked up by threads of the event loop's library, of which there are few, and which nobody can stop: a name whose servers do not answer
keeps one for half a minute. So each name is looked up once at a time, and all who want it wait for that, each as long as it may.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from config.settings import Target
from dbproxy.tasks import Tasks
from dbproxy.transport import LOST_S, Wire
from protocol.contract import Refusal, Why
from protocol.login import LoginRefused

_Address = tuple[socket.AddressFamily, tuple[str, int]]
_LookUp = Callable[[str, int], Awaitable[Sequence[Any]]]
"""As getaddrinfo of the event loop for streams."""


class Dialer:
    """Of one process. lost_s: when a server's host without a sign of life is given up. look_up: in place of the system's own."""

    def __init__(self, lost_s: float = LOST_S, look_up: _LookUp | None = None) -> None:
        self._lost_s = lost_s
        self._look_up = look_up or _system_look_up
        self._tasks = Tasks()
        self._under_way: dict[tuple[str, int], asyncio.Task[list[_Address] | OSError]] = {}

    async def dial(self, target: Target, timeout_s: float) -> Wire:
        """Connect to a target. Raises LoginRefused with a plain sentence if that fails."""
        refusal = Refusal(
            Why.SERVER_LOST,
            f'the database "{target.name}" cannot be reached',
            hint="Ask the operator of the proxy; it is running, the database did not answer.",
        )
        step = "looking up its name"
        raw: socket.socket | None = None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                failure: OSError | None = None
                addresses = await self._addresses(target.host, target.port)
                step = "connecting"
                for family, address in addresses:
                    raw = socket.socket(family, socket.SOCK_STREAM)
                    raw.setblocking(False)  # noqa: FBT003 - the socket API
                    try:
                        await loop.sock_connect(raw, address)
                    except OSError as error:
                        raw.close()
                        failure = error
                        continue
                    return Wire(raw, f"{address[0]}:{address[1]}", self._lost_s)
                raise failure or OSError("no address")
        except TimeoutError as error:
            if raw is not None:
                raw.close()
            raise LoginRefused(refusal, f"no answer within {timeout_s:g} s, {step}") from error
        except OSError as error:
            if raw is not None:
                raw.close()
            raise LoginRefused(refusal, error.strerror or "name or address problem") from error
        except BaseException:
            if raw is not None:
                raw.close()
            raise

    async def _addresses(self, host: str, port: int) -> list[_Address]:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return [(socket.AF_INET if address.version == 4 else socket.AF_INET6, (host, port))]
        task = self._under_way.get((host, port))
        if task is None:
            task = self._under_way[host, port] = self._tasks.spawn(self._find(host, port), name="looking up a name")
        found = await asyncio.shield(task)  # others wait for it too
        if isinstance(found, OSError):
            raise found
        return found

    async def _find(self, host: str, port: int) -> list[_Address] | OSError:
        try:
            found = await self._look_up(host, port)
            return [(family, (str(entry[0]), int(entry[1]))) for family, _, _, _, entry in found]
        except OSError as error:
            return error
        except UnicodeError:
            return OSError(0, "no host can have this name")
        finally:
            del self._under_way[host, port]


async def _system_look_up(host: str, port: int) -> Sequence[Any]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
