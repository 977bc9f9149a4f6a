"""Tokens of one message to token lists of its statements. Counterpart of the server's own splitting in its grammar.

Semicolons inside parentheses do not split (only CREATE RULE has them there), nor do those of a BEGIN ATOMIC body.
"""

from __future__ import annotations

from classifiers.tokens import PUNCT, WORD, Token, Unreadable


def split_statements(tokens: list[Token]) -> list[list[Token]]:
    """Cut at top-level semicolons; empty statements are left out.

    Raises Unreadable if brackets do not pair, or if a BEGIN ATOMIC body is followed by another statement: its end is
    found by counting CASE and END, and a miscount must not hide a statement.
    """
    statements: list[list[Token]] = []
    current: list[Token] = []
    open_brackets: list[str] = []
    atomic_depth = 0
    saw_atomic = False
    for index, token in enumerate(tokens):
        text = token.text
        if token.kind == PUNCT:
            if text in ("(", "["):
                open_brackets.append(text)
            elif text in (")", "]"):
                if not open_brackets or open_brackets.pop() != ("(" if text == ")" else "["):
                    raise Unreadable("brackets do not pair")
            elif text == ";" and not open_brackets and atomic_depth == 0:
                if current:
                    statements.append(current)
                    current = []
                continue
        elif token.kind == WORD and text in ("BEGIN", "CASE", "END"):
            if text == "BEGIN":
                if index + 1 < len(tokens) and tokens[index + 1].text == "ATOMIC" and _creates_routine(current):
                    atomic_depth += 1
                    saw_atomic = True
            elif atomic_depth and tokens[index - 1].text not in (".", "AS"):
                atomic_depth += 1 if text == "CASE" else -1
        current.append(token)
    if open_brackets:
        raise Unreadable("brackets do not pair")
    if current:
        statements.append(current)
    if saw_atomic and (atomic_depth or len(statements) > 1 or statements[0][-1].text != "END"):
        raise Unreadable("a BEGIN ATOMIC body is not alone in its message")
    return statements


def _creates_routine(tokens: list[Token]) -> bool:
    words = [token.text for token in tokens[:4]]
    if words[:1] != ["CREATE"]:
        return False
    kind = words[3:4] if words[1:3] == ["OR", "REPLACE"] else words[1:2]
    return kind in (["FUNCTION"], ["PROCEDURE"])
