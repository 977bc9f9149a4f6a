"""Random pipelines through the relay, checked against a model of the server: see support/pg_pipelines.py.

Each scenario holds the relay to four things: refused bytes never reach the server; the client sees the replies it would
see from a server that refuses by itself; each judged statement has one outcome and it is the server's; what the server
ran is what was judged.
"""

from random import Random

import pytest
from support import pg_bytes as pg
from support.pg_model import Backend
from support.pg_pipelines import faults_of, play, random_pipeline, shrunk
from support.relays import postgres_relay
from support.transcripts import show

from protocol.contract import Side

SCENARIOS = 100


@pytest.mark.parametrize("block", range(8))
def test_random_pipelines_end_as_if_the_server_itself_had_refused(block: int) -> None:
    for seed in range(block * SCENARIOS, (block + 1) * SCENARIOS):
        rng = Random(seed)
        frames = random_pipeline(rng, rng.choice((5, 15, 60)))
        if faults_of(postgres_relay, frames, seed):
            smaller, found = shrunk(postgres_relay, frames, seed)
            faults = "\n".join(faults_of(postgres_relay, smaller, found))
            pytest.fail(f"seed {seed}, arrival {found}: {show(b''.join(smaller))}\n{faults}")


def test_forwarded_bytes_are_the_clients_own_but_for_flushes() -> None:
    """Where nothing is refused, the server gets the client's stream; only a Flush may be added, and stray COPY dropped."""
    checked = 0
    for seed in range(600):
        frames = random_pipeline(Random(seed), 8, words=("ok", "rows3", "copyin", "copyout"), marks=0)
        run = play(postgres_relay, frames, seed)
        if "E" in pg.kinds(run.seen) or any(frame[:1] in b"dcfH" for frame in frames):
            continue  # a failed group is dropped by the relay too, where it knows already
        checked += 1
        assert run.host.sent[Side.SERVER].replace(pg.flush(), b"") == b"".join(frames)
    assert checked > 50


def test_model_knows_what_real_servers_do() -> None:
    """A sample of what was seen on PostgreSQL 15 and 18, so that the model itself cannot drift."""

    def replies(*frames: bytes) -> str:
        server = Backend()
        server.receive(b"".join(frames))
        return pg.kinds(server.take())

    p, b, e, s = pg.parse, pg.bind, pg.execute, pg.sync()
    assert replies(p("", "ok 1"), b(), e(), p("", "no such word"), s) == "12CEZ"
    assert replies(p("", "ok 1"), s, pg.query("ok 2"), b(), e(), s) == "1ZCZEZ"
    assert replies(p("", "ok 1"), s, p("", "badparse 2"), s, b(), s) == "1ZEZEZ"
    assert replies(p("n", "ok 1"), s, p("n", "ok 2"), s, b("", "n"), e(), s) == "1ZEZ2CZ"
    assert (
        replies(p("n", "ok 1"), s, pg.close("S", "n"), p("y", "badparse 2"), p("n", "ok 3"), s, b("", "n"), s)
        == "1Z3EZEZ"
    )
    assert replies(p("", "copyin 1"), b(), e(), s, pg.copy_data("x"), pg.copy_done(), s) == "12GCZ"
    assert replies(p("", "fail 1"), b(), e(), pg.query("ok 2"), s) == "12EZ"
    assert replies(p("", "ok 1"), b(), e(), pg.query("ok 2"), s) == "12CCZZ"
    assert replies(pg.query("copyin 1; copyin 2"), pg.copy_done(), pg.copy_done()) == "GCGCZ"
    assert replies(p("", "rows3 1"), b("p"), e("p", 2), s, e("p", 2), s) == "12DDsZEZ"
    assert replies(p("", "ok 1"), b("p"), b("p"), s) == "12EZ"
    assert replies(pg.query("begin 1"), pg.query("fail 2"), pg.query("ok 3"), pg.query("rollback 4")) == "CZEZEZCZ"
