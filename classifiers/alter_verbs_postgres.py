"""Rules for ALTER and DROP of any sort of object."""

from __future__ import annotations

from classifiers.admin_verbs_postgres import check_plain
from classifiers.calls_postgres import changes_settings, note_stored_change
from classifiers.dcl_verbs_postgres import database_setting, default_privileges, drop_owned, role
from classifiers.ddl_postgres import note_file_options, policy_acts, published_tables, scan_definition
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.embedded_postgres import scan_expressions
from classifiers.object_names_postgres import ROUTINES, accept_kind, skip_object_name
from classifiers.session_verbs_postgres import reset_setting, set_setting
from classifiers.settings_postgres import find_setting_flags
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word, split_commas
from classifiers.tokens import Token, Unreadable, join_name

_RELATIONS = frozenset(["TABLE", "VIEW", "MATERIALIZED VIEW", "INDEX", "SEQUENCE", "FOREIGN TABLE"])
_REMOTE = frozenset(["SERVER", "FOREIGN DATA WRAPPER", "FOREIGN TABLE"])


def drop(cursor: TokenCursor) -> Draft:
    cursor.expect("DROP")
    if cursor.accept("OWNED"):
        return drop_owned(cursor)
    kind = accept_kind(cursor)
    if kind in ("ROLE", "USER", "GROUP"):
        return role(cursor, "DROP")
    draft = Draft()
    kinds, flags = _drop_meaning(kind)
    cursor.accept("CONCURRENTLY")
    cursor.accept("IF", "EXISTS")
    while True:
        names = skip_object_name(cursor, kind)
        for each in kinds:
            for name in names or [()]:
                draft.act(each, join_name(name), "write" if name else "", "ddl_destructive", *flags)
                if kind == "SCHEMA":
                    draft.act(each, join_name(name) + ".*", "write", "ddl_destructive", *flags)
                if kind == "EXTENSION" and name and "audit" in name[-1]:
                    draft.act(each, join_name(name), "write", "audit_evasion")
        if not cursor.accept(","):
            break
    if kind == "DATABASE" and (cursor.accept("WITH") or cursor.word() == "("):
        check_plain(cursor.inside())
    cursor.accept_any("CASCADE", "RESTRICT")
    cursor.expect_done()
    return draft


def _drop_meaning(kind: str) -> tuple[list[Kind], list[str]]:
    if kind == "POLICY":
        return [Kind.DDL, Kind.DCL], ["row_security_change"]
    if kind == "USER MAPPING":
        return [Kind.DCL], ["remote_access", "privilege_change"]
    if kind in _REMOTE:
        return [Kind.DDL], ["remote_access"]
    if kind in ("PUBLICATION", "SUBSCRIPTION"):
        return [Kind.DDL, Kind.ADMIN], ["replication"]
    if kind == "EVENT TRIGGER":
        return [Kind.DDL], ["audit_evasion"]
    return [Kind.DDL], []


def alter(cursor: TokenCursor) -> Draft:
    cursor.expect("ALTER")
    if cursor.accept("SYSTEM"):
        return _system(cursor)
    if cursor.accept("DEFAULT", "PRIVILEGES"):
        return default_privileges(cursor)
    kind = accept_kind(cursor)
    if kind in ("ROLE", "USER", "GROUP"):
        return role(cursor, "ALTER")
    if kind == "DATABASE":
        return _database(cursor)
    draft = Draft()
    cursor.accept("IF", "EXISTS")
    if kind in _RELATIONS:
        _relation(draft, cursor, kind)
    elif kind in ROUTINES:
        _routine(draft, cursor, kind)
    else:
        _object(draft, cursor, kind)
    return draft


def _system(cursor: TokenCursor) -> Draft:
    draft = Draft()
    draft.act(Kind.ADMIN, "", "", "server_config")
    if cursor.accept("SET"):
        set_setting(draft, cursor, Kind.ADMIN, "server_config")
    else:
        cursor.expect("RESET")
        if cursor.accept("ALL"):
            draft.act(Kind.ADMIN, "", "", "server_config", "audit_evasion")
        else:
            reset_setting(draft, cursor, Kind.ADMIN, "server_config")
    cursor.expect_done()
    draft.is_neutral = True
    return draft


def _database(cursor: TokenCursor) -> Draft:
    draft = Draft()
    name = join_name([cursor.name()])
    if cursor.word() == "RESET" or (cursor.word() == "SET" and cursor.word(1) != "TABLESPACE"):
        database_setting(draft, cursor, Kind.ADMIN)
        cursor.expect_done()
        return draft
    draft.act(Kind.DDL, name, "write")
    draft.act(Kind.ADMIN)
    tokens = cursor.rest()
    _ownership(draft, name, tokens)
    check_plain(tokens)
    return draft


def _ownership(draft: Draft, name: str, tokens: list[Token]) -> None:
    if find_word(tokens, "OWNER", "TO") >= 0:
        draft.act(Kind.DDL, name, "write", "owner_change")
        draft.act(Kind.DCL, name, "write", "owner_change", "privilege_change")


def _relation(draft: Draft, cursor: TokenCursor, kind: str) -> None:
    remote = ["remote_access"] if kind == "FOREIGN TABLE" else []
    if cursor.accept("ALL", "IN", "TABLESPACE"):
        draft.act(Kind.DDL)
        check_plain(cursor.rest())
        return
    in_parens = cursor.accept("ONLY") and cursor.accept("(")
    name = cursor.dotted()
    if in_parens:
        cursor.expect(")")
    cursor.accept("*")
    draft.act(Kind.DDL, name, "write", *remote)
    if cursor.is_done:
        raise Unreadable("ALTER without an action")
    for action in split_commas(cursor.rest()):
        _action(draft, name, action)
        if remote:
            note_file_options(draft, action)
    if changes_settings(draft):
        note_stored_change(draft)


def _action(draft: Draft, name: str, tokens: list[Token]) -> None:
    """One action of ALTER TABLE and the like."""
    words = [token.text for token in tokens[:5]]
    _ownership(draft, name, tokens)
    if words[:1] == ["DROP"]:
        draft.act(Kind.DDL, name, "write", "ddl_destructive")
    if words[:2] in (["DISABLE", "TRIGGER"], ["DISABLE", "RULE"], ["ENABLE", "REPLICA"]):
        draft.act(Kind.DDL, name, "write", "audit_evasion")
    if find_word(tokens, "ROW", "LEVEL", "SECURITY") >= 0:
        policy_acts(draft, name)
    if words[:2] == ["REPLICA", "IDENTITY"]:
        draft.act(Kind.DDL, name, "write", "replication")
    if words[:2] in (["ATTACH", "PARTITION"], ["DETACH", "PARTITION"]):
        draft.act(Kind.DDL, TokenCursor(tokens[2:]).dotted(), "write")
    if words[:1] == ["INHERIT"] or words[:2] == ["NO", "INHERIT"]:
        draft.act(Kind.DDL, TokenCursor(tokens[1 if words[0] == "INHERIT" else 2 :]).dotted(), "write")
    start = 0
    if words[:1] == ["ADD"] and words[1:2] not in (
        ["CONSTRAINT"],
        ["CHECK"],
        ["PRIMARY"],
        ["UNIQUE"],
        ["FOREIGN"],
        ["EXCLUDE"],
    ):
        start = 1
    scan_expressions(draft, tokens[start:])


def _routine(draft: Draft, cursor: TokenCursor, kind: str) -> None:
    name = join_name(skip_object_name(cursor, kind)[0])
    tokens = cursor.rest()
    draft.act(Kind.DDL, name, "write")
    _ownership(draft, name, tokens)
    if find_word(tokens, "SECURITY") >= 0:
        draft.act(Kind.DDL, name, "write", "privilege_change")
    if find_word(tokens, "RENAME") >= 0 or find_word(tokens, "SCHEMA") >= 0:
        # Under the name of a built-in function it is called where that one seems to be.
        draft.act(Kind.DDL, name, "write", "code_body")
    at = find_word(tokens, "SET")
    if at >= 0 and at + 1 < len(tokens):
        draft.act(
            Kind.DDL, name, "write", *(find_setting_flags(tokens[at + 1].value or "") - {"session_semantics_change"})
        )
    check_plain(tokens)


def _object(draft: Draft, cursor: TokenCursor, kind: str) -> None:
    names = [join_name(name) for name in skip_object_name(cursor, kind)]
    tokens = cursor.rest()
    if not tokens:
        raise Unreadable("ALTER without an action")
    words = [token.text for token in tokens[:2]]
    flags: list[str] = []
    kinds = [Kind.DDL]
    if words[:1] == ["DROP"]:
        flags.append("ddl_destructive")
    if kind == "POLICY":
        kinds, flags = [Kind.DDL, Kind.DCL], [*flags, "row_security_change"]
    elif kind == "USER MAPPING":
        kinds, flags = [Kind.DCL], [*flags, "remote_access", "privilege_change"]
    elif kind in _REMOTE:
        flags.append("remote_access")
    elif kind in ("PUBLICATION", "SUBSCRIPTION"):
        kinds, flags = (
            [Kind.DDL, Kind.ADMIN],
            [*flags, "replication", *(["remote_access"] if kind == "SUBSCRIPTION" else [])],
        )
    elif kind == "EXTENSION":
        flags.append("extension_load")
    elif kind == "EVENT TRIGGER" and words[:1] != ["RENAME"]:
        flags.append("audit_evasion")
    elif kind == "LARGE OBJECT":
        flags.append("large_object")
    elif kind in ("OPERATOR", "OPERATOR FAMILY", "OPERATOR CLASS"):
        flags.append("code_body")
    for each in kinds:
        for name in names or [""]:
            draft.act(each, name, "write" if name else "", *flags)
            if kind == "SCHEMA":
                draft.act(each, name + ".*", "write", *flags)
    for name in names or [""]:
        _ownership(draft, name, tokens)
    if kind == "PUBLICATION":
        published_tables(draft, tokens)
    elif kind == "POLICY":
        scan_definition(draft, tokens)
        if any(token.value == "set_config" for token in tokens):
            note_stored_change(draft)
    elif kind in ("DOMAIN", "STATISTICS"):
        scan_expressions(draft, tokens)
        if changes_settings(draft):
            note_stored_change(draft)
    elif kind in ("OPERATOR", "OPERATOR FAMILY", "OPERATOR CLASS"):
        if any(token.text == "SELECT" for token in tokens):
            raise Unreadable("a query where a definition should stand")
    else:
        check_plain(tokens)
