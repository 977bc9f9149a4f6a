"""Expressions of a parse tree: columns, calls, subqueries. Counterpart: tree_queries.py.

Only nodes named here are read; any other makes the statement unreadable.
"""

from __future__ import annotations

from sqlglot import exp

from classifiers.tokens import Unreadable
from classifiers.tree_walk import READ, WRITE, Ctes, Scope, Walk, only

_PLAIN = (
    exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Parameter, exp.Paren, exp.Tuple, exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ,
    exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Sub, exp.Neg, exp.Mul, exp.Is, exp.In, exp.Any, exp.All, exp.Between, exp.Like, exp.ILike,
    exp.Case, exp.If, exp.Exists, exp.Window, exp.WindowSpec, exp.Filter, exp.WithinGroup, exp.Order, exp.Ordered, exp.Distinct, exp.Alias,
    exp.Var, exp.Where, exp.Group, exp.Rollup, exp.Cube, exp.GroupingSets, exp.Having, exp.Limit, exp.Offset, exp.NullSafeEQ,
    exp.NullSafeNEQ, exp.Star,
)  # fmt: skip
"""Nodes that mean nothing but their children."""


def read_part(walk: Walk, node: exp.Expression | None, scope: Scope, ctes: Ctes) -> None:
    if node is not None:
        read_expression(walk, node, scope, ctes)


def read_expression(walk: Walk, node: exp.Expression, scope: Scope, ctes: Ctes) -> None:
    """Any expression; iterative, as operator chains can be long."""
    stack: list[exp.Expression] = [node]
    while stack:
        each = stack.pop()
        if isinstance(each, exp.Column):
            walk.column(each, scope)
        elif isinstance(each, exp.Anonymous):
            read_call(walk, each, scope, ctes, ())
        elif isinstance(each, exp.Dot):
            _dot(walk, each, scope, ctes)
        elif isinstance(each, exp.Select | exp.SetOperation | exp.Subquery | exp.Values):
            walk.query(each, ctes, scope)
        elif isinstance(each, _PLAIN):
            if isinstance(each, exp.Star):
                only(each)
            if isinstance(each, exp.Alias):
                walk.note_named(each.args.get("alias"))
            stack += each.iter_expressions(reverse=True)
        else:
            raise Unreadable("a form of expression that is not read")


def _dot(walk: Walk, node: exp.Dot, scope: Scope, ctes: Ctes) -> None:
    parts: list[exp.Expression] = []
    at: exp.Expression = node
    while isinstance(at, exp.Dot):
        parts.append(at.expression)
        at = at.this
    parts.append(at)
    parts.reverse()
    last = parts[-1]
    if isinstance(last, exp.Anonymous) and all(isinstance(p, exp.Identifier) for p in parts[:-1]):
        read_call(walk, last, scope, ctes, tuple(p.name for p in parts[:-1]))
        return
    if not all(isinstance(p, exp.Identifier | exp.Star) for p in parts[1:]):
        raise Unreadable("a form of expression that is not read")
    read_expression(walk, parts[0], scope, ctes)
    bases = {base for source in scope.sources.values() for base in source.bases}
    for part in parts[1:]:
        name = "*" if isinstance(part, exp.Star) else part.name
        for base, mode in bases:
            walk.draft.add_column(WRITE if mode == "write" else READ, base, mode, name)


def read_call(walk: Walk, node: exp.Anonymous, scope: Scope, ctes: Ctes, qualifier: tuple[str, ...]) -> None:
    only(node, "this", "expressions")
    identifier = node.this
    if not isinstance(identifier, exp.Identifier):
        raise Unreadable("a call of something that is not a name")
    walk.note_named(identifier)
    name = identifier.name
    if identifier.meta["index"] >= 0:
        walk.meanings.note_function(walk.draft, (*qualifier, name))
    arguments = node.expressions
    if name == walk.meanings.setter:
        first = arguments[0] if arguments else None
        is_plain = (
            isinstance(first, exp.Literal)
            and first.is_string
            and first.meta["is_known"]
            and not walk.has_named_arguments
        )
        walk.meanings.note_setting(walk.draft, str(first.this) if is_plain and first is not None else None)
    if len(arguments) == 1 and isinstance(arguments[0], exp.Column) and arguments[0].args.get("table") is None:
        source = scope.sources.get(arguments[0].name)
        if source is not None and source.name:
            walk.add_column(source, name)  # f(t) may be the column t.f
    for argument in arguments:
        if not isinstance(argument, exp.Star):
            read_expression(walk, argument, scope, ctes)
