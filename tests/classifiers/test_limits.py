"""Bounds that are checked before anything is parsed."""

import gc
import time

from bench.classifier_abuse import SHAPES

from classifiers.classify import classify
from classifiers.effects import Kind, LexingState


def test_comments_nested_beyond_reason_are_refused() -> None:
    """PostgreSQL 18's lexer takes a core for minutes over 100,000 levels, and no cancel ends it."""
    for depth, expected in ((60, Kind.DML_READ), (65, Kind.UNPARSABLE), (100_000, Kind.UNPARSABLE)):
        text = ("/*" * depth + "*/" * depth + "select 1").encode()
        assert expected in classify("postgres", text, LexingState()).kinds, depth


def test_no_text_takes_long_whatever_its_shape() -> None:
    """Processor time, without the collector, as in the process that reads texts."""
    gc.disable()
    try:
        for name, text in SHAPES.items():
            began = time.process_time()
            classify("postgres", text[: 1 << 20], LexingState())
            took_ms = (time.process_time() - began) * 1000
            assert took_ms < 300, (
                name
            )  # four times what it takes here; the process is ended after 165 ms, and the answer is a refusal then
    finally:
        gc.enable()


def test_long_lists_of_literals_are_read() -> None:
    for text in (
        "INSERT INTO t VALUES " + ",".join(f"({i}, 'it''s', NULL, -1.5, $1)" for i in range(20_000)),
        "INSERT INTO t VALUES " + ",".join(f"({i}, 'x')" for i in range(20_000)) + " ON CONFLICT DO NOTHING",
        "DELETE FROM t WHERE a IN (" + ",\n".join(map(str, range(100_000))) + ")",
    ):
        report = classify("postgres", text.encode(), LexingState())
        assert report.writes == ("t",)
        assert not report.flags & {"no_where", "trivial_where"}


def test_what_is_hidden_behind_a_long_list_is_seen() -> None:
    ones = ",".join(["1"] * 5_000)
    for text, table in (
        (f"SELECT {ones}, (SELECT v FROM secrets)", "secrets"),
        (f"SELECT {ones},1 FROM secrets", "secrets"),
        (f"SELECT 1 WHERE 1 IN ({ones}, (SELECT id FROM secrets)) AND 2 IN ({ones})", "secrets"),
        (f"SELECT 1 WHERE 1 IN ({ones},'a' 'b') UNION SELECT v FROM secrets", "secrets"),
        (
            "INSERT INTO t VALUES "
            + ",".join(["(1,2)"] * 2_000)
            + ",((SELECT v FROM secrets),2),"
            + ",".join(["(1,2)"] * 2_000),
            "secrets",
        ),
    ):
        report = classify("postgres", text.encode(), LexingState())
        assert table in report.reads or Kind.UNPARSABLE in report.kinds, text[-60:]
    report = classify("postgres", f"SELECT 1 WHERE 1 IN ({ones}); DROP TABLE secrets".encode(), LexingState())
    assert Kind.DDL in report.kinds
    assert report.statements == 2
