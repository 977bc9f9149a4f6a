"""What crosses the border between the proxy and a process that may have been taken over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.effects import FLAGS, Effect, Kind, LexingState, Report
from dbproxy.classifier.frames import (
    CLASSIFY,
    FRAME,
    BadAnswerError,
    read_report,
    report_fields,
    request_frame,
    unparsable,
    whole,
)

INNER = Report(effects=(Effect(Kind.DML_READ, "secrets", "read", ("*",), frozenset({"star"})),), command="SELECT")
FULL = Report(
    effects=(
        Effect(Kind.DYNAMIC, flags=frozenset({"prepare", "dynamic_sql"})),
        Effect(Kind.DML_WRITE, "app.t", "write", ("a", "b")),
    ),
    command="PREPARE",
    statements=2,
    functions=("f", "pg_catalog.g"),
    prepares=(("p", INNER),),
    cursors=(("c", INNER),),
    uses=("prepared:x",),
    deallocates=("*",),
    is_neutral=True,
    secret_spans=((3, 9), (12, 12)),
    reason="runs prepared text",
)


def _encode(report: Report) -> bytes:
    return orjson.dumps(report_fields(report))


def test_a_report_with_every_field_set_survives_the_border() -> None:
    assert all(getattr(FULL, field.name) != field.default for field in fields(Report))
    assert read_report(_encode(FULL), 100) == FULL


_names = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=20)  # printable
_effects = st.builds(
    Effect,
    st.sampled_from(Kind),
    _names,
    st.sampled_from(["", "read", "write"]),
    st.lists(_names, max_size=3).map(tuple),
    st.sets(st.sampled_from(sorted(FLAGS)), max_size=4).map(frozenset),
)


@given(
    st.lists(_effects, min_size=1, max_size=5).map(tuple),
    st.lists(_names, max_size=3).map(tuple),
    st.booleans(),
    _names,
)
def test_any_report_survives_the_border(
    effects: tuple[Effect, ...], functions: tuple[str, ...], neutral: bool, reason: str
) -> None:
    report = Report(effects=effects, functions=functions, is_neutral=neutral, reason=reason)
    assert read_report(_encode(report), 10) == report


@given(st.binary(max_size=200))
def test_random_bytes_are_a_bad_answer(body: bytes) -> None:
    with pytest.raises(BadAnswerError):
        read_report(body, 10)


def _nested(depth: int) -> dict[str, Any]:
    value = report_fields(INNER)
    for _ in range(depth):
        value = {**report_fields(INNER), "prepares": [["p", value]]}
    return value


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a field is missing": lambda answer: answer.pop("reason"),
    "a field is unknown": lambda answer: answer.update(extra=1),
    "no effect at all": lambda answer: answer.update(effects=[]),
    "an unknown kind": lambda answer: answer["effects"][0].__setitem__(0, "harmless"),
    "an unknown flag": lambda answer: answer["effects"][0].__setitem__(4, ["harmless"]),
    "an unknown mode": lambda answer: answer["effects"][0].__setitem__(2, "maybe"),
    "an effect too short": lambda answer: answer["effects"][0].pop(),
    "columns are a string": lambda answer: answer["effects"][0].__setitem__(3, "abc"),
    "a number for a name": lambda answer: answer.update(functions=[1]),
    "a truth value for a number": lambda answer: answer.update(statements=True),
    "a negative number": lambda answer: answer.update(statements=-1),
    "more statements than bytes": lambda answer: answer.update(statements=1000),
    "a number for a truth value": lambda answer: answer.update(is_neutral=1),
    "a span behind the text": lambda answer: answer.update(secret_spans=[[0, 101]]),
    "a span backwards": lambda answer: answer.update(secret_spans=[[5, 4]]),
    "a span of three": lambda answer: answer.update(secret_spans=[[1, 2, 3]]),
    "a command with a line break": lambda answer: answer.update(command="SELECT\nX 1"),
    "a command of its own": lambda answer: answer.update(command="x" * 40),
    "a reason with an escape": lambda answer: answer.update(reason="\x1b[2J"),
    "a long reason": lambda answer: answer.update(reason="x" * 301),
    "a pair of three": lambda answer: answer.update(prepares=[["p", report_fields(INNER), 1]]),
    "reports too deep": lambda answer: answer.update(_nested(50)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lie_about_the_form_is_a_bad_answer(lie: Callable[[dict[str, Any]], object]) -> None:
    answer = orjson.loads(_encode(FULL))
    assert read_report(orjson.dumps(answer), 100) == FULL
    lie(answer)
    with pytest.raises(BadAnswerError):
        read_report(orjson.dumps(answer), 100)


def test_a_bad_answer_does_not_quote_the_data() -> None:
    with pytest.raises(BadAnswerError) as caught:
        read_report(b'{"password": "hunter2"}', 10)
    assert "hunter2" not in str(caught.value)


def test_a_request_keeps_the_exact_bytes_of_the_text() -> None:
    text = b'\xff\n{"x": 1}\n\x00'
    frame = request_frame(7, CLASSIFY, "postgres", LexingState(None, "LATIN1"), 150004, text)
    length, sequence = FRAME.unpack_from(frame)
    header, _, rest = frame[FRAME.size :].partition(b"\n")
    assert (length, sequence) == (len(frame) - FRAME.size, 7)
    assert rest == text
    assert orjson.loads(header) == {
        "operation": "classify",
        "dialect": "postgres",
        "state": {
            "standard_conforming_strings": None,
            "encoding": "LATIN1",
            "ansi_quotes": False,
            "no_backslash_escapes": False,
        },
        "server": 150004,
    }


def test_an_unread_text_is_a_secret_from_end_to_end() -> None:
    report = unparsable("why", whole(b"x" * 12))
    assert report.kinds == {Kind.UNPARSABLE}
    assert report.flags == {"secret_literal"}
    assert report.secret_spans == ((0, 12),)
    assert unparsable("why", whole(b"")).flags == frozenset()
