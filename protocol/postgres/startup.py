"""The untyped packets that open a PostgreSQL connection, and the settings a client asks for with them.

Layout, all integers big endian: `length(4, counts itself) code(4) rest`. The code is a protocol version or a request code.
Deliberately stricter than the server, which lets the last of two equal names win: duplicates are refused, so that the
proxy and the server can never read one packet in two ways. `options` is taken apart here and never forwarded as it is.
Counterpart: client_login.py, which reads the packets, and server_login.py, which sends the settings on.
Source: PostgreSQL manual, "Message Formats"; src/backend/tcop/backend_startup.c, src/backend/utils/init/postinit.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from protocol.contract import Refusal, Side, Why
from protocol.errors import MalformedMessage
from protocol.login import LoginRefused, Startup
from protocol.postgres.errors_wire import INVALID_AUTHORIZATION, SYNTAX_ERROR, UNDEFINED_OBJECT, CodedRefused

MIN_SIZE = 8
MAX_SIZE = 10_000
"""MAX_STARTUP_PACKET_LENGTH in the server's source."""
MAX_PARAMETERS = 200
MAX_NAME_BYTES = 63
"""NAMEDATALEN - 1: the server cuts longer names, and then two names would be one."""
NEWEST = (3, 2)

SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102

_FALSE = frozenset({"f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"})
"""What the server's parse_bool takes for false."""
_ESCAPED = re.compile(r"\\(.|\Z)", re.DOTALL)
_WORD = re.compile(r"(?:\\(?:.|\Z)|[^\\ \t\n\v\f\r])+", re.DOTALL)
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)*")
"""Names the server has or accepts; it would also take letters beyond ASCII in names of extensions' settings."""


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """The client asks for TLS."""


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    """The client asks for GSSAPI encryption."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """The client asks to cancel what another connection runs."""

    process_id: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """The client wants a session.

    startup: its version is the one that both ends will speak. requested: what the client asked for.
    unknown_options: names of `_pq_.` protocol options; we know none. replication: its value if it asks for that mode, else None.
    """

    startup: Startup
    requested: tuple[int, int]
    unknown_options: tuple[str, ...]
    replication: str | None

    @property
    def needs_negotiation(self) -> bool:
        """The client must be told what we do not speak."""
        return self.requested > NEWEST or bool(self.unknown_options)


Packet = SSLRequest | GSSENCRequest | CancelRequest | StartupMessage


def packet_size(prefix: bytes, max_size: int = MAX_SIZE) -> int:
    """Size of the whole packet from its first four bytes. Raises MalformedMessage before anybody allocates that much."""
    size = int.from_bytes(prefix, "big")
    if not MIN_SIZE <= size <= max_size:
        raise MalformedMessage(Side.CLIENT, "start-up packet has an impossible length")
    return size


def parse_packet(body: bytes) -> Packet:
    """Decode a start-up packet.

    body: everything after the length, at least 4 bytes.
    Raises MalformedMessage if the layout is broken, LoginRefused for what is well-formed but not accepted.
    """
    code = int.from_bytes(body[:4], "big")
    if code in (SSL_REQUEST, GSSENC_REQUEST):
        if len(body) != 4:
            raise MalformedMessage(Side.CLIENT, "encryption request with a body")
        return SSLRequest() if code == SSL_REQUEST else GSSENCRequest()
    if code == CANCEL_REQUEST:
        if not 4 <= len(body) - 8 <= 256:
            raise MalformedMessage(Side.CLIENT, "cancel request with a secret of impossible size")
        return CancelRequest(int.from_bytes(body[4:8], "big"), bytes(body[8:]))
    version = code >> 16, code & 0xFFFF
    if version[0] != 3:
        text = f"unsupported frontend protocol {version[0]}.{version[1]}: server supports 3.0 to 3.2"
        raise LoginRefused(Refusal(Why.UNSUPPORTED, text))
    return _parse_startup_message(version, body)


def _parse_startup_message(version: tuple[int, int], body: bytes) -> StartupMessage:
    parameters: list[tuple[str, str]] = []
    options: list[str] = []
    special: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in _split_parameters(body):
        # Setting names are case-insensitive in the server, so two spellings are one setting.
        if name.lower() in seen:
            raise CodedRefused(SYNTAX_ERROR, "a start-up parameter is given twice")
        seen.add(name.lower())
        if name.startswith("_pq_."):
            options.append(name)
        elif name in ("user", "database", "replication"):
            special[name] = value
        else:
            parameters.append((name, value))
    if not special.get("user"):
        raise CodedRefused(INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet")
    startup = Startup(special["user"], special.get("database") or None, tuple(parameters), min(version, NEWEST))
    startup_settings(startup)  # refuses options that cannot be taken apart, before anybody is asked for a password
    replication = special.get("replication")
    asks_replication = replication is not None and replication.lower() not in _FALSE
    return StartupMessage(startup, version, tuple(options), replication if asks_replication else None)


def _split_parameters(body: bytes) -> list[tuple[str, str]]:
    """Pairs of names and values after the version, each ended by a NUL; one more NUL ends the packet."""
    parts = body[4:].split(b"\0")
    # A well-formed list ends "...value\0\0": two empty parts, and an even number of others before them.
    if len(parts) == 2 and parts == [b"", b""]:
        return []
    if len(parts) < 4 or parts[-2:] != [b"", b""] or len(parts) % 2 or b"" in parts[:-2:2]:
        raise MalformedMessage(Side.CLIENT, "start-up parameters are not terminated as they should be")
    if len(parts) > 2 * MAX_PARAMETERS + 2:
        raise CodedRefused(SYNTAX_ERROR, f"more than {MAX_PARAMETERS} start-up parameters")
    names = [_decode(part) for part in parts[:-2:2]]
    # The server itself shows bytes of an application_name that are not ASCII as \xNN.
    raw = parts[1:-2:2]
    values = (
        part.decode("utf-8", "backslashreplace") if name == "application_name" else _decode(part)
        for name, part in zip(names, raw, strict=True)
    )
    return list(zip(names, values, strict=True))


def _decode(part: bytes) -> str:
    try:
        return part.decode("utf-8")
    except UnicodeDecodeError:
        raise CodedRefused("22021", "a start-up parameter is not valid UTF-8") from None


def startup_settings(startup: Startup) -> tuple[tuple[str, str], ...]:
    """Every session setting (GUC) that the client asks for, in the order the server would apply them, each name once.

    Settings inside `options` come first, as in the server: a parameter of the same name overrides them. These pairs are
    what is judged, and also what is sent to the server; `options` itself is not. Names are as spelt, except that
    `-` in an option's name is `_` as in the server. Raises LoginRefused for options that are not settings.
    """
    settings: dict[str, tuple[str, str]] = {}
    for name, value in startup.parameters:
        if name == "options":
            for pair in parse_options(value):
                if pair[0].lower() in settings:
                    raise CodedRefused(SYNTAX_ERROR, "a setting is given twice in the start-up options")
                settings[pair[0].lower()] = pair
    for name, value in startup.parameters:
        if name != "options":
            settings.pop(name.lower(), None)
            settings[name.lower()] = (name, value)
    for name, _ in settings.values():
        if not _SETTING_NAME.fullmatch(name):
            raise CodedRefused(UNDEFINED_OBJECT, "a start-up parameter has a name that no setting can have")
    return tuple(settings.values())


def parse_options(text: str) -> list[tuple[str, str]]:
    """Take the `options` parameter apart: `-c name=value`, `-cname=value` and `--name=value`, backslash escapes the next character.

    The server knows other switches, one-letter synonyms of settings and developers' tools; they are refused.
    Source: pg_split_opts() and process_postgres_switches().
    """
    settings: list[tuple[str, str]] = []
    words = _split_options(text)
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "-c" and position < len(words):
            setting = words[position]
            position += 1
        elif word.startswith(("-c", "--")):
            setting = word[2:]
        else:
            raise CodedRefused(SYNTAX_ERROR, "start-up options may only be -c name=value or --name=value")
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise CodedRefused(SYNTAX_ERROR, "a start-up option without a name or without a value")
        settings.append((name.replace("-", "_"), value))
    return settings


def _split_options(text: str) -> list[str]:
    return [_ESCAPED.sub(r"\1", word) for word in _WORD.findall(text)]
