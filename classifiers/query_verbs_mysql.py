"""Rules of MySQL and MariaDB for queries and what wraps or runs them: SELECT … INTO, EXPLAIN, DO, PREPARE, EXECUTE, CALL, LOAD DATA, SET STATEMENT."""

from __future__ import annotations

from collections.abc import Callable

from classifiers.draft import Draft
from classifiers.effects import Kind, LexingState
from classifiers.lexer_mysql import lex
from classifiers.limits import check_statements, check_tokens
from classifiers.relations_mysql import find_read_flags, find_write_acts
from classifiers.session_verbs_mysql import assign
from classifiers.statements_mysql import split_statements
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word, split_commas
from classifiers.tokens import QUOTED, STRING, VARIABLE, WORD, Token, Unreadable, join_name
from classifiers.tree_mysql import classify_query
from classifiers.writes_mysql import classify_expression, classify_write

Classify = Callable[[list[Token]], Draft]
"""Classifies a statement inside another."""

WRITES = frozenset(["INSERT", "REPLACE", "UPDATE", "DELETE"])
QUERIES = frozenset(["SELECT", "VALUES", "TABLE", "WITH", "("])
_EXPORT_WORDS = frozenset(
    [
        "CHARACTER",
        "SET",
        "FIELDS",
        "COLUMNS",
        "TERMINATED",
        "BY",
        "OPTIONALLY",
        "ENCLOSED",
        "ESCAPED",
        "LINES",
        "STARTING",
    ]
)


def query(tokens: list[Token]) -> Draft:
    """SELECT, VALUES, TABLE, a WITH before any of these or a write, INSERT, REPLACE, UPDATE, DELETE."""
    first = tokens[0].text
    if first in WRITES:
        return classify_write(tokens, [])
    if first == "WITH":
        at = _main_verb(tokens)
        if tokens[at].text in WRITES:
            return classify_write(tokens[at:], tokens[:at])
    draft = Draft()
    tokens = _cut_into(draft, tokens)
    inner = classify_query(tokens)
    if any(kind is Kind.DDL for kind, _, _ in inner.acts):
        raise Unreadable("INTO in a form that is not read")
    draft.merge(inner)
    exports = [flags for (kind, _, _), (_, flags) in draft.acts.items() if kind is Kind.BULK_EXPORT]
    if exports:
        for kind, name, mode in list(draft.acts):
            if kind is Kind.DML_READ and name:
                draft.act(Kind.BULK_EXPORT, name, mode)
    return draft


def _main_verb(tokens: list[Token]) -> int:
    depth = 0
    for index, token in enumerate(tokens):
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0 and token.kind == WORD and token.text in (*WRITES, "SELECT", "TABLE", "VALUES"):
            return index
        if depth == 1 and token.text == "(" and index and tokens[index - 1].text == ")":
            return index
    raise Unreadable("a WITH without a statement")


def _cut_into(draft: Draft, tokens: list[Token]) -> list[Token]:
    """Take out INTO @x, …, INTO OUTFILE and INTO DUMPFILE."""
    for index, token in enumerate(tokens[:-1]):
        if token.text != "INTO" or token.kind != WORD:
            continue
        cursor = TokenCursor(tokens)
        cursor.at = index + 1
        if cursor.accept_any("OUTFILE", "DUMPFILE"):
            cursor.string()
            draft.act(Kind.BULK_EXPORT)
            draft.act(Kind.FILE_ACCESS, "", "", "server_file_write")
            while cursor.word() in _EXPORT_WORDS or cursor.kind() == STRING:
                if cursor.word() == "SET" or cursor.word(-1) == "SET":
                    cursor.at += 1
                    continue
                cursor.at += 1
            return tokens[:index] + cursor.rest()
        if cursor.kind() == VARIABLE:
            cursor.at += 1
            while cursor.accept(","):
                if cursor.kind() != VARIABLE:
                    raise Unreadable("INTO in a form that is not read")
                cursor.at += 1
            return tokens[:index] + cursor.rest()
    return tokens


def explain(cursor: TokenCursor, classify: Classify) -> Draft:
    """EXPLAIN, DESCRIBE, DESC, and MariaDB's ANALYZE of a statement."""
    verb = cursor.word()
    cursor.at += 1
    runs = verb == "ANALYZE" or cursor.accept("ANALYZE")
    while cursor.accept_any("EXTENDED", "PARTITIONS") or (cursor.word() == "FORMAT" and cursor.word(1) == "="):
        if cursor.accept("FORMAT", "="):
            cursor.at += 1
    if cursor.accept("INTO"):
        cursor.at += 1
    if cursor.accept("FOR", "CONNECTION"):
        draft = Draft()
        draft.act(Kind.METADATA, "", "", "explain", "sample_leak")
        cursor.skip_constant()
        cursor.expect_done()
        return draft
    if cursor.accept("FOR", "SCHEMA") or cursor.accept("FOR", "DATABASE"):
        cursor.name()
    draft = Draft()
    if cursor.word() in QUERIES or cursor.word() in WRITES:
        inner = classify(cursor.rest())
        if runs:
            draft.act(Kind.METADATA, "", "", "explain", "explain_analyze")
            draft.merge(inner)
            return draft
        draft.act(Kind.METADATA, "", "", "explain")
        for (kind, name, _), (columns, flags) in inner.acts.items():
            if kind is Kind.DYNAMIC:
                draft.act(kind, "", "", *flags)
            elif name:
                draft.act(Kind.METADATA, name, "read", "explain", *(flags & {"catalog_secret", "sample_leak"}))
                for column in columns:
                    draft.add_column(Kind.METADATA, name, "read", column)
        draft.functions.update(inner.functions)
        draft.reason = inner.reason
        draft.is_neutral = inner.is_neutral
        return draft
    if runs:
        raise Unreadable("EXPLAIN of something that is not a query")
    draft.act(Kind.METADATA, cursor.dotted())
    if cursor.kind() in (WORD, QUOTED, STRING):
        cursor.at += 1
    cursor.expect_done()
    return draft


def do(cursor: TokenCursor) -> Draft:
    cursor.expect("DO")
    draft = classify_expression(cursor.rest())
    draft.act(Kind.DML_READ)
    return draft


def call(cursor: TokenCursor) -> Draft:
    cursor.expect("CALL")
    parts = cursor.parts()
    draft = Draft()
    if cursor.word() == "(":
        draft.merge(classify_expression(cursor.inside()))
    draft.functions[join_name(parts)] = None
    draft.act(Kind.DYNAMIC, "", "", "unknown_function")
    draft.is_neutral = False
    draft.reason = "a procedure runs whose effect cannot be seen"
    cursor.expect_done()
    return draft


def prepare(cursor: TokenCursor, classify: Classify) -> Draft:
    """PREPARE s FROM 'text' | @x."""
    cursor.expect("PREPARE")
    name = cursor.name().lower()
    cursor.expect("FROM")
    draft = Draft()
    draft.act(Kind.DYNAMIC, "", "", "prepare")
    inner = _text(cursor, classify)
    if inner is None:
        draft.act(Kind.DYNAMIC, "", "", "dynamic_sql")
        draft.reason = "the text of a prepared statement is computed"
        draft.deallocates.append("prepared:" + name)
    else:
        for kind, each, mode in list(inner.acts):
            inner.act(kind, each, mode, "dynamic_sql")
        draft.prepares.append((name, inner.freeze("PREPARE", 1, ())))
        draft.merge(inner)
        for kind, each, mode in list(draft.acts):
            draft.act(kind, each, mode, "prepare")
    draft.is_neutral = False
    return draft


def _text(cursor: TokenCursor, classify: Classify) -> Draft | None:
    """The statement in a literal text; None where the text is computed."""
    tokens = cursor.rest()
    if len(tokens) != 1 or tokens[0].kind != STRING or tokens[0].value is None:
        return None
    # Later lexing modes are those of the session when this runs: every reading must agree.
    state = LexingState(None, "UTF8MB4", None, None)
    inner = lex(tokens[0].value.encode("utf-8", "surrogateescape"), state).tokens
    check_tokens(inner)
    statements = split_statements(inner)
    check_statements(statements)
    if len(statements) != 1:
        raise Unreadable("a text that is not one statement")
    return classify(statements[0])


def execute(cursor: TokenCursor, classify: Classify) -> Draft:
    """EXECUTE s [USING …] and MariaDB's EXECUTE IMMEDIATE."""
    cursor.expect("EXECUTE")
    draft = Draft()
    if cursor.accept("IMMEDIATE"):
        tokens = cursor.rest()
        using = find_word(tokens, "USING")
        text = TokenCursor(tokens if using < 0 else tokens[:using])
        draft.act(Kind.DYNAMIC, "", "", "dynamic_sql")
        inner = _text(text, classify)
        if inner is None:
            draft.reason = "the text that runs is computed"
            draft.merge(classify_expression(text.tokens))
        else:
            draft.merge(inner)
        if using >= 0:
            draft.merge(classify_expression(tokens[using + 1 :]))
        draft.is_neutral = False
        return draft
    draft.act(Kind.DYNAMIC, "", "", "prepare", "dynamic_sql")
    draft.uses.append("prepared:" + cursor.name().lower())
    draft.is_neutral = False
    draft.reason = "a prepared statement runs by its name"
    if cursor.accept("USING"):
        draft.merge(classify_expression(cursor.rest()))
    cursor.expect_done()
    return draft


def deallocate(cursor: TokenCursor) -> Draft:
    """DEALLOCATE PREPARE s, DROP PREPARE s."""
    cursor.at += 1
    cursor.expect("PREPARE")
    draft = Draft()
    draft.act(Kind.SESSION)
    draft.deallocates.append("prepared:" + cursor.name().lower())
    cursor.expect_done()
    return draft


def set_statement(cursor: TokenCursor, classify: Classify) -> Draft:
    """MariaDB: SET STATEMENT a = b, … FOR statement."""
    cursor.expect("SET", "STATEMENT")
    tokens = cursor.rest()
    split = find_word(tokens, "FOR")
    if split < 1:
        raise Unreadable("SET STATEMENT without a statement")
    draft = Draft()
    for part in split_commas(tokens[:split]):
        assign(draft, part, "SESSION")
    # The whole text has been read before any of it is set; texts inside are read in every mode that may hold.
    draft.merge(classify(tokens[split + 1 :]))
    return draft


def load(cursor: TokenCursor) -> Draft:
    """LOAD DATA and LOAD XML; LOAD INDEX INTO CACHE."""
    cursor.expect("LOAD")
    draft = Draft()
    if cursor.accept("INDEX"):
        cursor.expect("INTO", "CACHE")
        draft.act(Kind.ADMIN, cursor.dotted())
        if any(token.text == "SELECT" for token in cursor.rest()):
            raise Unreadable("a query in a place where none is read")
        return draft
    if not cursor.accept_any("DATA", "XML"):
        raise Unreadable("a LOAD in a form that is not read")
    cursor.accept_any("LOW_PRIORITY", "CONCURRENT")
    cursor.accept("FROM")
    is_local = bool(cursor.accept("LOCAL"))
    if not cursor.accept_any("INFILE", "URL", "S3"):
        raise Unreadable("a LOAD in a form that is not read")
    cursor.string()
    if cursor.accept("COUNT"):
        cursor.skip_constant()
    if cursor.accept("IN"):
        cursor.expect("PRIMARY", "KEY", "ORDER")
    cursor.accept_any("REPLACE", "IGNORE")
    cursor.expect("INTO", "TABLE")
    name = cursor.parts()
    full = join_name(name)
    draft.act(Kind.DML_WRITE, full, "write", "bulk_load", *find_read_flags(name))
    for kind, more in find_write_acts(name):
        draft.act(kind, full, "write", *more)
    draft.act(Kind.FILE_ACCESS, "", "", "client_file_read" if is_local else "server_file_read")
    tokens = cursor.rest()
    at = find_word(tokens, "SET")
    while at > 0 and tokens[at - 1].text == "CHARACTER":
        more_at = find_word(tokens[at + 1 :], "SET")
        at = at + 1 + more_at if more_at >= 0 else -1
    head, assignments = (tokens, []) if at < 0 else (tokens[:at], tokens[at + 1 :])
    if any(token.text == "SELECT" for token in head):
        raise Unreadable("a query in a place where none is read")
    for assignment in split_commas(assignments) if assignments else ():
        target = TokenCursor(assignment)
        column = target.parts()[-1]
        target.expect("=")
        draft.add_column(Kind.DML_WRITE, full, "write", column)
        draft.merge(classify_expression(target.rest()))
    return draft
