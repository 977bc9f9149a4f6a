"""Message bodies whose counts and lengths disagree with what is there, and the obvious decoder that says whether they do.

Shared by the fuzz test of the decoders and the one of the running proxy. All made from a seed.
"""

from __future__ import annotations

from random import Random

from support import pg_bytes as pg

COUNTS = (0, 0, 0, 1, 1, 2, 3, 16, 255, 256, 32_767, 32_768, 65_534, 65_535)
LENGTHS = (-1, -1, 0, 1, 2, 3, 4, 8, -2, -3, -(2**31), 2**31 - 1, 2**30, 2**16, 2**24 - 1, 64 << 20)


class Short(Exception):
    """The body ends before what it announces."""


class Reader:
    """A body read from its start, one number or one run of bytes at a time."""

    def __init__(self, body: bytes) -> None:
        self.rest = body

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.rest):
            raise Short
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def count(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def value(self) -> None:
        length = int.from_bytes(self.take(4), "big", signed=True)
        if length != -1:
            self.take(length)

    def name(self) -> None:
        if b"\0" not in self.rest:
            raise Short
        self.take(self.rest.index(b"\0") + 1)


def is_whole(kind: str, body: bytes) -> bool:
    """Whether a Bind (B), FunctionCall (F), Parse (P) or DataRow (D) body is exactly what its counts and lengths say."""
    reader = Reader(body)
    count = 0
    try:
        if kind == "B":
            reader.name()
            reader.name()
        elif kind == "F":
            reader.take(4)
        elif kind == "P":
            reader.name()
            reader.name()
            reader.take(4 * reader.count())
        codes: list[int] = []
        if kind in "BF":
            codes = [reader.count() for _ in range(reader.count())]
        if kind in "BFD":
            count = reader.count()
            for _ in range(count):
                reader.value()
        if kind == "B":
            reader.take(2 * reader.count())
        elif kind == "F":
            reader.take(2)
    except Short:
        return False
    # The one code for all parameters means nothing where there are none; a FunctionCall's are the server's business.
    are_codes_known = kind == "F" or not count or max(codes, default=0) <= 1
    return not reader.rest and are_codes_known and len(codes) in (0, 1, count)


def lying_body(rng: Random, kind: str) -> bytes:
    """A body of that kind in which usually one count or length is not true, and sometimes none or several."""
    lies = rng.choice((0, 1, 1, 1, 1, 2, 3))
    places = rng.sample(("formats", "values", "length", "results", "cut", "added", "wrap"), lies)
    values = [
        rng.choice((None, b"", b"x", b"value", rng.randbytes(rng.randrange(40)))) for _ in range(rng.randrange(6))
    ]
    formats = [rng.randrange(2) for _ in range(rng.choice((0, 1, len(values))))]
    results = [rng.randrange(2) for _ in range(rng.choice((0, 1, 3)))]
    lengths = [-1 if value is None else len(value) for value in values]
    if "length" in places and values:
        lengths[rng.randrange(len(values))] = rng.choice(LENGTHS)
    if "wrap" in places and len(values) > 1:
        _wrap(rng, lengths)
    head = {"B": b"\0\0", "F": pg.int32(1), "P": b"\0select 1\0", "D": b""}[kind]
    body = head
    if kind in "BF":
        count = rng.choice(COUNTS) if "formats" in places else len(formats)
        body += _uint16(count) + b"".join(pg.int16(code) for code in formats)
    if kind == "P":
        count = rng.choice(COUNTS) if "values" in places else len(values)
        body += _uint16(count) + pg.int32(23) * len(values)
    else:
        count = rng.choice(COUNTS) if "values" in places else len(values)
        body += _uint16(count)
        body += b"".join(pg.int32(length) + (value or b"") for length, value in zip(lengths, values, strict=True))
    if kind == "B":
        count = rng.choice(COUNTS) if "results" in places else len(results)
        body += _uint16(count) + b"".join(pg.int16(code) for code in results)
    elif kind == "F":
        body += pg.int16(0)
    if "cut" in places:
        body = body[: rng.randrange(len(body) + 1)]
    if "added" in places:
        body += rng.choice((b"\0", b"\0\0", b"\0\0\0\0", rng.randbytes(3)))
    return body


def _wrap(rng: Random, lengths: list[int]) -> None:
    """Make two lengths wrong so that the sum of all stays right in 16, 31 or 32 bits."""
    first, second = rng.sample(range(len(lengths)), 2)
    whole = rng.choice((1 << 16, 1 << 31, 1 << 32))
    shift = rng.randrange(1, whole)
    for at, by in ((first, shift), (second, whole - shift)):
        lengths[at] = (max(lengths[at], 0) + by + (1 << 31)) % (1 << 32) - (1 << 31)


def _uint16(count: int) -> bytes:
    return count.to_bytes(2, "big")
