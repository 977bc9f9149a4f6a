"""Each kind of anchor keeps a checkpoint so that it can be read back; failures are told and end by themselves."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import stamina

from dbproxy.audit.anchor import AnchorFailed, FileAnchor, HttpAnchor, SyslogAnchor, format_syslog
from dbproxy.audit.anchor_lines import find_newest_anchored, parse_anchored, read_anchored, short_line
from dbproxy.audit.anchor_sender import QUEUE_MAX, AnchorSender
from dbproxy.audit.checkpoint import Checkpointer, Seal
from dbproxy.audit.signing import SigningKey

KEY = SigningKey.generate()
AT = 1_767_225_600_000_000_000


def make_seals(count: int, slots: int = 2, node: str = "test") -> list[Seal]:
    made = Checkpointer(KEY, None, ledger="ab" * 16, node=node)
    for slot in range(slots):
        made.take_head(slot, 7, f"{slot:064x}", f"audit-{slot}-0000000000000001.jsonl")
    return [made.make(0, AT) for _ in range(count)]


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    stamina.set_testing(True, attempts=2)
    yield
    stamina.set_testing(False)


def test_a_file_keeps_every_checkpoint_and_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    seals = make_seals(3)
    anchor = FileAnchor(path)
    anchor.keep(seals[0])
    with path.open("ab") as file:
        file.write(seals[1].line[:50])
    anchor.keep(seals[2])
    found = list(read_anchored(path))
    assert [number for number, _ in found] == [1, 2, 3]
    assert [each.seal if each else None for _, each in found] == [seals[0], None, seals[2]]
    newest = find_newest_anchored(path, "test")
    assert newest is not None
    assert (newest.number, newest.digest) == (3, seals[2].digest)
    assert find_newest_anchored(path, "other") is None
    assert find_newest_anchored(tmp_path / "missing", "test") is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_fails(tmp_path: Path) -> None:
    with pytest.raises(AnchorFailed, match="No such file"):
        FileAnchor(tmp_path / "missing" / "x").keep(make_seals(1)[0])


@pytest.mark.parametrize("slots", [2, 64])
def test_syslog_over_udp(slots: int) -> None:
    seal = make_seals(1, slots)[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        SyslogAnchor(f"udp:127.0.0.1:{server.getsockname()[1]}").keep(seal)
        message = server.recv(65536)
    assert message.startswith(b"<109>1 2026-01-01T00:00:00.000000Z test dbproxy - checkpoint - {")
    assert len(message) <= 2048
    found = parse_anchored(message)
    assert found is not None
    assert (found.number, found.digest, found.ledger) == (1, seal.digest, "ab" * 16)
    assert found.seal == (seal if slots == 2 else None)


def test_syslog_over_tcp_counts_octets() -> None:
    seal = make_seals(1)[0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        SyslogAnchor(f"tcp:127.0.0.1:{server.getsockname()[1]}").keep(seal)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(5)
            data = b""
            while more := peer.recv(65536):
                data += more
    length, _, message = data.partition(b" ")
    assert int(length) == len(message)
    found = parse_anchored(message)
    assert found is not None
    assert found.seal == seal


def test_syslog_over_a_local_socket(tmp_path: Path) -> None:
    seal = make_seals(1)[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        server.settimeout(5)
        SyslogAnchor(f"unix:{tmp_path}/log").keep(seal)
        assert server.recv(65536) == format_syslog(seal, 8192)
    (tmp_path / "log").unlink()
    with pytest.raises(AnchorFailed):
        SyslogAnchor(f"unix:{tmp_path}/log").keep(seal)


def test_a_node_name_cannot_break_a_syslog_header() -> None:
    message = format_syslog(make_seals(1, node="a b\nc")[0], 8192)
    assert message.split(b" ")[2:4] == [b"a_b_c", b"dbproxy"]
    assert b"\n" not in message


class Web(BaseHTTPRequestHandler):
    answers: list[int]
    taken: list[tuple[str, str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append((self.path, self.headers["Authorization"], body))
        self.send_response(self.answers.pop(0) if self.answers else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[tuple[str, type[Web]]]:
    handler = type("Handler", (Web,), {"answers": [], "taken": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/anchors?for=x", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_posts_the_line_with_its_token(web: tuple[str, type[Web]]) -> None:
    url, handler = web
    seal = make_seals(1)[0]
    HttpAnchor(url, read_token=lambda: b"secret").keep(seal)
    assert handler.taken == [("/anchors?for=x", "Bearer secret", seal.line)]
    assert "secret" not in HttpAnchor(url, read_token=lambda: b"secret").name


@pytest.mark.parametrize("status", [302, 404, 500])
def test_http_takes_only_success_for_success(web: tuple[str, type[Web]], status: int) -> None:
    url, handler = web
    handler.answers.append(status)
    with pytest.raises(AnchorFailed, match=str(status)):
        HttpAnchor(url).keep(make_seals(1)[0])
    assert len(handler.taken) == 1


def test_http_that_nobody_answers_fails() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(AnchorFailed, match="refused"):
            HttpAnchor(f"http://127.0.0.1:{closed.getsockname()[1]}/").keep(make_seals(1)[0])


class Flaky:
    name = "flaky"

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.kept: list[int] = []

    def keep(self, seal: Seal) -> None:
        if self.failures:
            self.failures -= 1
            raise AnchorFailed("no")
        self.kept.append(seal.number)


def test_a_checkpoint_is_tried_again_and_then_let_go() -> None:
    flaky = Flaky(failures=3)  # with two attempts each, the first is lost and the second needs both
    sender = AnchorSender(flaky)
    for seal in make_seals(3):
        sender.submit(seal)
    assert sender.close(10)
    assert flaky.kept == [2, 3]
    assert [(each.number, each.problem) for each in sender.take_results()] == [(1, "no"), (2, ""), (3, "")]
    assert sender.take_results() == []


def test_a_slow_anchor_never_holds_anything_up() -> None:
    gate = threading.Event()

    class Slow:
        name = "slow"

        def keep(self, seal: Seal) -> None:
            gate.wait(10)

    sender = AnchorSender(Slow())
    seal = make_seals(1)[0]
    for _ in range(QUEUE_MAX + 50):
        sender.submit(seal)
    assert sender.dropped >= 49
    gate.set()
    assert sender.close(10)


def test_damaged_lines_are_told_from_other_lines(tmp_path: Path) -> None:
    seal = make_seals(1)[0]
    path = tmp_path / "lines"
    lines = [b"hello", b'{"type":"checkpoint"', b'{"type":[]}', seal.line, b"Jan 1 host dbproxy: " + short_line(seal), b'{"type":"x","number":true}']  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    found = list(read_anchored(path))
    assert [(number, each.number if each else None) for number, each in found] == [(2, None), (4, 1), (5, 1), (6, None)]  # fmt: skip
    assert json.loads(short_line(seal))["payload_sha256"] == seal.digest


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbproxy.audit.anchor_lines.MAX_LINE_BYTES", 2000)
    seal = make_seals(1)[0]
    path = tmp_path / "lines"
    path.write_bytes(b"x" * 100_000 + b"\n" + seal.line + b"\n")
    assert [each.number if each else None for _, each in read_anchored(path)] == [None, 1]
