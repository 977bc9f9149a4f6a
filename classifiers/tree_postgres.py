"""Queries and DML: canonical text to a parse tree, and the tree to acts on tables.

Only tree nodes named here are read; any other node, or an argument of a node that is not read here, makes the statement
unreadable. Names of CTEs hide tables by position only: those listed earlier, all of the list under RECURSIVE, never the target of
a write and never a qualified name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from classifiers.calls_postgres import note_function, note_operator, note_set_config, note_type
from classifiers.canonical_postgres import make_canonical
from classifiers.conditions import is_trivial
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.limits import MAX_PARSED_TOKENS
from classifiers.relations_postgres import find_read_flags, find_write_acts
from classifiers.second_opinion_postgres import find_table_positions
from classifiers.tokens import Token, Unreadable, join_name

_READ, _WRITE = Kind.DML_READ, Kind.DML_WRITE

_PLAIN = (
    exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Parameter, exp.Paren, exp.Tuple, exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ,
    exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Sub, exp.Neg, exp.Mul, exp.Is, exp.In, exp.Any, exp.All, exp.Between, exp.Like, exp.ILike,
    exp.Case, exp.If, exp.Exists, exp.Window, exp.WindowSpec, exp.Filter, exp.WithinGroup, exp.Order, exp.Ordered, exp.Distinct, exp.Alias,
    exp.Var, exp.Where, exp.Group, exp.Rollup, exp.Cube, exp.GroupingSets, exp.Having, exp.Limit, exp.Offset, exp.NullSafeEQ,
    exp.NullSafeNEQ, exp.Star,
)  # fmt: skip
"""Nodes that mean nothing but their children."""

_ROW_CALLS = frozenset(
    ["row_to_json", "to_json", "to_jsonb", "json_agg", "jsonb_agg", "json_agg_strict", "jsonb_agg_strict", "array_agg", "concat",
     "record_out", "record_send", "json_build_array", "jsonb_build_array", "quote_literal", "quote_nullable", "hash_record", "any_value",
     "first_value", "last_value"]
)  # fmt: skip
"""t.row_to_json is row_to_json(t) where t has no such column."""


@dataclass(slots=True)
class _Source:
    """One thing in FROM. name: the relation's, "" if it is derived. bases: relations under a derived one."""

    name: str
    mode: str = "read"
    bases: frozenset[tuple[str, str]] = frozenset()


@dataclass(slots=True)
class _Scope:
    sources: dict[str, _Source] = field(default_factory=dict)
    outer: _Scope | None = None


@dataclass(frozen=True, slots=True)
class _Derived:
    """What a query hands up. is_unbounded: some relation is read without WHERE or limit."""

    bases: frozenset[tuple[str, str]] = frozenset()
    is_unbounded: bool = False


_Ctes = dict[str, _Derived]


def classify_query(tokens: list[Token]) -> Draft:
    """Classify the tokens of one SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE or MERGE.

    Raises Unreadable where the reading cannot be vouched for.
    """
    canonical = make_canonical(tokens)
    if len(canonical.text) > MAX_PARSED_TOKENS * 8:
        raise Unreadable("the statement is too long")
    try:
        trees = sqlglot.parse(canonical.text, read="postgres")
    except (SqlglotError, RecursionError, TypeError, ValueError, AttributeError, IndexError, KeyError):
        raise Unreadable("the statement is not understood") from None
    tree = trees[0] if len(trees) == 1 else None
    if not isinstance(tree, exp.Expression):
        raise Unreadable("the statement is not understood")
    reader = _Reader(tokens)
    reader.has_named_arguments = canonical.has_named_arguments
    reader.restore_names(tree)
    reader.top(tree)
    reader.check_counts(canonical.verbs, canonical.calls)
    draft = reader.draft
    for schema, operator in canonical.operators:
        note_operator(draft, schema, operator)
    for parts in canonical.types:
        note_type(draft, parts)
    if canonical.has_row_lock:
        reads = [key for key in draft.acts if key[0] is _READ]
        for kind, name, mode in reads or [(_READ, "", "")]:
            draft.act(kind, name, mode, "row_lock")
    return draft


class _Reader:
    """One walk over one tree."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.draft = Draft()
        self.tables: set[int] = set()
        self.named: set[int] = set()
        self.has_named_arguments = False
        self.verbs = {"INSERT": 0, "UPDATE": 0, "DELETE": 0, "MERGE": 0}

    def restore_names(self, tree: exp.Expression) -> None:
        """Put the real names and strings back in place of the indexes; a node keeps its index in `meta`."""
        tokens = self.tokens
        for node in tree.walk():
            if isinstance(node, exp.Identifier):
                code = node.this
                if not node.quoted:
                    if code not in ("DEFAULT", "_values"):
                        raise Unreadable("a word that was not expected")
                    continue
                if code in ("~array", "~row"):
                    node.args["this"] = code[1:]
                    node.meta["index"] = -1
                else:
                    index = int(code[1:])
                    node.args["this"] = tokens[index].value or ""
                    node.meta["index"] = index
            elif isinstance(node, exp.Literal) and node.is_string:
                value = tokens[int(node.this[1:])].value
                node.args["this"] = f"?{node.this}" if value is None else value
                node.meta["is_known"] = value is not None

    def check_counts(self, verbs: dict[str, int], calls: list[int]) -> None:
        """The tokens' own account must agree with what the walk has met."""
        if verbs != self.verbs:
            raise Unreadable("verbs in the text and in its reading differ")
        if self.tables != find_table_positions(self.tokens):
            raise Unreadable("tables in the text and in its reading differ")
        if not self.named.issuperset(calls):
            raise Unreadable("calls in the text and in its reading differ")

    def top(self, tree: exp.Expression) -> None:
        if isinstance(tree, exp.Insert | exp.Update | exp.Delete | exp.Merge):
            self.dml(tree, {}, None)
            return
        derived = self.query(tree, {}, None, is_top=True)
        reads = [key for key in self.draft.acts if key[0] is _READ]
        if not reads:
            self.draft.act(_READ)
        if derived.is_unbounded:
            for _, name, mode in reads:
                if name:
                    self.draft.act(_READ, name, mode, "unbounded_read")

    # queries

    def query(self, node: exp.Expression, ctes: _Ctes, outer: _Scope | None, *, is_top: bool = False) -> _Derived:
        """Any node that yields rows."""
        if isinstance(node, exp.Insert | exp.Update | exp.Delete | exp.Merge):
            return self.dml(node, ctes, outer)
        if isinstance(node, exp.Select):
            return self.select(node, ctes, outer, is_top=is_top)
        if isinstance(node, exp.SetOperation):
            return self.set_operation(node, ctes, outer, is_top=is_top)
        if isinstance(node, exp.Subquery):
            _only(node, "this", "alias", "with_", "order", "limit", "offset")
            ctes = self.with_list(node, ctes, outer)
            inner = self.query(node.this, ctes, outer, is_top=is_top)
            self.tail(node, _Scope(outer=outer), ctes)
            return _Derived(inner.bases, inner.is_unbounded and not _is_limited(node))
        if isinstance(node, exp.Values):
            _only(node, "expressions", "alias", "with_", "order", "limit", "offset")
            ctes = self.with_list(node, ctes, outer)
            scope = _Scope(outer=outer)
            for row in node.expressions:
                self.expression(row, scope, ctes)
            self.tail(node, scope, ctes)
            return _Derived()
        raise Unreadable("a form of query that is not read")

    def set_operation(self, node: exp.SetOperation, ctes: _Ctes, outer: _Scope | None, *, is_top: bool) -> _Derived:
        _only(node, "this", "expression", "distinct", "with_", "order", "limit", "offset")
        ctes = self.with_list(node, ctes, outer)
        arms: list[exp.Expression] = []
        at: exp.Expression = node
        while isinstance(at, exp.SetOperation):  # long chains lean left
            if at is not node:
                _only(at, "this", "expression", "distinct")
            arms.append(at.expression)
            at = at.this
        arms.append(at)
        found = [self.query(arm, ctes, outer, is_top=is_top) for arm in reversed(arms)]
        self.tail(node, _Scope(outer=outer), ctes)
        bases = frozenset[tuple[str, str]]().union(*(each.bases for each in found))
        return _Derived(bases, any(each.is_unbounded for each in found) and not _is_limited(node))

    def select(self, node: exp.Select, ctes: _Ctes, outer: _Scope | None, *, is_top: bool) -> _Derived:
        _only(
            node, "expressions", "distinct", "from_", "joins", "where", "group", "having", "windows", "order", "limit", "offset", "into",
            "with_",
        )  # fmt: skip
        ctes = self.with_list(node, ctes, outer)
        scope = _Scope(outer=outer)
        open_sources = False
        from_ = node.args.get("from_")
        if from_ is not None:
            open_sources = self.source(from_.this, scope, ctes)
        open_sources = self.joins(node.args.get("joins"), scope, ctes) or open_sources
        flags: set[str] = set()
        for item in node.expressions:
            self.item(item, scope, ctes, flags)
        for key in ("distinct", "where", "group", "having"):
            self.part(node.args.get(key), scope, ctes)
        for window in node.args.get("windows") or ():
            self.part(window, scope, ctes)
        self.tail(node, scope, ctes)
        where = node.args.get("where")
        is_trivial_where = where is not None and is_trivial(where.this)
        if is_trivial_where:
            flags.add("trivial_where")
        self.flag_sources(scope, flags)
        into = node.args.get("into")
        if into is not None:
            self.into(into, is_top=is_top)
        bases = frozenset[tuple[str, str]]().union(*(source.bases for source in scope.sources.values()))
        is_unbounded = open_sources and (where is None or is_trivial_where) and not _is_limited(node)
        return _Derived(bases, is_unbounded)

    def flag_sources(self, scope: _Scope, flags: set[str]) -> None:
        if not flags:
            return
        named = [(source.name, source.mode) for source in scope.sources.values() if source.name]
        for name, mode in named or [("", "")]:
            self.draft.act(_WRITE if mode == "write" else _READ, name, mode, *flags)

    def into(self, into: exp.Expression, *, is_top: bool) -> None:
        if not is_top:
            raise Unreadable("INTO in a subquery")
        _only(into, "this", "temporary", "unlogged")
        name = self.table_name(into.this)
        self.draft.act(Kind.DDL, join_name(name), "write", "select_into")

    def with_list(self, node: exp.Expression, ctes: _Ctes, outer: _Scope | None) -> _Ctes:
        with_ = node.args.get("with_")
        if with_ is None:
            return ctes
        _only(with_, "expressions", "recursive")
        ctes = dict(ctes)
        entries: list[exp.CTE] = with_.expressions
        if with_.args.get("recursive"):
            for entry in entries:
                ctes[entry.alias] = _Derived()
        for entry in entries:
            _only(entry, "this", "alias", "materialized")
            _only(entry.args["alias"], "this", "columns")
            self.note_named(entry.args["alias"].this)
            ctes[entry.alias] = self.query(entry.this, ctes, outer)
        return ctes

    def tail(self, node: exp.Expression, scope: _Scope, ctes: _Ctes) -> None:
        for key in ("order", "limit", "offset"):
            self.part(node.args.get(key), scope, ctes)

    def item(self, item: exp.Expression, scope: _Scope, ctes: _Ctes, flags: set[str]) -> None:
        """One member of a select or RETURNING list."""
        if isinstance(item, exp.Star):
            _only(item)
            flags.add("star")
            self.read_whole(scope)
        elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
            flags.add("star")
            self.column(item, scope)
        elif isinstance(item, exp.Dot) and isinstance(item.expression, exp.Star):
            flags.add("star")
            self.expression(item.this, scope, ctes)
            self.read_whole(scope)
        else:
            self.expression(item, scope, ctes)

    def read_whole(self, scope: _Scope) -> None:
        for source in scope.sources.values():
            if source.name:
                self.add_column(source, "*")

    # sources

    def source(self, node: exp.Expression, scope: _Scope, ctes: _Ctes) -> bool:
        """One item of FROM; returns whether it reads a relation unbounded."""
        if isinstance(node, exp.Table):
            return self.table(node, scope, ctes)
        if isinstance(node, exp.Lateral):
            _only(node, "this", "alias", "ordinality")
            if isinstance(node.this, exp.Subquery):
                inner = self.query(node.this, ctes, scope)
                self.bind(node, scope, _Source("", bases=inner.bases))
                return inner.is_unbounded
            self.expression(node.this, scope, ctes)
            self.bind(node, scope, _Source(""))
            return False
        if isinstance(node, exp.Subquery) and _is_join_tree(node.this):
            _only(node, "this", "alias", "joins")
            inside = _Scope(outer=scope.outer) if node.args.get("alias") else scope
            is_open = self.source(node.this, inside, ctes)
            if inside is not scope:
                bases = frozenset[tuple[str, str]]().union(*(each.bases for each in inside.sources.values()))
                self.read_whole(inside)
                self.bind(node, scope, _Source("", bases=bases))
            return self.joins(node.args.get("joins"), scope, ctes) or is_open
        if isinstance(node, exp.Subquery | exp.Values | exp.Select | exp.SetOperation):
            inner_joins = node.args.pop("joins", None) if isinstance(node, exp.Subquery) else None
            # A subquery in FROM without LATERAL does not see its neighbours, but what is outside.
            inner = self.query(node, ctes, scope.outer)
            self.bind(node, scope, _Source("", bases=inner.bases))
            return self.joins(inner_joins, scope, ctes) or inner.is_unbounded
        raise Unreadable("a form of FROM that is not read")

    def joins(self, joins: list[exp.Join] | None, scope: _Scope, ctes: _Ctes) -> bool:
        is_open = False
        for join in joins or ():
            _only(join, "this", "kind", "side", "method", "on", "using")
            is_open = self.source(join.this, scope, ctes) or is_open
            if join.args.get("method"):
                if str(join.args["method"]).upper() != "NATURAL":
                    raise Unreadable("a form of join that is not read")
                self.read_whole(scope)
            for column in join.args.get("using") or ():
                for source in scope.sources.values():
                    if source.name:
                        self.add_column(source, column.name)
            self.part(join.args.get("on"), scope, ctes)
        return is_open

    def table(self, node: exp.Table, scope: _Scope, ctes: _Ctes) -> bool:
        _only(node, "this", "db", "catalog", "alias", "joins", "rows_from", "ordinality", "only")
        is_open = True
        if node.args.get("rows_from"):
            inside = _Scope(outer=scope)
            for each in node.args["rows_from"]:
                if isinstance(each.this, exp.Identifier):
                    raise Unreadable("a form of FROM that is not read")
                self.table(each, inside, ctes)
            self.bind(node, scope, _Source(""))
            is_open = False
        elif isinstance(node.this, exp.Anonymous):
            qualifier = [part.name for part in (node.args.get("catalog"), node.args.get("db")) if part is not None]
            self.call(node.this, scope, ctes, tuple(qualifier))
            self.bind(node, scope, _Source(""))
            is_open = False
        else:
            name = self.table_name(node)
            derived = ctes.get(name[0]) if len(name) == 1 else None
            if derived is not None:
                self.bind(node, scope, _Source("", bases=derived.bases))
                is_open = derived.is_unbounded
            else:
                full = join_name(name)
                self.draft.act(_READ, full, "read", *find_read_flags(name))
                source = _Source(full, bases=frozenset([(full, "read")]))
                self.bind(node, scope, source)
                alias = node.args.get("alias")
                if alias is not None and alias.args.get("columns"):
                    self.add_column(source, "*")
        return self.joins(node.args.get("joins"), scope, ctes) or is_open

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

    def bind(self, node: exp.Expression, scope: _Scope, source: _Source) -> None:
        alias = node.args.get("alias")
        name = ""
        if alias is not None:
            _only(alias, "this", "columns")
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
            note_type(self.draft, (each.name,))

    # expressions

    def part(self, node: exp.Expression | None, scope: _Scope, ctes: _Ctes) -> None:
        if node is not None:
            self.expression(node, scope, ctes)

    def expression(self, node: exp.Expression, scope: _Scope, ctes: _Ctes) -> None:
        """Any expression; iterative, as operator chains can be long."""
        stack: list[exp.Expression] = [node]
        while stack:
            each = stack.pop()
            if isinstance(each, exp.Column):
                self.column(each, scope)
            elif isinstance(each, exp.Anonymous):
                self.call(each, scope, ctes, ())
            elif isinstance(each, exp.Dot):
                self.dot(each, scope, ctes)
            elif isinstance(each, exp.Select | exp.SetOperation | exp.Subquery | exp.Values):
                self.query(each, ctes, scope)
            elif isinstance(each, _PLAIN):
                if isinstance(each, exp.Star):
                    _only(each)
                if isinstance(each, exp.Alias):
                    self.note_named(each.args.get("alias"))
                stack += each.iter_expressions(reverse=True)
            else:
                raise Unreadable("a form of expression that is not read")

    def dot(self, node: exp.Dot, scope: _Scope, ctes: _Ctes) -> None:
        parts: list[exp.Expression] = []
        at: exp.Expression = node
        while isinstance(at, exp.Dot):
            parts.append(at.expression)
            at = at.this
        parts.append(at)
        parts.reverse()
        last = parts[-1]
        if isinstance(last, exp.Anonymous) and all(isinstance(p, exp.Identifier) for p in parts[:-1]):
            self.call(last, scope, ctes, tuple(p.name for p in parts[:-1]))
            return
        if not all(isinstance(p, exp.Identifier | exp.Star) for p in parts[1:]):
            raise Unreadable("a form of expression that is not read")
        self.expression(parts[0], scope, ctes)
        bases = {base for source in scope.sources.values() for base in source.bases}
        for part in parts[1:]:
            name = "*" if isinstance(part, exp.Star) else part.name
            for base, mode in bases:
                self.draft.add_column(_WRITE if mode == "write" else _READ, base, mode, name)

    def call(self, node: exp.Anonymous, scope: _Scope, ctes: _Ctes, qualifier: tuple[str, ...]) -> None:
        _only(node, "this", "expressions")
        identifier = node.this
        if not isinstance(identifier, exp.Identifier):
            raise Unreadable("a call of something that is not a name")
        self.note_named(identifier)
        name = identifier.name
        if identifier.meta["index"] >= 0:
            note_function(self.draft, (*qualifier, name))
        arguments = node.expressions
        if name == "set_config":
            first = arguments[0] if arguments else None
            is_plain = (
                isinstance(first, exp.Literal)
                and first.is_string
                and first.meta["is_known"]
                and not self.has_named_arguments
            )
            note_set_config(self.draft, str(first.this) if is_plain and first is not None else None)
        if len(arguments) == 1 and isinstance(arguments[0], exp.Column) and arguments[0].args.get("table") is None:
            source = scope.sources.get(arguments[0].name)
            if source is not None and source.name:
                self.add_column(source, name)  # f(t) may be the column t.f
        for argument in arguments:
            if not isinstance(argument, exp.Star):
                self.expression(argument, scope, ctes)

    def add_column(self, source: _Source, column: str) -> None:
        self.draft.add_column(_WRITE if source.mode == "write" else _READ, source.name, source.mode, column)

    def column(self, node: exp.Column, scope: _Scope) -> None:
        """Put a column to every source it may belong to; see a whole row where a source's name stands as a value."""
        name = "*" if isinstance(node.this, exp.Star) else node.this.name
        if isinstance(node.this, exp.Identifier) and not node.this.quoted:
            return
        table = node.args.get("table")
        at: _Scope | None = scope
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

    def whole_row(self, source: _Source) -> None:
        if source.name:
            self.draft.act(_WRITE if source.mode == "write" else _READ, source.name, source.mode, "whole_row")
            self.add_column(source, "*")
        elif source.bases:
            for base, mode in source.bases:
                self.draft.act(_WRITE if mode == "write" else _READ, base, mode, "whole_row")

    # writes

    def dml(self, node: exp.Expression, ctes: _Ctes, outer: _Scope | None) -> _Derived:
        ctes = self.with_list(node, ctes, outer)
        scope = _Scope(outer=outer)
        if isinstance(node, exp.Insert):
            target = self.insert(node, scope, ctes, outer)
        elif isinstance(node, exp.Update):
            target = self.update(node, scope, ctes)
        elif isinstance(node, exp.Delete):
            target = self.delete(node, scope, ctes)
        elif isinstance(node, exp.Merge):
            target = self.merge(node, scope, ctes)
        else:
            raise Unreadable("a form of write that is not read")
        returning = node.args.get("returning")
        if returning is not None:
            _only(returning, "expressions")
            flags = {"returning"}
            scope.sources.setdefault("old", target)
            scope.sources.setdefault("new", target)
            for item in returning.expressions:
                self.item(item, scope, ctes, flags)
            self.draft.act(_WRITE, target.name, "write", *flags)
        return _Derived(target.bases)

    def target(self, node: exp.Expression, scope: _Scope, *flags: str) -> _Source:
        if not isinstance(node, exp.Table):
            raise Unreadable("a form of write that is not read")
        _only(node, "this", "db", "catalog", "alias", "only")
        name = self.table_name(node)
        full = join_name(name)
        self.draft.act(_WRITE, full, "write", *flags, *find_read_flags(name))
        for kind, more in find_write_acts(name):
            self.draft.act(kind, full, "write", *more)
            self.draft.is_neutral = False
        source = _Source(full, "write", frozenset([(full, "write")]))
        self.bind(node, scope, source)
        return source

    def insert(self, node: exp.Insert, scope: _Scope, ctes: _Ctes, outer: _Scope | None) -> _Source:
        _only(node, "this", "expression", "conflict", "returning", "with_", "default")
        self.verbs["INSERT"] += 1
        table, columns = node.this, []
        if isinstance(table, exp.Schema):
            _only(table, "this", "expressions")
            columns = table.expressions
            table = table.this
        source = self.target(table, scope)
        for column in columns:
            if not isinstance(column, exp.Identifier):
                raise Unreadable("a column list that is not read")
            self.add_column(source, column.name)
        if node.expression is not None:
            self.query(node.expression, ctes, outer)
        conflict = node.args.get("conflict")
        if conflict is not None:
            _only(conflict, "expressions", "action", "conflict_keys", "constraint", "index_predicate", "where")
            inside = _Scope(dict(scope.sources), outer)
            inside.sources.setdefault("excluded", source)
            for key in conflict.args.get("conflict_keys") or ():
                self.expression(key, inside, ctes)
            self.assignments(conflict.expressions, source, inside, ctes)
            for key in ("index_predicate", "where"):
                self.part(conflict.args.get(key), inside, ctes)
        return source

    def assignments(self, items: list[exp.Expression], source: _Source, scope: _Scope, ctes: _Ctes) -> None:
        for item in items:
            if not isinstance(item, exp.EQ):
                raise Unreadable("an assignment in a form that is not read")
            left = item.this
            while isinstance(left, exp.Paren | exp.Sub):
                if isinstance(left, exp.Sub):  # a subscript
                    self.expression(left.expression, scope, ctes)
                left = left.this
            for column in left.expressions if isinstance(left, exp.Tuple) else [left]:
                if not isinstance(column, exp.Column):
                    raise Unreadable("an assignment in a form that is not read")
                self.add_column(source, column.parts[0].name)
            self.expression(item.expression, scope, ctes)

    def update(self, node: exp.Update, scope: _Scope, ctes: _Ctes) -> _Source:
        _only(node, "this", "expressions", "from_", "where", "returning", "with_")
        self.verbs["UPDATE"] += 1
        source = self.target(node.this, scope)
        from_ = node.args.get("from_")
        if from_ is not None:
            self.source(from_.this, scope, ctes)
        self.assignments(node.expressions, source, scope, ctes)
        self.where(node.args.get("where"), source, scope, ctes)
        return source

    def delete(self, node: exp.Delete, scope: _Scope, ctes: _Ctes) -> _Source:
        _only(node, "this", "using", "where", "returning", "with_", "cluster")
        self.verbs["DELETE"] += 1
        source = self.target(node.this, scope)
        for each in node.args.get("using") or ():
            self.source(each, scope, ctes)
        self.where(node.args.get("where"), source, scope, ctes)
        return source

    def where(self, where: exp.Where | None, target: _Source, scope: _Scope, ctes: _Ctes) -> None:
        if where is None:
            self.draft.act(_WRITE, target.name, "write", "no_where")
            return
        if is_trivial(where.this):
            self.draft.act(_WRITE, target.name, "write", "trivial_where")
        self.part(where, scope, ctes)

    def merge(self, node: exp.Merge, scope: _Scope, ctes: _Ctes) -> _Source:
        _only(node, "this", "using", "on", "whens", "returning", "with_")
        self.verbs["MERGE"] += 1
        source = self.target(node.this, scope)
        self.source(node.args["using"], scope, ctes)
        on = node.args["on"]
        if is_trivial(on):
            self.draft.act(_WRITE, source.name, "write", "no_where")
        self.part(on, scope, ctes)
        _only(node.args["whens"], "expressions")
        for when in node.args["whens"].expressions:
            _only(when, "matched", "source", "condition", "then")
            self.part(when.args.get("condition"), scope, ctes)
            self.merge_action(when.args["then"], source, scope, ctes)
        return source

    def merge_action(self, then: exp.Expression, source: _Source, scope: _Scope, ctes: _Ctes) -> None:
        if isinstance(then, exp.Var):
            if then.name == "DELETE":
                self.verbs["DELETE"] += 1
            elif then.name != "DO NOTHING":
                raise Unreadable("a MERGE action that is not read")
        elif isinstance(then, exp.Update):
            _only(then, "expressions")
            self.verbs["UPDATE"] += 1
            self.assignments(then.expressions, source, scope, ctes)
        elif isinstance(then, exp.Insert):
            _only(then, "this", "expression", "default")
            self.verbs["INSERT"] += 1
            for part in (then.this, then.args.get("expression")):
                if isinstance(part, exp.Expression):
                    self.expression(part, scope, ctes)
        else:
            raise Unreadable("a MERGE action that is not read")


def _only(node: exp.Expression, *keys: str) -> None:
    """Refuse a node that has any argument set besides these."""
    for key, value in node.args.items():
        if value and key not in keys:
            raise Unreadable("a clause that is not read")


def _is_join_tree(node: exp.Expression) -> bool:
    """Parentheses around a join, not around a query."""
    if isinstance(node, exp.Subquery):
        return bool(node.args.get("alias") or node.args.get("joins"))
    return isinstance(node, exp.Table)


def _is_limited(node: exp.Expression) -> bool:
    limit = node.args.get("limit")
    return limit is not None and not isinstance(limit.expression, exp.Null)
