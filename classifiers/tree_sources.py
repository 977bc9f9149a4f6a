"""FROM and its joins: what each item binds in the scope. Queries inside go back to tree_queries.py."""

from __future__ import annotations

from sqlglot import exp

from classifiers.tokens import Unreadable, join_name
from classifiers.tree_expressions import read_call, read_expression, read_part
from classifiers.tree_walk import READ, Ctes, Scope, Source, Walk, only


def read_source(walk: Walk, node: exp.Expression, scope: Scope, ctes: Ctes) -> bool:
    """One item of FROM; returns whether it reads a relation unbounded."""
    if isinstance(node, exp.Table):
        return _table(walk, node, scope, ctes)
    if isinstance(node, exp.Lateral):
        only(node, "this", "alias", "ordinality")
        if isinstance(node.this, exp.Subquery):
            inner = walk.query(node.this, ctes, scope)
            walk.bind(node, scope, Source("", bases=inner.bases))
            return inner.is_unbounded
        read_expression(walk, node.this, scope, ctes)
        walk.bind(node, scope, Source(""))
        return False
    if isinstance(node, exp.Subquery) and _is_join_tree(node.this):
        only(node, "this", "alias", "joins")
        inside = Scope(outer=scope.outer) if node.args.get("alias") else scope
        is_open = read_source(walk, node.this, inside, ctes)
        if inside is not scope:
            bases = frozenset[tuple[str, str]]().union(*(each.bases for each in inside.sources.values()))
            walk.read_whole(inside)
            walk.bind(node, scope, Source("", bases=bases))
        return read_joins(walk, node.args.get("joins"), scope, ctes) or is_open
    if isinstance(node, exp.Subquery | exp.Values | exp.Select | exp.SetOperation):
        inner_joins = node.args.pop("joins", None) if isinstance(node, exp.Subquery) else None
        # A subquery in FROM without LATERAL does not see its neighbours, but what is outside.
        inner = walk.query(node, ctes, scope.outer)
        walk.bind(node, scope, Source("", bases=inner.bases))
        return read_joins(walk, inner_joins, scope, ctes) or inner.is_unbounded
    raise Unreadable("a form of FROM that is not read")


def read_joins(walk: Walk, joins: list[exp.Join] | None, scope: Scope, ctes: Ctes) -> bool:
    is_open = False
    for join in joins or ():
        only(join, "this", "kind", "side", "method", "on", "using")
        is_open = read_source(walk, join.this, scope, ctes) or is_open
        if join.args.get("method"):
            if str(join.args["method"]).upper() != "NATURAL":
                raise Unreadable("a form of join that is not read")
            walk.read_whole(scope)
        for column in join.args.get("using") or ():
            for source in scope.sources.values():
                if source.name:
                    walk.add_column(source, column.name)
        read_part(walk, join.args.get("on"), scope, ctes)
    return is_open


def _table(walk: Walk, node: exp.Table, scope: Scope, ctes: Ctes) -> bool:
    only(node, "this", "db", "catalog", "alias", "joins", "rows_from", "ordinality", "only")
    is_open = True
    if node.args.get("rows_from"):
        inside = Scope(outer=scope)
        for each in node.args["rows_from"]:
            if isinstance(each.this, exp.Identifier):
                raise Unreadable("a form of FROM that is not read")
            _table(walk, each, inside, ctes)
        walk.bind(node, scope, Source(""))
        is_open = False
    elif isinstance(node.this, exp.Anonymous):
        qualifier = [part.name for part in (node.args.get("catalog"), node.args.get("db")) if part is not None]
        read_call(walk, node.this, scope, ctes, tuple(qualifier))
        walk.bind(node, scope, Source(""))
        is_open = False
    else:
        name = walk.table_name(node)
        derived = ctes.get(name[0]) if len(name) == 1 else None
        if derived is not None:
            walk.bind(node, scope, Source("", bases=derived.bases))
            is_open = derived.is_unbounded
        else:
            full = join_name(name)
            walk.draft.act(READ, full, "read", *walk.meanings.find_read_flags(name))
            source = Source(full, bases=frozenset([(full, "read")]))
            walk.bind(node, scope, source)
            alias = node.args.get("alias")
            if alias is not None and alias.args.get("columns"):
                walk.add_column(source, "*")
    return read_joins(walk, node.args.get("joins"), scope, ctes) or is_open


def _is_join_tree(node: exp.Expression) -> bool:
    """Parentheses around a join, not around a query."""
    if isinstance(node, exp.Subquery):
        return bool(node.args.get("alias") or node.args.get("joins"))
    return isinstance(node, exp.Table)
