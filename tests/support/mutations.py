"""Broken messages made from good ones, by seed."""

from __future__ import annotations

from random import Random

PIECES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\4",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"Q",
    b"S",
    b"P",
    b"Z",
    b"d",
)
LENGTHS = (0, 1, 3, 4, 5, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def mutated(rng: Random, frame: bytes) -> bytes:
    """One to four changes: a bit, bytes put in, taken out or written over, another declared length."""
    data = bytearray(frame)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:at] = rng.choice(PIECES)
            case 2:
                del data[at : at + rng.choice((1, 2, 4, 9))]
            case 3:
                piece = rng.choice(PIECES)
                data[at : at + len(piece)] = piece
            case 4 if len(data) >= 5:
                data[1:5] = rng.choice((*LENGTHS, len(data), len(data) + 1)).to_bytes(4, "big")
            case _:
                data[at:at] = rng.randbytes(rng.randrange(8))
    return bytes(data)
