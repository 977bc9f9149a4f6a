"""Where secrets stand in a text, and the text without them. Needs no parse: works on whatever arrives, in linear time.

Redacts too much rather than too little where a secret may stand; what only names one ('/etc/passwd') stays, as it is evidence.
Counterpart: secret_literals.py, which knows the forms; this file looks at what has no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from classifiers.effects import LexingState
from classifiers.lexer_mysql import lex as lex_mysql
from classifiers.lexer_postgres import lex as lex_postgres
from classifiers.secret_literals import Spans, find_literals
from classifiers.tokens import Token, Unreadable

_LEXERS: dict[str, Callable[[bytes, LexingState], list[Token]]] = {
    "postgres": lex_postgres,
    "mysql": lambda text, state: lex_mysql(text, state).tokens,
}
_HINTS = tuple(
    hint.encode()
    for hint in (
        "pass", "pwd", "role", "user", "identified", "secret", "conninfo", "connection", "credential", "dblink", "key", "token", "crypt",
        "digest", "hmac", "://", "\\", "u&", "md5", "scram", "program", "login", "account", "auth", "bearer", "member", "group", "priv",
    )
)  # fmt: skip
"""A text without any of these holds nothing that is looked for. A backslash or U& can spell any of them."""
_COMMENT_HINT = re.compile(
    rb"passw|pwd|pass[=:\s]|secret|sslkey|scram-sha|md5[0-9a-f]{32}|api_?key|access_?key|credential|://[^\s/@:]{0,256}:[^\s/@]{0,256}@|token\s*[=:]|identified"
)
_MAX_COMMENT_BYTES = 1 << 16
"""Longer comments of a text with a hint go unread."""
_MAX_DEPTH = 3
"""Literals in literals."""


def find_secret_spans(dialect: str, text: bytes, state: LexingState) -> Spans:
    """Byte offsets of literals that must never be stored, quotes included, in order and not overlapping.

    A text that cannot be lexed and holds a hint of a secret is redacted from its first quote to its end.
    Raises ValueError for an unknown dialect.
    """
    return _find(dialect, text, state, 0)


def find_spans_of_tokens(dialect: str, text: bytes, tokens: list[Token], state: LexingState) -> Spans:
    """As find_secret_spans, where the tokens are known."""
    return _spans_of_tokens(dialect, text, tokens, state, 0) if _has_hint(text) else ()


def _find(dialect: str, text: bytes, state: LexingState, depth: int) -> Spans:
    lex = _LEXERS.get(dialect)
    if lex is None:
        raise ValueError("unknown dialect")
    if not _has_hint(text):
        return ()
    if depth > _MAX_DEPTH:
        return ((0, len(text)),)
    try:
        tokens = lex(text, state)
    except Unreadable:
        return _spans_of_unreadable(text)
    return _spans_of_tokens(dialect, text, tokens, state, depth)


def _has_hint(text: bytes) -> bool:
    lower = text.lower()
    return any(hint in lower for hint in _HINTS)


def _spans_of_tokens(dialect: str, text: bytes, tokens: list[Token], state: LexingState, depth: int) -> Spans:
    spans = find_literals(dialect, text, tokens, lambda inner: _find(dialect, inner, state, depth + 1))
    return _join(sorted([*_spans_between(text, tokens, set(spans)), *spans]))


def _spans_between(text: bytes, tokens: list[Token], secret: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """What stands between the tokens: comments that speak of a secret, and cut runs of literals whose beginning holds one."""
    spans: list[tuple[int, int]] = []
    at = 0
    for index in range(len(tokens) + 1):
        start = tokens[index].start if index < len(tokens) else len(text)
        if start - at > 1 and (between := text[at:start].lower().strip()):
            is_run = between.startswith(b",")
            row = tokens[max(0, index - 40) : index] if is_run else ()
            if (
                any((token.start, token.end) in secret for token in row)
                or len(between) > _MAX_COMMENT_BYTES * (8 if is_run else 1)
                or _COMMENT_HINT.search(between)
            ):
                spans.append((at, start))
        at = tokens[index].end if index < len(tokens) else at
    return spans


def _join(spans: list[tuple[int, int]]) -> Spans:
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)


def _spans_of_unreadable(text: bytes) -> Spans:
    quotes = [at for at in (text.find(b"'"), text.find(b"$"), text.find(b'"')) if at >= 0]
    return ((min(quotes), len(text)),) if quotes else ()


def redact(text: bytes, spans: Spans, mark: bytes = b"'***'") -> bytes:
    """The text with each span replaced by the mark. spans: ordered, not overlapping."""
    parts: list[bytes] = []
    at = 0
    for start, end in spans:
        parts += [text[at:start], mark]
        at = end
    parts.append(text[at:])
    return b"".join(parts)
