"""Where secrets stand in a text, and the text without them. Needs no parse: works on whatever arrives, in linear time.

Redacts too much rather than too little: in a text about roles, servers, subscriptions or connections every literal that can be a secret
goes, and a literal that holds "password" goes wherever it is.
"""

from __future__ import annotations

import re

from classifiers.effects import LexingState
from classifiers.lexer_postgres import lex
from classifiers.tokens import QUOTED, STRING, WORD, Token, Unreadable

_HINT = re.compile(
    rb"pass|pwd|role|user|identified|secret|conninfo|connection|credential|dblink|apikey|api_key|token|crypt|digest|hmac|://|\\|u&|md5|scram|_key|sslkey|accesskey",
    re.IGNORECASE,
)
"""A text without any of these holds nothing that is looked for. A backslash or U& can spell any of them."""
_SECRET_TEXT = re.compile(
    r"passw|pwd|(?<![a-z])secret\s*[=:]|secret_|_secret|sslkey|passfile|scram-sha|md5[0-9a-f]{32}|api_?key|access_?key|credential|://[^\s/@:]*:[^\s/@]*@|token\s*[=:]",
    re.IGNORECASE,
)
"""A literal like this is a secret or holds one: a connection string, a URL with a password, a verifier, a nested statement."""
_AFTER = frozenset(["PASSWORD", "PASSWD", "PASSPHRASE", "PASSCODE", "PWD", "SECRET", "CONNECTION"])
_DEFINING = frozenset(["CREATE", "ALTER"])
_SECRET_NAME = re.compile(
    r"pass[wpcf]|pwd|(?<![a-z])secret(?!s\b)|api_?key|access_?key|token|credential|passphrase|sslkey|private_?key",
    re.IGNORECASE,
)
_CALLS = frozenset(["crypt", "digest", "hmac", "pgp_sym_encrypt", "pgp_sym_decrypt", "pgp_sym_encrypt_bytea", "pgp_sym_decrypt_bytea",
                    "pgp_pub_decrypt", "pgp_pub_decrypt_bytea", "encrypt", "decrypt", "encrypt_iv", "decrypt_iv"])  # fmt: skip
_READING = frozenset(["SELECT", "TABLE", "VALUES", "SHOW", "EXPLAIN", "FETCH", "("])
"""Statements in which a secret's name is mostly a column that is read; in all others every literal behind such a name goes."""


def find_secret_spans(dialect: str, text: bytes, state: LexingState) -> tuple[tuple[int, int], ...]:
    """Byte offsets of literals that must never be stored, quotes included, in order and not overlapping.

    A text that cannot be lexed and holds a hint of a secret is redacted from its first quote to its end.
    Raises ValueError for an unknown dialect.
    """
    if dialect != "postgres":
        raise ValueError("unknown dialect")
    if _HINT.search(text) is None:
        return ()
    try:
        tokens = lex(text, state)
    except Unreadable:
        return _spans_of_unreadable(text)
    spans = _spans_of_comments(text, tokens)
    first, is_after_secret, start = "", False, 0
    for index, token in enumerate(tokens):
        if token.kind == STRING:
            if is_after_secret or _is_secret(text, tokens, index) or _is_for_a_role(tokens, start, index):
                spans.append((token.start, token.end))
        elif token.text == ";":
            first, is_after_secret, start = "", False, index + 1
        else:
            first = first or token.text
            before = tokens[index - 1].text if index else ""
            is_bare = token.kind == WORD and before == "PASSWORD" and first in _DEFINING and token.text != "NULL"
            if is_bare or (
                token.kind == QUOTED and before in _AFTER
            ):  # an error of the typist, a password all the same
                spans.append((token.start, token.end))
            elif first not in _READING and _is_secret_name(token):
                is_after_secret = True
    return tuple(sorted(spans))


def _spans_of_comments(text: bytes, tokens: list[Token]) -> list[tuple[int, int]]:
    """What stands between the tokens, where it speaks of a secret."""
    spans: list[tuple[int, int]] = []
    at = 0
    for start, end in [*((token.start, token.end) for token in tokens), (len(text), len(text))]:
        between = text[at:start]
        if between.strip() and _SECRET_TEXT.search(between.decode("latin-1")):
            spans.append((at, start))
        at = end
    return spans


def _is_for_a_role(tokens: list[Token], start: int, index: int) -> bool:
    """A string in CREATE or ALTER ROLE and the like, even if misspelt, or behind IDENTIFIED BY as other databases have it.

    start: where the statement begins.
    """
    if index > 1 and tokens[index - 1].text == "BY" and tokens[index - 2].text == "IDENTIFIED":
        return True
    words = [token.text for token in tokens[start : start + 2]]
    if len(words) < 2 or words[0] not in _DEFINING or words[1] not in ("ROLE", "USER", "GROUP"):
        return False
    return tokens[index - 1].text not in ("UNTIL", "=", "TO", ",")


def _spans_of_unreadable(text: bytes) -> tuple[tuple[int, int], ...]:
    quotes = [at for at in (text.find(b"'"), text.find(b"$"), text.find(b'"')) if at >= 0]
    return ((min(quotes), len(text)),) if quotes else ()


def _is_secret(text: bytes, tokens: list[Token], index: int) -> bool:
    token = tokens[index]
    value = token.value if token.value is not None else text[token.start : token.end].decode("latin-1")
    if token.value is None or _SECRET_TEXT.search(value):
        return True
    before = tokens[index - 1] if index else None
    if before is None:
        return False
    if before.text in ("=", "=>", ":=", "TO", "("):
        name = tokens[index - 2] if index > 1 else None
        if name is not None and _is_secret_name(name):
            return True
        if before.text == "(" and name is not None and name.kind != STRING and name.value in _CALLS:
            return True
    if before.text in _AFTER or _is_secret_name(before):
        return True
    if before.text == ",":
        return _follows_secret_argument(tokens, index)
    return False


def _is_secret_name(token: Token) -> bool:
    return token.kind in (WORD, QUOTED) and bool(token.value) and _SECRET_NAME.search(token.value or "") is not None


def _follows_secret_argument(tokens: list[Token], index: int) -> bool:
    """The later arguments of crypt('…', …), set_config('app.secret', '…') and the like."""
    at = index - 1
    steps = 0
    while at > 0 and steps < 12:
        token = tokens[at]
        if token.kind == STRING and token.value and _SECRET_NAME.search(token.value):
            return True
        if token.text == "(":
            name = tokens[at - 1]
            return (
                bool(name.value)
                and name.kind != STRING
                and (name.value in _CALLS or (name.value or "").startswith("dblink") or _is_secret_name(name))
            )
        at -= 1
        steps += 1
    return False


def redact(text: bytes, spans: tuple[tuple[int, int], ...], mark: bytes = b"'***'") -> bytes:
    """The text with each span replaced by the mark. spans: ordered, not overlapping."""
    parts: list[bytes] = []
    at = 0
    for start, end in spans:
        parts += [text[at:start], mark]
        at = end
    parts.append(text[at:])
    return b"".join(parts)
