"""The hand-tuned scan against its obvious twin, in both of its forms where the build has both."""

import struct
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import pg_bytes as pg

from protocol.postgres import scan
from protocol.postgres.scan import COPY_DATA, DATA_ROW, read_header, read_int32, read_uint16, scan_rows


@pytest.fixture(autouse=True, scope="module", params=("struct", "arithmetic"))
def _form(request: pytest.FixtureRequest) -> Iterator[None]:
    if scan.IS_COMPILED:
        yield
        return
    with patch.object(scan, "IS_COMPILED", request.param == "arithmetic"):
        yield


def slow_twin(data: bytes, position: int, end: int, kind: int) -> tuple[int, int]:
    """One message at a time, as the manual reads."""
    count = 0
    while True:
        header = data[position : min(position + 5, end)]
        if len(header) < 5 or header[0] != kind:
            return position, count
        length = int.from_bytes(header[1:5], "big")
        if length < 4 or position + 1 + length > end:
            return position, count
        position += 1 + length
        count += 1


messages = st.one_of(
    st.binary(max_size=20).map(pg.copy_data),
    st.lists(st.one_of(st.none(), st.binary(max_size=9)), max_size=4).map(pg.data_row),
    st.binary(max_size=9).map(pg.command_complete),
    st.builds(
        lambda kind, length: pg.frame(kind, b"", length=length), st.sampled_from("DdZ"), st.integers(0, 2**32 - 1)
    ),
    st.binary(max_size=9),
)


@given(st.lists(messages, max_size=12), st.integers(0, 30), st.integers(0, 30), st.sampled_from((DATA_ROW, COPY_DATA)))
def test_scan_agrees_with_its_slow_twin(parts: list[bytes], start: int, cut: int, kind: int) -> None:
    data = b"".join(parts)
    end = max(len(data) - cut, 0)
    start = min(start, end)
    assert scan_rows(data, start, end, kind) == slow_twin(data, start, end, kind)


@given(st.integers(0, 300), st.integers(0, 300))
def test_scan_stops_at_the_incomplete_message_of_a_run(rows: int, cut: int) -> None:
    data = pg.data_row(["some", None, "row"]) * rows
    end = max(len(data) - cut, 0)
    position, count = scan_rows(data, 0, end, DATA_ROW)
    size = len(pg.data_row(["some", None, "row"]))
    assert (position, count) == (end // size * size, end // size)


def test_scan_does_not_move_over_the_other_type() -> None:
    data = pg.data_row() + pg.copy_data("x")
    assert scan_rows(data, 0, len(data), COPY_DATA) == (0, 0)
    assert scan_rows(data, 0, len(data), DATA_ROW) == (len(pg.data_row()), 1)


@given(st.binary(min_size=9, max_size=30), st.integers(0, 4))
def test_numbers_are_read_as_struct_reads_them(data: bytes, position: int) -> None:
    assert read_header(data, position) == struct.unpack_from(">BI", data, position)
    assert (read_uint16(data, position),) == struct.unpack_from(">H", data, position)
    assert (read_int32(data, position),) == struct.unpack_from(">i", data, position)


@given(st.binary(max_size=5))
def test_numbers_that_are_not_all_there_are_not_read(data: bytes) -> None:
    with pytest.raises(IndexError):
        read_uint16(data, max(len(data) - 1, 0))
    with pytest.raises(IndexError):
        read_int32(data, max(len(data) - 3, 0))
