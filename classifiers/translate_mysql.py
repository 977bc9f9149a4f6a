"""Tokens of a MySQL or MariaDB query to tokens of the grammar that canonical_postgres.py reads: same names, same tables, same calls.

Words that are keywords in that grammar only become quoted names, so that they mean nothing there. What cannot touch a table goes: index
hints, partitions, introducers, units, types of casts, modifiers. A word misjudged here makes the parse fail, or the tables differ from
what second_opinion_mysql.py sees, and the statement is refused. Writes of several tables are cut up before (writes_mysql.py).
"""

from __future__ import annotations

from collections.abc import Callable

from classifiers.tokens import NUMBER, OP, PARAM, PUNCT, QUOTED, STRING, VARIABLE, WORD, Token, Unreadable

_KEPT = frozenset(
    ["SELECT", "DISTINCT", "ALL", "FROM", "WHERE", "GROUP", "BY", "HAVING", "ORDER", "LIMIT", "OFFSET", "UNION", "EXCEPT", "INTERSECT", "AS",
     "ON", "USING", "JOIN", "INNER", "LEFT", "RIGHT", "OUTER", "CROSS", "NATURAL", "AND", "OR", "NOT", "IN", "IS", "NULL", "TRUE", "FALSE",
     "UNKNOWN", "LIKE", "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "END", "EXISTS", "ANY", "SOME", "ASC", "DESC", "WITH", "RECURSIVE",
     "VALUES", "INTO", "SET", "INSERT", "UPDATE", "DELETE", "OVER", "PARTITION", "ROWS", "RANGE", "PRECEDING", "FOLLOWING",
     "UNBOUNDED", "CURRENT", "ROW", "WINDOW", "LATERAL", "DEFAULT", "EXTRACT", "TRIM", "BOTH", "LEADING", "TRAILING", "SUBSTRING",
     "POSITION", "FOR", "ESCAPE", "COLLATE", "TABLE", "FETCH", "FIRST", "NEXT", "ONLY", "OF", "SHARE", "NOWAIT", "SKIP", "LOCKED",
     "CONFLICT", "DO", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP", "CURRENT_USER", "RETURNING"]
)  # fmt: skip
"""Words that mean the same in both grammars."""
_UNRESERVED = frozenset(["UNKNOWN", "OFFSET", "END", "FIRST", "NEXT", "ONLY", "SHARE", "NOWAIT", "SKIP", "LOCKED", "CONFLICT", "CURRENT",
                         "UNBOUNDED", "PRECEDING", "FOLLOWING", "ANY", "SOME", "POSITION", "TRIM", "SUBSTRING", "EXTRACT", "ESCAPE", "DO",
                         "RECURSIVE", "RETURNING", "EXCEPT", "INTERSECT", "ROW", "ROWS", "OVER", "WINDOW", "LATERAL", "OF"])  # fmt: skip
"""Those of them that can be names in some version of some server: they are names beside a comma or a dot."""
_BEFORE_PARENTHESIS = _KEPT - {"LEFT", "RIGHT", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP",
                               "CURRENT_USER", "CURRENT", "FIRST", "ROW", "INSERT", "DEFAULT", "RANGE", "ROWS"}  # fmt: skip
"""Words that stay keywords when a parenthesis follows."""
_MODIFIERS = frozenset(["HIGH_PRIORITY", "STRAIGHT_JOIN", "SQL_SMALL_RESULT", "SQL_BIG_RESULT", "SQL_BUFFER_RESULT", "SQL_CACHE",
                        "SQL_NO_CACHE", "SQL_CALC_FOUND_ROWS"])  # fmt: skip
_UNITS = frozenset(
    ["MICROSECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR", "SECOND_MICROSECOND", "MINUTE_MICROSECOND",
     "MINUTE_SECOND", "HOUR_MICROSECOND", "HOUR_SECOND", "HOUR_MINUTE", "DAY_MICROSECOND", "DAY_SECOND", "DAY_MINUTE", "DAY_HOUR", "YEAR_MONTH"]
)  # fmt: skip
_CLAUSES = frozenset(["SELECT", "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "ON", "SET", "VALUES", "UNION"])
_OPERANDS_BEFORE = frozenset([")", "}", "END", "NULL", "TRUE", "FALSE"])
_CONSTANTS = frozenset(["UTC_DATE", "UTC_TIME", "UTC_TIMESTAMP"])


def translate(tokens: list[Token]) -> list[Token]:
    """Raises Unreadable where a word stands in a place that is not read."""
    return _Translation(tokens).run()


class _Translation:
    """at: the token at hand; out: what is written; frames: the word before each open parenthesis, with the clause inside it."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.end = len(tokens)
        self.at = 0
        self.out: list[Token] = []
        self.frames: list[list[str]] = [["", ""]]
        self.intervals = 0

    def run(self) -> list[Token]:
        while self.at < self.end:
            token = self.tokens[self.at]
            if token.kind == WORD:
                self._word(token)
            elif token.kind == QUOTED:
                self.as_name(token)
            elif token.kind == STRING:
                self._string(token)
            elif token.kind == VARIABLE:
                self._variable(token)
            elif token.kind == OP:
                self._operator(token)
            elif token.kind == PUNCT:
                self._punct(token)
            else:
                self.put(
                    Token(PARAM, "$1", "$1", token.start, token.end) if token.kind == PARAM else self._number(token)
                )
        if len(self.frames) != 1:
            raise Unreadable("brackets do not pair")
        return self.out

    def word(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index].text if 0 <= index < self.end else ""

    def kind(self, ahead: int = 0) -> int:
        index = self.at + ahead
        return self.tokens[index].kind if 0 <= index < self.end else 0

    def put(self, token: Token) -> None:
        self.out.append(token)
        self.at += 1

    def as_word(self, text: str) -> None:
        """Write another word in place of the one at hand."""
        token = self.tokens[self.at]
        self.put(Token(WORD, text, text.lower(), token.start, token.end))

    def as_operator(self) -> None:
        token = self.tokens[self.at]
        self.put(Token(OP, "-", None, token.start, token.end))

    def as_name(self, token: Token) -> None:
        value = (token.value or "").lower() if self.word(1) == "(" else token.value
        self.put(Token(QUOTED, "", value, token.start, token.end))

    def skip_parentheses(self) -> None:
        """Step over a parenthesised part that begins at hand; it may hold no query."""
        if self.word() != "(":
            raise Unreadable("a parenthesis is missing")
        depth = 0
        while self.at < self.end:
            text = self.word()
            depth += (text == "(") - (text == ")")
            if text == "SELECT":
                raise Unreadable("a query in a place where none is read")
            self.at += 1
            if depth == 0:
                return
        raise Unreadable("a parenthesis does not end")

    @property
    def follows_operand(self) -> bool:
        """Whether the last token written can end an expression."""
        if not self.out:
            return False
        last = self.out[-1]
        return last.kind in (QUOTED, STRING, NUMBER, PARAM) or last.text in _OPERANDS_BEFORE

    def _number(self, token: Token) -> Token:
        return token if token.text.isdigit() else Token(NUMBER, "0.5", "0.5", token.start, token.end)

    def _string(self, token: Token) -> None:
        last = self.out[-1] if self.out else None
        if last is not None and last.text == "AS":
            self.put(Token(QUOTED, "", token.value, token.start, token.end))
        elif last is not None and last.kind == STRING:
            self.at += 1  # 'a' 'b' is one string
        elif self.follows_operand:
            if self.frames[-1][1] != "SELECT":
                raise Unreadable("a string in a place that is not read")
            self.out.append(Token(WORD, "AS", "as", token.start, token.start))
            self.put(Token(QUOTED, "", token.value or "?", token.start, token.end))
        else:
            self.put(token)

    def _variable(self, token: Token) -> None:
        self.put(Token(PARAM, "$1", "$1", token.start, token.end))
        if token.text == "@@":
            while self.word() == "." and self.kind(1) in (WORD, QUOTED):
                self.at += 2

    def _operator(self, token: Token) -> None:
        if token.text == "&&":
            self.as_word("AND")
        elif token.text == "<=>":
            self.put(Token(OP, "=", None, token.start, token.end))
        elif token.text in ("=", "<", ">", "<=", ">=", "<>", "!=", "*"):
            self.put(token)
        elif token.text == "||":
            # OR, or concatenation under PIPES_AS_CONCAT: as OR a constant beside it is seen to make a condition trivial.
            self.as_word("OR") if self.frames[-1][1] in ("WHERE", "ON", "HAVING") else self.as_operator()
        else:
            self.as_operator()

    def _punct(self, token: Token) -> None:
        text = token.text
        if text == "(":
            self.frames.append([self.word(-1), ""])
            self.put(token)
        elif text == ")":
            if len(self.frames) == 1 or self.frames.pop()[0] == "{":
                raise Unreadable("brackets do not pair")
            self.put(token)
        elif text == "{":
            if self.kind(1) != WORD:
                raise Unreadable("punctuation that no query holds here")
            self.out.append(Token(PUNCT, "(", None, token.start, token.end))
            self.frames.append(["{", ""])
            self.at += 2
        elif text == "}":
            if len(self.frames) == 1 or self.frames.pop()[0] != "{":
                raise Unreadable("brackets do not pair")
            self.put(Token(PUNCT, ")", None, token.start, token.end))
        elif text in (",", "."):
            self.put(token)
        else:
            raise Unreadable("punctuation that no query holds here")

    def _word(self, token: Token) -> None:
        text, before, after = token.text, self.word(-1), self.word(1)
        if before == "." or after == "." or (before == "AS" and text not in ("SELECT", "WITH", "VALUES", "TABLE")):
            self.put(Token(QUOTED, "", token.value, token.start, token.end))
            return
        rule = _RULES.get(text)
        if rule is not None and rule(self, before, after):
            return
        if text.startswith("_") and (self.kind(1) == STRING or after.startswith("0x")):
            self.at += 1  # _utf8'abc'
            return
        if text in _UNITS and self.intervals and self.follows_operand:
            self.intervals -= 1
            self.at += 1
            return
        is_name = text not in _KEPT or (after == "(" and text not in _BEFORE_PARENTHESIS)
        if is_name or (text in _UNRESERVED and (before == "," or before == "SELECT") and after in (",", "FROM", "")):
            self.as_name(token)
            return
        if text in _CLAUSES:
            self.frames[-1][1] = text
        self.put(token)


def _select(it: _Translation, before: str, after: str) -> bool:
    it.frames[-1][1] = "SELECT"
    it.put(it.tokens[it.at])
    while it.word() in _MODIFIERS or it.word() in ("ALL", "DISTINCT", "DISTINCTROW"):
        if it.word() in ("DISTINCT", "DISTINCTROW"):
            it.as_word("DISTINCT")
        else:
            it.at += 1
    return True


def _from(it: _Translation, before: str, after: str) -> bool:
    if after == "DUAL" and it.word(2) not in (".", ",", "AS", "JOIN"):
        it.at += 2
        return True
    return False


def _infix(text: str) -> Callable[[_Translation, str, str], bool]:
    def rule(it: _Translation, before: str, after: str) -> bool:
        if not it.follows_operand and (not it.out or it.out[-1].text != "NOT"):
            return False
        if text == "-":
            it.as_operator()
        else:
            it.as_word(text)
        return True

    return rule


def _sounds(it: _Translation, before: str, after: str) -> bool:
    if after == "LIKE" and it.follows_operand:
        it.at += 1
        return True
    return False


def _member(it: _Translation, before: str, after: str) -> bool:
    if after == "OF" and it.word(2) == "(" and it.follows_operand:
        it.as_word("IN")
        it.at += 1
        return True
    return False


def _binary(it: _Translation, before: str, after: str) -> bool:
    if (
        not it.follows_operand
        and (it.kind(1) in (WORD, QUOTED, STRING, NUMBER, VARIABLE, PARAM) or after == "(")
        and after not in ("FROM", "AS")
    ):
        it.at += 1
        return True
    return False


def _interval(it: _Translation, before: str, after: str) -> bool:
    if it.follows_operand or after in (",", ")", "."):
        return False
    it.intervals += 1
    it.at += 1
    return True


def _limit(it: _Translation, before: str, after: str) -> bool:
    if after == "ROWS" and it.word(2) == "EXAMINED":
        it.at += 4
        return True
    start = it.at
    parts: list[list[Token]] = [[], []]
    index, at = 0, start + 1
    while at < it.end and (
        it.tokens[at].kind in (NUMBER, PARAM, VARIABLE) or it.tokens[at].text in (",", "OFFSET") or (at == start + 1)
    ):
        if it.tokens[at].text in (",", "OFFSET"):
            index += 1
            if index > 1:
                raise Unreadable("a LIMIT in a form that is not read")
        else:
            parts[index].append(it.tokens[at])
        at += 1
    if any(len(part) > 1 for part in parts) or not parts[0]:
        raise Unreadable("a LIMIT in a form that is not read")
    has_comma = any(token.text == "," for token in it.tokens[start:at])
    if not _limits_query(it):
        it.at = at  # of an aggregate
        return True
    token = it.tokens[start]
    count, offset = (parts[1], parts[0]) if has_comma else (parts[0], parts[1])
    it.out += [Token(WORD, "LIMIT", "limit", token.start, token.end), *map(_value, count)]
    if offset:
        it.out += [Token(WORD, "OFFSET", "offset", token.start, token.end), *map(_value, offset)]
    it.at = at
    return True


def _value(token: Token) -> Token:
    return token if token.kind == NUMBER and token.text.isdigit() else Token(PARAM, "$1", "$1", token.start, token.end)


def _limits_query(it: _Translation) -> bool:
    return len(it.frames) == 1 or it.frames[-1][0] in ("", "(", "IN", "FROM", "JOIN", "AS", ",", "EXISTS", "ANY", "ALL", "SOME", "UNION",
                                                       "=", "SELECT", "<", ">", "<=", ">=", "<>", "!=") or it.frames[-1][1] != "ORDER"  # fmt: skip


def _separator(it: _Translation, before: str, after: str) -> bool:
    if it.kind(1) == STRING and len(it.frames) > 1 and it.follows_operand | (before in ("ASC", "DESC")):
        it.at += 2
        return True
    return False


def _using(it: _Translation, before: str, after: str) -> bool:
    if (
        it.kind(1) in (WORD, QUOTED, STRING)
        and it.word(2) == ")"
        and it.frames[-1][0] in ("CONVERT", "CHAR", "WEIGHT_STRING")
    ):
        it.at += 2
        return True
    return False


def _cast(it: _Translation, before: str, after: str) -> bool:
    """CAST(x AS type), CONVERT(x, type): parentheses around x."""
    if after != "(":
        return False
    at, depth, cut = it.at + 2, 0, -1
    while at < it.end:
        text = it.tokens[at].text
        if text == ")" and depth == 0:
            break
        depth += (text == "(") - (text == ")")
        if depth == 0 and text == ("," if it.word() == "CONVERT" else "AS"):
            cut = at
        at += 1
    if cut < 0:
        return False
    if any(
        token.kind not in (WORD, NUMBER) and token.text not in ("(", ")", ",") for token in it.tokens[cut + 1 : at]
    ) or any(token.text in ("SELECT", "FROM") for token in it.tokens[cut + 1 : at]):
        raise Unreadable("a type that is not read")
    token = it.tokens[it.at]
    it.out += [
        Token(PUNCT, "(", None, token.start, token.end),
        *_Translation(it.tokens[it.at + 2 : cut]).run(),
        Token(PUNCT, ")", None, token.start, token.end),
    ]
    it.at = at + 1
    return True


def _columns(it: _Translation, before: str, after: str) -> bool:
    if after == "(" and it.frames[-1][0] == "JSON_TABLE":
        it.at += 1
        it.skip_parentheses()
        return True
    return False


def _match(it: _Translation, before: str, after: str) -> bool:
    """MATCH (a, b) AGAINST (x IN BOOLEAN MODE): both are comma lists of one call."""
    if it.word() == "MATCH":
        if after == "(" or it.kind(1) not in (WORD, QUOTED) or it.follows_operand:
            return False
        it.at += 1
        return True
    if after != "(" or not it.follows_operand:
        return False
    it.as_operator()
    return True


def _escape(it: _Translation, before: str, after: str) -> bool:
    if not it.follows_operand or after in (",", ")", "."):
        return False
    it.as_operator()
    return True


def _as(it: _Translation, before: str, after: str) -> bool:
    """COLUMN_GET(x, n AS type)."""
    if not it.frames[-1][0].startswith("COLUMN_"):
        return False
    it.at += 1
    while it.at < it.end and it.word() not in (",", ")"):
        if it.word() == "(":
            it.skip_parentheses()
        elif it.kind() == WORD and it.word() not in ("SELECT", "FROM"):
            it.at += 1
        else:
            raise Unreadable("a type that is not read")
    return True


def _direction(it: _Translation, before: str, after: str) -> bool:
    """GROUP BY a DESC, of older servers."""
    if it.frames[-1][1] == "GROUP" and it.follows_operand:
        it.at += 1
        return True
    return False


def _in(it: _Translation, before: str, after: str) -> bool:
    if it.frames[-1][0] == "AGAINST" and after in ("NATURAL", "BOOLEAN"):
        while it.at < it.end and it.word() != ")":
            it.at += 1
        return True
    return False


def _hint(it: _Translation, before: str, after: str) -> bool:
    if after not in ("INDEX", "KEY") or not it.follows_operand:
        return False
    it.at += 2
    if it.word() == "FOR":
        it.at += 2 if it.word(1) == "JOIN" else 3
    it.skip_parentheses()
    if it.word() == "," and it.word(1) in ("USE", "IGNORE", "FORCE") and it.word(2) in ("INDEX", "KEY"):
        it.at += 1
    return True


def _partition(it: _Translation, before: str, after: str) -> bool:
    if after == "(" and it.follows_operand and before != "OVER":
        it.at += 1
        it.skip_parentheses()
        return True
    return False


def _for(it: _Translation, before: str, after: str) -> bool:
    if after != "SYSTEM_TIME":
        return False
    it.at += 2
    if it.word() == "ALL":
        it.at += 1
        return True
    if it.word() != "AS" or it.word(1) != "OF":
        raise Unreadable("a SYSTEM_TIME in a form that is not read")
    it.at += 2
    if it.word() in ("TIMESTAMP", "TRANSACTION"):
        it.at += 1
    if it.kind() not in (STRING, NUMBER, PARAM, VARIABLE):
        raise Unreadable("a SYSTEM_TIME in a form that is not read")
    it.at += 1
    return True


def _update(it: _Translation, before: str, after: str) -> bool:
    """The UPDATE of FOR UPDATE [OF t] [WAIT n]."""
    if before != "FOR":
        return False
    it.put(it.tokens[it.at])
    if it.word() == "WAIT" and it.kind(1) == NUMBER:
        it.at += 2
    return True


def _lock(it: _Translation, before: str, after: str) -> bool:
    if after == "IN" and it.word(2) == "SHARE" and it.word(3) == "MODE":
        token = it.tokens[it.at]
        it.out += [
            Token(WORD, "FOR", "for", token.start, token.end),
            Token(WORD, "SHARE", "share", token.start, token.end),
        ]
        it.at += 4
        return True
    return False


def _with(it: _Translation, before: str, after: str) -> bool:
    if after == "ROLLUP":
        it.at += 2
        return True
    if after == "QUERY" and it.frames[-1][0] == "AGAINST":
        it.at += 3
        return True
    return False


def _row(it: _Translation, before: str, after: str) -> bool:
    if after == "(":
        it.at += 1
        return True
    return False


def _default(it: _Translation, before: str, after: str) -> bool:
    if after == "(":
        it.at += 1
        return True
    return False


def _typed(it: _Translation, before: str, after: str) -> bool:
    if it.kind(1) == STRING and not it.follows_operand:
        it.at += 1
        return True
    return False


def _constant(it: _Translation, before: str, after: str) -> bool:
    if after == "(":
        return False
    it.as_word("NULL")
    return True


def _timestampadd(it: _Translation, before: str, after: str) -> bool:
    """Its first argument is a unit."""
    if after == "(" and it.kind(2) == WORD and it.word(3) == ",":
        it.as_name(it.tokens[it.at])
        it.frames.append(["", ""])
        it.put(it.tokens[it.at])
        it.as_word("NULL")
        return True
    return False


def _substr(it: _Translation, before: str, after: str) -> bool:
    if after == "(":
        it.as_word("SUBSTRING")
        return True
    return False


def _straight_join(it: _Translation, before: str, after: str) -> bool:
    it.as_word("JOIN")
    return True


def _next_value(it: _Translation, before: str, after: str) -> bool:
    """NEXT VALUE FOR s: a call."""
    if after != "VALUE" or it.word(2) != "FOR":
        return False
    token = it.tokens[it.at]
    name = "nextval" if token.text == "NEXT" else "lastval"
    it.out += [Token(QUOTED, "", name, token.start, token.end), Token(PUNCT, "(", None, token.start, token.end)]
    it.at += 3
    while it.kind() in (WORD, QUOTED):
        it.at += 1
        if it.word() != ".":
            break
        it.at += 1
    it.out += [Token(WORD, "NULL", "null", token.start, token.end), Token(PUNCT, ")", None, token.start, token.end)]
    return True


def _value_word(it: _Translation, before: str, after: str) -> bool:
    """VALUES(col) in ON DUPLICATE KEY UPDATE is a call."""
    if after == "(" and it.frames[-1][1] == "SET":
        it.as_name(it.tokens[it.at])
        return True
    return False


_RULES: dict[str, Callable[[_Translation, str, str], bool]] = {
    "SELECT": _select,
    "FROM": _from,
    "XOR": _infix("OR"),
    "DIV": _infix("-"),
    "MOD": _infix("-"),
    "RLIKE": _infix("LIKE"),
    "REGEXP": _infix("LIKE"),
    "SOUNDS": _sounds,
    "MEMBER": _member,
    "BINARY": _binary,
    "INTERVAL": _interval,
    "LIMIT": _limit,
    "SEPARATOR": _separator,
    "USING": _using,
    "CAST": _cast,
    "CONVERT": _cast,
    "COLUMNS": _columns,
    "AGAINST": _match,
    "MATCH": _match,
    "ESCAPE": _escape,
    "AS": _as,
    "ASC": _direction,
    "DESC": _direction,
    "IN": _in,
    "USE": _hint,
    "IGNORE": _hint,
    "FORCE": _hint,
    "PARTITION": _partition,
    "FOR": _for,
    "UPDATE": _update,
    "LOCK": _lock,
    "WITH": _with,
    "ROW": _row,
    "DEFAULT": _default,
    "DATE": _typed,
    "TIME": _typed,
    "TIMESTAMP": _typed,
    "TIMESTAMPADD": _timestampadd,
    "TIMESTAMPDIFF": _timestampadd,
    "SUBSTR": _substr,
    "MID": _substr,
    "STRAIGHT_JOIN": _straight_join,
    "NEXT": _next_value,
    "PREVIOUS": _next_value,
    "VALUES": _value_word,
    **dict.fromkeys(_CONSTANTS, _constant),
}
"""How one word is written: (translation, word before, word after). False: in the ordinary way."""
