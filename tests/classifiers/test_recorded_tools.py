"""Statements that psql, pg_dump, pg_dumpall and pgbench really send must pass a policy that blocks `unparsable` and `dynamic`.

data/*.sql were recorded from servers with log_statement = all: PostgreSQL 15 and 18, each with its own client tools.
"""

from pathlib import Path

import pytest

from classifiers.classify import classify
from classifiers.composition import compose, remember
from classifiers.effects import Kind, LexingState

FILES = sorted((Path(__file__).parent / "data").glob("*.sql"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_recorded_statement_is_in_doubt(path):
    names = {}
    statements = path.read_text().split("\n--=\n")[1:]
    assert len(statements) > 5
    for statement in statements:
        report = classify("postgres", statement.encode(), LexingState())
        composed = compose(report, names)
        names = remember(report, names)
        assert not composed.kinds & {Kind.UNPARSABLE, Kind.DYNAMIC}, (composed.reason, statement)
