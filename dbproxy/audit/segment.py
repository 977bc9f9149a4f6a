"""Segment files: their names, and finding, creating, writing and reading them, compressed or not. Counterpart of the format in chain.py.

A closed segment may be compressed (compress.py): the same bytes as a gzip file with a header of our own, in one member,

    1f 8b 08 04 00000000 00 ff │ 2c 00 │ 'D' 'P' 28 00 │ raw size, 8 bytes LE │ SHA-256, 32 bytes │ deflate … │ crc32, raw size
    gzip, extra field, no time │ XLEN  │ subfield      │                      │ of all that follows              │ trailer

so that no byte of the file can be changed unnoticed, also none that decompression would not notice. `zcat` reads it all the same.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from dbproxy.errors import DbproxyError

_NAME = re.compile(r"audit-([0-9]{1,4})-([0-9]{16})\.jsonl(\.gz)?")
_OWN_FILES = re.compile(
    r"audit-[0-9]{1,4}\.(reserve|lock|probe)|audit-[0-9]{1,4}-[0-9]{16}(\.[0-9]+)?\.torn|audit-[0-9]{1,4}-[0-9]{16}\.jsonl\.(gz|copy)\.part|digest\.key"
)
COMPRESSED = ".gz"
"""What a compressed segment's name ends with, after the name of the original."""
GZIP_HEADER = bytes.fromhex("1f8b08040000000000ff2c0044502800")
"""Beginning of a compressed segment, up to its raw size and digest."""
GZIP_HEADER_BYTES = len(GZIP_HEADER) + 40
_GZIP_TRAILER_BYTES = 8
_BLOCK_BYTES = 256 << 10


class SegmentDamaged(DbproxyError):  # noqa: N818 - named for what it found
    """A compressed segment is not what was written: changed, cut or extended. Its text says how."""


def segment_name(slot: int, first_seq: int) -> str:
    return f"audit-{slot}-{first_seq:016d}.jsonl"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """Slot and first seq, or None if this is not the name of a segment, compressed or not."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def raw_name(name: str) -> str:
    """The name that a segment has in headers: without the ending of a compressed one."""
    return name.removesuffix(COMPRESSED)


def is_own_file(name: str) -> bool:
    """Whether a file of this name, not a segment, may stand beside segments: ballast, lock, torn bytes, a copy in the making."""
    return _OWN_FILES.fullmatch(name) is not None


def find_segments(directory: Path) -> dict[int, list[tuple[int, Path]]]:
    """All segments by slot, each slot's as (first seq, path) in order. Raises OSError.

    While both a segment and its compressed copy exist the original counts: the copy may not be complete.
    """
    found: dict[int, dict[int, Path]] = {}
    for path in directory.iterdir():
        parsed = parse_segment_name(path.name)
        if parsed is None:
            continue
        segments = found.setdefault(parsed[0], {})
        if parsed[1] not in segments or not path.name.endswith(COMPRESSED):
            segments[parsed[1]] = path
    return {slot: sorted(segments.items()) for slot, segments in found.items()}


def open_segment(path: Path) -> BinaryIO:
    """Open a segment to read its records, compressed or not. Raises OSError.

    path: as find_segments gave it; if it has been compressed since, the copy is opened. Reading a compressed one raises SegmentDamaged
    where it is not what was written, at its end at the latest; it can be sought only from the beginning, by reading.
    """
    if not path.name.endswith(COMPRESSED):
        try:
            return path.open("rb", buffering=1 << 20)
        except FileNotFoundError:
            path = path.with_name(path.name + COMPRESSED)
            if not path.exists():
                raise
    return io.BufferedReader(Inflated(path), 1 << 20)


def segment_size(path: Path) -> int:
    """How many bytes of records, and of what may follow them, a segment has; what its header says if it is compressed. Raises OSError."""
    if not path.name.endswith(COMPRESSED):
        return path.stat().st_size
    with path.open("rb") as file:
        header = file.read(GZIP_HEADER_BYTES)
    return int.from_bytes(header[len(GZIP_HEADER) : len(GZIP_HEADER) + 8], "little")


class Inflated(io.RawIOBase):
    """The bytes of a compressed segment, checked against its header while they are read; memory is bounded, also on a hostile file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._name = path.name
        self._file = path.open("rb", buffering=0)
        header = self._file.read(GZIP_HEADER_BYTES) or b""
        if len(header) != GZIP_HEADER_BYTES or not header.startswith(GZIP_HEADER):
            self._file.close()
            raise self._damaged("its header is not that of a compressed segment")
        self._size = int.from_bytes(header[len(GZIP_HEADER) : len(GZIP_HEADER) + 8], "little")
        self._wanted = header[len(GZIP_HEADER) + 8 :]
        self._digest = sha256()
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._waiting = b""
        self._crc = 0
        self._read = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()
        super().close()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # typeshed wants any writable buffer
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        inflate = self._inflate
        while not inflate.eof:
            if not self._waiting:
                self._waiting = self._file.read(_BLOCK_BYTES) or b""
                if not self._waiting:
                    raise self._damaged("it was cut")
                self._digest.update(self._waiting)
            try:
                data = inflate.decompress(self._waiting, size)
            except zlib.error as error:
                raise self._damaged("it cannot be decompressed") from error
            self._waiting = inflate.unconsumed_tail
            if data:
                self._crc = zlib.crc32(data, self._crc)
                self._read += len(data)
                if self._read > self._size:
                    raise self._damaged("it is longer than its header says")
                return data
        self._check_end(inflate.unused_data)
        return b""

    def _check_end(self, rest: bytes) -> None:
        while len(rest) <= _GZIP_TRAILER_BYTES:
            more = self._file.read(_BLOCK_BYTES)
            if not more:
                break
            self._digest.update(more)
            rest += more
        trailer = self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
        if rest != trailer or self._read != self._size or self._digest.digest() != self._wanted:
            raise self._damaged("its bytes are not those that were written")

    def _damaged(self, what: str) -> SegmentDamaged:
        return SegmentDamaged(f"compressed segment {self._name} was changed: {what}")


def create_file(path: Path) -> int:
    """Create a file that must not exist yet, for appending and reading back; returns its descriptor. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def write_all(fd: int, data: bytes) -> None:
    """Write all of data. Raises OSError; how much was written by then is for the caller to find out."""
    written = os.write(fd, data)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(data):
        written += os.write(fd, view[written:])


def free_side_path(path: Path, suffix: str) -> Path:
    """A name beside path that no file has: name.suffix, name.1.suffix, …"""
    candidate = path.with_name(f"{path.stem}.{suffix}")
    number = 0
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}.{suffix}")
    return candidate


def sync_directory(directory: Path) -> None:
    """Make names in the directory durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
