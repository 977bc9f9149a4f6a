"""Rules for the words inside expressions: casts, tests, special calls, constants.

A rule sees the words before and after; it writes what the parse library shall read, or returns False where the word is read in
the ordinary way. Collations and time zones go. Counterpart: canonical_clauses_postgres.py.
"""

from __future__ import annotations

from classifiers.canonical_writer_postgres import COMPARISONS, Rule, Writer
from classifiers.tokens import NUMBER, OP, PARAM, QUOTED, STRING, WORD, Unreadable

CONSTANT_WORDS = frozenset(
    ["CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP", "CURRENT_USER", "CURRENT_ROLE", "USER",
     "SESSION_USER", "SYSTEM_USER", "CURRENT_CATALOG"]
)  # fmt: skip
CALL_SYNTAX = {
    "SUBSTRING": frozenset(["FROM", "FOR", "SIMILAR", "ESCAPE"]),
    "OVERLAY": frozenset(["PLACING", "FROM", "FOR"]),
    "POSITION": frozenset(["IN"]),
    "TRIM": frozenset(["FROM"]),
    "EXTRACT": frozenset(["FROM"]),
}
"""Words that stand for a comma at the top level of these calls."""


def _cast(writer: Writer, before: str, after: str) -> bool:
    if after != "(":
        raise Unreadable("a keyword in a place that is not read")
    writer.at += 1
    return True


def _array(writer: Writer, before: str, after: str) -> bool:
    if after == "[" or after == "(":
        writer.out.append('"~array"')
    else:
        raise Unreadable("a keyword in a place that is not read")
    writer.at += 1
    return True


def _collate(writer: Writer, before: str, after: str) -> bool:
    writer.at += 1
    writer.skip_name()
    return True


def _at(writer: Writer, before: str, after: str) -> bool:
    if after == "TIME" and writer.word(2) == "ZONE":
        writer.out.append("-")
        writer.at += 3
        return True
    if after == "LOCAL" and (writer.kind(-1) in (STRING, PARAM) or before == ")" or writer.is_name(-1)):
        writer.at += 2
        return True
    return False


def _operator(writer: Writer, before: str, after: str) -> bool:
    start = writer.at
    if after != "(":
        return False
    writer.at += 2
    schema = ""
    while writer.kind(0) in (WORD, QUOTED) and writer.word(1) == ".":
        schema = writer.tokens[writer.at].value or ""
        writer.at += 2
    if writer.kind(0) != OP or writer.word(1) != ")":
        writer.at = start
        return False
    operator = writer.word(0)
    writer.result.operators.append((schema, operator))
    writer.out.append(operator if operator in COMPARISONS and operator != "*" else "-")
    writer.at += 2
    return True


def _is(writer: Writer, before: str, after: str) -> bool:
    step = 2 if after == "NOT" else 1
    what = writer.word(step)
    if what in ("JSON", "DOCUMENT", "NORMALIZED", "NFC", "NFD", "NFKC", "NFKD"):
        return _skip_predicate(writer, step)
    if what not in ("NULL", "TRUE", "FALSE", "UNKNOWN", "DISTINCT"):
        raise Unreadable("a test with IS that is not read")
    writer.out.append("IS NOT" if step == 2 else "IS")
    writer.at += step
    if what == "UNKNOWN":
        writer.out.append("NULL")
        writer.at += 1
    elif what == "DISTINCT":
        if writer.word(1) != "FROM":
            raise Unreadable("a test with IS that is not read")
        writer.out.append("DISTINCT FROM")
        writer.at += 2
    return True


def _skip_predicate(writer: Writer, step: int) -> bool:
    writer.at += step + 1
    if writer.word(-1) == "JSON":
        if writer.word(0) in ("VALUE", "SCALAR", "ARRAY", "OBJECT"):
            writer.at += 1
        if writer.word(0) in ("WITH", "WITHOUT") and writer.word(1) == "UNIQUE":
            writer.at += 3 if writer.word(2) == "KEYS" else 2
    elif writer.word(-1) not in ("DOCUMENT", "NORMALIZED"):
        if writer.word(0) != "NORMALIZED":
            raise Unreadable("a test with IS that is not read")
        writer.at += 1
    writer.out.append("IS NOT NULL" if step == 2 else "IS NULL")
    return True


def _isnull(writer: Writer, before: str, after: str) -> bool:
    writer.out.append("IS NULL" if writer.word(0) == "ISNULL" else "IS NOT NULL")
    writer.at += 1
    return True


def _overlaps(writer: Writer, before: str, after: str) -> bool:
    writer.out.append("=")
    writer.at += 1
    return True


def _escape(writer: Writer, before: str, after: str) -> bool:
    if (writer.kind(1) in (STRING, PARAM)) and (
        writer.kind(-1) in (STRING, PARAM, QUOTED) or before == ")" or writer.is_name(-1)
    ):
        writer.out.append("-")
        writer.at += 1
        return True
    return False


def _similar(writer: Writer, before: str, after: str) -> bool:
    if after != "TO":
        raise Unreadable("a keyword in a place that is not read")
    writer.out.append("LIKE")
    writer.at += 2
    return True


def _symmetric(writer: Writer, before: str, after: str) -> bool:
    if before != "BETWEEN":
        raise Unreadable("a keyword in a place that is not read")
    writer.at += 1
    return True


def _variadic(writer: Writer, before: str, after: str) -> bool:
    if before not in ("(", ","):
        raise Unreadable("a keyword in a place that is not read")
    writer.at += 1
    return True


def _constant(writer: Writer, before: str, after: str) -> bool:
    writer.out.append(f"'s{writer.at}'")
    writer.at += 1
    if after == "(":
        if writer.kind(1) != NUMBER or writer.word(2) != ")":
            raise Unreadable("a keyword in a place that is not read")
        writer.at += 3
    return True


def _current_schema(writer: Writer, before: str, after: str) -> bool:
    return False if after == "(" else _constant(writer, before, after)


def _all(writer: Writer, before: str, after: str) -> bool:
    """ALL and SOME behind an operator are read as ANY."""
    if after == "(" and (writer.kind(-1) == OP or before in ("LIKE", "ILIKE", ")")):
        writer.out.append("ANY")
        writer.at += 1
        return True
    return False


def _exists(writer: Writer, before: str, after: str) -> bool:
    if after == "(":
        writer.keyword("EXISTS")
        return True
    raise Unreadable("a keyword in a place that is not read")


def _special_call(writer: Writer, before: str, after: str) -> bool:
    if after == "(":
        writer.result.calls.append(writer.at)
        writer.out.append(f'"~{writer.at}"')
        writer.at += 1
        return True
    return False


EXPRESSION_RULES: dict[str, Rule] = {
    "CAST": _cast,
    "TREAT": _cast,
    "ARRAY": _array,
    "COLLATE": _collate,
    "AT": _at,
    "OPERATOR": _operator,
    "IS": _is,
    "ISNULL": _isnull,
    "NOTNULL": _isnull,
    "OVERLAPS": _overlaps,
    "ESCAPE": _escape,
    "SIMILAR": _similar,
    "SYMMETRIC": _symmetric,
    "ASYMMETRIC": _symmetric,
    "VARIADIC": _variadic,
    "EXISTS": _exists,
    "CURRENT_SCHEMA": _current_schema,
    "ALL": _all,
    "SOME": _all,
    **dict.fromkeys(CONSTANT_WORDS, _constant),
    **dict.fromkeys(CALL_SYNTAX, _special_call),
}
