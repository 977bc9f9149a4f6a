"""After a failed fsync: write a segment's records once more, into a new file, so that they do not hang on pages the disk never took.

The file given up is read back, which finds what the kernel still has in memory; only if every record is there and the chain through them is whole does
the copy, once on the disk, take the file's place. This asks nobody to sync the old file again. For a thread; counterpart: ledger.py.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dbproxy.audit.chain import MAX_LINE_BYTES, check_line
from dbproxy.audit.segment import create_file, sync_directory, write_all


def rewrite_segment(path: Path, size: int, hash_: bytes) -> bool:
    """Replace the segment by a durable copy of its first `size` bytes, which end with the record of that hash. Returns whether that was done.

    Raises OSError if the copy cannot be written; the segment is as it was then.
    """
    part = path.with_name(path.name + ".copy.part")
    with suppress(FileNotFoundError):
        part.unlink()
    fd = create_file(part)
    try:
        if not _copy(path, fd, size, hash_):
            part.unlink()
            return False
        os.fdatasync(fd)
        part.rename(path)
        sync_directory(path.parent)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
    finally:
        os.close(fd)
    return True


def _copy(path: Path, fd: int, size: int, hash_: bytes) -> bool:
    left = size
    prev = b""
    try:
        file = path.open("rb", buffering=1 << 20)
    except OSError:
        return False
    with file:
        while left:
            try:
                line = file.readline(min(left, MAX_LINE_BYTES))
            except OSError:
                return False
            checked = check_line(line)
            if isinstance(checked, str) or (prev and checked[1] != prev):
                return False
            prev = checked[4]
            write_all(fd, line)
            left -= len(line)
    return prev == hash_
