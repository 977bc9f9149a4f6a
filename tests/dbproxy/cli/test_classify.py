"""`dbproxy classify`, with the real classifier in real processes."""

from __future__ import annotations

import io
import sys
from typing import Any

import orjson
import pytest

from dbproxy.cli.main import main


def _run(
    arguments: list[str], stdin: bytes, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> tuple[int, bytes]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    with pytest.raises(SystemExit) as ended:
        main(["classify", *arguments])
    sys.stdout.flush()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capfdbinary.readouterr().out


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Run the command: (arguments, stdin) → (exit code, output)."""
    return lambda arguments, stdin=b"": _run(arguments, stdin, monkeypatch, capfdbinary)


def _lines(*cases: object) -> bytes:
    return b"".join(orjson.dumps(case) + b"\n" for case in cases)


def test_a_statement_is_described_for_people(answer: Any) -> None:
    code, output = answer(["SELECT id FROM customers WHERE id = 7"])
    assert code == 0
    assert b"kinds:     dml_read\n" in output
    assert b"reads:     customers\n" in output


def test_a_statement_is_described_for_programs(answer: Any) -> None:
    code, output = answer(["--json", "DELETE FROM customers"])
    described = orjson.loads(output)
    assert code == 0
    assert (described["kinds"], described["writes"], described["flags"]) == (["dml_write"], ["customers"], ["no_where"])
    assert described["ms"] > 0


def test_a_statement_can_come_from_standard_input(answer: Any) -> None:
    code, output = answer(["--json"], b"SELECT 1")
    assert (code, orjson.loads(output)["kinds"]) == (0, ["dml_read"])


def test_an_unknown_dialect_is_wrong_usage(answer: Any) -> None:
    code, _ = answer(["--dialect", "oracle", "SELECT 1"])
    assert code == 2


def test_each_line_gets_its_answer_whatever_is_on_it(answer: Any) -> None:
    hostile = "SELECT " + " OR ".join(["a=1"] * 100_000)
    lines: list[tuple[bytes, str, str]] = [
        (orjson.dumps({"id": "plain", "dialect": "postgres", "sql": "SELECT * FROM t"}), "plain", "dml_read"),
        (orjson.dumps({"id": "hostile", "sql": hostile}), "hostile", "unparsable"),
        (orjson.dumps({"id": "next", "sql": "SELECT 1"}), "next", "dml_read"),
        (
            orjson.dumps({"id": "bytes", "sql": "", "sql_hex": b"SELECT \xff".hex(), "charset": "UTF8"}),
            "bytes",
            "unparsable",
        ),
        (b"no json", "", "unparsable"),
        (b"[1]", "", "unparsable"),
        (b'{"id": "a", "sql": 7}', "a", "unparsable"),
        (b'{"id": "b", "sql": "", "sql_hex": "zz"}', "b", "unparsable"),
        (b'{"id": "c", "sql": "SELECT 1", "session": "x"}', "c", "unparsable"),
        (b'{"id": "last", "sql": "SELECT 1"}', "last", "dml_read"),
    ]
    code, output = answer(["--jsonl"], b"\n\n".join(line for line, _, _ in lines))
    answers = [orjson.loads(line) for line in output.splitlines()]
    assert code == 1
    assert [(a["id"], a["kinds"]) for a in answers] == [(name, [kind]) for _, name, kind in lines]
    assert all({"id", "kinds", "reads", "writes", "flags", "columns", "functions", "ms"} <= a.keys() for a in answers)


def test_what_a_session_prepared_is_what_execute_does(answer: Any) -> None:
    code, output = answer(
        ["--jsonl"],
        _lines(
            {"id": "known", "sql": "EXECUTE p", "session": ["PREPARE p AS SELECT * FROM secrets"]},
            {"id": "unknown", "sql": "EXECUTE p"},
        ),
    )
    known, unknown = (orjson.loads(line) for line in output.splitlines())
    assert code == 0
    assert known["reads"] == ["secrets"]
    assert "unknown_prepared" in unknown["flags"]


def test_an_unparsable_statement_is_exit_code_1_and_does_not_write_to_the_terminal(answer: Any) -> None:
    code, output = answer(['SELECT * FROM "a\x1b[2Jb" \'no end'])
    assert code == 1
    assert b"kinds:     unparsable\n" in output
    assert b"\x1b" not in output
