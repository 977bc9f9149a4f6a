"""Tokens of one query or DML statement to a text that leaves the parse library nothing to read in its own way.

The canonical text has one blank between tokens; every name is `"~12"`, 12 being its token's index; strings are 's12';
casts, collations, locking clauses, sampling and other syntax that cannot touch a table are gone (noted here where they
matter); operators other than comparisons are "-". Parse trees are read back through the indexes (tree_postgres.py). Words that
need a rule of their own have it in canonical_clauses_postgres.py, canonical_windows_postgres.py and canonical_expressions_postgres.py.
Words are kept as keywords only where the server's grammar must read them so; a word misjudged here makes the
parse fail or the counts in second_opinion_postgres.py differ, and the statement is refused.
The canonical text is never sent to a server.
"""

from __future__ import annotations

from classifiers.builtins_postgres import RESERVED, TYPE_FUNC_NAMES
from classifiers.canonical_clauses_postgres import CLAUSE_RULES
from classifiers.canonical_expressions_postgres import CALL_SYNTAX, CONSTANT_WORDS, EXPRESSION_RULES
from classifiers.canonical_windows_postgres import WINDOW_RULES
from classifiers.canonical_writer_postgres import COMPARISONS, Canonical, Writer
from classifiers.tokens import NUMBER, OP, PARAM, PUNCT, QUOTED, STRING, WORD, Token, Unreadable
from classifiers.types_postgres import FIRST_WORDS, skip_interval_fields, skip_type

_RULES = {**CLAUSE_RULES, **WINDOW_RULES, **EXPRESSION_RULES}
_PASSED = frozenset(
    ["SELECT", "DISTINCT", "ON", "ALL", "FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "WITH",
     "UNION", "EXCEPT", "INTERSECT", "AS", "NOT", "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "OUTER", "CROSS", "NATURAL",
     "USING", "LATERAL", "INTO", "DEFAULT", "CASE", "WHEN", "THEN", "ELSE", "END", "AND", "OR", "IS", "NULL", "TRUE", "FALSE",
     "IN", "LIKE", "ILIKE", "SIMILAR", "TO", "ANY", "SOME", "ASC", "DESC", "BETWEEN", "EXISTS", "DO", "RETURNING", "CONSTRAINT"]
)  # fmt: skip
"""Reserved words that are passed on as they are."""
_AFTER_STAR = frozenset(
    ["", ")", ",", "WHERE", "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL", "GROUP", "ORDER", "LIMIT", "OFFSET",
     "UNION", "EXCEPT", "INTERSECT", "FOR", "HAVING", "WINDOW", "FETCH", "AS", "SET", "USING", "RETURNING", "FROM"]
)  # fmt: skip
_LITERAL_WORDS = frozenset(["NULL", "TRUE", "FALSE", "DEFAULT"])
KEPT_LITERALS = 4
"""Of a longer run of literals, how many are passed on: enough for its shape."""


def make_canonical(tokens: list[Token]) -> Canonical:
    """Raises Unreadable where a keyword stands in a place that is not read."""
    writer = Writer(tokens)
    _run(writer)
    writer.result.text = " ".join(writer.out)
    return writer.result


def _run(writer: Writer) -> None:
    while writer.at < writer.end:
        token = writer.tokens[writer.at]
        kind = token.kind
        if kind == WORD:
            _word(writer, token)
        elif kind == PUNCT:
            _punct(writer, token.text)
        elif kind == OP:
            _op(writer, token.text)
        elif kind == QUOTED:
            writer.name()
        else:
            _literal(writer, token)


def _literal(writer: Writer, token: Token) -> None:
    if token.kind == STRING:
        writer.out.append(f"'s{writer.at}'")
    elif token.kind == PARAM:
        writer.out.append(token.text)
    else:
        writer.out.append(token.text if token.text.isdigit() else "0.5")
    writer.at += 1
    if writer.word(0) == "," and writer.word(-2) in ("(", ",", "[") and writer.frames[-1][0] in ("(", "[", "VALUES"):
        _cut_literals(writer)


def _cut_literals(writer: Writer) -> None:
    """Drop the later members of a bracketed run `1, 'a', $1, …` that holds literals only, from its second comma on."""
    at, count = writer.at, 0
    while at + 1 < writer.end and writer.tokens[at].text == "," and _is_literal(writer.tokens[at + 1]):
        at, count = at + 2, count + 1
    if count > KEPT_LITERALS and at < writer.end and writer.tokens[at].text in (")", "]"):
        writer.at = at


def _punct(writer: Writer, text: str) -> None:
    if text == "(":
        _open(writer)
    elif text == ")":
        if writer.frames[-1][0] == "CAST":
            raise Unreadable("a CAST without a type")
        opener = writer.frames.pop()[0]
        writer.out.append(")")
        writer.at += 1
        if opener == "USING" and writer.word(0) == "AS" and writer.kind(1) in (WORD, QUOTED):
            writer.at += 2  # JOIN … USING (a) AS x
        if writer.kind(0) == STRING:
            raise Unreadable("a string after a closing parenthesis")
        if writer.word(0) == "," and writer.word(1) == "(":
            _cut_rows(writer)
    elif text == "[":
        is_subscript = writer.kind(-1) in (WORD, QUOTED, PARAM) or writer.word(-1) in (")", "]")
        if is_subscript and writer.word(-1) != "ARRAY":
            writer.out.append("-")
        writer.frames.append(["[", "", ""])
        writer.out.append("(")
        writer.at += 1
    elif text == "]":
        if writer.frames.pop()[0] != "[":
            raise Unreadable("brackets do not pair")
        if writer.out[-1] == "-":
            writer.out.append("1")
        writer.out.append(")")
        writer.at += 1
    elif text in (",", "."):
        writer.out.append(text)
        writer.at += 1
    elif text == ":" and writer.frames[-1][0] == "[":
        writer.out.append("-")
        writer.at += 1
    elif text == "::":
        parts, writer.at = skip_type(writer.tokens, writer.at + 1)
        writer.result.types.append(parts)
    else:
        raise Unreadable("punctuation that no query holds here")


def _open(writer: Writer) -> None:
    before = writer.word(-1)
    opener = before if before in CALL_SYNTAX or before in ("CAST", "TREAT", "OVER", "VALUES", "USING") else "("
    if opener == "TREAT":
        opener = "CAST"
    if before == "AS" and writer.word(-3) in ("WINDOW", ","):
        opener = "OVER"
    writer.frames.append([opener, "", ""])
    writer.out.append("(")
    writer.at += 1
    if opener == "EXTRACT":
        if writer.kind(0) not in (WORD, STRING, QUOTED) or writer.word(1) != "FROM":
            return
        writer.at += 2
    elif opener == "TRIM" and writer.word(0) in ("BOTH", "LEADING", "TRAILING"):
        writer.at += 1


def _cut_rows(writer: Writer) -> None:
    """Drop later rows of `VALUES (…), (…), …` that hold literals only; the ones left show the shape."""
    if writer.frames[-1][1] != "VALUES":
        return
    at, kept = writer.at, writer.at
    while at + 1 < writer.end and writer.tokens[at].text == "," and writer.tokens[at + 1].text == "(":
        at += 2
        while at < writer.end and (_is_literal(writer.tokens[at]) or writer.tokens[at].text in (",", "-", "+")):
            at += 1
        if at >= writer.end or writer.tokens[at].text != ")":
            break
        at += 1
        kept = at
    writer.at = kept


def _op(writer: Writer, text: str) -> None:
    before = writer.word(-1)
    if text == "=>":
        raise Unreadable("a named argument in a place that is not read")
    writer.result.operators.append(("", text))
    if text == "*" and writer.word(1) in _AFTER_STAR and writer.kind(-1) in (WORD, QUOTED) and writer.is_name(-1):
        writer.at += 1  # FROM t *: the old spelling of "with children"
        return
    if text == "*" and not _is_star(writer, before):
        text = "-"
    writer.out.append(text if text in COMPARISONS else "-")
    writer.at += 1
    if before == "USING" and writer.frames[-1][1] == "ORDER":
        del writer.out[-2:]


def _is_star(writer: Writer, before: str) -> bool:
    """`*` for all columns, not for times."""
    return (
        before in RESERVED
        or before in (".", ",", "(")
        or (writer.word(1) in _AFTER_STAR and writer.kind(1) not in (STRING, QUOTED))
    )


def _word(writer: Writer, token: Token) -> None:
    text = token.text
    before, after = writer.word(-1), writer.word(1)
    if before == "." or (before == "AS" and _names_alias(writer)):
        writer.name()
        return
    opener = writer.frames[-1][0]
    if opener in CALL_SYNTAX and text in CALL_SYNTAX[opener]:
        if writer.out[-1] != "(":
            writer.out.append(",")
        writer.at += 1
        return
    rule = _RULES.get(text)
    if rule is not None and rule(writer, before, after):
        return
    if text in _PASSED:
        is_call = text in ("LEFT", "RIGHT") or (text in ("LIKE", "ILIKE") and not _follows_operand(writer, before))
        if is_call and after == "(":
            writer.name()
            return
        writer.keyword(text)
    elif text in FIRST_WORDS and after not in (".", ",", ")"):
        _type_word(writer, text)
    elif text in RESERVED or (text in TYPE_FUNC_NAMES and after != "("):
        raise Unreadable("a keyword in a place that is not read")
    else:
        writer.name()


def _follows_operand(writer: Writer, before: str) -> bool:
    index = writer.at - 1
    is_name = index >= 0 and (writer.names[index] == 1 or writer.kind(-1) in (QUOTED, STRING, NUMBER, PARAM))
    return is_name or before in (")", "]", "NOT", "END", "NULL", "TRUE", "FALSE") or before in CONSTANT_WORDS


def _type_word(writer: Writer, text: str) -> None:
    try:
        parts, after = skip_type(writer.tokens, writer.at)
    except Unreadable:
        writer.name()
        return
    if after < writer.end and writer.tokens[after].kind == STRING:
        writer.result.types.append(parts)
        writer.out.append(f"'s{after}'")
        writer.at = after + 1
        if text == "INTERVAL":
            writer.at = skip_interval_fields(writer.tokens, writer.at)
        return
    writer.name()


def _names_alias(writer: Writer) -> bool:
    """After AS: a name, unless it is a CTE's `AS [NOT] MATERIALIZED (` or a cast's type."""
    text, after = writer.word(0), writer.word(1)
    if writer.frames[-1][0] == "CAST":
        return False
    if text == "MATERIALIZED" and after == "(":
        return False
    return not (text == "NOT" and after == "MATERIALIZED" and writer.word(2) == "(")


def _is_literal(token: Token) -> bool:
    return token.kind in (STRING, NUMBER, PARAM) or token.text in _LITERAL_WORDS
