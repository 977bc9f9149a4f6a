"""What a walk over one parse tree finds out and carries along: the acts, what is in FROM, which names and verbs it has met.

Columns are put to their tables here. Reads no clause of its own: that is for tree_queries.py, tree_sources.py,
tree_expressions.py and tree_writes.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from sqlglot import exp

from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.meanings import Meanings
from classifiers.tokens import Unreadable, join_name

READ, WRITE = Kind.DML_READ, Kind.DML_WRITE

_ROW_CALLS = frozenset(
    ["row_to_json", "to_json", "to_jsonb", "json_agg", "jsonb_agg", "json_agg_strict", "jsonb_agg_strict", "array_agg", "concat",
     "record_out", "record_send", "json_build_array", "jsonb_build_array", "quote_literal", "quote_nullable", "hash_record", "any_value",
     "first_value", "last_value"]
)  # fmt: skip
"""t.row_to_json is row_to_json(t) where t has no such column."""


@dataclass(slots=True)
class Source:
    """One thing in FROM. name: the relation's, "" if it is derived. bases: relations under a derived one."""

    name: str
    mode: str = "read"
    bases: frozenset[tuple[str, str]] = frozenset()


@dataclass(slots=True)
class Scope:
    sources: dict[str, Source] = field(default_factory=dict)
    outer: Scope | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """What a query hands up. is_unbounded: some relation is read without WHERE or limit."""

    bases: frozenset[tuple[str, str]] = frozenset()
    is_unbounded: bool = False


Ctes = dict[str, Derived]


class Walk:
    """One walk over one tree.

    rows: given from above, as queries, writes and expressions hold each other. meanings: of the database. has_named_arguments: see Canonical.
    tables, named: indexes of tokens met as tables and as names; verbs: how often each was met.
    """

    __slots__ = ("_rows", "draft", "has_named_arguments", "meanings", "named", "tables", "verbs")

    def __init__(self, rows: Rows, meanings: Meanings, *, has_named_arguments: bool) -> None:
        self._rows = rows
        self.meanings = meanings
        self.draft = Draft()
        self.tables: set[int] = set()
        self.named: set[int] = set()
        self.has_named_arguments = has_named_arguments
        self.verbs = {"INSERT": 0, "UPDATE": 0, "DELETE": 0, "MERGE": 0}

    def query(self, node: exp.Expression, ctes: Ctes, outer: Scope | None, *, is_top: bool = False) -> Derived:
        """Any node that yields rows."""
        return self._rows(self, node, ctes, outer, is_top=is_top)

    def table_name(self, node: exp.Expression) -> tuple[str, ...]:
        if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
            raise Unreadable("a table in a form that is not read")
        self.tables.add(node.this.meta["index"])
        self.note_named(node.this)
        parts = (node.args.get("catalog"), node.args.get("db"), node.this)
        return tuple(part.name for part in parts if part is not None)

    def note_named(self, identifier: exp.Expression | None) -> None:
        if isinstance(identifier, exp.Identifier):
            self.named.add(identifier.meta.get("index", -1))

    def bind(self, node: exp.Expression, scope: Scope, source: Source) -> None:
        alias = node.args.get("alias")
        name = ""
        if alias is not None:
            only(alias, "this", "columns")
            self.note_named(alias.this)
            for column in alias.args.get("columns") or ():
                if isinstance(column, exp.ColumnDef):
                    self.column_definition(column)
                elif not isinstance(column, exp.Identifier):
                    raise Unreadable("a column list that is not read")
            name = alias.name
        if not name and isinstance(node, exp.Table) and not node.args.get("rows_from"):
            name = node.this.name
        if not name and isinstance(node, exp.Lateral) and isinstance(node.this, exp.Anonymous):
            name = node.this.name
        while name in scope.sources:
            name += "\0"  # same alias in another branch of a join tree: keep both
        scope.sources[name or f"\0{len(scope.sources)}"] = source

    def column_definition(self, node: exp.ColumnDef) -> None:
        kind = node.args.get("kind")
        if kind is None:
            raise Unreadable("a column list that is not read")
        for each in kind.find_all(exp.Identifier):
            self.note_named(each)
            self.meanings.note_type(self.draft, (each.name,))

    def add_column(self, source: Source, column: str) -> None:
        self.draft.add_column(WRITE if source.mode == "write" else READ, source.name, source.mode, column)

    def column(self, node: exp.Column, scope: Scope) -> None:
        """Put a column to every source it may belong to; see a whole row where a source's name stands as a value."""
        name = "*" if isinstance(node.this, exp.Star) else node.this.name
        if isinstance(node.this, exp.Identifier) and not node.this.quoted:
            return
        table = node.args.get("table")
        at: Scope | None = scope
        if table is not None:
            qualifier = table.name
            while at is not None:
                source = at.sources.get(qualifier)
                if source is not None:
                    if source.name:
                        self.add_column(source, name)
                        if name in _ROW_CALLS:
                            self.whole_row(source)
                    return
                at = at.outer
        at = scope
        while at is not None:
            for alias, source in at.sources.items():
                if source.name:
                    self.add_column(source, name)
                if (table is None and alias == name) or (
                    table is not None
                    and node.args.get("db") is None
                    and alias == name
                    and source.name.endswith(join_name([table.name, name]))
                ):
                    self.whole_row(source)
            at = at.outer

    def whole_row(self, source: Source) -> None:
        if not self.meanings.has_row_values:
            return
        if source.name:
            self.draft.act(WRITE if source.mode == "write" else READ, source.name, source.mode, "whole_row")
            self.add_column(source, "*")
        elif source.bases:
            for base, mode in source.bases:
                self.draft.act(WRITE if mode == "write" else READ, base, mode, "whole_row")

    def read_whole(self, scope: Scope) -> None:
        for source in scope.sources.values():
            if source.name:
                self.add_column(source, "*")

    def flag_sources(self, scope: Scope, flags: set[str]) -> None:
        if not flags:
            return
        named = [(source.name, source.mode) for source in scope.sources.values() if source.name]
        for name, mode in named or [("", "")]:
            self.draft.act(WRITE if mode == "write" else READ, name, mode, *flags)


class Rows(Protocol):
    """Reads any node that yields rows. outer: the scope around it; is_top: it is the statement itself."""

    def __call__(
        self, walk: Walk, node: exp.Expression, ctes: Ctes, outer: Scope | None, *, is_top: bool
    ) -> Derived: ...


def only(node: exp.Expression, *keys: str) -> None:
    """Refuse a node that has any argument set besides these."""
    for key, value in node.args.items():
        if value and key not in keys:
            raise Unreadable("a clause that is not read")
