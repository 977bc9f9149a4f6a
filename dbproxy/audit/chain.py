"""The record format of the audit ledger, schema dbproxy.audit/1, and the chain through the records.

Pure: bytes in, bytes out. Files are in segment.py, the writer is in ledger.py, the checker in verify.py.

Line format
-----------
A segment is a file of lines. Each line is one JSON object, ends with one LF, and has no other byte below 0x20 in it:

    {"v":"dbproxy.audit/1","seq":7,"prev":"<64 hex>","at":"2026-03-01T09:30:00.123456Z","type":"session.end",…,"hash":"<64 hex>"}␊
    └───────────────────────────── hashed: SHA-256 over exactly these bytes ───────────────────────────────┘└──── 75 bytes ────┘

* The first five members stand in exactly this order and spelling, without white space. Those after `type` may come in any order.
* `hash` is always last. It is the lower-case hexadecimal SHA-256 of all bytes of the line before `,"hash":"`, the opening
  brace included. The 75 bytes are `,"hash":"` (9), the digest (64) and `"}` (2); the LF follows.
* `prev` is the `hash` of the record before, in this file or, for the first record of a file, the last good one of the file before.
  The very first record of a chain has 64 zeros.
* `seq` starts at 1 and rises by 1 from record to record, across files.
* `at` is UTC wall time with six decimals, as the clock showed it; it may go backwards, `seq` does not. Where it jumped against the monotonic
  clock a `clock.jump` record says so.
* A record is one line however long, at most MAX_LINE_BYTES: a statement of 16 MiB, the largest that is let in by default, fits whatever it is made of.
  What would not fit is refused, never cut (docs/decisions/0007-what-waits-for-the-disk.md).

Segments
--------
    audit-0-0000000000000001.jsonl       audit-0-0000000000004711.jsonl
    ┌──────────────────────────────┐     ┌──────────────────────────────┐
    │ segment.start  seq 1         │     │ segment.start  seq 4711      │  predecessor: {file, seq, hash, size}
    │ …                            │  ┌──│   prev = hash of seq 4710    │  open: intents without outcome so far
    │ segment.end    seq 4710  hash│◄─┘  │ …                            │
    └──────────────────────────────┘     └──────────────────────────────┘

The name is audit-<slot>-<seq of its first record, 16 digits>.jsonl. One chain per slot. The first record is always `segment.start`:

* `segment`: the file's own name; `slot`; `node`.
* `predecessor`: null at the beginning of a chain, else `file`, `seq` and `hash` of the last good record there, and `size`, the bytes
  up to and including that record. If the writer gave that file up (a failed write that could not be undone, a failed fsync,
  a file changed by someone else) `abandoned` says why, and bytes beyond `size` are not part of the ledger. Otherwise there are none.
  After a failed fsync the records up to there were written once more, to a new file of the same name (rescue.py).
* `open`: [[session, statement], …] of all intents so far that have no outcome yet, so that a reader may begin at any segment.
* `reopened`: true if the chain had ended with `chain_end`.

`segment.end` is the last record of a segment that was rotated (`reason` "rotated": a successor must exist) or closed in good order.
After a crash it is missing. `chain_end` before it says that the slot is no longer in use: another segment may follow only with `reopened`.

A segment that is not the newest of its slot may be compressed: the same name with .gz, the same bytes within (segment.py). Names in headers never have
the .gz. Beside the segments stand audit-<slot>.lock, audit-<slot>.reserve, digest.key, and torn ends that were set aside, *.torn.

Every `statement.intent` and `statement.outcome` has `session` and `statement` (the pair is unique); each outcome has its intent before it, and
each intent gets one outcome, after a crash one with status "unknown". Every minute or so each slot writes a `heartbeat` with its totals.

What this proves: that nothing within the chain was changed, removed or added. Someone who can rewrite all files can make a new chain, and a cut
after any whole record at the very end looks like a log that ended there: that takes signatures and anchors outside of these files.
"""

from __future__ import annotations

import re
import time
from binascii import hexlify
from hashlib import sha256

SCHEMA = "dbproxy.audit/1"
NO_HASH = b"0" * 64
"""`prev` of the first record of a chain."""

MAX_BODY_BYTES = 120 << 20
"""A larger body is refused by the writer. A 16 MiB statement of control characters alone, six bytes each as \\uXXXX, is 96 MiB."""
MAX_LINE_BYTES = MAX_BODY_BYTES + 4096
"""A longer line was not made by the writer."""
TAIL_BYTES = 76
"""What follows the hashed part of a line, LF included."""

Key = tuple[str, int]
"""Session id (letters, digits, "-", "_") and statement id: names an intent and its outcome."""
Item = tuple[int, bytes, Key | None, bytes]
"""A record before it is chained: wall time in ns, type, key of an intent or outcome, body (members without braces)."""

_HEAD = b'{"v":"dbproxy.audit/1","seq":%d,"prev":"%b","at":"%b.%06dZ","type":"%b",%b'
_KEYED_HEAD = (
    b'{"v":"dbproxy.audit/1","seq":%d,"prev":"%b","at":"%b.%06dZ","type":"%b","session":"%b","statement":%d,%b'
)
_HASH = b',"hash":"'
_END = b'"}\n'

HEAD_PATTERN = re.compile(
    rb'\{"v":"dbproxy\.audit/1","seq":([1-9][0-9]{0,15}),"prev":"([0-9a-f]{64})"'
    rb',"at":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)","type":"([a-z_.]{1,40})",'
)
"""Matches the fixed beginning of a line: seq, prev, at, type."""


def format_time(now_ns: int) -> str:
    """RFC 3339 in UTC with six decimals."""
    second, nanos = divmod(now_ns, 1_000_000_000)
    return f"{_format_second(second)}.{nanos // 1000:06d}Z"


def _format_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class Chain:
    """The end of a chain: number and hash of its last record. Links further records to it.

    seq, hash: of the last record; set back by the ledger when a write failed.
    """

    __slots__ = ("_second", "_stamp", "hash", "seq")

    def __init__(self, seq: int, hash_: bytes) -> None:
        self.seq = seq
        self.hash = hash_
        self._second = -1
        self._stamp = b""

    def link(self, items: list[Item]) -> list[bytes]:
        """Chain items; returns their lines in four parts each, to be joined. Advances seq and hash.

        Hot: twice per statement. The time of day is formatted once a second.
        """
        seq = self.seq
        prev = self.hash
        second = self._second
        stamp = self._stamp
        parts: list[bytes] = []
        for now, type_, key, body in items:
            seq += 1
            at = now // 1_000_000_000
            if at != second:
                self._second = second = at
                self._stamp = stamp = _format_second(at).encode()
            micros = now // 1000 % 1_000_000
            if key is None:
                text = _HEAD % (seq, prev, stamp, micros, type_, body)
            else:
                text = _KEYED_HEAD % (seq, prev, stamp, micros, type_, key[0].encode(), key[1], body)
            prev = hexlify(sha256(text).digest())
            parts += (text, _HASH, prev, _END)
        self.seq = seq
        self.hash = prev
        return parts


def check_line(line: bytes) -> tuple[int, bytes, bytes, bytes, bytes] | str:
    """Check form and hash of one line, LF included; not its JSON.

    Returns (seq, prev, at, type, hash), or what is wrong in a few words.
    """
    match = HEAD_PATTERN.match(line)
    if match is None or line[-TAIL_BYTES : -TAIL_BYTES + 9] != _HASH or line[-3:] != _END:
        return "not a record of this format"
    digest = hexlify(sha256(line[:-TAIL_BYTES]).digest())
    if digest != line[-67:-3]:
        return "its hash does not match its bytes"
    return int(match[1]), match[2], match[3], match[4], digest
