"""Which rule reads a PostgreSQL statement: by its first word. Every rule accounts for all tokens of its statement or refuses it."""

from __future__ import annotations

from classifiers.draft import Draft
from classifiers.tokens import Token, Unreadable
from classifiers.tree_postgres import classify_query

QUERY_WORDS = frozenset(["SELECT", "VALUES", "TABLE", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "("])
COMMANDS = frozenset(["SELECT", "VALUES", "TABLE", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE"])


def classify_statement(tokens: list[Token]) -> Draft:
    """Raises Unreadable where no rule reads the statement."""
    if tokens[0].text in QUERY_WORDS:
        return classify_query(tokens)
    raise Unreadable("a command that is not read")
