"""Rules for CREATE, REFRESH and what they hold: queries, expressions, code."""

from __future__ import annotations

from collections.abc import Callable

from classifiers.admin_verbs_postgres import check_plain
from classifiers.bodies_postgres import note_condition, note_routine_body, note_rule_action
from classifiers.calls_postgres import changes_settings, note_stored_change
from classifiers.dcl_verbs_postgres import role
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.embedded_postgres import scan_expressions
from classifiers.object_names_postgres import ROUTINES, accept_kind
from classifiers.query_verbs_postgres import execute, inner_query
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word, split_commas
from classifiers.tokens import OP, QUOTED, STRING, WORD, Token, Unreadable, join_name
from classifiers.types_postgres import skip_type

_C_LANGUAGES = frozenset(
    ["c", "internal", "plpythonu", "plpython2u", "plpython3u", "plperlu", "pltclu", "plsh", "plr", "pljavau"]
)


def refresh(cursor: TokenCursor) -> Draft:
    cursor.expect("REFRESH", "MATERIALIZED", "VIEW")
    cursor.accept("CONCURRENTLY")
    draft = Draft()
    draft.act(Kind.DDL, cursor.dotted(), "write")
    _with_data(cursor)
    cursor.expect_done()
    return draft


def _with_data(cursor: TokenCursor) -> None:
    if cursor.accept("WITH"):
        cursor.accept("NO")
        cursor.expect("DATA")


def create(cursor: TokenCursor) -> Draft:
    cursor.expect("CREATE")
    cursor.accept("OR", "REPLACE")
    while cursor.accept_any(
        "GLOBAL", "LOCAL", "TEMP", "TEMPORARY", "UNLOGGED", "UNIQUE", "RECURSIVE", "TRUSTED", "DEFAULT"
    ):
        pass
    if cursor.word() == "CONSTRAINT" and cursor.word(1) == "TRIGGER":
        cursor.at += 1
    kind = accept_kind(cursor)
    if kind in ("ROLE", "USER", "GROUP"):
        return role(cursor, "CREATE")
    if cursor.word() == "CONCURRENTLY" and kind == "INDEX":
        cursor.at += 1
    cursor.accept("IF", "NOT", "EXISTS")
    rule = _RULES.get(kind, _other)
    tokens = cursor.tokens[cursor.at :]
    draft = rule(cursor, kind)
    if kind in ("RULE", "POLICY", "TRIGGER") and any(token.value in ("set_config", "pg_settings") for token in tokens):
        note_stored_change(draft)
    return draft


def _table(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    name = cursor.dotted()
    tokens = cursor.rest()
    body = find_word(tokens, "AS")
    flags = ["remote_access"] if kind == "FOREIGN TABLE" else []
    draft.act(Kind.DDL, name, "write", *flags)
    header = tokens if body < 0 else tokens[:body]
    _table_header(draft, TokenCursor(header), is_foreign=kind == "FOREIGN TABLE")
    if changes_settings(draft):
        note_stored_change(draft)
    if body >= 0:
        query, has_data = _cut_with_data(tokens[body + 1 :])
        draft.merge(_source_query(query))
        if has_data:
            draft.act(Kind.DDL, name, "write", "select_into")
    return draft


def _source_query(query: list[Token]) -> Draft:
    if query and query[0].text == "EXECUTE":
        return execute(TokenCursor(query))
    return inner_query(query)


def _cut_with_data(tokens: list[Token]) -> tuple[list[Token], bool]:
    words = [token.text for token in tokens[-3:]]
    if words[-3:] == ["WITH", "NO", "DATA"]:
        return tokens[:-3], False
    if words[-2:] == ["WITH", "DATA"]:
        return tokens[:-2], True
    return tokens, True


def _table_header(draft: Draft, cursor: TokenCursor, *, is_foreign: bool) -> None:
    if cursor.accept("OF"):
        _, cursor.at = skip_type(cursor.tokens, cursor.at)
    elif cursor.accept("PARTITION", "OF"):
        draft.act(Kind.DDL, cursor.dotted(), "write")
    if cursor.word() == "(":
        for element in split_commas(cursor.inside()):
            _table_element(draft, element)
    if cursor.accept("INHERITS"):
        for parent in split_commas(cursor.inside()):
            draft.act(Kind.DDL, TokenCursor(parent).dotted(), "write")
    tokens = cursor.rest()
    scan_expressions(draft, tokens)
    if is_foreign:
        note_file_options(draft, tokens)


_ELEMENT_WORDS = frozenset(["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "EXCLUDE", "LIKE"])


def _table_element(draft: Draft, element: list[Token]) -> None:
    at = 0
    if element and element[0].text == "LIKE":
        draft.act(Kind.DDL, TokenCursor(element[1:]).dotted(), "read")
    if element and element[0].text not in _ELEMENT_WORDS and element[0].kind in (WORD, QUOTED):
        at = 1
        if (
            len(element) > 1
            and element[1].kind in (WORD, QUOTED)
            and element[1].text not in ("WITH", "DEFAULT", "CONSTRAINT", "OPTIONS")
        ):
            try:
                _, at = skip_type(element, 1)
            except Unreadable:
                at = 1
    scan_expressions(draft, element[at:])


def note_file_options(draft: Draft, tokens: list[Token]) -> None:
    """OPTIONS (filename '…') and (program '…') of file_fdw and its like."""
    for index, token in enumerate(tokens[:-1]):
        if tokens[index + 1].kind == STRING and token.value in ("filename", "program"):
            draft.act(Kind.FILE_ACCESS, "", "", "server_file_read" if token.value == "filename" else "program_exec")


def _view(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    name = cursor.dotted()
    tokens = cursor.rest()
    body = find_word(tokens, "AS")
    if body < 0:
        raise Unreadable("a view without a query")
    check_plain(tokens[:body])
    query, has_data = tokens[body + 1 :], False
    if kind == "MATERIALIZED VIEW":
        query, has_data = _cut_with_data(query)
    else:
        query = _cut_check_option(query)
    draft.act(Kind.DDL, name, "write", *(["select_into"] if has_data else []))
    inner = _source_query(query)
    draft.merge(inner)
    # Writing through a view of pg_settings is SET.
    if changes_settings(inner) or any(name in ("pg_settings", "pg_catalog.pg_settings") for _, name, _ in inner.acts):
        note_stored_change(draft)
    return draft


def _cut_check_option(tokens: list[Token]) -> list[Token]:
    words = [token.text for token in tokens[-4:]]
    if words[-2:] == ["CHECK", "OPTION"]:
        if words[-3:-2] == ["WITH"]:
            return tokens[:-3]
        if words[:1] == ["WITH"] and words[1] in ("CASCADED", "LOCAL"):
            return tokens[:-4]
    return tokens


def _index(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    if cursor.word() != "ON":
        draft.act(Kind.DDL, cursor.dotted(), "write")
    cursor.expect("ON")
    cursor.accept("ONLY")
    draft.act(Kind.DDL, cursor.dotted(), "write")
    if cursor.accept("USING"):
        cursor.name()
    scan_expressions(draft, cursor.rest())
    return draft


def _routine(cursor: TokenCursor, kind: str) -> Draft:
    """Everything after the name is the definition: it runs later, under `code_body`."""
    draft = Draft()
    name = cursor.dotted()
    flags = {"code_body"}
    cursor.inside()
    tokens = cursor.rest()
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        if token.text == "SECURITY" and following is not None and following.text == "DEFINER":
            flags.add("privilege_change")
        if token.text == "LANGUAGE" and following is not None and (following.value or "").lower() in _C_LANGUAGES:
            flags.add("extension_load")
        if token.text == "SELECT" and find_word(tokens, "BEGIN", "ATOMIC") < 0 and find_word(tokens, "RETURN") < 0:
            raise Unreadable("a query where a definition should stand")
    draft.act(Kind.DDL, name, "write", *flags)
    note_routine_body(draft, tokens)
    return draft


def _trigger(cursor: TokenCursor, kind: str) -> Draft:
    """TRIGGER and EVENT TRIGGER."""
    draft = Draft()
    cursor.name()
    tokens = cursor.rest()
    on = find_word(tokens, "ON")
    run = find_word(tokens, "EXECUTE")
    if on < 0 or run < on or tokens[run + 1 : run + 2] == []:
        raise Unreadable("a trigger in a form that is not read")
    if kind == "TRIGGER":
        table = TokenCursor(tokens[on + 1 : run])
        draft.act(Kind.DDL, table.dotted(), "write", "code_body")
        if table.accept("FROM"):
            draft.act(Kind.DDL, table.dotted(), "read", "code_body")
        rest = table.rest()
        when = find_word(rest, "WHEN")
        if when >= 0:
            note_condition(draft, TokenCursor(rest[when + 1 :]).inside())
    else:
        draft.act(Kind.DDL, "", "", "code_body")
    call = TokenCursor(tokens[run + 1 :])
    if not call.accept_any("FUNCTION", "PROCEDURE"):
        raise Unreadable("a trigger in a form that is not read")
    draft.functions[call.dotted()] = None
    check_plain(call.inside())
    call.expect_done()
    return draft


def _rule(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    cursor.name()
    cursor.expect("AS", "ON")
    if not cursor.accept_any("SELECT", "INSERT", "UPDATE", "DELETE"):
        raise Unreadable("a rule in a form that is not read")
    cursor.expect("TO")
    draft.act(Kind.DDL, cursor.dotted(), "write", "code_body")
    action = cursor.rest()
    if find_word(action, "DO") < 0:
        raise Unreadable("a rule in a form that is not read")
    note_rule_action(draft, action)
    return draft


def _policy(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    cursor.name()
    cursor.expect("ON")
    policy_acts(draft, cursor.dotted())
    scan_definition(draft, cursor.rest())
    return draft


def policy_acts(draft: Draft, table: str) -> None:
    draft.act(Kind.DDL, table, "write", "row_security_change")
    draft.act(Kind.DCL, table, "write", "row_security_change")


def scan_definition(draft: Draft, tokens: list[Token]) -> None:
    """Expressions that are stored, not run now: what they call is named but does not make the statement dynamic."""
    inner = Draft()
    for token in tokens:
        if token.kind == OP:
            break
    try:
        scan_expressions(inner, tokens)
    except Unreadable:
        # A policy may hold subqueries; they are stored as code.
        draft.act(Kind.DDL, "", "", "code_body")
        for index, token in enumerate(tokens[:-1]):
            if token.text in ("USING", "CHECK") and tokens[index + 1].text == "(":
                note_condition(draft, TokenCursor(tokens[index + 1 :]).inside())
    draft.functions.update(inner.functions)


def _code(cursor: TokenCursor, kind: str) -> Draft:
    """Objects through which code is reached later: casts, operators, languages, access methods, conversions."""
    draft = Draft()
    tokens = cursor.rest()
    if any(token.text == "SELECT" for token in tokens):
        raise Unreadable("a query where a definition should stand")
    draft.act(Kind.DDL, "", "", "code_body", *(["extension_load"] if "LANGUAGE" in kind else []))
    return draft


def _extension(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    draft.act(Kind.DDL, join_name([cursor.name()]), "write", "extension_load")
    check_plain(cursor.rest())
    draft.is_neutral = False
    return draft


def _schema(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    if cursor.word() != "AUTHORIZATION":
        draft.act(Kind.DDL, join_name([cursor.name()]), "write")
    if cursor.accept("AUTHORIZATION"):
        draft.act(Kind.DDL, join_name([cursor.name()]), "write", "owner_change")
    cursor.expect_done()
    return draft


def _remote(cursor: TokenCursor, kind: str) -> Draft:
    """SERVER, FOREIGN DATA WRAPPER and USER MAPPING."""
    draft = Draft()
    if kind == "USER MAPPING":
        draft.act(Kind.DCL, "", "", "remote_access", "privilege_change")
    else:
        draft.act(Kind.DDL, cursor.dotted(), "write", "remote_access", *(["code_body"] if "WRAPPER" in kind else []))
    check_plain(cursor.rest())
    return draft


def _publication(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    flags = ["replication"] + (["remote_access"] if kind == "SUBSCRIPTION" else [])
    draft.act(Kind.DDL, cursor.dotted(), "write", *flags)
    draft.act(Kind.ADMIN, "", "", *flags)
    tokens = cursor.rest()
    if kind == "PUBLICATION":
        published_tables(draft, tokens)
    else:
        check_plain(tokens)
    return draft


def published_tables(draft: Draft, tokens: list[Token]) -> None:
    """FOR TABLE a, b (c) WHERE (…): their rows leave the server from now on."""
    for part in split_commas(tokens):
        cursor = TokenCursor(part)
        while cursor.accept_any("FOR", "ADD", "SET", "DROP", "TABLE", "ONLY"):
            pass
        if cursor.is_name and cursor.word() not in ("ALL", "TABLES", "WITH", "OWNER", "RENAME", "CURRENT_SCHEMA"):
            draft.act(Kind.DDL, cursor.dotted(), "read", "replication")
        scan_expressions(draft, cursor.rest())


def _statistics(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    tokens = cursor.rest()
    split = find_word(tokens, "FROM")
    if split < 0:
        raise Unreadable("statistics without a table")
    source = TokenCursor(tokens[split + 1 :])
    draft.act(Kind.DDL, source.dotted(), "write")
    source.expect_done()
    scan_expressions(draft, [t for t in tokens[:split] if t.text != "ON"])
    return draft


def _type(cursor: TokenCursor, kind: str) -> Draft:
    draft = Draft()
    name = cursor.dotted()
    tokens = cursor.rest()
    is_base = bool(tokens) and tokens[0].text == "("
    draft.act(Kind.DDL, name, "write", *(["code_body"] if is_base else []))
    if kind == "DOMAIN":
        _domain(draft, TokenCursor(tokens))
    elif any(token.text == "SELECT" for token in tokens):
        raise Unreadable("a query where a definition should stand")
    return draft


def _domain(draft: Draft, cursor: TokenCursor) -> None:
    """The default and the checks run when a value is made, in statements that do not show it."""
    cursor.accept("AS")
    _, cursor.at = skip_type(cursor.tokens, cursor.at)
    scan_expressions(draft, cursor.rest())
    if changes_settings(draft):
        note_stored_change(draft)


def _other(cursor: TokenCursor, kind: str) -> Draft:
    """Sorts that are a name and plain options: SEQUENCE, DATABASE, TABLESPACE, COLLATION, TEXT SEARCH …"""
    draft = Draft()
    draft.act(Kind.DDL, cursor.dotted(), "write", *(["code_body"] if kind.startswith("TEXT SEARCH") else []))
    if kind in ("DATABASE", "TABLESPACE"):
        draft.act(Kind.ADMIN)
    check_plain(cursor.rest())
    return draft


_RULES: dict[str, Callable[[TokenCursor, str], Draft]] = {
    "TABLE": _table,
    "FOREIGN TABLE": _table,
    "VIEW": _view,
    "MATERIALIZED VIEW": _view,
    "INDEX": _index,
    "TRIGGER": _trigger,
    "EVENT TRIGGER": _trigger,
    "RULE": _rule,
    "POLICY": _policy,
    "EXTENSION": _extension,
    "SCHEMA": _schema,
    "SERVER": _remote,
    "FOREIGN DATA WRAPPER": _remote,
    "USER MAPPING": _remote,
    "PUBLICATION": _publication,
    "SUBSCRIPTION": _publication,
    "STATISTICS": _statistics,
    "TYPE": _type,
    "DOMAIN": _type,
    **dict.fromkeys(sorted(ROUTINES), _routine),
    **dict.fromkeys(
        (
            "CAST",
            "OPERATOR",
            "OPERATOR CLASS",
            "OPERATOR FAMILY",
            "LANGUAGE",
            "PROCEDURAL LANGUAGE",
            "ACCESS METHOD",
            "CONVERSION",
            "TRANSFORM",
        ),
        _code,
    ),
}
