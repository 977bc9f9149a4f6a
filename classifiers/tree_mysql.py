"""MySQL's and MariaDB's queries: translated to the common grammar, and their tree read with what functions and relations mean there."""

from __future__ import annotations

from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.functions_mysql import note_function
from classifiers.relations_mysql import find_read_flags, find_write_acts
from classifiers.second_opinion_mysql import check_tables
from classifiers.tokens import Token, Unreadable
from classifiers.translate_mysql import translate
from classifiers.tree import Reading, read_statement


class MysqlMeanings:
    """See Meanings."""

    setter = ""
    has_row_values = False

    def note_function(self, draft: Draft, parts: tuple[str, ...]) -> None:
        note_function(draft, parts)

    def note_setting(self, draft: Draft, setting: str | None) -> None:
        raise Unreadable("a function that changes settings, which MySQL does not have")

    def note_type(self, draft: Draft, parts: tuple[str, ...]) -> None:
        """Types are the server's own: a cast runs no code."""

    def find_read_flags(self, name: tuple[str, ...]) -> frozenset[str]:
        return find_read_flags(name)

    def find_write_acts(self, name: tuple[str, ...]) -> tuple[tuple[Kind, tuple[str, ...]], ...]:
        return find_write_acts(name)


_MEANINGS = MysqlMeanings()


def read_query(tokens: list[Token]) -> Reading:
    """Read one query or INSERT, UPDATE, DELETE of a single table.

    Raises Unreadable where the reading cannot be vouched for.
    """
    reading = read_statement(translate(tokens), _MEANINGS)
    check_tables(tokens, reading)
    return reading


def classify_query(tokens: list[Token]) -> Draft:
    return read_query(tokens).draft
