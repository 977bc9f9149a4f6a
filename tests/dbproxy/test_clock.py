"""The clocks tell time in nanoseconds."""

from support.fake_clock import FakeClock

from dbproxy.clock import Clock, SystemClock


def test_system_clock_counts_nanoseconds_since_1970() -> None:
    clock: Clock = SystemClock()
    assert 1_700_000_000 < clock.wall_ns() / 1e9 < 10_000_000_000


def test_monotonic_time_never_goes_back() -> None:
    clock: Clock = SystemClock()
    readings = [clock.monotonic_ns() for _ in range(1000)]
    assert readings == sorted(readings)


def test_a_wall_clock_jump_leaves_monotonic_time_alone() -> None:
    fake = FakeClock()
    clock: Clock = fake
    before = clock.monotonic_ns()
    fake.jump_wall(-86_400)
    assert clock.monotonic_ns() == before
    fake.advance(1.5)
    assert clock.monotonic_ns() - before == 1_500_000_000
