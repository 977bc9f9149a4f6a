"""Random pipelines through a relay to the model backend, checked against the same pipeline without the relay.

Text carries its own verdict: after the model's word come marks such as `!execute` (the judge refuses this act), `?query`
(the judge answers later). A scenario is a list of client messages; it is played with chunks, delays and late verdicts
drawn from a seed, and `check` compares what the client saw, what the server ran and what the judge was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from support import pg_bytes as pg
from support.pg_model import Backend, Ran
from support.recorder import Finished, Judged, Recorder, refuse

from protocol.contract import FORWARD, Act, Relay, Side, Statement, Verdict

WORDS = (
    "ok",
    "ok",
    "ok",
    "rows3",
    "rows1",
    "fail",
    "badparse",
    "badbind",
    "copyin",
    "copyout",
    "copybad",
    "begin",
    "begin",
)
ENDS = ("commit", "rollback")
NAMES = (b"", b"", b"a", b"b")
PORTALS = (b"", b"", b"p")
REFUSED_OIDS = range(7000, 8000)
OTHER_CODES = {("42501", "34000"), ("42501", "26000"), ("25P02", "42501"), ("25P02", "34000"), ("25P02", "26000")}
NO_PORTAL = "34000"
MakeRelay = Callable[[Recorder], Relay]


def refuses(how: str, text: bytes | None) -> bool:
    """The policy of these scenarios."""
    if text is None:
        return False
    if how == "CALL":
        return int(text) in REFUSED_OIDS
    return b"!" + how.lower().encode() in text


def delays(how: str, text: bytes | None) -> bool:
    return text is not None and b"?" + how.lower().encode() in text


def frames_seen(data: bytes) -> list[tuple[str, bytes | str]]:
    """What the client saw; errors by their code alone."""
    return [(kind, pg.fields_of(body)["C"] if kind == "E" else body) for kind, body in pg.split(data)]


# --------------------------------------------------------------------------------------------------------- scenarios


def random_pipeline(rng: Random, length: int, *, words: tuple[str, ...] = WORDS, marks: float = 1.0) -> list[bytes]:
    """Client messages, guided by a direct reference run so that COPY data comes where a client would send it.

    words: the model's words to draw from; marks: how often text asks to be refused or held, as a share of the usual.
    """
    reference = Backend(decide=refuses)
    frames: list[bytes] = []
    serial = 0

    def text() -> bytes:
        nonlocal serial
        serial += 1
        word = rng.choice(ENDS if reference.transaction != "I" and rng.random() < 0.3 else words)
        wishes = ""
        for act in ("prepare", "execute", "resume", "query"):
            chance = rng.random() / marks if marks else 1.0
            wishes += f" !{act}" if chance < 0.06 else ""
            wishes += f" ?{act}" if 0.05 < chance < 0.15 else ""
        return f"{word} {serial}{wishes}".encode()

    def add(*messages: bytes) -> None:
        for message in messages:
            frames.append(message)
            reference.receive(message)

    while len(frames) < length and not reference.is_dead:
        if reference.copy:
            for _ in range(rng.randrange(3)):
                add(pg.copy_data(rng.randbytes(rng.randrange(30))))
            if rng.random() < 0.3:
                add(rng.choice((pg.sync(), pg.flush())))
            add(pg.copy_fail("no") if rng.random() < 0.2 else pg.copy_done())
            continue
        _add_one(rng, add, text)
    while reference.copy:
        add(pg.copy_done())
    add(pg.sync())
    if reference.transaction != "I":
        add(pg.query("rollback 0"), pg.sync())
    return frames


def _add_one(rng: Random, add: Callable[..., None], text: Callable[[], bytes]) -> None:
    chance = rng.random()
    name, portal = rng.choice(NAMES), rng.choice(PORTALS)
    if chance < 0.25:
        add(pg.parse(name, text()), pg.bind(portal, name), pg.execute(portal, rng.choice((0, 0, 1, 2))))
    elif chance < 0.35:
        add(pg.bind(portal, name), pg.execute(portal, rng.choice((0, 1))))
    elif chance < 0.42:
        add(pg.parse(name, text()))
    elif chance < 0.47:
        add(pg.bind(portal, name))
    elif chance < 0.53:
        add(pg.execute(portal, rng.choice((0, 1, 2))))
    elif chance < 0.60:
        add(pg.close(rng.choice("SSP"), rng.choice((name, portal))))
    elif chance < 0.65:
        add(pg.describe(rng.choice("SP"), rng.choice((name, portal))))
    elif chance < 0.67:
        add(pg.flush())
    elif chance < 0.69:
        add(pg.function_call(rng.choice((5000, 7000, 9000)), [b"x", None]))
    elif chance < 0.70:
        add(rng.choice((pg.copy_data("stray"), pg.copy_done(), pg.copy_fail("stray"))))
    elif chance < 0.80:
        statements = [text() for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
        add(pg.query(b"; ".join(statements)))
    else:
        add(pg.sync())


# --------------------------------------------------------------------------------------------------------------- play


@dataclass
class Run:
    host: Recorder
    server: Backend
    seen: bytes
    held: list[Judged] = field(default_factory=list)


def play(make_relay: MakeRelay, frames: list[bytes], seed: int) -> Run:
    """One pass through the relay with arrival of everything drawn from the seed."""
    rng = Random(seed)
    held: list[int] = []
    refused_held: dict[int, Verdict] = {}

    def answer(statement: Statement) -> Verdict | None:
        how = statement.act.name
        text = statement.name if statement.act is Act.CALL else statement.text
        verdict = refuse() if refuses(how, text) else FORWARD
        if delays(how, text):
            held.append(statement.id)
            refused_held[statement.id] = verdict
            return None
        return verdict

    host = Recorder(answer)
    relay = make_relay(host)
    server = Backend()
    style = rng.choice(("whole", "bytes", "frames", "random"))
    client_bytes = b"".join(frames)
    ends = [sum(map(len, frames[: index + 1])) for index in range(len(frames))]
    at = passed = 0
    while True:
        waiting = len(host.sent[Side.SERVER]) - passed
        choices = [
            name
            for name, possible in (
                ("client", at < len(client_bytes)),
                ("arrive", waiting > 0),
                ("server", server.has_output),
                ("resolve", bool(held)),
            )
            if possible
        ]
        if not choices:
            break
        choice = rng.choice(choices)
        if choice == "client":
            until = _next(rng, style, at, ends)
            relay.from_client(client_bytes[at:until])
            at = until
        elif choice == "arrive":
            size = waiting if style in {"whole", "frames"} else rng.randint(1, waiting)
            server.receive(bytes(host.sent[Side.SERVER][passed : passed + size]))
            passed += size
        elif choice == "server":
            relay.from_server(server.take(None if style in {"whole", "frames"} else rng.choice((1, 3, 50, None))))
        else:
            statement_id = held.pop(0)
            relay.resolve(statement_id, refused_held[statement_id])
    return Run(host, server, host.to_client)


def _next(rng: Random, style: str, at: int, ends: list[int]) -> int:
    if style == "whole":
        return ends[-1]
    if style == "bytes":
        return at + 1
    if style == "frames":
        return next(end for end in ends if end > at)
    return min(ends[-1], at + rng.choice((1, 4, 9, 30, 200)))


# -------------------------------------------------------------------------------------------------------------- check


def faults_of(make_relay: MakeRelay, frames: list[bytes], seed: int) -> list[str]:
    """Everything that went differently than it may; empty if all is well."""
    reference = Backend(decide=refuses)
    for frame in frames:
        reference.receive(frame)
    run = play(make_relay, frames, seed)
    faults = list(run.host.faults)
    seen, wanted = frames_seen(run.seen), frames_seen(reference.take())
    seen = [_as_directly(got, want) for got, want in zip(seen, wanted, strict=False)] + seen[len(wanted) :]
    if seen != wanted:
        at = next(
            (i for i, (a, b) in enumerate(zip(seen, wanted, strict=False)) if a != b), min(len(seen), len(wanted))
        )
        faults.append(f"reply {at}: client saw {seen[at : at + 3]}, directly {wanted[at : at + 3]}")
    if run.host.closed and not reference.is_dead:
        faults.append(f"session closed: {run.host.calls[-1]} {getattr(run.host.calls[-1], 'detail', '')}")
    if run.host.open:
        faults.append(f"no outcome for {sorted(run.host.open)}")
    faults += _leaks(run.server)
    faults += _judgements(run)
    return faults


def _as_directly(got: tuple[str, bytes | str], want: tuple[str, bytes | str]) -> tuple[str, bytes | str]:
    """The places where a refusal's code may differ from that of a server that refuses by itself.

    A name may be refused before the server has said that it died (with its transaction, or with a failed Parse); in a
    failed transaction the server's own 25P02 is passed on, also where the refused text would have ended it.
    """
    codes = (got[1], want[1]) if got[0] == want[0] == "E" else ("", "")
    return want if codes in OTHER_CODES else got


def _leaks(server: Backend) -> list[str]:
    """Refused text or calls that reached the server."""
    faults = []
    for kind, body in server.received:
        if (
            (kind == "Q" and b"!query" in body)
            or (kind == "P" and b"!prepare" in body)
            or (kind == "F" and int.from_bytes(body[:4], "big") in REFUSED_OIDS)
        ):
            faults.append(f"refused bytes at the server: {kind} {body!r}")
    for ran in server.log:
        if ran.how in {"EXECUTE", "RESUME"} and refuses(ran.how, ran.text):
            faults.append(f"refused execution at the server: {ran}")
    return faults


def _judgements(run: Run) -> list[str]:
    """Compare what the server did with what was judged, act by act, in order."""
    faults = []
    outcomes = run.host.outcomes()
    skipped: list[Ran] = []  # Binds of which the relay has said that their Execute was skipped: a later one is a RESUME
    for how in ("QUERY", "PREPARE", "EXECUTE", "RESUME", "CALL"):
        ran = [
            item
            for item in run.server.log
            if (
                item.how == how
                or (how == "RESUME" and item.how == "RUN" and any(item.bound is each for each in skipped))
            )
            and not _is_substitute(item)
            and item.result != NO_PORTAL
        ]
        asked = [
            (item, outcomes[item.id])
            for item in run.host.judged()
            if item.act == how and item.id in outcomes and outcomes[item.id].status != "REFUSED"
        ]
        if how == "RESUME":
            asked = [each for each in asked if each[1].code != NO_PORTAL]
        pairs = _pair(ran, asked)
        if pairs is None:
            faults.append(f"{how}: server ran {len(ran)}: {ran}, judged {len(asked)}: {asked}")
            continue
        if how == "EXECUTE":
            skipped = [did for did, _, outcome in pairs if outcome.status == "SKIPPED"]
        for did, item, outcome in pairs:
            faults += _difference(did, item, outcome)
    return faults


Pairs = list[tuple[Ran, Judged, Finished]]


def _pair(ran: list[Ran], asked: list[tuple[Judged, Finished]]) -> Pairs | None:
    """Pairs in order. A skipped statement has no counterpart, unless it is a Bind whose Execute was skipped.

    None if there is no way to pair them in which every text is the same (or unknown to the server).
    """
    if not asked:
        return None if ran else []
    (item, outcome), did = asked[0], ran[0] if ran else None
    is_same = did is not None and did.text in {None, item.name if item.act == "CALL" else item.text}
    if outcome.status == "SKIPPED":
        unseen = _pair(ran, asked[1:])
        if unseen is not None or not (is_same and did is not None and did.is_bound):
            return unseen
    if did is None or not is_same:
        return None
    rest = _pair(ran[1:], asked[1:])
    return None if rest is None else [(did, item, outcome), *rest]


def _difference(did: Ran, item: Judged, outcome: Finished) -> list[str]:
    text = item.name if item.act == "CALL" else item.text
    faults: list[str] = []
    if outcome.status == "SKIPPED" and did.is_bound:
        return faults  # its portal may run later: that is a RESUME of its own
    allowed = {
        "ok": {("OK", "")},
        "suspended": {("SUSPENDED", "")},
        "bound": {("BOUND_ONLY", ""), ("SKIPPED", ""), ("ERROR", NO_PORTAL)},
    }.get(did.result, {("ERROR", did.result)})
    if (outcome.status, outcome.code) not in allowed:
        faults.append(f"{item.act} {item.id} {text!r}: outcome {outcome.status} {outcome.code}, server: {did.result}")
    elif did.rows and outcome.rows != did.rows:
        faults.append(f"{item.act} {item.id} {text!r}: {outcome.rows} rows, server: {did.rows}")
    return faults


def _is_substitute(ran: Ran) -> bool:
    return ran.text is not None and ran.text.startswith(b'SELECT "dbproxy refused ')


def shrunk(make_relay: MakeRelay, frames: list[bytes], seed: int) -> tuple[list[bytes], int]:
    """A smaller pipeline that still goes wrong, by leaving messages out; and a seed with which it does."""

    def fails(candidate: list[bytes]) -> int | None:
        seeds: tuple[int, ...] = (seed, *range(12))
        for each in seeds:
            if _faults_or_none(make_relay, candidate, each):
                return each
        return None

    best, best_seed = frames, seed
    size = max(1, len(best) // 2)
    while size:
        at = 0
        while at < len(best):
            candidate = best[:at] + best[at + size :]
            found = fails(candidate) if candidate and candidate[-1] == pg.sync() else None
            if found is not None:
                best, best_seed = candidate, found
            else:
                at += size
        size //= 2
    return best, best_seed


def _faults_or_none(make_relay: MakeRelay, frames: list[bytes], seed: int) -> list[str]:
    reference = Backend(decide=refuses)
    for frame in frames:
        reference.receive(frame)
    if reference.is_dead or reference.copy or reference.transaction != "I":
        return []
    return faults_of(make_relay, frames, seed)
