"""Tokens of one message to token lists of its statements. Counterpart of the server's own splitting in its grammar.

Semicolons inside parentheses do not split (only CREATE RULE has them there), nor do those of a BEGIN ATOMIC body.
"""

from __future__ import annotations

from classifiers.tokens import PUNCT, WORD, Token, Unreadable


def split_statements(tokens: list[Token]) -> list[list[Token]]:
    """Cut at top-level semicolons; empty statements are left out.

    Raises Unreadable if brackets do not pair, or if a BEGIN ATOMIC body is anything but the end of the message with a single
    END and no CASE: both words can also be labels (`SELECT 1 case`), and a miscount would hide the statements behind.
    """
    statements: list[list[Token]] = []
    current: list[Token] = []
    open_brackets: list[str] = []
    in_atomic = False
    for index, token in enumerate(tokens):
        text = token.text
        if token.kind == PUNCT:
            if text in ("(", "["):
                open_brackets.append(text)
            elif text in (")", "]"):
                if not open_brackets or open_brackets.pop() != ("(" if text == ")" else "["):
                    raise Unreadable("brackets do not pair")
            elif text == ";" and not open_brackets and not in_atomic:
                if current:
                    statements.append(current)
                    current = []
                continue
        elif token.kind == WORD and not in_atomic and text == "BEGIN" and not open_brackets:
            in_atomic = index + 1 < len(tokens) and tokens[index + 1].text == "ATOMIC" and _creates_routine(current)
            if in_atomic:
                _check_atomic_body(tokens[index + 1 :])
        current.append(token)
    if open_brackets:
        raise Unreadable("brackets do not pair")
    if current:
        statements.append(current)
    return statements


def _check_atomic_body(tokens: list[Token]) -> None:
    last = len(tokens) - 1
    while last > 0 and tokens[last].text == ";":
        last -= 1
    words = [token.text for token in tokens]
    if words[last] != "END" or words.count("END") != 1 or "CASE" in words:
        raise Unreadable("a BEGIN ATOMIC body whose end is not certain")


def _creates_routine(tokens: list[Token]) -> bool:
    words = [token.text for token in tokens[:4]]
    if words[:1] != ["CREATE"]:
        return False
    kind = words[3:4] if words[1:3] == ["OR", "REPLACE"] else words[1:2]
    return kind in (["FUNCTION"], ["PROCEDURE"])
