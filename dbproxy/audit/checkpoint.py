r"""Checkpoints: signed statements of where every chain of a ledger stood. When one is due, what is in it, reading it back. Pure.

A checkpoint is a record of type `checkpoint` in the chain of slot 0, the control process's:

    "payload":"{\"v\":\"dbproxy.seal/1\",\"kind\":\"checkpoint\",…}","signature":"<base64 of 64 bytes>"

What is signed is the text of `payload`, the string after JSON decoding, as ASCII bytes and nothing else; it needs no canonical form, since it is kept as
it was signed. It is a JSON object with these members in this order:

* `v`: "dbproxy.seal/1". `kind`: "checkpoint" or "rotation".
* `ledger`: 32 hexadecimal digits, drawn with the first checkpoint: two ledgers of one key cannot be mixed up. `node`: where it was made.
* `number`: 1 and up, without gaps. `previous`: SHA-256 of the payload before, 64 zeros for number 1. So checkpoints are a chain of their own.
* `epoch`, `key`: the id of the signing key, and how many keys there have been, from 1. Each epoch has exactly one key.
* `at`: wall time. `final`: the proxy ended in good order with this one; only `segment.end` follows in slot 0 and nothing elsewhere.
* `heads`: [{slot, seq, hash, file}], the last synced record of every slot there ever was, also of slots no longer in use.
* `next_key`: with kind "rotation" only, 64 hexadecimal digits: the raw public key of epoch + 1. Such a record has the type `key.rotated` and is signed with
  the old key; from the next number on only the new one may sign.

Counterparts: prover.py, which runs a Checkpointer inside the control process; verify_seals.py.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from dbproxy.audit.chain import format_time
from dbproxy.audit.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SigningKey
from dbproxy.audit.types import EventType

SEAL_VERSION = "dbproxy.seal/1"
NO_PREVIOUS = "0" * 64

INTERVAL_S = 10.0
"""A checkpoint is due this long after the one before, also when nothing has happened."""
INTERVAL_EVENTS = 1_000
"""A checkpoint is due after this many records in all chains together,"""
MIN_SPACING_S = 0.25
"""but not more often than this."""
LATE_S = 30.0
"""A checkpoint this much beyond its time is an audit failure."""
MAX_PAYLOAD_BYTES = 4 << 20
MAX_SLOTS = 10_000
"""A slot's number has at most four digits, in the names of its files."""

_SECOND = 1_000_000_000
_KINDS = {"checkpoint": EventType.CHECKPOINT, "rotation": EventType.KEY_ROTATED}
_HASH = re.compile(r"[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_LEDGER_ID = re.compile(r"[0-9a-f]{32}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_FILE = re.compile(r"audit-[0-9]{1,4}-[0-9]{16}\.jsonl")


@dataclass(frozen=True, slots=True)
class Head:
    """The last synced record of a slot's chain, and the segment it stands in. hash: 64 hexadecimal digits."""

    slot: int
    seq: int
    hash: str
    file: str


@dataclass(frozen=True, slots=True)
class Seal:
    """A checkpoint as it was signed. payload: the signed text; signature: 64 bytes. next_key: raw public key, with a rotation only."""

    payload: str
    signature: bytes
    ledger: str
    node: str
    number: int
    epoch: int
    key: str
    at: str
    previous: str
    is_final: bool
    heads: tuple[Head, ...]
    next_key: bytes | None

    @property
    def type(self) -> EventType:
        """The type of its record."""
        return EventType.CHECKPOINT if self.next_key is None else EventType.KEY_ROTATED

    @property
    def digest(self) -> str:
        """SHA-256 of the payload: `previous` of the next one."""
        return sha256(self.payload.encode()).hexdigest()

    @property
    def body(self) -> bytes:
        """The members of its record."""
        return b'"payload":%b,"signature":"%b"' % (orjson.dumps(self.payload), b64encode(self.signature))

    @property
    def line(self) -> bytes:
        """What an anchor keeps, without line end: the record's type and members as one JSON object."""
        return b'{"type":"%b",%b}' % (self.type.value, self.body)


def parse_seal(payload: object, signature: object) -> Seal:
    """Read the two members of a record or of an anchor's line; the signature is not checked. Raises ValueError with a few words."""
    if not isinstance(payload, str) or not isinstance(signature, str) or not payload.isascii():
        raise ValueError("payload and signature must be strings")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError("the payload is too large")
    raw_signature = b64decode(signature, validate=True)
    if len(raw_signature) != SIGNATURE_BYTES:
        raise ValueError("the signature has the wrong length")
    fields: Any = orjson.loads(payload)
    if not isinstance(fields, dict) or fields.get("v") != SEAL_VERSION:
        raise ValueError(f"the payload is not of version {SEAL_VERSION}")
    kind = fields.get("kind")
    next_key = fields.get("next_key")
    if kind not in _KINDS or (kind == "rotation") != isinstance(next_key, str):
        raise ValueError("the kind of the payload is not known")
    heads = fields.get("heads")
    if not isinstance(heads, list) or not heads or len(heads) > MAX_SLOTS:
        raise ValueError("the payload has no heads")
    parsed = tuple(_parse_head(head) for head in heads)
    if len({head.slot for head in parsed}) != len(parsed):
        raise ValueError("a slot appears twice in the payload")
    return Seal(
        payload=payload,
        signature=raw_signature,
        ledger=_match(_LEDGER_ID, fields.get("ledger"), "ledger"),
        node=_text(fields.get("node"), "node"),
        number=_count(fields.get("number"), "number", least=1),
        epoch=_count(fields.get("epoch"), "epoch", least=1),
        key=_match(_KEY_ID, fields.get("key"), "key"),
        at=_match(_TIME, fields.get("at"), "at"),
        previous=_match(_HASH, fields.get("previous"), "previous"),
        is_final=fields.get("final") is True,
        heads=parsed,
        next_key=_raw_key(next_key) if isinstance(next_key, str) else None,
    )


def _parse_head(head: object) -> Head:
    fields = head if isinstance(head, dict) else {}
    slot = _count(fields.get("slot"), "slot", least=0)
    if slot >= MAX_SLOTS:
        raise ValueError("a slot is out of range")
    return Head(
        slot=slot,
        seq=_count(fields.get("seq"), "seq", least=1),
        hash=_match(_HASH, fields.get("hash"), "hash"),
        file=_match(_FILE, fields.get("file"), "file"),
    )


def _match(pattern: re.Pattern[str], value: object, name: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{name} has the wrong form")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > 255:
        raise ValueError(f"{name} has the wrong form")
    return value


def _count(value: object, name: str, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 53:
        raise ValueError(f"{name} has the wrong form")
    return value


def _raw_key(text: str) -> bytes:
    raw = bytes.fromhex(text)
    if len(raw) != PUBLIC_KEY_BYTES:
        raise ValueError("next_key has the wrong length")
    return raw


class Checkpointer:
    """Decides when a checkpoint is due and makes it. No clock, no disk: times are parameters, records are return values.

    key: signs. last: the newest seal in the ledger, None in a new one. ledger: used for a new one only. now_ns is monotonic everywhere, at_ns is wall time.

    How control uses it (prover.py does all of this but append and sync):

        take_head(…)            for every slot, whenever a worker reports one; the records up to it must be synced
        if is_due(now):         and the ledger is up
            seal = make(now, at)
            ledger.append(seal.type, seal.body)     AuditDown: withdraw(seal), nothing else has happened
            ledger.flush(), sync                    then written(seal, now), and hand seal.line to the anchors
    """

    def __init__(self, key: SigningKey, last: Seal | None, *, ledger: str, node: str) -> None:
        self.ledger = last.ledger if last else _match(_LEDGER_ID, ledger, "ledger")
        self.number = last.number if last else 0
        """Of the newest seal made."""
        self.epoch = 1
        if last is not None:
            self.epoch = last.epoch + (last.next_key is not None)
        self._key = key
        self._node = node.encode("ascii", "backslashreplace").decode()[:255]
        self._previous = last.digest if last else NO_PREVIOUS
        self._heads: dict[int, Head] = {head.slot: head for head in last.heads} if last else {}
        self._sealed_total = sum(head.seq for head in self._heads.values())
        self._total = self._sealed_total
        self._sealed_slots = len(self._heads)
        self._made_ns: int | None = None  # INVARIANT: monotonic time of the newest seal of this run, None before it
        self._before: tuple[int, int, str, SigningKey, int, int, int | None] | None = None  # for withdraw

    @property
    def key_id(self) -> str:
        return self._key.id

    @property
    def heads(self) -> tuple[Head, ...]:
        """By slot."""
        return tuple(self._heads[slot] for slot in sorted(self._heads))

    def take_head(self, slot: int, seq: int, hash_: str, file: str) -> None:
        """A chain stands at this synced record now. An older head than the one known is left aside: reports may overtake each other."""
        old = self._heads.get(slot)
        if old is not None and old.seq >= seq:
            return
        self._total += seq - (old.seq if old is not None else 0)
        self._heads[slot] = Head(slot, seq, hash_, file)

    def is_due(self, now_ns: int) -> bool:
        if not self._heads:
            return False
        if self._made_ns is None:
            return True
        since_ns = now_ns - self._made_ns
        if since_ns < MIN_SPACING_S * _SECOND:
            return False
        if len(self._heads) > self._sealed_slots:
            return True  # a slot's first head: its worker has not heard of any checkpoint, and may not wait much longer
        return since_ns >= INTERVAL_S * _SECOND or self._total - self._sealed_total >= INTERVAL_EVENTS

    def make(self, now_ns: int, at_ns: int, *, is_final: bool = False, next_key: SigningKey | None = None) -> Seal:
        """A seal over all heads as they are now.

        is_final: nothing but the end of slot 0's segment will follow. next_key: takes over with the next number; needs no is_due.
        """
        if not self._heads:
            raise ValueError("a checkpoint needs at least one head")
        fields: dict[str, object] = {
            "v": SEAL_VERSION,
            "kind": "checkpoint" if next_key is None else "rotation",
            "ledger": self.ledger,
            "node": self._node,
            "number": self.number + 1,
            "epoch": self.epoch,
            "key": self._key.id,
            "at": format_time(at_ns),
            "previous": self._previous,
            "final": is_final,
            "heads": [
                {"slot": head.slot, "seq": head.seq, "hash": head.hash, "file": head.file} for head in self.heads
            ],
        }
        if next_key is not None:
            fields["next_key"] = next_key.public.raw.hex()
        payload = orjson.dumps(fields).decode()
        seal = parse_seal(payload, b64encode(self._key.sign(payload.encode("ascii"))).decode())
        self._before = (
            self.number, self.epoch, self._previous, self._key, self._sealed_total, self._sealed_slots, self._made_ns,
        )  # fmt: skip
        self.number += 1
        self._previous = seal.digest
        self._sealed_total = self._total
        self._sealed_slots = len(self._heads)
        self._made_ns = now_ns
        if next_key is not None:
            self.epoch += 1
            self._key = next_key
        return seal

    def withdraw(self, seal: Seal) -> None:
        """The newest seal could not be appended and never will be: as if it had not been made."""
        if self._before is None or seal.number != self.number:
            raise ValueError("only the newest seal can be withdrawn")
        (self.number, self.epoch, self._previous, self._key, self._sealed_total, self._sealed_slots, self._made_ns) = (
            self._before
        )
        self._before = None
