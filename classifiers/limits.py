"""Bounds checked on the tokens before anything is parsed: what is beyond them is refused, whatever it may mean.

They keep the parse library out of the inputs on which its time or memory explodes; the process that calls the classifier
still bounds time and memory from outside.
"""

from __future__ import annotations

from classifiers.tokens import OP, PUNCT, Token, Unreadable

MAX_TEXT_BYTES = 4 << 20
"""Longer messages are not even lexed."""
MAX_TOKENS = 60_000
"""Tokens of one message, long runs of literals cut. Reading them takes about 0.1 s, and 200 bytes of memory each."""
LONG_RUN_CHARS = 2_048
"""A list of literals that is longer is cut by the lexer."""
KEPT_OF_RUN = 32
"""Members that are left of it."""
MAX_STATEMENTS = 500
MAX_TOKENS_OF_MANY = 20_000
"""Tokens of a message with several statements."""
MAX_PARSED_TOKENS = 8_000
"""Tokens of one statement that are handed to the parse library, after runs of literals are cut. It takes about 10 µs for each."""
MAX_PARENTHESES = 64
MAX_SQUARE_BRACKETS = 4
MAX_SUBSCRIPTS = 8
"""Subscripts in a row."""
MAX_COMMENT_DEPTH = 64
"""Comments in comments. With 100,000 levels PostgreSQL's own lexer takes a core for minutes and cannot be interrupted."""
MAX_PREFIXES = 40
"""Prefix operators, NOT or CASE nested without a bracket between them."""


def check_text(text: bytes) -> None:
    if len(text) > MAX_TEXT_BYTES:
        raise Unreadable("the text is too long")


def check_statements(statements: list[list[Token]]) -> None:
    if len(statements) > MAX_STATEMENTS:
        raise Unreadable("the message holds too many statements")
    if len(statements) > 1 and sum(map(len, statements)) > MAX_TOKENS_OF_MANY:
        raise Unreadable("the statements of the message are too long together")


def check_tokens(tokens: list[Token]) -> None:
    """Raise Unreadable if the tokens of a message nest or repeat beyond the limits."""
    parentheses = squares = subscripts = prefixes = cases = 0
    for token in tokens:
        text = token.text
        if token.kind == PUNCT:
            prefixes = 0
            if text == "(":
                parentheses += 1
                if parentheses > MAX_PARENTHESES:
                    raise Unreadable("parentheses nest too deeply")
            elif text == ")":
                parentheses -= 1
            elif text == "[":
                squares += 1
                if squares > MAX_SQUARE_BRACKETS:
                    raise Unreadable("square brackets nest too deeply")
            elif text == "]":
                squares -= 1
                subscripts += 1
                if subscripts > MAX_SUBSCRIPTS:
                    raise Unreadable("too many subscripts in a row")
                continue
            if text != "[":
                subscripts = 0
        elif text == "CASE":
            cases += 1
            if cases > MAX_PREFIXES:
                raise Unreadable("CASE nests too deeply")
        elif text == "END":
            cases = max(0, cases - 1)
        elif token.kind == OP or text == "NOT":
            prefixes += 1
            if prefixes > MAX_PREFIXES:
                raise Unreadable("too many prefix operators in a row")
        else:
            prefixes = subscripts = 0
