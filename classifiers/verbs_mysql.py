"""Which rule reads a MySQL or MariaDB statement: by its first word. Every rule accounts for all tokens of its statement or refuses it."""

from __future__ import annotations

from collections.abc import Callable

from classifiers import admin_verbs_mysql as admin
from classifiers import dcl_verbs_mysql as dcl
from classifiers import ddl_mysql as ddl
from classifiers import query_verbs_mysql as queries
from classifiers import session_verbs_mysql as session
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.token_cursor import TokenCursor
from classifiers.tokens import Token, Unreadable

Rule = Callable[[TokenCursor], Draft]


def _plain(kind: Kind, *flags: str) -> Rule:
    """A rule for a verb whose words say no more."""

    def rule(cursor: TokenCursor) -> Draft:
        draft = Draft()
        draft.act(kind, "", "", *flags)
        admin.check_plain(cursor.rest())
        return draft

    return rule


def _explain(cursor: TokenCursor) -> Draft:
    return queries.explain(cursor, classify_statement)


def _analyze(cursor: TokenCursor) -> Draft:
    if cursor.word(1) in ("TABLE", "TABLES", "LOCAL", "NO_WRITE_TO_BINLOG"):
        return admin.tables(cursor)
    return queries.explain(cursor, classify_statement)


def _prepare(cursor: TokenCursor) -> Draft:
    return queries.prepare(cursor, classify_statement)


def _execute(cursor: TokenCursor) -> Draft:
    return queries.execute(cursor, classify_statement)


def _drop(cursor: TokenCursor) -> Draft:
    return queries.deallocate(cursor) if cursor.word(1) == "PREPARE" else ddl.drop(cursor)


def _set(cursor: TokenCursor) -> Draft:
    return queries.set_statement(cursor, classify_statement) if cursor.word(1) == "STATEMENT" else session.set_(cursor)


def _start(cursor: TokenCursor) -> Draft:
    return session.transaction(cursor) if cursor.word(1) == "TRANSACTION" else admin.replication(cursor)


def _begin(cursor: TokenCursor) -> Draft:
    if cursor.word(1) != "NOT":
        return session.transaction(cursor)
    cursor.rest()
    draft = Draft()
    draft.act(Kind.DYNAMIC, "", "", "code_body", "dynamic_sql")
    draft.is_neutral = False
    draft.reason = "a code block runs whose effect cannot be seen"
    return draft


def _binlog(cursor: TokenCursor) -> Draft:
    cursor.expect("BINLOG")
    draft = Draft()
    draft.act(Kind.DYNAMIC, "", "", "dynamic_sql", "replication")
    draft.act(Kind.ADMIN, "", "", "replication")
    draft.is_neutral = False
    draft.reason = "events of a binary log run whose effect cannot be seen"
    admin.check_plain(cursor.rest())
    return draft


_RULES: dict[str, Rule] = {
    "BEGIN": _begin,
    "START": _start,
    "STOP": admin.replication,
    "COMMIT": session.transaction,
    "ROLLBACK": session.transaction,
    "SAVEPOINT": session.transaction,
    "RELEASE": session.transaction,
    "XA": session.transaction,
    "LOCK": session.lock_tables,
    "UNLOCK": session.unlock_tables,
    "SET": _set,
    "USE": session.use,
    "HANDLER": session.handler,
    "EXPLAIN": _explain,
    "DESCRIBE": _explain,
    "DESC": _explain,
    "DO": queries.do,
    "CALL": queries.call,
    "PREPARE": _prepare,
    "EXECUTE": _execute,
    "DEALLOCATE": queries.deallocate,
    "LOAD": queries.load,
    "CREATE": ddl.create,
    "ALTER": ddl.alter,
    "DROP": _drop,
    "RENAME": ddl.rename,
    "TRUNCATE": ddl.truncate,
    "IMPORT": ddl.import_table,
    "GRANT": dcl.grant,
    "REVOKE": dcl.grant,
    "SHOW": admin.show,
    "FLUSH": admin.flush,
    "KILL": admin.kill,
    "CHANGE": admin.replication,
    "RESET": admin.replication,
    "PURGE": admin.replication,
    "INSTALL": admin.plugin,
    "UNINSTALL": admin.plugin,
    "ANALYZE": _analyze,
    "CHECK": admin.tables,
    "CHECKSUM": admin.tables,
    "OPTIMIZE": admin.tables,
    "REPAIR": admin.tables,
    "CACHE": admin.tables,
    "CLONE": admin.clone,
    "BINLOG": _binlog,
    "BACKUP": _plain(Kind.ADMIN, "lock"),
    "SHUTDOWN": _plain(Kind.ADMIN, "server_config"),
    "RESTART": _plain(Kind.ADMIN, "server_config"),
    "HELP": _plain(Kind.METADATA),
    "SIGNAL": _plain(Kind.SESSION),
    "RESIGNAL": _plain(Kind.SESSION),
    "GET": _plain(Kind.SESSION),
}

COMMANDS = frozenset(_RULES) | (queries.QUERIES - {"("}) | queries.WRITES
"""First words that a report may name."""


def classify_statement(tokens: list[Token]) -> Draft:
    """Raises Unreadable where no rule reads the statement."""
    first = tokens[0].text
    if first in queries.QUERIES or first in queries.WRITES:
        return queries.query(tokens)
    rule = _RULES.get(first)
    if rule is None:
        raise Unreadable("a command that is not read")
    cursor = TokenCursor(tokens)
    draft = rule(cursor)
    cursor.expect_done()
    return draft
