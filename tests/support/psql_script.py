"""The statements of a psql script, as psql would send them: PostgreSQL's regression tests are such scripts.

Follows psql's own splitter (psqlscan.l): quotes, dollar quotes, nested comments, parentheses, BEGIN ATOMIC bodies. Commands of psql
are left out, those that send what came before (\\g, \\gset, …) end a statement, and rows for COPY FROM STDIN are skipped.
Variables are not replaced: a statement with one is no SQL, which an oracle will say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
      (?P<line>--[^\n]*)
    | (?P<comment>/\*)
    | (?P<escaped>(?<![A-Za-z0-9_$\x80-\U0010ffff])[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<dollar>\$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?)\$.*?\$(?P=tag)\$)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    | (?P<number>[0-9][0-9A-Za-z_.]*)
    | (?P<separator>\\;)
    | (?P<meta>\\[^\n]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_SENDS = re.compile(r"\\(?:g|gx|gset|gexec|gdesc|crosstabview|watch|bind|bind_named|parse|sendpipeline)\b")
_COPY_IN = re.compile(r"\s*(?:--[^\n]*\n\s*)*copy\b.*\bfrom\s+stdin\b", re.IGNORECASE | re.DOTALL)
_SQL_LINE = re.compile(r"\s*(?:--|[a-z]+\b.*;\s*$|\\(?!\.$))", re.IGNORECASE)


def split_script(text: str) -> Iterator[str]:
    """The texts, without the semicolon at the end."""
    at, depth, bodies = 0, 0, 0
    parts: list[str] = []
    words: list[str] = []
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found is not None
        at = found.end()
        kind, token = found.lastgroup, found.group()
        is_end = False
        if kind == "comment":
            at = _end_of_comment(text, at)
            token = text[found.start() : at]
        elif kind == "word":
            words.append(token.upper())
            bodies += _body_change(words)
        elif kind == "separator":
            token = ";"
        elif kind == "meta":
            is_end, token = _SENDS.match(token) is not None, " "
        elif token in "([":
            depth += 1
        elif token in ")]":
            depth = max(0, depth - 1)
        elif token == ";" and depth == 0 and bodies <= 0:
            is_end, token = True, ""
        parts.append(token)
        if is_end:
            statement = "".join(parts)
            parts, words, depth, bodies = [], [], 0, 0
            if statement.strip():
                yield statement
                if _COPY_IN.match(statement):
                    at = _after_rows(text, at)
    rest = "".join(parts)
    if rest.strip():
        yield rest


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    while depth and at < len(text):
        found = re.compile(r"/\*|\*/").search(text, at)
        if found is None:
            return len(text)
        depth += 1 if found.group() == "/*" else -1
        at = found.end()
    return at


def _body_change(words: list[str]) -> int:
    """Whether the last word opens (1) or closes (-1) the body of a routine."""
    routine = words[1:4] if words[1:3] == ["OR", "REPLACE"] else words[1:2]
    if words[0] != "CREATE" or not {"FUNCTION", "PROCEDURE"} & set(routine):
        return 0
    if words[-1] == "BEGIN":
        return 1
    has_body = "BEGIN" in words
    return 1 if has_body and words[-1] == "CASE" else -1 if has_body and words[-1] == "END" else 0


def _after_rows(text: str, at: int) -> int:
    """Where the script goes on after the rows of a COPY; at, if it has none because it is meant to fail."""
    start = text.find("\n", at) + 1
    end = text.find("\n\\.", start - 1) + 1
    if not start or not end:
        return at
    rows = text[start:end].split("\n")
    if any(_SQL_LINE.match(row) for row in rows):
        return at
    return end + 2
