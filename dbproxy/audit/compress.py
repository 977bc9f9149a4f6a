"""Compression of closed segments to gzip, which any machine can read (format: segment.py).

For a process of its own (compressor.py): some 3 ms a MiB with ISA-L, 6 with zlib. The original goes only after the copy was made durable, read back and found equal.
A crash leaves a `.part` file or both; neither is harmful, and the next run does it again. A lock on the original keeps two runs from one segment.
"""

from __future__ import annotations

import fcntl
import io
import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from dbproxy.audit.segment import (
    COMPRESSED,
    GZIP_HEADER,
    GZIP_HEADER_BYTES,
    Inflated,
    SegmentDamaged,
    find_segments,
    sync_directory,
)

try:
    from isal import isal_zlib as zlib
except ImportError:  # there is no build of it for this platform
    import zlib  # type: ignore[no-redef]

_LEVEL = 2
"""Of ISA-L's 0 to 3 as of zlib's 1 to 9: what compresses more takes several times as long."""
_BLOCK_BYTES = 256 << 10


def closed_and_plain(directory: Path, slot: int) -> list[Path]:
    """The slot's segments that are not compressed yet, oldest first, without the newest."""
    return [path for _, path in find_segments(directory).get(slot, [])[:-1] if not path.name.endswith(COMPRESSED)]


def compress_closed(directory: Path, slot: int, limit: int | None = None) -> list[Path]:
    """Compress the slot's segments but the newest, oldest first, at most `limit`. Returns the new files.

    Only for the process that holds the slot's lock, or one that it has started. Raises OSError, for instance when the volume is full: everything is
    as before then; also when another process is at one of them.
    """
    return [compress_segment(path) for path in closed_and_plain(directory, slot)[:limit]]


def compress_segment(path: Path) -> Path:
    """Replace a closed segment by its compressed copy; returns the copy's path. Raises OSError, SegmentDamaged if the copy is not equal."""
    target = path.with_name(path.name + COMPRESSED)
    part = path.with_name(target.name + ".part")
    with path.open("rb") as original:
        fcntl.flock(original, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            part.unlink()
        try:
            _write_copy(original, part)
            _compare(original, part)
        except (OSError, SegmentDamaged):
            with suppress(OSError):
                part.unlink()
            raise
        part.rename(target)
        sync_directory(path.parent)
        path.unlink()
        sync_directory(path.parent)
    return target


def _write_copy(source: io.BufferedReader, part: Path) -> None:
    digest = sha256()
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    crc = 0
    size = 0
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(part, flags, 0o600), "wb") as target:
        target.write(bytes(GZIP_HEADER_BYTES))
        while block := source.read(_BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
            size += len(block)
            data = deflate.compress(block)
            digest.update(data)
            target.write(data)
        data = deflate.flush() + crc.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")
        digest.update(data)
        target.write(data)
        target.seek(0)
        target.write(GZIP_HEADER + size.to_bytes(8, "little") + digest.digest())
        target.flush()
        os.fsync(target.fileno())


def _compare(original: io.BufferedReader, part: Path) -> None:
    """Read both; raises SegmentDamaged unless they are equal."""
    original.seek(0)
    with io.BufferedReader(Inflated(part), _BLOCK_BYTES) as copy:
        while True:
            block = original.read(_BLOCK_BYTES)
            if copy.read(_BLOCK_BYTES) != block:
                raise SegmentDamaged(
                    f"compressed copy of {part.name.removesuffix('.part')} is not equal to the original"
                )
            if not block:
                return
