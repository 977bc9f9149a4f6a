"""What a statement does: effects, and the report that gathers them. The vocabulary is documented in docs/vocabulary.md.

A report is what the classifier says and what policy reads. It is small, frozen, picklable: it crosses a process border.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What sort of thing a statement does. A message has every kind that any of its statements has."""

    DML_READ = "dml_read"
    """SELECT, TABLE, VALUES, FETCH; also a write that reads another table."""
    DML_WRITE = "dml_write"
    """INSERT, UPDATE, DELETE, MERGE, COPY FROM, TRUNCATE; also inside a CTE."""
    DDL = "ddl"
    """CREATE, ALTER, DROP, COMMENT, TRUNCATE, REFRESH, SECURITY LABEL, SELECT INTO a table."""
    DCL = "dcl"
    """GRANT, REVOKE, roles, default privileges, ownership, row-security policies, passwords."""
    BULK_EXPORT = "bulk_export"
    """COPY TO, INTO OUTFILE or DUMPFILE."""
    FILE_ACCESS = "file_access"
    """The server (or, for LOAD DATA LOCAL, the client) reads or writes a file, or runs a program."""
    TXN = "txn"
    """BEGIN … ROLLBACK, savepoints, two-phase commit, XA, LOCK and UNLOCK TABLES."""
    SESSION = "session"
    """SET, RESET, USE, DISCARD, LISTEN, NOTIFY, DEALLOCATE, MOVE, CLOSE."""
    METADATA = "metadata"
    """SHOW, DESCRIBE, EXPLAIN (with ANALYZE also the kinds of the statement that it runs)."""
    ADMIN = "admin"
    """VACUUM, CHECKPOINT, ALTER SYSTEM, LOAD, KILL, replication, and functions that do such things."""
    DYNAMIC = "dynamic"
    """What runs cannot be read off the text: DO, CALL, EXECUTE, PREPARE, functions that run a text argument."""
    UNPARSABLE = "unparsable"
    """The classifier cannot vouch for its own reading. Blocked by default."""
    EMPTY = "empty"
    """Nothing but white space and comments."""


FLAGS = frozenset(
    """no_where trivial_where truncate ddl_destructive unbounded_read star whole_row returning select_into bulk_load
    client_export server_file_read server_file_write client_file_read program_exec large_object remote_access replication
    privilege_change owner_change identity_change row_security_change secret_literal catalog_secret sample_leak dynamic_sql
    code_body prepare cursor multi_statement executable_comment explain explain_analyze session_semantics_change
    search_path_change audit_evasion server_config extension_load session_kill resource_abuse lock row_lock
    function_side_effect unknown_function unknown_prepared degraded_visibility""".split()  # noqa: SIM905 -- a word list is read as prose
)
"""Every flag a report may carry; policies are checked against it."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One act on one object.

    kind: what is done. object: name as written, folded as the server folds it, parts joined by ".", a part with a dot or quote in it in quotes;
        "" if no object is touched. "app.*" stands for whatever is in the schema.
    mode: "read" if data of the object is read, "write" if it (or its definition) is changed, "" otherwise.
    columns: columns named or implied, "*" for a whole row; may be incomplete without a catalogue.
    flags: members of FLAGS.
    via: "" for what the text itself names; else what led here, such as "view app.v": only a catalogue knows that.
    """

    kind: Kind
    object: str = ""
    mode: str = ""
    columns: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()
    via: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All that the classifier can say about the text of one client message.

    effects: one per object and act; a statement without objects has one effect with object "".
    command: the first keyword of the first statement, upper case, "" if empty; for metrics and messages. Bounded vocabulary: "OTHER" if not
        a known SQL command.
    statements: how many statements the text holds (empty ones do not count).
    functions: names of called functions, folded as the server folds.
    prepares: SQL-level (name, report of the inner statement) pairs; cursors: declared ones likewise; uses: names of prepared
        statements ("prepared:x") or cursors ("cursor:x") run by this text; deallocates: names forgotten, likewise; "*" for all
        prepared statements, "cursor:*" for all cursors.
    is_neutral: cannot change search_path or another lexing-relevant setting.
    secret_spans: (start, end) byte offsets in the original text of literals that must not be stored.
    reason: why it is unparsable or dynamic, one short sentence without text of the statement; "" otherwise.
    """

    effects: tuple[Effect, ...]
    command: str = "OTHER"
    statements: int = 1
    functions: tuple[str, ...] = ()
    prepares: tuple[tuple[str, Report], ...] = ()
    cursors: tuple[tuple[str, Report], ...] = ()
    uses: tuple[str, ...] = ()
    deallocates: tuple[str, ...] = ()
    is_neutral: bool = False
    secret_spans: tuple[tuple[int, int], ...] = ()
    reason: str = ""

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(effect.kind for effect in self.effects)

    @property
    def flags(self) -> frozenset[str]:
        return frozenset().union(*(effect.flags for effect in self.effects))

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(e.object for e in self.effects if e.mode == "read" and e.object))

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(e.object for e in self.effects if e.mode == "write" and e.object))


class NameCase(StrEnum):
    """Whether the server tells names of tables and schemas apart that differ in case only."""

    WRITTEN = "written"
    """Yes, and the report gives names as the server folds them (PostgreSQL)."""
    KEPT = "kept"
    """Yes; the report gives them as they were written."""
    IGNORED = "ignored"
    """No."""
    UNKNOWN = "unknown"
    """Nobody has asked it yet: for a rule that restricts it does not, for one that allows it does."""


@dataclass(frozen=True, slots=True)
class LexingState:
    """What the meaning of the bytes depends on. None: not known, so both readings must agree.

    standard_conforming_strings: as the server reported it (PostgreSQL). encoding: the client encoding by the server's name, upper case.
    ansi_quotes, no_backslash_escapes: of sql_mode (MySQL, MariaDB).
    """

    standard_conforming_strings: bool | None = True
    encoding: str = "UTF8"
    ansi_quotes: bool | None = False
    no_backslash_escapes: bool | None = False
