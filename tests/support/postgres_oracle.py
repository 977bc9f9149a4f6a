"""What PostgreSQL's own grammar says of a text (by pglast): how many statements, which relations they name and write, do they do anything.

Names are written as in Effect.object, so that sets can be compared. CTE names are told from tables by scope, as parse_cte.c and
parse_relation.c do: a name in WITH hides a table for what follows it (with RECURSIVE for all of the clause), never for a target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pglast import ast
from pglast.enums import ObjectType
from pglast.parser import ParseError, parse_sql

_WRITES = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
_NAMES_NO_TABLE = (ast.LockingClause, ast.ConstraintsSetStmt, ast.ImportForeignSchemaStmt)
"""Their RangeVars are aliases, constraints, tables of another server."""
_RELATIONS = {
    ObjectType.OBJECT_TABLE,
    ObjectType.OBJECT_VIEW,
    ObjectType.OBJECT_MATVIEW,
    ObjectType.OBJECT_FOREIGN_TABLE,
}


@dataclass(frozen=True)
class Truth:
    """tables: every relation named. written: those that INSERT, UPDATE, DELETE, MERGE, SELECT INTO or CREATE TABLE AS write when run.

    has_effects: more than reading and planning. functions: called by name, without `pg_catalog.`.
    nodes: the kinds of statements, for reports.
    """

    statements: int
    tables: frozenset[str]
    written: frozenset[str]
    functions: frozenset[str]
    has_effects: bool
    nodes: tuple[str, ...]


def read_truth(text: str) -> Truth | None:
    """None if it is no SQL to PostgreSQL."""
    try:
        parsed = parse_sql(text)
    except (ParseError, UnicodeError, ValueError):
        return None
    reading = _Reading()
    for each in parsed:
        reading.walk(each.stmt, frozenset())
    return Truth(
        len(parsed),
        frozenset(reading.tables),
        frozenset(reading.written),
        frozenset(reading.functions),
        any(_has_effects(each.stmt) for each in parsed),
        tuple(type(each.stmt).__name__ for each in parsed),
    )


def write_name(parts: Iterable[str]) -> str:
    """As Effect.object."""
    return ".".join('"' + part.replace('"', '""') + '"' if "." in part or '"' in part else part for part in parts)


class _Reading:
    def __init__(self) -> None:
        self.tables: set[str] = set()
        self.written: set[str] = set()
        self.functions: set[str] = set()

    def walk(self, node: Any, scope: frozenset[str]) -> None:
        if isinstance(node, tuple | list):
            for each in node:
                self.walk(each, scope)
        elif isinstance(node, ast.RangeVar):
            if node.schemaname or node.relname not in scope:
                self.tables.add(_name(node))
        elif isinstance(node, ast.Node) and not isinstance(node, _NAMES_NO_TABLE):
            self._enter(node, scope)

    def _enter(self, node: ast.Node, scope: frozenset[str]) -> None:
        clause = getattr(node, "withClause", None)
        if clause is not None:
            names = [each.ctename for each in clause.ctes]
            if clause.recursive:
                scope |= frozenset(names)
            for each in clause.ctes:
                self.walk(each, scope)
                scope |= {each.ctename}
        target = getattr(node, "relation", None) if isinstance(node, _WRITES) else None
        into = getattr(node, "intoClause", None) or (node.into if isinstance(node, ast.CreateTableAsStmt) else None)
        target = into.rel if into is not None else target
        if target is not None:
            self.tables.add(_name(target))
            self.written.add(_name(target))
        if isinstance(node, ast.FuncCall):
            parts = [each.sval for each in node.funcname]
            self.functions.add(write_name(parts[1:] if parts[0] == "pg_catalog" else parts))
        if isinstance(node, ast.DropStmt | ast.CommentStmt | ast.SecLabelStmt):
            self._named(node)
        if isinstance(node, ast.ExplainStmt) and not _is_analyze(node):
            planned = _Reading()
            planned.walk(node.query, scope)
            self.tables |= planned.tables
            self.functions |= planned.functions
            return
        for slot in node:
            if slot != "withClause" and getattr(node, slot) is not target:
                self.walk(getattr(node, slot), scope)

    def _named(self, node: Any) -> None:
        kind = node.removeType if isinstance(node, ast.DropStmt) else node.objtype
        if kind in _RELATIONS:
            objects = node.objects if isinstance(node, ast.DropStmt) else [node.object]
            self.tables.update(write_name(part.sval for part in each) for each in objects)


def _name(node: Any) -> str:
    return write_name(part for part in (node.catalogname, node.schemaname, node.relname) if part)


def _has_effects(node: Any) -> bool:
    if isinstance(node, ast.ExplainStmt):
        return _is_analyze(node) and _has_effects(node.query)
    if isinstance(node, ast.DeclareCursorStmt):
        return _has_effects(node.query)
    if isinstance(node, ast.VariableShowStmt | ast.FetchStmt):
        return False
    return not isinstance(node, ast.SelectStmt) or _writes(node)


def _writes(node: Any) -> bool:
    if isinstance(node, tuple | list):
        return any(_writes(each) for each in node)
    if not isinstance(node, ast.Node):
        return False
    if isinstance(node, (*_WRITES, ast.IntoClause, ast.LockingClause)):
        return True
    return any(_writes(getattr(node, slot)) for slot in node)


def _is_analyze(node: Any) -> bool:
    """The last one counts; so does `on`, a number that is not 0, or nothing."""
    is_on = False
    for option in node.options or ():
        if option.defname == "analyze":
            value = option.arg
            shown = getattr(value, "sval", None) or getattr(value, "ival", None) if value is not None else True
            if isinstance(value, ast.Boolean):
                shown = value.boolval
            is_on = shown not in (False, 0, None, "0") and str(shown).lower() not in ("off", "false", "no", "f", "of")
    return is_on
