"""Login names: which person, which account, and which spellings are one and the same person."""

from __future__ import annotations

import re
import unicodedata

_SEPARATOR = re.compile(r"[+% ]")
"""`+` separates; some URL parsers turn it into a blank, and `%` is for tools that allow neither."""
MAX_SERVER_NAME_BYTES = 63
"""PostgreSQL cuts longer names (NAMEDATALEN), and MySQL has none that long: two names must not become one on the server."""


def canonical(name: str) -> str:
    """The form under which names are compared, so that no variant in case or Unicode form is a second person."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def split_login(login: str) -> tuple[str, str | None]:
    """`alice` → ("alice", None); `alice+reporting` → ("alice", "reporting"). People's names hold no separator."""
    parts = _SEPARATOR.split(login, maxsplit=1)
    return parts[0], parts[1] if len(parts) == 2 else None


def is_same_login(left: str, right: str) -> bool:
    """Whether two texts are the same login name, however its separator is spelt."""
    return _SEPARATOR.sub("+", left, count=1) == _SEPARATOR.sub("+", right, count=1)


def fits_server(name: str) -> bool:
    """Whether the server will take the name as it is."""
    return 0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_SERVER_NAME_BYTES and "\0" not in name
