"""What a reading of a parse tree needs to know of its database: what functions, types and relations mean there.

Implemented by tree_postgres.py and tree_mysql.py, which also make the tree.
"""

from __future__ import annotations

from typing import Protocol

from classifiers.draft import Draft
from classifiers.effects import Kind


class Meanings(Protocol):
    """setter: the function whose call is a SET, "" if there is none. has_row_values: whether a table's name can stand for its row."""

    @property
    def setter(self) -> str: ...

    @property
    def has_row_values(self) -> bool: ...

    def note_function(self, draft: Draft, parts: tuple[str, ...]) -> None:
        """Put what a call does into the draft."""

    def note_setting(self, draft: Draft, setting: str | None) -> None:
        """Put a call of the setter into the draft. setting: its first argument, None where it is computed."""

    def note_type(self, draft: Draft, parts: tuple[str, ...]) -> None:
        """Put a cast to a type into the draft."""

    def find_read_flags(self, name: tuple[str, ...]) -> frozenset[str]:
        """Flags of reading a relation."""

    def find_write_acts(self, name: tuple[str, ...]) -> tuple[tuple[Kind, tuple[str, ...]], ...]:
        """Further kinds, with flags, of writing a relation."""
