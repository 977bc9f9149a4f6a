"""The audit ledger's writer: an append-only, hash-chained log. The format is described in chain.py.

One slot, one writer. Nothing here waits for the disk but open, close, sync, probe and try_resume; flush hands bytes to the kernel in one write.
Not here: building the members of events (record.py), checking a ledger (verify.py), signing, deciding who waits for the disk (turn.py).

How a caller uses it
--------------------
    intent(key, …)     before a statement may be forwarded        append(type, …)    any other event
    flush()            once per loop turn, before that turn's bytes leave for the servers
    outcome(key, …)    exactly once for every intent, also for one that flush could not write

    begin_sync()       → a Sync, to be run in a thread; end_sync() takes its result. `synced` is then the last record on the disk
    tick()             once a second or so, also when nothing happens: age of the segment, jumps of the clock

flush raises AuditDown when something stays unwritten; `intents` of the exception names the statements that must not be forwarded.
`session` and `statement` of intents and outcomes come from the key: the body must not have them again.
The number that append, intent and outcome return is final once flush has returned without having found the ledger down.

When it cannot be written
-------------------------
                flush or a sync fails                         probe (in a thread): ballast back, a test write on the disk
      ┌────┐  ─────────────────────────────►  ┌──────┐        try_resume: new segment, what waited, audit.resumed
      │ up │   cut back to the last good byte │ down │ ─────────────────────────────────────────────► up
      └────┘                                  └──────┘
* A flush is written whole or not at all: after a failed write the file is cut back to where it ended before. Where even that fails, or an fsync
  failed, the file is given up (`abandoned` in the next header) and never written again: a later fsync could report success for lost pages.
  After a failed fsync its records are read back, checked, and written to a new file that takes its name, before anything goes on.
* On a full volume or quota the ballast is given back, so that this turn can still be completed. If intents do not fit beside the outcomes that
  are owed, they stay unwritten and flush raises: room for the outcome of each open intent is kept (OUTCOME_ROOM_BYTES), and an intent
  beyond that room is refused. Another program may take the room that was given back; the outcomes then wait in memory.
* While down: intent raises AuditDown. Outcomes of forwarded statements are always taken, and written at once as long as the ballast's room
  lasts. Other events wait in memory up to PARKED_MAX_BYTES, beyond which append raises AuditDown and they are counted as dropped.
  What waits is written first on resume, in the order it came. If the process dies before, the intents of forwarded statements
  are on disk and get an outcome "unknown" when the ledger is opened again; what was never forwarded and never written leaves no record.
* Once a second a flush looks whether the segment's file is still the one it writes to. If it was deleted or replaced, its records
  are copied back from the open descriptor; a new segment follows, with a `segment.lost` record.
* If the directory itself is gone or another one, it stays down until the one that was opened is back: an empty directory
  in its place would look as if there had never been anything.
"""

from __future__ import annotations

import errno
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from dbproxy.audit.chain import MAX_BODY_BYTES, Chain, Item, Key, format_time
from dbproxy.audit.locks import SlotLock, open_directory
from dbproxy.audit.recovery import ChainEnd, Torn, recover_chain
from dbproxy.audit.rescue import rewrite_segment
from dbproxy.audit.reserve import Reserve
from dbproxy.audit.segment import create_file, free_side_path, raw_name, segment_name, sync_directory, write_all
from dbproxy.audit.sync import Sync
from dbproxy.audit.types import EventType
from dbproxy.errors import DbproxyError, StartError

OUTCOME_ROOM_BYTES = 2048
"""Room kept in the ballast for each open intent. An outcome record is about 500 bytes; a long tag makes it longer."""
PARKED_MAX_BYTES = 8 << 20
"""How much of other events waits in memory while the ledger is down."""
MIN_RESERVE_BYTES = 64 << 10
JUMP_S = 1.0
"""A wall clock that gained or lost more than this against the monotonic one since it was last looked at has jumped."""
_MAX_UNSYNCED_SEGMENTS = 16
"""Ended segments whose bytes are not on the disk yet: with more of them, a segment simply grows further."""
_FORGET_BYTES = 4 << 20
"""How much of a segment stays in memory after it has reached the disk, about."""
_LOCK_WAIT_S = 2.0
_RECORD_OVERHEAD_BYTES = 360
"""A record without its body, rounded up, with a session id of 64 characters."""

_INTENT = EventType.STATEMENT_INTENT.value
_OUTCOME = EventType.STATEMENT_OUTCOME.value
_TOO_LARGE = f"the record would be larger than {MAX_BODY_BYTES >> 20} MiB"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class AuditDown(DbproxyError):  # noqa: N818 - named for the state, as the refusal table does
    """The ledger cannot take or write a record.

    intents: keys of the statements whose intents were found unwritten by this flush; they must not be forwarded.
    """

    def __init__(self, reason: str, intents: tuple[Key, ...] = ()) -> None:
        super().__init__(f"audit ledger cannot be written: {reason}")
        self.reason = reason
        self.intents = intents


@dataclass(frozen=True, slots=True)
class Recovery:
    """What open found. seq: of the last record before this run, 0 for a new chain; unknown: statements whose outcome is not known."""

    seq: int
    torn: tuple[Torn, ...]
    unknown: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """A record of the chain: its number and hash, and the name of its segment's file."""

    seq: int
    hash: str
    file: str


class Ledger:
    """The single writer of one chain.

    directory: created with mode 0700 if missing. segment_bytes: a segment that has grown past this is rotated after a flush;
    segment_age_s: or when it is older than this. reserve_bytes: size of the ballast. now_ns: wall clock. node: name of this
    machine in segment headers.

    is_down, down_reason: set by the ledger. unrecorded: the caller counts here what it refused without a record, because the ledger takes none;
    reported on resume and in heartbeats. synced: the last record known to be on the disk. checkpointed: the last one that a checkpoint covers, 0 if the
    caller has not heard of any.
    records, intents, written_bytes, flushes, syncs, dropped: totals for metrics and heartbeats.
    """

    __slots__ = (
        "_abandoned",
        "_begun_ns",
        "_chain",
        "_checked_second",
        "_directory",
        "_directory_fd",
        "_doubtful",
        "_down_since_ns",
        "_dropped",
        "_fd",
        "_forgotten",
        "_is_name_unsynced",
        "_is_rewritten",
        "_lock",
        "_max_open",
        "_monotonic_ns",
        "_node",
        "_now_ns",
        "_offset_ns",
        "_open",
        "_parked_bytes",
        "_path",
        "_pending",
        "_reopened",
        "_reserve",
        "_reserve_bytes",
        "_retired",
        "_rotate_at",
        "_segment_age_ns",
        "_segment_bytes",
        "_size",
        "_slot",
        "_sync",
        "_told",
        "_unrecorded_told",
        "_unsynced",
        "checkpointed",
        "down_reason",
        "dropped",
        "flushes",
        "intents",
        "is_down",
        "records",
        "refusal",
        "synced",
        "syncs",
        "unrecorded",
        "written_bytes",
    )  # fmt: skip

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int,
        reserve_bytes: int,
        now_ns: Callable[[], int],
        slot: int = 0,
        node: str | None = None,
        segment_age_s: float | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if reserve_bytes < MIN_RESERVE_BYTES:
            raise ValueError(f"reserve_bytes must be at least {MIN_RESERVE_BYTES}")
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self._segment_age_ns = 1 << 62 if segment_age_s is None else int(segment_age_s * 1e9)
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns
        self._slot = slot
        self._lock = SlotLock(directory, slot)
        self._node = platform.node() if node is None else node
        self._max_open = reserve_bytes // OUTCOME_ROOM_BYTES
        self.refusal = ""
        self._reserve = Reserve(directory / f"audit-{slot}.reserve", reserve_bytes)
        self._directory_fd = -1
        self._fd = -1
        self._path: Path | None = None
        self._size = 0  # INVARIANT: bytes of whole, chained records in the file at _path
        self._forgotten = 0  # up to here the kernel was told to keep nothing
        self._rotate_at = segment_bytes
        self._abandoned = ""
        self._chain = Chain(0, b"")  # INVARIANT: stands at the last record in the file
        self._checked_second = -1
        self._pending: list[Item] = []
        self._open: set[Key] = set()  # INVARIANT: intents taken, written or not, whose outcome was not taken yet
        self._told: set[Key] = set()  # unwritten intents that an AuditDown has named
        self._parked_bytes = 0
        self._dropped = 0
        self._down_since_ns = 0
        self._begun_ns = 0  # monotonic: when the segment was begun
        self._offset_ns: int | None = None  # wall clock minus monotonic clock, when looked at last
        self._reopened = False
        self._sync: Sync | None = None
        self._unsynced: list[int] = []  # descriptors of ended segments with bytes that no sync has covered
        self._retired: list[int] = []  # descriptors to close when the sync under way has come back
        self._is_name_unsynced = False
        self._doubtful: tuple[Path, int, bytes] | None = (
            None  # a segment whose fsync failed: path, size, hash of its last record
        )
        self._is_rewritten = False
        self.synced = Position(0, "", "")
        self.syncs = 0
        self.dropped = 0
        self.intents = 0
        self.is_down = False
        self.down_reason = ""
        self.unrecorded = 0
        self._unrecorded_told = 0
        self.checkpointed = 0
        self.records = 0
        self.written_bytes = 0
        self.flushes = 0

    # --- start and end ---------------------------------------------------------------------------------------------------------

    def open(self) -> Recovery:
        """Lock the slot, recover the chain, begin a new segment that goes on with it.

        Raises LedgerDamaged, StartError (another writer, a directory others may write to, no room for the ballast).
        """
        try:
            self._directory_fd = open_directory(self._directory)
            self._lock.acquire(wait_s=_LOCK_WAIT_S)
            end = recover_chain(self._directory, self._slot)
            self._chain = Chain(end.seq, end.hash)
            self._path = end.path
            self._size = end.size
            self._reopened = end.was_ended
            if end.path is not None:
                _sync_file(end.path)  # the process that wrote it may not have come to that
            self._open = set(end.open_intents)
            unknown = tuple(sorted(end.open_intents))
            self._reserve.acquire()
            self._begin_segment(self._recovery_items(end, unknown), with_sync=True)
        except OSError as error:
            self._release_files()
            raise StartError(f"audit ledger in {self._directory} cannot be opened: {_explain(error)}") from error
        except DbproxyError:
            self._release_files()
            raise
        self._open.clear()
        self._reopened = False
        self._note_synced(self._chain.seq, self._chain.hash, self._current_path().name)
        return Recovery(end.seq, end.torn, unknown)

    def close(self, reason: str, *, last: tuple[EventType, bytes] | None = None) -> None:
        """Write what waits, an outcome "unknown" for intents still open, and the end of the segment; sync; unlock. Never raises for I/O.

        If that cannot be written, the next open finds the intents open and says so. last: an event to be the last before the end.
        """
        if self._directory_fd < 0:
            return
        if self.is_down:
            self.try_resume()
        for key in sorted(self._open):
            self.outcome(key, b'"status":"unknown","reason":"the proxy stopped"')
        with suppress(AuditDown):
            if self._pending:
                self.flush()
            if not self.is_down:
                if last is not None:
                    self._pending.append((self._now_ns(), last[0].value, None, last[1]))
                self._pending.append((self._now_ns(), EventType.SEGMENT_END.value, None, _members({"reason": reason})))
                self._rotate_at = 1 << 62  # nothing may follow the end of the segment
                self.flush()
            self.sync()
        self._release_files()

    # --- the hot path ----------------------------------------------------------------------------------------------------------

    @property
    def slot(self) -> int:
        return self._slot

    @property
    def written_seq(self) -> int:
        """Number of the last record that was written, on the disk or not."""
        return self._chain.seq

    @property
    def pending(self) -> int:
        """How many records are not written yet."""
        return len(self._pending)

    @property
    def open_intents(self) -> int:
        """How many intents have no outcome yet."""
        return len(self._open)

    def append(self, type_: EventType, body: bytes) -> int:
        """Take an event for the next flush. body: at least one JSON member, without braces. Returns its seq.

        While down: waits in memory; raises AuditDown when too much waits already. Raises it also for an event beyond the size limit.
        """
        if not body or b"\n" in body:
            raise ValueError("an event needs members, on one line")
        if len(body) > MAX_BODY_BYTES:
            raise AuditDown(_TOO_LARGE)
        if self.is_down:
            self._park(len(body))
        pending = self._pending
        pending.append((self._now_ns(), type_, None, body))
        return self._chain.seq + len(pending)

    def intent(self, key: Key, body: bytes) -> int:
        """Take the intent of a statement for the next flush. key: session id and statement id; its members are added. Returns its seq.

        Raises AuditDown when no statement may be forwarded, or this one not because its record would be beyond the size limit.
        """
        open_ = self._open
        if self.is_down or len(open_) >= self._max_open:
            raise AuditDown(self.down_reason or self.refusal or "too many statements are open for the reserved space")
        if key in open_ or not body or b"\n" in body:
            raise ValueError("an intent needs a key of its own and members, on one line")
        if len(body) > MAX_BODY_BYTES:
            raise AuditDown(_TOO_LARGE)
        open_.add(key)
        self.intents += 1
        pending = self._pending
        pending.append((self._now_ns(), _INTENT, key, body))
        return self._chain.seq + len(pending)

    def outcome(self, key: Key, body: bytes) -> int:
        """Take the outcome of a statement for the next flush; its intent must be open. Never refused for lack of space. Returns its seq."""
        if not body or b"\n" in body:
            raise ValueError("an outcome needs members, on one line")
        if len(body) > MAX_BODY_BYTES:  # a server's doing: the statement has run, and must have an outcome
            body = b'"status":"unknown","reason":"its outcome was too large to be recorded"'
        self._open.remove(key)  # a KeyError is a mistake of the caller: an outcome without intent, or a second one
        pending = self._pending
        pending.append((self._now_ns(), _OUTCOME, key, body))
        return self._chain.seq + len(pending)

    def flush(self) -> None:
        """Write everything that waits, in one write. Raises AuditDown if something stays unwritten.

        May return with is_down set: then everything was written, with the last space there is.
        """
        items = self._pending
        if not items:
            return
        if self.is_down:
            self._flush_owed()
            return
        second = items[-1][0] // 1_000_000_000
        if second != self._checked_second:
            self._checked_second = second
            self._check_clock()
            self._check_segment()
        error = self._write(items)
        if error is not None:
            self._fail(error)
            return
        self._pending = []
        if self._size >= self._rotate_at:
            self._rotate()

    def refuse(self, reason: str) -> None:
        """Take no intents from now on, although it could be written; "": take them again. Outcomes and other events are taken."""
        self.refusal = reason
        self._max_open = 0 if reason else self._reserve_bytes // OUTCOME_ROOM_BYTES

    # --- for timers ------------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """To be called every second or so: notices a jump of the clock and a segment that is due, also when nothing is written.

        What it has to say waits for the next flush.
        """
        if self.is_down or self._fd < 0:
            return
        self._check_clock()
        if not self._pending and self._monotonic_ns() - self._begun_ns >= self._segment_age_ns:
            self._rotate()

    def rotate(self) -> bool:
        """End the segment and begin the next, now. Returns False if that cannot be: it goes on in this one, and tries again later."""
        if self.is_down or self._pending or self._fd < 0:
            self._rotate_at = 0
            return False
        path = self._path
        self._rotate()
        return self._path != path

    # --- to the disk -----------------------------------------------------------------------------------------------------------

    def begin_sync(self) -> Sync | None:
        """A sync of all that is written, to be run elsewhere and given to end_sync; None if there is nothing to do, or one is under way."""
        if self._sync is not None or self._fd < 0 or self._path is None or self.synced.seq == self._chain.seq:
            return None
        closing = tuple(self._unsynced)
        self._unsynced = []
        directory_fd = self._directory_fd if self._is_name_unsynced else None
        self._is_name_unsynced = False
        forget_bytes = 0
        if self._size - self._forgotten >= _FORGET_BYTES:
            self._forgotten = forget_bytes = self._size & -mmap.PAGESIZE  # the last page is still written to
        self._sync = Sync(
            self._chain.seq, self._chain.hash, self._path.name, self._fd, closing, directory_fd, forget_bytes
        )
        return self._sync

    def end_sync(self, sync: Sync, error: OSError | None) -> bool:
        """Take the result of a sync. Returns whether its records are on the disk; if not, the segment is given up and the ledger is down.

        A failed sync is never tried again: the kernel may have dropped the pages, and would call the next one a success.
        """
        if sync is self._sync:
            self._sync = None
            self.syncs += 1
            if error is None:
                self._note_synced(sync.seq, sync.hash, sync.file)
            else:
                self._give_up(f"fsync: {_explain(error)}", f"fsync failed: {_explain(error)}")
        self._close_all([*sync.closing, *(self._retired if self._sync is None else ())])
        if self._sync is None:
            self._retired = []
        return error is None and self.synced.seq >= sync.seq

    def give_up_sync(self, reason: str) -> None:
        """The sync under way does not come back: as if it had failed. Its result will not count any more."""
        if self._sync is None:
            return
        self._retired += [self._fd] if self._fd >= 0 else []
        self._fd = -1  # still in use by the sync: closed when that is back
        self._sync = None
        self._give_up(reason, reason)

    def sync(self) -> None:
        """Wait here until the disk has everything written. Raises AuditDown when it cannot; the segment is given up then.

        Intents that wait at that moment are named by the next flush.
        """
        sync = self.begin_sync()
        if sync is not None and not self.end_sync(sync, sync.run()):
            raise AuditDown(self.down_reason)

    def probe(self) -> OSError | None:
        """While down: take the ballast back and make a test write reach the disk. For a thread: touches nothing that the loop uses then."""
        path = self._directory / f"audit-{self._slot}.probe"
        try:
            self._check_directory()
            # More than the ballast must be free, or the next flush would be down again.
            self._reserve.acquire(extra=self._reserve_bytes // 4)
            with suppress(FileNotFoundError):
                path.unlink()
            fd = create_file(path)
            try:
                write_all(fd, bytes(4096))
                os.fdatasync(fd)
            finally:
                os.close(fd)
                path.unlink()
            sync_directory(self._directory)
            if self._doubtful is not None:
                self._is_rewritten = rewrite_segment(*self._doubtful)
                self._doubtful = None
        except OSError as error:
            self._reserve.release()
            return error
        return None

    def try_resume(self, probed: OSError | bool = False) -> bool:  # noqa: FBT001, FBT002 - a result, handed on
        """While down: begin a new segment with what waits and an `audit.resumed` record. Returns whether it is up.

        probed: what probe returned, or True for its success; False: probe here, and wait until the new segment is on the disk.
        """
        if not self.is_down:
            return True
        found = self.probe() if probed is False else probed
        if isinstance(found, OSError):
            self.down_reason = _explain(found)
            return False
        waiting = self._pending
        resumed = _members(
            {
                "since": format_time(self._down_since_ns),
                "reason": self.down_reason,
                "refused": self.unrecorded - self._unrecorded_told,
                "dropped": self._dropped,
                "delayed": len(waiting),
            }
        )
        items = [*waiting, (self._now_ns(), EventType.AUDIT_RESUMED.value, None, resumed)]
        try:
            self._begin_segment(items, with_sync=probed is False)
        except OSError as error:
            self._reserve.release()
            self.down_reason = _explain(error)
            return False
        self._pending = []
        self._told.clear()
        self._parked_bytes = self._dropped = 0
        self._unrecorded_told = self.unrecorded
        self.is_down = False
        self.down_reason = ""
        return True

    def _note_synced(self, seq: int, hash_: bytes, file: str) -> None:
        self.synced = Position(seq, hash_.decode(), raw_name(file))

    def _give_up(self, reason: str, abandoned: str) -> None:
        """Records that were written may never reach the disk: never ask for this file again, and write them once more before going on."""
        if not self.is_down:
            self._go_down(reason)
        self._abandon(abandoned)
        if self._path is not None:
            self._doubtful = (self._path, self._size, self._chain.hash)
            self._is_rewritten = False

    # --- failing ---------------------------------------------------------------------------------------------------------------

    def _write(self, items: list[Item]) -> OSError | None:
        """Chain and write items to the current segment, whole or not at all. Returns the error if not."""
        chain = self._chain
        seq = chain.seq
        hash_ = chain.hash
        data = b"".join(chain.link(items))
        try:
            write_all(self._fd, data)
        except OSError as error:
            chain.seq = seq
            chain.hash = hash_
            self._cut_back()
            return error
        self._size += len(data)
        self.records += len(items)
        self.written_bytes += len(data)
        self.flushes += 1
        return None

    def _cut_back(self) -> None:
        """Undo a partial write; where that fails, never write to the file again."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            self._abandon(f"a partial write could not be undone: {_explain(error)}")

    def _abandon(self, reason: str) -> None:
        """Never write to the file again, nor ask whether it is on the disk."""
        self._abandoned = reason
        if self._fd >= 0:
            self._retire(self._fd)
            self._fd = -1

    def _retire(self, fd: int) -> None:
        """Close a descriptor, but not under the hands of a sync."""
        if self._sync is not None:
            self._retired.append(fd)
        else:
            self._close_all([fd])

    @staticmethod
    def _close_all(fds: Iterable[int]) -> None:
        for fd in fds:
            with suppress(OSError):
                os.close(fd)

    def _go_down(self, reason: str) -> None:
        self.is_down = True
        self.down_reason = reason
        self._down_since_ns = self._now_ns()
        self._parked_bytes = sum(len(item[3]) for item in self._pending)

    def _fail(self, error: OSError) -> None:
        """A flush failed: go down. On a full volume complete this turn with the ballast's room. Raises AuditDown if something stays unwritten."""
        self._go_down(_explain(error))
        if error.errno not in _NO_SPACE:
            self._abandon(self._abandoned or _explain(error))
        elif self._fd >= 0:
            self._reserve.release()
            items = self._pending
            needed = sum(len(item[3]) + _RECORD_OVERHEAD_BYTES for item in items) + len(self._open) * OUTCOME_ROOM_BYTES
            if needed <= self._reserve_bytes and self._write(items) is None:
                self._pending = []
                return
        self._flush_owed()

    def _flush_owed(self) -> None:
        """While down: write outcomes of forwarded statements, nothing else. Raises AuditDown if anything stays unwritten."""
        items = self._pending
        unwritten = {item[2] for item in items if item[1] == _INTENT}
        owed = [item for item in items if item[1] == _OUTCOME and item[2] not in unwritten]
        if owed and self._fd >= 0 and self._write(owed) is None:
            self._pending = items = [item for item in items if item[1] != _OUTCOME or item[2] in unwritten]
        if items:
            raise AuditDown(self.down_reason, self._untold_intents())

    def _untold_intents(self) -> tuple[Key, ...]:
        """Keys of unwritten intents that no AuditDown has named yet."""
        keys = tuple(
            item[2]
            for item in self._pending
            if item[2] is not None and item[1] == _INTENT and item[2] not in self._told
        )
        self._told.update(keys)
        return keys

    def _park(self, size: int) -> None:
        if self._parked_bytes + size > PARKED_MAX_BYTES:
            self._dropped += 1
            self.dropped += 1
            raise AuditDown(self.down_reason)
        self._parked_bytes += size + _RECORD_OVERHEAD_BYTES

    # --- segments --------------------------------------------------------------------------------------------------------------

    def _begin_segment(self, items: Iterable[Item], *, with_sync: bool) -> None:
        """Create the next segment with its header and items, and make it the current one. Raises OSError, and changes nothing then."""
        seq = self._chain.seq
        hash_ = self._chain.hash
        path = self._directory / segment_name(self._slot, seq + 1)
        try:
            fd = create_file(path)
        except FileExistsError:
            path.rename(free_side_path(path, "torn"))  # left by a failed attempt that could not remove it
            fd = create_file(path)
        linked = [(self._now_ns(), EventType.SEGMENT_START.value, None, self._header(path.name)), *items]
        data = b"".join(self._chain.link(linked))
        try:
            write_all(fd, data)
            if with_sync:
                for unsynced in (*self._unsynced, *([self._fd] if self._fd >= 0 else ()), fd):
                    os.fdatasync(unsynced)
                sync_directory(self._directory)
        except OSError:
            self._chain.seq = seq
            self._chain.hash = hash_
            with suppress(OSError):
                os.close(fd)
            with suppress(OSError):
                path.unlink()  # nobody was told that anything in it is recorded
            raise
        if self._fd >= 0:
            self._unsynced.append(self._fd)
        if with_sync:
            for unsynced in self._unsynced:
                self._retire(unsynced)
            self._unsynced = []
        self._fd = fd
        self._path = path
        self._size = len(data)
        self._forgotten = 0
        self._begun_ns = self._monotonic_ns()
        if with_sync:
            self._note_synced(self._chain.seq, self._chain.hash, path.name)
        else:
            self._is_name_unsynced = True
        self._rotate_at = self._segment_bytes
        self._abandoned = ""
        self._is_rewritten = False
        self.records += len(linked)
        self.written_bytes += len(data)
        self.flushes += 1

    def _header(self, name: str) -> bytes:
        predecessor: dict[str, object] | None = None
        if self._path is not None:
            predecessor = {
                "file": raw_name(self._path.name),
                "seq": self._chain.seq,
                "hash": self._chain.hash.decode(),
                "size": self._size,
            }
            if self._abandoned:
                again = "; its records were written again, to a new file of that name" if self._is_rewritten else ""
                predecessor["abandoned"] = self._abandoned + again
        # On disk, an intent is open if it is written and its outcome is not.
        unwritten = {item[2] for item in self._pending if item[1] == _INTENT}
        owed = {item[2] for item in self._pending if item[2] is not None and item[1] == _OUTCOME}
        open_ = sorted((self._open | owed) - unwritten)
        fields = {"segment": name, "slot": self._slot, "node": self._node, "predecessor": predecessor, "open": open_}
        if self._reopened:
            fields["reopened"] = True
        return _members(fields)

    def _rotate(self) -> None:
        """End the segment and begin the next. If that fails, this one simply goes on and rotation is tried again later."""
        seq = self._chain.seq
        hash_ = self._chain.hash
        size = self._size
        self._rotate_at = size + self._segment_bytes // 8
        if len(self._unsynced) >= _MAX_UNSYNCED_SEGMENTS:
            return
        if self._write([(self._now_ns(), EventType.SEGMENT_END.value, None, b'"reason":"rotated"')]) is None:
            try:
                self._begin_segment((), with_sync=False)
                return
            except OSError:
                # Take the end back: nobody has seen it, and records must not follow it.
                self._chain.seq = seq
                self._chain.hash = hash_
                self._size = size
                self.records -= 1
                self._cut_back()
        if self._fd < 0:
            self._go_down(self._abandoned)

    def _check_clock(self) -> None:
        """See whether the wall clock has jumped; slewing it, at most 1 ms a second, does not count. The event waits for this flush, or the next."""
        wall = self._now_ns()
        offset = wall - self._monotonic_ns()
        if self._offset_ns is not None and abs(offset - self._offset_ns) > JUMP_S * 1e9:
            shift_ms = round((offset - self._offset_ns) / 1e6)
            body = _members({"shift_ms": shift_ms, "expected": format_time(wall - (offset - self._offset_ns))})
            self._pending.append((wall, EventType.CLOCK_JUMP.value, None, body))
        self._offset_ns = offset

    def _check_segment(self) -> None:
        """See that the file being written is still the one at its path, and as long as we made it. Raises AuditDown."""
        path = self._current_path()
        try:
            ours = os.fstat(self._fd)
            named = path.stat()
            what = ""
            if (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino):
                what = "replaced"
            elif ours.st_size < self._size:
                what = "truncated"
            elif ours.st_size > self._size:
                what = "grown"
        except FileNotFoundError:
            what = "deleted"
        except OSError as error:
            self._fail(error)
            return
        if what:
            self._replace_segment(path, what)

    def _replace_segment(self, path: Path, what: str) -> None:
        """Someone changed the segment's file: save what the descriptor still has, go on in a new segment. Raises AuditDown."""
        event: dict[str, object] = {
            "segment": path.name,
            "reason": what,
            "last_seq": self._chain.seq,
            "size": self._size,
        }
        try:
            self._check_directory()
            if what in ("deleted", "replaced"):
                event["saved_as"] = self._save_copy(path)
            self._abandoned = "" if event.get("saved_as") == path.name else f"{what} by someone else"
            item = (self._now_ns(), EventType.SEGMENT_LOST.value, None, _members(event))
            self._begin_segment([item], with_sync=False)
        except OSError as error:
            self._abandoned = f"{what} by someone else"
            self._go_down(f"segment {path.name} was {what}: {_explain(error)}")
            self._abandon(self._abandoned)
            self._flush_owed()

    def _current_path(self) -> Path:
        if self._path is None:
            raise ValueError("the ledger is not open")
        return self._path

    def _save_copy(self, path: Path) -> str | None:
        """Copy the records of a file that has lost its name. Returns the copy's name, None if there is not enough left of it."""
        if os.fstat(self._fd).st_size < self._size:
            return None
        target = free_side_path(path, "saved") if path.exists() else path
        fd = create_file(target)
        try:
            offset = 0
            while offset < self._size:
                block = os.pread(self._fd, min(1 << 20, self._size - offset), offset)
                write_all(fd, block)
                offset += len(block)
        except OSError:
            os.close(fd)
            raise
        self._unsynced.append(fd)
        return target.name

    # --- the directory ---------------------------------------------------------------------------------------------------------

    def _check_directory(self) -> None:
        """Raises OSError if the directory at its path is not the one that was opened."""
        ours = os.fstat(self._directory_fd)
        named = self._directory.stat()
        if (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino):
            raise FileNotFoundError(
                errno.ENOENT, "the audit directory was replaced by another one; put it back or restart the proxy"
            )

    def _release_files(self) -> None:
        self._close_all(fd for fd in (*self._unsynced, *self._retired, self._fd, self._directory_fd) if fd >= 0)
        self._unsynced = []
        self._retired = []
        self._fd = self._directory_fd = -1
        self._lock.release()

    def _recovery_items(self, end: ChainEnd, unknown: tuple[Key, ...]) -> list[Item]:
        """Records that close what a crash left open; none after an end in good order."""
        is_cut = end.was_rotated or (end.seq > 0 and end.last_type != EventType.SEGMENT_END)
        if not (is_cut or end.torn or unknown):
            return []
        now = self._now_ns()
        body = _members(
            {
                "torn": [
                    {"file": t.file, "segment": t.segment, "offset": t.offset, "size": t.size, "sha256": t.digest}
                    for t in end.torn
                ],
                "unknown": len(unknown),
                "successor_missing": end.was_rotated,
            }
        )
        items: list[Item] = [(now, EventType.RECOVERY.value, None, body)]
        items += [
            (now, _OUTCOME, key, b'"status":"unknown","reason":"the proxy ended before the outcome was known"')
            for key in unknown
        ]
        return items


def _members(fields: dict[str, object]) -> bytes:
    return orjson.dumps(fields)[1:-1]


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _explain(error: OSError) -> str:
    return error.strerror or str(error)
