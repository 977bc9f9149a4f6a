"""What the control process runs to have its ledger signed and anchored: the checkpointer with its key file, its anchors, and the check at start.

    prover = open_prover(…)                     before any chain is opened; StartError if the ledger is older than what is known elsewhere
    for type, body in prover.take_events():     now, and after each poll: append to control's chain
    prover.take_head(slot, seq, hash, file)     for every slot, own included: the last record that is synced
    if prover.is_due(now):                      and the ledger is up; four times a second is enough
        seal = prover.make(now, wall)           AuditDown from append: prover.withdraw(seal)
        seq = ledger.append(seal.type, seal.body); flush; sync
        prover.written(seal, now)               small disk work: may run in the thread that synced
    prover.poll(now)                            results of the anchors
    prover.trouble(now)                         "" or why statements must be refused
    last: seal = prover.make(now, wall, is_final=True), …, prover.close(timeout_s)

No method waits for an anchor but close. A final checkpoint is made when every worker's chain is closed; after it control closes its own.

Key rotation: a key that waits in <key>.next takes over with the next checkpoint, as a record `key.rotated` signed with the old key. Once that record is
synced the new file takes the old one's place; the old private key is gone, its public half stays as <key>.<id>.pub.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dbproxy.audit.anchor import Anchor, FileAnchor
from dbproxy.audit.anchor_lines import AnchoredSeal, find_newest_anchored
from dbproxy.audit.anchor_sender import AnchorSender
from dbproxy.audit.checkpoint import INTERVAL_S, LATE_S, Checkpointer, Head, Seal
from dbproxy.audit.record import members
from dbproxy.audit.rollback import find_last_seal, find_rollback, read_high_water, write_high_water
from dbproxy.audit.segment import sync_directory
from dbproxy.audit.signing import (
    KeyUnusable,
    PublicKey,
    SigningKey,
    load_signing_key,
    next_path,
    public_path,
    save_public_key,
    save_signing_key,
)
from dbproxy.audit.types import EventType
from dbproxy.errors import StartError

_log = logging.getLogger(__name__)
_SECOND = 1_000_000_000
_LATE_NS = int((INTERVAL_S + LATE_S) * _SECOND)

Event = tuple[EventType, bytes]


def open_prover(
    directory: Path,
    *,
    key_path: Path,
    high_water_path: Path,
    anchors: Sequence[Anchor],
    node: str,
    ledger_id: str,
    now_ns: int,
    accept_rollback: bool = False,
) -> Prover:
    """Find out where the ledger's checkpoints stand, get the key that goes on, and see that nothing is missing.

    directory: the ledger's; its chains are not open yet. key_path: made if there is none and nothing was signed yet. high_water_path: the note in the
    state directory. ledger_id: 32 random hexadecimal digits, for a ledger without checkpoints. now_ns: monotonic. Raises StartError.
    """
    events: list[Event] = []
    try:
        last = find_last_seal(directory)
        witnesses = list(_witnesses(anchors, high_water_path, node))
        problem = find_rollback(directory, last, witnesses)
    except OSError as error:
        raise StartError(f"audit ledger in {directory}: cannot compare with its checkpoints: {error}") from error
    if problem:
        if not accept_rollback:
            raise StartError(
                f"audit ledger in {directory} is older than what was signed: {problem}. Put the missing files back. If they are lost for good, set "
                "audit.signing.unsafe_accept_rollback: true for one start; it is recorded, and `dbproxy audit verify` will keep finding the gap."
            )
        _log.warning("audit ledger: started although %s", problem)
        events.append((EventType.ROLLBACK_ACCEPTED, members({"problem": problem})))
    key = _continuing_key(key_path, last)
    if last is not None and last.key == key.id and not key.public.has_signed(last.payload.encode(), last.signature):
        raise StartError(f"audit ledger in {directory} damaged: the signature of checkpoint {last.number} is wrong")
    senders = [AnchorSender(anchor) for anchor in anchors]
    if not senders:
        _log.warning(
            "audit.anchors is empty: checkpoints are signed, but whoever controls this machine can cut off the ledger's end"
        )
    checkpointer = Checkpointer(key, last, ledger=ledger_id, node=node)
    return Prover(checkpointer, key.public, key_path, high_water_path, senders, events, now_ns)


def _witnesses(anchors: Sequence[Anchor], high_water_path: Path, node: str) -> list[tuple[str, AnchoredSeal]]:
    found: list[tuple[str, AnchoredSeal]] = []
    for anchor in anchors:
        if isinstance(anchor, FileAnchor):
            try:
                seen = find_newest_anchored(anchor.path, node)
            except OSError as error:
                _log.warning("anchor %s cannot be compared with the ledger: %s", anchor.name, error)
                continue
            if seen is not None:
                found.append((str(anchor.path), seen))
    seen = read_high_water(high_water_path, node)
    if seen is not None:
        found.append((str(high_water_path), seen))
    return found


def _continuing_key(path: Path, last: Seal | None) -> SigningKey:
    """The key whose turn it is. Raises StartError if it is not to be had."""
    wanted = None
    if last is not None:
        wanted = PublicKey(last.next_key).id if last.next_key is not None else last.key
    try:
        key = load_signing_key(path)
        if wanted in (None, key.id):
            return key
        with suppress(FileNotFoundError):
            following = load_signing_key(next_path(path))
            if following.id == wanted:  # the rotation was recorded, and then the proxy ended
                finish_rotation(path, key.public, following.public)
                return following
        raise StartError(
            f"signing key {path} is {key.id}, and the ledger goes on with {wanted}: put that key back. If it is lost, "
            "move the ledger's directory to a safe place and begin a new one, with audit.signing.unsafe_accept_rollback: true for one start."
        )
    except FileNotFoundError:
        if wanted is not None:
            raise StartError(
                f"signing key {path} is missing, and the ledger was signed with {wanted}: put it back. If it is lost, "
                "move the ledger's directory to a safe place and begin a new one, with audit.signing.unsafe_accept_rollback: true for one start."
            ) from None
    except (KeyUnusable, OSError) as error:
        raise StartError(str(error)) from error
    key = SigningKey.generate()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_signing_key(key, path)
    except OSError as error:
        raise StartError(f"signing key {path} cannot be made: {error}") from error
    _log.warning(
        "made the signing key %s (id %s); keep %s where the ledger is verified. An anchor on another machine is what makes it strong",
        path,
        key.id,
        public_path(path),
    )
    return key


def finish_rotation(path: Path, old: PublicKey, new: PublicKey) -> None:
    """Let <key>.next take the place of the key; may be done again after it was cut short. Raises OSError."""
    save_public_key(old, path.with_name(f"{path.name}.{old.id}.pub"))
    save_public_key(new, public_path(path))
    next_path(path).replace(path)
    public_path(next_path(path)).unlink(missing_ok=True)
    sync_directory(path.parent)


class Prover:
    """The running proof of one ledger. Made by open_prover; all methods are for one thread at a time."""

    def __init__(
        self,
        checkpointer: Checkpointer,
        public_key: PublicKey,
        key_path: Path,
        high_water_path: Path,
        senders: Sequence[AnchorSender],
        events: list[Event],
        now_ns: int,
    ) -> None:
        self.public_key = public_key
        """Of the key that signs now."""
        self.written_number = checkpointer.number
        """Of the newest checkpoint that stands synced in the ledger,"""
        self.written_at = ""
        """and its wall time, "" if it is from before this run."""
        self.anchored_number = 0
        """Of the newest checkpoint of this run that an anchor took, 0 if none."""
        self._checkpointer = checkpointer
        self._key_path = key_path
        self._high_water_path = high_water_path
        self._senders = senders
        self._events = events
        self._written_ns = now_ns
        self._anchored_ns = now_ns
        self._failed: dict[str, int] = {}  # anchors that failed last time, and how many checkpoints they missed
        self._reasons: dict[str, str] = {}
        self._bad_next: str = ""

    @property
    def key_id(self) -> str:
        return self.public_key.id

    @property
    def ledger(self) -> str:
        """The ledger's id."""
        return self._checkpointer.ledger

    @property
    def heads(self) -> tuple[Head, ...]:
        return self._checkpointer.heads

    @property
    def is_anchored(self) -> bool:
        """Whether an anchor has the newest checkpoint."""
        return self.anchored_number > 0 and self.anchored_number == self.written_number

    @property
    def failing_anchors(self) -> tuple[str, ...]:
        """Names of anchors that did not take the last checkpoint they were given."""
        return tuple(sorted(self._failed))

    def take_head(self, slot: int, seq: int, hash_: str, file: str) -> None:
        """A chain stands at this record, and it is synced. hash_: 64 hexadecimal digits; file: the segment's name."""
        self._checkpointer.take_head(slot, seq, hash_, file)

    def is_due(self, now_ns: int) -> bool:
        """now_ns: monotonic, here and below."""
        return self._checkpointer.is_due(now_ns)

    def make(self, now_ns: int, at_ns: int, *, is_final: bool = False) -> Seal:
        """The next checkpoint, or the record that changes the key if one waits. Its type and body go into control's chain at once."""
        following = None if is_final else self._find_next_key()
        return self._checkpointer.make(now_ns, at_ns, is_final=is_final, next_key=following)

    def withdraw(self, seal: Seal) -> None:
        """The seal could not be appended and never will be."""
        self._checkpointer.withdraw(seal)

    def written(self, seal: Seal, now_ns: int) -> None:
        """The seal's record is synced. Only now does anybody outside hear of it. Never raises for I/O."""
        self.written_number = seal.number
        self.written_at = seal.at
        self._written_ns = now_ns
        for sender in self._senders:
            sender.submit(seal)
        try:
            write_high_water(self._high_water_path, seal)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._high_water_path, error)
        if seal.next_key is not None:
            old = self.public_key
            self.public_key = PublicKey(seal.next_key)
            _log.warning("the audit ledger is signed with key %s from now on, was %s", self.key_id, old.id)
            try:
                finish_rotation(self._key_path, old, self.public_key)
            except OSError as error:  # the next start does it, or says what is wrong
                _log.error("the new signing key stays in %s: %s", next_path(self._key_path), error)

    def poll(self, now_ns: int) -> None:
        """Pick up what the anchors did."""
        for sender in self._senders:
            for result in sender.take_results():
                if result.problem:
                    self._anchor_failed(result.anchor, result.problem, result.number)
                    continue
                self._anchored_ns = now_ns
                self.anchored_number = max(self.anchored_number, result.number)
                missed = self._failed.pop(result.anchor, 0)
                if missed:
                    fields = {"anchor": result.anchor, "failed": missed, "number": result.number}
                    self._events.append((EventType.ANCHOR_RESTORED, members(fields)))

    def take_events(self) -> list[Event]:
        """Events for control's chain, once each."""
        events = self._events.copy()
        self._events.clear()
        return events

    def trouble(self, now_ns: int) -> str:
        """Why what is recorded now would stay unproven: checkpoints that are late, or that no anchor takes. "" if all is well."""
        late_s = (now_ns - self._written_ns) // _SECOND
        if now_ns - self._written_ns > _LATE_NS:
            return f"the last signed checkpoint is {late_s} s old"
        if self._senders and now_ns - self._anchored_ns > _LATE_NS:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(self._reasons.items()))
            return f"no anchor has taken a checkpoint for {(now_ns - self._anchored_ns) // _SECOND} s ({reasons or 'no answer'})"
        return ""

    def close(self, timeout_s: float) -> bool:
        """Let the anchors finish. Returns whether each of them has everything."""
        done = [sender.close(timeout_s) for sender in self._senders]
        self.poll(self._anchored_ns)
        return all(done) and not self._failed

    def _anchor_failed(self, anchor: str, reason: str, number: int) -> None:
        self._reasons[anchor] = reason
        if anchor not in self._failed:
            _log.warning("anchor %s did not take checkpoint %d: %s", anchor, number, reason)
            fields = {"anchor": anchor, "reason": reason, "number": number}
            self._events.append((EventType.ANCHOR_FAILED, members(fields)))
        self._failed[anchor] = self._failed.get(anchor, 0) + 1

    def _find_next_key(self) -> SigningKey | None:
        try:
            key = load_signing_key(next_path(self._key_path))
        except FileNotFoundError:
            self._bad_next = ""
            return None
        except KeyUnusable as error:
            if str(error) != self._bad_next:
                self._bad_next = str(error)
                _log.warning("the key that waits cannot be used: %s", error)
            return None
        return key if key.id != self.key_id else None
