"""Rules of MySQL and MariaDB for CREATE, ALTER, DROP, RENAME and TRUNCATE."""

from __future__ import annotations

from classifiers.admin_verbs_mysql import check_plain
from classifiers.dcl_verbs_mysql import account
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.query_verbs_mysql import query
from classifiers.second_opinion_mysql import find_table_names
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word, split_commas
from classifiers.tokens import STRING, VARIABLE, Token, Unreadable, join_name

_HEADS = frozenset(
    [
        "OR",
        "REPLACE",
        "TEMPORARY",
        "UNIQUE",
        "FULLTEXT",
        "SPATIAL",
        "VECTOR",
        "ONLINE",
        "OFFLINE",
        "IGNORE",
        "AGGREGATE",
        "UNDO",
    ]
)
_ROUTINES = frozenset(["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "PACKAGE", "LIBRARY"])
_QUERY_WORDS = frozenset(["SELECT", "WITH", "VALUES", "TABLE"])
_REMOTE_ENGINES = frozenset(["federated", "federatedx", "connect", "spider", "s3"])


def create(cursor: TokenCursor) -> Draft:
    start = cursor.at
    cursor.expect("CREATE")
    draft = Draft()
    replaces = cursor.word() == "OR" and cursor.word(1) == "REPLACE"
    _heads(draft, cursor)
    kind = cursor.word()
    if kind in ("USER", "ROLE"):
        cursor.at = start
        return account(cursor)
    cursor.at += 1
    if kind == "SQL":
        raise Unreadable("a CREATE in a form that is not read")
    cursor.accept("BODY")
    cursor.accept("IF", "NOT", "EXISTS")
    if kind == "TABLE":
        _table(draft, cursor)
    elif kind == "VIEW":
        _view(draft, cursor)
    elif kind in _ROUTINES:
        _routine(draft, cursor, kind)
    elif kind == "INDEX":
        cursor.name()
        while cursor.word() != "ON" and not cursor.is_done:
            cursor.at += 1
        cursor.expect("ON")
        draft.act(Kind.DDL, cursor.dotted(), "write")
        check_plain(cursor.rest())
    elif kind in ("DATABASE", "SCHEMA"):
        draft.act(Kind.DDL, join_name([cursor.name()]), "write")
        check_plain(cursor.rest())
    else:
        _other(draft, cursor, kind)
    if replaces and kind in ("TABLE", "SEQUENCE", "DATABASE", "SCHEMA"):
        _note_drop(draft, holds_tables=kind in ("DATABASE", "SCHEMA"))
    return draft


def _note_drop(draft: Draft, *, holds_tables: bool) -> None:
    """OR REPLACE (MariaDB): what has the name is dropped first, with the data in it."""
    for kind, name, mode in list(draft.acts):
        if kind is Kind.DDL and mode == "write":
            draft.act(kind, name, mode, "ddl_destructive")
            if holds_tables:
                draft.act(kind, name + ".*", mode, "ddl_destructive")


def _heads(draft: Draft, cursor: TokenCursor) -> None:
    """What may stand between CREATE and the sort of object: DEFINER=…, ALGORITHM=…, SQL SECURITY …"""
    while True:
        if cursor.word() in _HEADS:
            cursor.at += 1
        elif cursor.accept("DEFINER", "="):
            _definer(draft, cursor)
        elif cursor.accept("ALGORITHM", "=") or cursor.accept("SQL", "SECURITY"):
            cursor.at += 1
        else:
            return


def _definer(draft: Draft, cursor: TokenCursor) -> None:
    is_self = cursor.word() in ("CURRENT_USER", "CURRENT_ROLE")
    cursor.at += 1
    if cursor.word() == "(":
        cursor.inside()
    if cursor.kind() == VARIABLE:
        cursor.at += 1
        is_self = False
    if not is_self:
        draft.act(Kind.DDL, "", "", "identity_change")


def _table(draft: Draft, cursor: TokenCursor) -> None:
    name = cursor.dotted()
    draft.act(Kind.DDL, name, "write")
    if cursor.accept("LIKE") or (cursor.word() == "(" and cursor.word(1) == "LIKE" and cursor.accept("(", "LIKE")):
        draft.act(Kind.DDL, cursor.dotted(), "read")
        cursor.accept(")")
        cursor.expect_done()
        return
    if cursor.word() == "(" and cursor.word(1) not in (*_QUERY_WORDS, "("):
        definition = cursor.inside()
        _check_definition(definition)
        _references(draft, definition)
    tokens = cursor.rest()
    at = _query_start(tokens)
    _table_options(draft, name, tokens if at < 0 else tokens[:at])
    if at >= 0:
        draft.act(Kind.DDL, name, "write", "select_into")
        draft.merge(query(tokens[at:]))


def _query_start(tokens: list[Token]) -> int:
    depth = 0
    for index, token in enumerate(tokens):
        if depth == 0 and (
            (
                token.text in ("SELECT", "WITH", "VALUES", "TABLE")
                and (token.text in ("SELECT", "WITH") or index == 0 or tokens[index - 1].text == "AS")
            )
            or (token.text == "(" and index + 1 < len(tokens) and tokens[index + 1].text in ("SELECT", "WITH", "("))
        ):
            follows = tokens[index + 1].text if index + 1 < len(tokens) else ""
            if token.text != "WITH" or follows not in ("SYSTEM", "PARSER"):
                return index
        depth += (token.text == "(") - (token.text == ")")
    return -1


def _check_definition(tokens: list[Token]) -> None:
    if any(token.text in ("SELECT", ";") for token in tokens):
        raise Unreadable("a query where only an expression can stand")


def _references(draft: Draft, tokens: list[Token]) -> None:
    """Tables behind foreign keys, which tell whether a value is there, and sequences behind defaults."""
    for index, token in enumerate(tokens[:-2]):
        rest = TokenCursor(tokens[index + 1 :])
        is_sequence = (
            rest.accept("(") if token.text in ("NEXTVAL", "LASTVAL", "SETVAL") else rest.accept("VALUE", "FOR")
        )
        if (is_sequence or token.text == "REFERENCES") and rest.is_name:
            draft.act(Kind.DDL, rest.dotted(), "read")


def _table_options(draft: Draft, name: str, tokens: list[Token]) -> None:
    _check_definition(tokens)
    for index, token in enumerate(tokens):
        rest = TokenCursor(tokens[index + 1 :])
        rest.accept("=")
        value = (rest.value() or "").lower() if not rest.is_done else ""
        if token.text == "DIRECTORY":
            draft.act(Kind.DDL, name, "write", "server_file_write")
            draft.act(Kind.FILE_ACCESS, "", "", "server_file_write")
        elif token.text == "CONNECTION" and rest.kind() == STRING:
            draft.act(Kind.DDL, name, "write", "remote_access", "secret_literal")
        elif token.text in ("ENGINE", "TYPE") and value in _REMOTE_ENGINES:
            draft.act(Kind.DDL, name, "write", "remote_access")
        elif token.text == "FILE_NAME":
            draft.act(Kind.DDL, name, "write", "server_file_read", "server_file_write")
            draft.act(Kind.FILE_ACCESS, "", "", "server_file_read", "server_file_write")
        elif token.text == "UNION" and rest.word() == "(":
            for part in split_commas(rest.inside()):
                draft.act(Kind.DDL, TokenCursor(part).dotted(), "read")


def _view(draft: Draft, cursor: TokenCursor) -> None:
    draft.act(Kind.DDL, cursor.dotted(), "write")
    if cursor.word() == "(":
        cursor.inside()
    cursor.expect("AS")
    tokens = cursor.rest()
    words = [token.text for token in tokens[-4:]]
    if words[-2:] == ["CHECK", "OPTION"]:
        tokens = tokens[: -3 if words[1:2] == ["WITH"] else -4]
    inner = query(tokens)
    draft.merge(inner)


def _routine(draft: Draft, cursor: TokenCursor, kind: str) -> None:
    name = cursor.dotted()
    tokens = cursor.rest()
    flags = ["code_body"]
    if find_word(tokens, "SONAME") >= 0:
        draft.act(Kind.DDL, name, "write", "extension_load", "code_body")
        check_plain(tokens)
        return
    if kind == "TRIGGER":
        on = find_word(tokens, "ON")
        if on < 0:
            raise Unreadable("a trigger without a table")
        table = TokenCursor(tokens[on + 1 :])
        draft.act(Kind.DDL, table.dotted(), "write", *flags)
        tokens = table.rest()
    else:
        draft.act(Kind.DDL, name, "write", *flags)
    for each in find_table_names(tokens):
        draft.act(Kind.DDL, join_name(each), "read", "code_body")


def _other(draft: Draft, cursor: TokenCursor, kind: str) -> None:
    tokens = cursor.rest()
    check_plain(tokens)
    names = TokenCursor(tokens)
    if kind == "SERVER":
        draft.act(Kind.DDL, names.dotted(), "write", "remote_access")
        if any(token.text == "PASSWORD" for token in tokens):
            draft.act(Kind.DDL, "", "", "secret_literal")
    elif kind == "SEQUENCE":
        draft.act(Kind.DDL, names.dotted(), "write")
    elif kind in ("TABLESPACE", "LOGFILE"):
        draft.act(Kind.DDL)
        draft.act(Kind.ADMIN, "", "", "server_file_write")
        draft.act(Kind.FILE_ACCESS, "", "", "server_file_write")
    elif kind in ("RESOURCE", "REFERENCE"):
        draft.act(Kind.DDL)
        draft.act(Kind.ADMIN, "", "", "server_config")
    else:
        raise Unreadable("a sort of object that is not read")


def alter(cursor: TokenCursor) -> Draft:
    start = cursor.at
    cursor.expect("ALTER")
    draft = Draft()
    _heads(draft, cursor)
    kind = cursor.word()
    if kind in ("USER", "ROLE"):
        cursor.at = start
        return account(cursor)
    cursor.at += 1
    if kind == "TABLE":
        cursor.accept("IF", "EXISTS")
        _alter_table(draft, cursor)
    elif kind == "VIEW":
        cursor.accept("IF", "EXISTS")
        _view(draft, cursor)
    elif kind in ("DATABASE", "SCHEMA"):
        name = (
            join_name([cursor.name()])
            if cursor.is_name and cursor.word() not in ("CHARACTER", "DEFAULT", "COLLATE", "CHARSET")
            else ""
        )
        draft.act(Kind.DDL, name, "write" if name else "", "session_semantics_change")
        draft.act(Kind.ADMIN)
        check_plain(cursor.rest())
    elif kind in _ROUTINES:
        _routine(draft, cursor, kind)
    elif kind == "INSTANCE":
        draft.act(Kind.ADMIN, "", "", "server_config")
        check_plain(cursor.rest())
    else:
        cursor.accept("IF", "EXISTS")
        _other(draft, cursor, kind)
    return draft


def _alter_table(draft: Draft, cursor: TokenCursor) -> None:
    name = cursor.dotted()
    draft.act(Kind.DDL, name, "write")
    if cursor.accept("WAIT"):
        cursor.skip_constant()
    tokens = cursor.rest()
    _table_options(draft, name, tokens)
    _references(draft, tokens)
    for action in split_commas(tokens):
        words = [token.text for token in action]
        if words[:1] in (["DROP"], ["DISCARD"]) or "TRUNCATE" in words[:1] or words[:2] == ["TRUNCATE", "PARTITION"]:
            draft.act(Kind.DDL, name, "write", "ddl_destructive")
        if words[:1] == ["TRUNCATE"]:
            draft.act(Kind.DDL, name, "write", "truncate")
            draft.act(Kind.DML_WRITE, name, "write", "truncate", "ddl_destructive")
        if words[:1] == ["RENAME"] and words[1:2] not in (["COLUMN"], ["INDEX"], ["KEY"]):
            target = TokenCursor(action[1:])
            target.accept_any("TO", "AS", "=")
            draft.act(Kind.DDL, target.dotted(), "write")
        for index, word in enumerate(words[:-1]):
            if word == "TABLE" and action[index + 1].text != "=":
                draft.act(Kind.DDL, TokenCursor(action[index + 1 :]).dotted(), "write")


def drop(cursor: TokenCursor) -> Draft:
    start = cursor.at
    cursor.expect("DROP")
    draft = Draft()
    _heads(draft, cursor)
    kind = cursor.word()
    if kind in ("USER", "ROLE"):
        cursor.at = start
        return account(cursor)
    cursor.at += 1
    if kind == "PACKAGE":
        cursor.accept("BODY")
    if kind in ("RESOURCE", "SPATIAL", "LOGFILE"):
        cursor.at += 1
    cursor.accept("IF", "EXISTS")
    kinds = [Kind.DDL] + ([Kind.ADMIN] if kind in ("TABLESPACE", "LOGFILE", "RESOURCE") else [])
    flags = ["ddl_destructive"] + (["remote_access"] if kind == "SERVER" else [])
    if kind == "INDEX":
        cursor.name()
        cursor.expect("ON")
    if kind not in (
        "TABLE",
        "TABLES",
        "VIEW",
        "DATABASE",
        "SCHEMA",
        "INDEX",
        "SEQUENCE",
        "SERVER",
        "TABLESPACE",
        "LOGFILE",
        "RESOURCE",
        *_ROUTINES,
    ):
        raise Unreadable("a sort of object that is not read")
    while True:
        name = cursor.dotted()
        for each in kinds:
            draft.act(each, name, "write", *flags)
            if kind in ("DATABASE", "SCHEMA"):
                draft.act(each, name + ".*", "write", *flags)
        if not cursor.accept(","):
            break
    check_plain(cursor.rest())
    return draft


def rename(cursor: TokenCursor) -> Draft:
    if cursor.word(1) == "USER":
        return account(cursor)
    cursor.expect("RENAME")
    if not cursor.accept_any("TABLE", "TABLES"):
        raise Unreadable("a word is missing")
    cursor.accept("IF", "EXISTS")
    draft = Draft()
    for part in split_commas(cursor.rest()):
        each = TokenCursor(part)
        draft.act(Kind.DDL, each.dotted(), "write")
        if each.accept("WAIT"):
            each.skip_constant()
        each.accept("NOWAIT")
        each.expect("TO")
        draft.act(Kind.DDL, each.dotted(), "write")
        each.expect_done()
    return draft


def truncate(cursor: TokenCursor) -> Draft:
    cursor.expect("TRUNCATE")
    cursor.accept("TABLE")
    draft = Draft()
    name = cursor.dotted()
    for kind in (Kind.DDL, Kind.DML_WRITE):
        draft.act(kind, name, "write", "truncate", "ddl_destructive")
    if cursor.accept("WAIT"):
        cursor.skip_constant()
    cursor.accept("NOWAIT")
    cursor.expect_done()
    return draft


def import_table(cursor: TokenCursor) -> Draft:
    """IMPORT TABLE FROM 'file'."""
    cursor.expect("IMPORT", "TABLE", "FROM")
    draft = Draft()
    draft.act(Kind.DDL, "", "", "server_file_read")
    draft.act(Kind.FILE_ACCESS, "", "", "server_file_read")
    check_plain(cursor.rest())
    return draft
