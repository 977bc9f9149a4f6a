"""The state of a translation of MySQL tokens to the common grammar, and what is done with tokens that need no rule of their own.

Counterpart: translate_mysql.py, which has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
_UNITS = frozenset(
    ["MICROSECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR", "SECOND_MICROSECOND", "MINUTE_MICROSECOND",
     "MINUTE_SECOND", "HOUR_MICROSECOND", "HOUR_SECOND", "HOUR_MINUTE", "DAY_MICROSECOND", "DAY_SECOND", "DAY_MINUTE", "DAY_HOUR", "YEAR_MONTH"]
)  # fmt: skip
_CLAUSES = frozenset(["SELECT", "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "ON", "SET", "VALUES", "UNION"])
_OPERANDS_BEFORE = frozenset([")", "}", "END", "NULL", "TRUE", "FALSE"])


class Translation:
    """at: the token at hand; out: what is written; frames: the word before each open parenthesis, with the clause inside it."""

    def __init__(self, tokens: list[Token], rules: Mapping[str, Rule]) -> None:
        self.tokens = tokens
        self.rules = rules
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
        rule = self.rules.get(text)
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


Rule = Callable[[Translation, str, str], bool]
"""How one word is written: (translation, word before, word after). False: in the ordinary way."""
