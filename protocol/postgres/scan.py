"""The one hand-tuned loop of this protocol: find the end of a run of row messages without decoding them.

Takes and returns ints and bytes only. Its obvious twin is in tests/protocol/postgres/test_scan.py. Changes come with
bench numbers before and after.
"""

from __future__ import annotations

from struct import Struct

_header = Struct(">BI").unpack_from

DATA_ROW = 68  # D
COPY_DATA = 100  # d


def scan_rows(data: bytes, position: int, end: int, kind: int) -> tuple[int, int]:
    """Walk over whole messages of one type.

    position: a message boundary in data; end: where the valid bytes end; kind: DATA_ROW or COPY_DATA.
    Returns (position of the first byte that is not part of a whole message of that type, messages passed). What stands
    there is for the caller to judge: another type, an incomplete message, or a length that no message can have.
    """
    count = 0
    last_header = end - 5
    while position <= last_header:
        found, size = _header(data, position)
        if found != kind:
            break
        following = position + size + 1
        if following > end or size < 4:
            break
        position = following
        count += 1
    return position, count
