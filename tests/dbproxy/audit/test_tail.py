"""Reading the newest records and following them across segments."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from dbproxy.audit.ledger import Ledger
from dbproxy.audit.record import text_member
from dbproxy.audit.tail import Filter, Record, Tail, clean, describe
from dbproxy.audit.types import EventType


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path, segment_bytes=4096, reserve_bytes=64 << 10, now_ns=time.time_ns)
    ledger.open()
    return ledger


def statement(ledger: Ledger, session: str, number: int, person: str, sql: bytes = b"SELECT 1") -> None:
    ledger.intent((session, number), b'"person":"%b","action":"allow",%b' % (person.encode(), text_member(b"sql", sql)))
    ledger.outcome((session, number), b'"status":"ok","rows":1')
    ledger.flush()


def numbers(records: list[Record]) -> list[object]:
    return [record.fields["seq"] for record in records]


@pytest.mark.parametrize("count", [0, 1, 5, 50, 1000])
def test_the_last_records_are_found_across_segments(ledger: Ledger, tmp_path: Path, count: int) -> None:
    for number in range(40):
        statement(ledger, "s1", number, "alice")
    everything = [
        json.loads(line)["seq"] for path in sorted(tmp_path.glob("*.jsonl")) for line in path.read_bytes().splitlines()
    ]
    assert (
        numbers(Tail(tmp_path, Filter()).read_last(count))
        == everything[len(everything) - min(count, len(everything)) :]
    )


def test_following_gives_every_record_once_across_rotation_and_restart(ledger: Ledger, tmp_path: Path) -> None:
    tail = Tail(tmp_path, Filter())
    seen = numbers(tail.read_last(10))
    for number in range(60):
        statement(ledger, "s1", number, "alice")
        if number % 7 == 0:
            seen += numbers(tail.read_new())
    ledger.close("test")
    again = Ledger(tmp_path, segment_bytes=4096, reserve_bytes=64 << 10, now_ns=time.time_ns)
    again.open()
    statement(again, "s2", 1, "bob")
    seen += numbers(tail.read_new())
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) > 120
    assert tail.read_new() == []


def test_a_record_being_written_is_shown_when_it_is_whole(ledger: Ledger, tmp_path: Path) -> None:
    statement(ledger, "s1", 1, "alice")
    path = next(tmp_path.glob("*.jsonl"))
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    tail = Tail(tmp_path, Filter())
    assert numbers(tail.read_last(10)) == [1, 2]
    path.write_bytes(data)
    assert numbers(tail.read_new()) == [3]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(session="s2"), [4, 5]),
        (Filter(type="statement.intent"), [2, 4]),
        (Filter(type="login"), [6]),
        (Filter(type="log"), []),
        (Filter(person="alice"), [2, 3]),
        (Filter(person="alice", type="statement.outcome"), []),
    ],
)
def test_filters(ledger: Ledger, tmp_path: Path, wanted: Filter, expected: list[int]) -> None:
    statement(ledger, "s1", 1, "alice")
    statement(ledger, "s2", 1, "bob")
    ledger.append(EventType.LOGIN_FAILURE, b'"client":"127.0.0.1:1"')
    ledger.flush()
    assert numbers(Tail(tmp_path, wanted).read_last(10)) == expected


def test_a_damaged_line_is_shown_as_such(ledger: Ledger, tmp_path: Path) -> None:
    path = next(tmp_path.glob("*.jsonl"))
    with path.open("ab") as file:
        file.write(b"\x1b[31mnot json\n")
    last = Tail(tmp_path, Filter()).read_last(1)[0]
    assert last.type == "damaged"
    assert "\x1b" not in "".join(text for text, _ in describe(last))


def test_a_line_for_people_has_no_characters_that_move_or_reorder(ledger: Ledger, tmp_path: Path) -> None:
    statement(ledger, "s1", 1, "alice", "DROP\n\tTABLE \x1b[2J\u202ex\u2028\x7f'é'".encode())
    line = "".join(text for text, _ in describe(Tail(tmp_path, Filter()).read_last(2)[0]))
    assert "DROP TABLE \\u001b[2J\\u202ex" in line
    assert "'é'" in line
    assert re.search("[\x00-\x1f\x7f-\x9f\u2028\u202e]", line) is None


def test_long_text_is_cut(ledger: Ledger) -> None:
    assert clean("x" * 1000, 10) == "x" * 9 + "…"
    assert clean("a \n b", 10) == "a b"
