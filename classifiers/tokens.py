"""What a lexer hands on: tokens with byte offsets into the original text. Plain tuples; no behaviour.

A token's `text` is what grammar rules compare with: the upper-case spelling of an unquoted word, the spelling of an operator,
punctuation mark or number, and "" for everything quoted, so that a quoted name or a string can never be taken for a keyword.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple


class TokenKind(IntEnum):
    """What the server's lexer would call it."""

    WORD = 1
    """An unquoted word: keyword or name. value: the name as the server folds and truncates it."""
    QUOTED = 2
    """A quoted name. value: the name after unescaping and truncation."""
    STRING = 3
    """Any string constant, all its continuations included. value: the decoded text, None if it was not decoded."""
    NUMBER = 4
    """value: the spelling."""
    PARAM = 5
    """$1. value: the spelling."""
    PUNCT = 6
    """( ) [ ] , ; . : :: .. :="""
    OP = 7
    """An operator, also => and comparison signs."""
    VARIABLE = 8
    """MySQL: @x and @@x, also the host of an account ('u'@'h'). text: "@" or "@@". value: the name without it."""


WORD, QUOTED, STRING, NUMBER, PARAM, PUNCT, OP, VARIABLE = TokenKind


class Token(NamedTuple):
    """One token. start and end are byte offsets: text[start:end] is its spelling."""

    kind: int
    text: str
    value: str | None
    start: int
    end: int


def join_name(parts: Iterable[str]) -> str:
    """The parts of a name joined by dots, for Effect.object: a part with a dot or a quote in it is put in quotes, so that it stays one."""
    return ".".join('"' + part.replace('"', '""') + '"' if "." in part or '"' in part else part for part in parts)


class Unreadable(Exception):  # noqa: N818 -- reads as what happened, and never leaves this package
    """The text cannot be vouched for. Its message is one short sentence that holds nothing of the text."""
