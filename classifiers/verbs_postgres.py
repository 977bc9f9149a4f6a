"""Which rule reads a PostgreSQL statement: by its first word. Every rule accounts for all tokens of its statement or refuses it."""

from __future__ import annotations

from collections.abc import Callable

from classifiers import (
    admin_verbs_postgres,
    alter_verbs_postgres,
    dcl_verbs_postgres,
    ddl_postgres,
    query_verbs_postgres,
    session_verbs_postgres,
)
from classifiers.draft import Draft
from classifiers.token_cursor import TokenCursor
from classifiers.tokens import Token, Unreadable
from classifiers.tree_postgres import classify_query

_QUERIES = frozenset(["SELECT", "VALUES", "TABLE", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "("])


def _prepare(cursor: TokenCursor) -> Draft:
    if cursor.word(1) == "TRANSACTION" and cursor.word(2) != "AS" and cursor.word(2) != "(":
        return session_verbs_postgres.transaction(cursor)
    return query_verbs_postgres.prepare(cursor)


_RULES: dict[str, Callable[[TokenCursor], Draft]] = {
    "BEGIN": session_verbs_postgres.transaction,
    "START": session_verbs_postgres.transaction,
    "COMMIT": session_verbs_postgres.transaction,
    "END": session_verbs_postgres.transaction,
    "ROLLBACK": session_verbs_postgres.transaction,
    "ABORT": session_verbs_postgres.transaction,
    "SAVEPOINT": session_verbs_postgres.transaction,
    "RELEASE": session_verbs_postgres.transaction,
    "LOCK": session_verbs_postgres.lock,
    "SET": session_verbs_postgres.set_,
    "RESET": session_verbs_postgres.reset,
    "SHOW": session_verbs_postgres.show,
    "DISCARD": session_verbs_postgres.discard,
    "LISTEN": session_verbs_postgres.listen,
    "UNLISTEN": session_verbs_postgres.listen,
    "NOTIFY": session_verbs_postgres.listen,
    "EXPLAIN": query_verbs_postgres.explain,
    "PREPARE": _prepare,
    "EXECUTE": query_verbs_postgres.execute,
    "DEALLOCATE": query_verbs_postgres.deallocate,
    "DECLARE": query_verbs_postgres.declare,
    "FETCH": query_verbs_postgres.fetch,
    "MOVE": query_verbs_postgres.fetch,
    "CLOSE": query_verbs_postgres.close,
    "COPY": query_verbs_postgres.copy,
    "DO": query_verbs_postgres.do,
    "CALL": query_verbs_postgres.call,
    "CREATE": ddl_postgres.create,
    "REFRESH": ddl_postgres.refresh,
    "ALTER": alter_verbs_postgres.alter,
    "DROP": alter_verbs_postgres.drop,
    "GRANT": dcl_verbs_postgres.grant,
    "REVOKE": dcl_verbs_postgres.grant,
    "REASSIGN": dcl_verbs_postgres.reassign,
    "VACUUM": admin_verbs_postgres.vacuum,
    "ANALYZE": admin_verbs_postgres.vacuum,
    "ANALYSE": admin_verbs_postgres.vacuum,
    "CLUSTER": admin_verbs_postgres.cluster,
    "REINDEX": admin_verbs_postgres.reindex,
    "CHECKPOINT": admin_verbs_postgres.checkpoint,
    "LOAD": admin_verbs_postgres.load,
    "TRUNCATE": admin_verbs_postgres.truncate,
    "COMMENT": admin_verbs_postgres.comment,
    "SECURITY": admin_verbs_postgres.security_label,
    "IMPORT": admin_verbs_postgres.import_foreign_schema,
}

COMMANDS = frozenset(_RULES) | (_QUERIES - {"("})
"""First words that a report may name."""


def classify_statement(tokens: list[Token]) -> Draft:
    """Raises Unreadable where no rule reads the statement."""
    first = tokens[0].text
    if first in _QUERIES:
        return classify_query(tokens)
    rule = _RULES.get(first)
    if rule is None:
        raise Unreadable("a command that is not read")
    cursor = TokenCursor(tokens)
    draft = rule(cursor)
    cursor.expect_done()
    return draft
