"""Queries and DML: canonical text to a parse tree, and the tree to acts on tables.

Only tree nodes named in the parts are read; any other node, or an argument of a node that is not read there, makes the statement
unreadable. The parts: tree_queries.py, tree_sources.py, tree_expressions.py and
tree_writes.py, over tree_walk.py.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from classifiers.canonical_postgres import make_canonical
from classifiers.canonical_writer_postgres import Canonical
from classifiers.draft import Draft
from classifiers.limits import MAX_PARSED_TOKENS
from classifiers.meanings import Meanings
from classifiers.second_opinion_postgres import find_table_positions
from classifiers.tokens import Token, Unreadable
from classifiers.tree_queries import read_query
from classifiers.tree_walk import READ, Ctes, Derived, Scope, Walk
from classifiers.tree_writes import read_write


class Reading(NamedTuple):
    """What reading one statement has given: its acts, and the noted operators, cast types and row locks of its text."""

    draft: Draft
    canonical: Canonical
    tree: exp.Expression


def read_statement(tokens: list[Token], meanings: Meanings) -> Reading:
    """Read the tokens of one SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE or MERGE in PostgreSQL's grammar.

    Raises Unreadable where the reading cannot be vouched for.
    """
    canonical = make_canonical(tokens)
    if canonical.text.count(" ") > MAX_PARSED_TOKENS:
        raise Unreadable("the statement is too long")
    try:
        trees = sqlglot.parse(canonical.text, read="postgres")
    except (SqlglotError, RecursionError, TypeError, ValueError, AttributeError, IndexError, KeyError):
        raise Unreadable("the statement is not understood") from None
    tree = trees[0] if len(trees) == 1 else None
    if not isinstance(tree, exp.Expression):
        raise Unreadable("the statement is not understood")
    walk = Walk(_read_rows, meanings, has_named_arguments=canonical.has_named_arguments)
    _restore_names(tree, tokens)
    _top(walk, tree)
    _check_counts(walk, tokens, canonical)
    draft = walk.draft
    if canonical.has_row_lock:
        reads = [key for key in draft.acts if key[0] is READ]
        for kind, name, mode in reads or [(READ, "", "")]:
            draft.act(kind, name, mode, "row_lock")
    return Reading(draft, canonical, tree)


def _restore_names(tree: exp.Expression, tokens: list[Token]) -> None:
    """Put the real names and strings back in place of the indexes; a node keeps its index in `meta`."""
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


def _top(walk: Walk, tree: exp.Expression) -> None:
    if isinstance(tree, exp.Insert | exp.Update | exp.Delete | exp.Merge):
        read_write(walk, tree, {}, None)
        return
    derived = walk.query(tree, {}, None, is_top=True)
    reads = [key for key in walk.draft.acts if key[0] is READ]
    if not reads:
        walk.draft.act(READ)
    if derived.is_unbounded:
        for _, name, mode in reads:
            if name:
                walk.draft.act(READ, name, mode, "unbounded_read")


def _read_rows(walk: Walk, node: exp.Expression, ctes: Ctes, outer: Scope | None, *, is_top: bool) -> Derived:
    """See Rows: where queries and writes meet."""
    if isinstance(node, exp.Insert | exp.Update | exp.Delete | exp.Merge):
        return read_write(walk, node, ctes, outer)
    return read_query(walk, node, ctes, outer, is_top=is_top)


def _check_counts(walk: Walk, tokens: list[Token], canonical: Canonical) -> None:
    """The tokens' own account must agree with what the walk has met."""
    if canonical.verbs != walk.verbs:
        raise Unreadable("verbs in the text and in its reading differ")
    if walk.tables != find_table_positions(tokens):
        raise Unreadable("tables in the text and in its reading differ")
    if not walk.named.issuperset(canonical.calls):
        raise Unreadable("calls in the text and in its reading differ")
