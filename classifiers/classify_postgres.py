"""A PostgreSQL message to a report: lex, limits, split, one rule per verb, secrets. See classify.py for the entry."""

from __future__ import annotations

from classifiers.draft import Draft
from classifiers.effects import Effect, Kind, LexingState, Report
from classifiers.lexer_postgres import lex
from classifiers.limits import check_statements, check_text, check_tokens
from classifiers.redact import find_secret_spans, find_spans_of_tokens
from classifiers.statements import split_statements
from classifiers.tokens import WORD, Token, Unreadable
from classifiers.verbs_postgres import COMMANDS, classify_statement


def classify(text: bytes, state: LexingState, server_version: int = 0) -> Report:
    """Never raises, whatever the text; running out of memory or time is for the process around it."""
    tokens: list[Token] | None = None
    try:
        check_text(text)
        tokens = lex(text, state, server_version)
        check_tokens(tokens)
        statements = split_statements(tokens)
        check_statements(statements)
        return _classify_statements(text, state, tokens, statements)
    except Unreadable as unreadable:
        return _refuse(text, state, tokens, str(unreadable))
    except RecursionError:
        return _refuse(text, state, tokens, "the text nests too deeply")
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 -- a fault of ours must become a refusal, never an answer
        return _refuse(text, state, tokens, f"the classifier failed ({type(error).__name__})")


def _classify_statements(text: bytes, state: LexingState, tokens: list[Token], statements: list[list[Token]]) -> Report:
    whole = Draft()
    if not statements:
        whole.act(Kind.EMPTY)
        return whole.freeze("", 0, find_spans_of_tokens("postgres", text, tokens, state))
    changes_lexing = False
    for statement in statements:
        if changes_lexing and any(b"\\" in text[t.start : t.end] for t in statement):
            # The server has lexed the whole message before it runs any of it, but what a driver sends next may rely on it.
            raise Unreadable("a change of lexing rules and text that depends on them in one message")
        draft = classify_statement(statement)
        changes_lexing = changes_lexing or any("session_semantics_change" in flags for _, flags in draft.acts.values())
        whole.merge(draft)
    if len(statements) > 1:
        for kind, name, mode in list(whole.acts):
            whole.act(kind, name, mode, "multi_statement")
    spans = find_spans_of_tokens("postgres", text, tokens, state)
    if spans:
        kind, name, mode = next(iter(whole.acts))
        whole.act(kind, name, mode, "secret_literal")
    return whole.freeze(_command(statements[0]), len(statements), spans)


def _command(statement: list[Token]) -> str:
    first = next((token for token in statement if token.text != "("), statement[0])
    return first.text if first.kind == WORD and first.text in COMMANDS else "OTHER"


def _refuse(text: bytes, state: LexingState, tokens: list[Token] | None, reason: str) -> Report:
    if tokens is None:
        spans = find_secret_spans("postgres", text, state)
    else:
        spans = find_spans_of_tokens("postgres", text, tokens, state)
    flags = frozenset(["secret_literal"]) if spans else frozenset[str]()
    return Report(effects=(Effect(Kind.UNPARSABLE, flags=flags),), secret_spans=spans, reason=reason)
