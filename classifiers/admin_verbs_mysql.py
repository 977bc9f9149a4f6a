"""Rules of MySQL and MariaDB for SHOW and for administration: FLUSH, KILL, replication, plug-ins, tables' upkeep."""

from __future__ import annotations

from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word, split_commas
from classifiers.tokens import NUMBER, OP, PARAM, QUOTED, STRING, VARIABLE, WORD, Token, Unreadable
from classifiers.writes_mysql import classify_expression


def check_plain(tokens: list[Token]) -> None:
    """Refuse a list of options that holds a query or a call of anything but words."""
    for token in tokens:
        if token.kind not in (WORD, QUOTED, STRING, NUMBER, VARIABLE, PARAM, OP) and token.text not in (
            ",",
            "(",
            ")",
            ".",
            ":",
        ):
            raise Unreadable("an option that is not read")
        if token.text in ("SELECT", "LOAD_FILE"):
            raise Unreadable("a query where an option should stand")


_SAMPLES = frozenset(["PROCESSLIST", "BINLOG", "RELAYLOG", "ENGINE", "PROFILE", "PROFILES"])


def show(cursor: TokenCursor) -> Draft:
    cursor.expect("SHOW")
    draft = Draft()
    draft.act(Kind.METADATA)
    tokens = cursor.rest()
    words = [token.text for token in tokens[:3]]
    if words[:1] in (["FULL"], ["EXTENDED"], ["GLOBAL"], ["SESSION"], ["ALL"]):
        words = [token.text for token in tokens[1:4]]
    if (
        words[:1] == ["ENGINE"]
        or words[:2] == ["BINLOG", "EVENTS"]
        or words[:2] == ["RELAYLOG", "EVENTS"]
        or words[:1] == ["PROCESSLIST"]
        or (words[:1] and words[0] in _SAMPLES | {"EXPLAIN", "ANALYZE"})
    ):
        draft.act(Kind.METADATA, "", "", "sample_leak")
    elif words[:1] == ["GRANTS"] or words[:2] == ["CREATE", "USER"]:
        draft.act(Kind.METADATA, "", "", *(["catalog_secret"] if words[0] == "CREATE" else []))
    elif words[:1] == ["CREATE"] and len(tokens) > 2:
        named = TokenCursor(tokens[2:])
        named.accept("IF", "NOT", "EXISTS")
        draft.act(Kind.METADATA, named.dotted())
    elif words[:1] and words[0] in ("COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS"):
        at = next((i for i, token in enumerate(tokens) if token.text in ("FROM", "IN")), -1)
        if at >= 0:
            draft.act(Kind.METADATA, TokenCursor(tokens[at + 1 :]).dotted())
    where = find_word(tokens, "WHERE")
    if where >= 0:
        draft.merge(classify_expression(tokens[where + 1 :]))
        tokens = tokens[:where]
    check_plain(tokens)
    return draft


def flush(cursor: TokenCursor) -> Draft:
    cursor.expect("FLUSH")
    draft = Draft()
    cursor.accept_any("LOCAL", "NO_WRITE_TO_BINLOG")
    if cursor.accept("TABLES") or cursor.accept("TABLE"):
        draft.act(Kind.ADMIN)
        tokens = cursor.rest()
        at = find_word(tokens, "WITH", "READ", "LOCK")
        at = find_word(tokens, "FOR", "EXPORT") if at < 0 else at
        if at >= 0:
            draft.act(Kind.ADMIN, "", "", "lock")
            draft.act(Kind.TXN, "", "", "lock")
        for part in split_commas(tokens if at < 0 else tokens[:at]):
            if part:
                each = TokenCursor(part)
                draft.act(Kind.ADMIN, each.dotted())
                each.expect_done()
        return draft
    for part in split_commas(cursor.rest()):
        words = [token.text for token in part]
        if not words or not all(token.kind in (WORD, QUOTED, STRING) for token in part):
            raise Unreadable("a FLUSH in a form that is not read")
        if "LOGS" in words or words[0] == "STATUS":
            draft.act(Kind.ADMIN, "", "", "audit_evasion")
        elif words[0] in ("PRIVILEGES", "USER_RESOURCES"):
            draft.act(Kind.ADMIN, "", "", "privilege_change")
        else:
            draft.act(Kind.ADMIN)
    return draft


def kill(cursor: TokenCursor) -> Draft:
    cursor.expect("KILL")
    draft = Draft()
    draft.act(Kind.ADMIN, "", "", "session_kill")
    while cursor.accept_any("HARD", "SOFT", "CONNECTION", "QUERY", "ID"):
        pass
    if cursor.accept("USER"):
        check_plain(cursor.rest())
    else:
        draft.merge(classify_expression(cursor.rest()))
    return draft


def replication(cursor: TokenCursor) -> Draft:
    """CHANGE MASTER, CHANGE REPLICATION SOURCE or FILTER, START and STOP SLAVE, REPLICA, GROUP_REPLICATION, RESET …, PURGE …"""
    draft = Draft()
    verb = cursor.word()
    tokens = cursor.rest()
    words = [token.text for token in tokens]
    flags = ["replication"]
    if verb == "CHANGE":
        flags += ["remote_access"]
    if verb == "PURGE" or (verb == "RESET" and words[1:2] != ["REPLICA"] and words[1:2] != ["SLAVE"]):
        flags += ["audit_evasion"]
    if verb == "RESET" and words[1:2] == ["PERSIST"]:
        flags = ["server_config"]
    if verb == "RESET" and words[1:2] == ["QUERY"]:
        flags = []
    draft.act(Kind.ADMIN, "", "", *flags)
    if any(token.kind == STRING and "PASSWORD" in tokens[max(0, index - 2)].text for index, token in enumerate(tokens)):
        draft.act(Kind.ADMIN, "", "", "secret_literal")
    check_plain(tokens)
    return draft


def plugin(cursor: TokenCursor) -> Draft:
    """INSTALL and UNINSTALL of plug-ins and components."""
    draft = Draft()
    verb = cursor.word()
    tokens = cursor.rest()
    draft.act(Kind.ADMIN, "", "", "extension_load")
    if verb == "UNINSTALL" and any("audit" in (token.value or "").lower() for token in tokens):
        draft.act(Kind.ADMIN, "", "", "audit_evasion")
    check_plain(tokens)
    draft.is_neutral = False
    return draft


def tables(cursor: TokenCursor) -> Draft:
    """CHECK, CHECKSUM, OPTIMIZE, REPAIR and ANALYZE TABLE, CACHE INDEX."""
    draft = Draft()
    verb = cursor.word()
    cursor.at += 1
    cursor.accept_any("NO_WRITE_TO_BINLOG", "LOCAL")
    if verb == "CACHE":
        cursor.expect("INDEX")
    elif cursor.accept("VIEW") is False and not cursor.accept_any("TABLE", "TABLES"):
        raise Unreadable("a word is missing")
    draft.act(Kind.ADMIN)
    mode = "read" if verb == "CHECKSUM" else ""
    tokens = cursor.rest()
    check_plain(tokens)
    at = find_word(tokens, "PERSISTENT")
    at = find_word(tokens, "UPDATE") if at < 0 else at
    at = find_word(tokens, "DROP") if at < 0 else at
    for part in split_commas(tokens if at < 0 else tokens[:at]):
        draft.act(Kind.ADMIN, TokenCursor(part).dotted(), mode)
    if verb == "ANALYZE" and find_word(tokens, "UPDATE", "HISTOGRAM") >= 0:
        draft.act(Kind.ADMIN, "", "", "sample_leak")
    return draft


def clone(cursor: TokenCursor) -> Draft:
    cursor.expect("CLONE")
    draft = Draft()
    if cursor.accept("LOCAL"):
        draft.act(Kind.FILE_ACCESS, "", "", "server_file_write")
        draft.act(Kind.ADMIN, "", "", "server_file_write")
    else:
        draft.act(Kind.ADMIN, "", "", "replication", "remote_access", "secret_literal")
    check_plain(cursor.rest())
    return draft
