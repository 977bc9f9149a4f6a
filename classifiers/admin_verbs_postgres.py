"""Rules for VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT, LOAD, TRUNCATE, COMMENT, SECURITY LABEL, IMPORT FOREIGN SCHEMA."""

from __future__ import annotations

from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.object_names_postgres import skip_object
from classifiers.token_cursor import TokenCursor
from classifiers.tokens import NUMBER, OP, QUOTED, STRING, WORD, Token, Unreadable, join_name


def check_plain(tokens: list[Token]) -> None:
    """Refuse a list of options that holds anything but words, constants, commas, dots and brackets."""
    for token in tokens:
        is_sign = token.kind == OP and token.text in ("=", "-", "*", "+")
        if (
            token.kind not in (WORD, QUOTED, STRING, NUMBER)
            and not is_sign
            and token.text not in (",", "(", ")", ".", "[", "]")
        ):
            raise Unreadable("an option that is not read")
        if token.text == "SELECT":
            raise Unreadable("a query where an option should stand")


def vacuum(cursor: TokenCursor) -> Draft:
    """VACUUM and ANALYZE, with tables and their columns."""
    draft = Draft()
    draft.act(Kind.ADMIN)
    cursor.at += 1
    if cursor.word() == "(":
        check_plain(cursor.inside())
    while cursor.accept_any("FULL", "FREEZE", "VERBOSE", "ANALYZE", "ANALYSE"):
        pass
    while not cursor.is_done:
        cursor.accept("ONLY")
        draft.act(Kind.ADMIN, cursor.dotted())
        cursor.accept("*")
        if cursor.word() == "(":
            check_plain(cursor.inside())
        if not cursor.accept(","):
            break
    cursor.expect_done()
    return draft


def cluster(cursor: TokenCursor) -> Draft:
    draft = Draft()
    draft.act(Kind.ADMIN)
    cursor.expect("CLUSTER")
    if cursor.word() == "(":
        check_plain(cursor.inside())
    cursor.accept("VERBOSE")
    if not cursor.is_done:
        draft.act(Kind.ADMIN, cursor.dotted())
        if cursor.accept("USING"):
            cursor.name()
        elif cursor.accept("ON"):
            draft.act(Kind.ADMIN, cursor.dotted())
    cursor.expect_done()
    return draft


def reindex(cursor: TokenCursor) -> Draft:
    draft = Draft()
    draft.act(Kind.ADMIN)
    cursor.expect("REINDEX")
    if cursor.word() == "(":
        check_plain(cursor.inside())
    if not cursor.accept_any("INDEX", "TABLE", "SCHEMA", "DATABASE", "SYSTEM"):
        raise Unreadable("a word is missing")
    cursor.accept("CONCURRENTLY")
    if not cursor.is_done:
        draft.act(Kind.ADMIN, cursor.dotted())
    cursor.expect_done()
    return draft


def checkpoint(cursor: TokenCursor) -> Draft:
    draft = Draft()
    draft.act(Kind.ADMIN)
    cursor.expect("CHECKPOINT")
    if cursor.word() == "(":
        check_plain(cursor.inside())
    cursor.expect_done()
    return draft


def load(cursor: TokenCursor) -> Draft:
    draft = Draft()
    draft.act(Kind.ADMIN, "", "", "extension_load")
    draft.is_neutral = False
    cursor.expect("LOAD")
    cursor.string()
    cursor.expect_done()
    return draft


def truncate(cursor: TokenCursor) -> Draft:
    draft = Draft()
    cursor.expect("TRUNCATE")
    cursor.accept("TABLE")
    while True:
        in_parens = cursor.accept("ONLY") and cursor.accept("(")
        name = cursor.dotted()
        if in_parens:
            cursor.expect(")")
        draft.act(Kind.DDL, name, "write", "truncate", "ddl_destructive")
        draft.act(Kind.DML_WRITE, name, "write", "truncate", "ddl_destructive")
        cursor.accept("*")
        if not cursor.accept(","):
            break
    if cursor.accept_any("RESTART", "CONTINUE"):
        cursor.expect("IDENTITY")
    cursor.accept_any("CASCADE", "RESTRICT")
    cursor.expect_done()
    return draft


def comment(cursor: TokenCursor) -> Draft:
    cursor.expect("COMMENT", "ON")
    return _labelled(cursor)


def security_label(cursor: TokenCursor) -> Draft:
    cursor.expect("SECURITY", "LABEL")
    if cursor.accept("FOR"):
        if cursor.kind() == STRING:
            cursor.string()
        else:
            cursor.name()
    cursor.expect("ON")
    return _labelled(cursor)


def _labelled(cursor: TokenCursor) -> Draft:
    draft = Draft()
    draft.act(Kind.DDL)
    is_column = cursor.word() == "COLUMN"
    for name in skip_object(cursor):
        draft.act(Kind.DDL, join_name(name[:-1] if is_column and len(name) > 1 else name), "write")
    cursor.expect("IS")
    if not cursor.accept("NULL"):
        cursor.string()
    cursor.expect_done()
    return draft


def import_foreign_schema(cursor: TokenCursor) -> Draft:
    cursor.expect("IMPORT", "FOREIGN", "SCHEMA")
    draft = Draft()
    draft.act(Kind.DDL, "", "", "remote_access")
    cursor.name()
    if cursor.accept("LIMIT", "TO") or cursor.accept("EXCEPT"):
        check_plain(cursor.inside())
    cursor.expect("FROM", "SERVER")
    cursor.name()
    cursor.expect("INTO")
    draft.act(Kind.DDL, join_name([cursor.name()]), "write", "remote_access")
    if cursor.accept("OPTIONS"):
        check_plain(cursor.inside())
    cursor.expect_done()
    return draft
