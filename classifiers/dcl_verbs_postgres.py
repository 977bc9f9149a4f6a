"""Rules for GRANT, REVOKE, roles, default privileges, REASSIGN and DROP OWNED."""

from __future__ import annotations

from classifiers.admin_verbs_postgres import check_plain
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.session_verbs_postgres import reset_setting, set_setting
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word, split_commas
from classifiers.tokens import NUMBER, OP, QUOTED, WORD, Token, Unreadable

_OBJECT_WORDS = (
    ("ALL",), ("FOREIGN", "DATA", "WRAPPER"), ("FOREIGN", "SERVER"), ("LARGE", "OBJECT"), ("TABLE",), ("SEQUENCE",), ("DATABASE",),
    ("DOMAIN",), ("FUNCTION",), ("PROCEDURE",), ("ROUTINE",), ("LANGUAGE",), ("PARAMETER",), ("SCHEMA",), ("TABLESPACE",), ("TYPE",),
)  # fmt: skip


def grant(cursor: TokenCursor) -> Draft:
    """GRANT and REVOKE, of privileges or of roles."""
    draft = Draft()
    draft.act(Kind.DCL, "", "", "privilege_change")
    verb = cursor.word()
    cursor.at += 1
    tokens = cursor.rest()
    check_plain([token for token in tokens if token.text != "SELECT"])
    split = find_word(tokens, "TO" if verb == "GRANT" else "FROM")
    if split < 0:
        raise Unreadable("a grant without a role")
    on = find_word(tokens[:split], "ON")
    if on >= 0:
        _objects(draft, TokenCursor(tokens[on + 1 : split]))
    return draft


def _objects(draft: Draft, cursor: TokenCursor) -> None:
    kind = next((words for words in _OBJECT_WORDS if len(words) < cursor.end and cursor.accept(*words)), ())
    if kind == ("ALL",):
        if not cursor.accept_any("TABLES", "SEQUENCES", "FUNCTIONS", "PROCEDURES", "ROUTINES"):
            raise Unreadable("a word is missing")
        cursor.expect("IN", "SCHEMA")
    for each in split_commas(cursor.rest()):
        inner = TokenCursor(each)
        if kind == ("LARGE", "OBJECT"):
            if inner.kind() != NUMBER:
                raise Unreadable("a number is missing")
            inner.at += 1
            draft.act(Kind.DCL, "", "", "large_object")
        else:
            name = inner.dotted()
            draft.act(Kind.DCL, name, "write", "privilege_change")
            if kind == ("ALL",):
                draft.act(Kind.DCL, name + ".*", "write", "privilege_change")
            if inner.word() == "(" and kind in (("FUNCTION",), ("PROCEDURE",), ("ROUTINE",)):
                inner.inside()
        inner.expect_done()


def default_privileges(cursor: TokenCursor) -> Draft:
    """The part after ALTER DEFAULT PRIVILEGES."""
    draft = Draft()
    draft.act(Kind.DCL, "", "", "privilege_change")
    tokens = cursor.rest()
    if find_word(tokens, "GRANT") < 0 and find_word(tokens, "REVOKE") < 0:
        raise Unreadable("default privileges without a grant")
    if any(token.kind not in (WORD, QUOTED) and token.text not in (",", ".") for token in tokens):
        raise Unreadable("default privileges in a form that is not read")
    return draft


def reassign(cursor: TokenCursor) -> Draft:
    cursor.expect("REASSIGN", "OWNED", "BY")
    draft = Draft()
    draft.act(Kind.DDL, "", "", "owner_change")
    draft.act(Kind.DCL, "", "", "owner_change", "privilege_change")
    _roles(cursor)
    cursor.expect("TO")
    cursor.name()
    cursor.expect_done()
    return draft


def drop_owned(cursor: TokenCursor) -> Draft:
    """The part after DROP OWNED."""
    cursor.expect("BY")
    draft = Draft()
    draft.act(Kind.DDL, "", "", "ddl_destructive")
    draft.act(Kind.DCL, "", "", "ddl_destructive", "privilege_change")
    _roles(cursor)
    cursor.accept_any("CASCADE", "RESTRICT")
    cursor.expect_done()
    return draft


def _roles(cursor: TokenCursor) -> None:
    cursor.name()
    while cursor.accept(","):
        cursor.name()


_ROLE_WORDS = frozenset(
    ["SUPERUSER", "NOSUPERUSER", "CREATEDB", "NOCREATEDB", "CREATEROLE", "NOCREATEROLE", "CREATEUSER", "NOCREATEUSER", "INHERIT",
     "NOINHERIT", "LOGIN", "NOLOGIN", "REPLICATION", "NOREPLICATION", "BYPASSRLS", "NOBYPASSRLS", "CONNECTION", "LIMIT",
     "ENCRYPTED", "UNENCRYPTED", "PASSWORD", "NULL", "VALID", "UNTIL", "IN", "ROLE", "GROUP", "ADMIN", "USER", "SYSID", "WITH",
     "ADD", "DROP", "RENAME", "TO"]
)  # fmt: skip


def role(cursor: TokenCursor, verb: str) -> Draft:
    """CREATE, ALTER or DROP of a ROLE, USER or GROUP; the cursor stands after that word."""
    draft = Draft()
    draft.act(Kind.DCL, "", "", "privilege_change")
    if verb == "DROP":
        draft.act(Kind.DCL, "", "", "ddl_destructive")
        cursor.accept("IF", "EXISTS")
        _roles(cursor)
        cursor.expect_done()
        return draft
    cursor.name()
    if verb == "ALTER" and (
        cursor.word() in ("SET", "RESET") or (cursor.word() == "IN" and cursor.word(1) == "DATABASE")
    ):
        if cursor.accept("IN", "DATABASE"):
            cursor.name()
        database_setting(draft, cursor, Kind.DCL)
        cursor.expect_done()
        return draft
    _role_options(draft, cursor)
    return draft


def database_setting(draft: Draft, cursor: TokenCursor, kind: Kind) -> None:
    """SET or RESET of a default; it holds for later sessions, so the session's own state does not change."""
    was_neutral = draft.is_neutral
    draft.act(Kind.ADMIN, "", "", "session_semantics_change")
    if cursor.accept("SET"):
        set_setting(draft, cursor, kind, "session_semantics_change")
    else:
        cursor.expect("RESET")
        reset_setting(draft, cursor, kind, "session_semantics_change")
    draft.is_neutral = was_neutral


def _role_options(draft: Draft, cursor: TokenCursor) -> None:
    tokens = cursor.rest()
    for token in tokens:
        if token.text in ("BYPASSRLS", "NOBYPASSRLS", "SUPERUSER", "NOSUPERUSER"):
            draft.act(Kind.DCL, "", "", "row_security_change")
        if token.text in ("REPLICATION", "NOREPLICATION"):
            draft.act(Kind.DCL, "", "", "replication")
        if token.kind == OP and token.text not in ("-", "+"):
            raise Unreadable("a role option that is not read")
        if token.text in ("(", ")", "SELECT"):
            raise Unreadable("a role option that is not read")
    _check_role_words(tokens)


def _check_role_words(tokens: list[Token]) -> None:
    """Names are allowed only behind the words that take them."""
    takes_names = False
    for token in tokens:
        if token.text in ("ROLE", "GROUP", "ADMIN", "USER", "TO"):
            takes_names = True
        elif token.text in _ROLE_WORDS:
            continue
        elif token.kind in (WORD, QUOTED) and not takes_names:
            raise Unreadable("a role option that is not read")
