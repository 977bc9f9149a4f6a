"""Which names stand where a table stands, from MySQL tokens alone, and whether the reading has them all.

Shares nothing with translate_mysql.py, so that one mistake cannot hide in both.
"""

from __future__ import annotations

from sqlglot import exp

from classifiers.tokens import QUOTED, STRING, WORD, Token, Unreadable
from classifiers.tree import Reading

_CALLS_WITH_FROM = frozenset(["EXTRACT", "TRIM", "SUBSTRING", "SUBSTR", "MID"])
_NO_TABLE = frozenset(["SELECT", "DUAL", "LATERAL", "VALUES", "UPDATE", "OUTFILE", "DUMPFILE", "JSON_TABLE", "SET"])


def check_tables(tokens: list[Token], reading: Reading) -> None:
    """Raise Unreadable if a name behind FROM, JOIN, INTO or UPDATE is neither a table that was read nor a CTE."""
    known = {part.lower() for _, name, _ in reading.draft.acts for part in [name.rpartition(".")[2].strip('"')]}
    known |= {cte.alias.lower() for cte in reading.tree.find_all(exp.CTE)}
    for parts in find_table_names(tokens):
        name = parts[-1].lower()
        if name not in known and '"' not in name and "." not in name:
            raise Unreadable("tables in the text and in its reading differ")


def find_table_names(tokens: list[Token]) -> list[tuple[str, ...]]:
    """The names behind FROM, JOIN and INTO, functions left out."""
    names: list[tuple[str, ...]] = []
    openers: list[bool] = [False]
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index else ""
        if token.text == "(":
            openers.append(before in _CALLS_WITH_FROM)
        elif token.text == ")" and len(openers) > 1:
            openers.pop()
        elif token.kind != WORD or before == "." or token.text not in ("FROM", "JOIN", "INTO", "STRAIGHT_JOIN"):
            continue
        elif (
            not (token.text == "FROM" and openers[-1])
            and not (token.text == "JOIN" and before == "FOR")
            and not (token.text == "STRAIGHT_JOIN" and before == "SELECT")
        ):
            name = _name(tokens, index + 1)
            if name:
                names.append(name)
    return names


def _name(tokens: list[Token], at: int) -> tuple[str, ...]:
    while at < len(tokens) and tokens[at].text in ("(", "LOW_PRIORITY", "IGNORE"):
        at += 1
    if at >= len(tokens) or tokens[at].kind not in (WORD, QUOTED) or tokens[at].text in _NO_TABLE:
        return ()
    parts = [tokens[at].value or ""]
    while at + 2 < len(tokens) and tokens[at + 1].text == "." and tokens[at + 2].kind in (WORD, QUOTED):
        at += 2
        parts.append(tokens[at].value or "")
    following = tokens[at + 1] if at + 1 < len(tokens) else None
    if following is not None and (following.text == "(" and tokens[at - 1].text != "INTO") and following.kind != STRING:
        return ()  # a function, or a table with a column list behind INTO, which is looked at above
    return tuple(parts)
