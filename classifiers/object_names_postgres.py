"""Naming an object of any sort in DDL: `TABLE a.b`, `FUNCTION f(int)`, `TRIGGER t ON a.b`, `OPERATOR CLASS c USING m`."""

from __future__ import annotations

from classifiers.token_cursor import TokenCursor
from classifiers.tokens import NUMBER, OP, Unreadable
from classifiers.types_postgres import skip_type

KINDS: tuple[tuple[str, ...], ...] = (
    ("ACCESS", "METHOD"), ("AGGREGATE",), ("CAST",), ("COLLATION",), ("COLUMN",), ("CONSTRAINT",), ("CONVERSION",), ("DATABASE",),
    ("DOMAIN",), ("EVENT", "TRIGGER"), ("EXTENSION",), ("FOREIGN", "DATA", "WRAPPER"), ("FOREIGN", "TABLE"), ("FUNCTION",), ("GROUP",),
    ("INDEX",), ("LANGUAGE",), ("LARGE", "OBJECT"), ("MATERIALIZED", "VIEW"), ("OPERATOR", "CLASS"), ("OPERATOR", "FAMILY"), ("OPERATOR",),
    ("POLICY",), ("PROCEDURAL", "LANGUAGE"), ("PROCEDURE",), ("PUBLICATION",), ("ROLE",), ("ROUTINE",), ("RULE",), ("SCHEMA",),
    ("SEQUENCE",), ("SERVER",), ("STATISTICS",), ("SUBSCRIPTION",), ("TABLE",), ("TABLESPACE",), ("TEXT", "SEARCH", "CONFIGURATION"),
    ("TEXT", "SEARCH", "DICTIONARY"), ("TEXT", "SEARCH", "PARSER"), ("TEXT", "SEARCH", "TEMPLATE"), ("TRANSFORM",), ("TRIGGER",), ("TYPE",),
    ("USER", "MAPPING"), ("USER",), ("VIEW",),
)  # fmt: skip
"""Object sorts by their words. Source: gram.y, object_type_any_name and its relatives."""
_ON_TABLE = frozenset(["TRIGGER", "RULE", "POLICY", "CONSTRAINT"])
ROUTINES = frozenset(["FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE"])


def accept_kind(cursor: TokenCursor) -> str:
    """Step over the words of an object sort; returns them joined by a blank."""
    for words in KINDS:
        if cursor.accept(*words):
            return " ".join(words)
    raise Unreadable("a sort of object that is not read")


def skip_object(cursor: TokenCursor) -> list[tuple[str, ...]]:
    """Sort and name of one object; returns what it is about: the table of a trigger, rule, policy or constraint, else itself."""
    return skip_object_name(cursor, accept_kind(cursor))


def skip_object_name(cursor: TokenCursor, kind: str) -> list[tuple[str, ...]]:
    """The part after the sort of an object."""
    if kind == "CAST":
        cursor.inside()
        return []
    if kind == "LARGE OBJECT":
        if cursor.kind() != NUMBER:
            raise Unreadable("a number is missing")
        cursor.at += 1
        return []
    if kind == "TRANSFORM":
        cursor.expect("FOR")
        _, cursor.at = skip_type(cursor.tokens, cursor.at)
        cursor.expect("LANGUAGE")
        cursor.name()
        return []
    if kind == "OPERATOR":
        while cursor.is_name and cursor.word(1) == ".":
            cursor.at += 2
        if cursor.kind() != OP:
            raise Unreadable("an operator is missing")
        cursor.at += 1
        cursor.inside()
        return []
    if kind == "USER MAPPING":
        cursor.expect("FOR")
        cursor.name()
        cursor.expect("SERVER")
        return [cursor.parts()]
    if kind in ("TYPE", "DOMAIN"):
        parts, cursor.at = skip_type(cursor.tokens, cursor.at)
        return [parts]
    name = cursor.parts()
    if kind in ("OPERATOR CLASS", "OPERATOR FAMILY"):
        cursor.expect("USING")
        cursor.name()
    elif kind in ROUTINES and cursor.word() == "(":
        cursor.inside()
    elif kind in _ON_TABLE:
        cursor.expect("ON")
        cursor.accept("DOMAIN")
        return [cursor.parts()]
    return [name]
