"""Random and mutated bytes into the relay, both directions: it may end the session, it may never raise.

Seeds are fixed, so a run can be repeated; FUZZ_FRAMES sets how many mutated frames are tried (the nightly run uses a
million). An input that once went wrong is kept in the folder `found` and replayed first.
"""

import os
from pathlib import Path
from random import Random

import pytest
from support import pg_bytes as pg
from support.pg_model import Backend
from support.pg_pipelines import play, random_pipeline, refuses
from support.recorder import refuse
from support.relays import Pair, postgres_relay

from protocol.contract import FORWARD, Side, Statement, Verdict

FRAMES = int(os.environ.get("FUZZ_FRAMES", "8000"))
FOUND = Path(__file__).parent / "found"
INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\4",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"Q",
    b"S",
    b"P",
    b"Z",
    b"E",
    b"d",
)


def _answer(statement: Statement) -> Verdict | None:
    text = statement.text or b""
    if b"!" in text:
        return refuse()
    return None if b"?" in text else FORWARD


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
        elif kind == 4 and len(data) >= 5:
            data[1:5] = rng.choice(
                (0, 3, 4, 5, len(data), len(data) + 1, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)
            ).to_bytes(4, "big")
        else:
            data[at:at] = rng.randbytes(rng.randrange(8))
    return bytes(data)


def _conversation(seed: int) -> list[tuple[Side, bytes]]:
    """Frames of both sides in the order in which a real run had them."""
    frames = random_pipeline(Random(seed), 12)
    server = Backend(decide=refuses)
    turns: list[tuple[Side, bytes]] = []
    for frame in frames:
        turns.append((Side.CLIENT, frame))
        server.receive(frame)
        turns += [(Side.SERVER, pg.frame(kind, body)) for kind, body in pg.split(server.take())]
    return turns


def _run(turns: list[tuple[Side, bytes]]) -> Pair:
    """Feed, answer what is held, end; raise AssertionError for what no relay may do."""
    pair = Pair(_answer, max_statement_bytes=1 << 16, max_message_bytes=1 << 17, held_max_bytes=1 << 16)
    for number, (side, data) in enumerate(turns):
        (pair.relay.from_client if side is Side.CLIENT else pair.relay.from_server)(data)
        if number % 3 == 0 and pair.host.open:
            pair.relay.resolve(max(pair.host.open), FORWARD if number % 2 else refuse())
    pair.relay.closed(Side.CLIENT)
    assert not pair.host.open, "judged statements without outcome"
    assert not pair.host.faults, pair.host.faults
    return pair


def _encode(turns: list[tuple[Side, bytes]]) -> str:
    return "".join(f"{'><'[side]} {data.hex()}\n" for side, data in turns)


def _decode(source: str) -> list[tuple[Side, bytes]]:
    lines = [line.split() for line in source.splitlines() if line and not line.startswith("#")]
    return [(Side("><".index(parts[0])), bytes.fromhex(parts[1] if len(parts) > 1 else "")) for parts in lines]


@pytest.mark.parametrize("path", sorted(FOUND.glob("*.txt")), ids=lambda path: path.stem)
def test_found_inputs_stay_fixed(path: Path) -> None:
    _run(_decode(path.read_text()))


def _try(turns: list[tuple[Side, bytes]], label: str, tmp_path: Path) -> None:
    try:
        _run(turns)
    except Exception as fault:
        kept = tmp_path / f"{label}.txt"
        kept.write_text(_encode(turns))
        pytest.fail(f"{label}: {fault!r}; input kept in {kept}, move it to {FOUND}")


def test_mutated_conversations_end_in_order(tmp_path: Path) -> None:
    mutated = seed = 0
    while mutated < FRAMES:
        seed += 1
        rng = Random(seed)
        turns = _conversation(seed)
        for at in rng.sample(range(len(turns)), min(len(turns), rng.choice((1, 2, 4)))):
            side, frame = turns[at]
            turns[at] = (side if rng.random() < 0.9 else Side(1 - side), _mutated(rng, frame))
            mutated += 1
        _try(turns, f"mutated-{seed}", tmp_path)
    print(f"{mutated} mutated frames in {seed} conversations")


def test_random_bytes_end_in_order(tmp_path: Path) -> None:
    for seed in range(FRAMES // 10):
        rng = Random(seed)
        turns = [(Side(rng.randrange(2)), rng.randbytes(rng.randrange(40))) for _ in range(4)]
        _try(turns, f"random-{seed}", tmp_path)


def test_shuffled_real_frames_end_in_order(tmp_path: Path) -> None:
    """Well-formed messages in an order that no peer would send."""
    for seed in range(FRAMES // 40):
        turns = _conversation(seed)
        Random(seed).shuffle(turns)
        _try(turns, f"shuffled-{seed}", tmp_path)


def test_no_refused_byte_passes_in_mutated_pipelines() -> None:
    """Client frames are mutated, the server is the model: what it was sent in full was judged and not refused."""
    for seed in range(FRAMES // 40):
        rng = Random(seed)
        frames = random_pipeline(rng, 12)
        at = rng.randrange(len(frames))
        frames[at] = _mutated(rng, frames[at]) or b"S"
        run = play(postgres_relay, frames, seed)
        judged = {(each.act, each.text) for each in run.host.judged()}
        for kind, body in run.server.received:
            text = {"Q": body[:-1], "P": body.split(b"\0")[1] if body.count(b"\0") > 1 else b""}.get(kind)
            if text is None or text.startswith(b'SELECT "dbproxy refused '):
                continue
            act = "QUERY" if kind == "Q" else "PREPARE"
            assert (act, text) in judged, f"seed {seed}: unjudged {act} {text!r} at the server"
            assert not refuses(act, text), f"seed {seed}: refused {act} {text!r} at the server"
