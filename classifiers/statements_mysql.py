"""Tokens of one message to token lists of its statements, as MySQL and MariaDB split them: at semicolons outside stored code.

A stored routine, trigger or event, and MariaDB's BEGIN NOT ATOMIC, hold semicolons inside their blocks. Words that open or close a block
can also be names, so whatever is not certain is refused: a miscount would hide the statements behind.
"""

from __future__ import annotations

from classifiers.tokens import PUNCT, WORD, Token, Unreadable

_BODIES = frozenset(["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "PACKAGE"])
_BLOCKS = frozenset(["BEGIN", "IF", "CASE", "LOOP", "REPEAT", "WHILE", "FOR"])
_BEFORE_STATEMENT = frozenset([";", "BEGIN", "THEN", "ELSE", "DO", "LOOP", "REPEAT", ":"])


def split_statements(tokens: list[Token]) -> list[list[Token]]:
    """Cut at the semicolons between statements; empty statements are left out. Raises Unreadable if brackets do not pair."""
    statements: list[list[Token]] = []
    current: list[Token] = []
    depth = 0
    blocks: list[str] = []
    has_body = False
    for token in tokens:
        text = token.text
        if token.kind == PUNCT:
            depth += (text == "(") - (text == ")")
            if depth < 0:
                raise Unreadable("brackets do not pair")
            if text == ";" and depth == 0 and not blocks:
                if current:
                    statements.append(current)
                current, has_body = [], False
                continue
            if text == ";" and not has_body:
                raise Unreadable("a semicolon inside brackets")
        elif token.kind == WORD and depth == 0:
            has_body = has_body or _begins_body(current, text)
            if has_body:
                _track(blocks, current, text)
        current.append(token)
    if depth or blocks:
        raise Unreadable("brackets or blocks do not pair")
    if current:
        statements.append(current)
    return statements


def _begins_body(current: list[Token], text: str) -> bool:
    if text in _BODIES:
        return (
            bool(current)
            and current[0].text in ("CREATE", "ALTER")
            and len(current) < 16
            and all(t.text != "ON" for t in current)
        )
    return text == "NOT" and len(current) == 1 and current[0].text == "BEGIN"


def _track(blocks: list[str], current: list[Token], text: str) -> None:
    """Follow the blocks of a body by one more word."""
    before = current[-1].text if current else ""
    if text == "NOT" and before == "BEGIN" and len(current) == 1:
        blocks.append("BEGIN")
    elif text == "END":
        if before == ".":
            return
        if (blocks and blocks[-1] == "CASE of an expression") or (blocks and before in _BEFORE_STATEMENT):
            blocks.pop()
        else:
            raise Unreadable("a block whose end is not certain")
    elif text in _BLOCKS and before not in ("END", ".", "AS"):
        is_statement = bool(blocks) and before in _BEFORE_STATEMENT
        if text == "BEGIN":
            if before in (",", "SELECT", "FROM", "JOIN", "=", "AS", "BY"):
                raise Unreadable("a block whose beginning is not certain")
            blocks.append("BEGIN")
        elif text == "CASE":
            blocks.append("CASE" if is_statement else "CASE of an expression")
        elif is_statement:
            blocks.append(text)
        elif not blocks and text in ("LOOP", "REPEAT", "WHILE") and before not in (",", "="):
            raise Unreadable("a body whose beginning is not certain")
