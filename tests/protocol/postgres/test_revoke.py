"""Taking back what was judged and not sent: random pipelines in which the last bytes for the server are revoked now and then.

The relay must stay in step with the server, every statement must have one outcome, and what the server ran must be exactly what the outcomes say.
"""

from __future__ import annotations

from collections import Counter, deque
from random import Random

import pytest
from support import pg_bytes as pg
from support.pg_model import Backend
from support.pg_pipelines import WORDS, delays, random_pipeline, refuses
from support.recorder import Recorder, refuse
from support.relays import postgres_relay

from protocol.contract import FORWARD, Act, Refusal, Side, Statement, Verdict, Why
from protocol.postgres import pipeline as due
from protocol.postgres.revoke import revoke_messages

WITHOUT_COPY_IN = tuple(word for word in WORDS if word not in {"copyin", "copybad"})
"""Whether a COPY begins depends on what was taken back before it, and a client that sends its data all the same breaks the protocol."""
REFUSAL = Refusal(Why.AUDIT_DOWN, "dbproxy: the audit trail cannot be written", "", "Try again.")


class Play:
    """One pass, with all arrivals, late verdicts and revocations drawn from a seed."""

    def __init__(self, frames: list[bytes], seed: int) -> None:
        self.rng = Random(seed)
        self.held: list[tuple[int, Verdict]] = []
        self.revoked: set[int] = set()
        self.impossible = 0
        self.host = Recorder(self.answer)
        self.relay = postgres_relay(self.host)
        self.server = Backend()
        self.run(frames)

    def answer(self, statement: Statement) -> Verdict | None:
        how = statement.act.name
        text = statement.name if statement.act is Act.CALL else statement.text
        verdict = refuse() if refuses(how, text) else FORWARD
        if delays(how, text):
            self.held.append((statement.id, verdict))
            return None
        return verdict

    def run(self, frames: list[bytes]) -> None:
        rng = self.rng
        waiting = list(frames)
        sent = self.host.sent[Side.SERVER]
        passed = 0
        while True:
            choices = [
                name
                for name, possible in (
                    ("client", bool(waiting)),
                    ("arrive", len(sent) > passed),
                    ("server", self.server.has_output),
                    ("resolve", bool(self.held)),
                )
                if possible
            ]
            if not choices:
                return
            choice = rng.choice(choices)
            if choice == "client":
                count = rng.choice((1, 1, 2, 3, 8))
                self.relay.from_client(b"".join(waiting[:count]))
                del waiting[:count]
            elif choice == "resolve":
                self.relay.resolve(*self.held.pop(0))
            elif choice == "server":
                self.relay.from_server(self.server.take(rng.choice((None, None, 1, 50))))
            else:  # all that has not left leaves at once, or is taken back
                data = bytes(sent[passed:])
                passed = len(sent)
                if rng.random() < 0.3:
                    instead = self.relay.revoke(data, REFUSAL)
                    if instead is None:
                        self.impossible += 1
                    else:
                        self.revoked |= set(self.relay._replies.revoked)
                        data = instead
                self.server.receive(data)


def faults_of(play: Play) -> list[str]:
    host, server = play.host, play.server
    faults = list(host.faults)
    if host.closed:
        faults.append(f"session closed: {host.calls[-1]}")
    play.relay.closed(Side.CLIENT)  # a transaction may be open still, with portals in it
    if host.open:
        faults.append(f"no outcome for {sorted(host.open)}")
    outcomes = host.outcomes()
    for statement in host.judged():
        status = outcomes[statement.id].status if statement.id in outcomes else "none"
        if statement.id in play.revoked and status not in {"REFUSED", "SKIPPED"}:
            faults.append(f"revoked statement {statement.id} ended as {status}")
    ran = Counter(
        item.text
        for item in server.log
        if item.how in {"QUERY", "RUN", "RESUME", "CALL"} and item.result in {"ok", "suspended"}
    )
    told = Counter(
        (item.name if item.act == "CALL" else item.text)
        for item in host.judged()
        if item.act != "PREPARE" and item.id in outcomes and outcomes[item.id].status in {"OK", "SUSPENDED"}
    )
    if ran != told:
        faults.append(f"ran but not told {ran - told}, told but not run {told - ran}")
    return faults


@pytest.mark.parametrize("block", range(8))
def test_random_pipelines_stay_in_step_when_their_last_bytes_are_revoked(block: int) -> None:
    revoked = impossible = 0
    for seed in range(block * 100, (block + 1) * 100):
        rng = Random(seed)
        play = Play(random_pipeline(rng, rng.choice((5, 15, 60)), words=WITHOUT_COPY_IN), seed)
        faults = faults_of(play)
        assert not faults, f"seed {seed}: {faults}"
        revoked += len(play.revoked)
        impossible += play.impossible
    assert revoked > 100
    assert not impossible


def test_a_query_taken_back_is_answered_like_any_refusal() -> None:
    host = Recorder(lambda _: FORWARD)
    relay = postgres_relay(host)
    server = Backend()
    relay.from_client(pg.query("ok 1"))
    instead = relay.revoke(bytes(host.sent[Side.SERVER]), REFUSAL)
    assert instead is not None
    assert b"ok 1" not in instead
    server.receive(instead)
    relay.from_server(server.take())
    (error, ready) = pg.split(host.to_client)
    assert pg.fields_of(error[1])["C"] == "58030"
    assert "audit trail" in pg.fields_of(error[1])["M"]
    assert ready == ("Z", b"I")
    assert [outcome.status for outcome in host.outcomes().values()] == ["REFUSED"]
    relay.from_client(pg.query("ok 2"))
    server.receive(bytes(host.sent[Side.SERVER]).removeprefix(pg.query("ok 1")))
    relay.from_server(server.take())
    assert pg.kinds(host.to_client) == "EZCZ"


def test_a_transaction_whose_statement_is_taken_back_has_failed() -> None:
    host = Recorder(lambda _: FORWARD)
    relay = postgres_relay(host)
    server = Backend()
    relay.from_client(pg.query("begin 1"))
    server.receive(bytes(host.sent[Side.SERVER]))
    relay.from_server(server.take())
    mark = len(host.sent[Side.SERVER])
    relay.from_client(pg.parse("", "ok 2") + pg.bind() + pg.execute() + pg.sync())
    instead = relay.revoke(bytes(host.sent[Side.SERVER][mark:]), REFUSAL)
    assert instead is not None
    server.receive(instead)
    relay.from_server(server.take())
    assert pg.kinds(host.to_client) == "CZEZ"
    assert pg.split(host.to_client)[-1] == ("Z", b"E")


def test_a_copy_taken_back_drops_the_data_that_follows() -> None:
    host = Recorder(lambda _: FORWARD)
    relay = postgres_relay(host)
    server = Backend()
    relay.from_client(pg.query("copyin 1"))
    instead = relay.revoke(bytes(host.sent[Side.SERVER]), REFUSAL)
    assert instead is not None
    mark = len(host.sent[Side.SERVER])
    relay.from_client(pg.copy_data("1") + pg.copy_done())
    server.receive(instead)
    relay.from_server(server.take())
    relay.from_client(pg.query("ok 2"))
    server.receive(bytes(host.sent[Side.SERVER][mark:]))
    relay.from_server(server.take())
    assert pg.kinds(host.to_client) == "EZCZ"


def test_data_of_a_copy_under_way_is_not_taken_back() -> None:
    host = Recorder(lambda _: FORWARD)
    relay = postgres_relay(host)
    server = Backend()
    relay.from_client(pg.query("copyin 1"))
    server.receive(bytes(host.sent[Side.SERVER]))
    relay.from_server(server.take())
    mark = len(host.sent[Side.SERVER])
    relay.from_client(pg.copy_data("1") + pg.copy_done() + pg.query("ok 2"))
    assert relay.revoke(bytes(host.sent[Side.SERVER][mark:]), REFUSAL) is None


@pytest.mark.parametrize(
    ("data", "queue"),
    [
        (pg.sync() + pg.query("ok 1"), [(due.QUERY, 1, None)]),
        (b"Q\0\0\0\x09ok 1\0", [(due.SYNC, 0, None)]),
        (b"Q\0\0\0\x09ok 1", [(due.QUERY, 1, None)]),
        (b"d\0\0\0\x04Q\0\0\0\x09ok 1\0", [(due.QUERY, 1, None)]),
        (b"S\0\0\0\x0eQ\0\0\0\x09ok 1\0", [(due.SYNC, 0, None)]),
        (b"C\0\0\0\x0fSQ\0\0\0\x09ok 1\0", [(due.CLOSE, 0, None)]),
        (b"H\0\0\0\x05x", []),
        (b"X\0\0\0\x04", []),
        (b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04", [(due.WHOLE, 1, None)]),
        (pg.parse("", "ok 1"), [(due.REFUSED_STEP, 1, None)]),
        (pg.query('SELECT "dbproxy refused 1"'), [(due.QUERY, 1, None)]),
    ],
)
def test_what_does_not_match_in_every_detail_is_not_taken_back(data: bytes, queue: list[due.Entry]) -> None:
    assert revoke_messages(data, deque(queue)) is None
