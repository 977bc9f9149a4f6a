"""Cutting and searching token lists with regard to brackets."""

from __future__ import annotations

from classifiers.tokens import Token


def split_commas(tokens: list[Token]) -> list[list[Token]]:
    """Cut at commas that no bracket holds."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.text in ("(", "["):
            depth += 1
        elif token.text in (")", "]"):
            depth -= 1
        if token.text == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def find_word(tokens: list[Token], *words: str) -> int:
    """Index of these words in a row outside brackets, -1 if there are none."""
    depth = 0
    for index, token in enumerate(tokens):
        if token.text in ("(", "["):
            depth += 1
        elif token.text in (")", "]"):
            depth -= 1
        elif depth == 0 and token.text == words[0] and (index == 0 or tokens[index - 1].text != "."):
            found = tuple(t.text for t in tokens[index : index + len(words)])
            if found == words:
                return index
    return -1
