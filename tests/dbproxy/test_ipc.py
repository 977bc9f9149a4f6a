"""The language of the processes: every message travels unchanged, and whatever is not one closes the connection."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import struct
import typing
from collections.abc import Callable
from random import Random
from typing import Any

import orjson
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from dbproxy import ipc
from dbproxy.figures import Snapshot
from dbproxy.sessions_view import SessionInfo, SessionState, TransactionState

SNAPSHOT = Snapshot(
    {"rows": 5},
    {"sessions_open": 2},
    (("SELECT", "allow", 3),),
    {"success": 1},
    {},
    (1, 2),
    0.5,
    0.1,
    "ab",
    ("draining",),
)
SESSION = SessionInfo(
    id="s1", worker=1, person="alice", account="app", server_user="app", database="shop\udcff", target="shop",
    client="127.0.0.1:5", application='a"b\n', started_at_ns=1, last_active_at_ns=2, state=SessionState.RUNNING,
    transaction=TransactionState.FAILED, statements=3, refused=4, rows=5, received_bytes=6, sent_bytes=7,
)  # fmt: skip
_SAMPLES: dict[Any, Any] = {
    int: 7,
    str: "wört \u2028",
    float: 0.5,
    bool: True,
    bytes: b"\0\xff",
    ipc.Ask: ipc.Ask.PROVE,
    Snapshot: SNAPSHOT,
    tuple[SessionInfo, ...]: (dataclasses.replace(SESSION, database="shop"),),
    tuple[ipc.Member, ...]: (ipc.Member("worker", 1, 2, "ready", 3, 4),),
    tuple[ipc.Claim, ...]: (ipc.Claim(1, "10.0.0.1", "alice"), ipc.Claim(2, "::1", "")),
    tuple[str, ...]: ("a", "b"),
}
KINDS = typing.get_args(ipc.Message)


def sample(kind: type) -> Any:
    """A message of that kind with a value in each field."""
    hints = typing.get_type_hints(kind)
    return kind(**{each.name: _SAMPLES[hints[each.name]] for each in dataclasses.fields(kind)})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_message_arrives_as_it_was_sent(kind: type) -> None:
    message = sample(kind)
    frames = list(ipc.Frames().feed(ipc.encode(message)))
    assert [ipc.decode(body) for body in frames] == [message]


def test_every_message_has_a_direction() -> None:
    said = (*ipc.FROM_CHILD, *ipc.FROM_SUPERVISOR, *ipc.FROM_WORKER, *ipc.FROM_CONTROL)
    assert set(said) | {ipc.Member, ipc.Claim} >= set(KINDS)


def test_undecodable_text_does_not_break_a_message() -> None:
    body = next(ipc.Frames().feed(ipc.encode(ipc.Sessions(1, (SESSION,), True))))
    found = ipc.decode(body)
    assert isinstance(found, ipc.Sessions)
    assert found.sessions[0].database == "shop\\udcff"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_frames_may_come_in_pieces(size: int) -> None:
    messages = [sample(kind) for kind in KINDS]
    stream = b"".join(map(ipc.encode, messages))
    frames, found = ipc.Frames(), []
    for at in range(0, len(stream), size):
        found += [ipc.decode(body) for body in frames.feed(stream[at : at + size])]
    assert found == messages


def test_frame_that_is_announced_too_long_is_refused_before_it_comes() -> None:
    frames = ipc.Frames()
    with pytest.raises(ipc.BadFrameError):
        list(frames.feed(struct.pack("!I", ipc.MAX_FRAME_BYTES + 1)))


def test_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ipc.BadFrameError):
        ipc.encode(ipc.CannotStart("x" * (ipc.MAX_FRAME_BYTES + 1)))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"7", b"{}", b'{"is":1}', b'{"is":"Nothing"}', b'{"is":"Ready"', b'{"is":"Ready","x":1}', b'{"is":"Hello"}',
        b'{"is":"Hello","version":1,"slot":1,"pid":true}', b'{"is":"Hello","version":1,"slot":1,"pid":1.0}',
        b'{"is":"Hello","version":1,"slot":"1","pid":1}', b'{"is":"Hello","version":1,"slot":null,"pid":1}',
        b'{"is":"Left","claim":1,"claim2":2}', b'{"is":"Question","number":1,"ask":"else","claim":0,"address":"","person":""}',
        b'{"is":"FindKey","number":1,"address":"","process_id":1,"secret":"%%%"}', b'{"is":"Claims","claims":[{"number":1}]}',
        b'{"is":"Claims","claims":{}}', b'{"is":"Claims","claims":[1]}', b'{"is":"Ready"}\xff', b"[" * 5000,
    ],
)  # fmt: skip
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(ipc.BadFrameError):
        ipc.decode(body)


@given(st.binary(max_size=200))
def test_random_bytes_give_messages_or_are_refused(data: bytes) -> None:
    try:
        for body in ipc.Frames().feed(data):
            ipc.decode(body)
    except ipc.BadFrameError:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(KINDS), st.data())
def test_messages_with_a_changed_field_are_refused_or_well_typed(kind: type, data: st.DataObject) -> None:
    body = orjson.loads(ipc.encode(sample(kind))[4:])
    name = data.draw(st.sampled_from(sorted(body)))
    body[name] = data.draw(json_values)
    try:
        found = ipc.decode(orjson.dumps(body))
    except ipc.BadFrameError:
        return
    hints = typing.get_type_hints(type(found))
    for each in dataclasses.fields(found):
        if hints[each.name] in (int, str, float, bool, bytes):
            assert type(getattr(found, each.name)) is hints[each.name]


def test_mutated_frames_never_raise_anything_else() -> None:
    """20,000 frames with some bytes changed."""
    rng = Random(3)
    good = [ipc.encode(sample(kind)) for kind in KINDS]
    refused = 0
    for _ in range(20_000):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            for body in ipc.Frames().feed(bytes(data)):
                ipc.decode(body)
        except ipc.BadFrameError:
            refused += 1
    assert refused > 5000


# ---- a connection ---------------------------------------------------------------------------------------------------


class _Peer:
    """The other end: a plain socket."""

    def __init__(self, allowed: tuple[type, ...]) -> None:
        self.raw, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._theirs = theirs
        self.heard: list[ipc.Message] = []
        self.lost: list[str] = []
        self.channel = ipc.Channel(allowed, self.heard.append, self.lost.append)

    async def connect(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self.channel, sock=self._theirs)

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not is_so():
                await asyncio.sleep(0.001)


def _run(scenario: Callable[[_Peer], Any], allowed: tuple[type, ...] = ipc.FROM_WORKER) -> None:
    async def main() -> None:
        peer = _Peer(allowed)
        await peer.connect()
        with peer.raw:
            await scenario(peer)
        await peer.until(lambda: peer.lost)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_channel_hands_messages_on_and_tells_of_the_end() -> None:
    async def scenario(peer: _Peer) -> None:
        peer.raw.sendall(ipc.encode(ipc.Left(1)) + ipc.encode(ipc.Left(2)))
        await peer.until(lambda: len(peer.heard) == 2)
        assert peer.channel.send(ipc.Report(5))
        assert ipc.decode(peer.raw.recv(1000)[4:]) == ipc.Report(5)
        peer.raw.close()
        await peer.until(lambda: peer.lost)
        assert peer.lost == ["closed"]
        assert not peer.channel.send(ipc.Report(6))

    _run(scenario)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", 1 << 30),
        struct.pack("!I", 4) + b"null",
        ipc.encode(ipc.Kill(1, "s", "m")),  # only control may say that
    ],
    ids=["too long", "no message", "from the wrong side"],
)
def test_malformed_frame_closes_the_connection_and_nothing_after_it_is_heard(data: bytes) -> None:
    async def scenario(peer: _Peer) -> None:
        peer.raw.sendall(ipc.encode(ipc.Left(1)) + data + ipc.encode(ipc.Left(2)))
        await peer.until(lambda: peer.lost)
        assert peer.heard == [ipc.Left(1)]
        assert peer.lost != ["closed"]

    _run(scenario)


def test_peer_that_does_not_read_is_given_up() -> None:
    async def scenario(peer: _Peer) -> None:
        message = ipc.CannotStart("x" * (1 << 20))
        for _ in range(200):
            if not peer.channel.send(message):
                break
        else:
            raise AssertionError("200 MiB wait for a peer that does not read")
        await peer.until(lambda: peer.lost)
        assert peer.lost == ["the peer does not read"]

    _run(scenario)


def test_answers_find_their_questions() -> None:
    async def main() -> None:
        pending = ipc.Pending()
        first, first_answer = pending.open()
        second, second_answer = pending.open()
        third, third_answer = pending.open()
        pending.answer(second, "b")
        pending.answer(first, "a")
        pending.answer(99, "nobody asked")
        assert (await first_answer, await second_answer) == ("a", "b")
        pending.fail("gone")
        with pytest.raises(ConnectionResetError, match="gone"):
            await third_answer
        pending.answer(third, "too late")

    asyncio.run(main())
