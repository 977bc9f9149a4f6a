"""PostgreSQL's queries and DML: their tree read with what functions, operators, types and relations mean there."""

from __future__ import annotations

from classifiers.calls_postgres import note_function, note_operator, note_set_config, note_type
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.relations_postgres import find_read_flags, find_write_acts
from classifiers.tokens import Token
from classifiers.tree import read_statement


class PostgresMeanings:
    """See Meanings."""

    setter = "set_config"
    has_row_values = True

    def note_function(self, draft: Draft, parts: tuple[str, ...]) -> None:
        note_function(draft, parts)

    def note_setting(self, draft: Draft, setting: str | None) -> None:
        note_set_config(draft, setting)

    def note_type(self, draft: Draft, parts: tuple[str, ...]) -> None:
        note_type(draft, parts)

    def find_read_flags(self, name: tuple[str, ...]) -> frozenset[str]:
        return find_read_flags(name)

    def find_write_acts(self, name: tuple[str, ...]) -> tuple[tuple[Kind, tuple[str, ...]], ...]:
        return find_write_acts(name)


_MEANINGS = PostgresMeanings()


def classify_query(tokens: list[Token]) -> Draft:
    """Classify the tokens of one SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE or MERGE.

    Raises Unreadable where the reading cannot be vouched for.
    """
    draft, canonical, _ = read_statement(tokens, _MEANINGS)
    for schema, operator in canonical.operators:
        note_operator(draft, schema, operator)
    for parts in canonical.types:
        note_type(draft, parts)
    return draft
