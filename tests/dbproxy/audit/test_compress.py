"""A compressed segment reads as the original did, and nothing in its file can be changed unnoticed."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from dbproxy.audit.compress import compress_closed, compress_segment
from dbproxy.audit.ledger import Ledger
from dbproxy.audit.segment import SegmentDamaged, find_segments, open_segment, segment_name, segment_size
from dbproxy.audit.tail import Filter, Tail
from dbproxy.audit.types import EventType


def _segment(folder: Path, lines: int = 500) -> tuple[Path, bytes]:
    path = folder / segment_name(0, 1)
    data = b"".join(
        b'{"number":%d,"text":"%b"}\n' % (n, random.Random(n).randbytes(20).hex().encode()) for n in range(lines)
    )
    path.write_bytes(data)
    return path, data


def test_the_copy_reads_as_the_original_and_replaces_it(tmp_path: Path) -> None:
    path, data = _segment(tmp_path)
    copy = compress_segment(path)
    assert not path.exists()
    assert copy.stat().st_size < len(data) * 0.8
    assert segment_size(copy) == len(data)
    with open_segment(copy) as file:
        assert b"".join(file) == data
    assert gzip.decompress(copy.read_bytes()) == data, "other programs can read it too"


def test_a_segment_compressed_after_it_was_listed_is_still_read(tmp_path: Path) -> None:
    path, data = _segment(tmp_path)
    compress_segment(path)
    with open_segment(path) as file:
        assert file.read() == data


def test_while_both_exist_the_original_counts(tmp_path: Path) -> None:
    path, _ = _segment(tmp_path)
    path.with_name(path.name + ".gz").write_bytes(b"half of it")
    assert find_segments(tmp_path) == {0: [(1, path)]}
    compress_segment(path)
    assert [each.name for _, each in find_segments(tmp_path)[0]] == [path.name + ".gz"]


def test_every_changed_bit_is_found(tmp_path: Path) -> None:
    path, data = _segment(tmp_path, lines=4)
    copy = compress_segment(path)
    whole = copy.read_bytes()
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(changed)
        with pytest.raises(SegmentDamaged), open_segment(copy) as file:
            file.read()
    for end in range(len(whole)):
        copy.write_bytes(whole[:end])
        with pytest.raises(SegmentDamaged), open_segment(copy) as file:
            file.read()
    copy.write_bytes(whole + b"\0")
    with pytest.raises(SegmentDamaged), open_segment(copy) as file:
        file.read()
    copy.write_bytes(whole)
    with open_segment(copy) as file:
        assert file.read() == data


def test_all_but_the_newest_segment_are_compressed_and_the_chain_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    made = {"segment_bytes": 4096, "reserve_bytes": 64 << 10, "now_ns": lambda: 1_750_000_000_000_000_000}
    ledger = Ledger(directory, **made)  # type: ignore[arg-type] # one dict for both runs
    ledger.open()
    for number in range(60):
        ledger.append(EventType.USERS_LOADED, b'"number":%d,"trigger":"%b"' % (number, b"x" * 300))
        ledger.flush()
    before = find_segments(directory)[0]
    assert len(before) > 3
    done = compress_closed(directory, 0, limit=1 << 30)
    assert len(done) == len(before) - 1
    assert not find_segments(directory)[0][-1][1].name.endswith(".gz"), "the newest is being written"
    ledger.close("the test is over")
    again = Ledger(directory, **made)  # type: ignore[arg-type] # one dict for both runs
    assert again.open().seq > 60
    again.close("the test is over")
    shown = Tail(directory, Filter(type="users")).read_last(1000)
    assert [record.fields["number"] for record in shown] == list(range(60))
