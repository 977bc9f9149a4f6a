"""Tokens of a MySQL or MariaDB query to tokens of the grammar that canonical_postgres.py reads: same names, same tables, same calls.

Words that are keywords in that grammar only become quoted names, so that they mean nothing there. What cannot touch a table goes: index
hints, partitions, introducers, units, types of casts, modifiers. A word misjudged here makes the parse fail, or the tables differ from
what second_opinion_mysql.py sees, and the statement is refused. Writes of several tables are cut up before (writes_mysql.py).
"""

from __future__ import annotations

from classifiers.tokens import Token
from classifiers.translate_clauses_mysql import CLAUSE_RULES
from classifiers.translate_expressions_mysql import EXPRESSION_RULES
from classifiers.translation_mysql import Translation

_RULES = {**CLAUSE_RULES, **EXPRESSION_RULES}


def translate(tokens: list[Token]) -> list[Token]:
    """Raises Unreadable where a word stands in a place that is not read."""
    return Translation(tokens, _RULES).run()
