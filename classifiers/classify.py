"""The one entry: the text of a client message to a report of what it does. Never raises; doubt is kind `unparsable`.

Runs inside a child process that bounds its time and memory: nothing here does. The parse library writes statements to its
logger at WARNING; the process that imports this module must silence the logger "sqlglot" before the first call.
"""

from __future__ import annotations

from classifiers.classify_mysql import classify as classify_mysql
from classifiers.classify_postgres import classify as classify_postgres
from classifiers.effects import LexingState, Report


def classify(dialect: str, text: bytes, state: LexingState, server_version: int = 0) -> Report:
    """Say what the text of one client message does.

    dialect: "postgres", or "mysql", which covers MariaDB. state: what the server has confirmed.
    server_version: server_version_num, or see lexer_mysql.FIRST_MARIADB; 0 if not known.
    Raises ValueError for an unknown dialect, and nothing else.
    """
    if dialect == "postgres":
        return classify_postgres(text, state, server_version)
    if dialect == "mysql":
        return classify_mysql(text, state, server_version)
    raise ValueError("unknown dialect")
