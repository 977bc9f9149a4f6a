"""Names that SQL gives to statements and cursors, against what else may take them."""

import pytest

from classifiers.effects import Effect, Kind, Report
from dbproxy.names import Names

READ = Report((Effect(Kind.DML_READ),), command="SELECT")
PREPARE = Report((Effect(Kind.SESSION),), command="PREPARE", prepares=(("a", READ),))
DECLARE = Report((Effect(Kind.SESSION),), command="DECLARE", cursors=(("c", READ),))
DEALLOCATE_ALL = Report((Effect(Kind.SESSION),), command="DEALLOCATE", deallocates=("*",))


@pytest.fixture
def names() -> Names:
    found = Names()
    found.succeeded(PREPARE)
    found.succeeded(DECLARE)
    return found


def test_a_name_is_known_once_the_server_has_run_the_text(names: Names) -> None:
    assert Names().find("prepared", b"a") is None
    assert names.find("prepared", b"a") is READ
    assert names.find("cursor", b"c") is READ
    assert names.find("cursor", b"a") is None


def test_a_name_stands_for_nothing_while_the_text_that_changes_it_runs(names: Names) -> None:
    names.sent(PREPARE)
    assert names.find("prepared", b"a") is None
    names.succeeded(PREPARE)
    assert names.find("prepared", b"a") is READ


def test_a_parse_takes_the_name_even_if_sql_prepares_it_meanwhile(names: Names) -> None:
    names.announce(7, b"a")
    assert names.find("prepared", b"a") is None
    names.succeeded(PREPARE)
    assert names.find("prepared", b"a") is None
    names.announced(7)
    names.succeeded(PREPARE)
    assert names.find("prepared", b"a") is READ


def test_a_parse_that_was_not_sent_takes_nothing_later(names: Names) -> None:
    names.announce(7, b"a")
    names.withdraw(7)
    names.succeeded(PREPARE)
    names.announced(7)
    assert names.find("prepared", b"a") is READ


def test_an_unnamed_parse_takes_no_name(names: Names) -> None:
    names.announce(7, b"")
    assert names.find("prepared", b"a") is READ


def test_a_bind_takes_the_name_of_a_cursor(names: Names) -> None:
    names.bound(b"c")
    assert names.find("cursor", b"c") is None
    assert names.find("prepared", b"a") is READ


def test_only_the_first_63_bytes_of_a_name_count() -> None:
    names = Names()
    names.succeeded(Report((), command="DECLARE", cursors=(("n" * 63, READ),)))
    names.bound(b"n" * 70)
    assert names.find("cursor", b"n" * 63) is None


def test_a_name_outside_ascii_makes_all_such_names_unknown(names: Names) -> None:
    names.succeeded(Report((), command="DECLARE", cursors=(("ä", READ), ("ö", READ))))
    names.bound("ü".encode())
    assert names.find("cursor", "ä".encode()) is None
    assert names.find("cursor", b"c") is READ


def test_deallocate_all_forgets_what_was_prepared_from_the_moment_it_is_sent(names: Names) -> None:
    names.sent(DEALLOCATE_ALL)
    assert names.find("prepared", b"a") is None
    assert names.find("cursor", b"c") is READ


def test_beyond_the_limit_nothing_new_is_known() -> None:
    names = Names()
    names.succeeded(Report((), prepares=tuple((f"n{number}", READ) for number in range(10_001))))
    names.succeeded(PREPARE)
    assert names.find("prepared", b"a") is None
