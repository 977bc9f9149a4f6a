"""Whether a WHERE clause selects at all: constant conditions, and those that compare a thing with itself.

Works on trees whose names are put back (tree_postgres.py). Errs towards "trivial": a flag too many asks a person, one too few hides a
write of a whole table. Values are not computed: `1 = 2` is as constant as `1 = 1`, except that a plain FALSE or two
unequal numbers beside an OR select nothing.
"""

from __future__ import annotations

from sqlglot import exp

from classifiers.tokens import Unreadable

_COMPARISONS = (
    exp.EQ,
    exp.NEQ,
    exp.LT,
    exp.LTE,
    exp.GT,
    exp.GTE,
    exp.Like,
    exp.ILike,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
    exp.Sub,
)
MAX_SHAPE_NODES = 200
"""Larger operands are not compared with one another."""


def is_trivial(condition: exp.Expression) -> bool:
    """True if the condition cannot tell rows apart, as far as its text shows."""
    stack: list[tuple[exp.Expression, bool]] = [(condition, False)]
    results: list[bool] = []
    nulls: set[tuple[str, tuple[object, ...]]] = set()
    while stack:
        node, is_done = stack.pop()
        if isinstance(node, exp.Paren | exp.Not):
            stack.append((node.this, False))
        elif isinstance(node, exp.And | exp.Or):
            if is_done:
                right, left = results.pop(), results.pop()
                results.append((left and right) if isinstance(node, exp.And) else (left or right))
            else:
                stack += [(node, True), (node.expression, False), (node.this, False)]
        else:
            is_or_arm = _is_or_arm(node)
            results.append(_is_trivial_leaf(node) and not (is_or_arm and _selects_nothing(node)))
            if is_or_arm and _complements(node, nulls):
                results[-1] = True
    return results[-1]


def _is_or_arm(node: exp.Expression) -> bool:
    parent = node.parent
    while isinstance(parent, exp.Not | exp.Paren):
        parent = parent.parent
    return isinstance(parent, exp.Or)


def _complements(node: exp.Expression, seen: set[tuple[str, tuple[object, ...]]]) -> bool:
    """X IS NULL OR x IS NOT NULL; x = 1 OR x <> 1: an arm whose opposite was seen before."""
    is_negated = isinstance(node.parent, exp.Not) != bool(node.args.get("negate"))
    try:
        if isinstance(node, exp.Is):
            key, opposite = ("null", "not null") if not is_negated else ("not null", "null")
            form = shape(node.this)
        elif isinstance(node, exp.EQ | exp.NEQ):
            key, opposite = ("=", "<>") if isinstance(node, exp.EQ) else ("<>", "=")
            form = (*shape(node.this), *shape(node.expression))
        else:
            return False
    except Unreadable:
        return False
    seen.add((key, form))
    return (opposite, form) in seen


def _selects_nothing(node: exp.Expression) -> bool:
    if isinstance(node, exp.Boolean):
        return not node.this
    if isinstance(node, exp.Null):
        return True
    is_numbers = isinstance(node, exp.EQ) and all(
        isinstance(n, exp.Literal) and not n.is_string for n in (node.this, node.expression)
    )
    return is_numbers and node.this.this != node.expression.this


def _is_trivial_leaf(node: exp.Expression) -> bool:
    if not varies_by_row(node):
        return True
    if isinstance(node, _COMPARISONS):
        return _same(node.this, node.expression) or _is_everything(node)
    if isinstance(node, exp.Between):
        return _same(node.this, node.args["low"]) or _same(node.this, node.args["high"])
    if isinstance(node, exp.In):
        if any(_same(node.this, each) for each in node.expressions):
            return True
        query = node.args.get("query")
        select = query.this if isinstance(query, exp.Subquery) else query
        return isinstance(select, exp.Select) and _selects_same_column(node.this, select)
    return False


def _is_everything(node: exp.Expression) -> bool:
    """X LIKE '%', and x = ANY (ARRAY[x])."""
    if isinstance(node, exp.Like | exp.ILike) and isinstance(node.expression, exp.Literal):
        value = str(node.expression.this)
        return bool(value) and not value.strip("%")
    if isinstance(node, exp.EQ) and isinstance(node.expression, exp.Any):
        return any(_same(node.this, column) for column in node.expression.find_all(exp.Column))
    return False


def _selects_same_column(left: exp.Expression, select: exp.Select) -> bool:
    """Matches id IN (SELECT id FROM …) without WHERE: every row that has an id."""
    if select.args.get("where") or select.args.get("limit") or select.args.get("joins") or len(select.expressions) != 1:
        return False
    right = select.expressions[0]
    return isinstance(left, exp.Column) and isinstance(right, exp.Column) and left.name == right.name


def varies_by_row(node: exp.Expression) -> bool:
    """True if the value can differ from row to row: it holds a column that is not certainly a subquery's own."""
    for column in node.find_all(exp.Column):
        if isinstance(column.this, exp.Identifier) and not column.this.quoted:
            continue  # DEFAULT and the like
        query = _query_of(column, node)
        if query is None:
            return True
        table = column.args.get("table")
        if table is None:
            # It may belong outside, unless the subquery has a table of its own and nothing that compares.
            if query.args.get("where") is not None or query.args.get("from_") is None:
                return True
        elif table.name not in _source_names(query):
            return True
    return False


def _query_of(column: exp.Expression, top: exp.Expression) -> exp.Expression | None:
    at: exp.Expr | None = column
    while at is not None and at is not top:
        at = at.parent
        if isinstance(at, exp.Select):
            return at
    return None


def _source_names(query: exp.Expression) -> set[str]:
    names: set[str] = set()
    from_ = query.args.get("from_")
    for source in [from_.this if from_ is not None else None, *(join.this for join in query.args.get("joins") or ())]:
        if source is not None:
            names.add(source.alias_or_name)
    return names


def _same(left: exp.Expression, right: exp.Expression) -> bool:
    try:
        return shape(left) == shape(right)
    except Unreadable:
        return False


def shape(node: exp.Expression) -> tuple[object, ...]:
    """A comparable form of an expression, qualifiers of columns left out.

    Raises Unreadable if it is too large to compare.
    """
    out: list[object] = []
    for count, each in enumerate(node.walk(bfs=False)):
        if count > MAX_SHAPE_NODES:
            raise Unreadable("an expression too large to compare")
        if isinstance(each, exp.Column):
            out += ["column", each.name]
        elif isinstance(each, exp.Literal):
            out += ["literal", str(each.this)]
        elif isinstance(each, exp.Anonymous):
            out += ["call", each.name]
        elif not isinstance(each, exp.Identifier | exp.Paren):
            out.append(type(each).__name__)
    return tuple(out)
