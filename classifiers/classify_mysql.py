"""A MySQL or MariaDB message to a report: lex, limits, split, one rule per verb, secrets. See classify.py for the entry."""

from __future__ import annotations

import re

from classifiers.draft import Draft
from classifiers.effects import Effect, Kind, LexingState, Report
from classifiers.lexer_mysql import Lexed, lex
from classifiers.limits import check_statements, check_text, check_tokens
from classifiers.redact import find_secret_spans, find_spans_of_tokens
from classifiers.settings_mysql import find_setting_flags
from classifiers.statements_mysql import split_statements
from classifiers.tokens import WORD, Token, Unreadable
from classifiers.verbs_mysql import COMMANDS, classify_statement

_SET_VAR = re.compile(r"set_var\s*\(\s*`?([0-9a-z_$.]+)", re.IGNORECASE)


def classify(text: bytes, state: LexingState, server_version: int = 0) -> Report:
    """Never raises, whatever the text; running out of memory or time is for the process around it.

    server_version: see lexer_mysql.FIRST_MARIADB.
    """
    lexed: Lexed | None = None
    try:
        check_text(text)
        lexed = lex(text, state, server_version)
        check_tokens(lexed.tokens)
        statements = split_statements(lexed.tokens)
        check_statements(statements)
        return _classify_statements(text, state, lexed, statements)
    except Unreadable as unreadable:
        return _refuse(text, state, lexed, str(unreadable))
    except RecursionError:
        return _refuse(text, state, lexed, "the text nests too deeply")
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 -- a fault of ours must become a refusal, never an answer
        return _refuse(text, state, lexed, f"the classifier failed ({type(error).__name__})")


def _classify_statements(text: bytes, state: LexingState, lexed: Lexed, statements: list[list[Token]]) -> Report:
    whole = Draft()
    spans = find_spans_of_tokens("mysql", text, lexed.tokens, state)
    if not statements:
        whole.act(Kind.EMPTY, "", "", *(["executable_comment"] if lexed.has_executable_comment else []))
        return whole.freeze("", 0, spans)
    changes_meaning = False
    for statement in statements:
        if changes_meaning:
            # The server reads a statement only when the one before has run.
            raise Unreadable("a change of lexing rules and more text in one message")
        draft = classify_statement(statement)
        changes_meaning = any(
            kind is Kind.SESSION and "session_semantics_change" in flags
            for (kind, _, _), (_, flags) in draft.acts.items()
        )
        whole.merge(draft)
    flags = ["multi_statement"] if len(statements) > 1 else []
    flags += ["executable_comment"] if lexed.has_executable_comment else []
    flags += _hint_flags(lexed.hints)
    for kind, name, mode in list(whole.acts):
        whole.act(kind, name, mode, *flags)
    if spans:
        kind, name, mode = next(iter(whole.acts))
        whole.act(kind, name, mode, "secret_literal")
    return whole.freeze(_command(statements[0]), len(statements), spans)


def _hint_flags(hints: tuple[str, ...]) -> list[str]:
    """SET_VAR in an optimizer hint sets a variable for the one statement."""
    return sorted({flag for hint in hints for name in _SET_VAR.findall(hint) for flag in find_setting_flags(name)})


def _command(statement: list[Token]) -> str:
    first = next((token for token in statement if token.text != "("), statement[0])
    return first.text if first.kind == WORD and first.text in COMMANDS else "OTHER"


def _refuse(text: bytes, state: LexingState, lexed: Lexed | None, reason: str) -> Report:
    spans = (
        find_secret_spans("mysql", text, state)
        if lexed is None
        else find_spans_of_tokens("mysql", text, lexed.tokens, state)
    )
    flags = frozenset(["secret_literal"]) if spans else frozenset[str]()
    return Report(effects=(Effect(Kind.UNPARSABLE, flags=flags),), secret_spans=spans, reason=reason)
