"""Type names in PostgreSQL token lists: where a type ends, and whether it is one of the server's own.

A cast to a type that is not built in can run code of a user (domain checks, cast functions); callers report such types.
"""

from __future__ import annotations

from classifiers.builtins_postgres import RESERVED, TYPES
from classifiers.tokens import NUMBER, OP, PARAM, QUOTED, STRING, WORD, Token, Unreadable

SQL_TYPES = frozenset(
    ["bigint", "bit", "bit varying", "boolean", "char", "character", "character varying", "dec", "decimal", "double precision",
     "float", "int", "integer", "interval", "national", "nchar", "numeric", "real", "smallint", "time", "timestamp", "varchar",
     "json", "serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"]
)  # fmt: skip
"""Type names that only the grammar knows. Source: gram.y, SimpleTypename; parse_utilcmd.c for the serial names."""

FIRST_WORDS = frozenset(
    ["DOUBLE", "TIMESTAMP", "TIME", "CHARACTER", "CHAR", "BIT", "NATIONAL", "NCHAR", "INTERVAL", "VARCHAR", "DEC", "DECIMAL",
     "NUMERIC", "FLOAT", "INT", "INTEGER", "SMALLINT", "BIGINT", "REAL", "BOOLEAN"]
)  # fmt: skip
"""Words that begin a type of the grammar itself."""

_FIELDS = ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND")


def is_builtin_type(parts: tuple[str, ...]) -> bool:
    """parts: folded name parts. An array type's own name (_int4) is not built in for this purpose."""
    if len(parts) == 2 and parts[0] == "pg_catalog":
        return parts[1] in TYPES or parts[1].removeprefix("_") in TYPES
    return len(parts) == 1 and (parts[0] in TYPES or parts[0] in SQL_TYPES or parts[0].removeprefix("_") in TYPES)


def skip_type(tokens: list[Token], at: int) -> tuple[tuple[str, ...], int]:
    """Read the type that begins at `at`.

    Returns its name parts and the index after it, array bounds included. Raises Unreadable if no type begins there.
    """
    end = len(tokens)

    def word(index: int) -> str:
        return tokens[index].text if index < end else ""

    if word(at) == "SETOF":
        at += 1
    if at >= end or tokens[at].kind not in (WORD, QUOTED) or word(at) in RESERVED:
        raise Unreadable("a type name is missing")
    first = word(at)
    parts: tuple[str, ...] = (tokens[at].value or "",)
    at += 1
    if first == "DOUBLE" and word(at) == "PRECISION":
        parts, at = ("double precision",), at + 1
    elif first == "NATIONAL" and word(at) in ("CHARACTER", "CHAR"):
        parts, at = ("nchar",), at + 1
    if first in ("CHARACTER", "CHAR", "NCHAR", "NATIONAL", "BIT") and word(at) == "VARYING":
        at += 1
    while word(at) == "." and at + 1 < end and tokens[at + 1].kind in (WORD, QUOTED):
        parts, at = (*parts, tokens[at + 1].value or ""), at + 2
    at = _skip_modifier(tokens, at)
    if (
        first in ("TIME", "TIMESTAMP")
        and word(at) in ("WITH", "WITHOUT")
        and word(at + 1) == "TIME"
        and word(at + 2) == "ZONE"
    ):
        at += 3
    if first == "INTERVAL":
        at = skip_interval_fields(tokens, at)
    if word(at) == "ARRAY":
        at += 1
    while word(at) == "[":
        at += 1
        if at < end and tokens[at].kind == NUMBER:
            at += 1
        if word(at) != "]":
            raise Unreadable("an array bound that is not a number")
        at += 1
    return parts, at


def skip_interval_fields(tokens: list[Token], at: int) -> int:
    """Skip `DAY TO SECOND (3)` and the like, if present."""
    if at < len(tokens) and tokens[at].text in _FIELDS:
        at = _skip_modifier(tokens, at + 1)
        if at + 1 < len(tokens) and tokens[at].text == "TO" and tokens[at + 1].text in _FIELDS:
            at = _skip_modifier(tokens, at + 2)
    return at


def _skip_modifier(tokens: list[Token], at: int) -> int:
    if at >= len(tokens) or tokens[at].text != "(":
        return at
    at += 1
    while at < len(tokens) and tokens[at].text != ")":
        token = tokens[at]
        if token.kind not in (NUMBER, STRING, PARAM, WORD) and token.text != "," and token.kind != OP:
            raise Unreadable("a type modifier that is not a constant")
        at += 1
    if at >= len(tokens):
        raise Unreadable("a type modifier does not end")
    return at + 1
