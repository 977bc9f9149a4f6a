"""Rules of MySQL and MariaDB for what changes the session or its transaction: BEGIN … ROLLBACK, XA, SET, USE, LOCK TABLES."""

from __future__ import annotations

from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.settings_mysql import find_setting_flags, is_neutral_setting, is_safe_charset
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word, split_commas
from classifiers.tokens import NUMBER, QUOTED, STRING, VARIABLE, WORD, Token, Unreadable
from classifiers.writes_mysql import classify_expression

_TXN_WORDS = frozenset(
    ["TRANSACTION", "WORK", "WITH", "CONSISTENT", "SNAPSHOT", "READ", "ONLY", "WRITE", "AND", "NO", "CHAIN", "RELEASE", "TO", "SAVEPOINT", "ISOLATION",
     "LEVEL", "REPEATABLE", "COMMITTED", "UNCOMMITTED", "SERIALIZABLE", "START", "BEGIN", "JOIN", "RESUME", "END", "SUSPEND", "FOR", "MIGRATE",
     "PREPARE", "COMMIT", "ONE", "PHASE", "ROLLBACK", "RECOVER", "CONVERT", "XID"]
)  # fmt: skip
_SCOPES = frozenset(["GLOBAL", "SESSION", "LOCAL", "PERSIST", "PERSIST_ONLY"])
_SERVER_SCOPES = frozenset(["GLOBAL", "PERSIST", "PERSIST_ONLY"])


def transaction(cursor: TokenCursor) -> Draft:
    """BEGIN, START TRANSACTION, COMMIT, ROLLBACK, SAVEPOINT, RELEASE SAVEPOINT, XA."""
    draft = Draft()
    draft.act(Kind.TXN)
    verb = cursor.word()
    cursor.at += 1
    names = 1 if verb in ("SAVEPOINT", "RELEASE", "ROLLBACK") else 0
    while not cursor.is_done:
        if cursor.word() in _TXN_WORDS or cursor.word() == "," or (verb == "XA" and cursor.kind() in (STRING, NUMBER)):
            cursor.at += 1
        elif names and cursor.is_name:
            names -= 1
            cursor.at += 1
        else:
            raise Unreadable("a transaction in a form that is not read")
    return draft


def lock_tables(cursor: TokenCursor) -> Draft:
    cursor.expect("LOCK")
    draft = Draft()
    draft.act(Kind.TXN, "", "", "lock")
    if cursor.accept("INSTANCE"):
        cursor.expect("FOR", "BACKUP")
        draft.act(Kind.ADMIN, "", "", "lock")
        return draft
    if not cursor.accept_any("TABLES", "TABLE"):
        raise Unreadable("a LOCK in a form that is not read")
    for part in split_commas(cursor.rest()):
        each = TokenCursor(part)
        draft.act(Kind.TXN, each.dotted(), "", "lock")
        if each.accept("AS") or each.word() not in ("READ", "WRITE", "LOW_PRIORITY"):
            each.name()
        while each.accept_any("READ", "WRITE", "LOCAL", "LOW_PRIORITY", "CONCURRENT"):
            pass
        if each.accept_any("WAIT", "NOWAIT") == "WAIT":
            each.skip_constant()
        each.expect_done()
    return draft


def unlock_tables(cursor: TokenCursor) -> Draft:
    cursor.expect("UNLOCK")
    draft = Draft()
    draft.act(Kind.TXN)
    if not cursor.accept_any("TABLES", "TABLE", "INSTANCE"):
        raise Unreadable("a word is missing")
    cursor.expect_done()
    return draft


def use(cursor: TokenCursor) -> Draft:
    cursor.expect("USE")
    draft = Draft()
    draft.act(Kind.SESSION, "", "", "search_path_change")
    draft.is_neutral = False
    cursor.name()
    cursor.expect_done()
    return draft


def set_(cursor: TokenCursor) -> Draft:
    """SET in all its forms but SET STATEMENT."""
    cursor.expect("SET")
    draft = Draft()
    if cursor.word() == "PASSWORD":
        return _password(draft, cursor)
    if cursor.accept("DEFAULT", "ROLE"):
        draft.act(Kind.DCL, "", "", "privilege_change")
        _accounts(cursor.rest())
        return draft
    if cursor.accept("ROLE"):
        draft.act(Kind.SESSION, "", "", "identity_change")
        _accounts(cursor.rest())
        return draft
    if cursor.accept("RESOURCE", "GROUP"):
        draft.act(Kind.ADMIN)
        cursor.name()
        if cursor.accept("FOR"):
            _accounts(cursor.rest())
        cursor.expect_done()
        return draft
    if _is_transaction(cursor):
        draft.act(Kind.SESSION)
        draft.act(Kind.TXN)
        if cursor.word() == "GLOBAL":
            draft.act(Kind.ADMIN, "", "", "server_config")
        cursor.at += 1 if cursor.word() in _SCOPES else 0
        draft.merge(transaction(cursor))
        return draft
    scope = ""
    for part in split_commas(cursor.rest()):
        scope = assign(draft, part, scope)
    return draft


def _is_transaction(cursor: TokenCursor) -> bool:
    at = 1 if cursor.word() in _SCOPES else 0
    return cursor.word(at) == "TRANSACTION" and cursor.word(at + 1) in ("ISOLATION", "READ")


def _accounts(tokens: list[Token]) -> None:
    if any(
        token.kind not in (WORD, QUOTED, STRING, VARIABLE, NUMBER) and token.text not in (",", "(", ")", "-")
        for token in tokens
    ):
        raise Unreadable("a list of accounts that is not read")


def _password(draft: Draft, cursor: TokenCursor) -> Draft:
    draft.act(Kind.DCL, "", "", "privilege_change", "secret_literal")
    tokens = cursor.rest()
    if any(token.text == "SELECT" for token in tokens):
        raise Unreadable("a password in a form that is not read")
    return draft


def assign(draft: Draft, tokens: list[Token], scope: str) -> str:
    """One assignment of SET; returns the scope that holds for the next one."""
    cursor = TokenCursor(tokens)
    if cursor.word() in _SCOPES and cursor.word(1) not in ("=", ":="):
        scope = cursor.word()
        cursor.at += 1
    if cursor.kind() == VARIABLE:
        at_scope = scope
        is_user = cursor.word() == "@"
        name = [cursor.value() or ""]
        cursor.at += 1
        while cursor.accept("."):
            name.append(cursor.name())
        if is_user:
            _value(draft, cursor)
            draft.act(Kind.SESSION)
            return scope
        if name[0].upper() in _SCOPES and len(name) > 1:
            at_scope = name.pop(0).upper()
        else:
            at_scope = "SESSION"
        _variable(draft, cursor, ".".join(name), at_scope)
        return scope
    if cursor.word() in ("NAMES", "CHARSET") or (cursor.word() == "CHARACTER" and cursor.word(1) == "SET"):
        cursor.at += 2 if cursor.word() == "CHARACTER" else 1
        _charset(draft, cursor)
        return scope
    _variable(draft, cursor, ".".join(cursor.parts()), scope)
    return scope


def _charset(draft: Draft, cursor: TokenCursor) -> None:
    if cursor.kind() not in (WORD, QUOTED, STRING):
        raise Unreadable("a character set is missing")
    value = cursor.value()
    cursor.at += 1
    is_safe = is_safe_charset(value)
    if cursor.accept("COLLATE"):
        is_safe = is_safe and is_safe_charset(cursor.value())
        cursor.at += 1
    cursor.expect_done()
    draft.act(Kind.SESSION, "", "", *([] if is_safe else ["session_semantics_change"]))
    draft.is_neutral = False


def _variable(draft: Draft, cursor: TokenCursor, name: str, scope: str) -> None:
    if not cursor.accept("=") and not cursor.accept(":="):
        raise Unreadable("a value is missing")
    is_plain = cursor.end - cursor.at == 1 and cursor.kind() in (WORD, QUOTED, STRING, NUMBER)
    flags = find_setting_flags(name, cursor.value() if is_plain else None)
    draft.act(Kind.SESSION, "", "", *flags)
    if scope in _SERVER_SCOPES:
        draft.act(Kind.ADMIN, "", "", "server_config", *flags)
    if "dynamic_sql" in flags:
        draft.act(Kind.DYNAMIC, "", "", "dynamic_sql")
        draft.reason = draft.reason or "what is set runs later"
    if not is_neutral_setting(name):
        draft.is_neutral = False
    if is_plain and cursor.kind() in (WORD, QUOTED):
        cursor.at += 1
    else:
        draft.merge(classify_expression(cursor.rest()))
    cursor.expect_done()


def _value(draft: Draft, cursor: TokenCursor) -> None:
    if not cursor.accept("=") and not cursor.accept(":="):
        raise Unreadable("a value is missing")
    draft.merge(classify_expression(cursor.rest()))


def handler(cursor: TokenCursor) -> Draft:
    """HANDLER t OPEN | READ … | CLOSE: reads without SELECT."""
    cursor.expect("HANDLER")
    name = cursor.dotted()
    draft = Draft()
    if cursor.accept("OPEN"):
        alias = cursor.name() if cursor.accept("AS") or cursor.is_name else name
        inner = Draft()
        inner.act(Kind.DML_READ, name, "read", "cursor")
        draft.cursors.append((alias, inner.freeze("HANDLER", 1, ())))
        draft.act(Kind.DML_READ, name, "read", "cursor")
    elif cursor.accept("CLOSE"):
        draft.act(Kind.SESSION, "", "", "cursor")
        draft.deallocates.append("cursor:" + name)
    else:
        cursor.expect("READ")
        draft.act(Kind.DML_READ, name, "read", "cursor")
        draft.add_column(Kind.DML_READ, name, "read", "*")
        draft.uses.append("cursor:" + name)
        tokens = cursor.rest()
        where = find_word(tokens, "WHERE")
        if where >= 0:
            end = find_word(tokens[where:], "LIMIT")
            draft.merge(classify_expression(tokens[where + 1 : where + end if end >= 0 else len(tokens)]))
        if any(token.text == "SELECT" for token in tokens) and where < 0:
            raise Unreadable("a query where a value should stand")
    cursor.expect_done()
    return draft
