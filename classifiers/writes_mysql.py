"""INSERT, REPLACE, UPDATE and DELETE of MySQL and MariaDB: cut into parts that the common grammar has.

Writes of several tables are read as the SELECT that finds their rows; which of its tables are written is told by aliases.
"""

from __future__ import annotations

from classifiers.conditions import is_trivial
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.relations_mysql import find_read_flags, find_write_acts
from classifiers.token_cursor import TokenCursor
from classifiers.token_lists import find_word, split_commas
from classifiers.tokens import NUMBER, PUNCT, QUOTED, WORD, Token, Unreadable, join_name
from classifiers.tree_mysql import classify_query, read_query

_REF_STOPS = frozenset(
    ["ON", "USING", "JOIN", "INNER", "LEFT", "RIGHT", "CROSS", "NATURAL", "STRAIGHT_JOIN", "OUTER", "USE", "IGNORE", "FORCE", "PARTITION",
     "WHERE", "SET", "FOR", "AS"]
)  # fmt: skip


def classify_write(tokens: list[Token], prefix: list[Token]) -> Draft:
    """tokens: from the verb on; prefix: the WITH before it, which only UPDATE and DELETE have."""
    cursor = TokenCursor(tokens)
    verb = cursor.accept_any("INSERT", "REPLACE", "UPDATE", "DELETE")
    if verb in ("INSERT", "REPLACE"):
        if prefix:
            raise Unreadable("a WITH before a write that has none")
        return _insert(cursor)
    return _update(cursor, prefix) if verb == "UPDATE" else _delete(cursor, prefix)


def classify_expression(tokens: list[Token]) -> Draft:
    """A comma list of expressions whose extent is known exactly, read as a select list."""
    if not tokens:
        return Draft()
    draft = classify_query([_made("SELECT"), *tokens])
    reading = draft.acts.get((Kind.DML_READ, "", ""))
    if reading is not None and not reading[1]:  # else a function in it acts
        del draft.acts[Kind.DML_READ, "", ""]
    return draft


def _made(text: str) -> Token:
    if text == "1":
        return Token(NUMBER, "1", "1", 0, 0)
    return Token(WORD if text.isalpha() else PUNCT, text, text.lower() if text.isalpha() else None, 0, 0)


def _mades(text: str) -> list[Token]:
    return [_made(word) for word in text.split()]


def _insert(cursor: TokenCursor) -> Draft:
    while cursor.accept_any("LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE"):
        pass
    cursor.accept("INTO")
    start = cursor.at
    cursor.parts()
    name = cursor.tokens[start : cursor.at]
    if cursor.accept("PARTITION"):
        cursor.inside()
    body = cursor.rest()
    at = find_word(body, "RETURNING")
    body, returning = (body[:at], body[at:]) if at >= 0 else (body, [])
    at = find_word(body, "ON", "DUPLICATE", "KEY", "UPDATE")
    body, updates = (body[:at], body[at + 4 :]) if at >= 0 else (body, [])
    values = _insert_values(body)
    conflict: list[Token] = []
    if updates:
        conflict = _mades("ON CONFLICT DO UPDATE SET") + _unqualified(updates)
    return classify_query([*_mades("INSERT INTO"), *name, *values, *conflict, *returning])


def _insert_values(body: list[Token]) -> list[Token]:
    """The part behind the table, as column list and VALUES or query."""
    if body[:1] and body[0].text == "SET":
        body = _without_row_alias(body)
        columns: list[Token] = []
        values: list[Token] = []
        for assignment in split_commas(body[1:]):
            at = find_word(assignment, "=")
            if at < 0:
                at = find_word(assignment, ":=")
            if at < 1:
                raise Unreadable("an assignment in a form that is not read")
            columns += [assignment[at - 1], _made(",")]
            values += [*assignment[at + 1 :], _made(",")]
        return [_made("("), *columns[:-1], _made(")"), *_mades("VALUES ("), *values[:-1], _made(")")]
    cursor = TokenCursor(body)
    columns = []
    if cursor.word() == "(" and cursor.word(1) not in ("SELECT", "WITH", "(", "TABLE", "VALUES"):
        inside = cursor.inside()
        columns = [_made("("), *_last_names(inside), _made(")")] if inside else []
    if cursor.word() in ("VALUES", "VALUE"):
        rows = _without_row_alias(body[cursor.at + 1 :])
        if [token.text for token in rows] == ["(", ")"]:
            return _mades("DEFAULT VALUES")
        return [*columns, _made("VALUES"), *rows]
    return [*columns, *body[cursor.at :]]


def _without_row_alias(tokens: list[Token]) -> list[Token]:
    """VALUES (…) AS new (a, b)."""
    at = find_word(tokens, "AS")
    if at < 0:
        return tokens
    cursor = TokenCursor(tokens)
    cursor.at = at + 1
    cursor.name()
    if cursor.word() == "(":
        cursor.inside()
    cursor.expect_done()
    return tokens[:at]


def _last_names(tokens: list[Token]) -> list[Token]:
    names: list[Token] = []
    for part in split_commas(tokens):
        if not part or part[-1].kind not in (WORD, QUOTED):
            raise Unreadable("a column list that is not read")
        names += [_quoted(part[-1]), _made(",")]
    return names[:-1]


def _quoted(token: Token) -> Token:
    return Token(QUOTED, "", token.value, token.start, token.end)


def _unqualified(assignments: list[Token]) -> list[Token]:
    """a.b = x, c.d = y as b = x, d = y."""
    out: list[Token] = []
    for assignment in split_commas(assignments):
        at = next((i for i, token in enumerate(assignment) if token.text in ("=", ":=")), -1)
        if at < 1 or assignment[at - 1].kind not in (WORD, QUOTED):
            raise Unreadable("an assignment in a form that is not read")
        out += [
            _quoted(assignment[at - 1]),
            Token(assignment[at].kind, "=", None, 0, 0),
            *assignment[at + 1 :],
            _made(","),
        ]
    return out[:-1]


def _cut_tail(tokens: list[Token]) -> tuple[list[Token], list[Token], Draft]:
    """The part up to ORDER BY and LIMIT, RETURNING, and what the ORDER BY says."""
    at = find_word(tokens, "RETURNING")
    tokens, returning = (tokens[:at], tokens[at:]) if at >= 0 else (tokens, [])
    at = find_word(tokens, "LIMIT")
    if at >= 0:
        if any(
            token.kind != NUMBER and token.text not in (",", "?", "ROWS", "EXAMINED", "@", "@@")
            for token in tokens[at + 1 :]
        ):
            raise Unreadable("a LIMIT in a form that is not read")
        tokens = tokens[:at]
    at = find_word(tokens, "ORDER", "BY")
    if at < 0:
        return tokens, returning, Draft()
    order = [token for token in tokens[at + 2 :] if token.text not in ("ASC", "DESC")]
    return tokens[:at], returning, classify_expression(order)


def _update(cursor: TokenCursor, prefix: list[Token]) -> Draft:
    while cursor.accept_any("LOW_PRIORITY", "IGNORE"):
        pass
    tokens, returning, order = _cut_tail(cursor.rest())
    split = find_word(tokens, "SET")
    if split < 1 or returning:
        raise Unreadable("a form of UPDATE that is not read")
    refs, rest = tokens[:split], tokens[split + 1 :]
    at = find_word(rest, "WHERE")
    assignments, where = (rest, []) if at < 0 else (rest[:at], rest[at:])
    if not _has_several(refs):
        draft = classify_query([*prefix, _made("UPDATE"), *refs, _made("SET"), *_unqualified(assignments), *where])
    else:
        targets: list[tuple[str, ...]] = []
        values: list[Token] = []
        columns: list[str] = []
        for assignment in split_commas(assignments):
            target = TokenCursor(assignment)
            parts = target.parts()
            if not target.accept("=") and not target.accept(":="):
                raise Unreadable("an assignment in a form that is not read")
            targets.append(parts[:-1])
            columns.append(parts[-1])
            values += [_made("("), *target.rest(), _made(")"), _made(",")]
        draft = _several(prefix, refs, values[:-1], where, targets, columns)
    draft.merge(order)
    return draft


def _delete(cursor: TokenCursor, prefix: list[Token]) -> Draft:
    is_history = False
    while word := cursor.accept_any("LOW_PRIORITY", "QUICK", "IGNORE", "HISTORY"):
        if cursor.is_done or cursor.word() in (",", "."):
            raise Unreadable("a form of DELETE that is not read")
        is_history = is_history or word == "HISTORY"
    tokens, returning, order = _cut_tail(cursor.rest())
    from_ = find_word(tokens, "FROM")
    using = find_word(tokens, "USING")
    at = find_word(tokens, "WHERE")
    body, where = (tokens, []) if at < 0 else (tokens[:at], tokens[at:])
    if is_history:
        return _history(body, where)
    if from_ == 0 and using < 0:
        if _has_several(body[1:]):
            raise Unreadable("a form of DELETE that is not read")
        draft = classify_query([*prefix, _made("DELETE"), *body, *where, *returning])
    else:
        if from_ == 0:
            targets, refs = body[1:using], body[using + 1 :]
        else:
            targets, refs = body[:from_], body[from_ + 1 :]
        if returning:
            raise Unreadable("a form of DELETE that is not read")
        names = []
        for target in split_commas(targets):
            each = TokenCursor(target)
            name = [each.name()]
            while each.accept(".") and each.word() != "*":
                name.append(each.name())
            each.accept("*")
            each.expect_done()
            names.append(tuple(name))
        draft = _several(prefix, refs, [_made("1")], where, names, ["*"] * len(names))
    draft.merge(order)
    return draft


def _history(body: list[Token], where: list[Token]) -> Draft:
    """DELETE HISTORY FROM t [BEFORE SYSTEM_TIME …]: old versions of rows, which no WHERE chooses."""
    cursor = TokenCursor(body)
    cursor.expect("FROM")
    draft = Draft()
    name = cursor.parts()
    draft.act(Kind.DML_WRITE, join_name(name), "write", "no_where")
    if cursor.accept("PARTITION"):
        cursor.inside()
    if cursor.accept("BEFORE", "SYSTEM_TIME"):
        cursor.accept_any("TIMESTAMP", "TRANSACTION")
        draft.merge(classify_expression(cursor.rest()))
    cursor.expect_done()
    if where:
        raise Unreadable("a form of DELETE that is not read")
    return draft


def _has_several(refs: list[Token]) -> bool:
    return any(token.text in (",", "JOIN", "STRAIGHT_JOIN") for token in _outside_parentheses(refs)) or (
        refs[:1] != [] and refs[0].text == "("
    )


def _outside_parentheses(tokens: list[Token]) -> list[Token]:
    out, depth = [], 0
    for token in tokens:
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0 and token.text != ")":
            out.append(token)
    return out


def _several(
    prefix: list[Token],
    refs: list[Token],
    values: list[Token],
    where: list[Token],
    targets: list[tuple[str, ...]],
    columns: list[str],
) -> Draft:
    """A write of some tables of a join. targets: how each is named, () for "whichever has the column"."""
    reading = read_query([*prefix, _made("SELECT"), *values, _made("FROM"), *refs, *where])
    draft = reading.draft
    for _, flags in draft.acts.values():
        flags.discard("unbounded_read")
    flags = set() if where else {"no_where"}
    condition = reading.tree.args.get("where")
    if condition is not None and is_trivial(condition.this):
        flags.add("trivial_where")
    aliases = _aliases(refs)
    for target, column in zip(targets, columns, strict=True):
        found = [aliases[name] for name in aliases if not target or name == target[-1].lower()]
        names = [name for name in found if name]
        if not names:
            raise Unreadable("a write of a table that is not seen")
        for name in names:
            full = join_name(name)
            draft.act(Kind.DML_WRITE, full, "write", *flags, *find_read_flags(name))
            draft.add_column(Kind.DML_WRITE, full, "write", column)
            for kind, more in find_write_acts(name):
                draft.act(kind, full, "write", *more)
    return draft


def _aliases(refs: list[Token]) -> dict[str, tuple[str, ...]]:
    """What each name in a FROM list stands for; () for what is derived."""
    found: dict[str, tuple[str, ...]] = {}
    cursor = TokenCursor(refs)
    may_follow = True
    while not cursor.is_done:
        word = cursor.word()
        if may_follow and cursor.is_name and word not in _REF_STOPS and word not in ("LATERAL", "SELECT"):
            name = cursor.parts()
            if cursor.word() == "PARTITION" and cursor.word(1) == "(":
                cursor.at += 1
                cursor.inside()
            found[_alias(cursor) or name[-1].lower()] = name
            may_follow = False
        elif may_follow and word == "(" and cursor.word(1) in ("SELECT", "WITH", "VALUES", "TABLE"):
            cursor.inside()
            alias = _alias(cursor)
            if alias:
                found[alias] = ()
            may_follow = False
        else:
            may_follow = word in (",", "JOIN", "STRAIGHT_JOIN") or (word == "(" and may_follow)
            cursor.at += 1
            if word in ("ON", "USING"):
                _skip_condition(cursor)
    return found


def _alias(cursor: TokenCursor) -> str:
    if cursor.accept("AS") or (cursor.is_name and cursor.word() not in _REF_STOPS):
        return cursor.name().lower()
    return ""


def _skip_condition(cursor: TokenCursor) -> None:
    while not cursor.is_done and cursor.word() not in (
        "JOIN", "INNER", "LEFT", "RIGHT", "CROSS", "NATURAL", "STRAIGHT_JOIN", ",", ")",
    ):  # fmt: skip
        if cursor.word() in ("LEFT", "RIGHT") and cursor.word(1) == "(":
            cursor.at += 1
        if cursor.word() == "(":
            cursor.inside()
        else:
            cursor.at += 1
