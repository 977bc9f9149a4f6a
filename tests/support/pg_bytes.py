"""Builders for every PostgreSQL protocol message, for tests.

Written from the manual alone ("Frontend/Backend Protocol", "Message Formats"), so that a test never checks a serializer
with itself: nothing here imports the code under test. Builders do not validate; tests use `frame` to build broken messages.
Counterpart: `split` and `fields_of`, the readers that tests use on what a relay sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Param = bytes | None


# ---------------------------------------------------------------------------------------------------------- primitives


def int16(number: int) -> bytes:
    return number.to_bytes(2, "big", signed=number < 0)


def int32(number: int) -> bytes:
    return number.to_bytes(4, "big", signed=number < 0)


def text(value: bytes | str) -> bytes:
    """A String: the bytes and a NUL."""
    return _raw(value) + b"\0"


def frame(kind: bytes | str, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A typed message; length overrides the declared one, for broken messages."""
    declared = len(body) + 4 if length is None else length
    return _raw(kind) + (declared & 0xFFFFFFFF).to_bytes(4, "big") + body


def _raw(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


# ------------------------------------------------------------------------------------------------- start-up, untyped


def startup(parameters: Mapping[str, str] | Sequence[tuple[str, str]], *, major: int = 3, minor: int = 0) -> bytes:
    pairs = parameters.items() if isinstance(parameters, Mapping) else parameters
    body = int32((major << 16) | minor) + b"".join(text(name) + text(value) for name, value in pairs) + b"\0"
    return int32(len(body) + 4) + body


def ssl_request() -> bytes:
    return int32(8) + int32(80877103)


def gssenc_request() -> bytes:
    return int32(8) + int32(80877104)


def cancel_request(process_id: int, secret: bytes) -> bytes:
    return int32(12 + len(secret)) + int32(80877102) + int32(process_id) + secret


# --------------------------------------------------------------------------------------------------------- frontend


def password(value: bytes | str) -> bytes:
    return frame("p", text(value))


def sasl_initial(mechanism: str, response: bytes | None) -> bytes:
    return frame("p", text(mechanism) + (int32(-1) if response is None else int32(len(response)) + response))


def sasl_response(data: bytes) -> bytes:
    return frame("p", data)


def query(sql: bytes | str) -> bytes:
    return frame("Q", text(sql))


def parse(name: bytes | str, sql: bytes | str, types: Sequence[int] = ()) -> bytes:
    return frame("P", text(name) + text(sql) + int16(len(types)) + b"".join(int32(oid) for oid in types))


def bind(
    portal: bytes | str = "",
    statement: bytes | str = "",
    parameters: Sequence[Param] = (),
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    body = text(portal) + text(statement)
    body += int16(len(formats)) + b"".join(int16(code) for code in formats)
    body += int16(len(parameters))
    body += b"".join(int32(-1) if value is None else int32(len(value)) + value for value in parameters)
    body += int16(len(result_formats)) + b"".join(int16(code) for code in result_formats)
    return frame("B", body)


def describe(what: str, name: bytes | str = "") -> bytes:
    """what: "S" statement or "P" portal."""
    return frame("D", _raw(what) + text(name))


def execute(portal: bytes | str = "", max_rows: int = 0) -> bytes:
    return frame("E", text(portal) + int32(max_rows))


def close(what: str, name: bytes | str = "") -> bytes:
    """what: "S" statement or "P" portal."""
    return frame("C", _raw(what) + text(name))


def flush() -> bytes:
    return frame("H")


def sync() -> bytes:
    return frame("S")


def terminate() -> bytes:
    return frame("X")


def function_call(
    oid: int, arguments: Sequence[Param] = (), formats: Sequence[int] = (), *, result_format: int = 0
) -> bytes:
    body = int32(oid) + int16(len(formats)) + b"".join(int16(code) for code in formats)
    body += int16(len(arguments))
    body += b"".join(int32(-1) if value is None else int32(len(value)) + value for value in arguments)
    return frame("F", body + int16(result_format))


def copy_data(data: bytes | str) -> bytes:
    """Client and server send it alike."""
    return frame("d", _raw(data))


def copy_done() -> bytes:
    """Client and server send it alike."""
    return frame("c")


def copy_fail(message: bytes | str = "") -> bytes:
    return frame("f", text(message))


# ---------------------------------------------------------------------------------------------------------- backend


def authentication_ok() -> bytes:
    return frame("R", int32(0))


def authentication_cleartext() -> bytes:
    return frame("R", int32(3))


def authentication_md5(salt: bytes) -> bytes:
    return frame("R", int32(5) + salt)


def authentication_sasl(mechanisms: Iterable[str]) -> bytes:
    return frame("R", int32(10) + b"".join(text(name) for name in mechanisms) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return frame("R", int32(11) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    return frame("R", int32(12) + data)


def backend_key_data(process_id: int, secret: bytes) -> bytes:
    return frame("K", int32(process_id) + secret)


def negotiate_protocol_version(minor: int, options: Sequence[str] = ()) -> bytes:
    return frame("v", int32((3 << 16) | minor) + int32(len(options)) + b"".join(text(name) for name in options))


def parameter_status(name: str, value: str) -> bytes:
    return frame("S", text(name) + text(value))


def ready(state: str = "I") -> bytes:
    """state: I idle, T in a transaction, E in a failed one."""
    return frame("Z", _raw(state))


def row_description(columns: Sequence[str] = ("?column?",), *, type_oid: int = 25, fmt: int = 0) -> bytes:
    body = int16(len(columns))
    for name in columns:
        body += text(name) + int32(0) + int16(0) + int32(type_oid) + int16(-1) + int32(-1) + int16(fmt)
    return frame("T", body)


def data_row(values: Sequence[Param | str] = ("1",)) -> bytes:
    body = int16(len(values))
    for value in values:
        body += int32(-1) if value is None else int32(len(_raw(value))) + _raw(value)
    return frame("D", body)


def command_complete(tag: bytes | str) -> bytes:
    return frame("C", text(tag))


def empty_query() -> bytes:
    return frame("I")


def error(code: str = "42601", message: str = "it failed", severity: str = "ERROR", **fields: str) -> bytes:
    """An ErrorResponse; fields: further one-letter fields, for example D="detail"."""
    return frame("E", report_body(code, message, severity, **fields))


def notice(message: str = "note", code: str = "00000", severity: str = "NOTICE", **fields: str) -> bytes:
    return frame("N", report_body(code, message, severity, **fields))


def report_body(code: str, message: str, severity: str, **fields: str) -> bytes:
    parts = {"S": severity, "V": severity, "C": code, "M": message, **fields}
    return b"".join(_raw(letter) + text(value) for letter, value in parts.items()) + b"\0"


def notification(process_id: int, channel: str, payload: str = "") -> bytes:
    return frame("A", int32(process_id) + text(channel) + text(payload))


def parse_complete() -> bytes:
    return frame("1")


def bind_complete() -> bytes:
    return frame("2")


def close_complete() -> bytes:
    return frame("3")


def no_data() -> bytes:
    return frame("n")


def portal_suspended() -> bytes:
    return frame("s")


def parameter_description(types: Sequence[int] = ()) -> bytes:
    return frame("t", int16(len(types)) + b"".join(int32(oid) for oid in types))


def copy_in_response(columns: int = 1, fmt: int = 0) -> bytes:
    return frame("G", bytes([fmt]) + int16(columns) + int16(fmt) * columns)


def copy_out_response(columns: int = 1, fmt: int = 0) -> bytes:
    return frame("H", bytes([fmt]) + int16(columns) + int16(fmt) * columns)


def copy_both_response(columns: int = 0, fmt: int = 0) -> bytes:
    return frame("W", bytes([fmt]) + int16(columns) + int16(fmt) * columns)


def function_call_response(value: Param = b"1") -> bytes:
    return frame("V", int32(-1) if value is None else int32(len(value)) + value)


# ---------------------------------------------------------------------------------------------------------- readers


def split(data: bytes) -> list[tuple[str, bytes]]:
    """Typed messages as (type, body); raises ValueError if data does not end on a message boundary."""
    found: list[tuple[str, bytes]] = []
    at = 0
    while at < len(data):
        if len(data) - at < 5:
            raise ValueError(f"torn header at {at}")
        length = int.from_bytes(data[at + 1 : at + 5], "big")
        if length < 4 or at + 1 + length > len(data):
            raise ValueError(f"torn message at {at}: type {data[at : at + 1]!r}, length {length}")
        found.append((data[at : at + 1].decode("latin-1"), data[at + 5 : at + 1 + length]))
        at += 1 + length
    return found


def kinds(data: bytes) -> str:
    """The types of the messages in data, one letter each."""
    return "".join(kind for kind, _ in split(data))


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse's or NoticeResponse's body by letter."""
    if not body.endswith(b"\0"):
        raise ValueError("no final terminator")
    found: dict[str, str] = {}
    for part in body[:-1].split(b"\0"):
        if part:
            found[chr(part[0])] = part[1:].decode()
    return found
