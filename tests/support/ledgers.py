"""Whole ledgers as a proxy leaves them: several slots, sessions, restarts, crashes, compressed and pruned segments, heartbeats, checkpoints, key changes,
anchors.

Everything follows from a seed but hashes and keys. The clock is made up: each run begins a day after the one before.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from dbproxy.audit.anchor import FileAnchor
from dbproxy.audit.checkpoint import Checkpointer, Seal
from dbproxy.audit.compress import compress_closed
from dbproxy.audit.ledger import Ledger
from dbproxy.audit.record import members
from dbproxy.audit.recovery import recover_chain
from dbproxy.audit.retention import delete_pruned, plan_pruning
from dbproxy.audit.segment import find_segments
from dbproxy.audit.signing import PublicKey, SigningKey
from dbproxy.audit.types import EventType
from dbproxy.ledger_watch import LedgerWatch
from dbproxy.metrics import Counters

BEGIN_S = 1_767_225_600
DAY_S = 86_400
INTENT = b'"person":"alice","act":"query","action":"allow","sql":"SELECT %d"'


@dataclass
class SmallSession:
    """last: its newest statement number; the rest is what session.end tells."""

    slot: int
    name: str
    last: int = 0
    statements: int = 0
    refused: int = 0
    unrecorded: int = 0
    rows: int = 0


def watch_of(ledger: Ledger, counters: Counters, heads: dict[int, int] | None = None) -> LedgerWatch:
    """The proxy's own, whose `beat` appends to the ledger."""
    turn = SimpleNamespace(ledger=ledger, append=ledger.append)
    return LedgerWatch(
        turn,  # type: ignore[arg-type]  # all of a Turn that beat needs
        counters,
        Path(),
        lambda: 0,
        heartbeat_s=60,
        compresses=False,
        heads={} if heads is None else heads,
    )


class SmallProxy:
    """One ledger in `base`/audit with its anchor in `base`/anchors. keys: all public keys there ever were, the newest last.

    is_counting: there are heartbeats, and session.end has its totals.
    """

    def __init__(
        self,
        base: Path,
        seed: int = 0,
        *,
        slots: int = 3,
        segment_bytes: int = 4096,
        node: str = "test",
        key: SigningKey | None = None,
        is_compressing: bool = False,
        is_counting: bool = True,
    ) -> None:
        self.directory = base / "audit"
        self.anchor = FileAnchor(base / "anchors")
        self.rng = random.Random(seed)
        self.slots = slots
        self.segment_bytes = segment_bytes
        self.node = node
        self.is_compressing = is_compressing
        self.is_counting = is_counting
        self.key = key or SigningKey.generate()
        self.keys: list[PublicKey] = [self.key.public]
        self.last: Seal | None = None
        self.seals: list[Seal] = []
        self.now_ns = BEGIN_S * 10**9
        self.ledgers: list[Ledger] = []
        self.open: list[tuple[SmallSession, int]] = []
        self.sessions: list[SmallSession] = []
        self.counters: list[Counters] = []
        self.watches: list[LedgerWatch] = []
        self.heads: dict[int, int] = {}
        self.number = 0
        base.mkdir(parents=True, exist_ok=True)

    # --- life ------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.now_ns += DAY_S * 10**9
        self.ledgers, self.watches, self.open, self.sessions, self.heads = [], [], [], [], {}
        self.counters = [Counters() for _ in range(self.slots)]
        for slot in range(self.slots):
            ledger = Ledger(
                self.directory,
                segment_bytes=self.segment_bytes,
                reserve_bytes=64 << 10,
                now_ns=self._tick,
                monotonic_ns=lambda: self.now_ns,
                slot=slot,
                node=self.node,
            )
            ledger.open()
            self.ledgers.append(ledger)
            self.watches.append(watch_of(ledger, self.counters[slot], self.heads if slot == 0 else None))
        self.checkpointer = Checkpointer(
            self.key, self.last, ledger=f"{self.rng.getrandbits(128):032x}", node=self.node
        )

    def _tick(self) -> int:
        self.now_ns += self.rng.randrange(1, 3_000_000)
        return self.now_ns

    def work(self, statements: int) -> None:
        """Statements of several sessions on the workers, now and then an event of control's, a heartbeat, the end of a session."""
        rng = self.rng
        for _ in range(statements):
            slot = rng.randrange(1, self.slots) if self.slots > 1 else 0
            self.number += 1
            session = self._session(slot)
            session.last += 1
            if rng.random() < 0.15:
                self._not_run(session)
            else:
                self.ledgers[slot].intent((session.name, session.last), INTENT % self.number)
                self.open.append((session, session.last))
            if rng.random() < 0.2:
                self.ledgers[0].append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:%d"' % rng.randrange(65536))
            while len(self.open) > rng.randrange(1, 5):
                self._outcome(*self.open.pop(rng.randrange(len(self.open))))
            if rng.random() < 0.1:
                self._end_session(rng.choice(self.sessions))
            if rng.random() < 0.1:
                self.beat(rng.randrange(self.slots))
            for ledger in self.ledgers:
                ledger.flush()

    def beat(self, slot: int) -> None:
        if self.is_counting:
            for ledger in self.ledgers[1:]:
                if ledger.synced.seq:
                    self.heads[ledger.slot] = ledger.synced.seq
            self.watches[slot].beat()

    def _session(self, slot: int) -> SmallSession:
        """One of the slot's, or a new one."""
        mine = [each for each in self.sessions if each.slot == slot]
        if len(mine) < 3 and (not mine or self.rng.random() < 0.3):
            self.number += 1
            session = SmallSession(slot, f"s{slot}-{self.number}")
            self.sessions.append(session)
            self.ledgers[slot].append(EventType.SESSION_START, members({"session": session.name, "person": "alice"}))
            self.counters[slot].sessions += 1
            self.counters[slot].sessions_open += 1
            return session
        return self.rng.choice(mine)

    def _not_run(self, session: SmallSession) -> None:
        """A statement that is announced, skipped or refused."""
        type_ = self.rng.choice(
            [EventType.STATEMENT_PREPARED, EventType.STATEMENT_SKIPPED, EventType.STATEMENT_REFUSED]
        )
        body = members({"session": session.name, "statement": session.last, "act": "query", "action": "block"})
        self.ledgers[session.slot].append(type_, body)
        if type_ is EventType.STATEMENT_REFUSED:
            session.refused += 1
            self.counters[session.slot].count_statement("SELECT", "block")

    def _outcome(self, session: SmallSession, statement: int, status: str = "ok") -> None:
        rows = self.rng.randrange(1000)
        session.statements += 1
        session.rows += rows
        body = members({"status": status, "rows": rows, "received_bytes": rows * 10, "sent_bytes": 0})
        self.ledgers[session.slot].outcome((session.name, statement), body)

    def _end_session(self, session: SmallSession) -> None:
        for each, statement in [pair for pair in self.open if pair[0] is session]:
            self._outcome(each, statement, "unknown")
        self.open = [pair for pair in self.open if pair[0] is not session]
        self.sessions.remove(session)
        fields: dict[str, object] = {"session": session.name, "why": "left"}
        if self.is_counting:
            fields |= {"statements": session.statements, "refused": session.refused, "unrecorded": session.unrecorded}
            fields |= {"rows": session.rows, "received_bytes": session.rows * 10, "sent_bytes": 0}
        self.ledgers[session.slot].append(EventType.SESSION_END, members(fields))
        self.counters[session.slot].sessions_open -= 1

    def checkpoint(
        self, *, is_final: bool = False, next_key: SigningKey | None = None, is_anchored: bool = True
    ) -> Seal:
        control = self.ledgers[0]
        for ledger in self.ledgers:
            ledger.flush()
            ledger.sync()
            self.checkpointer.take_head(ledger.slot, ledger.synced.seq, ledger.synced.hash, ledger.synced.file)
        seal = self.checkpointer.make(self.now_ns, self._tick(), is_final=is_final, next_key=next_key)
        control.append(seal.type, seal.body)
        control.flush()
        control.sync()
        for ledger in self.ledgers[1:]:
            ledger.checkpointed = ledger.synced.seq
        if next_key is not None:
            self.key = next_key
            self.keys.append(next_key.public)
        if is_anchored:
            self.anchor.keep(seal)
        self.last = seal
        self.seals.append(seal)
        return seal

    def rotate_key(self) -> Seal:
        return self.checkpoint(next_key=SigningKey.generate())

    def stop(self, *, is_anchored: bool = True) -> None:
        for session in list(self.sessions):
            self._end_session(session)
        for ledger in self.ledgers[1:]:
            self.beat(ledger.slot)
            self._close(ledger)
            self.heads[ledger.slot] = ledger.written_seq
        control, self.ledgers = self.ledgers[0], self.ledgers[:1]
        self.beat(0)
        control.flush()  # nothing but the end may follow the final checkpoint
        self.checkpointer.take_head(0, *self._synced(control))
        self.checkpoint(is_final=True, is_anchored=is_anchored)
        control.close("test")
        self._compress()

    def stop_unsigned(self) -> None:
        """In good order, without a checkpoint."""
        for session in list(self.sessions):
            self._end_session(session)
        for ledger in reversed(self.ledgers):  # control's last
            self.beat(ledger.slot)
            ledger.close("test")
            self.heads[ledger.slot] = ledger.written_seq
        self._compress()

    def _close(self, ledger: Ledger) -> None:
        ledger.close("test")
        end = recover_chain(self.directory, ledger.slot)
        assert end.path is not None
        self.checkpointer.take_head(ledger.slot, end.seq, end.hash.decode(), end.path.name)

    def _synced(self, ledger: Ledger) -> tuple[int, str, str]:
        ledger.sync()
        return ledger.synced.seq, ledger.synced.hash, ledger.synced.file

    def crash(self, *, is_torn: bool | None = None) -> None:
        """End without closing anything; the last record of a worker may be torn, as it is not synced."""
        for ledger in self.ledgers:
            synced = ledger.synced.seq
            is_ahead = ledger.written_seq > synced
            ledger._release_files()
            torn = self.rng.random() < 0.5 if is_torn is None else is_torn
            if is_ahead and torn:
                path = find_segments(self.directory)[ledger.slot][-1][1]
                line = path.read_bytes().splitlines(keepends=True)[-1]
                if b'"seq":%d,' % (synced + 1) in line or b'"segment.start"' not in line:
                    os.truncate(path, path.stat().st_size - self.rng.randrange(1, len(line)))
        self._compress()

    def _compress(self) -> None:
        if self.is_compressing:
            for slot in range(self.slots):
                compress_closed(self.directory, slot, limit=self.rng.randrange(4))

    def prune(self, max_bytes: int = 0, *, is_deleting: bool = True) -> int:
        """Record, checkpoint, delete; all that may go, or down to so many bytes. Returns how many segments went."""
        self.checkpoint()
        plan = plan_pruning(
            self.directory,
            max_age_days=None,
            max_bytes=max_bytes,
            now_s=self.now_ns / 1e9,
            covered={head.slot: head.seq for head in self.checkpointer.heads},
        )
        if plan.segments:
            self.ledgers[0].append(EventType.RETENTION_PRUNED, plan.body)
            self.checkpoint()
            if is_deleting:
                delete_pruned(self.directory, plan)
        return len(plan.segments)


def write_ledger(base: Path, seed: int, *, runs: int = 2, statements: int = 10, **options: object) -> SmallProxy:
    """A ledger of several runs, the last of them ended in good order."""
    proxy = SmallProxy(base, seed, **options)  # type: ignore[arg-type]  # handed on as they are
    rng = proxy.rng
    for run in range(runs):
        proxy.start()
        proxy.checkpoint()
        for _ in range(rng.randrange(2, 5)):
            proxy.work(statements)
            if rng.random() < 0.2:
                proxy.rotate_key()
            else:
                proxy.checkpoint()
        if run == runs - 1:
            proxy.stop()
            break
        if rng.random() < 0.3:
            proxy.prune(max_bytes=rng.choice([0, 8192]))
        if rng.random() < 0.5:
            proxy.stop()
        else:
            proxy.work(rng.randrange(6))
            proxy.crash()
    for path in proxy.directory.glob("audit-*.reserve"):
        path.unlink()
    return proxy
