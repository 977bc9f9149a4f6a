"""What a session has to know about the database behind it, as plain functions. Wired by app.py; one per protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from classifiers.effects import LexingState, NameCase, Report
from protocol.login import Startup


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of database.

    name: the classifier's name for it. lexing_state: from the server's confirmed parameters.
    role_query: asks for the role in force and the search path, one line each in one value; None: cannot be asked for.
    own_role: the role that is in force when role_query answers "none", from the confirmed parameters; None: the login role.
    search_path: likewise, with the role that "$user" stands for; None: not known, then path_query, if not None, asks for it, and parse_path reads the
    answer. server_version: a number that rises with the version. decode_parameter: (type
    number, format, raw value) → (type name in ASCII, value as text); with None for the value only the name is asked for.
    is_write_tag: whether the server's completion text says that something was written.
    call_report: what a CALL does, by its name: something asked for by a number or a command, without SQL text.
    name_case: how the server compares names of tables, as far as its confirmed parameters tell.
    startup_text: settings that the client asks for at login, as a statement that can be judged; b"" if there is nothing to judge.
    """

    name: str
    lexing_state: Callable[[Mapping[str, str]], LexingState]
    search_path: Callable[[Mapping[str, str], str], tuple[str, ...] | None]
    parse_path: Callable[[str, str], tuple[str, ...] | None]
    path_query: bytes
    role_query: bytes | None
    own_role: Callable[[Mapping[str, str]], str | None]
    server_version: Callable[[Mapping[str, str]], int]
    decode_parameter: Callable[[int, int, bytes | None], tuple[str, str | None]]
    is_write_tag: Callable[[bytes], bool]
    startup_text: Callable[[Startup], bytes]
    name_case: Callable[[Mapping[str, str]], NameCase]
    call_report: Callable[[bytes], Report]
