"""Rules for the words that begin or shape a clause of a query or DML statement.

A rule sees the words before and after; it writes what the parse library shall read, or returns False where the word is read in
the ordinary way. Locking, sampling and OVERRIDING clauses go. Counterpart: canonical_expressions_postgres.py.
"""

from __future__ import annotations

from classifiers.builtins_postgres import RESERVED
from classifiers.canonical_writer_postgres import Rule, Writer
from classifiers.tokens import NUMBER, PARAM, QUOTED, STRING, WORD, Unreadable
from classifiers.types_postgres import skip_type


def _as(writer: Writer, before: str, after: str) -> bool:
    if writer.frames[-1][0] == "CAST":
        parts, writer.at = skip_type(writer.tokens, writer.at + 1)
        writer.result.types.append(parts)
        if writer.word(0) != ")":
            raise Unreadable("a CAST that does not end after its type")
        writer.frames[-1][0] = "("
        return True
    skip = 1 if after == "MATERIALIZED" and writer.word(2) == "(" else 0
    if after == "NOT" and writer.word(2) == "MATERIALIZED" and writer.word(3) == "(":
        skip = 2
    if skip:
        writer.out.append("AS")
        writer.at += 1 + skip
        return True
    return False


def _on(writer: Writer, before: str, after: str) -> bool:
    if after == "CONFLICT":
        writer.out.append("ON CONFLICT")
        writer.at += 2
        return True
    return False


def _do(writer: Writer, before: str, after: str) -> bool:
    if after == "NOTHING":
        writer.out.append("DO NOTHING")
        writer.at += 2
        return True
    if after == "UPDATE" and writer.word(2) == "SET":
        writer.out.append("DO UPDATE SET")
        writer.frames[-1][1] = "SET"
        writer.at += 3
        return True
    raise Unreadable("a keyword in a place that is not read")


def _verb(writer: Writer, before: str, after: str) -> bool:
    """INSERT, UPDATE, DELETE, MERGE: keywords where a statement or a MERGE action begins, else names."""
    text = writer.word(0)
    if before == "THEN" and writer.frames[-1][2] == "MERGE":
        writer.result.verbs[text] += 1
        writer.keyword(text)
        if text == "UPDATE":
            if writer.word(0) != "SET":
                raise Unreadable("a keyword in a place that is not read")
            writer.keyword("SET")
        return True
    if before not in ("", "(", ")"):
        return False
    follows = {"INSERT": "INTO", "DELETE": "FROM", "MERGE": "INTO"}.get(text)
    if follows is not None:
        if after != follows:
            return False
    elif (before == ")" and writer.frames[-1][1] != "WITH") or (
        (writer.kind(1) not in (WORD, QUOTED) or after in RESERVED) and after != "ONLY"
    ):
        return False
    writer.result.verbs[text] += 1
    writer.keyword(text)
    writer.frames[-1][1] = writer.frames[-1][2] = text
    return True


def _set(writer: Writer, before: str, after: str) -> bool:
    if writer.frames[-1][1] == "UPDATE":
        writer.keyword("SET")
        writer.frames[-1][1] = "SET"
        return True
    return False


def _matched(writer: Writer, before: str, after: str) -> bool:
    if writer.frames[-1][2] == "MERGE" and (before == "WHEN" or (before == "NOT" and writer.word(-2) == "WHEN")):
        writer.keyword("MATCHED")
        return True
    return False


def _with(writer: Writer, before: str, after: str) -> bool:
    if after == "ORDINALITY":
        writer.out.append("WITH ORDINALITY")
        writer.at += 2
        return True
    if before == "RETURNING":
        raise Unreadable("a RETURNING clause in a form that is not read")
    writer.keyword("WITH")
    writer.frames[-1][1] = "WITH"
    if after == "RECURSIVE":
        writer.keyword("RECURSIVE")
    return True


def _values(writer: Writer, before: str, after: str) -> bool:
    if after == "(" or before == "DEFAULT":
        writer.keyword("VALUES")
        return True
    return False


def _overriding(writer: Writer, before: str, after: str) -> bool:
    if after in ("SYSTEM", "USER") and writer.word(2) == "VALUE" and writer.frames[-1][2] in ("INSERT", "MERGE"):
        writer.at += 3
        return True
    return False


def _table(writer: Writer, before: str, after: str) -> bool:
    if before not in ("", "(", ")", "UNION", "EXCEPT", "INTERSECT", "ALL", "DISTINCT"):
        raise Unreadable("a keyword in a place that is not read")
    if writer.kind(1) not in (WORD, QUOTED) and after != "ONLY":
        raise Unreadable("a keyword in a place that is not read")
    writer.out.append("SELECT * FROM")
    writer.frames[-1][1] = "FROM"
    writer.at += 1
    return True


def _into(writer: Writer, before: str, after: str) -> bool:
    if writer.frames[-1][1] in ("SELECT", "UNION", "EXCEPT", "INTERSECT"):
        writer.out.append("INTO")
        writer.at += 1
        if writer.word(0) in ("LOCAL", "GLOBAL") and writer.word(1) in ("TEMP", "TEMPORARY"):
            writer.at += 1
        names_table = writer.kind(1) in (WORD, QUOTED) and (writer.word(1) not in RESERVED or writer.word(1) == "TABLE")
        if writer.word(0) in ("TEMP", "TEMPORARY", "UNLOGGED") and names_table:
            writer.at += 1
        if writer.word(0) == "TABLE":
            writer.at += 1
        if writer.kind(0) not in (WORD, QUOTED):
            raise Unreadable("INTO without a table")
        writer.name()
        return True
    return False


def _only(writer: Writer, before: str, after: str) -> bool:
    writer.at += 1
    if after == "(":
        depth = writer.at + 1
        while depth + 1 < writer.end and writer.tokens[depth + 1].text == ".":
            depth += 2
        if (
            depth + 1 >= writer.end
            or writer.tokens[depth + 1].text != ")"
            or writer.tokens[depth].kind not in (WORD, QUOTED)
        ):
            raise Unreadable("ONLY without a table")
        writer.at += 1
        while writer.at < depth + 1:
            token = writer.tokens[writer.at]
            writer.out.append("." if token.text == "." else f'"~{writer.at}"')
            writer.names[writer.at] = 1
            writer.at += 1
        writer.at += 1
    return True


def _by(writer: Writer, before: str, after: str) -> bool:
    if before in ("GROUP", "ORDER") or (before == "PARTITION" and writer.out[-1] == "PARTITION"):
        writer.keyword("BY")
        return True
    if before == "MATCHED" and after in ("SOURCE", "TARGET"):
        writer.out.append("BY " + after)
        writer.at += 2
        return True
    return False


def _group_function(writer: Writer, before: str, after: str) -> bool:
    if after == "(" and writer.frames[-1][1] == "GROUP":
        writer.keyword(writer.word(0))
        return True
    if writer.word(0) == "GROUPING" and after == "SETS" and writer.word(2) == "(":
        writer.out.append("GROUPING SETS")
        writer.at += 2
        return True
    return False


def _nulls(writer: Writer, before: str, after: str) -> bool:
    if after in ("FIRST", "LAST") and writer.frames[-1][1] in ("ORDER", ""):
        writer.at += 2
        return True
    return False


def _limit(writer: Writer, before: str, after: str) -> bool:
    writer.keyword("LIMIT")
    if after == "ALL":
        writer.out.append("NULL")
        writer.at += 1
    return True


def _fetch(writer: Writer, before: str, after: str) -> bool:
    if after not in ("FIRST", "NEXT"):
        raise Unreadable("a keyword in a place that is not read")
    writer.keyword("LIMIT", 2)
    writer.frames[-1][1] = "OFFSET"
    if writer.word(0) in ("ROW", "ROWS"):
        writer.out.append("1")
    return True


def _for(writer: Writer, before: str, after: str) -> bool:
    """A locking clause goes: it names tables that are in FROM already."""
    writer.at += 1
    for words in (("UPDATE",), ("NO", "KEY", "UPDATE"), ("SHARE",), ("KEY", "SHARE"), ("READ", "ONLY")):
        if tuple(writer.word(i) for i in range(len(words))) == words:
            writer.at += len(words)
            break
    else:
        raise Unreadable("a keyword in a place that is not read")
    writer.result.has_row_lock = True
    if writer.word(0) == "OF":
        writer.at += 1
        writer.skip_name()
        while writer.word(0) == ",":
            writer.at += 1
            writer.skip_name()
    if writer.word(0) == "NOWAIT":
        writer.at += 1
    elif writer.word(0) == "SKIP" and writer.word(1) == "LOCKED":
        writer.at += 2
    return True


def _tablesample(writer: Writer, before: str, after: str) -> bool:
    writer.at += 1
    method = writer.skip_name()
    if method[-1] not in ("system", "bernoulli") or len(method) > 2:
        raise Unreadable("a sampling method that is not built in")
    for _ in range(2):
        if writer.word(0) != "(" or writer.kind(1) not in (NUMBER, PARAM) or writer.word(2) != ")":
            raise Unreadable("a sampling argument that is not a constant")
        writer.at += 3
        if writer.word(0) != "REPEATABLE":
            break
        writer.at += 1
    return True


def _search(writer: Writer, before: str, after: str) -> bool:
    """SEARCH … SET o and CYCLE … SET c [TO x DEFAULT y] USING p behind a CTE: columns that the server makes, from columns of the CTE."""
    is_search = writer.word(0) == "SEARCH"
    if (
        writer.frames[-1][1] != "WITH"
        or (before != ")" and writer.frames[-1][2] != "CTE")
        or (is_search and after not in ("DEPTH", "BREADTH"))
    ):
        return False
    writer.at += 1
    if is_search:
        if writer.word(1) != "FIRST" or writer.word(2) != "BY":
            raise Unreadable("a SEARCH clause in a form that is not read")
        writer.at += 3
    writer.skip_name()
    while writer.word(0) == ",":
        writer.at += 1
        writer.skip_name()
    if writer.word(0) != "SET":
        raise Unreadable("a clause behind a CTE in a form that is not read")
    writer.at += 1
    writer.skip_name()
    if is_search:
        writer.frames[-1][2] = "CTE" if writer.word(0) == "CYCLE" else writer.frames[-1][2]
        return True
    if writer.word(0) == "TO":
        for word in ("TO", "DEFAULT"):
            is_constant = writer.kind(1) in (STRING, NUMBER) or writer.word(1) in ("TRUE", "FALSE", "NULL")
            if writer.word(0) != word or not is_constant:
                raise Unreadable("a CYCLE clause in a form that is not read")
            writer.at += 2
    if writer.word(0) != "USING":
        raise Unreadable("a CYCLE clause in a form that is not read")
    writer.at += 1
    writer.skip_name()
    if writer.frames[-1][2] == "CTE":
        writer.frames[-1][2] = ""
    return True


CLAUSE_RULES: dict[str, Rule] = {
    "SEARCH": _search,
    "CYCLE": _search,
    "AS": _as,
    "BY": _by,
    "ROLLUP": _group_function,
    "CUBE": _group_function,
    "GROUPING": _group_function,
    "NULLS": _nulls,
    "ON": _on,
    "DO": _do,
    "INSERT": _verb,
    "UPDATE": _verb,
    "DELETE": _verb,
    "MERGE": _verb,
    "SET": _set,
    "MATCHED": _matched,
    "WITH": _with,
    "VALUES": _values,
    "OVERRIDING": _overriding,
    "TABLE": _table,
    "INTO": _into,
    "ONLY": _only,
    "LIMIT": _limit,
    "FETCH": _fetch,
    "FOR": _for,
    "TABLESAMPLE": _tablesample,
}
