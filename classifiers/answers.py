"""One case of a case file to one answer line: the pure part of `dbproxy classify --jsonl`.

A case has sql or sql_hex (with charset), and optionally session: statements that ran before on the same connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from classifiers.classify import classify
from classifiers.composition import compose, remember
from classifiers.effects import LexingState, Report

Answer = dict[str, Any]


def answer_case(case: Mapping[str, Any], dialect: str = "postgres") -> Answer:
    """Classify a case after its session. Returns id, kinds, reads, writes, flags, columns and functions; the caller adds ms."""
    state = LexingState(encoding=str(case.get("charset") or "UTF8").upper().replace("-", ""))
    names: dict[str, Report] = {}
    version = parse_server(str(case.get("server") or ""), dialect)
    for earlier in case.get("session") or ():
        report = classify(dialect, str(earlier).encode(), state, version)
        names = remember(report, names)
        state = advance_state(str(earlier), state, dialect)
    text = (
        bytes.fromhex(case["sql_hex"]) if case.get("sql_hex") else str(case["sql"]).encode("utf-8", "surrogateescape")
    )
    report = classify(dialect, text, state, version)
    answer = describe_report(compose(report, names))
    # The vocabulary calls EXECUTE dynamic even where the session knows what its name stands for.
    answer["kinds"] = sorted({*answer["kinds"], *(kind for kind in report.kinds if report.uses or report.prepares)})
    return {"id": case.get("id", ""), **answer}


_MYSQL_SERVERS = {"mysql8": 80_045, "mysql9": 90_700, "mariadb": 101_100}


def parse_server(server: str, dialect: str) -> int:
    """A case's server, `16+`, `..14`, `mysql8` or `mariadb`, as a version number; 0 where it says nothing of this dialect's."""
    if dialect == "mysql":
        return _MYSQL_SERVERS.get(server, 0)
    digits = server.strip("+.")
    return int(digits) * 10_000 if digits.isdigit() else 0


def advance_state(statement: str, state: LexingState, dialect: str = "postgres") -> LexingState:
    """The state after an earlier SET of a case. A real session takes it from what the server reports instead."""
    words = statement.replace("=", " ").replace("'", " ").replace(";", " ").lower().split()
    if words[:1] != ["set"]:
        return state
    words = [word for word in words[1:] if word not in ("to", "session", "local")]
    if dialect == "mysql":
        return _advance_mysql(words, state)
    if words[:1] == ["standard_conforming_strings"]:
        return replace(state, standard_conforming_strings=words[1:2] not in (["off"], ["false"], ["0"], ["no"]))
    if words[:1] in (["client_encoding"], ["names"]) and len(words) > 1:
        return replace(state, encoding=words[1].upper().replace("-", ""))
    return state


def _advance_mysql(words: list[str], state: LexingState) -> LexingState:
    if words[:1] == ["names"] and len(words) > 1:
        return replace(state, encoding=words[1].upper())
    if words[:1] == ["sql_mode"]:
        modes = set(",".join(words[1:]).split(","))
        is_ansi = bool(modes & {"ansi_quotes", "ansi", "db2", "maxdb", "mssql", "oracle", "postgresql"})
        return replace(state, ansi_quotes=is_ansi, no_backslash_escapes="no_backslash_escapes" in modes)
    return state


def describe_report(report: Report) -> Answer:
    columns = [f"{e.object}.{column}" for e in report.effects if e.object for column in e.columns]
    return {
        "kinds": sorted(report.kinds),
        "reads": list(report.reads),
        "writes": list(report.writes),
        "flags": sorted(report.flags),
        "columns": list(dict.fromkeys(columns)),
        "functions": list(report.functions),
        "reason": report.reason,
    }
