"""The verifier's view of checkpoints: are they a chain, may their key sign, is the signature right, do anchors have the same ones, and do all the ledger's
chains stand where they say. Fed with control's records while its chain is walked; walks the other chains along with it.

Keys and epochs: each epoch has one key; it changes only with a `key.rotated` record signed with the key before. A key is trusted if it was given, or was
introduced by a trusted one, in the ledger or, where that part is pruned, in an anchor. Checkpoints before the first trusted one are not counted;
they need not be, since a later one covers everything before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from dbproxy.audit.anchor_lines import AnchoredSeal, read_anchored
from dbproxy.audit.checkpoint import MAX_SLOTS, NO_PREVIOUS, Head, Seal, parse_seal
from dbproxy.audit.signing import PublicKey
from dbproxy.audit.types import EventType
from dbproxy.audit.verify_chain import Bad, ChainCheck
from dbproxy.audit.verify_report import ChainResult, Problem, SealsResult, Status
from dbproxy.audit.verify_witness import CONTROL_SLOT, LIVE_S, parse_time

MAX_PRUNED = 1_000_000
_ROTATION_MARK = b'"type":"key.rotated"'
_HEX = frozenset("0123456789abcdef")


class AnchorStream:
    """The checkpoints of one ledger in one anchor's file, read along with the ledger's own."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.damaged = 0
        self.others = 0
        """Checkpoints of other ledgers."""
        self.matched = 0
        self.line = 0
        self._lines = read_anchored(path)
        self._held: AnchoredSeal | None = None
        self._is_held_used = True

    def has(self, seal: Seal, keys: Mapping[str, PublicKey]) -> bool:
        """Whether the anchor has this checkpoint; numbers must rise from call to call. Raises ValueError if it has another one of that number, OSError."""
        while (seen := self._next_from(seal.ledger, seal.number)) is not None and seen.number == seal.number:
            if seen.digest == seal.digest:
                self.matched += 1
                self._is_held_used = True
                return True
            if _is_forged(seen, keys):
                self.damaged += 1
                self._is_held_used = True
                continue
            raise ValueError(
                f"it is not the checkpoint {seal.number} that was anchored at {seen.at} ({self.name}, line {self.line})"
            )
        return False

    def find_beyond(
        self, ledger: str, number: int, keys: Mapping[str, PublicKey], until_s: float
    ) -> AnchoredSeal | None:
        """A checkpoint of the ledger with a higher number, made no later than until_s, after all of the ledger's own were compared. Raises OSError."""
        while (seen := self._next_from(ledger, number + 1)) is not None:
            if _is_forged(seen, keys):
                self.damaged += 1
            elif parse_time(seen.at) <= until_s:
                return seen
            self._is_held_used = True
        return None

    def close(self) -> None:
        """Close the file, which is read no further than needed."""
        self._lines.close()

    def count_rest(self) -> None:
        """Read what is left, for the counts of a ledger that has no checkpoint at all. Raises OSError."""
        for _, seen in self._lines:
            self.others += seen is not None

    def _next_from(self, ledger: str, number: int) -> AnchoredSeal | None:
        """The next one not used yet with at least that number. It stays the next until it is used."""
        if not self._is_held_used and self._held is not None and self._held.number >= number:
            return self._held
        for line, seen in self._lines:
            if seen is None:
                self.damaged += 1
            elif seen.ledger != ledger:
                self.others += 1
            elif seen.number >= number:
                self.line = line
                self._held = seen
                self._is_held_used = False
                return seen
        self._is_held_used = True
        self._held = None
        return None


def _is_forged(seen: AnchoredSeal, keys: Mapping[str, PublicKey]) -> bool:
    """Whether somebody wrote it into the anchor who does not have the key that it names."""
    key = keys.get(seen.seal.key) if seen.seal is not None else None
    if key is None or seen.seal is None:
        return False
    return not key.has_signed(seen.seal.payload.encode(), seen.seal.signature)


def read_rotations(path: Path) -> Iterator[Seal]:
    """The key changes in an anchor's file, in order. Raises OSError."""
    with path.open("rb", buffering=1 << 20) as file:
        while line := file.readline(1 << 20):
            if _ROTATION_MARK in line:
                try:
                    record = orjson.loads(line[line.index(b'{"type"') :])
                    yield parse_seal(record.get("payload"), record.get("signature"))
                except (ValueError, AttributeError):
                    continue  # the short form, or damaged


class SealCheck:
    """Takes control's records about the ledger while the chain of slot 0 is walked.

    chains: by slot. keys: trusted to begin with. is_whole: all of the ledger was given, so a slot that is named must be there.
    look_again: asked for a slot that is not among the chains. marks: files like anchors that are not as good: they may have checkpoints that the ledger
    has lost, and prove nothing else.
    """

    def __init__(
        self,
        chains: Mapping[int, ChainCheck],
        keys: Iterable[PublicKey],
        anchors: list[AnchorStream],
        marks: list[AnchorStream],
        *,
        is_whole: bool,
        look_again: Callable[[int], ChainCheck | None] = lambda _: None,
    ) -> None:
        self.result = SealsResult()
        self.missing: dict[int, ChainResult] = {}
        """Slots that a checkpoint names and that have no files."""
        self.first: tuple[str, int, int, str] | None = None
        """File, line, number and key id of the first checkpoint's record."""
        self.last_seq = 0
        """Number of the newest checkpoint's own record."""
        self.keys = {key.id: key for key in keys}
        self._chains = chains
        self._anchors = anchors
        self._marks = marks
        self._is_whole = is_whole
        self._look_again = look_again
        self._last: Seal | None = None
        self._heads: dict[int, Head] = {}
        self._has_trusted = False
        self._pruned: dict[
            tuple[int, int], tuple[str, int]
        ] = {}  # (slot, last seq): hash, number of the record that says so
        self._pruned_to: dict[int, int] = {}
        self._pruned_files: set[str] = set()

    @property
    def covered(self) -> dict[int, int]:
        """By slot, the last record that the newest checkpoint covers."""
        return {slot: head.seq for slot, head in self._heads.items()}

    def introduce(self, rotations: Iterable[Seal]) -> None:
        """Trust keys that trusted keys have introduced."""
        for seal in rotations:
            key = self.keys.get(seal.key)
            if key is not None and seal.next_key is not None and key.has_signed(seal.payload.encode(), seal.signature):
                self._trust(seal.next_key)

    def take(self, type_: bytes, record: dict[str, Any]) -> None:
        """Raises Bad."""
        if type_ == EventType.RETENTION_PRUNED:
            self._take_pruned(record)
            return
        control = self._chains[CONTROL_SLOT]
        try:
            seal = parse_seal(record.get("payload"), record.get("signature"))
        except ValueError as error:
            raise control.bad(f"not a checkpoint: {error}") from None
        if seal.type != type_:
            raise control.bad("its payload is of another type")
        self._check_order(control, seal)
        is_signed = self._is_signed(control, seal)
        is_anchored = self._is_anchored(control, seal)
        self._last = seal
        self.first = self.first or (*control.place, seal.key)
        self.last_seq = control.seq + 1
        self._check_heads(control, seal, is_signed=is_signed, is_anchored=is_anchored)
        result = self.result
        result.ledger = seal.ledger
        result.last_number = seal.number
        result.checkpoints += 1
        result.rotations += seal.next_key is not None
        result.unchecked += not is_signed
        if is_signed:
            result.last_signed, result.last_signed_at = seal.number, seal.at
        if is_anchored:
            result.last_anchored, result.last_anchored_at = seal.number, seal.at
        result.is_final = seal.is_final

    def finish(self, seen_ns: int, *, is_live: bool) -> None:
        """After all chains have been walked: what the anchors have more, and what was pruned. Raises OSError.

        seen_ns: wall time when the end of control's chain was read, or copied. is_live: the files are where a proxy may be writing to them.
        """
        control = self._chains.get(CONTROL_SLOT)
        if control is not None and self._is_whole:
            found = control.result.problem
            if found is None or found.status is Status.TRUNCATED:
                until_s = float("inf") if is_live else seen_ns / 1e9
                if is_live and control.has_grown():
                    until_s = seen_ns / 1e9 - LIVE_S
                self._find_missing_end(control, until_s)
        for stream in self._anchors:
            if self._last is None:
                stream.count_rest()
            self.result.anchors[stream.name] = stream.matched
            if stream.damaged:
                self.result.note(f"{stream.name}: {stream.damaged} damaged or forged lines are left aside")
            if stream.others and not stream.matched:
                self.result.note(f"{stream.name} has checkpoints of other ledgers only")
        if self._is_whole:
            for chain in self._chains.values():
                self._check_beginning(chain)
        self.result.keys = sorted(self.keys) if self._has_trusted else []

    # --- one checkpoint --------------------------------------------------------------------------------------------------------

    def _check_order(self, control: ChainCheck, seal: Seal) -> None:
        last = self._last
        if last is None:
            if control.begins_after is None and (
                seal.number,
                seal.previous,
                seal.epoch,
            ) != (1, NO_PREVIOUS, 1):
                raise control.bad(f"checkpoint 1 expected, {seal.number} found")
            return
        if seal.number != last.number + 1:
            raise control.bad(f"checkpoint {last.number + 1} expected, {seal.number} found")
        if seal.previous != last.digest or seal.ledger != last.ledger:
            raise control.bad(f"it does not follow checkpoint {last.number}")
        epoch, key = last.epoch, last.key
        if last.next_key is not None:
            epoch, key = epoch + 1, PublicKey(last.next_key).id
        if (seal.epoch, seal.key) != (epoch, key):
            raise control.bad(
                f"checkpoint {seal.number} is of key {seal.key} in epoch {seal.epoch}, and the key of epoch {epoch} is {key}"
            )

    def _is_signed(self, control: ChainCheck, seal: Seal) -> bool:
        key = self.keys.get(seal.key)
        if key is None:
            return False
        if not key.has_signed(seal.payload.encode(), seal.signature):
            raise control.bad(f"the signature of checkpoint {seal.number} is wrong")
        self._has_trusted = True
        if seal.next_key is not None:
            self._trust(seal.next_key)
        return True

    def _trust(self, raw: bytes) -> None:
        key = PublicKey(raw)
        self.keys.setdefault(key.id, key)

    def _is_anchored(self, control: ChainCheck, seal: Seal) -> bool:
        is_anchored = False
        for stream in self._anchors:
            try:
                is_anchored |= stream.has(seal, self.keys)
            except ValueError as error:
                raise control.bad(str(error)) from None
        return is_anchored

    def _check_heads(self, control: ChainCheck, seal: Seal, *, is_signed: bool, is_anchored: bool) -> None:
        heads = {head.slot: head for head in seal.heads}
        for slot, old in self._heads.items():
            new = heads.get(slot)
            if new is None or new.seq < old.seq or (new.seq == old.seq and new.hash != old.hash):
                raise control.bad(f"slot {slot} goes back from record {old.seq}")
        self._heads = heads
        if len(heads) > MAX_SLOTS:
            raise control.bad("too many slots")
        for head in seal.heads:
            chain = self._chains.get(head.slot) or self._look_again(head.slot)
            if chain is None:
                self._miss(head, seal)
            elif self._stands(control, chain, head, seal):
                chain.confirm(head.seq)
                if is_signed:
                    chain.signed_seq = max(chain.signed_seq, head.seq)
                if is_anchored:
                    chain.anchored_seq = max(chain.anchored_seq, head.seq)

    def _stands(self, control: ChainCheck, chain: ChainCheck, head: Head, seal: Seal) -> bool:
        """Whether the chain has the record that the head names. Fails the chain if it has another one, or ends before."""
        if chain is not control:
            chain.advance(head.seq)
        begins_after = chain.begins_after
        if begins_after is not None and head.seq < begins_after[0]:
            return False  # pruned, or not given
        found = chain.hash_of(head.seq)
        if found == head.hash.encode():
            return True
        told = f"checkpoint {seal.number} of {seal.at} says so"
        if chain is control:
            problem = control.problem_since_confirmed(
                head.seq,
                f"records up to {head.seq} are not those that were signed: {told}",
            )
            raise Bad(problem)
        if chain.seq < head.seq:
            if self._is_whole:
                what = f"the chain has {chain.seq} records, and there were {head.seq}: {told}"
                torn = chain.result.problem
                if torn is not None:
                    chain.fail(chain.problem_missing(head.seq, f"{torn.what}; {what}"))
                else:  # cut off cleanly, or made anew without some
                    chain.fail(chain.problem_since_confirmed(head.seq, what))
        elif chain.result.problem is None:
            what = f"records up to {head.seq} are not those that were signed: {told}"
            chain.fail(chain.problem_since_confirmed(head.seq, what))
        return False

    def _miss(self, head: Head, seal: Seal) -> None:
        if not self._is_whole or head.slot in self.missing:
            return
        what = f"all files of slot {head.slot} are missing; checkpoint {seal.number} of {seal.at} names them"
        first = self._pruned_to.get(head.slot, 0) + 1
        self.missing[head.slot] = ChainResult(
            head.slot,
            problem=Problem(Status.TAMPERED, head.file, 0, first, what, head.seq),
        )

    # --- pruning ---------------------------------------------------------------------------------------------------------------

    def _take_pruned(self, record: dict[str, Any]) -> None:
        control = self._chains[CONTROL_SLOT]
        for item in (*record.get("earlier_segments", ()), *record["segments"]):
            slot, first, last = item["slot"], item["first_seq"], item["last_seq"]
            hash_, file = item["last_hash"], item["file"]
            if not all(isinstance(each, int) for each in (slot, first, last)) or not isinstance(file, str):
                raise TypeError
            if not isinstance(hash_, str) or len(hash_) != 64 or not _HEX.issuperset(hash_):
                raise TypeError
            if (slot, last) in self._pruned and self._pruned[slot, last][0] == hash_:
                continue  # named again, since the first time ended before its file was deleted
            before = self._pruned_to.get(slot)
            if before is None and control.begins_after is not None:
                before = first - 1  # what was pruned earlier is not told any more
            if first != (before or 0) + 1 or last < first:
                raise control.bad(f"pruned records of slot {slot} do not follow those pruned before")
            self._pruned_to[slot] = last
            self._pruned[slot, last] = (hash_, control.seq + 1)
        side_files = (*record.get("earlier_side_files", ()), *record["side_files"])
        self._pruned_files.update(item["file"] for item in side_files if isinstance(item["file"], str))
        if len(self._pruned) > MAX_PRUNED or len(self._pruned_files) > MAX_PRUNED:
            raise control.bad("too much was pruned")

    def _check_beginning(self, chain: ChainCheck) -> None:
        """A chain that does not begin with record 1 must have been pruned up to there; so must torn bytes that are not there."""
        for name, problem in chain.missing_side_files.items():
            if name not in self._pruned_files and chain.result.problem is None:
                chain.fail(problem)
        if chain.begins_after is None:
            return
        seq, hash_, file = chain.begins_after
        chain.result.pruned = seq
        told = self._pruned.get((chain.result.slot, seq))
        what = ""
        if told is None:
            what = f"the segment before it is missing: {file}, and no record says that it was pruned"
        elif told[0] != hash_:
            what = f"the segment before it, {file}, was pruned with another end"
        elif self._has_trusted and told[1] > self._chains[CONTROL_SLOT].signed_seq:
            what = f"the segment before it, {file}, was pruned, and the record that says so is not signed"
        if what:
            chain.result.problem = None
            first = chain.first_file
            chain.fail(Problem(Status.TAMPERED, first, 1, seq + 1, what))

    def _find_missing_end(self, control: ChainCheck, until_s: float) -> None:
        if self._last is None:
            return
        for stream in (*self._anchors, *self._marks):
            seen = stream.find_beyond(self._last.ledger, self._last.number, self.keys, until_s)
            if seen is not None:
                what = (
                    f"the ledger ends with checkpoint {self._last.number} of {self._last.at}, and {stream.name} has {seen.number} "
                    f"of {seen.at} (line {stream.line})"
                )
                until = (
                    max(
                        (head.seq for head in seen.seal.heads if head.slot == CONTROL_SLOT),
                        default=0,
                    )
                    if seen.seal
                    else 0
                )
                control.fail(control.problem_missing(until, what))
                return
