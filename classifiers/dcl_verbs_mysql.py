"""Rules of MySQL and MariaDB for GRANT, REVOKE and accounts."""

from __future__ import annotations

from classifiers.admin_verbs_mysql import check_plain
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word
from classifiers.tokens import OP, STRING, Token, Unreadable

_SECRET_AFTER = frozenset(["BY", "AS", "USING", "PASSWORD", "REPLACE", "("])


def grant(cursor: TokenCursor) -> Draft:
    """GRANT and REVOKE, of privileges, roles or PROXY."""
    draft = Draft()
    draft.act(Kind.DCL, "", "", "privilege_change")
    verb = cursor.word()
    cursor.at += 1
    tokens = cursor.rest()
    check_plain([token for token in tokens if token.text != "SELECT"])
    split = find_word(tokens, "TO" if verb == "GRANT" else "FROM")
    if split < 0:
        raise Unreadable("a grant without an account")
    on = find_word(tokens[:split], "ON")
    words = {token.text for token in tokens[:split]}
    if "PROXY" in words:
        draft.act(Kind.DCL, "", "", "identity_change")
    elif on >= 0:
        target = TokenCursor(tokens[on + 1 : split])
        target.accept_any("TABLE", "FUNCTION", "PROCEDURE", "PACKAGE")
        _target(draft, target)
    _note_secrets(draft, tokens)
    if "FILE" in words:
        draft.act(Kind.DCL, "", "", "server_file_read", "server_file_write")
    return draft


def _target(draft: Draft, cursor: TokenCursor) -> None:
    if cursor.kind() == OP and cursor.word() == "*":
        return
    name = cursor.name()
    if cursor.accept(".", "*"):
        draft.act(Kind.DCL, name + ".*", "write", "privilege_change")
    elif cursor.accept("."):
        draft.act(Kind.DCL, f"{name}.{cursor.name()}", "write", "privilege_change")
    elif not cursor.is_done and cursor.kind() != OP:
        raise Unreadable("a grant in a form that is not read")
    else:
        draft.act(Kind.DCL, name, "write", "privilege_change")


def account(cursor: TokenCursor) -> Draft:
    """CREATE, ALTER, DROP and RENAME of USER and ROLE."""
    draft = Draft()
    verb = cursor.word()
    draft.act(Kind.DCL, "", "", "privilege_change", *(["ddl_destructive"] if verb == "DROP" else []))
    tokens = cursor.rest()
    check_plain(tokens)
    _note_secrets(draft, tokens)
    return draft


def _note_secrets(draft: Draft, tokens: list[Token]) -> None:
    """Literals behind IDENTIFIED; redact.py finds them too."""
    start = find_word(tokens, "IDENTIFIED")
    if start >= 0 and any(
        token.kind == STRING and tokens[index - 1].text in _SECRET_AFTER
        for index, token in enumerate(tokens)
        if index > start
    ):
        draft.act(Kind.DCL, "", "", "secret_literal")
