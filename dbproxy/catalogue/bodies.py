"""What a PL/pgSQL function touches, from its tokens alone: every relation that its static SQL can name is named there.

Writes carry the flags truncate, no_where and trivial_where. No parser: whatever stands where a relation can stand, and is the name of one, counts as used. What runs text (EXECUTE), defines things or
changes settings makes the whole body unreadable; the function is then code whose effect cannot be seen. Pure and linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from classifiers.builtins_postgres import RESERVED
from classifiers.effects import Effect, Kind, LexingState
from classifiers.functions_postgres import find_meaning
from classifiers.lexer_postgres import lex
from classifiers.limits import check_text, check_tokens
from classifiers.tokens import OP, QUOTED, WORD, Token, Unreadable, join_name
from dbproxy.catalogue.model import ALL_WRITES, Body

_OPAQUE = frozenset(
    ["CREATE", "ALTER", "DROP", "GRANT", "REVOKE", "COPY", "CALL", "DO", "PREPARE", "DEALLOCATE", "IMPORT", "REFRESH", "CLUSTER", "VACUUM",
     "REINDEX", "SECURITY", "LOAD", "COMMENT", "SET", "RESET", "DISCARD", "REASSIGN"]
)  # fmt: skip
"""A statement that begins with one of these is not followed."""
_BEGINS = frozenset([";", "BEGIN", "THEN", "ELSE", "LOOP", ">>", "DECLARE"])
_BEFORE_RELATION = frozenset(
    ["FROM", "JOIN", "INTO", "UPDATE", "TABLE", "ONLY", "USING", ",", "(", "TRUNCATE", "MERGE"]
)
_VERBS = {
    "i": {"INSERT", "MERGE", "UPDATE"},
    "u": {"UPDATE", "MERGE"},
    "d": {"DELETE", "MERGE", "UPDATE"},
    "t": {"TRUNCATE"},
}
"""Words that stand for an event; an UPDATE may move a row to another partition."""
_WRITES = frozenset(["INTO", "UPDATE", "TRUNCATE", "MERGE"])


@dataclass(frozen=True, slots=True)
class Known:
    """Names (last parts) of what there is. The others mean columns, variables, and the server's own."""

    relations: Callable[[str], bool]
    functions: Callable[[str], bool]
    operators: Callable[[str], bool]
    types: Callable[[str], bool]


def read_plpgsql(source: str, known: Known) -> Body:
    """Raises Unreadable with one sentence if what it does cannot be told."""
    text = source.encode("utf-8", "surrogateescape")
    check_text(text)
    tokens = lex(text, LexingState(None))
    check_tokens(tokens)
    reads: dict[str, None] = {}
    writes: dict[str, None] = {}
    functions: dict[str, None] = {}
    truncates = any(token.kind == WORD and token.text == "TRUNCATE" for token in tokens)
    at = 0
    while at < len(tokens):
        token = tokens[at]
        before = tokens[at - 1].text if at else ";"
        if token.kind == WORD and before != ".":
            if token.text == "EXECUTE":
                raise Unreadable("it runs text as a statement")
            if token.text in _OPAQUE and before in _BEGINS:
                raise Unreadable("it runs a statement that is not followed")
        if token.kind == OP and known.operators(token.text):
            functions["operator:" + token.text] = None
        if token.kind not in (WORD, QUOTED) or (token.kind == WORD and token.text in RESERVED):
            at += 1
            continue
        parts, end = _chain(tokens, at)
        if before == "::" and known.types(parts[-1]):
            functions["cast:" + join_name(parts)] = None
        if end < len(tokens) and tokens[end].text == "(":
            meaning = find_meaning(parts)
            if known.functions(parts[-1]) or (meaning.is_known and (meaning.kinds or meaning.flags)):
                functions[join_name(parts)] = None
            if parts[-1] == "set_config":
                raise Unreadable("it changes settings")
        if before in _BEFORE_RELATION:
            for count in (1, 2):
                name = join_name(parts[:count])
                if len(parts) >= count and known.relations(parts[count - 1]):
                    reads[name] = None
                    if _is_written(tokens, at) or truncates:
                        writes[name] = None
        at = end
    effects = [Effect(Kind.DML_READ, name, "read", ("*",)) for name in reads]
    flags = _write_flags(tokens) | ({"truncate"} if truncates else set())
    effects += [Effect(Kind.DML_WRITE, name, "write", flags=frozenset(flags)) for name in writes]
    words = {token.text for token in tokens if token.kind == WORD}
    events = "".join(event for event in ALL_WRITES if words & _VERBS[event])
    return Body(tuple(effects), tuple(functions), events)


def _write_flags(tokens: list[Token]) -> set[str]:
    """no_where and trivial_where, if any UPDATE or DELETE has no WHERE of its own or one without a single name."""
    flags: set[str] = set()
    for at, token in enumerate(tokens):
        before = tokens[at - 1].text if at else ";"
        if token.kind == WORD and token.text in ("UPDATE", "DELETE") and before not in ("FOR", "ON", "DO", "KEY", "."):
            where = _where_of(tokens, at + 1)
            if where is None:
                flags.add("no_where")
            elif not any(each.kind == QUOTED or (each.kind == WORD and each.text not in RESERVED) for each in where):
                flags.add("trivial_where")
    return flags


def _where_of(tokens: list[Token], at: int) -> list[Token] | None:
    """What stands behind the WHERE of the statement whose verb is before; None if it has none."""
    depth, start = 0, -1
    for index in range(at, len(tokens)):
        text = tokens[index].text
        depth += (text == "(") - (text == ")")
        if depth < 0 or (depth == 0 and text in (";", "RETURNING")):
            return tokens[start:index] if start >= 0 else None
        if depth == 0 and text == "WHERE" and tokens[index].kind == WORD:
            start = index + 1
    return tokens[start:] if start >= 0 else None


def _chain(tokens: list[Token], at: int) -> tuple[tuple[str, ...], int]:
    """The parts of the name that begins here, and the index after it."""
    parts = [tokens[at].value or ""]
    while at + 2 < len(tokens) and tokens[at + 1].text == "." and tokens[at + 2].kind in (WORD, QUOTED):
        at += 2
        parts.append(tokens[at].value or "")
    return tuple(parts), at + 1


def _is_written(tokens: list[Token], at: int) -> bool:
    before = [tokens[at - back].text if at >= back else "" for back in (1, 2, 3)]
    if before[0] == "ONLY":
        before = before[1:]
    return before[0] in _WRITES or before[:2] == ["FROM", "DELETE"] or before[:2] == ["TABLE", "TRUNCATE"]
