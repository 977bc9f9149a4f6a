"""Rules for what changes the session or its transaction: BEGIN … ROLLBACK, SET, RESET, SHOW, DISCARD, LISTEN, NOTIFY, LOCK."""

from __future__ import annotations

from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.settings_postgres import find_setting_flags, is_neutral_setting
from classifiers.token_cursor import TokenCursor
from classifiers.tokens import STRING, Unreadable
from classifiers.types_postgres import skip_interval_fields


def transaction(cursor: TokenCursor) -> Draft:
    """BEGIN, START, COMMIT, END, ROLLBACK, ABORT, SAVEPOINT, RELEASE. PREPARE TRANSACTION comes here too."""
    draft = Draft()
    draft.act(Kind.TXN)
    verb = cursor.word()
    cursor.at += 1
    if verb == "PREPARE":
        cursor.expect("TRANSACTION")
        cursor.string()
    elif verb == "SAVEPOINT":
        cursor.name()
    elif verb == "RELEASE":
        if cursor.word() == "SAVEPOINT" and cursor.kind(1):
            cursor.at += 1
        cursor.name()
    elif verb in ("BEGIN", "START"):
        if verb == "START":
            cursor.expect("TRANSACTION")
        else:
            cursor.accept_any("WORK", "TRANSACTION")
        _modes(cursor)
    else:
        # The end of a transaction takes back SET LOCAL, or all its SETs.
        draft.is_neutral = False
        if verb in ("COMMIT", "ROLLBACK") and cursor.accept("PREPARED"):
            cursor.string()
        else:
            cursor.accept_any("WORK", "TRANSACTION")
            if verb == "ROLLBACK" and cursor.accept("TO"):
                if cursor.word() == "SAVEPOINT" and cursor.kind(1):
                    cursor.at += 1
                cursor.name()
            elif cursor.accept("AND"):
                cursor.accept("NO")
                cursor.expect("CHAIN")
    if verb in ("PREPARE", "RELEASE"):
        draft.is_neutral = verb == "RELEASE"
    cursor.expect_done()
    return draft


def _modes(cursor: TokenCursor) -> None:
    while not cursor.is_done:
        if cursor.accept("ISOLATION", "LEVEL"):
            if not (
                cursor.accept("SERIALIZABLE") or cursor.accept("REPEATABLE", "READ") or cursor.accept("READ", "COMMITTED")
                or cursor.accept("READ", "UNCOMMITTED")
            ):  # fmt: skip
                raise Unreadable("an isolation level is missing")
        elif cursor.accept("READ"):
            if not cursor.accept_any("WRITE", "ONLY"):
                raise Unreadable("a transaction mode that is not read")
        elif cursor.accept("NOT"):
            cursor.expect("DEFERRABLE")
        elif not cursor.accept("DEFERRABLE"):
            raise Unreadable("a transaction mode that is not read")
        cursor.accept(",")


def lock(cursor: TokenCursor) -> Draft:
    draft = Draft()
    cursor.expect("LOCK")
    cursor.accept("TABLE")
    while True:
        _only_name(draft, cursor, Kind.TXN, "", "lock")
        if not cursor.accept(","):
            break
    if cursor.accept("IN"):
        cursor.accept_any("ACCESS", "ROW", "SHARE", "EXCLUSIVE")
        while cursor.accept_any("SHARE", "EXCLUSIVE", "ROW", "UPDATE"):
            pass
        cursor.expect("MODE")
    cursor.accept("NOWAIT")
    cursor.expect_done()
    return draft


def _only_name(draft: Draft, cursor: TokenCursor, kind: Kind, mode: str, *flags: str) -> None:
    has_only = cursor.accept("ONLY")
    in_parens = has_only and cursor.accept("(")
    draft.act(kind, cursor.dotted(), mode, *flags)
    if in_parens:
        cursor.expect(")")
    cursor.accept("*")


def set_(cursor: TokenCursor) -> Draft:
    draft = Draft()
    cursor.expect("SET")
    if cursor.word() in ("SESSION", "LOCAL") and cursor.word(1) not in ("=", "TO", "."):
        if cursor.accept("SESSION", "CHARACTERISTICS"):
            cursor.expect("AS", "TRANSACTION")
            draft.act(Kind.SESSION)
            draft.act(Kind.TXN)
            _modes(cursor)
            return draft
        if cursor.word() == "SESSION" and cursor.word(1) == "AUTHORIZATION":
            pass
        else:
            cursor.at += 1
    if cursor.accept("CONSTRAINTS"):
        draft.act(Kind.SESSION)
        draft.act(Kind.TXN)
        if not cursor.accept("ALL"):
            cursor.parts()
            while cursor.accept(","):
                cursor.parts()
        if not cursor.accept_any("DEFERRED", "IMMEDIATE"):
            raise Unreadable("a word is missing")
        cursor.expect_done()
        return draft
    if cursor.word() == "TRANSACTION" and cursor.word(1) not in ("=", "TO"):
        cursor.at += 1
        draft.act(Kind.SESSION)
        draft.act(Kind.TXN)
        if cursor.accept("SNAPSHOT"):
            cursor.string()
            cursor.expect_done()
        else:
            _modes(cursor)
        return draft
    set_setting(draft, cursor, Kind.SESSION)
    cursor.expect_done()
    return draft


def set_setting(draft: Draft, cursor: TokenCursor, kind: Kind, *flags: str) -> None:
    """The part after SET [LOCAL]; also of ALTER ROLE, DATABASE, SYSTEM and FUNCTION … SET."""
    if cursor.accept("TIME", "ZONE"):
        _values(cursor)
        draft.act(kind, "", "", *flags)
    elif cursor.accept("SESSION", "AUTHORIZATION"):
        _change(draft, kind, "session_authorization", *flags)
        _role(cursor)
    elif cursor.word() == "ROLE" and cursor.word(1) not in ("=", "TO", "."):
        cursor.at += 1
        _change(draft, kind, "role", *flags)
        _role(cursor)
    elif cursor.word() == "SCHEMA" and cursor.kind(1) == STRING:
        cursor.at += 1
        _change(draft, kind, "search_path", *flags)
        cursor.string()
    elif cursor.word() == "NAMES" and cursor.word(1) not in ("=", "TO"):
        cursor.at += 1
        _change(draft, kind, "client_encoding", *flags)
        if not cursor.is_done and not cursor.accept("DEFAULT"):
            cursor.string()
    elif cursor.accept("XML", "OPTION"):
        draft.act(kind, "", "", *flags)
        if not cursor.accept_any("DOCUMENT", "CONTENT"):
            raise Unreadable("a word is missing")
    else:
        _change(draft, kind, cursor.dotted(), *flags)
        if cursor.accept("FROM", "CURRENT"):
            return
        if not cursor.accept("=") and not cursor.accept("TO"):
            raise Unreadable("a value is missing")
        _values(cursor)


def _change(draft: Draft, kind: Kind, name: str, *flags: str) -> None:
    meaning = find_setting_flags(name)
    draft.act(kind, "", "", *flags, *meaning)
    if "dynamic_sql" in meaning:
        draft.act(Kind.DYNAMIC, "", "", "dynamic_sql")
    if not is_neutral_setting(name):
        draft.is_neutral = False


def _role(cursor: TokenCursor) -> None:
    if cursor.kind() == STRING:
        cursor.string()
    else:
        cursor.name()


def _values(cursor: TokenCursor) -> None:
    while True:
        if cursor.accept("INTERVAL"):
            if cursor.word() == "(":
                cursor.inside()
            cursor.string()
            cursor.at = skip_interval_fields(cursor.tokens, cursor.at)
        elif not cursor.skip_constant():
            cursor.parts()
        if not cursor.accept(","):
            return


def reset(cursor: TokenCursor) -> Draft:
    draft = Draft()
    cursor.expect("RESET")
    reset_setting(draft, cursor, Kind.SESSION)
    cursor.expect_done()
    return draft


def reset_setting(draft: Draft, cursor: TokenCursor, kind: Kind, *flags: str) -> None:
    if cursor.accept("ALL"):
        draft.act(kind, "", "", *flags, "session_semantics_change", "search_path_change")
        if kind is not Kind.SESSION:
            # A stored default may be what keeps auditing on. In a session RESET goes back to those defaults, and drivers send it often.
            draft.act(kind, "", "", "row_security_change", "audit_evasion")
        draft.is_neutral = False
    elif cursor.accept("TIME", "ZONE") or cursor.accept("TRANSACTION", "ISOLATION", "LEVEL"):
        draft.act(kind, "", "", *flags)
    elif cursor.accept("SESSION", "AUTHORIZATION"):
        _change(draft, kind, "session_authorization", *flags)
    else:
        _change(draft, kind, cursor.dotted(), *flags)


def show(cursor: TokenCursor) -> Draft:
    draft = Draft()
    draft.act(Kind.METADATA)
    cursor.expect("SHOW")
    pairs = (("ALL",), ("TIME", "ZONE"), ("SESSION", "AUTHORIZATION"), ("TRANSACTION", "ISOLATION", "LEVEL"))
    if not any(cursor.accept(*words) for words in pairs):
        cursor.parts()
    cursor.expect_done()
    return draft


def discard(cursor: TokenCursor) -> Draft:
    draft = Draft()
    cursor.expect("DISCARD")
    what = cursor.accept_any("ALL", "PLANS", "SEQUENCES", "TEMP", "TEMPORARY")
    if not what:
        raise Unreadable("a word is missing")
    draft.act(Kind.SESSION)
    if what == "ALL":
        # Its SET SESSION AUTHORIZATION DEFAULT goes back to the role that logged in: no change of identity to speak of.
        draft.act(Kind.SESSION, "", "", "session_semantics_change", "search_path_change")
        draft.deallocates += ["*", "cursor:*"]
        draft.is_neutral = False
    cursor.expect_done()
    return draft


def listen(cursor: TokenCursor) -> Draft:
    """LISTEN, UNLISTEN, NOTIFY."""
    draft = Draft()
    draft.act(Kind.SESSION)
    verb = cursor.word()
    cursor.at += 1
    if not (verb == "UNLISTEN" and cursor.accept("*")):
        cursor.name()
    if verb == "NOTIFY" and cursor.accept(","):
        cursor.string()
    cursor.expect_done()
    return draft
