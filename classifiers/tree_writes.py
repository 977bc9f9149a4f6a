"""INSERT, UPDATE, DELETE and MERGE. Counterpart: tree_queries.py."""

from __future__ import annotations

from sqlglot import exp

from classifiers.conditions import is_trivial
from classifiers.tokens import Unreadable, join_name
from classifiers.tree_expressions import read_expression, read_part
from classifiers.tree_queries import read_item, read_with
from classifiers.tree_sources import read_source
from classifiers.tree_walk import WRITE, Ctes, Derived, Scope, Source, Walk, only


def read_write(walk: Walk, node: exp.Expression, ctes: Ctes, outer: Scope | None) -> Derived:
    ctes = read_with(walk, node, ctes, outer)
    scope = Scope(outer=outer)
    if isinstance(node, exp.Insert):
        target = _insert(walk, node, scope, ctes, outer)
    elif isinstance(node, exp.Update):
        target = _update(walk, node, scope, ctes)
    elif isinstance(node, exp.Delete):
        target = _delete(walk, node, scope, ctes)
    elif isinstance(node, exp.Merge):
        target = _merge(walk, node, scope, ctes)
    else:
        raise Unreadable("a form of write that is not read")
    returning = node.args.get("returning")
    if returning is not None:
        only(returning, "expressions")
        flags = {"returning"}
        scope.sources.setdefault("old", target)
        scope.sources.setdefault("new", target)
        for item in returning.expressions:
            read_item(walk, item, scope, ctes, flags)
        walk.draft.act(WRITE, target.name, "write", *flags)
    return Derived(target.bases)


def _target(walk: Walk, node: exp.Expression, scope: Scope, *flags: str) -> Source:
    if not isinstance(node, exp.Table):
        raise Unreadable("a form of write that is not read")
    only(node, "this", "db", "catalog", "alias", "only")
    name = walk.table_name(node)
    full = join_name(name)
    walk.draft.act(WRITE, full, "write", *flags, *walk.meanings.find_read_flags(name))
    for kind, more in walk.meanings.find_write_acts(name):
        walk.draft.act(kind, full, "write", *more)
        walk.draft.is_neutral = False
    source = Source(full, "write", frozenset([(full, "write")]))
    walk.bind(node, scope, source)
    return source


def _insert(walk: Walk, node: exp.Insert, scope: Scope, ctes: Ctes, outer: Scope | None) -> Source:
    only(node, "this", "expression", "conflict", "returning", "with_", "default")
    walk.verbs["INSERT"] += 1
    table, columns = node.this, []
    if isinstance(table, exp.Schema):
        only(table, "this", "expressions")
        columns = table.expressions
        table = table.this
    source = _target(walk, table, scope)
    for column in columns:
        if not isinstance(column, exp.Identifier):
            raise Unreadable("a column list that is not read")
        walk.add_column(source, column.name)
    if node.expression is not None:
        walk.query(node.expression, ctes, outer)
    conflict = node.args.get("conflict")
    if conflict is not None:
        only(conflict, "expressions", "action", "conflict_keys", "constraint", "index_predicate", "where")
        inside = Scope(dict(scope.sources), outer)
        inside.sources.setdefault("excluded", source)
        for key in conflict.args.get("conflict_keys") or ():
            read_expression(walk, key, inside, ctes)
        _assignments(walk, conflict.expressions, source, inside, ctes)
        for key in ("index_predicate", "where"):
            read_part(walk, conflict.args.get(key), inside, ctes)
    return source


def _assignments(walk: Walk, items: list[exp.Expression], source: Source, scope: Scope, ctes: Ctes) -> None:
    for item in items:
        if not isinstance(item, exp.EQ):
            raise Unreadable("an assignment in a form that is not read")
        left = item.this
        while isinstance(left, exp.Paren | exp.Sub):
            if isinstance(left, exp.Sub):  # a subscript
                read_expression(walk, left.expression, scope, ctes)
            left = left.this
        for column in left.expressions if isinstance(left, exp.Tuple) else [left]:
            if not isinstance(column, exp.Column):
                raise Unreadable("an assignment in a form that is not read")
            walk.add_column(source, column.parts[0].name)
        read_expression(walk, item.expression, scope, ctes)


def _update(walk: Walk, node: exp.Update, scope: Scope, ctes: Ctes) -> Source:
    only(node, "this", "expressions", "from_", "where", "returning", "with_")
    walk.verbs["UPDATE"] += 1
    source = _target(walk, node.this, scope)
    from_ = node.args.get("from_")
    if from_ is not None:
        read_source(walk, from_.this, scope, ctes)
    _assignments(walk, node.expressions, source, scope, ctes)
    _where(walk, node.args.get("where"), source, scope, ctes)
    return source


def _delete(walk: Walk, node: exp.Delete, scope: Scope, ctes: Ctes) -> Source:
    only(node, "this", "using", "where", "returning", "with_", "cluster")
    walk.verbs["DELETE"] += 1
    source = _target(walk, node.this, scope)
    for each in node.args.get("using") or ():
        read_source(walk, each, scope, ctes)
    _where(walk, node.args.get("where"), source, scope, ctes)
    return source


def _where(walk: Walk, where: exp.Where | None, target: Source, scope: Scope, ctes: Ctes) -> None:
    if where is None:
        walk.draft.act(WRITE, target.name, "write", "no_where")
        return
    if is_trivial(where.this):
        walk.draft.act(WRITE, target.name, "write", "trivial_where")
    read_part(walk, where, scope, ctes)


def _merge(walk: Walk, node: exp.Merge, scope: Scope, ctes: Ctes) -> Source:
    only(node, "this", "using", "on", "whens", "returning", "with_")
    walk.verbs["MERGE"] += 1
    source = _target(walk, node.this, scope)
    read_source(walk, node.args["using"], scope, ctes)
    on = node.args["on"]
    if is_trivial(on):
        walk.draft.act(WRITE, source.name, "write", "no_where")
    read_part(walk, on, scope, ctes)
    only(node.args["whens"], "expressions")
    for when in node.args["whens"].expressions:
        only(when, "matched", "source", "condition", "then")
        read_part(walk, when.args.get("condition"), scope, ctes)
        _merge_action(walk, when.args["then"], source, scope, ctes)
    return source


def _merge_action(walk: Walk, then: exp.Expression, source: Source, scope: Scope, ctes: Ctes) -> None:
    if isinstance(then, exp.Var):
        if then.name == "DELETE":
            walk.verbs["DELETE"] += 1
        elif then.name != "DO NOTHING":
            raise Unreadable("a MERGE action that is not read")
    elif isinstance(then, exp.Update):
        only(then, "expressions")
        walk.verbs["UPDATE"] += 1
        _assignments(walk, then.expressions, source, scope, ctes)
    elif isinstance(then, exp.Insert):
        only(then, "this", "expression", "default")
        walk.verbs["INSERT"] += 1
        for part in (then.this, then.args.get("expression")):
            if isinstance(part, exp.Expression):
                read_expression(walk, part, scope, ctes)
    else:
        raise Unreadable("a MERGE action that is not read")
