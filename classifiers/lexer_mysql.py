"""The lexical rules of MySQL and MariaDB: bytes to tokens. Follows the servers, with executable comments expanded as the target would.

Does not know grammar; does not split statements (statements_mysql.py). Strictly linear. Where the state leaves something open
(sql_mode, which server) every reading must give the same tokens.
Sources: MySQL 9 sql/sql_lex.cc, MariaDB 11 sql/sql_lex.cc. DELIMITER is a word of client programs that servers do not know.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from classifiers.charsets_mysql import view
from classifiers.effects import LexingState
from classifiers.limits import KEPT_OF_RUN, LONG_RUN_CHARS, MAX_TOKENS
from classifiers.tokens import NUMBER, OP, PARAM, PUNCT, QUOTED, STRING, VARIABLE, WORD, Token, Unreadable

FIRST_MARIADB = 100_000
"""From here on a version number is one of MariaDB's (10.11.6 is 101106), below one of MySQL's (8.0.45 is 80045)."""
_ANY_SERVER = (80_000, 98_999, 101_100, 129_999)
"""The oldest and newest of both families: what they read alike needs no known version."""

MAX_UNSURE_BYTES = 64 << 10
"""Longer texts are not read in several ways."""

_NAME = r"[0-9A-Za-z$_\x80-\xff]"
_MASTER = re.compile(
    rf"""
      (?P<space>[ \t\n\v\f\r]++)
    | (?P<line>\#[^\n]*+|--(?=[\x00-\x20\x7f]|\Z)[^\n]*+)
    | (?P<comment>/\*)
    | (?P<close>\*/)
    | (?P<hex>[xX]'[0-9A-Fa-f]*+')
    | (?P<bits>[bB]'[01]*+')
    | (?P<national>[nN]')
    | (?P<zero>0x[0-9A-Fa-f]++(?!{_NAME})|0b[01]++(?!{_NAME}))
    | (?P<float>[0-9]++[eE][-+]?[0-9]++|[0-9]++\.[0-9]*+(?:[eE][-+]?[0-9]++)?|\.[0-9]++(?:[eE][-+]?[0-9]++)?)
    | (?P<int>[0-9]++(?!{_NAME}))
    | (?P<word>{_NAME}++)
    | (?P<string>['"])
    | (?P<quoted>`)
    | (?P<variable>@@?)
    | (?P<null>\\N)
    | (?P<op>:=|<=>|<<|>>|<=|>=|<>|!=|&&|\|\||->>|->|[-+*/%&|^~!<>=])
    | (?P<punct>[(),;.:{{}}])
    | (?P<param>\?)
    """,
    re.VERBOSE,
)
_BODY = {
    ("'", True): re.compile(r"[^'\\]*+(?:(?:''|\\.)[^'\\]*+)*+'", re.DOTALL),
    ('"', True): re.compile(r'[^"\\]*+(?:(?:""|\\.)[^"\\]*+)*+"', re.DOTALL),
    ("'", False): re.compile(r"[^']*+(?:''[^']*+)*+'"),
    ('"', False): re.compile(r'[^"]*+(?:""[^"]*+)*+"'),
    ("`", False): re.compile(r"[^`]*+(?:``[^`]*+)*+`"),
}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}
_HOST = re.compile(r"[0-9A-Za-z._$\x80-\xff]++")
_GLUED = re.compile(rf"\.({_NAME}++)")
_VERSION = re.compile(r"[0-9]{5,6}")
_LITERAL = r"(?:[-+]?[0-9]++(?:\.[0-9]++)?+|'[^'\\]*+(?:''[^'\\]*+)*+'|NULL|TRUE|FALSE|DEFAULT|\?|0x[0-9A-Fa-f]++)[ \t\n\v\f\r]*+(?=[,)])"
_NEXT_LITERAL = rf",[ \t\n\v\f\r]*+{_LITERAL}"
_NEXT_ROW = rf",[ \t\n\v\f\r]*+\([ \t\n\v\f\r]*+{_LITERAL}(?:{_NEXT_LITERAL})*+\)[ \t\n\v\f\r]*+(?=[,);]|\Z)"
_RUNS = tuple(
    (re.compile(rf"(?:{part})++", re.IGNORECASE), re.compile(rf"(?:{part}){{{KEPT_OF_RUN}}}+", re.IGNORECASE))
    for part in (_NEXT_LITERAL, _NEXT_ROW)
)
"""Members of a list that are plain literals, or rows of such: a whole run of them, and the first ones. See lexer_postgres.py."""


class Lexed(NamedTuple):
    """tokens; has_executable_comment: also of one that the target skips; hints: texts of optimizer hints, as they stand."""

    tokens: list[Token]
    has_executable_comment: bool
    hints: tuple[str, ...]


def lex(text: bytes, state: LexingState, server_version: int = 0) -> Lexed:
    """Read the text of one message. A single NUL at its end goes, as servers cut it.

    server_version: see FIRST_MARIADB; 0 if not known.
    Raises Unreadable where the server would refuse the text, and where what is not known changes the tokens.
    """
    text = text.removesuffix(b"\0")
    if b"\0" in text:
        raise Unreadable("the text holds a NUL byte")
    chars, codec = view(text, state.encoding)
    quotes = (False, True) if state.ansi_quotes is None and '"' in chars else (bool(state.ansi_quotes),)
    escapes = (
        (True, False) if state.no_backslash_escapes is None and "\\" in chars else (not state.no_backslash_escapes,)
    )
    servers = (server_version,) if server_version or ("/*!" not in chars and "/*M!" not in chars) else _ANY_SERVER
    if len(quotes) * len(escapes) * len(servers) > 1 and len(text) > MAX_UNSURE_BYTES:
        raise Unreadable("a long text that may mean different things")
    first: Lexed | None = None
    for ansi_quotes, has_escapes, server in itertools.product(quotes, escapes, servers):
        lexed = _Scan(text, chars, codec, server, ansi_quotes=ansi_quotes, has_escapes=has_escapes).run()
        if first is not None and lexed != first:
            raise Unreadable("the text means different things to servers, or in modes, that cannot be told apart")
        first = lexed
    if first is None:
        raise Unreadable("no reading")
    return first


class _Scan:
    """One reading of a text. ends_at: one open executable comment, whose end mark is skipped."""

    def __init__(
        self, text: bytes, chars: str, codec: str, server: int, *, ansi_quotes: bool, has_escapes: bool
    ) -> None:
        self.text = text
        self.chars = chars
        self.codec = codec
        self.server = server
        self.ansi_quotes = ansi_quotes
        self.has_escapes = has_escapes
        self.tokens: list[Token] = []
        self.is_open = False
        self.has_executable = False
        self.hints: list[str] = []

    def run(self) -> Lexed:
        chars, tokens, end = self.chars, self.tokens, len(self.chars)
        at = skip_from = skip_to = rounds = 0
        look_for_run = 0 if end > LONG_RUN_CHARS else end
        while at < end:
            rounds += 1
            if rounds > MAX_TOKENS * 2 or len(tokens) > MAX_TOKENS:
                raise Unreadable("the text has too many tokens")
            if at == skip_from and skip_to:
                at, skip_to = skip_to, 0
                continue
            match = _MASTER.match(chars, at)
            if match is None:
                raise Unreadable("a character that no token starts with")
            group = match.lastgroup
            stop = match.end()
            if group == "word":
                stop = self._word(at, stop)
            elif group == "punct":
                tokens.append(Token(PUNCT, match.group(), None, at, stop))
                if at >= look_for_run and chars[at] == ",":
                    skip_from, skip_to, look_for_run = _find_long_run(chars, at)
            elif group == "op":
                tokens.append(Token(OP, match.group(), None, at, stop))
            elif group in ("int", "float", "zero"):
                if group == "float" and chars[stop : stop + 1] in ("e", "E"):
                    raise Unreadable("a number runs into what follows it")
                tokens.append(Token(NUMBER, match.group(), match.group(), at, stop))
            elif group in ("string", "quoted", "national"):
                stop = self._quoted(at, stop)
            elif group == "variable":
                stop = self._variable(at, stop)
            elif group == "comment":
                stop = self._comment(at, stop)
            elif group == "close":
                stop = self._close(at)
            elif group in ("hex", "bits"):
                if group == "hex" and (stop - at - 3) % 2:
                    raise Unreadable("a hexadecimal string of odd length")
                tokens.append(Token(STRING, "", self.chars[at:stop], at, stop))
            elif group == "null":
                tokens.append(Token(WORD, "NULL", "NULL", at, stop))
            elif group == "param":
                tokens.append(Token(PARAM, "?", "?", at, stop))
            at = stop
        if self.is_open:
            raise Unreadable("a comment does not end")
        return Lexed(tokens, self.has_executable, tuple(self.hints))

    def _decode(self, start: int, stop: int) -> str:
        part = self.chars[start:stop]
        return part if part.isascii() else self.text[start:stop].decode(self.codec)

    def _word(self, at: int, stop: int) -> int:
        """A word; a dot and a name glued to it are its next part, which may begin with digits or be a keyword."""
        if stop - at == 1 and self.chars[at] in "xXbB" and self.chars[stop : stop + 1] == "'":
            raise Unreadable("a hexadecimal or bit string with other digits")
        self._append_name(at, stop)
        while (glued := _GLUED.match(self.chars, stop)) is not None:
            last = self.tokens.pop()
            if last.text in ("FROM", "JOIN", "INTO", "UPDATE", "SELECT", "WHERE", "TABLE"):
                raise Unreadable("a keyword that a dot follows")
            # before a dot no word is a keyword
            self.tokens += [
                Token(QUOTED, "", last.value, last.start, last.end),
                Token(PUNCT, ".", None, stop, stop + 1),
            ]
            value = self._decode(stop + 1, glued.end())
            self.tokens.append(Token(QUOTED, "", value, stop + 1, glued.end()))
            self._check_spaces(value)
            stop = glued.end()
        return stop

    def _append_name(self, at: int, stop: int) -> None:
        value = self._decode(at, stop)
        if value.isascii():
            self.tokens.append(Token(WORD, value.upper(), value, at, stop))
        else:
            self._check_spaces(value)
            self.tokens.append(Token(WORD, "", value, at, stop))

    def _check_spaces(self, value: str) -> None:
        """A space beyond ASCII is part of a name in most character sets, and white space in some."""
        if any(char.isspace() or not char.isprintable() for char in value) or (
            self.codec == "utf-8" and any(ord(c) > 0xFFFF for c in value)
        ):
            raise Unreadable("a character in a name that servers read in different ways")

    def _quoted(self, at: int, stop: int) -> int:
        mark = self.chars[stop - 1]
        is_name = mark == "`" or (mark == '"' and self.ansi_quotes)
        has_escapes = self.has_escapes and not is_name
        match = _BODY[(mark, has_escapes)].match(self.chars, stop)
        if match is None:
            raise Unreadable("a string or a quoted name does not end")
        value = self._decode(stop, match.end() - 1)
        if has_escapes and "\\" in value:
            value = _ESCAPE.sub(lambda m: _ESCAPES.get(m.group(1), m.group(1)), value.replace(mark * 2, "\\" + mark))
        else:
            value = value.replace(mark * 2, mark)
        if is_name:
            if not value or value.endswith(" "):
                raise Unreadable("a quoted name that servers refuse")
            self.tokens.append(Token(QUOTED, "", value, at, match.end()))
        else:
            self.tokens.append(Token(STRING, "", value, at, match.end()))
        return match.end()

    def _variable(self, at: int, stop: int) -> int:
        sign = self.chars[at:stop]
        if self.chars[stop : stop + 1] in ("'", '"', "`"):
            stop = self._quoted(stop, stop + 1)
            value = self.tokens.pop().value
        else:
            match = (_HOST if sign == "@" else re.compile(_NAME + "++")).match(self.chars, stop)
            if match is None:
                raise Unreadable("an @ without a name")
            value = self._decode(stop, match.end())
            stop = match.end()
        self.tokens.append(Token(VARIABLE, sign, value, at, stop))
        return stop

    def _comment(self, at: int, stop: int) -> int:
        """A comment's end, or where the contents of an executable one begin."""
        chars = self.chars
        is_mariadb_form = chars.startswith("M!", stop)
        if chars[stop : stop + 1] == "!" or is_mariadb_form:
            return self._executable(stop + 2 if is_mariadb_form else stop + 1, is_mariadb_form=is_mariadb_form)
        end = chars.find("*/", stop)
        if end < 0:
            raise Unreadable("a comment does not end")
        if chars[stop] == "+":
            self.hints.append(chars[stop + 1 : end])
        return end + 2

    def _executable(self, stop: int, *, is_mariadb_form: bool) -> int:
        self.has_executable = True
        if self.is_open:
            raise Unreadable("executable comments inside one another")
        is_mariadb = self.server >= FIRST_MARIADB
        runs, length = True, 0
        match = _VERSION.match(self.chars, stop)
        if match is not None:
            digits = match.group()
            if (
                len(digits) == 6
                and not is_mariadb
                and not is_mariadb_form
                and not self.chars[match.end() : match.end() + 1].isspace()
            ):
                raise Unreadable("an executable comment whose version servers read in different ways")
            version, length = int(digits), len(digits)
            runs = version <= self.server
            if is_mariadb and not is_mariadb_form and 50_700 <= version <= 99_999:
                runs = False
        if is_mariadb_form and not is_mariadb:
            runs = False
        if runs:
            self.is_open = True
            return stop + length
        end = self.chars.find("*/", stop)
        if end < 0 or "/*" in self.chars[stop:end]:
            raise Unreadable("a comment whose end servers see in different places")
        return end + 2

    def _close(self, at: int) -> int:
        if self.is_open:
            self.is_open = False
            return at + 2
        self.tokens.append(Token(OP, "*", None, at, at + 1))
        return at + 1


def _find_long_run(chars: str, at: int) -> tuple[int, int, int]:
    for whole, first in _RUNS:
        run = whole.match(chars, at)
        if run is None:
            continue
        kept = first.match(chars, at) if run.end() - at > LONG_RUN_CHARS else None
        if kept is None:
            return 0, 0, run.end()
        return kept.end(), run.end(), run.end()
    return 0, 0, at
