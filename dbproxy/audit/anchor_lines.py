"""What anchors keep: one line of text for each checkpoint. Writing them, and reading them back from whatever kept them. No sockets.

The full form is the record's type and members:   {"type":"checkpoint","payload":"…","signature":"…"}
Where a message must be short (syslog), with many slots:
    {"type":"checkpoint","ledger":"…","node":"…","number":7,"at":"…","key":"…","payload_sha256":"…","signature":"…"}
Reading takes either form from anywhere in a line, so that a syslog daemon's file can be given as it is. Counterpart: anchor.py.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import orjson

from dbproxy.audit.checkpoint import MAX_PAYLOAD_BYTES, Seal, parse_seal

MAX_LINE_BYTES = 2 * MAX_PAYLOAD_BYTES
_TAIL_BYTES = 16 << 20
_MARK = b'{"type":"'


@dataclass(frozen=True, slots=True)
class AnchoredSeal:
    """A checkpoint as an anchor has it. digest: SHA-256 of the payload; seal: None in the short form."""

    ledger: str
    node: str
    number: int
    at: str
    digest: str
    seal: Seal | None


def short_line(seal: Seal) -> bytes:
    """The short form, without line end."""
    return orjson.dumps(
        {
            "type": seal.type.value.decode(),
            "ledger": seal.ledger,
            "node": seal.node,
            "number": seal.number,
            "at": seal.at,
            "key": seal.key,
            "payload_sha256": seal.digest,
            "signature": b64encode(seal.signature).decode(),
        }
    )


def parse_anchored(line: bytes) -> AnchoredSeal | None:
    """The checkpoint in a line, None if there is none. Raises ValueError if something begins like one and is not."""
    start = line.find(_MARK)
    if start < 0:
        return None
    fields = orjson.loads(line[start:])
    if not isinstance(fields, dict):
        raise ValueError("not an object")  # noqa: TRY004 - what was read is wrong, not what was passed
    if "payload" in fields:
        seal = parse_seal(fields["payload"], fields.get("signature"))
        return AnchoredSeal(seal.ledger, seal.node, seal.number, seal.at, seal.digest, seal)
    names = ("ledger", "node", "at", "payload_sha256")
    ledger, node, at, digest = (fields.get(name) for name in names)
    number = fields.get("number")
    if not isinstance(number, int) or number < 1:
        raise ValueError("number has the wrong form")
    if (
        not isinstance(ledger, str)
        or not isinstance(node, str)
        or not isinstance(at, str)
        or not isinstance(digest, str)
    ):
        raise ValueError("a member has the wrong form")  # noqa: TRY004 - as above
    return AnchoredSeal(ledger, node, number, at[:40], digest, None)


def read_anchored(path: Path) -> Generator[tuple[int, AnchoredSeal | None], None, None]:
    """All checkpoints of a file with their line numbers, from 1; None for a line that is damaged. Other lines are left out. Raises OSError.

    Memory is bounded by the longest line that may be.
    """
    with path.open("rb", buffering=1 << 20) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if not line.endswith(b"\n") and len(line) > MAX_LINE_BYTES:
                while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                    pass
                yield number, None
                continue
            try:
                found = parse_anchored(line)
            except ValueError:
                yield number, None
                continue
            if found is not None:
                yield number, found


def find_newest_anchored(path: Path, node: str) -> AnchoredSeal | None:
    """The last checkpoint of this node near the end of a file, None if there is none or no file. Raises OSError."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).split(b"\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            found = parse_anchored(line)
        except ValueError:
            continue  # torn by a crash, or cut by where reading began
        if found is not None and found.node == node:
            return found
    return None
