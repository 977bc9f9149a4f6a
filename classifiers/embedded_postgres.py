"""Expressions inside utility statements: which functions, operators and types they use, read from the tokens alone.

Such expressions (DEFAULT, CHECK, USING, index expressions, partition bounds) hold no subqueries; one that seems to is refused.
"""

from __future__ import annotations

from classifiers.builtins_postgres import COL_NAMES, RESERVED, TYPE_FUNC_NAMES, UNRESERVED
from classifiers.calls_postgres import note_function, note_operator, note_type
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.token_cursor import TokenCursor
from classifiers.tokens import OP, QUOTED, STRING, WORD, Token, Unreadable, join_name
from classifiers.tree_postgres import classify_query
from classifiers.types_postgres import is_builtin_type, skip_type

_NO_CALL = frozenset(
    ["KEY", "INCLUDE", "EXCLUDE", "INHERITS", "OPTIONS", "RANGE", "LIST", "HASH", "IDENTITY", "BY", "SET", "RESET", "VALUES", "ALWAYS", "ROW",
     "EXISTS", "MODULUS", "REMAINDER", "STORAGE", "OPERATOR", "BETWEEN", "COLUMNS", "SYSTEM", "PARTITION", "STORED", "VIRTUAL", "BTREE"]
)  # fmt: skip
_EXPRESSION_BEFORE = frozenset(
    ["(", ",", "USING", "DEFAULT", "CHECK", "AND", "OR", "NOT", "WHEN", "THEN", "ELSE", "CASE", "LIKE", "ILIKE", "TO", "IN", "FROM", "WHERE",
     "IS", "BETWEEN", "AS", "FOR", "ESCAPE", "ZONE", "[", ":", "SYMMETRIC", "=>", ":=", "VARIADIC", "DISTINCT", "ALL"]
)  # fmt: skip
"""After these, or an operator, a word of _NO_CALL with a parenthesis behind it is a call all the same."""
_FORBIDDEN = frozenset(["SELECT", "INTO", "FETCH", "LATERAL", "RETURNING", "WINDOW"])
_KEYWORDS = RESERVED | TYPE_FUNC_NAMES | COL_NAMES | UNRESERVED


def classify_expression(tokens: list[Token]) -> Draft:
    """A comma list of expressions whose extent is known exactly, read as a select list."""
    if not tokens:
        return Draft()
    draft = classify_query([Token(WORD, "SELECT", "select", 0, 0), *tokens])
    reading = draft.acts.get((Kind.DML_READ, "", ""))
    if reading is not None and not reading[1]:  # else a function in it acts
        del draft.acts[Kind.DML_READ, "", ""]
    return draft


def scan_expressions(draft: Draft, tokens: list[Token], kind: Kind = Kind.DDL) -> None:
    """Note functions, operators and types in a tail that mixes expressions with keywords. kind: of the statement.

    Raises Unreadable where a word stands that such a tail cannot hold.
    """
    at, end = 0, len(tokens)
    casts: list[bool] = []
    while at < end:
        token = tokens[at]
        text = token.text
        if text == "(":
            casts.append(at > 0 and tokens[at - 1].text in ("CAST", "TREAT"))
        elif text == ")":
            if casts:
                casts.pop()
        elif text == "::" or (text == "AS" and casts and casts[-1]):
            parts, at = skip_type(tokens, at + 1)
            note_type(draft, parts)
            continue
        elif token.kind == OP:
            note_operator(draft, "", text)
        elif text == "OPERATOR" and at + 1 < end and tokens[at + 1].text == "(":
            at = _operator(draft, tokens, at)
            continue
        elif token.kind in (WORD, QUOTED):
            before = tokens[at - 1].text if at else ""
            if text in _FORBIDDEN and before != ".":
                raise Unreadable("a query where only an expression can stand")
            at = _name(draft, tokens, at, kind)
            continue
        at += 1


def _operator(draft: Draft, tokens: list[Token], at: int) -> int:
    cursor = TokenCursor(tokens)
    cursor.at = at + 2
    schema = ""
    while cursor.is_name and cursor.word(1) == ".":
        schema = cursor.name()
        cursor.expect(".")
    if cursor.kind() != OP:
        raise Unreadable("an operator is missing")
    note_operator(draft, schema, cursor.word())
    cursor.at += 1
    cursor.expect(")")
    return cursor.at


def _name(draft: Draft, tokens: list[Token], at: int, kind: Kind) -> int:
    before = tokens[at - 1].text if at else ""
    start = at
    is_operand = at > 0 and (tokens[at - 1].kind == OP or before in _EXPRESSION_BEFORE)
    is_keyword = tokens[at].text in RESERVED or (tokens[at].text in _NO_CALL and not is_operand)
    parts = [tokens[at].value or ""]
    while at + 2 < len(tokens) and tokens[at + 1].text == "." and tokens[at + 2].kind in (WORD, QUOTED):
        at += 2
        parts.append(tokens[at].value or "")
        is_keyword = False
    if before == "REFERENCES":
        # Whether a value is there can be found out through a foreign key.
        draft.act(kind, join_name(tuple(parts)), "read")
    following = tokens[at + 1] if at + 1 < len(tokens) else None
    if following is None or is_keyword:
        return at + 1
    is_index_method = before == "USING" and start > 1 and tokens[start - 2].text == "EXCLUDE"
    if following.text == "(" and before != "REFERENCES" and not is_index_method:
        if not is_builtin_type(tuple(parts)):
            note_function(draft, tuple(parts), kind)
    elif (
        following.kind == STRING
        and (len(parts) > 1 or tokens[start].text not in _KEYWORDS)
        and not is_builtin_type(tuple(parts))
    ):
        note_type(draft, tuple(parts))
    return at + 1
