"""The one hand-tuned loop of this protocol: find the end of a run of rows without decoding them.

Takes and returns ints and bytes only. Its obvious twin is in tests/protocol/mysql/test_scan.py. Changes come with bench
numbers before and after.
"""

from __future__ import annotations

from struct import Struct

_header = Struct("<I").unpack_from


def scan_rows(data: bytes, position: int, end: int, sequence: int) -> tuple[int, int]:
    """Walk over whole packets that can only be rows.

    position: a packet boundary in data; end: where the valid bytes end; sequence: what the first packet must have.
    Returns (position of the first byte that is not part of such a packet, packets passed). What stands there is for the
    caller to judge: the end of the rows (0xFE, 0xFF), a packet out of sequence, of no bytes, of 2^24-1 bytes, incomplete.
    """
    count = 0
    last_header = end - 5
    while position <= last_header:
        (head,) = _header(data, position)
        size = head & 0xFFFFFF
        following = position + size + 4
        if following > end or data[position + 4] >= 0xFE or head >> 24 != sequence or size == 0 or size == 0xFFFFFF:
            break
        position = following
        sequence = (sequence + 1) & 0xFF
        count += 1
    return position, count
