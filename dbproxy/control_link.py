"""A worker's connection to the control process: asks for it, answers it, and is made again whenever control is.

    connect ─► Hello, Claims…, Proved…, Enrolled ─► Welcome ─► questions, figures, orders … ─► lost ─► connect …

While there is none, sessions go on; logins wait for it as long as they may. What the worker holds (claims) is told anew each time, so
that control counts right after a restart of its own; how a proof ended that was under way meanwhile is told then too. Implements dbproxy.doorkeeper.Doorkeeper. Counterpart: workers.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dbproxy import ipc, unix_socket
from dbproxy.doorkeeper import UNKNOWN_KEY, UnreachableError
from dbproxy.tasks import Tasks

_log = logging.getLogger(__name__)
_RETRY_S = 0.1
_CONNECT_S = 2.0
_CANCEL_S = 6.0
_ENTER_S = 3.0
"""Control that has not answered by then counts as away: within a login's time there must be some left for being told so."""
_CLAIMS_IN_ONE = 1000


class Duties(Protocol):
    """What control may ask of the worker. Calls return at once; what takes time answers later with `ControlLink.tell`."""

    def on_order(self, order: ipc.Message) -> None:
        """One of CancelHere, Report, ListSessions, Kill, TakeOver, Checkpointed, Refuse."""

    def on_welcome(self, welcome: ipc.Welcome) -> None:
        """Control is there (again)."""

    @property
    def in_force(self) -> str:
        """The digest of the policies and users in use, "" before the first."""


class ControlLink:
    """The connection, while the worker lives. path: where control listens."""

    def __init__(self, path: Path, slot: int, pid: int, duties: Duties) -> None:
        self._path = path
        self._hello = ipc.Hello(ipc.VERSION, slot, pid)
        self._duties = duties
        self._tasks = Tasks()
        self._channel: ipc.Channel | None = None
        self._is_stopping = False
        self._is_introduced = False  # Hello and Enrolled are said: what follows is heard in its place
        self._up = asyncio.Event()
        self._pending = ipc.Pending()
        self._claims: dict[int, tuple[str, str]] = {}  # number → address and person, as control is to count them
        self._unsaid: list[ipc.Proved] = []  # while control is away; none begins then, so there are no more than logins

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    def start(self) -> None:
        """Connect, and stay connected."""
        self._tasks.spawn(self._stay_connected(), name="link to control")

    async def stop(self) -> None:
        """Say what is still to be said, then close."""
        self._is_stopping = True
        await self._tasks.cancel_all(timeout_s=1)
        if self._channel is not None:
            await self._channel.finish()

    async def wait_up(self, timeout_s: float) -> bool:
        """Whether control has said Welcome in time."""
        try:
            await asyncio.wait_for(self._up.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def tell(self, message: ipc.Message) -> bool:
        """Say something. False if control is away: what it needs to know then is told after the next Hello."""
        return self._is_introduced and self._channel is not None and self._channel.send(message)

    async def tell_surely(self, message: ipc.Message, timeout_s: float) -> bool:
        """Say something, to the next control process too if need be. False if none has heard it in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self._up.wait()
                    self.tell(message)
                    with suppress(ConnectionError):
                        await self._ask(ipc.Ask.HEARD, 0, "", "")
                        return True
                    await asyncio.sleep(0)
        except TimeoutError:
            return False

    # ---- the doorkeeper -----------------------------------------------------------------------------------------

    async def enter(self, claim: int, address: str) -> str:
        self._claims[claim] = (address, "")
        if not self.is_up:
            self.tell(ipc.Claims((ipc.Claim(claim, address, ""),)))  # or with all others later; the login waits anyway
            return ""
        try:
            async with asyncio.timeout(_ENTER_S):
                word = await self._ask(ipc.Ask.ENTER, claim, address, "")
        except ConnectionError:
            return ""
        except TimeoutError:  # as if control were away: the login waits, and can be told why it is refused
            self.tell(ipc.Claims((ipc.Claim(claim, address, ""),)))
            return ""
        if word:
            self._claims.pop(claim, None)
        return word

    async def take(self, claim: int, person: str, deadline: float | None) -> str:
        address = self._claims.get(claim, ("", ""))[0]
        word = await self._ask_until(ipc.Ask.TAKE, claim, address, person, deadline)
        if not word:
            self._claims[claim] = (address, person)
        return word

    def leave(self, claim: int) -> None:
        self._claims.pop(claim, None)
        self.tell(ipc.Left(claim))

    async def throttled(self, address: str, person: str, deadline: float | None, *, begins_proof: bool) -> str:
        ask = ipc.Ask.PROVE if begins_proof else ipc.Ask.THROTTLED
        return await self._ask_until(ask, 0, address, person, deadline)

    def proved(self, address: str, person: str, *, is_right: bool, was_begun: bool) -> None:
        ended = ipc.Proved(address, person, is_right, was_begun)
        if not self.tell(ended):
            self._unsaid.append(ended)

    async def cancel_elsewhere(self, address: str, process_id: int, secret: bytes) -> tuple[str, str]:
        number, future = self._pending.open()
        if not self.tell(ipc.FindKey(number, address, process_id, secret)):
            future.cancel()
            return UNKNOWN_KEY, ""
        try:
            found: ipc.Cancelled = await asyncio.wait_for(future, _CANCEL_S)
        except (ConnectionError, TimeoutError):
            return UNKNOWN_KEY, ""
        return found.result, found.session

    async def _ask(self, ask: ipc.Ask, claim: int, address: str, person: str) -> str:
        """Ask once. Raises ConnectionResetError if control goes away."""
        number, future = self._pending.open()
        if not self.tell(ipc.Question(number, ask, claim, address, person)):
            future.cancel()
            raise ConnectionResetError("control is away")
        try:
            answer: ipc.Answer = await asyncio.shield(future)
        except asyncio.CancelledError:
            if ask is ipc.Ask.PROVE:
                # Nobody will check this proof any more; if it was admitted it must not stay under way for ever.
                future.add_done_callback(lambda done: self._give_back(done, address, person))
            else:
                future.cancel()
            raise
        return answer.word

    def _give_back(self, done: asyncio.Future[ipc.Answer], address: str, person: str) -> None:
        if not done.cancelled() and done.exception() is None and not done.result().word:
            self.proved(address, person, is_right=False, was_begun=True)

    async def _ask_until(self, ask: ipc.Ask, claim: int, address: str, person: str, deadline: float | None) -> str:
        """Ask until there is an answer. Raises UnreachableError when there is none in time."""
        try:
            async with asyncio.timeout_at(deadline) as limit:
                while True:
                    await self._up.wait()
                    try:
                        return await self._ask(ask, claim, address, person)
                    except ConnectionError:
                        await asyncio.sleep(0)
        except TimeoutError:
            if not limit.expired():
                raise
            raise UnreachableError("the control process does not answer") from None

    # ---- the connection -----------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        while True:
            try:
                # A listening unix socket takes the connection at once, even if nobody has accepted it yet.
                raw = unix_socket.connect(self._path, timeout_s=_CONNECT_S)
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            channel, lost = await self._open(raw)
            channel.send(self._hello)
            claims = tuple(ipc.Claim(number, *who) for number, who in self._claims.items())
            for first in range(0, len(claims), _CLAIMS_IN_ONE):
                channel.send(ipc.Claims(claims[first : first + _CLAIMS_IN_ONE]))
            while self._unsaid and channel.send(self._unsaid[0]):
                del self._unsaid[0]
            channel.send(ipc.Enrolled(self._duties.in_force))
            self._is_introduced = channel.is_open
            await lost.wait()
            await asyncio.sleep(_RETRY_S)

    async def _open(self, raw: socket.socket) -> tuple[ipc.Channel, asyncio.Event]:
        """A channel on a connected socket, and what is set when it is gone."""
        raw.setblocking(False)  # noqa: FBT003 - the socket API
        lost = asyncio.Event()
        channel = self._channel = ipc.Channel(ipc.FROM_CONTROL, self._take, lambda reason: self._gone(reason, lost))
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=raw)
        return channel, lost

    def _gone(self, reason: str, lost: asyncio.Event) -> None:
        if self._up.is_set() and not self._is_stopping:
            _log.warning("the control process is away (%s); sessions go on, logins wait", reason)
        self._is_introduced = False
        self._up.clear()
        lost.set()
        self._pending.fail(reason)

    def _take(self, message: ipc.Message) -> None:
        match message:
            case ipc.Welcome():
                if message.version != ipc.VERSION and self._channel is not None:
                    self._channel.close("it speaks another version")
                    return
                self._up.set()
                self._duties.on_welcome(message)
            case ipc.Answer() | ipc.Cancelled():
                self._pending.answer(message.number, message)
            case _:
                self._duties.on_order(message)
