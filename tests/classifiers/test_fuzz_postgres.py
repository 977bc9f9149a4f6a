"""Random texts, read by the classifier and by PostgreSQL's own grammar: the tables, the writes and the number of statements agree."""

from __future__ import annotations

import random

import pytest
from support.classifier_truth import compare, fresh_findings
from support.figures import record, scaled
from support.postgres_oracle import read_truth
from support.postgres_texts import Texts

from classifiers.classify import classify
from classifiers.effects import Kind, LexingState

MAX_REFUSED_SHARE = 0.2


@pytest.mark.timeout(7200)
def test_random_texts_name_the_tables_that_the_servers_grammar_finds() -> None:
    """The full run is issue 4's differential fuzz of 200,000 texts."""
    wanted = scaled(800, 200_000)
    texts = Texts(random.Random(4))
    findings = fresh_findings()
    compared = refused = tried = with_tables = 0
    while compared < wanted:
        tried += 1
        text = texts.message()
        truth = read_truth(text)
        if truth is None:
            continue
        compared += 1
        with_tables += bool(truth.tables)
        said = classify("postgres", text.encode(), LexingState())
        refused += Kind.UNPARSABLE in said.kinds
        compare(findings, str(tried), text, truth, said)
    wrong = {name: found for name, found in findings.items() if found}
    assert with_tables > compared * 0.8
    assert refused < compared * MAX_REFUSED_SHARE
    record(
        "F.fuzz.postgres",
        "random texts whose tables, writes or statements the classifier reads otherwise than PostgreSQL's grammar",
        count=compared,
        failures=sum(map(len, wrong.values())),
        tried=tried,
        refused=refused,
        wrong={name: [str(each)[:500] for each in found[:3]] for name, found in wrong.items()},
    )
