"""Character sets of MySQL and MariaDB connections: bytes to a view with one character a byte, in which no part of a longer character
looks like ASCII.

    gbk    BF 5C 27    one character and a quote, not a letter and an escaped quote
"""

from __future__ import annotations

from classifiers.tokens import Unreadable

_UTF8 = frozenset(["UTF8", "UTF8MB3", "UTF8MB4"])
_SINGLE = {
    "LATIN1": "latin-1", "LATIN2": "iso8859-2", "LATIN5": "iso8859-9", "LATIN7": "iso8859-13", "GREEK": "iso8859-7", "HEBREW": "iso8859-8",
    "CP1250": "cp1250", "CP1251": "cp1251", "CP1256": "cp1256", "CP1257": "cp1257", "CP850": "cp850", "CP852": "cp852", "CP866": "cp866",
    "KOI8R": "koi8-r", "KOI8U": "koi8-u", "TIS620": "tis-620", "ASCII": "ascii", "BINARY": "latin-1",
}  # fmt: skip
_DOUBLE = {"GBK": "gbk", "GB2312": "gb2312", "BIG5": "big5", "SJIS": "shift_jis", "CP932": "cp932", "EUCKR": "euc_kr", "UJIS": "euc_jp",
           "EUCJPMS": "euc_jp", "GB18030": "gb18030"}  # fmt: skip
"""Sets in which a character can be several bytes, later ones perhaps a backslash or a backquote.
Source: MySQL manual, "Supported Character Sets and Collations"."""
_PART = "\xff"


def find_codec(encoding: str) -> str | None:
    """Python's name of a character set, None if its texts are not read. encoding: the server's name, upper case."""
    encoding = encoding.replace("_", "").replace("-", "")
    return "utf-8" if encoding in _UTF8 else _SINGLE.get(encoding) or _DOUBLE.get(encoding)


def view(text: bytes, encoding: str) -> tuple[str, str]:
    """The text with one character a byte, and the codec that reads its parts.

    Raises Unreadable if it is not valid in the character set, or the set is not known and the text not ASCII.
    """
    if text.isascii():
        return text.decode("ascii"), "ascii"
    codec = find_codec(encoding)
    if codec is None:
        raise Unreadable("text beyond ASCII in a character set that is not read")
    try:
        decoded = text.decode(codec, "strict")
    except UnicodeDecodeError:
        raise Unreadable("the text is not valid in the connection's character set") from None
    if codec not in _DOUBLE.values():
        return text.decode("latin-1"), codec
    chars: list[str] = []
    for char in decoded:
        length = 1 if char.isascii() else len(char.encode(codec))
        chars.append(char if length == 1 and char.isascii() else _PART * length)
    if len("".join(chars)) != len(text):
        raise Unreadable("the text is not valid in the connection's character set")
    return "".join(chars), codec
