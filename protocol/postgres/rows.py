"""Rows as they stream through: checked, counted, and for the proxy's own question, read.

Where a run of rows ends is for scan.py; decoders of whole messages are in messages.py.
"""

from __future__ import annotations

from typing import Final

from protocol.postgres.messages import check_row, parse_row
from protocol.postgres.scan import read_header

_CHECKED_RUN_BYTES: Final = 2048
"""Rows in runs up to this size are checked field by field, in longer ones only the first: the proxy does not read rows.

PostgreSQL sends long results in pieces of 8 KiB: checking those too cost more than all the rest.
"""


def check_rows(data: bytes, start: int, end: int) -> None:
    """Check the run of DataRow messages data[start:end], see _CHECKED_RUN_BYTES. Raises MalformedMessage."""
    position = start
    while position < end:
        _, size = read_header(data, position)
        check_row(data, position + 5, position + size + 1)
        position += size + 1
        if end - start > _CHECKED_RUN_BYTES:
            break


def parse_first_field(data: bytes, position: int) -> str | None:
    """First field of the DataRow at position, None for NULL or a row without fields."""
    _, size = read_header(data, position)
    fields = parse_row(data[position + 5 : position + size + 1])
    return fields[0].decode("utf-8", "replace") if fields and fields[0] is not None else None


def parse_row_count(tag: bytes) -> int:
    """The row count of a command tag ("COPY 5", "INSERT 0 5"), 0 if it has none."""
    last = tag.rpartition(b" ")[2]
    return int(last) if last.isdigit() else 0
