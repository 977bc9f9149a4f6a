"""Rules for statements that wrap a query: EXPLAIN, PREPARE, EXECUTE, DECLARE, FETCH, COPY, DO, CALL and their company."""

from __future__ import annotations

from classifiers.calls_postgres import note_function
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.embedded_postgres import classify_expression
from classifiers.relations_postgres import find_read_flags, find_write_acts
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word, split_commas
from classifiers.tokens import NUMBER, OP, QUOTED, STRING, WORD, Token, Unreadable, join_name
from classifiers.tree_postgres import classify_query
from classifiers.types_postgres import skip_type

_QUERIES = frozenset(["SELECT", "VALUES", "TABLE", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "("])
_FALSE = frozenset(["off", "false", "0", "no"])


def inner_query(tokens: list[Token]) -> Draft:
    """The query inside a wrapper."""
    if not tokens or tokens[0].text not in _QUERIES:
        raise Unreadable("a query is missing")
    return classify_query(tokens)


def explain(cursor: TokenCursor) -> Draft:
    cursor.expect("EXPLAIN")
    runs = False
    if cursor.word() == "(" and cursor.word(1) not in _QUERIES:
        for option in split_commas(cursor.inside()):
            name, values = (option[0].value or "").lower() if option else "", option[1:]
            if len(values) > 1 or not name:
                raise Unreadable("an option that is not read")
            value = (values[0].value or values[0].text).lower() if values else "true"
            if name in ("analyze", "analyse") and value not in _FALSE:
                runs = True
    else:
        runs = bool(cursor.accept_any("ANALYZE", "ANALYSE"))
        cursor.accept("VERBOSE")
    first = cursor.word()
    tokens = cursor.rest()
    if first in _QUERIES:
        inner = classify_query(tokens)
    elif first == "EXECUTE":
        inner = execute(TokenCursor(tokens))
    elif first == "DECLARE":
        inner = declare(TokenCursor(tokens))
        inner.cursors = []
    elif first in ("CREATE", "REFRESH"):
        from classifiers.ddl_postgres import create, refresh

        inner = create(TokenCursor(tokens)) if first == "CREATE" else refresh(TokenCursor(tokens))
        if first == "CREATE" and not any(key[0] is Kind.DML_READ for key in inner.acts):
            raise Unreadable("EXPLAIN of something that is not a query")
    else:
        raise Unreadable("EXPLAIN of something that is not a query")
    return _explained(inner, runs=runs)


def _explained(inner: Draft, *, runs: bool) -> Draft:
    draft = Draft()
    if runs:
        draft.act(Kind.METADATA, "", "", "explain", "explain_analyze")
        draft.merge(inner)
        return draft
    # Planning runs immutable and stable functions; it writes nothing, so what is written is only looked at.
    draft.act(Kind.METADATA, "", "", "explain")
    for (kind, name, _), (columns, flags) in inner.acts.items():
        if kind is Kind.DYNAMIC:
            draft.act(kind, "", "", *flags)
        elif name:
            draft.act(
                Kind.METADATA, name, "read", "explain", *(flags & {"catalog_secret", "sample_leak", "large_object"})
            )
            for column in columns:
                draft.add_column(Kind.METADATA, name, "read", column)
    draft.functions.update(inner.functions)
    draft.uses += inner.uses
    draft.reason = inner.reason
    draft.is_neutral = inner.is_neutral
    return draft


def prepare(cursor: TokenCursor) -> Draft:
    cursor.expect("PREPARE")
    name = cursor.name()
    if cursor.word() == "(":
        for argument in split_commas(cursor.inside()):
            _, after = skip_type(argument, 0)
            if after != len(argument):
                raise Unreadable("a type that is not read")
    cursor.expect("AS")
    inner = inner_query(cursor.rest())
    draft = Draft()
    draft.act(Kind.DYNAMIC, "", "", "prepare")
    draft.prepares.append((name, inner.freeze("PREPARE", 1, ())))
    draft.merge(inner)
    for kind, each, mode in list(draft.acts):
        draft.act(kind, each, mode, "prepare")
    return draft


def execute(cursor: TokenCursor) -> Draft:
    cursor.expect("EXECUTE")
    draft = Draft()
    draft.act(Kind.DYNAMIC, "", "", "prepare")
    draft.uses.append("prepared:" + cursor.name())
    draft.is_neutral = False
    draft.reason = "a prepared statement runs by its name"
    if cursor.word() == "(":
        draft.merge(classify_expression(cursor.inside()))
    cursor.expect_done()
    return draft


def deallocate(cursor: TokenCursor) -> Draft:
    cursor.expect("DEALLOCATE")
    if cursor.word() == "PREPARE" and cursor.kind(1):
        cursor.at += 1
    draft = Draft()
    draft.act(Kind.SESSION)
    draft.deallocates.append("*" if cursor.accept("ALL") else "prepared:" + cursor.name())
    cursor.expect_done()
    return draft


def declare(cursor: TokenCursor) -> Draft:
    cursor.expect("DECLARE")
    name = cursor.name()
    while cursor.accept_any("BINARY", "ASENSITIVE", "INSENSITIVE", "NO", "SCROLL"):
        pass
    cursor.expect("CURSOR")
    if cursor.accept_any("WITH", "WITHOUT"):
        cursor.expect("HOLD")
    cursor.expect("FOR")
    inner = inner_query(cursor.rest())
    draft = Draft()
    draft.cursors.append((name, inner.freeze("DECLARE", 1, ())))
    draft.merge(inner)
    for kind, each, mode in list(draft.acts):
        draft.act(kind, each, mode, "cursor")
    return draft


def fetch(cursor: TokenCursor) -> Draft:
    """FETCH and MOVE."""
    verb = cursor.word()
    cursor.at += 1
    if _has_direction(cursor):
        if cursor.accept_any("FORWARD", "BACKWARD"):
            if not cursor.accept("ALL"):
                _count(cursor)
        elif cursor.accept_any("ABSOLUTE", "RELATIVE") or not cursor.accept_any(
            "NEXT", "PRIOR", "FIRST", "LAST", "ALL"
        ):
            _count(cursor)
    cursor.accept_any("FROM", "IN")
    draft = Draft()
    draft.act(Kind.DML_READ if verb == "FETCH" else Kind.SESSION, "", "", "cursor")
    draft.uses.append("cursor:" + cursor.name())
    draft.is_neutral = False
    cursor.expect_done()
    return draft


def _has_direction(cursor: TokenCursor) -> bool:
    return cursor.end - cursor.at > 1 and cursor.word() not in ("FROM", "IN")


def _count(cursor: TokenCursor) -> None:
    if cursor.kind() == OP and cursor.word() in ("+", "-"):
        cursor.at += 1
    if cursor.kind() == NUMBER:
        cursor.at += 1


def close(cursor: TokenCursor) -> Draft:
    cursor.expect("CLOSE")
    draft = Draft()
    draft.act(Kind.SESSION, "", "", "cursor")
    draft.deallocates.append("cursor:*" if cursor.accept("ALL") else "cursor:" + cursor.name())
    cursor.expect_done()
    return draft


def copy(cursor: TokenCursor) -> Draft:
    cursor.expect("COPY")
    if cursor.word() == "(":
        return _copy_query(cursor)
    if cursor.word() == "BINARY" and cursor.kind(1) in (WORD, QUOTED):
        cursor.at += 1
    name = cursor.parts()
    full = join_name(name)
    columns = ["*"]
    if cursor.word() == "(":
        columns = []
        for column_tokens in split_commas(cursor.inside()):
            if len(column_tokens) != 1 or column_tokens[0].kind not in (WORD, QUOTED):
                raise Unreadable("a column list that is not read")
            columns.append(column_tokens[0].value or "")
    direction = cursor.accept_any("FROM", "TO")
    draft = Draft()
    if direction == "TO":
        _export(draft, cursor)
        draft.act(Kind.DML_READ, full, "read", *find_read_flags(name))
        kind, mode = Kind.DML_READ, "read"
        for flags in [flags for (each, _, _), (_, flags) in draft.acts.items() if each is Kind.BULK_EXPORT]:
            draft.act(Kind.BULK_EXPORT, full, "read", *flags)
        draft.acts.pop((Kind.BULK_EXPORT, "", ""), None)
    elif direction == "FROM":
        draft.act(Kind.DML_WRITE, full, "write", "bulk_load", *find_read_flags(name))
        for each, more in find_write_acts(name):
            draft.act(each, full, "write", *more)
            draft.is_neutral = False
        _load(draft, cursor)
        kind, mode = Kind.DML_WRITE, "write"
    else:
        raise Unreadable("COPY without a direction")
    for column in columns:
        draft.add_column(kind, full, mode, column)
    _copy_options(draft, cursor, takes_where=direction == "FROM")
    return draft


def _copy_query(cursor: TokenCursor) -> Draft:
    inner = inner_query(cursor.inside())
    cursor.expect("TO")
    draft = Draft()
    _export(draft, cursor)
    draft.merge(inner)
    _copy_options(draft, cursor, takes_where=False)
    return draft


def _export(draft: Draft, cursor: TokenCursor) -> None:
    if cursor.accept_any("STDOUT", "STDIN"):
        draft.act(Kind.BULK_EXPORT, "", "", "client_export")
    elif cursor.accept("PROGRAM"):
        cursor.string()
        draft.act(Kind.BULK_EXPORT)
        draft.act(Kind.FILE_ACCESS, "", "", "program_exec")
    else:
        cursor.string()
        draft.act(Kind.BULK_EXPORT)
        draft.act(Kind.FILE_ACCESS, "", "", "server_file_write")


def _load(draft: Draft, cursor: TokenCursor) -> None:
    if cursor.accept_any("STDIN", "STDOUT"):
        return
    is_program = cursor.accept("PROGRAM")
    cursor.string()
    draft.act(Kind.FILE_ACCESS, "", "", "program_exec" if is_program else "server_file_read")


_COPY_WORDS = frozenset(
    ["USING", "DELIMITERS", "WITH", "BINARY", "FREEZE", "DELIMITER", "AS", "NULL", "CSV", "HEADER", "QUOTE", "ESCAPE", "FORCE", "NOT",
     "ENCODING", "OIDS"]
)  # fmt: skip


def _copy_options(draft: Draft, cursor: TokenCursor, *, takes_where: bool) -> None:
    tokens = cursor.rest()
    where = find_word(tokens, "WHERE")
    if where >= 0:
        if not takes_where:
            raise Unreadable("COPY TO with WHERE")
        draft.merge(classify_expression(tokens[where + 1 :]))
        tokens = tokens[:where]
    depth = 0
    for index, token in enumerate(tokens):
        if token.text in ("(", ")"):
            depth += 1 if token.text == "(" else -1
        elif token.kind == STRING or token.text in (",", "*"):
            continue
        elif (depth == 0 and token.text not in _COPY_WORDS and not _in_force_list(tokens, index)) or (
            depth and token.kind not in (WORD, QUOTED, NUMBER)
        ):
            raise Unreadable("a COPY option that is not read")


def _in_force_list(tokens: list[Token], index: int) -> bool:
    return tokens[index].kind in (WORD, QUOTED) and any(token.text == "FORCE" for token in tokens[:index])


def do(cursor: TokenCursor) -> Draft:
    cursor.expect("DO")
    draft = Draft()
    draft.act(Kind.DYNAMIC, "", "", "dynamic_sql", "code_body")
    draft.is_neutral = False
    draft.reason = "a code block runs whose effect cannot be seen"
    bodies = 0
    while not cursor.is_done:
        if cursor.accept("LANGUAGE"):
            if cursor.kind() == STRING:
                cursor.string()
            else:
                cursor.name()
        else:
            cursor.string()
            bodies += 1
    if bodies != 1:
        raise Unreadable("DO without a body")
    return draft


def call(cursor: TokenCursor) -> Draft:
    cursor.expect("CALL")
    parts = cursor.parts()
    draft = Draft()
    draft.merge(classify_expression(cursor.inside()))
    note_function(draft, parts, Kind.DYNAMIC)
    draft.act(Kind.DYNAMIC)
    draft.is_neutral = False
    draft.reason = draft.reason or "a procedure runs whose effect cannot be seen"
    cursor.expect_done()
    return draft
