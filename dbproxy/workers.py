"""All workers as the control process knows them: who is connected, what each says of itself, and how to reach a session in any of them.

    worker ── Hello (vouched for by the kernel, announced by the supervisor), Claims, Enrolled ──► one _Peer each
    questions ─► admission.py      figures, sessions, kills, cancels, reloads: asked of all, answered together

Nothing of a session is kept here but what operators were last shown: the workers have the truth, and are asked. So this process may
be started again at any time. Implements sessions_view.SessionDirectory. Counterpart: control_link.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from dbproxy import ipc, unix_socket
from dbproxy.admission import Admission
from dbproxy.doorkeeper import CANCELS_PER_SECOND, TOO_OFTEN, UNKNOWN_KEY
from dbproxy.figures import Snapshot, Totals
from dbproxy.sessions_view import SessionInfo
from dbproxy.tasks import Tasks

_log = logging.getLogger(__name__)
_ANNOUNCED_S = 5.0
"""How long a worker that says Hello may be unknown: the supervisor's word can come after it."""
_COMPLETE_S = 2.0
"""How long admission waits after a start for the workers that run already to tell what they have."""
_FIGURES_S = 0.3
_SESSIONS_S = 2.0
_CANCEL_S = 6.0
_KILL_S = 5.0
_TAKE_OVER_S = 30.0
_MAX_EARLY = 10_000

WORKER = "worker"
One = TypeVar("One")
Answered = TypeVar("Answered", bound=ipc.Message)


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """What a worker said of itself. is_fresh: just now; otherwise when it was last heard."""

    slot: int
    snapshot: Snapshot
    is_fresh: bool


class _Peer:
    """One connected process. Until it is enrolled, what it says is kept in `early`, in order."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.slot = 0
        self.is_admitted = False
        self.is_enrolled = False
        self.in_force = ""
        self.early: list[ipc.Message] = []
        self.channel: ipc.Channel | None = None
        self.pending = ipc.Pending()
        self.listed: dict[int, list[SessionInfo]] = {}
        self.snapshot: Snapshot | None = None
        self.sessions: tuple[SessionInfo, ...] = ()

    def say(self, message: ipc.Message) -> bool:
        return self.channel is not None and self.channel.send(message)

    async def ask(self, make: Callable[[int], ipc.Message], _kind: type[Answered], timeout_s: float) -> Answered | None:
        """Ask, and wait for the answer of the same number. None if there is none in time."""
        number, future = self.pending.open()
        if not self.say(make(number)):
            future.cancel()
            return None
        try:
            answer: Answered = await asyncio.wait_for(future, timeout_s)
        except (TimeoutError, ConnectionError):
            return None
        return answer


class Workers:
    """The connections of all workers, and what can be asked of them together.

    on_heads: told where a worker's chain stands. on_enrolled: told the slot of a worker that has come. on_catalogue: told what it wants. in_force: what workers are to judge by; set by the controller.
    """

    def __init__(
        self,
        listening: socket.socket,
        admission: Admission,
        on_heads: Callable[[int, ipc.Heads], object],
        on_enrolled: Callable[[int], object],
        on_catalogue: Callable[[int, ipc.CatalogueWanted], object] = lambda _slot, _wanted: None,
    ) -> None:
        self.in_force = ""
        self._listening = listening
        self._admission = admission
        self._on_heads = on_heads
        self._on_enrolled = on_enrolled
        self._on_catalogue = on_catalogue
        self._tasks = Tasks()
        self._peers: dict[int, _Peer] = {}
        self._team: dict[int, ipc.Member] = {}
        self._team_changed = asyncio.Event()
        self._last: dict[tuple[int, int], Snapshot] = {}  # by slot and pid, of processes that the team has
        self._ended = Totals()
        self._cancels: Counter[str] = Counter()
        self._cancel_second = 0
        self._complete = asyncio.Event()

    def start(self) -> None:
        """Take connections from now on."""
        self._listening.setblocking(False)  # noqa: FBT003 - the socket API
        self._tasks.spawn(self._accept(), name="connections of workers")
        asyncio.get_running_loop().call_later(_COMPLETE_S, self._complete.set)

    async def stop(self) -> None:
        await self._tasks.cancel_all(timeout_s=1)
        self._listening.close()
        for peer in list(self._peers.values()):
            if peer.channel is not None:
                peer.channel.close("the control process ends")

    # ---- who there is -------------------------------------------------------------------------------------------

    def set_team(self, members: Iterable[ipc.Member]) -> None:
        """What the supervisor says there is."""
        self._team = {member.slot: member for member in members if member.role == WORKER and member.pid}
        for key in [key for key in self._last if self._pid_of(key[0]) != key[1]]:
            self._ended.add(self._last.pop(key), is_over=True)
        self._team_changed.set()
        self._team_changed = asyncio.Event()
        self._look_if_complete()

    def tell(self, slot: int | None, message: ipc.Message) -> None:
        """Say something to the worker of a slot, if it is there, or to all (None)."""
        for peer in self._enrolled_peers():
            if slot in (None, peer.slot):
                peer.say(message)

    def _pid_of(self, slot: int) -> int:
        member = self._team.get(slot)
        return member.pid if member is not None else 0

    def _look_if_complete(self) -> None:
        """Whether all that run already have told what they have, so that caps can be counted."""
        running = [slot for slot, member in self._team.items() if member.state in ("ready", "draining")]
        if self._team and all(slot in self._peers and self._peers[slot].is_enrolled for slot in running):
            self._complete.set()

    # ---- what all of them say -----------------------------------------------------------------------------------

    async def figures(self) -> tuple[Totals, tuple[WorkerFigures, ...]]:
        """The sums since this process started, of workers that have ended too, and each worker's own."""
        peers = self._enrolled_peers()
        answers = await _all(peer.ask(ipc.Report, ipc.Figures, _FIGURES_S) for peer in peers)
        each = []
        totals = self._ended.copy()
        for peer, answer in zip(peers, answers, strict=True):
            if answer is not None:
                self._note_figures(peer, answer.snapshot)
            if peer.snapshot is not None:
                each.append(WorkerFigures(peer.slot, peer.snapshot, is_fresh=answer is not None))
        for snapshot in self._last.values():
            totals.add(snapshot)
        return totals, tuple(sorted(each, key=lambda one: one.slot))

    def _note_figures(self, peer: _Peer, snapshot: Snapshot) -> None:
        peer.snapshot = snapshot
        if self._pid_of(peer.slot) == peer.pid:
            self._last[peer.slot, peer.pid] = snapshot

    async def take_over(self, trigger: str) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """Have all workers use what is in force now. Returns each slot's problems; a worker that does not answer has one."""
        peers = self._enrolled_peers()
        answers = await _all(self._have_taken_over(peer, trigger) for peer in peers)
        return tuple((peer.slot, problems) for peer, problems in zip(peers, answers, strict=True))

    async def _have_taken_over(self, peer: _Peer, trigger: str) -> tuple[str, ...]:
        wanted = self.in_force
        answer = await peer.ask(lambda number: ipc.TakeOver(number, wanted, trigger), ipc.TakenOver, _TAKE_OVER_S)
        if answer is None:
            return (f"worker {peer.slot} does not answer",)
        peer.in_force = answer.in_force
        return answer.problems

    # ---- sessions -----------------------------------------------------------------------------------------------

    async def sessions(self) -> tuple[SessionInfo, ...]:
        """See SessionDirectory."""
        peers = self._enrolled_peers()
        answers = await _all(self._list(peer, "") for peer in peers)
        for peer, answer in zip(peers, answers, strict=True):
            if answer is not None:
                peer.sessions = answer
        found = [each for peer in peers for each in peer.sessions]
        return tuple(sorted(found, key=lambda each: (each.started_at_ns, each.id)))

    async def find_session(self, session_id: str) -> SessionInfo | None:
        """See SessionDirectory."""
        answers = await _all(self._list(peer, session_id) for peer in self._enrolled_peers())
        return next((each for answer in answers for each in answer or ()), None)

    async def kill_session(self, session_id: str, message: str) -> SessionInfo | None:
        """See SessionDirectory."""
        answers = await _all(
            peer.ask(lambda number: ipc.Kill(number, session_id, message), ipc.Killed, _KILL_S)
            for peer in self._enrolled_peers()
        )
        if any(answer is not None and answer.sessions for answer in answers):
            killed = next(answer for answer in answers if answer is not None and answer.sessions)
            if not killed.is_over:
                raise TimeoutError("the session has not ended yet")
            return killed.sessions[0]
        if None in answers:
            raise TimeoutError("a worker does not answer")
        return None

    async def _list(self, peer: _Peer, session_id: str) -> tuple[SessionInfo, ...] | None:
        numbers: list[int] = []

        def ask(number: int) -> ipc.Message:
            peer.listed[number] = []
            numbers.append(number)
            return ipc.ListSessions(number, session_id)

        last = await peer.ask(ask, ipc.Sessions, _SESSIONS_S)
        listed = peer.listed.pop(numbers[0], []) if numbers else []
        return None if last is None else (*listed, *last.sessions)

    def _enrolled_peers(self) -> list[_Peer]:
        return [peer for peer in self._peers.values() if peer.is_enrolled]

    # ---- connections --------------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                raw, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                _log.error("a worker cannot connect: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            try:
                found = unix_socket.peer(raw)
            except OSError:
                raw.close()
                continue
            if not found.is_trusted:
                _log.error("process %d of user %d is not one of ours", found.pid, found.uid)
                raw.close()
                continue
            await self._open(raw, _Peer(found.pid))

    async def _open(self, raw: socket.socket, peer: _Peer) -> None:
        channel = peer.channel = ipc.Channel(
            ipc.FROM_WORKER, lambda message: self._take(peer, message), lambda reason: self._lost(peer, reason)
        )
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=raw)

    def _lost(self, peer: _Peer, reason: str) -> None:
        peer.pending.fail(reason)
        if self._peers.get(peer.slot) is not peer:
            return
        del self._peers[peer.slot]
        self._admission.forget(peer.slot)
        if reason != "closed":
            _log.warning("connection of worker %d dropped: %s", peer.slot, reason)

    def _take(self, peer: _Peer, message: ipc.Message) -> None:
        if peer.is_admitted:
            self._obey(peer, message)
            return
        if not peer.early:
            if not isinstance(message, ipc.Hello):
                raise ipc.BadFrameError("something before Hello")
            if message.version != ipc.VERSION:
                raise ipc.BadFrameError(f"version {message.version} of the language, this is {ipc.VERSION}")
            if message.pid != peer.pid:
                raise ipc.BadFrameError("a Hello in another process's name")
            self._tasks.spawn(self._admit(peer, message), name="a worker's hello")
        if len(peer.early) >= _MAX_EARLY:
            raise ipc.BadFrameError("too much before it was admitted")
        peer.early.append(message)

    async def _admit(self, peer: _Peer, hello: ipc.Hello) -> None:
        """Let a worker in once the supervisor has named it: this slot, this process."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ANNOUNCED_S
        while self._pid_of(hello.slot) != peer.pid:
            left = deadline - loop.time()
            if left <= 0:
                _log.error("process %d is not the worker of slot %d", peer.pid, hello.slot)
                if peer.channel is not None:
                    peer.channel.close("not a worker")
                return
            try:
                await asyncio.wait_for(self._team_changed.wait(), left)
            except TimeoutError:
                continue
        if peer.channel is None or not peer.channel.is_open:
            return
        before = self._peers.get(hello.slot)
        if before is not None and before.channel is not None:
            before.channel.close("the worker connected again")
            self._lost(before, "closed")
        peer.slot = hello.slot
        self._peers[hello.slot] = peer
        peer.is_admitted = True
        early, peer.early = peer.early[1:], []
        try:
            for message in early:
                self._obey(peer, message)
        except ipc.BadFrameError as error:
            peer.channel.close(str(error))

    def _obey(self, peer: _Peer, message: ipc.Message) -> None:
        match message:
            case ipc.Hello():
                raise ipc.BadFrameError("a second Hello")
            case ipc.Claims():
                self._admission.restore(peer.slot, ((one.number, one.address, one.person) for one in message.claims))
            case ipc.Enrolled():
                peer.is_enrolled = True
                peer.in_force = message.in_force
                peer.say(ipc.Welcome(ipc.VERSION, self.in_force))
                self._on_enrolled(peer.slot)
                self._look_if_complete()
                if peer.in_force != self.in_force:  # also "": it may have read the old just before the new was there
                    self._tasks.spawn(self._have_taken_over(peer, "change"), name="a worker that was behind")
            case ipc.Question():
                if self._complete.is_set():
                    self._decide(peer, message)
                else:
                    self._tasks.spawn(self._decide_later(peer, message), name="a question before all are there")
            case ipc.Proved():
                self._admission.proved(
                    peer.slot, message.address, message.person, is_right=message.is_right, was_begun=message.was_begun
                )
            case ipc.Left():
                self._admission.leave(peer.slot, message.claim)
            case ipc.FindKey():
                self._tasks.spawn(self._cancel(peer, message), name="a cancel request")
            case ipc.Heads():
                self._on_heads(peer.slot, message)
            case ipc.CatalogueWanted():
                self._on_catalogue(peer.slot, message)
            case ipc.Figures():
                self._note_figures(peer, message.snapshot)
                peer.pending.answer(message.number, message)
            case ipc.Sessions():
                if not message.is_last and message.number in peer.listed:
                    peer.listed[message.number] += message.sessions
                elif message.is_last:
                    peer.pending.answer(message.number, message)
            case ipc.Cancelled() | ipc.Killed() | ipc.TakenOver():
                peer.pending.answer(message.number, message)
            case _:
                raise ipc.BadFrameError(f"an unexpected {type(message).__name__}")

    # ---- questions ----------------------------------------------------------------------------------------------

    async def _decide_later(self, peer: _Peer, question: ipc.Question) -> None:
        await self._complete.wait()
        self._decide(peer, question)

    def _decide(self, peer: _Peer, question: ipc.Question) -> None:
        admission, slot = self._admission, peer.slot

        def answer(word: str) -> None:
            peer.say(ipc.Answer(question.number, word))

        match question.ask:
            case ipc.Ask.ENTER:
                answer(admission.enter(slot, question.claim, question.address))
            case ipc.Ask.TAKE:
                answer(admission.take(slot, question.claim, question.person))
            case ipc.Ask.THROTTLED:
                answer(admission.throttled(question.address, question.person))
            case ipc.Ask.PROVE:
                admission.prove(slot, question.address, question.person, answer)
            case ipc.Ask.HEARD:
                answer("")

    async def _cancel(self, asking: _Peer, request: ipc.FindKey) -> None:
        """Ask the other workers, unless this address asks too often."""
        second = int(asyncio.get_running_loop().time())
        if second != self._cancel_second:
            self._cancel_second = second
            self._cancels.clear()
        self._cancels[request.address] += 1
        result, session = TOO_OFTEN, ""
        if self._cancels[request.address] <= CANCELS_PER_SECOND:
            answers = await _all(
                peer.ask(
                    lambda number: ipc.CancelHere(number, request.process_id, request.secret), ipc.Cancelled, _CANCEL_S
                )
                for peer in self._enrolled_peers()
                if peer is not asking
            )
            found = next((each for each in answers if each is not None and each.session), None)
            result, session = (found.result, found.session) if found is not None else (UNKNOWN_KEY, "")
        asking.say(ipc.Cancelled(request.number, result, session))


async def _all(waiting: Iterable[Awaitable[One]]) -> list[One]:
    return list(await asyncio.gather(*waiting))
