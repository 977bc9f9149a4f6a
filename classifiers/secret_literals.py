"""Which literals of a token list are secrets: passwords of accounts, connection strings, keys, values that are put into or compared with
columns named like one.

Knows the forms of PostgreSQL, MySQL and MariaDB, by tokens only, so that it works on what does not parse. Does not lex.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from classifiers.tokens import NUMBER, OP, QUOTED, STRING, VARIABLE, WORD, Token

Spans = tuple[tuple[int, int], ...]

_KEY = (
    r"(?:pass(?:word|wd|phrase|code|file)?(?![a-z])|pgpass\w*|pwd|secret(?![a-z])|api[_-]?key|access[_-]?key|private[_-]?key|token(?![a-z])"
    r"|credentials?|sslkey)"
)
_SECRET_TEXT = re.compile(
    rf"""{_KEY}\w{{0,40}}['"\])]{{0,3}}\s{{0,8}}(?:=|:)     # password=x, "token": x, password := x
    | {_KEY}\s{{1,8}}(?:[eunbx]?&?['"\\]|\$|\()             # a nested statement: PASSWORD 'x'
    | scram-sha | md5[0-9a-f]{{32}} | \$2[abxy]\$[0-9]{{2}}\$ | \*[0-9a-f]{{40}} | akia[0-9a-z]{{16}}
    | ://[^\s/:@]{{0,256}}:[^\s]{{0,256}}@ | bearer\s+\S | basic\s+[a-z0-9+/=]{{8}} | begin\s[a-z\s]{{0,20}}private\skey
    | identified\s+(?:by|with|via)""",
    re.VERBOSE,
)
"""Lower-cased literals like these are secrets or hold one: connection strings, URLs with a password, verifiers, nested statements."""
_PROMPT = re.compile(rf"""(?:{_KEY}\w{{0,40}}|identified\s+(?:by|as|using))["']?[\s=:]{{1,8}}['"\s]{{0,8}}(?:$|%)""")
"""A literal that ends where a secret comes next: 'ALTER USER x PASSWORD ' || …, format('… PASSWORD %L', …)."""
_PROGRAM = re.compile(
    r"(?:^|\s)-u\s*\S+:\S|(?:curl|wget|http\w*)\b.{0,2000}\s(?:-u\s*\S|--(?:proxy-)?user|-h\s*['\"]?\s*(?:authorization|cookie|x-))|\s-p\S"
    r"|sshpass|--?(?:pass|pwd|token|secret|key)|pass\w*=|pwd=|token=|secret\w*=|key=|_key\b",
    re.DOTALL,
)
"""Command lines that carry a secret."""
_NESTED = re.compile(
    r"\s*(?:select|insert|replace|update|delete|merge|alter|create|set|with|copy|begin|declare|do|call|execute|grant|prepare|change|start)\b",
    re.IGNORECASE,
)
_TEXT_HINTS = (
    "pass",
    "pwd",
    "secret",
    "key",
    "token",
    "credential",
    "scram",
    "md5",
    "$2",
    "*",
    "akia",
    "://",
    "bearer",
    "basic",
    "identified",
)

_AFTER = frozenset(["PASSWORD", "PASSWD", "PASSPHRASE", "PASSCODE", "PWD", "SECRET", "CONNECTION"])
_DEFINING = frozenset(["CREATE", "ALTER"])
_SECRET_NAME = re.compile(
    r"pass[wpcf]|(?<![a-z])pass$|pwd|(?<![a-z])secret(?!s\b)|api_?key|access_?key|token|credential|passphrase|sslkey|private_?key"
    r"|authentication_string|auth_string",
    re.IGNORECASE,
)
_CALLS = frozenset(["crypt", "digest", "hmac", "pgp_sym_encrypt", "pgp_sym_decrypt", "pgp_sym_encrypt_bytea", "pgp_sym_decrypt_bytea",
                    "pgp_pub_decrypt", "pgp_pub_decrypt_bytea", "encrypt", "decrypt", "encrypt_iv", "decrypt_iv", "aes_encrypt",
                    "aes_decrypt", "des_encrypt", "des_decrypt", "old_password", "encode", "decode"])  # fmt: skip
_CREDENTIAL_TABLE = re.compile(
    r"(?:^|_)(?:users?|accounts?|logins?|members?|auth|credentials?|passwords?|secrets?|tokens?|api_?keys?)$"
)
"""Tables whose INSERT without a column list may put a password anywhere."""
_GRANT_TABLES = frozenset(["pg_authid", "pg_shadow", "pg_user_mapping", "pg_user_mappings", "global_priv"])
_READING = frozenset(
    ["SELECT", "TABLE", "VALUES", "SHOW", "EXPLAIN", "FETCH", "(", "DESCRIBE", "DESC", "WITH", "DECLARE"]
)
"""Statements in which a secret's name is mostly a column that is read; in all others every literal behind such a name goes."""
_WRITING = frozenset(["INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"])
_ENDS_COMPARISON = frozenset(
    [
        "AND",
        "OR",
        "FROM",
        "WHERE",
        "GROUP",
        "ORDER",
        "HAVING",
        "LIMIT",
        "UNION",
        "JOIN",
        "ON",
        "SELECT",
        "THEN",
        "ELSE",
        "WHEN",
        "RETURNING",
    ]
)
_COMPARING = frozenset(["IN", "LIKE", "ILIKE", "SIMILAR", "BETWEEN", "RLIKE", "REGEXP", "IS", "ANY", "ALL"])


def find_literals(dialect: str, text: bytes, tokens: list[Token], find_inside: Callable[[bytes], Spans]) -> Spans:
    """Byte offsets of the literals that are secrets, quotes included, in order.

    find_inside: finds the spans in a text of its own, for statements inside literals.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for at in [*(i for i, token in enumerate(tokens) if token.text == ";"), len(tokens)]:
        if any(token.kind in (STRING, QUOTED) or token.text == "PASSWORD" for token in tokens[start:at]):
            spans += _Statement(dialect, text, tokens[start:at], find_inside).spans()
        start = at + 1
    return tuple(spans)


class _Statement:
    """One pass over what stands between two semicolons."""

    def __init__(self, dialect: str, text: bytes, tokens: list[Token], find_inside: Callable[[bytes], Spans]) -> None:
        self.text = text
        self.tokens = tokens
        self.find_inside = find_inside
        self.is_mysql = dialect != "postgres"
        words = [token.text for token in tokens[:3]]
        self.first = words[0]
        all_words = {token.text for token in tokens}
        self.is_reading = self.first in _READING and not (all_words & _WRITING)
        is_account = len(words) > 1 and words[1] in ("ROLE", "USER", "GROUP")
        self.is_account = self.first in _DEFINING and is_account and words[2:3] != ["MAPPING"]
        self.is_mapping = "MAPPING" in words and "USER" in words
        self.is_identified = "IDENTIFIED" in all_words
        self.is_all = _writes_credentials(tokens)

    def spans(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        is_after = is_identified = False
        near = 0  # 1: behind a secret's name, 2: and what it is compared with comes
        for index, token in enumerate(self.tokens):
            if token.kind == STRING:
                value = self._value(token).lower()
                is_plain = self._text(index - 1) == "UNTIL"
                is_continued = index > 0 and found[-1:] == [(self.tokens[index - 1].start, self.tokens[index - 1].end)]
                is_secret = (
                    is_after or near == 2 or self.is_all or (is_continued and self.tokens[index - 1].kind == STRING)
                )
                if not is_plain and (is_secret or self._is_secret(index, value, is_identified=is_identified)):
                    found.append((token.start, token.end))
                else:
                    found += self._inside(token, value)
                if any(hint in value for hint in _TEXT_HINTS):
                    is_after = is_after or _PROMPT.search(value) is not None
                continue
            before = self._text(index - 1)
            is_bare = token.kind in (WORD, NUMBER) and before == "PASSWORD" and self.first in _DEFINING
            if is_bare and token.text not in ("NULL", "EXPIRE", "REQUIRE", "HISTORY", "REUSE"):
                found.append((token.start, token.end))  # an error of the typist, a password all the same
            elif token.kind == QUOTED and before in _AFTER:
                found.append((token.start, token.end))
            elif self._is_quoted_secret(token, index, is_after=is_after or near == 2, is_identified=is_identified):
                found.append((token.start, token.end))  # a string to its typist, a name under ANSI_QUOTES
            elif _is_secret_name(token):
                near = 1
                is_after = is_after or not self.is_reading
            elif near and (token.text in _ENDS_COMPARISON or (token.text == "," and near == 1)):
                near = 0
            elif near and ((token.kind == OP and token.text not in ("*", "@")) or token.text in _COMPARING):
                near = 2
            is_identified = is_identified or token.text == "IDENTIFIED"
        return found

    def _is_quoted_secret(self, token: Token, index: int, *, is_after: bool, is_identified: bool) -> bool:
        if not self.is_mysql or token.kind != QUOTED or self.text[token.start : token.start + 1] != b'"':
            return False
        if self._text(index + 1) == "@" or _is_secret_name(token):
            return False
        return (
            is_after
            or is_identified
            or self.is_all
            or self.is_account
            or self._is_value_of_secret(index, self._text(index - 1))
        )

    def _text(self, index: int) -> str:
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def _value(self, token: Token) -> str:
        return token.value if token.value is not None else self.text[token.start : token.end].decode("latin-1")

    def _inside(self, token: Token, value: str) -> Spans:
        """A statement or a body inside a literal: its own secrets where offsets are the same, else all of it."""
        raw = self.text[token.start : token.end]
        if raw.startswith(b"$"):
            tag = raw[: raw.index(b"$", 1) + 1]
            inner = self.find_inside(raw[len(tag) : -len(tag)])
            offset = token.start + len(tag)
            return tuple((offset + start, offset + end) for start, end in inner)
        if _NESTED.match(value) and self.find_inside(self._value(token).encode("utf-8", "surrogateescape")):
            return ((token.start, token.end),)
        return ()

    def _is_secret(self, index: int, value: str, *, is_identified: bool) -> bool:
        token, before = self.tokens[index], self._text(index - 1)
        if token.value is None:
            return True
        is_body = self.text[token.start : token.start + 1] == b"$" and self.first in ("DO", "CREATE")
        if not is_body and any(hint in value for hint in _TEXT_HINTS) and _SECRET_TEXT.search(value):
            return True
        if before == "PROGRAM" and _PROGRAM.search(value):
            return True
        return (
            self._is_for_an_account(index, before, is_identified=is_identified)
            or self._is_value_of_secret(index, before)
            or self._is_named_secret(index)
        )

    def _is_for_an_account(self, index: int, before: str, *, is_identified: bool) -> bool:
        """A string in CREATE or ALTER ROLE and the like, even if misspelt, behind IDENTIFIED, or in the options of a user mapping."""
        if self.is_mysql and (before == "@" or self._text(index + 1) == "@"):
            return False
        if is_identified:
            return True
        if self.is_mapping:
            return (self.tokens[index - 1].value or "").lower() not in ("user", "username")
        if not self.is_account:
            return False
        if self.is_mysql and before in ("USER", "EXISTS", "ROLE", ",", "COMMENT", "ATTRIBUTE"):
            return False
        return before not in ("UNTIL", "=", "TO", ",")

    def _is_value_of_secret(self, index: int, before: str) -> bool:
        tokens = self.tokens
        if index and self.is_mysql and before.startswith("_"):  # an introducer: _utf8mb4'…'
            index -= 1
            before = self._text(index - 1)
        if index == 0:
            return False
        if before in ("=", "(") and self._text(index - 2) in _AFTER:
            return True
        if before in ("=", "=>", ":=", "TO", "("):
            name = tokens[index - 2] if index > 1 else None
            if name is not None and _is_secret_name(name):
                return True
            if (
                before == "("
                and name is not None
                and name.kind != STRING
                and (name.value or "").lower() in _CALLS - {"encode", "decode"}
            ):
                return True
        if before in _AFTER or _is_secret_name(tokens[index - 1]):
            return True
        return before == "," and self._follows_secret_argument(index)

    def _is_named_secret(self, index: int) -> bool:
        """`'x' AS password`, `'x' password`, `'x'::text AS password`, `'x' = password`."""
        at = index + 1
        while self._text(at) in ("::", "."):
            at += 2
        if self._text(at) == "AS" or (at < len(self.tokens) and self.tokens[at].kind == OP):
            at += 1
        while self._text(at + 1) == ".":
            at += 2
        return at > index and at < len(self.tokens) and _is_secret_name(self.tokens[at])

    def _follows_secret_argument(self, index: int) -> bool:
        """The later arguments of crypt('…', …), set_config('app.secret', '…') and the like."""
        for at in range(index - 1, max(0, index - 13), -1):
            token = self.tokens[at]
            if token.kind == STRING and token.value and _SECRET_NAME.search(token.value):
                return True
            if token.text == "(":
                name = self.tokens[at - 1]
                called = (name.value or "").lower()
                return name.kind != STRING and (called in _CALLS - {"encode", "decode"} or _is_secret_name(name))
        return False


def _is_secret_name(token: Token) -> bool:
    return (
        token.kind in (WORD, QUOTED, VARIABLE)
        and bool(token.value)
        and _SECRET_NAME.search(token.value or "") is not None
    )


def _writes_credentials(tokens: list[Token]) -> bool:
    """INSERT without a column list into a table named like one of accounts, and any write of the server's own account tables."""
    for index, token in enumerate(tokens[:400]):
        if token.text not in ("INTO", "UPDATE", "REPLACE") or index + 1 >= len(tokens):
            continue
        at = index + 1
        while at + 2 < len(tokens) and tokens[at + 1].text == ".":
            at += 2
        name = (tokens[at].value or "").lower()
        schema = (tokens[at - 2].value or "").lower() if tokens[at - 1].text == "." else ""
        if name in _GRANT_TABLES or (
            schema == "mysql" and name in ("user", "db", "global_priv", "slave_master_info", "servers")
        ):
            return True
        following = tokens[at + 1].text if at + 1 < len(tokens) else ""
        if (
            token.text != "UPDATE"
            and following in ("VALUES", "VALUE", "SELECT", "OVERRIDING")
            and _CREDENTIAL_TABLE.search(name)
        ):
            return True
    return False
