"""Random and mutated bytes into the relay, both directions: it may end the session, it may never raise.

Seeds are fixed, so a run can be repeated; FUZZ_FRAMES sets how many mutated packets are tried (the nightly run uses a million).
An input that once went wrong is kept in the folder `found` and replayed first.
"""

import os
import struct
from pathlib import Path
from random import Random

import pytest
from support import my_bytes as my
from support.recorder import Recorder, refuse

from protocol.contract import FORWARD, Refusal, Side, Statement, Verdict, Why
from protocol.mysql.relay import MySQLRelay

FRAMES = int(os.environ.get("FUZZ_FRAMES", "4000"))
FOUND = Path(__file__).parent / "found"
CAPS = (
    0,
    my.DEPRECATE_EOF | my.SESSION_TRACK | my.OPTIONAL_METADATA | my.QUERY_ATTRIBUTES,
    my.BULK | my.CACHE_METADATA | my.PROGRESS | my.DEPRECATE_EOF,
    my.LOCAL_FILES,
)
INTERESTING = (
    b"\0",
    b"\xff",
    b"\xfe",
    b"\xfb",
    b"\xfc",
    b"\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\1\0\0\0",
    b"\x03",
    b"\x17",
    b"\xfa",
)
Turns = list[tuple[Side, bytes]]


def _answer(statement: Statement) -> Verdict | None:
    text = statement.text or b""
    if b"!" in text:
        return refuse()
    return None if b"?!" in text or b"hold" in text else FORWARD


def _conversation(rng: Random, caps: int) -> Turns:
    """Commands and answers as a real run has them, one after the other."""
    turns: Turns = []

    def say(frame: bytes, *payloads: bytes) -> None:
        turns.append((Side.CLIENT, frame))
        if payloads:
            turns.append((Side.SERVER, my.answer(*payloads)))

    attributes = bool(caps & my.QUERY_ATTRIBUTES)
    plain = bool(caps & (my.QUERY_ATTRIBUTES | my.OPTIONAL_METADATA))
    for _ in range(rng.randrange(3, 9)):
        kind = rng.randrange(9)
        if kind == 0:
            say(my.query("select 1", attributes=attributes), *my.result(my.row("1"), my.row(None), caps=caps))
        elif kind == 1:
            say(my.query("update !", attributes=attributes))
        elif kind == 2:
            say(my.query("hold", attributes=attributes), my.ok(2))
        elif kind == 3:
            say(my.query("bad", attributes=attributes), my.err())
        elif kind == 4 and not plain:
            definitions = [my.column("?"), *([] if caps & my.DEPRECATE_EOF else [my.eof()])]
            say(my.prepare("insert ?"), my.prepared(3, 0, 1), *definitions)
            say(my.long_data(3, 0, b"abc"))
            say(my.execute(3, [(253, my.string("v"))], skip=[0]), my.ok(1))
            say(my.execute(0xFFFFFFFF, [(3, b"\1\0\0\0")]), my.ok(1))
            if caps & my.BULK:
                bulk = struct.pack("<IHH", 3, 128, 3) + b"\0\1\0\0\0\1"
                say(my.command(0xFA, bulk), my.ok(2))
            say(my.by_id(0x1A, 3), my.ok())
            say(my.by_id(0x19, 3))
        elif kind == 5:
            say(my.command(0x0E), my.ok())
        elif kind == 6:
            say(my.command(rng.randrange(256), b"t\0"), my.ok())
        elif kind == 7 and caps & my.LOCAL_FILES:
            say(my.query("load data local infile 'f'"), b"\xfbf")
            turns.append((Side.CLIENT, my.frame(b"1,2\n", 2) + my.frame(b"", 3)))
            turns.append((Side.SERVER, my.answer(my.ok(1), sequence=4)))
        else:
            more = my.result(my.row("1"), caps=caps, status=my.MORE)
            say(my.query("a; b", attributes=attributes), *more, my.ok(5))
    return turns


def _mutated(rng: Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.choice(INTERESTING)
        elif kind == 2:
            del data[at : at + rng.choice((1, 2, 4, 9))]
        elif kind == 3:
            piece = rng.choice(INTERESTING)
            data[at : at + len(piece)] = piece
        elif kind == 4 and len(data) >= 4:
            data[0:3] = rng.choice((0, 1, 4, len(data), len(data) - 4, 1 << 16, my.BIG - 1, my.BIG)).to_bytes(
                3, "little"
            )
        else:
            data[at:at] = rng.randbytes(rng.randrange(8))
    return bytes(data)


def _run(turns: Turns, caps: int) -> Recorder:
    """Feed, answer what is held, ask, end; raise AssertionError for what no relay may do."""
    host = Recorder(_answer)
    relay = MySQLRelay(
        host, capabilities=caps, max_statement_bytes=1 << 16, max_message_bytes=1 << 17, held_max_bytes=1 << 16
    )
    for number, (side, data) in enumerate(turns):
        (relay.from_client if side is Side.CLIENT else relay.from_server)(data)
        if number % 3 == 0 and host.open:
            relay.resolve(max(host.open), FORWARD if number % 2 else refuse())
        if number % 7 == 6:
            relay.ask(b"select x")
    if len(turns) % 2:
        relay.end(Refusal(Why.SHUTDOWN, "over"))
    relay.closed(Side.CLIENT)
    assert not host.open, "judged statements without outcome"
    assert not host.faults, host.faults
    return host


def test_found_inputs_stay_fixed() -> None:
    for path in sorted(FOUND.glob("*.txt")):
        lines = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
        turns = [(Side("><".index(parts[0])), bytes.fromhex(parts[1] if len(parts) > 1 else "")) for parts in lines]
        for caps in CAPS:
            _run(turns, caps)


def _try(turns: Turns, caps: int, label: str, tmp_path: Path) -> Recorder:
    try:
        return _run(turns, caps)
    except Exception as fault:
        kept = tmp_path / f"{label}.txt"
        kept.write_text("".join(f"{'><'[side]} {data.hex()}\n" for side, data in turns))
        pytest.fail(f"{label}: {fault!r}; input kept in {kept}, move it to {FOUND}")


def test_conversations_without_mutation_go_through(tmp_path: Path) -> None:
    for seed in range(300):
        rng = Random(seed)
        turns = [turn for turn in _conversation(rng, 0) if b"t\0" not in turn[1] and b"hold" not in turn[1]]
        turns = [turn for turn in turns if turn[1] != my.answer(my.ok(2))]
        _try(turns, 0, f"plain-{seed}", tmp_path)


def test_mutated_conversations_end_in_order(tmp_path: Path) -> None:
    mutated = seed = 0
    while mutated < FRAMES:
        seed += 1
        rng = Random(seed)
        caps = CAPS[seed % len(CAPS)]
        turns = _conversation(rng, caps)
        for index in rng.sample(range(len(turns)), min(len(turns), rng.choice((1, 1, 2, 3)))):
            side, frame = turns[index]
            turns[index] = (side, _mutated(rng, frame))
            mutated += 1
        _try(turns, caps, f"mutated-{seed}", tmp_path)


def test_random_bytes_end_in_order(tmp_path: Path) -> None:
    for seed in range(FRAMES // 4):
        rng = Random(f"random-{seed}")
        turns: Turns = [(Side.CLIENT, my.query("select"))]
        for _ in range(rng.randrange(1, 5)):
            data = rng.randbytes(rng.randrange(1, 60))
            if rng.randrange(2):
                data = my.frame(data, rng.choice((0, 0, 1, 2)))
            turns.append((rng.choice((Side.CLIENT, Side.SERVER)), data))
        _try(turns, CAPS[seed % len(CAPS)], f"random-{seed}", tmp_path)


def test_nothing_unjudged_reaches_the_server(tmp_path: Path) -> None:
    """Whatever the client sends: texts in what the server got are texts that were judged and forwarded."""
    for seed in range(FRAMES // 4):
        rng = Random(f"judged-{seed}")
        turns = [turn for turn in _conversation(rng, 0) if turn[0] is Side.CLIENT]
        index = rng.randrange(len(turns))
        turns[index] = (Side.CLIENT, _mutated(rng, turns[index][1]))
        host = _try(turns, 0, f"judged-{seed}", tmp_path)
        judged = [each.text for each in host.judged()]
        try:
            sent = my.split(host.to_server)
        except ValueError:
            continue
        for _, payload in sent:
            if payload[:1] in (b"\x03", b"\x16"):
                assert payload[1:] in judged or payload[1:] == b"select x"  # the relay's own question
