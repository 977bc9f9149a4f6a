"""Rules for MySQL words inside expressions: operators, casts, special calls, constants. Counterpart: translate_clauses_mysql.py."""

from __future__ import annotations

from classifiers.tokens import NUMBER, PARAM, PUNCT, QUOTED, STRING, VARIABLE, WORD, Token, Unreadable
from classifiers.translation_mysql import Rule, Translation

_CONSTANTS = frozenset(["UTC_DATE", "UTC_TIME", "UTC_TIMESTAMP"])


def _infix(text: str) -> Rule:
    def rule(it: Translation, before: str, after: str) -> bool:
        if not it.follows_operand and (not it.out or it.out[-1].text != "NOT"):
            return False
        if text == "-":
            it.as_operator()
        else:
            it.as_word(text)
        return True

    return rule


def _sounds(it: Translation, before: str, after: str) -> bool:
    if after == "LIKE" and it.follows_operand:
        it.at += 1
        return True
    return False


def _member(it: Translation, before: str, after: str) -> bool:
    if after == "OF" and it.word(2) == "(" and it.follows_operand:
        it.as_word("IN")
        it.at += 1
        return True
    return False


def _binary(it: Translation, before: str, after: str) -> bool:
    if (
        not it.follows_operand
        and (it.kind(1) in (WORD, QUOTED, STRING, NUMBER, VARIABLE, PARAM) or after == "(")
        and after not in ("FROM", "AS")
    ):
        it.at += 1
        return True
    return False


def _interval(it: Translation, before: str, after: str) -> bool:
    if it.follows_operand or after in (",", ")", "."):
        return False
    it.intervals += 1
    it.at += 1
    return True


def _separator(it: Translation, before: str, after: str) -> bool:
    if it.kind(1) == STRING and len(it.frames) > 1 and it.follows_operand | (before in ("ASC", "DESC")):
        it.at += 2
        return True
    return False


def _cast(it: Translation, before: str, after: str) -> bool:
    """CAST(x AS type), CONVERT(x, type): parentheses around x."""
    if after != "(":
        return False
    at, depth, cut = it.at + 2, 0, -1
    while at < it.end:
        text = it.tokens[at].text
        if text == ")" and depth == 0:
            break
        depth += (text == "(") - (text == ")")
        if depth == 0 and text == ("," if it.word() == "CONVERT" else "AS"):
            cut = at
        at += 1
    if cut < 0:
        return False
    if any(
        token.kind not in (WORD, NUMBER) and token.text not in ("(", ")", ",") for token in it.tokens[cut + 1 : at]
    ) or any(token.text in ("SELECT", "FROM") for token in it.tokens[cut + 1 : at]):
        raise Unreadable("a type that is not read")
    token = it.tokens[it.at]
    it.out += [
        Token(PUNCT, "(", None, token.start, token.end),
        *Translation(it.tokens[it.at + 2 : cut], it.rules).run(),
        Token(PUNCT, ")", None, token.start, token.end),
    ]
    it.at = at + 1
    return True


def _match(it: Translation, before: str, after: str) -> bool:
    """MATCH (a, b) AGAINST (x IN BOOLEAN MODE): both are comma lists of one call."""
    if it.word() == "MATCH":
        if after == "(" or it.kind(1) not in (WORD, QUOTED) or it.follows_operand:
            return False
        it.at += 1
        return True
    if after != "(" or not it.follows_operand:
        return False
    it.as_operator()
    return True


def _escape(it: Translation, before: str, after: str) -> bool:
    if not it.follows_operand or after in (",", ")", "."):
        return False
    it.as_operator()
    return True


def _as(it: Translation, before: str, after: str) -> bool:
    """COLUMN_GET(x, n AS type)."""
    if not it.frames[-1][0].startswith("COLUMN_"):
        return False
    it.at += 1
    while it.at < it.end and it.word() not in (",", ")"):
        if it.word() == "(":
            it.skip_parentheses()
        elif it.kind() == WORD and it.word() not in ("SELECT", "FROM"):
            it.at += 1
        else:
            raise Unreadable("a type that is not read")
    return True


def _in(it: Translation, before: str, after: str) -> bool:
    if it.frames[-1][0] == "AGAINST" and after in ("NATURAL", "BOOLEAN"):
        while it.at < it.end and it.word() != ")":
            it.at += 1
        return True
    return False


def _default(it: Translation, before: str, after: str) -> bool:
    if after == "(":
        it.at += 1
        return True
    return False


def _typed(it: Translation, before: str, after: str) -> bool:
    if it.kind(1) == STRING and not it.follows_operand:
        it.at += 1
        return True
    return False


def _constant(it: Translation, before: str, after: str) -> bool:
    if after == "(":
        return False
    it.as_word("NULL")
    return True


def _timestampadd(it: Translation, before: str, after: str) -> bool:
    """Its first argument is a unit."""
    if after == "(" and it.kind(2) == WORD and it.word(3) == ",":
        it.as_name(it.tokens[it.at])
        it.frames.append(["", ""])
        it.put(it.tokens[it.at])
        it.as_word("NULL")
        return True
    return False


def _substr(it: Translation, before: str, after: str) -> bool:
    if after == "(":
        it.as_word("SUBSTRING")
        return True
    return False


def _next_value(it: Translation, before: str, after: str) -> bool:
    """NEXT VALUE FOR s: a call."""
    if after != "VALUE" or it.word(2) != "FOR":
        return False
    token = it.tokens[it.at]
    name = "nextval" if token.text == "NEXT" else "lastval"
    it.out += [Token(QUOTED, "", name, token.start, token.end), Token(PUNCT, "(", None, token.start, token.end)]
    it.at += 3
    while it.kind() in (WORD, QUOTED):
        it.at += 1
        if it.word() != ".":
            break
        it.at += 1
    it.out += [Token(WORD, "NULL", "null", token.start, token.end), Token(PUNCT, ")", None, token.start, token.end)]
    return True


EXPRESSION_RULES: dict[str, Rule] = {
    "XOR": _infix("OR"),
    "DIV": _infix("-"),
    "MOD": _infix("-"),
    "RLIKE": _infix("LIKE"),
    "REGEXP": _infix("LIKE"),
    "SOUNDS": _sounds,
    "MEMBER": _member,
    "BINARY": _binary,
    "INTERVAL": _interval,
    "SEPARATOR": _separator,
    "CAST": _cast,
    "CONVERT": _cast,
    "AGAINST": _match,
    "MATCH": _match,
    "ESCAPE": _escape,
    "AS": _as,
    "IN": _in,
    "DEFAULT": _default,
    "DATE": _typed,
    "TIME": _typed,
    "TIMESTAMP": _typed,
    "TIMESTAMPADD": _timestampadd,
    "TIMESTAMPDIFF": _timestampadd,
    "SUBSTR": _substr,
    "MID": _substr,
    "NEXT": _next_value,
    "PREVIOUS": _next_value,
    **dict.fromkeys(_CONSTANTS, _constant),
}
