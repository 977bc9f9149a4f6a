r"""Builders of record bodies: JSON members from untrusted text, one line always, original bytes always recoverable.

Text that is valid UTF-8 becomes a JSON string under its own name. Text that is not is stored under `<name>_base64` instead, never
both. Characters that could end a line, move a cursor or reorder what a reader sees (C0, DEL and C1 controls, line and paragraph
separators, bidirectional and invisible format characters, tags) are written as \uXXXX: a JSON reader gets them back unchanged,
a terminal or a log shipper never meets them.

Not here: which events have which members (schema.json), hashing and chaining (chain.py), redaction (the classifier's secret_spans).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import blake2b, sha256
from json.encoder import encode_basestring_ascii

import orjson

UNSAFE_CHARACTERS = (
    "\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
)
"""Inside of a regular expression's brackets: what JSON allows raw in a string and a line of a log must not contain.

C0 controls, quote and backslash are escaped by orjson.
"""
_LARGE_BYTES = 1 << 16
"""In longer text everything beyond ASCII is escaped: looking for what must be takes a second for 16 MiB, while everybody else waits."""
_UNSAFE = re.compile(f"[{UNSAFE_CHARACTERS}]")


def encode_text(data: bytes) -> bytes | None:
    """A JSON string with its quotes, or None if data is not valid UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if len(data) > _LARGE_BYTES and not data.isascii():
        return encode_basestring_ascii(text).encode()
    return _escape(orjson.dumps(text))


def text_member(name: bytes, data: bytes) -> bytes:
    """`"name":"text"`, or `"name_base64":"…"` if data is not valid UTF-8. name: a literal of the schema."""
    text = encode_text(data)
    if text is None:
        return b'"%b_base64":"%b"' % (name, b64encode(data))
    return b'"%b":%b' % (name, text)


def members(fields: Mapping[str, object]) -> bytes:
    r"""Several members, for events off the hot path: `"a":1,"b":"x"`. b"" if there are none.

    fields: names are literals of the schema. bytes and str values are treated as text_member says; what str holds in place of undecodable bytes
    (surrogates) becomes those bytes again. Anything else as orjson writes it; undecodable text deeper inside shows as \udcXX.
    """
    return b",".join(_member(name.encode(), value) for name, value in fields.items())


def _member(name: bytes, value: object) -> bytes:
    if isinstance(value, bytes):
        return text_member(name, value)
    if isinstance(value, str):
        return text_member(name, _text_bytes(value))
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError:
        encoded = orjson.dumps(_readable(value))
    return b'"%b":%b' % (name, _escape(encoded))


def sql_members(sql: bytes, *, is_redacted: bool) -> bytes:
    """`sql` (or `sql_base64`), `sql_sha256`, `sql_bytes`, `redacted`; stored whole however large.

    sql: the text as it is to be stored, already redacted. Digest and length are of this text, never of the original: the digest of a text
    with a short password in it could be searched through.
    """
    return b'%b,"sql_sha256":"%b","sql_bytes":%d,"redacted":%b' % (
        text_member(b"sql", sql),
        sha256(sql).hexdigest().encode(),
        len(sql),
        b"true" if is_redacted else b"false",
    )


def parameter_digest(type_name: bytes, data: bytes | None, key: bytes) -> bytes:
    """One element of `parameters` without the value: type, size and a keyed digest, so that equal values can be found.

    type_name: plain ASCII. data: as it came over the wire, None for SQL NULL. key: 16 to 64 secret bytes; without it a
    short value cannot be found by trying.
    """
    if data is None:
        return b'{"type":"%b","size":null}' % type_name
    digest = blake2b(data, key=key, digest_size=32).hexdigest().encode()
    return b'{"type":"%b","size":%d,"digest":"%b"}' % (type_name, len(data), digest)


def parameter_value(type_name: bytes, data: bytes | None, text: bytes | None = None) -> bytes:
    """One element of `parameters` with its value. text: the decoded value; None stores data itself."""
    if data is None:
        return b'{"type":"%b","size":null}' % type_name
    return b'{"type":"%b","size":%d,%b}' % (type_name, len(data), text_member(b"value", data if text is None else text))


def array_member(name: bytes, elements: Iterable[bytes]) -> bytes:
    """`"name":[…]` of elements that are JSON already."""
    return b'"%b":[%b]' % (name, b",".join(elements))


def _escape(encoded: bytes) -> bytes:
    """Escape what _UNSAFE names in finished JSON; it can only stand inside strings there."""
    if encoded.isascii():
        return encoded.replace(b"\x7f", b"\\u007f") if b"\x7f" in encoded else encoded
    text = encoded.decode()
    if _UNSAFE.search(text) is None:
        return encoded
    return _UNSAFE.sub(_escape_character, text).encode()


def _escape_character(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"


def _text_bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _readable(value: object) -> object:
    """The same value with lone surrogates in strings spelled out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(_readable(key)): _readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_readable(item) for item in value]
    return value
