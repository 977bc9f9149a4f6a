"""Failed logins are counted by address, and by name from one address."""

from __future__ import annotations

from support.fake_clock import FakeClock

from dbproxy.identity import throttle as module
from dbproxy.identity.throttle import Throttle


def make(per_address: int = 5, per_user: int = 3) -> tuple[Throttle, FakeClock]:
    clock = FakeClock()
    return Throttle(clock, per_address, per_user, 60.0), clock


def test_name_is_refused_after_its_failures_and_told_once() -> None:
    throttle, _ = make()
    for _ in range(3):
        assert throttle.blocks("10.0.0.1", "alice") == ""
        throttle.failed("10.0.0.1", "alice")
    assert [throttle.blocks("10.0.0.1", "alice") for _ in range(3)] == ["first", "again", "again"]


def test_other_names_and_other_addresses_go_on() -> None:
    throttle, _ = make()
    for _ in range(3):
        throttle.failed("10.0.0.1", "alice")
    assert throttle.blocks("10.0.0.1", "bob") == ""
    assert throttle.blocks("10.0.0.2", "alice") == ""


def test_address_is_refused_whatever_names_it_tries() -> None:
    throttle, _ = make()
    for number in range(5):
        throttle.failed("10.0.0.1", f"user{number}")
    assert throttle.blocks("10.0.0.1", "alice") == "first"
    assert throttle.blocks("10.0.0.1", "bob") == "again"


def test_window_passes() -> None:
    throttle, clock = make()
    for _ in range(3):
        throttle.failed("10.0.0.1", "alice")
    clock.advance(59)
    assert throttle.blocks("10.0.0.1", "alice")
    clock.jump_wall(3600)
    assert throttle.blocks("10.0.0.1", "alice")
    clock.advance(1)
    assert throttle.blocks("10.0.0.1", "alice") == ""


def test_success_forgives_the_name_but_not_the_address() -> None:
    throttle, _ = make()
    for _ in range(2):
        throttle.failed("10.0.0.1", "alice")
    throttle.succeeded("10.0.0.1", "alice")
    for _ in range(2):
        throttle.failed("10.0.0.1", "alice")
    assert throttle.blocks("10.0.0.1", "alice") == ""
    throttle.succeeded("10.0.0.1", "alice")
    throttle.failed("10.0.0.1", "bob")
    assert throttle.blocks("10.0.0.1", "alice") == "first"


def test_memory_is_bounded(monkeypatch: object) -> None:
    throttle, _ = make()
    for number in range(module.MAX_KEYS):
        throttle.failed(f"address{number}", "x")
    assert len(throttle._counts) == module.MAX_KEYS


def test_new_limits_hold_at_once() -> None:
    throttle, _ = make()
    throttle.failed("10.0.0.1", "alice")
    throttle.configure(1, 1, 60.0)
    assert throttle.blocks("10.0.0.1", "alice") == "first"
