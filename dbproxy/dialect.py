"""What a session has to know about the database behind it, as plain functions. Wired by app.py; one per protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from classifiers.effects import LexingState
from protocol.contract import Statement
from protocol.login import Startup


@dataclass(frozen=True, slots=True)
class Parameter:
    """A bound value for the audit. type_name: plain ASCII; raw: bytes on the wire, None for NULL; text: decoded, None if it is not."""

    type_name: str
    raw: bytes | None
    text: str | None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of database.

    name: the classifier's name for it. lexing_state: from the server's confirmed parameters.
    search_path: likewise, with the role that "$user" stands for; None: not known, then path_query, if not None, asks for it, and parse_path reads the
    answer. server_version: a number that rises with the version. describe_parameters: bound values for the audit.
    is_write_tag: whether the server's completion text says that something was written.
    startup_text: settings that the client asks for at login, as a statement that can be judged; b"" if there is nothing to judge.
    """

    name: str
    lexing_state: Callable[[Mapping[str, str]], LexingState]
    search_path: Callable[[Mapping[str, str], str], tuple[str, ...] | None]
    parse_path: Callable[[str, str], tuple[str, ...]]
    path_query: bytes
    server_version: Callable[[Mapping[str, str]], int]
    describe_parameters: Callable[[Statement], list[Parameter]]
    is_write_tag: Callable[[bytes], bool]
    startup_text: Callable[[Startup], bytes]
