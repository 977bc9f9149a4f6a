"""Whether a server may ask the client for a file: only for one that the client's own statement names with LOAD ... LOCAL INFILE.

A server, or whoever pretends to be one, can ask for any file in answer to any statement, and most clients would send it.
"""

from __future__ import annotations

import re

_LOAD = re.compile(rb"\bload\b.*\blocal\b.*\binfile\b", re.IGNORECASE | re.DOTALL)
_ESCAPES = re.compile(rb"\\(.)|''|\"\"", re.DOTALL)


def may_ask_for(text: bytes, name: bytes) -> bool:
    """text: of the statement at hand; name: the file that the server asks for."""
    if not name or not _LOAD.search(text):
        return False
    return name in text or name in _ESCAPES.sub(_unescape, text)


def _unescape(match: re.Match[bytes]) -> bytes:
    return match[1] or match[0][:1]
