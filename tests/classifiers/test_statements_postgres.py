"""What single statements are reported as. Cases are data: data/statements_postgres.jsonl, each the least that must be reported."""

import json
from pathlib import Path

import pytest

from classifiers.answers import describe_report
from classifiers.classify import classify
from classifiers.effects import FLAGS, Kind, LexingState

DATA = Path(__file__).parent / "data" / "statements_postgres.jsonl"
CASES = [json.loads(line) for line in DATA.read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["sql"][:60])
def test_a_statement_is_reported_for_what_it_does(case):
    report = classify("postgres", case["sql"].encode(), LexingState())
    answer = describe_report(report)
    if case.get("or_unparsable") and Kind.UNPARSABLE in report.kinds:
        return
    if "unparsable" not in case.get("kinds", ()):
        assert "unparsable" not in answer["kinds"], report.reason
    for key in ("kinds", "reads", "writes", "flags", "columns", "functions"):
        assert set(case.get(key, ())) <= set(answer[key]), key
    assert not set(case.get("forbid", ())) & set(answer["flags"])
    assert not set(case.get("forbid_kinds", ())) & set(answer["kinds"])
    assert not set(case.get("no_reads", ())) & set(answer["reads"])
    if case.get("not_neutral"):
        assert not report.is_neutral
    assert report.flags <= FLAGS


def test_an_unknown_dialect_is_an_error():
    with pytest.raises(ValueError, match="unknown dialect"):
        classify("oracle", b"SELECT 1", LexingState())


def test_reasons_hold_nothing_of_the_text():
    for text in (
        "SELECT hunter2(",
        "hunter2",
        "SELECT 'hunter2",
        "DO hunter2",
        "ALTER hunter2",
        "SET x hunter2",
        "SELECT a b hunter2 c",
    ):
        assert "hunter" not in classify("postgres", text.encode(), LexingState()).reason


def test_commands_are_a_bounded_vocabulary():
    assert classify("postgres", b"selEct 1", LexingState()).command == "SELECT"
    assert classify("postgres", b"hunter2 1", LexingState()).command == "OTHER"
    assert classify("postgres", b"", LexingState()).command == ""
