"""The metrics and health listener: what it answers, and whom it refuses to answer."""

from __future__ import annotations

import asyncio
import http.client
import signal
import socket
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import uvloop

from dbproxy.control import Control
from dbproxy.errors import StartError
from dbproxy.exposition import View
from dbproxy.figures import Totals
from dbproxy.listening import listen


class _State:
    """Ready, until a test says otherwise."""

    def __init__(self) -> None:
        self.reasons: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.lag_s = 0.0
        self.totals = Totals()

    async def problems(self) -> tuple[str, ...]:
        return self.reasons

    async def view(self) -> View:
        return View(self.totals, (), "0.1.0")


class _Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = dict(response.getheaders())
        self.body = response.read()


Ask = Callable[..., _Answer]


def _serve(scenario: Callable[[Ask, _State], Any], host: str = "127.0.0.1", allowed_hosts: tuple[str, ...] = ()) -> Any:
    """Run the listener in a uvloop, and the blocking scenario in a thread beside it."""

    async def main() -> Any:
        state = _State()
        control = Control(state, allowed_hosts)
        listening = listen(host, 0)
        address, port = listening.getsockname()[:2]
        await control.start(listening)

        def ask(
            path: str, method: str = "GET", host: str | None = None, headers: tuple[tuple[str, str], ...] = ()
        ) -> _Answer:
            target = "::1" if ":" in address else "127.0.0.1"
            connection = http.client.HTTPConnection(target, port, timeout=10)
            connection.putrequest(method, path, skip_host=True)
            literal = f"[{target}]" if ":" in target else target
            connection.putheader("Host", f"{literal}:{port}" if host is None else host.replace("PORT", str(port)))
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders()
            answer = _Answer(connection.getresponse())
            connection.close()
            return answer

        try:
            return await asyncio.to_thread(scenario, ask, state)
        finally:
            await control.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def test_metrics_are_served() -> None:
    def scenario(ask: Ask, state: _State) -> None:
        state.totals.counts["rows"] = 42
        answer = ask("/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert b"\ndbproxy_rows_total 42.0\n" in answer.body

    _serve(scenario)


def test_healthz_answers_while_the_process_lives_even_when_nothing_works() -> None:
    def scenario(ask: Ask, state: _State) -> None:
        state.reasons = ("audit cannot be written",)
        state.lag_s = 0.0123
        answer = ask("/healthz")
        assert (answer.status, orjson.loads(answer.body)) == (200, {"status": "ok", "event_loop_lag_ms": 12.3})

    _serve(scenario)


def test_readyz_is_green_when_all_is_well() -> None:
    def scenario(ask: Ask, _state: _State) -> None:
        answer = ask("/readyz")
        assert (answer.status, orjson.loads(answer.body)) == (
            200,
            {"status": "ready", "reasons": [], "warnings": []},
        )

    _serve(scenario)


def test_readyz_is_green_with_a_warning_when_only_something_beside_fails() -> None:
    def scenario(ask: Ask, state: _State) -> None:
        state.warnings = ("the history of processes is not kept",)
        answer = ask("/readyz")
        assert (answer.status, orjson.loads(answer.body)["warnings"]) == (200, ["the history of processes is not kept"])

    _serve(scenario)


def test_readyz_is_red_with_its_reasons_and_green_again() -> None:
    def scenario(ask: Ask, state: _State) -> None:
        state.reasons = ("audit cannot be written", "draining")
        answer = ask("/readyz")
        assert answer.status == 503
        assert orjson.loads(answer.body) == {
            "status": "not ready",
            "reasons": ["audit cannot be written", "draining"],
            "warnings": [],
        }
        state.reasons = ()
        assert ask("/readyz").status == 200

    _serve(scenario)


def test_hosts_that_are_us_are_answered() -> None:
    def scenario(ask: Ask, _state: _State) -> None:
        for host in ("127.0.0.1:PORT", "localhost:PORT", "proxy.example:9464"):
            assert ask("/healthz", host=host).status == 200, host

    _serve(scenario, allowed_hosts=("proxy.example:9464",))


OTHER_HOSTS = """evil.example evil.example:PORT 127.0.0.1 127.0.0.1:1 127.0.0.2:PORT 10.0.0.1:PORT [::1]:PORT LOCALHOST:PORT
    localhost.:PORT localhost 127.0.0.1.:PORT 0.0.0.0:PORT 2130706433:PORT localhost:PORT@evil.example"""


def test_any_other_host_is_misdirected() -> None:
    def scenario(ask: Ask, _state: _State) -> None:
        for host in ["", *OTHER_HOSTS.split()]:
            for path in ("/metrics", "/readyz", "/nothing"):
                answer = ask(path, host=host)
                assert answer.status in {400, 421}, host
                assert b"dbproxy_" not in answer.body

    _serve(scenario)


def test_two_host_headers_are_refused() -> None:
    def scenario(ask: Ask, _state: _State) -> None:
        assert ask("/metrics", headers=(("Host", "evil.example"),)).status in {400, 421}

    _serve(scenario)


def test_a_listener_on_all_addresses_answers_to_the_address_it_was_reached_at() -> None:
    def scenario(ask: Ask, _state: _State) -> None:
        assert ask("/healthz").status == 200
        assert ask("/healthz", host="10.0.0.1:PORT").status == 421

    _serve(scenario, host="0.0.0.0")


def test_ipv6_works() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")

    def scenario(ask: Ask, _state: _State) -> None:
        assert ask("/healthz").status == 200
        assert ask("/healthz", host="127.0.0.1:PORT").status == 421

    _serve(scenario, host="::1")


def test_only_get_is_answered() -> None:
    def scenario(ask: Ask, _state: _State) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"):
            for path in ("/metrics", "/healthz", "/readyz", "/"):
                answer = ask(path, method)
                assert (answer.status, answer.headers["allow"]) == (405, "GET"), (method, path)

    _serve(scenario)


def test_nothing_else_is_there() -> None:
    def scenario(ask: Ask, _state: _State) -> None:
        for path in ("/", "/docs", "/metrics/x", "/metrics//", "/../metrics", "/%6detrics/"):
            answer = ask(path)
            assert answer.status in {307, 404}, path
            assert b"dbproxy_" not in answer.body

    _serve(scenario)


def test_every_answer_carries_the_security_headers_and_no_version() -> None:
    def scenario(ask: Ask, _state: _State) -> None:
        for path, host in (("/metrics", None), ("/nothing", None), ("/metrics", "evil.example")):
            headers = ask(path, host=host).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert "server" not in headers

    _serve(scenario)


def test_a_taken_address_is_a_start_error() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(
            StartError, match=r"cannot listen on 127\.0\.0\.1 port \d+ for metrics and health: Address already in use"
        ),
    ):
        listen("127.0.0.1", other.getsockname()[1])


def test_signal_handlers_stay_the_proxys() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def scenario(ask: Ask, _state: _State) -> None:
        assert ask("/healthz").status == 200
        # asyncio.Runner itself takes SIGINT while it runs.
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]

    _serve(scenario)
    assert {number: signal.getsignal(number) for number in before} == before


def test_after_stop_nothing_listens() -> None:
    async def main() -> None:
        control = Control(_State())
        listening = listen("127.0.0.1", 0)
        host, port = listening.getsockname()
        await control.start(listening)
        await control.stop()
        await control.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), 5)

    asyncio.run(main())
