"""Rules for MySQL words that begin or shape a clause of a query. Counterpart: translate_expressions_mysql.py."""

from __future__ import annotations

from classifiers.tokens import NUMBER, PARAM, QUOTED, STRING, VARIABLE, WORD, Token, Unreadable
from classifiers.translation_mysql import Rule, Translation

_MODIFIERS = frozenset(["HIGH_PRIORITY", "STRAIGHT_JOIN", "SQL_SMALL_RESULT", "SQL_BIG_RESULT", "SQL_BUFFER_RESULT", "SQL_CACHE",
                        "SQL_NO_CACHE", "SQL_CALC_FOUND_ROWS"])  # fmt: skip


def _select(it: Translation, before: str, after: str) -> bool:
    it.frames[-1][1] = "SELECT"
    it.put(it.tokens[it.at])
    while it.word() in _MODIFIERS or it.word() in ("ALL", "DISTINCT", "DISTINCTROW"):
        if it.word() in ("DISTINCT", "DISTINCTROW"):
            it.as_word("DISTINCT")
        else:
            it.at += 1
    return True


def _from(it: Translation, before: str, after: str) -> bool:
    if after == "DUAL" and it.word(2) not in (".", ",", "AS", "JOIN"):
        it.at += 2
        return True
    return False


def _limit(it: Translation, before: str, after: str) -> bool:
    if after == "ROWS" and it.word(2) == "EXAMINED":
        it.at += 4
        return True
    start = it.at
    parts: list[list[Token]] = [[], []]
    index, at = 0, start + 1
    while at < it.end and (
        it.tokens[at].kind in (NUMBER, PARAM, VARIABLE) or it.tokens[at].text in (",", "OFFSET") or (at == start + 1)
    ):
        if it.tokens[at].text in (",", "OFFSET"):
            index += 1
            if index > 1:
                raise Unreadable("a LIMIT in a form that is not read")
        else:
            parts[index].append(it.tokens[at])
        at += 1
    if any(len(part) > 1 for part in parts) or not parts[0]:
        raise Unreadable("a LIMIT in a form that is not read")
    has_comma = any(token.text == "," for token in it.tokens[start:at])
    if not _limits_query(it):
        it.at = at  # of an aggregate
        return True
    token = it.tokens[start]
    count, offset = (parts[1], parts[0]) if has_comma else (parts[0], parts[1])
    it.out += [Token(WORD, "LIMIT", "limit", token.start, token.end), *map(_value, count)]
    if offset:
        it.out += [Token(WORD, "OFFSET", "offset", token.start, token.end), *map(_value, offset)]
    it.at = at
    return True


def _value(token: Token) -> Token:
    return token if token.kind == NUMBER and token.text.isdigit() else Token(PARAM, "$1", "$1", token.start, token.end)


def _limits_query(it: Translation) -> bool:
    return len(it.frames) == 1 or it.frames[-1][0] in ("", "(", "IN", "FROM", "JOIN", "AS", ",", "EXISTS", "ANY", "ALL", "SOME", "UNION",
                                                       "=", "SELECT", "<", ">", "<=", ">=", "<>", "!=") or it.frames[-1][1] != "ORDER"  # fmt: skip


def _using(it: Translation, before: str, after: str) -> bool:
    if (
        it.kind(1) in (WORD, QUOTED, STRING)
        and it.word(2) == ")"
        and it.frames[-1][0] in ("CONVERT", "CHAR", "WEIGHT_STRING")
    ):
        it.at += 2
        return True
    return False


def _columns(it: Translation, before: str, after: str) -> bool:
    if after == "(" and it.frames[-1][0] == "JSON_TABLE":
        it.at += 1
        it.skip_parentheses()
        return True
    return False


def _direction(it: Translation, before: str, after: str) -> bool:
    """GROUP BY a DESC, of older servers."""
    if it.frames[-1][1] == "GROUP" and it.follows_operand:
        it.at += 1
        return True
    return False


def _hint(it: Translation, before: str, after: str) -> bool:
    if after not in ("INDEX", "KEY") or not it.follows_operand:
        return False
    it.at += 2
    if it.word() == "FOR":
        it.at += 2 if it.word(1) == "JOIN" else 3
    it.skip_parentheses()
    if it.word() == "," and it.word(1) in ("USE", "IGNORE", "FORCE") and it.word(2) in ("INDEX", "KEY"):
        it.at += 1
    return True


def _partition(it: Translation, before: str, after: str) -> bool:
    if after == "(" and it.follows_operand and before != "OVER":
        it.at += 1
        it.skip_parentheses()
        return True
    return False


def _for(it: Translation, before: str, after: str) -> bool:
    if after != "SYSTEM_TIME":
        return False
    it.at += 2
    if it.word() == "ALL":
        it.at += 1
        return True
    if it.word() != "AS" or it.word(1) != "OF":
        raise Unreadable("a SYSTEM_TIME in a form that is not read")
    it.at += 2
    if it.word() in ("TIMESTAMP", "TRANSACTION"):
        it.at += 1
    if it.kind() not in (STRING, NUMBER, PARAM, VARIABLE):
        raise Unreadable("a SYSTEM_TIME in a form that is not read")
    it.at += 1
    return True


def _update(it: Translation, before: str, after: str) -> bool:
    """The UPDATE of FOR UPDATE [OF t] [WAIT n]."""
    if before != "FOR":
        return False
    it.put(it.tokens[it.at])
    if it.word() == "WAIT" and it.kind(1) == NUMBER:
        it.at += 2
    return True


def _lock(it: Translation, before: str, after: str) -> bool:
    if after == "IN" and it.word(2) == "SHARE" and it.word(3) == "MODE":
        token = it.tokens[it.at]
        it.out += [
            Token(WORD, "FOR", "for", token.start, token.end),
            Token(WORD, "SHARE", "share", token.start, token.end),
        ]
        it.at += 4
        return True
    return False


def _with(it: Translation, before: str, after: str) -> bool:
    if after == "ROLLUP":
        it.at += 2
        return True
    if after == "QUERY" and it.frames[-1][0] == "AGAINST":
        it.at += 3
        return True
    return False


def _row(it: Translation, before: str, after: str) -> bool:
    if after == "(":
        it.at += 1
        return True
    return False


def _straight_join(it: Translation, before: str, after: str) -> bool:
    it.as_word("JOIN")
    return True


def _value_word(it: Translation, before: str, after: str) -> bool:
    """VALUES(col) in ON DUPLICATE KEY UPDATE is a call."""
    if after == "(" and it.frames[-1][1] == "SET":
        it.as_name(it.tokens[it.at])
        return True
    return False


CLAUSE_RULES: dict[str, Rule] = {
    "SELECT": _select,
    "FROM": _from,
    "LIMIT": _limit,
    "USING": _using,
    "COLUMNS": _columns,
    "ASC": _direction,
    "DESC": _direction,
    "USE": _hint,
    "IGNORE": _hint,
    "FORCE": _hint,
    "PARTITION": _partition,
    "FOR": _for,
    "UPDATE": _update,
    "LOCK": _lock,
    "WITH": _with,
    "ROW": _row,
    "STRAIGHT_JOIN": _straight_join,
    "VALUES": _value_word,
}
