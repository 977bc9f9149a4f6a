"""scan_rows against an obvious twin."""

from random import Random

from hypothesis import example, given
from hypothesis import strategies as st
from support import my_bytes as my

from protocol.mysql.scan import scan_rows


def slow_scan(data: bytes, position: int, end: int, sequence: int) -> tuple[int, int]:
    count = 0
    while True:
        header = data[position : min(position + 4, end)]
        if len(header) < 4:
            return position, count
        size = header[0] | header[1] << 8 | header[2] << 16
        body = data[position + 4 : min(position + 4 + size, end)]
        is_whole = len(body) == size
        if not is_whole or size in (0, my.BIG) or header[3] != sequence % 256 or body[0] in (0xFE, 0xFF):
            return position, count
        position += 4 + size
        sequence += 1
        count += 1


PAYLOADS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"\xfe\0\0\2\0", b"\xff", b"\xfe" * 20, b"\0", b"\xfb", b"\x05hello"]),
)


@given(st.lists(PAYLOADS, max_size=12), st.integers(0, 255), st.integers(0, 40), st.integers(0, 12), st.booleans())
@example([b"\1a"] * 300, 250, 0, 0, False)
def test_scan_agrees_with_its_slow_twin(payloads: list[bytes], sequence: int, cut: int, odd: int, breaks: bool) -> None:
    numbers = [sequence + index + (breaks and index == odd) for index in range(len(payloads))]
    data = b"".join(my.frame(payload, number & 255) for payload, number in zip(payloads, numbers, strict=True))
    end = max(len(data) - cut, 0)
    assert scan_rows(data, 0, end, sequence) == slow_scan(data, 0, end, sequence)


def test_scan_of_random_bytes_agrees() -> None:
    rng = Random(5)
    for _ in range(3000):
        data = bytes(rng.choice((0, 0, 1, 2, 3, 254, 255, rng.randrange(256))) for _ in range(rng.randrange(40)))
        position = rng.randrange(len(data) + 1)
        sequence = rng.choice((0, 1, 2, 255))
        assert scan_rows(data, position, len(data), sequence) == slow_scan(data, position, len(data), sequence)


def test_ten_thousand_rows_are_passed_in_one_go() -> None:
    data = b"".join(my.frame(my.row(str(number)), number & 255) for number in range(10_000))
    assert scan_rows(data, 0, len(data), 0) == (len(data), 10_000)
