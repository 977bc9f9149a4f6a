"""Numbered changes of the SQLite schema: which there are, and bringing a file up to the newest.

Each is sqlite_schema/NNNN_name.sql, applied in one transaction with a row that holds its SHA-256. A file that a newer dbproxy has
changed, or whose rows say that another text was applied under a number, is refused: going on could lose what it holds.
There is no way down; `dbproxy state backup` before an upgrade is the way back.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbproxy.errors import StartError

FOLDER = Path(__file__).resolve().parent / "sqlite_schema"
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = """CREATE TABLE IF NOT EXISTS schema_migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    applied_at_ns INTEGER NOT NULL
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One change. number: from 1, without gaps."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(folder: Path = FOLDER) -> tuple[Migration, ...]:
    """The shipped changes in their order. Raises StartError if the installation lacks one."""
    found = []
    for path in sorted(folder.iterdir()):
        match = _FILE.fullmatch(path.name)
        if match:
            found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if not found or [each.number for each in found] != list(range(1, len(found) + 1)):
        raise StartError(f"{folder}: the installation of dbproxy is not whole; install it again")
    return tuple(found)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration], now_ns: int) -> int:
    """Apply what is missing, each change whole or not at all. Returns how many were applied.

    connection: in autocommit mode. Raises StartError if the schema is newer than this dbproxy or was made by another text,
    sqlite3.Error if a change fails; those before it stay applied.
    """
    connection.execute(_TABLE)
    rows = connection.execute("SELECT number, name, sha256 FROM schema_migrations ORDER BY number").fetchall()
    for expected, (number, name, sha256) in enumerate(rows, 1):
        if number > len(migrations):
            raise StartError(
                f"its schema is version {rows[-1][0]}, newer than this dbproxy, which knows {len(migrations)}: "
                "start the newer dbproxy, or restore the backup from before the upgrade"
            )
        if number != expected or sha256 != migrations[number - 1].sha256:
            raise StartError(
                f"its schema was made by another change {number} ({name}) than this dbproxy's: "
                "use the release that made it, or restore a backup"
            )
    for migration in migrations[len(rows) :]:
        with transaction(connection):
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?, ?)",
                (migration.number, migration.name, migration.sha256, now_ns),
            )
    return len(migrations) - len(rows)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing: a failure inside, or of the commit itself, undoes everything."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has rolled back by itself after some errors
            connection.execute("ROLLBACK")
        raise


def _statements(sql: str) -> Iterator[str]:
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise StartError("the installation of dbproxy is not whole: a schema change ends in the middle of a statement")
