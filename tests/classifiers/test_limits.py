"""Bounds that are checked before anything is parsed."""

from classifiers.classify import classify
from classifiers.effects import Kind, LexingState


def test_comments_nested_beyond_reason_are_refused() -> None:
    """PostgreSQL 18's lexer takes a core for minutes over 100,000 levels, and no cancel ends it."""
    for depth, expected in ((60, Kind.DML_READ), (65, Kind.UNPARSABLE), (100_000, Kind.UNPARSABLE)):
        text = ("/*" * depth + "*/" * depth + "select 1").encode()
        assert expected in classify("postgres", text, LexingState()).kinds, depth
