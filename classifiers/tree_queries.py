"""SELECT, VALUES, set operations and WITH. Counterpart: tree_writes.py.

Names of CTEs hide tables by position only: those listed earlier, all of the list under RECURSIVE, never the target of
a write and never a qualified name.
"""

from __future__ import annotations

from sqlglot import exp

from classifiers.conditions import is_trivial
from classifiers.effects import Kind
from classifiers.tokens import Unreadable, join_name
from classifiers.tree_expressions import read_expression, read_part
from classifiers.tree_sources import read_joins, read_source
from classifiers.tree_walk import Ctes, Derived, Scope, Walk, only


def read_query(walk: Walk, node: exp.Expression, ctes: Ctes, outer: Scope | None, *, is_top: bool = False) -> Derived:
    """A query in any of its forms."""
    if isinstance(node, exp.Select):
        return _select(walk, node, ctes, outer, is_top=is_top)
    if isinstance(node, exp.SetOperation):
        return _set_operation(walk, node, ctes, outer, is_top=is_top)
    if isinstance(node, exp.Subquery):
        only(node, "this", "alias", "with_", "order", "limit", "offset")
        ctes = read_with(walk, node, ctes, outer)
        inner = walk.query(node.this, ctes, outer, is_top=is_top)
        _tail(walk, node, Scope(outer=outer), ctes)
        return Derived(inner.bases, inner.is_unbounded and not _is_limited(node))
    if isinstance(node, exp.Values):
        only(node, "expressions", "alias", "with_", "order", "limit", "offset")
        ctes = read_with(walk, node, ctes, outer)
        scope = Scope(outer=outer)
        for row in node.expressions:
            read_expression(walk, row, scope, ctes)
        _tail(walk, node, scope, ctes)
        return Derived()
    raise Unreadable("a form of query that is not read")


def _set_operation(walk: Walk, node: exp.SetOperation, ctes: Ctes, outer: Scope | None, *, is_top: bool) -> Derived:
    only(node, "this", "expression", "distinct", "with_", "order", "limit", "offset")
    ctes = read_with(walk, node, ctes, outer)
    arms: list[exp.Expression] = []
    at: exp.Expression = node
    while isinstance(at, exp.SetOperation):  # long chains lean left
        if at is not node:
            only(at, "this", "expression", "distinct")
        arms.append(at.expression)
        at = at.this
    arms.append(at)
    found = [walk.query(arm, ctes, outer, is_top=is_top) for arm in reversed(arms)]
    _tail(walk, node, Scope(outer=outer), ctes)
    bases = frozenset[tuple[str, str]]().union(*(each.bases for each in found))
    return Derived(bases, any(each.is_unbounded for each in found) and not _is_limited(node))


def _select(walk: Walk, node: exp.Select, ctes: Ctes, outer: Scope | None, *, is_top: bool) -> Derived:
    only(
        node, "expressions", "distinct", "from_", "joins", "where", "group", "having", "windows", "order", "limit", "offset", "into",
        "with_",
    )  # fmt: skip
    ctes = read_with(walk, node, ctes, outer)
    scope = Scope(outer=outer)
    open_sources = False
    from_ = node.args.get("from_")
    if from_ is not None:
        open_sources = read_source(walk, from_.this, scope, ctes)
    open_sources = read_joins(walk, node.args.get("joins"), scope, ctes) or open_sources
    flags: set[str] = set()
    for item in node.expressions:
        read_item(walk, item, scope, ctes, flags)
    for key in ("distinct", "where", "group", "having"):
        read_part(walk, node.args.get(key), scope, ctes)
    for window in node.args.get("windows") or ():
        read_part(walk, window, scope, ctes)
    _tail(walk, node, scope, ctes)
    where = node.args.get("where")
    is_trivial_where = where is not None and is_trivial(where.this)
    if is_trivial_where:
        flags.add("trivial_where")
    walk.flag_sources(scope, flags)
    into = node.args.get("into")
    if into is not None:
        _into(walk, into, is_top=is_top)
    bases = frozenset[tuple[str, str]]().union(*(source.bases for source in scope.sources.values()))
    is_unbounded = open_sources and (where is None or is_trivial_where) and not _is_limited(node)
    return Derived(bases, is_unbounded)


def _into(walk: Walk, into: exp.Expression, *, is_top: bool) -> None:
    if not is_top:
        raise Unreadable("INTO in a subquery")
    only(into, "this", "temporary", "unlogged")
    name = walk.table_name(into.this)
    walk.draft.act(Kind.DDL, join_name(name), "write", "select_into")


def read_with(walk: Walk, node: exp.Expression, ctes: Ctes, outer: Scope | None) -> Ctes:
    with_ = node.args.get("with_")
    if with_ is None:
        return ctes
    only(with_, "expressions", "recursive")
    ctes = dict(ctes)
    entries: list[exp.CTE] = with_.expressions
    if with_.args.get("recursive"):
        for entry in entries:
            ctes[entry.alias] = Derived()
    for entry in entries:
        only(entry, "this", "alias", "materialized")
        only(entry.args["alias"], "this", "columns")
        walk.note_named(entry.args["alias"].this)
        ctes[entry.alias] = walk.query(entry.this, ctes, outer)
    return ctes


def _tail(walk: Walk, node: exp.Expression, scope: Scope, ctes: Ctes) -> None:
    for key in ("order", "limit", "offset"):
        read_part(walk, node.args.get(key), scope, ctes)


def read_item(walk: Walk, item: exp.Expression, scope: Scope, ctes: Ctes, flags: set[str]) -> None:
    """One member of a select or RETURNING list."""
    if isinstance(item, exp.Star):
        only(item)
        flags.add("star")
        walk.read_whole(scope)
    elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        flags.add("star")
        walk.column(item, scope)
    elif isinstance(item, exp.Dot) and isinstance(item.expression, exp.Star):
        flags.add("star")
        read_expression(walk, item.this, scope, ctes)
        walk.read_whole(scope)
    else:
        read_expression(walk, item, scope, ctes)


def _is_limited(node: exp.Expression) -> bool:
    limit = node.args.get("limit")
    return limit is not None and not isinstance(limit.expression, exp.Null)
