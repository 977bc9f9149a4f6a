"""SECURITY_BAR A6: counts and lengths that lie, both directions. Whole or refused; nothing is passed on of a broken one.

Every count there is, without its data; generated bodies against the obvious decoder of support.lying_counts. Seeds are the
loop numbers; FUZZ_FRAMES sets how many bodies are tried.
"""

import os
from collections.abc import Callable
from random import Random

import pytest
from support import pg_bytes as pg
from support.figures import record
from support.lying_counts import is_whole, lying_body
from support.relays import Pair

from protocol.errors import MalformedMessage
from protocol.postgres.messages import (
    check_row,
    parse_bind,
    parse_function_call,
    parse_parameter_description,
    parse_parse,
)

BODIES = int(os.environ.get("FUZZ_FRAMES", "8000"))
RELAYED = 16  # one body in so many goes through a whole relay too


def decode_row(body: bytes) -> None:
    check_row(body, 0, len(body))


DECODERS: dict[str, Callable[[bytes], object]] = {
    "B": parse_bind,
    "F": parse_function_call,
    "P": parse_parse,
    "D": decode_row,
}
WITHOUT_DATA: dict[str, tuple[Callable[[bytes], object], bytes, bytes]] = {
    "Bind formats": (parse_bind, b"\0\0", b""),
    "Bind parameters": (parse_bind, b"\0\0\0\0", b""),
    "Bind result formats": (parse_bind, b"\0\0\0\0\0\0", b""),
    "FunctionCall formats": (parse_function_call, pg.int32(1), b""),
    "FunctionCall arguments": (parse_function_call, pg.int32(1) + b"\0\0", b""),
    "Parse types": (parse_parse, b"\0select 1\0", b""),
    "ParameterDescription": (parse_parameter_description, b"", b""),
    "DataRow": (decode_row, b"", b""),
    "Bind parameters, one NULL of them": (parse_bind, b"\0\0\0\0", pg.int32(-1)),
    "DataRow, one NULL of them": (decode_row, b"", pg.int32(-1)),
}


def is_accepted(decode: Callable[[bytes], object], body: bytes) -> bool:
    """Anything raised but MalformedMessage fails the test."""
    try:
        decode(body)
    except MalformedMessage:
        return False
    return True


@pytest.mark.parametrize("place", WITHOUT_DATA)
def test_no_count_is_believed_without_its_data(place: str) -> None:
    decode, before, after = WITHOUT_DATA[place]
    first = 2 if after else 1
    accepted = [
        count for count in range(first, 1 << 16) if is_accepted(decode, before + count.to_bytes(2, "big") + after)
    ]
    record(
        f"A6.{place.replace(', ', '_').replace(' ', '_').lower()}",
        "counts believed without their data",
        count=(1 << 16) - first,
        failures=len(accepted),
        which=accepted[:5],
    )


@pytest.mark.parametrize("count", [1, 2, 255, 256, 32_767, 32_768, 65_534, 65_535])
def test_one_value_missing_or_too_many_is_refused_at_every_size(count: int) -> None:
    for values in (pg.int32(-1), pg.int32(0), pg.int32(1) + b"x"):
        number = count.to_bytes(2, "big")
        for given, is_right in ((count - 1, False), (count, True), (count + 1, False)):
            assert is_accepted(decode_row, number + values * given) is is_right
            assert is_accepted(parse_bind, b"\0\0\0\0" + number + values * given + b"\0\0") is is_right
            assert (
                is_accepted(parse_function_call, pg.int32(1) + b"\0\0" + number + values * given + b"\0\0") is is_right
            )


@pytest.mark.parametrize("count", [1, 2, 255, 65_535])
def test_length_that_leads_back_is_refused_though_all_else_would_fit(count: int) -> None:
    """A decoder that only adds lengths up would read the length word again, or the second half of it, as what follows."""
    number = count.to_bytes(2, "big")
    again = pg.int32(-4) + bytes(2 + 2 * 0xFFFF - 4)
    assert not is_accepted(parse_bind, b"\0\0\0\0" + number + again)
    assert not is_accepted(parse_function_call, pg.int32(1) + b"\0\0" + pg.int16(1) + pg.int32(-2))
    assert not is_accepted(parse_function_call, pg.int32(1) + b"\0\0" + number + pg.int32(-4)[:2])
    assert not is_accepted(decode_row, number + pg.int32(-4))


@pytest.mark.parametrize("kind", DECODERS)
def test_generated_body_is_decoded_whole_or_refused(kind: str) -> None:
    decode = DECODERS[kind]
    different: list[tuple[int, bytes]] = []
    passed: list[tuple[int, bytes]] = []
    broken = 0
    for seed in range(BODIES):
        body = lying_body(Random(seed), kind)
        is_right = is_whole(kind, body)
        broken += not is_right
        if is_accepted(decode, body) is not is_right:
            different.append((seed, body))
        if not is_right and seed % RELAYED == 0 and _is_passed_on(kind, body):
            passed.append((seed, body))
    assert BODIES / 4 < broken < BODIES
    record(
        f"A6.generated.{kind}",
        "bodies decoded otherwise than the obvious decoder does, or passed on though broken",
        count=BODIES,
        failures=len(different) + len(passed),
        broken=broken,
        first=[repr(each) for each in (different + passed)[:3]],
    )


def _is_passed_on(kind: str, body: bytes) -> bool:
    """Whether a relay lets any of it, or anything behind it, through, or does not end the session."""
    if kind == "D":
        pair = Pair().client(pg.query("select 1")).server(pg.row_description())
        pair.to_client()
        pair.server(pg.frame("D", body), pg.command_complete("SELECT 1"), pg.ready())
        kinds = [each for each, _ in pg.split(pair.to_client())]
        return not pair.host.closed or kinds != ["E"]
    pair = Pair().client(pg.frame(kind, body), pg.query("next"))
    return not pair.host.closed or pair.to_server() != b"" or bool(pair.host.judged())
