"""The admin API: what it answers, whom it refuses, and that nothing is changed without a record."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_operations import ALICE, BOB, STATUS, Served, serving

from dbproxy.admin import ROUTES, Permission
from dbproxy.admin_client import AdminClient, AdminError, NotRunningError
from dbproxy.errors import StartError
from dbproxy.operations import REASON_MAX, Reloaded
from dbproxy.unix_socket import connect, listen

ME = pwd.getpwuid(os.geteuid()).pw_name
JSON = {"Host": "localhost", "Content-Type": "application/json"}
BODIES = {"/v1/sessions/{id}/kill": b'{"reason":"tests"}', "/v1/reload": b"{}"}


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("admin") / "state") as served:
        yield served


@pytest.fixture
def served(one_server: Served) -> Served:
    """A fresh proxy behind the one server of this file."""
    one_server.proxy.reset()
    one_server.permitted = frozenset(Permission)
    return one_server


@pytest.fixture
def client(served: Served) -> AdminClient:
    return AdminClient(served.socket)


def ask(
    served: Served, method: str, path: str, headers: dict[str, str] | list[tuple[str, str]] = JSON, body: bytes = b""
) -> tuple[int, Any]:
    """One request exactly as told; status and decoded answer."""
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = connect(served.socket, timeout_s=20)
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in [*pairs, ("Content-Length", str(len(body)))]:
        connection.putheader(name, value)
    whole = bytearray()
    connection.send = whole.extend  # type: ignore[method-assign] # in one piece: a head answered and closed upon resets the body
    with contextlib.closing(connection):
        connection.endheaders(body)
        with contextlib.suppress(BrokenPipeError):  # the answer may be there before all of a large body is sent
            connection.sock.sendall(whole)
        response = connection.getresponse()
        answer = response.read()
    if response.status == 400 and response.getheader("content-type", "").startswith("text/plain"):
        return 400, None  # not even HTTP: the library below answers by itself
    assert response.getheader("cache-control") == "no-store"
    assert response.getheader("content-security-policy")
    return response.status, json.loads(answer) if answer else None


def path_of(route: str) -> str:
    return route.replace("{id}", ALICE.id)


def changes(served: Served) -> tuple[Any, ...]:
    proxy = served.proxy
    return (list(proxy.killed), proxy.reloads, list(proxy.events), dict(proxy.there))


# ---- answers --------------------------------------------------------------------------------------------------------


def test_sessions_of_all_workers_are_listed(client: AdminClient) -> None:
    alice, bob = client.get("/v1/sessions")["sessions"]
    assert alice == {
        "id": ALICE.id,
        "worker": 1,
        "person": "alice",
        "account": "app",
        "server_user": "app",
        "database": "shop",
        "target": "main",
        "client": "127.0.0.1:40000",
        "application": "psql",
        "started_at": "2026-01-01T00:00:00.000000Z",
        "last_active_at": "2026-01-01T00:00:01.500000Z",
        "state": "running",
        "transaction": "open",
        "statements": 3,
        "refused": 1,
        "rows": 42,
        "received_bytes": 12345,
        "sent_bytes": 900,
    }
    assert (bob["worker"], bob["application"]) == (2, "\x1b[2Jevil\\udcff")


def test_one_session_is_shown(client: AdminClient) -> None:
    assert client.get(f"/v1/sessions/{BOB.id}")["person"] == "bob"


@pytest.mark.parametrize("name", ["nobody", "..%2Fstatus", "%00", "a" * 5000])
def test_a_session_that_is_not_there(client: AdminClient, name: str) -> None:
    with pytest.raises(AdminError) as raised:
        client.get(f"/v1/sessions/{name}")
    assert raised.value.status == 404


def test_a_session_is_ended_and_the_trail_says_who_and_why(served: Served, client: AdminClient) -> None:
    ended = client.post(f"/v1/sessions/{ALICE.id}/kill", {"reason": "  runaway report  "})["ended"]
    assert ended["id"] == ALICE.id
    assert served.proxy.killed == [(ALICE.id, "ended by an operator: runaway report")]
    assert served.proxy.events == [
        (
            "session.killed",
            {
                "session": ALICE.id,
                "person": "alice",
                "account": "app",
                "server_user": "app",
                "database": "shop",
                "target": "main",
                "client": "127.0.0.1:40000",
                "application": "psql",
                "reason": "runaway report",
                "actor": ME,
                "actor_uid": os.geteuid(),
            },
        )
    ]


def test_the_person_is_told_the_reason_and_not_who(served: Served, client: AdminClient) -> None:
    client.post(f"/v1/sessions/{ALICE.id}/kill", {"reason": "maintenance"})
    assert ME not in served.proxy.killed[0][1]


def test_a_session_that_ends_by_itself_meanwhile(served: Served, client: AdminClient) -> None:
    served.proxy.ends_by_itself = True
    with pytest.raises(AdminError, match="ended by itself") as raised:
        client.post(f"/v1/sessions/{ALICE.id}/kill", {"reason": "x"})
    assert raised.value.status == 404


def test_a_worker_that_does_not_confirm(served: Served, client: AdminClient) -> None:
    served.proxy.kill_hangs = True
    with pytest.raises(AdminError, match="did not answer in time") as raised:
        client.post(f"/v1/sessions/{ALICE.id}/kill", {"reason": "x"})
    assert raised.value.status == 504


@pytest.mark.parametrize(
    "reason", [None, "", "   ", 7, ["x"], "two\nlines", "esc\x1b[2J", "\u202egnp", "x" * (REASON_MAX + 1)]
)
def test_a_reason_is_one_readable_line(served: Served, client: AdminClient, reason: object) -> None:
    with pytest.raises(AdminError, match="reason") as raised:
        client.post(f"/v1/sessions/{ALICE.id}/kill", {"reason": reason})
    assert raised.value.status == 400
    assert changes(served)[:3] == ([], 0, [])


def test_status_shows_processes_audit_and_runs(client: AdminClient) -> None:
    found = client.get("/v1/status")
    assert found["ready"] is True
    assert found["policy_sha256"] == "a" * 64
    assert found["audit"]["checkpoint_at"] == "2026-01-01T00:00:00.000000Z"
    assert [(each["role"], each["slot"], each["state"], each["started_at"] is None) for each in found["processes"]] == [
        ("supervisor", None, "ready", False),
        ("control", 0, "ready", False),
        ("worker", 1, "down", True),
    ]
    assert [(each["role"], each["ending"], each["detail"]) for each in found["runs"]] == [
        ("worker", "crashed", "signal 9"),
        ("control", None, ""),
    ]


def test_status_is_answered_when_the_state_file_cannot_be_read(served: Served, client: AdminClient) -> None:
    served.proxy.is_store_broken = True
    found = client.get("/v1/status")
    assert (found["runs"], found["problems"]) == (None, [])
    assert found["warnings"] == ["the history of processes cannot be read: state.db: disk I/O error"]
    served.proxy.now = replace(STATUS, warnings=("the history of processes is not kept: state.db: is damaged",))
    assert client.get("/v1/status")["warnings"] == ["the history of processes is not kept: state.db: is damaged"]


def test_status_says_why_the_proxy_is_not_ready(served: Served, client: AdminClient) -> None:
    served.proxy.now = replace(STATUS, problems=("audit cannot be written",))
    found = client.get("/v1/status")
    assert (found["ready"], found["problems"]) == (False, ["audit cannot be written"])


def test_a_reload_is_recorded_and_reports_what_is_invalid(served: Served, client: AdminClient) -> None:
    served.proxy.reloaded = Reloaded("c" * 64, ("policy.yaml:3:1: unknown key",))
    assert client.post("/v1/reload", {}) == {"policy_sha256": "c" * 64, "problems": ["policy.yaml:3:1: unknown key"]}
    assert served.proxy.events == [("admin.reload", {"actor": ME, "actor_uid": os.geteuid()})]


# ---- who may do what (SECURITY_BAR M1, M6) --------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_needs_its_own_permission_and_no_other(served: Served, route: Any) -> None:
    """The matrix, from the route table: every route with every single permission, with none, and with all but its own."""
    cells = [frozenset({each}) for each in Permission] + [
        frozenset[Permission](),
        frozenset(Permission) - {route.permission},
    ]
    for permitted in cells:
        served.permitted = permitted
        before = changes(served)
        status, answer = ask(served, route.method, path_of(route.path), body=BODIES.get(route.path, b""))
        if route.permission in permitted:
            assert status == 200, (permitted, answer)
        else:
            assert status == 403
            assert answer == {"error": f"this needs the permission {route.permission}"}
            assert changes(served) == before


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_what_changes_something_is_recorded_or_not_done(served: Served, route: Any) -> None:
    ask(served, route.method, path_of(route.path), body=BODIES.get(route.path, b""))
    recorded = [name for name, _ in served.proxy.events]
    assert recorded == ([route.records.value.decode()] if route.records is not None else [])
    assert (route.records is not None) == (route.method != "GET")


@pytest.mark.parametrize("route", [each for each in ROUTES if each.records], ids=lambda route: route.path)
def test_without_an_audit_trail_nothing_is_done(served: Served, route: Any) -> None:
    served.proxy.is_audit_down = True
    before = changes(served)
    status, answer = ask(served, route.method, path_of(route.path), body=BODIES[route.path])
    assert (status, answer["error"]) == (503, "the audit trail cannot be written, so nothing was done")
    assert changes(served) == before


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v2/status", "/metrics", "/v1/sessions/x/y", "/docs", "/v1/STATUS"]
)
def test_anything_else_is_not_there(served: Served, path: str) -> None:
    assert ask(served, "GET", path)[0] == 404


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods_do_nothing(served: Served, route: Any, method: str) -> None:
    declared = {each.method for each in ROUTES if each.path == route.path}
    before = changes(served)
    if method not in declared:
        assert ask(served, method, path_of(route.path), body=BODIES.get(route.path, b"{}"))[0] == 405
        assert changes(served) == before


# ---- what a browser or a forwarder could bring (M2, M3) -------------------------------------------------------------


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"]
)
def test_what_a_form_can_send_changes_nothing(served: Served, path: str, kind: str) -> None:
    headers = {"Host": "localhost", **({"Content-Type": kind} if kind else {})}
    before = changes(served)
    assert ask(served, "POST", path_of(path), headers, BODIES[path])[0] == 415
    assert changes(served) == before


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_web_page_is_refused(served: Served, route: Any, name: str) -> None:
    before = changes(served)
    status, _ = ask(
        served, route.method, path_of(route.path), {**JSON, name: "http://localhost"}, BODIES.get(route.path, b"")
    )
    assert status == 403
    assert changes(served) == before


@pytest.mark.parametrize(
    "hosts",
    [[], ["LOCALHOST"], ["localhost."], ["localhost:80"], ["127.0.0.1"], ["evil.example"], ["localhost", "localhost"]],
)
def test_another_host_is_refused(served: Served, hosts: list[str]) -> None:
    headers = [("Content-Type", "application/json"), *(("Host", host) for host in hosts)]
    before = changes(served)
    assert ask(served, "POST", "/v1/reload", headers, b"{}")[0] in (400, 421)
    assert changes(served) == before


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"reason=x", 400), (b"[]", 400), (b'"x"', 400), (b"{", 400), (b'{"reason":"x' + b"x" * 70_000, 413)],
)
def test_a_body_that_is_no_small_json_object_changes_nothing(served: Served, body: bytes, status: int) -> None:
    before = changes(served)
    assert ask(served, "POST", "/v1/reload", JSON, body)[0] == status
    assert changes(served) == before


# ---- the socket (M7) ------------------------------------------------------------------------------------------------


def test_only_this_user_can_reach_the_socket(served: Served) -> None:
    assert stat.S_IMODE(served.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_kernel_says_who_asks() -> None:
    """Another user, let in by an administrator's chmod, is still refused."""
    code = (
        "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]);"
        "s.sendall(b'POST /v1/reload HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\n"
        "Content-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{}'); print(s.makefile().readline())"
    )
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "state") as served:
        for path in (served.directory, served.directory.parent):
            path.chmod(0o755)
        served.socket.chmod(0o666)
        command = [sys.executable, "-c", code, str(served.socket)]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        assert answer.startswith("HTTP/1.1 403")
        assert changes(served)[:3] == ([], 0, [])


def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True, mode=0o700)
    with serving(directory) as served:
        assert AdminClient(served.socket).get("/v1/status")["ready"] is True
    assert not served.socket.exists()


def test_what_a_killed_proxy_left_behind_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    listen(directory / "admin.sock").close()
    with serving(directory) as served:
        assert AdminClient(served.socket).get("/v1/status")


def test_a_second_proxy_on_one_state_is_refused(served: Served) -> None:
    with pytest.raises(StartError, match="another dbproxy listens there"), serving(served.directory):
        pass
    assert AdminClient(served.socket).get("/v1/status")


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(StartError, match=f"chmod 700 {re.escape(str(directory))}"), serving(directory):
        pass


# ---- the client -----------------------------------------------------------------------------------------------------


def test_without_a_proxy_the_socket_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "state" / "admin.sock"
    with pytest.raises(NotRunningError, match=f"no proxy is running: there is no {re.escape(str(missing))}"):
        AdminClient(missing).get("/v1/status")


def test_a_socket_without_a_listener_is_named(tmp_path: Path) -> None:
    listen(tmp_path / "admin.sock").close()
    with pytest.raises(NotRunningError, match="no proxy is running: nobody listens at"):
        AdminClient(tmp_path / "admin.sock").get("/v1/status")


def test_somebody_elses_socket_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NotRunningError, match="is not a dbproxy's"):
            AdminClient(path).get("/v1/status")
        thread.join(10)
