"""Stored code that is written in SQL: bodies of functions, actions of rules, conditions of triggers and policies.

What stands inside runs later and under other names, so its tables are acts of kind `ddl` with flag code_body: named, and not taken for what
the statement itself reads. Code in other languages, and what cannot be read, stays just code_body.
"""

from __future__ import annotations

from classifiers.draft import Draft
from classifiers.effects import Kind, LexingState
from classifiers.embedded_postgres import classify_expression
from classifiers.lexer_postgres import lex
from classifiers.limits import check_statements, check_tokens
from classifiers.second_opinion_postgres import find_table_positions
from classifiers.statements import split_statements
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word
from classifiers.tokens import STRING, Token, Unreadable, join_name

_CARRIED = frozenset(
    ["code_body", "catalog_secret", "sample_leak", "large_object", "no_where", "trivial_where", "truncate", "whole_row"]
)
"""Flags of what is inside that say something about the code."""


def note_routine_body(draft: Draft, tokens: list[Token]) -> None:
    """The definition of a function or procedure, everything behind its arguments."""
    at = find_word(tokens, "BEGIN", "ATOMIC")
    if at >= 0:
        end = max(index for index, token in enumerate(tokens) if token.text == "END")
        _note_statements(draft, _split(tokens[at + 2 : end]))
        return
    at = find_word(tokens, "RETURN")
    if at >= 0:
        _note_statements(draft, [tokens[at:]])
        return
    body = _sql_body(tokens)
    if body is None:
        return
    try:
        # Read when it is called, under whatever setting holds then: both readings must agree.
        inner = lex(body.encode("utf-8", "surrogateescape"), LexingState(None))
        check_tokens(inner)
        statements = split_statements(inner)
        check_statements(statements)
    except Unreadable:
        return
    _note_statements(draft, statements)


def note_rule_action(draft: Draft, tokens: list[Token]) -> None:
    """What stands behind the table of a rule: [WHERE …] DO [ALSO | INSTEAD] NOTHING, a command, or commands in parentheses."""
    at = find_word(tokens, "DO")
    if tokens[:1] and tokens[0].text == "WHERE":
        _note_statements(draft, [[tokens[0], *tokens[1:at]]])
    cursor = TokenCursor(tokens[at + 1 :])
    cursor.accept_any("ALSO", "INSTEAD")
    if cursor.accept("NOTHING"):
        cursor.expect_done()
        return
    action = cursor.rest()
    if action and action[0].text == "(" and TokenCursor(action).inside() == action[1:-1]:
        action = action[1:-1]
    _note_statements(draft, _split(action))


def note_condition(draft: Draft, tokens: list[Token]) -> None:
    """A stored expression, which may hold subqueries."""
    _note_statements(draft, [tokens], is_expression=True)


def _sql_body(tokens: list[Token]) -> str | None:
    language = find_word(tokens, "LANGUAGE")
    body = find_word(tokens, "AS")
    if language < 0 or body < 0 or max(language, body) + 1 >= len(tokens) or tokens[body + 1].kind != STRING:
        return None
    return tokens[body + 1].value if (tokens[language + 1].value or "").lower() == "sql" else None


def _split(tokens: list[Token]) -> list[list[Token]]:
    statements: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[")) - (token.text in (")", "]"))
        if token.text == ";" and depth == 0:
            statements.append([])
        else:
            statements[-1].append(token)
    return [statement for statement in statements if statement]


def _note_statements(draft: Draft, statements: list[list[Token]], *, is_expression: bool = False) -> None:
    for statement in statements:
        try:
            inner = _classify(statement, is_expression=is_expression)
        except Unreadable:
            draft.act(Kind.DDL, "", "", "code_body")
            _note_names(draft, statement)
            continue
        draft.functions.update(inner.functions)
        for (_, name, mode), (columns, flags) in inner.acts.items():
            if name:
                draft.act(Kind.DDL, name, mode, "code_body", *(flags & _CARRIED))
                for column in columns:
                    draft.add_column(Kind.DDL, name, mode, column)


def _note_names(draft: Draft, tokens: list[Token]) -> None:
    """What stands in a table's place in code that cannot be read: it may be read or written."""
    for last in find_table_positions(tokens):
        first = last
        while first > 1 and tokens[first - 1].text == ".":
            first -= 2
        name = join_name(tuple(token.value or "" for token in tokens[first : last + 1 : 2]))
        draft.act(Kind.DDL, name, "read", "code_body")
        draft.act(Kind.DDL, name, "write", "code_body")


def _classify(tokens: list[Token], *, is_expression: bool) -> Draft:
    # Imported here: the rules for statements hold those for CREATE, which come here.
    from classifiers.verbs_postgres import classify_statement

    if is_expression:
        return classify_expression(tokens)
    if tokens[0].text in ("RETURN", "WHERE"):
        return classify_expression(tokens[1:])
    return classify_statement(tokens)
