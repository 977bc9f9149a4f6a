"""A report of the classifier beside what PostgreSQL's grammar says of the same text, and where the two part."""

from __future__ import annotations

from typing import Any

from support.postgres_oracle import Truth

from classifiers.effects import Kind, Report

_READS = {Kind.DML_READ, Kind.METADATA, Kind.EMPTY}
_PLAIN_FLAGS = frozenset(
    "unbounded_read star whole_row multi_statement trivial_where cursor explain sample_leak catalog_secret".split()  # noqa: SIM905
)


def is_plain_read(said: Report) -> bool:
    """Nothing in the report says that the statement does more than read."""
    return said.kinds <= _READS and said.flags <= _PLAIN_FLAGS and not said.prepares


def fresh_findings() -> dict[str, list[Any]]:
    return {
        name: []
        for name in (
            "wrong statement count",
            "effects in a plain read",
            "unknown function in a plain read",
            "volatile function in a plain read",
            "tables missed",
            "writes missed",
            "tables invented",
            "the classifier failed",
        )
    }


def compare(findings: dict[str, list[Any]], place: str, text: str, truth: Truth, said: Report) -> None:
    """Add what differs. A refused text differs in nothing."""
    if said.reason.startswith("the classifier failed"):
        findings["the classifier failed"].append([place, said.reason, text])
    if Kind.UNPARSABLE in said.kinds:
        return
    if said.statements != truth.statements:
        findings["wrong statement count"].append([place, f"{said.statements} for {truth.statements}", text])
    if truth.has_effects and is_plain_read(said):
        findings["effects in a plain read"].append([place, truth.nodes, text])
    named = {effect.object for effect in said.effects if effect.object}
    named |= {effect.object for _, inner in said.prepares for effect in inner.effects}
    missed = truth.tables - named
    if missed:
        findings["tables missed"].append([place, (sorted(missed), truth.nodes), text])
    written = truth.written - set(said.writes) - {w for _, inner in said.prepares for w in inner.writes}
    if written:
        findings["writes missed"].append([place, (sorted(written), truth.nodes), text])
    invented = {each.object for each in said.effects if each.mode in ("read", "write") and each.object} - truth.tables
    if invented and set(truth.nodes) <= _QUERIES:
        findings["tables invented"].append([place, sorted(invented), text])


_QUERIES = {
    *("SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "ExplainStmt", "CopyStmt"),
    *("CreateTableAsStmt", "ViewStmt", "DeclareCursorStmt", "PrepareStmt"),
}
