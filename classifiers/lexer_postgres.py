"""PostgreSQL's lexical rules: bytes to tokens. Follows the server, not the SQL standard and not any parser library.

Does not know grammar; does not split statements (statements.py). Strictly linear: every pattern is possessive or anchored
on one character class, and every search for a terminator that fails ends the scan.
Source: PostgreSQL 18 src/backend/parser/scan.l, and parser.c for UESCAPE.

What a newer server reads and an older one refuses (0x1F, 1_000) is read; what old servers split and new ones refuse
(a number or parameter followed by a letter) is refused here, because the two readings differ.
"""

from __future__ import annotations

import codecs
import re

from classifiers.effects import LexingState
from classifiers.limits import KEPT_OF_RUN, LONG_RUN_CHARS, MAX_COMMENT_DEPTH, MAX_TOKENS
from classifiers.tokens import NUMBER, OP, PARAM, PUNCT, QUOTED, STRING, WORD, Token, Unreadable

NAME_BYTES = 63
"""NAMEDATALEN - 1: longer names are cut by the server. Source: src/include/pg_config_manual.h."""

_CODECS = {
    "UTF8": "utf-8", "SQL_ASCII": "latin-1", "EUC_JP": "euc_jp", "EUC_CN": "gb2312", "EUC_KR": "euc_kr",
    "EUC_JIS_2004": "euc_jis_2004", "LATIN1": "iso8859-1", "LATIN2": "iso8859-2", "LATIN3": "iso8859-3",
    "LATIN4": "iso8859-4", "LATIN5": "iso8859-9", "LATIN6": "iso8859-10", "LATIN7": "iso8859-13", "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15", "LATIN10": "iso8859-16", "ISO_8859_5": "iso8859-5", "ISO_8859_6": "iso8859-6",
    "ISO_8859_7": "iso8859-7", "ISO_8859_8": "iso8859-8", "WIN1250": "cp1250", "WIN1251": "cp1251", "WIN1252": "cp1252",
    "WIN1253": "cp1253", "WIN1254": "cp1254", "WIN1255": "cp1255", "WIN1256": "cp1256", "WIN1257": "cp1257",
    "WIN1258": "cp1258", "WIN866": "cp866", "WIN874": "cp874", "KOI8R": "koi8-r", "KOI8U": "koi8-u",
}  # fmt: skip
"""Client encodings whose bytes above 0x7f are never part of ASCII punctuation. The others (SJIS, BIG5, GBK, UHC, GB18030,
JOHAB, SHIFT_JIS_2004, and what Python cannot decode) are read only where the text is pure ASCII.
Source: PostgreSQL manual, "Character Set Support"."""

_OP_CHARS = frozenset("~!@#^&|`?+-*/%<>=")
_OP_UNSQL = frozenset("~!@#^&|`?%")
_WORD_START = "A-Za-z_\x80-\xff"

_MASTER = re.compile(
    rf"""
      (?P<space>(?:[ \t\n\r\f\v]++|--[^\n\r]*+)++)
    | (?P<comment>/\*)
    | (?P<escape>[eE]')
    | (?P<bits>[bBxX]')
    | (?P<national>[nN](?='))
    | (?P<ustring>[uU]&')
    | (?P<uname>[uU]&")
    | (?P<word>[{_WORD_START}][{_WORD_START}0-9$]*+)
    | (?P<number>
          0[xX](?:_?[0-9A-Fa-f])++ | 0[oO](?:_?[0-7])++ | 0[bB](?:_?[01])++
        | (?: [0-9](?:_?[0-9])*+ (?: \.(?!\.) (?:[0-9](?:_?[0-9])*+)? )? | \.[0-9](?:_?[0-9])*+ )
          (?: [eE][-+]?[0-9](?:_?[0-9])*+ )?
      )
    | (?P<string>')
    | (?P<quoted>")
    | (?P<param>\$[0-9]++)
    | (?P<dollar>\$(?:[{_WORD_START}][{_WORD_START}0-9]*+)?\$)
    | (?P<punct>::|:=|\.\.|[,()\[\].;:])
    | (?P<op>[~!@\#^&|`?+\-*/%<>=]{{1,80}}+)
    """,
    re.VERBOSE,
)
_PLAIN_BODY = re.compile(r"[^']*+(?:''[^']*+)*+'")
_ESCAPE_BODY = re.compile(r"[^'\\]*+(?:(?:''|\\.)[^'\\]*+)*+'", re.DOTALL)
_NAME_BODY = re.compile(r'[^"]*+(?:""[^"]*+)*+"')
_CONTINUATION = re.compile(r"(?:[ \t\n\r\f\v]++|--[^\n\r]*+)++(?=')")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_JUNK = re.compile(rf"[{_WORD_START}]")
_WORD_JUNK = re.compile(rf"[{_WORD_START}0-9$]")
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_SIMPLE_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_NEWER = re.compile(r"[xXoObB_]")
_LITERAL = r"(?:[-+]?[0-9]++(?:\.[0-9]++)?+|'[^'\\]*+(?:''[^'\\]*+)*+'|\$[0-9]++|NULL|TRUE|FALSE|DEFAULT)[ \t\n\r\f\v]*+(?=[,)])"
_NEXT_LITERAL = rf",[ \t\n\r\f\v]*+{_LITERAL}"
_NEXT_ROW = rf",[ \t\n\r\f\v]*+\([ \t\n\r\f\v]*+{_LITERAL}(?:{_NEXT_LITERAL})*+\)[ \t\n\r\f\v]*+(?=[,);]|$)"
_RUNS = tuple(
    (re.compile(rf"(?:{part})++", re.IGNORECASE), re.compile(rf"(?:{part}){{{KEPT_OF_RUN}}}+", re.IGNORECASE))
    for part in (_NEXT_LITERAL, _NEXT_ROW)
)
"""Members of a list that are plain literals, or rows of such: a whole run of them, and the first ones."""


def lex(text: bytes, state: LexingState, server_version: int = 0) -> list[Token]:
    """Read the text of one message into tokens; white space and comments leave no token.

    Of a very long list of plain literals (`IN (1, 2, …)`) or of rows of such (`VALUES (1, 'a'), (2, 'b'), …`) only the first members
    leave tokens: the others can name nothing, and a million of them would take too long.
    server_version: as server_version_num (150004), 0 if not known.
    Raises Unreadable where the server would refuse the text, where servers disagree, or where what the session state
    leaves open changes the tokens.
    """
    codec = _choose_codec(text, state.encoding)
    chars = text.decode("latin-1")  # one character per byte, so offsets are byte offsets
    if state.standard_conforming_strings is not None:
        return _scan(chars, codec, server_version, backslashes=not state.standard_conforming_strings)
    tokens = _scan(chars, codec, server_version, backslashes=False)
    if "\\" in chars and tokens != _scan(chars, codec, server_version, backslashes=True):
        raise Unreadable("the text means different things with standard_conforming_strings on and off")
    return tokens


def _choose_codec(text: bytes, encoding: str) -> str:
    if b"\0" in text:
        raise Unreadable("the text holds a NUL byte")
    if text.isascii():
        return "ascii"
    codec = _CODECS.get(encoding.upper())
    if codec is None:
        raise Unreadable("text beyond ASCII in a client encoding that is not read")
    try:
        codecs.decode(text, codec, "strict")
    except UnicodeDecodeError:
        raise Unreadable("the text is not valid in the client encoding") from None
    return codec


def _scan(chars: str, codec: str, server_version: int, *, backslashes: bool) -> list[Token]:
    tokens: list[Token] = []
    append = tokens.append
    match_at = _MASTER.match
    is_plain = codec in ("ascii", "latin-1")
    at, end = 0, len(chars)
    skip_from = skip_to = 0
    look_for_run = 0 if end > LONG_RUN_CHARS else end
    comments = 0
    unicode_at: list[int] = []
    while at < end:
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("the text has too many tokens")
        if at == skip_from and skip_to:
            at, skip_to = skip_to, 0
            continue
        match = match_at(chars, at)
        if match is None:
            raise Unreadable("a character that no token starts with")
        group = match.lastgroup
        stop = match.end()
        if group == "space":
            at = stop
            continue
        if group == "word":
            word = match.group()
            if word.isascii():
                name = word.lower() if stop - at <= NAME_BYTES else word[:NAME_BYTES].lower()
                append(Token(WORD, word.upper(), name, at, stop))
            else:
                append(Token(WORD, "", _fold_name(_decode(word, codec, is_plain=is_plain)), at, stop))
        elif group == "punct":
            append(Token(PUNCT, match.group(), None, at, stop))
            if at >= look_for_run and chars[at] == ",":
                skip_from, skip_to, look_for_run = _find_long_run(chars, at)
        elif group == "op":
            stop = at + _operator_length(match.group())
            op = chars[at:stop]
            append(Token(OP, op, None, at, stop))
        elif group == "number":
            if _JUNK.match(chars, stop) or (chars[stop : stop + 1] == "." and chars[stop : stop + 2] != ".."):
                raise Unreadable("a number runs into what follows it")
            number = match.group()
            if 0 < server_version < 160000 and _NEWER.search(number.replace("b'", "")):
                raise Unreadable("a number in a form this server does not know")
            append(Token(NUMBER, number, number, at, stop))
        elif group == "string":
            stop = _string(chars, at, stop, tokens, codec, escapes=backslashes)
        elif group == "escape":
            stop = _string(chars, at, stop, tokens, codec, escapes=True)
        elif group == "bits":
            stop = _string(chars, at, stop, tokens, codec, escapes=False)
        elif group == "national":
            # the server reads NCHAR and then an ordinary string; both together are one constant to us
            stop = _string(chars, at, stop + 1, tokens, codec, escapes=backslashes)
        elif group == "quoted":
            stop = _quoted(chars, at, stop, tokens, codec)
        elif group == "dollar":
            tag = match.group()
            close = chars.find(tag, stop)
            if close < 0:
                raise Unreadable("a dollar-quoted string does not end")
            value = _decode(chars[stop:close], codec, is_plain=is_plain)
            stop = close + len(tag)
            append(Token(STRING, "", value, at, stop))
        elif group == "param":
            if _JUNK.match(chars, stop):
                raise Unreadable("a parameter runs into what follows it")
            append(Token(PARAM, match.group(), match.group(), at, stop))
        elif group == "comment":
            stop = _comment_end(chars, stop)
            comments += 1
            if comments > MAX_TOKENS:
                raise Unreadable("the text has too many comments")
        elif group == "ustring":
            if backslashes:
                raise Unreadable("U& strings need standard_conforming_strings")
            stop = _string(chars, at, stop, tokens, codec, escapes=False)
            stop = _apply_uescape(chars, tokens, stop, codec)
            unicode_at.append(len(tokens))
        else:
            stop = _quoted(chars, at, stop, tokens, codec)
            stop = _apply_uescape(chars, tokens, stop, codec)
            unicode_at.append(len(tokens))
        at = stop
    # The server steps over any comment to find the clause, _apply_uescape over none but the simple ones.
    if any(follows < len(tokens) and tokens[follows].text == "UESCAPE" for follows in unicode_at):
        raise Unreadable("a UESCAPE clause in a form that is not read")
    return tokens


def _find_long_run(chars: str, at: int) -> tuple[int, int, int]:
    """Where the members of a long run of literals that begins at this comma may be left out, from and to; 0, 0 if it is not long.

    The third: up to where it makes no sense to look again.
    """
    for whole, first in _RUNS:
        run = whole.match(chars, at)
        if run is None:
            continue
        kept = first.match(chars, at) if run.end() - at > LONG_RUN_CHARS else None
        if kept is None:
            return 0, 0, run.end()
        return kept.end(), run.end(), run.end()
    return 0, 0, at


def _decode(chars: str, codec: str, *, is_plain: bool = False) -> str:
    """Turn one-character-per-byte text into text. SQL_ASCII names are read as UTF-8 where they can be."""
    if chars.isascii():
        return chars
    if is_plain:
        codec = "utf-8"
        try:
            return chars.encode("latin-1").decode(codec)
        except UnicodeDecodeError:
            return chars
    return chars.encode("latin-1").decode(codec)


def _fold_name(name: str) -> str:
    folded = "".join(c.lower() if c.isascii() else c for c in name)
    return _truncate_name(folded)


def _truncate_name(name: str) -> str:
    """Cut a name as the server does; where its cut depends on the server's encoding the name is not readable."""
    if name.isascii():
        return name[:NAME_BYTES]
    if len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES:
        raise Unreadable("a name beyond ASCII is longer than the server keeps")
    return name


def _operator_length(run: str) -> int:
    """How many of a run of operator characters are one operator. Source: scan.l, rule {operator}."""
    length = len(run)
    if length == 1:
        return 1
    for mark in ("/*", "--"):
        cut = run.find(mark)
        if 0 < cut < length:
            length = cut
    if length > NAME_BYTES:  # before the tail rule: cutting one sign at a time from a long run would be quadratic
        raise Unreadable("an operator is too long")
    if length > 1 and run[length - 1] in "+-" and not _OP_UNSQL.intersection(run[: length - 1]):
        while length > 1 and run[length - 1] in "+-":
            length -= 1
    return length


def _comment_end(chars: str, at: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(chars, at):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
        if depth > MAX_COMMENT_DEPTH:
            raise Unreadable("comments nest too deeply")
    raise Unreadable("a comment does not end")


def _string(chars: str, start: int, at: int, tokens: list[Token], codec: str, *, escapes: bool) -> int:
    """Read a string body that begins at `at`, continuations over a line end included; returns where it stops."""
    body = _ESCAPE_BODY if escapes else _PLAIN_BODY
    parts: list[str] = []
    while True:
        match = body.match(chars, at)
        if match is None:
            raise Unreadable("a string does not end")
        parts.append(chars[at : match.end() - 1])
        at = match.end()
        more = _CONTINUATION.match(chars, at)
        if more is None or not ("\n" in more.group() or "\r" in more.group()):
            break
        at = more.end() + 1
    raw = "".join(parts)
    value: str | None = raw.replace("''", "'") if not escapes else _unescape(raw)
    if value is not None:
        value = _decode(value, codec, is_plain=codec == "latin-1") if not escapes or raw.isascii() is False else value
    tokens.append(Token(STRING, "", value, start, at))
    return at


def _unescape(raw: str) -> str | None:
    """Decode an escape string; None where an escape names a byte or code point beyond ASCII."""
    if "\\" not in raw:
        return raw.replace("''", "'")
    beyond = False

    def one(match: re.Match[str]) -> str:
        nonlocal beyond
        octal, hexa, short, long, char = match.groups()
        if char is not None:
            return _SIMPLE_ESCAPES.get(char, char)
        code = int(octal, 8) & 0xFF if octal is not None else int(hexa or short or long, 16)
        if not 0 < code < 0x80:
            beyond = True
            return "?"
        return chr(code)

    value = _ESCAPE.sub(one, raw.replace("''", "\\'"))
    return None if beyond else value


def _quoted(chars: str, start: int, at: int, tokens: list[Token], codec: str) -> int:
    match = _NAME_BODY.match(chars, at)
    if match is None:
        raise Unreadable("a quoted name does not end")
    name = chars[at : match.end() - 1].replace('""', '"')
    if not name:
        raise Unreadable("a quoted name is empty")
    name = _truncate_name(_decode(name, codec, is_plain=codec == "latin-1"))
    tokens.append(Token(QUOTED, "", name, start, match.end()))
    return match.end()


_UESCAPE = re.compile(
    r"(?:[ \t\n\r\f\v]++|--[^\n\r]*+)*+uescape(?:[ \t\n\r\f\v]++|--[^\n\r]*+)*+'([^'])'", re.IGNORECASE
)
_UESCAPE_WORD = re.compile(r"(?:[ \t\n\r\f\v]++|--[^\n\r]*+|/\*)*+uescape", re.IGNORECASE)


def _apply_uescape(chars: str, tokens: list[Token], at: int, codec: str) -> int:
    """Decode the U& token just read, with the UESCAPE clause behind it if there is one. Source: parser.c, str_udeescape."""
    token = tokens.pop()
    mark, stop = "\\", at
    clause = _UESCAPE.match(chars, at)
    if clause is not None:
        mark, stop = clause.group(1), clause.end()
        if mark in "0123456789abcdefABCDEF+'\" \t\n\r\f\v" or chars[stop : stop + 1] == "'":
            raise Unreadable("an invalid UESCAPE character")
    elif _UESCAPE_WORD.match(chars, at):
        raise Unreadable("a UESCAPE clause in a form that is not read")
    raw = token.value or ""
    if token.kind == QUOTED and token.end - token.start > NAME_BYTES:
        raise Unreadable("a long name with Unicode escapes")
    name = _udecode(raw, mark)
    if token.kind == QUOTED:
        name = _truncate_name(name)
    tokens.append(Token(token.kind, "", name, token.start, stop))
    return stop


def _udecode(raw: str, mark: str) -> str:
    if mark not in raw:
        return raw
    escape = re.escape(mark)
    pattern = re.compile(rf"{escape}(?:({escape})|([0-9A-Fa-f]{{4}})|\+([0-9A-Fa-f]{{6}})|(?=(.)|$))", re.DOTALL)

    def one(match: re.Match[str]) -> str:
        if match.group(1):
            return mark
        digits = match.group(2) or match.group(3)
        if not digits:
            raise Unreadable("an invalid Unicode escape")
        code = int(digits, 16)
        if code == 0 or 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise Unreadable("a Unicode escape that is not one character")
        return chr(code)

    return pattern.sub(one, raw)
