"""`dbproxy healthcheck` against a scripted listener."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config.address import Address
from config.errors import ConfigError
from dbproxy.cli.healthcheck import check, find_address, healthcheck
from dbproxy.cli.main import main
from dbproxy.errors import DbproxyError

READY = b'HTTP/1.1 200 OK\r\ncontent-length: 33\r\n\r\n{"status":"ready","reasons":[]}\r\n'


@contextmanager
def _answering(answer: bytes) -> Iterator[tuple[Address, list[bytes]]]:
    """A listener that reads one request and gives one answer."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                requests.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Address("127.0.0.1", server.getsockname()[1]), requests
        finally:
            thread.join(10)


def _not_ready(body: bytes, status: bytes = b"503 Service Unavailable") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def test_a_ready_proxy_is_healthy() -> None:
    with _answering(READY) as (address, requests):
        assert check(address, 5) == (0, "ready")
    assert requests[0].startswith(f"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:{address.port}\r\n".encode())


def test_a_proxy_that_is_not_ready_says_why() -> None:
    with _answering(_not_ready(b'{"status":"not ready","reasons":["audit cannot be written","draining"]}')) as (
        address,
        _,
    ):
        assert check(address, 5) == (1, "not ready: audit cannot be written, draining")


@pytest.mark.parametrize(
    "answer",
    [_not_ready(b"{}", b"200 OK"), _not_ready(b"<html>", b"200 OK"), _not_ready(b"[1]", b"200 OK")],
)
def test_something_else_on_the_port_is_not_healthy(answer: bytes) -> None:
    with _answering(answer) as (address, _):
        assert check(address, 5) == (1, f"{address} is not a dbproxy: HTTP status 200")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n"])
def test_an_answer_that_is_not_http_is_not_healthy(answer: bytes) -> None:
    with _answering(answer) as (address, _):
        code, line = check(address, 5)
    assert code == 1
    assert line.startswith(f"no answer from {address}: ")


def test_nobody_listening_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert check(Address("127.0.0.1", port), 5) == (1, f"no answer from 127.0.0.1:{port}: ConnectionRefusedError")


def test_a_silent_listener_is_not_healthy_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert check(Address("127.0.0.1", port), 0.05) == (1, f"no answer from 127.0.0.1:{port}: TimeoutError")


def test_control_characters_of_a_stranger_do_not_reach_the_terminal() -> None:
    with _answering(_not_ready(b'{"status":"\\u001b[2J","reasons":[]}')) as (address, _):
        assert check(address, 5) == (1, "[2J")


def _settings(folder: Path, text: str) -> Path:
    path = folder / "dbproxy.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_the_address_comes_from_the_settings(tmp_path: Path) -> None:
    assert find_address(_settings(tmp_path, "admin: {address: '127.0.0.1:1234'}\n")) == Address("127.0.0.1", 1234)


def test_the_default_address_is_used_when_the_settings_name_none(tmp_path: Path) -> None:
    assert find_address(_settings(tmp_path, "version: 1\n")) == Address("127.0.0.1", 9464)


def test_other_mistakes_in_the_settings_do_not_make_a_running_proxy_unhealthy(tmp_path: Path) -> None:
    path = _settings(tmp_path, "no_such_key: 1\nlisteners: []\nadmin: {address: '127.0.0.1:1234', typo: 1}\n")
    assert find_address(path) == Address("127.0.0.1", 1234)


@pytest.mark.parametrize("text", ["admin: {address: nonsense}\n", "admin: 7\n", "admin: {address: [1]}\n"])
def test_a_wrong_address_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(DbproxyError, match=r"dbproxy\.yaml: admin\.address: must be HOST:PORT"):
        find_address(_settings(tmp_path, text))


def test_a_missing_settings_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        find_address(tmp_path / "none.yaml")


def test_the_command_prints_one_line_and_exits_with_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.__doc__
    with _answering(READY) as (address, _), pytest.raises(SystemExit) as ended:
        main(["healthcheck", "--address", str(address)])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "ready\n"


def test_a_wrong_address_on_the_command_line_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["healthcheck", "--address", "nonsense"])
    assert ended.value.code == 2
    assert "HOST:PORT" in capsys.readouterr().err
