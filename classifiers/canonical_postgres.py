"""Tokens of one query or DML statement to a text that leaves the parse library nothing to read in its own way.

The canonical text has one blank between tokens; every name is `"~12"`, 12 being its token's index; strings are 's12';
casts, collations, locking clauses, sampling and other syntax that cannot touch a table are gone (noted here where they
matter); operators other than comparisons are "-". Parse trees are read back through the indexes (tree_postgres.py).
Words are kept as keywords only where the server's grammar must read them so; a word misjudged here makes the
parse fail or the counts in second_opinion.py differ, and the statement is refused.
The canonical text is never sent to a server.
"""

from __future__ import annotations

from classifiers.builtins_postgres import RESERVED, TYPE_FUNC_NAMES
from classifiers.tokens import NUMBER, OP, PARAM, PUNCT, QUOTED, STRING, WORD, Token, Unreadable
from classifiers.types_postgres import FIRST_WORDS, skip_interval_fields, skip_type

_PASSED = frozenset(
    ["SELECT", "DISTINCT", "ON", "ALL", "FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "WITH",
     "UNION", "EXCEPT", "INTERSECT", "AS", "NOT", "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "OUTER", "CROSS", "NATURAL",
     "USING", "LATERAL", "INTO", "DEFAULT", "CASE", "WHEN", "THEN", "ELSE", "END", "AND", "OR", "IS", "NULL", "TRUE", "FALSE",
     "IN", "LIKE", "ILIKE", "SIMILAR", "TO", "ANY", "SOME", "ASC", "DESC", "BETWEEN", "EXISTS", "DO", "RETURNING", "CONSTRAINT"]
)  # fmt: skip
"""Reserved words that are passed on as they are."""
_CLAUSES = frozenset(
    ["SELECT", "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "RETURNING", "WINDOW", "VALUES", "UNION", "EXCEPT",
     "INTERSECT", "ON"]
)  # fmt: skip
_CONSTANT_WORDS = frozenset(
    ["CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP", "CURRENT_USER", "CURRENT_ROLE", "USER",
     "SESSION_USER", "SYSTEM_USER", "CURRENT_CATALOG"]
)  # fmt: skip
_COMPARISONS = frozenset(["=", "<", ">", "<=", ">=", "<>", "!=", "*"])
_CALL_SYNTAX = {
    "SUBSTRING": frozenset(["FROM", "FOR", "SIMILAR", "ESCAPE"]),
    "OVERLAY": frozenset(["PLACING", "FROM", "FOR"]),
    "POSITION": frozenset(["IN"]),
    "TRIM": frozenset(["FROM"]),
    "EXTRACT": frozenset(["FROM"]),
}
"""Words that stand for a comma at the top level of these calls."""
_AFTER_STAR = frozenset(
    ["", ")", ",", "WHERE", "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL", "GROUP", "ORDER", "LIMIT", "OFFSET",
     "UNION", "EXCEPT", "INTERSECT", "FOR", "HAVING", "WINDOW", "FETCH", "AS", "SET", "USING", "RETURNING", "FROM"]
)  # fmt: skip
_LITERAL_WORDS = frozenset(["NULL", "TRUE", "FALSE", "DEFAULT"])
KEPT_LITERALS = 4
"""Of a longer run of literals, how many are passed on: enough for its shape."""


class Canonical:
    """One statement made canonical. Read-only after `make_canonical`.

    text: for the parse library. types: cast targets. operators: (schema or "", operator). has_row_lock, is_current_of: clauses taken out.
    has_named_arguments: some call names its arguments, so their order says nothing.
    verbs: how often INSERT, UPDATE, DELETE, MERGE stand as keywords. calls: indexes of names that an opening parenthesis follows.
    """

    __slots__ = ("calls", "has_named_arguments", "has_row_lock", "is_current_of", "operators", "text", "types", "verbs")

    def __init__(self) -> None:
        self.text = ""
        self.types: list[tuple[str, ...]] = []
        self.operators: list[tuple[str, str]] = []
        self.verbs = {"INSERT": 0, "UPDATE": 0, "DELETE": 0, "MERGE": 0}
        self.calls: list[int] = []
        self.has_row_lock = False
        self.has_named_arguments = False
        self.is_current_of = False


def make_canonical(tokens: list[Token]) -> Canonical:
    """Raises Unreadable where a keyword stands in a place that is not read."""
    writer = _Writer(tokens)
    writer.run()
    writer.result.text = " ".join(writer.out)
    return writer.result


class _Writer:
    """The state of one pass. frames: one per open bracket: what opened it, the clause at hand, the verb of the statement in it."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.end = len(tokens)
        self.at = 0
        self.out: list[str] = []
        self.frames: list[list[str]] = [["", "", ""]]
        self.result = Canonical()
        self.names = bytearray(self.end)  # 1 where a word was written as a name: it is no keyword to what follows

    def word(self, offset: int) -> str:
        index = self.at + offset
        if not 0 <= index < self.end or (offset < 0 and self.names[index]):
            return ""
        return self.tokens[index].text

    def kind(self, offset: int) -> int:
        index = self.at + offset
        return self.tokens[index].kind if 0 <= index < self.end else 0

    def run(self) -> None:
        while self.at < self.end:
            token = self.tokens[self.at]
            kind = token.kind
            if kind == WORD:
                self._word(token)
            elif kind == PUNCT:
                self._punct(token.text)
            elif kind == OP:
                self._op(token.text)
            elif kind == QUOTED:
                self._name()
            else:
                self._literal(token)

    def _literal(self, token: Token) -> None:
        if token.kind == STRING:
            self.out.append(f"'s{self.at}'")
        elif token.kind == PARAM:
            self.out.append(token.text)
        else:
            self.out.append(token.text if token.text.isdigit() else "0.5")
        self.at += 1
        if self.word(0) == "," and self.word(-2) in ("(", ",", "[") and self.frames[-1][0] in ("(", "[", "VALUES"):
            self._cut_literals()

    def _cut_literals(self) -> None:
        """Drop the later members of a bracketed run `1, 'a', $1, …` that holds literals only, from its second comma on."""
        at, count = self.at, 0
        while at + 1 < self.end and self.tokens[at].text == "," and _is_literal(self.tokens[at + 1]):
            at, count = at + 2, count + 1
        if count > KEPT_LITERALS and at < self.end and self.tokens[at].text in (")", "]"):
            self.at = at

    def _punct(self, text: str) -> None:
        if text == "(":
            self._open()
        elif text == ")":
            if self.frames[-1][0] == "CAST":
                raise Unreadable("a CAST without a type")
            opener = self.frames.pop()[0]
            self.out.append(")")
            self.at += 1
            if opener == "USING" and self.word(0) == "AS" and self.kind(1) in (WORD, QUOTED):
                self.at += 2  # JOIN … USING (a) AS x
            if self.kind(0) == STRING:
                raise Unreadable("a string after a closing parenthesis")
            if self.word(0) == "," and self.word(1) == "(":
                self._cut_rows()
        elif text == "[":
            is_subscript = self.kind(-1) in (WORD, QUOTED, PARAM) or self.word(-1) in (")", "]")
            if is_subscript and self.word(-1) != "ARRAY":
                self.out.append("-")
            self.frames.append(["[", "", ""])
            self.out.append("(")
            self.at += 1
        elif text == "]":
            if self.frames.pop()[0] != "[":
                raise Unreadable("brackets do not pair")
            if self.out[-1] == "-":
                self.out.append("1")
            self.out.append(")")
            self.at += 1
        elif text in (",", "."):
            self.out.append(text)
            self.at += 1
        elif text == ":" and self.frames[-1][0] == "[":
            self.out.append("-")
            self.at += 1
        elif text == "::":
            parts, self.at = skip_type(self.tokens, self.at + 1)
            self.result.types.append(parts)
        else:
            raise Unreadable("punctuation that no query holds here")

    def _open(self) -> None:
        before = self.word(-1)
        opener = before if before in _CALL_SYNTAX or before in ("CAST", "TREAT", "OVER", "VALUES", "USING") else "("
        if opener == "TREAT":
            opener = "CAST"
        if before == "AS" and self.word(-3) in ("WINDOW", ","):
            opener = "OVER"
        self.frames.append([opener, "", ""])
        self.out.append("(")
        self.at += 1
        if opener == "EXTRACT":
            if self.kind(0) not in (WORD, STRING, QUOTED) or self.word(1) != "FROM":
                return
            self.at += 2
        elif opener == "TRIM" and self.word(0) in ("BOTH", "LEADING", "TRAILING"):
            self.at += 1

    def _cut_rows(self) -> None:
        """Drop later rows of `VALUES (…), (…), …` that hold literals only; the ones left show the shape."""
        if self.frames[-1][1] != "VALUES":
            return
        at, kept = self.at, self.at
        while at + 1 < self.end and self.tokens[at].text == "," and self.tokens[at + 1].text == "(":
            at += 2
            while at < self.end and (_is_literal(self.tokens[at]) or self.tokens[at].text in (",", "-", "+")):
                at += 1
            if at >= self.end or self.tokens[at].text != ")":
                break
            at += 1
            kept = at
        self.at = kept

    def _op(self, text: str) -> None:
        before = self.word(-1)
        if text == "=>":
            raise Unreadable("a named argument in a place that is not read")
        self.result.operators.append(("", text))
        if text == "*" and self.word(1) in _AFTER_STAR and self.kind(-1) in (WORD, QUOTED) and self._is_name(-1):
            self.at += 1  # FROM t *: the old spelling of "with children"
            return
        if text == "*" and not self._is_star(before):
            text = "-"
        self.out.append(text if text in _COMPARISONS else "-")
        self.at += 1
        if before == "USING" and self.frames[-1][1] == "ORDER":
            del self.out[-2:]

    def _is_star(self, before: str) -> bool:
        """`*` for all columns, not for times."""
        return (
            before in RESERVED
            or before in (".", ",", "(")
            or (self.word(1) in _AFTER_STAR and self.kind(1) not in (STRING, QUOTED))
        )

    def _is_name(self, offset: int) -> bool:
        index = self.at + offset
        return bool(self.names[index]) or self.tokens[index].text not in RESERVED

    def _name(self) -> None:
        """Write the name at hand; before it, see whether it begins a typed literal (`date '2020-01-01'`) or names an argument."""
        index = self.at
        if self.word(-1) != ".":
            last = index
            while (
                last + 2 < self.end
                and self.tokens[last + 1].text == "."
                and self.tokens[last + 2].kind in (WORD, QUOTED)
            ):
                last += 2
            if last + 1 < self.end and self.tokens[last + 1].kind == STRING:
                self.result.types.append(tuple(t.value or "" for t in self.tokens[index : last + 1 : 2]))
                self.at = last + 1
                return
        following = self.word(1)
        if following in ("=>", ":=") and self.word(-1) in ("(", ",", "SELECT"):
            self.result.has_named_arguments = True
            self.at += 2
            return
        self.out.append(f'"~{index}"')
        self.names[index] = 1
        self.at += 1
        if following == "(":
            self.result.calls.append(index)

    def _word(self, token: Token) -> None:
        text = token.text
        before, after = self.word(-1), self.word(1)
        if before == "." or (before == "AS" and self._names_alias()):
            self._name()
            return
        opener = self.frames[-1][0]
        if opener in _CALL_SYNTAX and text in _CALL_SYNTAX[opener]:
            if self.out[-1] != "(":
                self.out.append(",")
            self.at += 1
            return
        rule = _RULES.get(text)
        if rule is not None and rule(self, before, after):
            return
        if text in _PASSED:
            is_call = text in ("LEFT", "RIGHT") or (text in ("LIKE", "ILIKE") and not self._follows_operand(before))
            if is_call and after == "(":
                self._name()
                return
            self._keyword(text)
        elif text in FIRST_WORDS and after not in (".", ",", ")"):
            self._type_word(text)
        elif text in RESERVED or (text in TYPE_FUNC_NAMES and after != "("):
            raise Unreadable("a keyword in a place that is not read")
        else:
            self._name()

    def _follows_operand(self, before: str) -> bool:
        index = self.at - 1
        is_name = index >= 0 and (self.names[index] == 1 or self.kind(-1) in (QUOTED, STRING, NUMBER, PARAM))
        return is_name or before in (")", "]", "NOT", "END", "NULL", "TRUE", "FALSE") or before in _CONSTANT_WORDS

    def _keyword(self, text: str, steps: int = 1) -> None:
        frame = self.frames[-1]
        if text in _CLAUSES and not (text == "ON" and frame[1] != "FROM"):
            frame[1] = text
        elif text == "JOIN":
            frame[1] = "FROM"
        self.out.append(text)
        self.at += steps

    def _type_word(self, text: str) -> None:
        try:
            parts, after = skip_type(self.tokens, self.at)
        except Unreadable:
            self._name()
            return
        if after < self.end and self.tokens[after].kind == STRING:
            self.result.types.append(parts)
            self.out.append(f"'s{after}'")
            self.at = after + 1
            if text == "INTERVAL":
                self.at = skip_interval_fields(self.tokens, self.at)
            return
        self._name()

    def _names_alias(self) -> bool:
        """After AS: a name, unless it is a CTE's `AS [NOT] MATERIALIZED (` or a cast's type."""
        text, after = self.word(0), self.word(1)
        if self.frames[-1][0] == "CAST":
            return False
        if text == "MATERIALIZED" and after == "(":
            return False
        return not (text == "NOT" and after == "MATERIALIZED" and self.word(2) == "(")

    # Rules for single words: they return False where the word is read in the ordinary way.

    def rule_as(self, before: str, after: str) -> bool:
        if self.frames[-1][0] == "CAST":
            parts, self.at = skip_type(self.tokens, self.at + 1)
            self.result.types.append(parts)
            if self.word(0) != ")":
                raise Unreadable("a CAST that does not end after its type")
            self.frames[-1][0] = "("
            return True
        skip = 1 if after == "MATERIALIZED" and self.word(2) == "(" else 0
        if after == "NOT" and self.word(2) == "MATERIALIZED" and self.word(3) == "(":
            skip = 2
        if skip:
            self.out.append("AS")
            self.at += 1 + skip
            return True
        return False

    def rule_cast(self, before: str, after: str) -> bool:
        if after != "(":
            raise Unreadable("a keyword in a place that is not read")
        self.at += 1
        return True

    def rule_array(self, before: str, after: str) -> bool:
        if after == "[" or after == "(":
            self.out.append('"~array"')
        else:
            raise Unreadable("a keyword in a place that is not read")
        self.at += 1
        return True

    def rule_row(self, before: str, after: str) -> bool:
        if after == "(":
            self.out.append('"~row"')
            self.at += 1
            return True
        if after == "ONLY":
            self.at += 2
            return True
        if after == "WITH" and self.word(2) == "TIES":
            self.at += 3
            return True
        if self.frames[-1][1] == "OFFSET" and (self.kind(-1) in (NUMBER, PARAM) or before == ")"):
            self.at += 1
            return True
        if self.frames[-1][0] == "OVER" and before == "CURRENT":
            self._keyword("ROW")
            return True
        return False

    def rule_rows(self, before: str, after: str) -> bool:
        if self.word(0) == "ROWS" and self.rule_row(before, after if after != "(" else ""):
            return True
        if self.word(0) == "ROWS" and after == "FROM" and self.word(2) == "(":
            self._keyword("ROWS")
            return True
        is_frame = after in ("BETWEEN", "UNBOUNDED", "CURRENT", "(") or self.kind(1) in (NUMBER, PARAM, STRING)
        if self.frames[-1][0] == "OVER" and is_frame and before not in (",", "BY"):
            self.frames[-1][1] = "FRAME"
            self._keyword(self.word(0))
            return True
        return False

    def rule_frame(self, before: str, after: str) -> bool:
        if self.frames[-1][1] != "FRAME":
            if self.word(0) == "CURRENT" and after == "OF":
                if self.kind(2) not in (WORD, QUOTED):
                    raise Unreadable("CURRENT OF without a cursor")
                self.result.is_current_of = True
                self.out.append(f'"~{self.at}"')
                self.at += 3
                return True
            return False
        if self.word(0) == "EXCLUDE":
            if (after, self.word(2)) not in (("CURRENT", "ROW"), ("NO", "OTHERS"), (after, ")")):
                raise Unreadable("a window frame that is not read")
            self.at += 2 if after in ("GROUP", "TIES") else 3
            return True
        self._keyword(self.word(0))
        return True

    def rule_over(self, before: str, after: str) -> bool:
        if before == ")" and (after == "(" or self.kind(1) in (WORD, QUOTED)) and after not in RESERVED:
            self._keyword("OVER")
            return True
        return False

    def rule_filter(self, before: str, after: str) -> bool:
        if before == ")" and after == "(" and self.word(2) == "WHERE":
            self._keyword("FILTER")
            return True
        return False

    def rule_within(self, before: str, after: str) -> bool:
        if before == ")" and after == "GROUP" and self.word(2) == "(":
            self.out.append("WITHIN GROUP")
            self.at += 2
            return True
        return False

    def rule_by(self, before: str, after: str) -> bool:
        if before in ("GROUP", "ORDER") or (before == "PARTITION" and self.out[-1] == "PARTITION"):
            self._keyword("BY")
            return True
        if before == "MATCHED" and after in ("SOURCE", "TARGET"):
            self.out.append("BY " + after)
            self.at += 2
            return True
        return False

    def rule_partition(self, before: str, after: str) -> bool:
        if after == "BY" and self.frames[-1][0] == "OVER":
            self._keyword("PARTITION")
            return True
        return False

    def rule_group_function(self, before: str, after: str) -> bool:
        if after == "(" and self.frames[-1][1] == "GROUP":
            self._keyword(self.word(0))
            return True
        if self.word(0) == "GROUPING" and after == "SETS" and self.word(2) == "(":
            self.out.append("GROUPING SETS")
            self.at += 2
            return True
        return False

    def rule_nulls(self, before: str, after: str) -> bool:
        if after in ("FIRST", "LAST") and self.frames[-1][1] in ("ORDER", ""):
            self.at += 2
            return True
        return False

    def rule_on(self, before: str, after: str) -> bool:
        if after == "CONFLICT":
            self.out.append("ON CONFLICT")
            self.at += 2
            return True
        return False

    def rule_do(self, before: str, after: str) -> bool:
        if after == "NOTHING":
            self.out.append("DO NOTHING")
            self.at += 2
            return True
        if after == "UPDATE" and self.word(2) == "SET":
            self.out.append("DO UPDATE SET")
            self.frames[-1][1] = "SET"
            self.at += 3
            return True
        raise Unreadable("a keyword in a place that is not read")

    def rule_verb(self, before: str, after: str) -> bool:
        """INSERT, UPDATE, DELETE, MERGE: keywords where a statement or a MERGE action begins, else names."""
        text = self.word(0)
        if before == "THEN" and self.frames[-1][2] == "MERGE":
            self.result.verbs[text] += 1
            self._keyword(text)
            if text == "UPDATE":
                if self.word(0) != "SET":
                    raise Unreadable("a keyword in a place that is not read")
                self._keyword("SET")
            return True
        if before not in ("", "(", ")"):
            return False
        follows = {"INSERT": "INTO", "DELETE": "FROM", "MERGE": "INTO"}.get(text)
        if follows is not None:
            if after != follows:
                return False
        elif (before == ")" and self.frames[-1][1] != "WITH") or (
            (self.kind(1) not in (WORD, QUOTED) or after in RESERVED) and after != "ONLY"
        ):
            return False
        self.result.verbs[text] += 1
        self._keyword(text)
        self.frames[-1][1] = self.frames[-1][2] = text
        return True

    def rule_set(self, before: str, after: str) -> bool:
        if self.frames[-1][1] == "UPDATE":
            self._keyword("SET")
            self.frames[-1][1] = "SET"
            return True
        return False

    def rule_matched(self, before: str, after: str) -> bool:
        if self.frames[-1][2] == "MERGE" and (before == "WHEN" or (before == "NOT" and self.word(-2) == "WHEN")):
            self._keyword("MATCHED")
            return True
        return False

    def rule_with(self, before: str, after: str) -> bool:
        if after == "ORDINALITY":
            self.out.append("WITH ORDINALITY")
            self.at += 2
            return True
        if before == "RETURNING":
            raise Unreadable("a RETURNING clause in a form that is not read")
        self._keyword("WITH")
        self.frames[-1][1] = "WITH"
        if after == "RECURSIVE":
            self._keyword("RECURSIVE")
        return True

    def rule_values(self, before: str, after: str) -> bool:
        if after == "(" or before == "DEFAULT":
            self._keyword("VALUES")
            return True
        return False

    def rule_overriding(self, before: str, after: str) -> bool:
        if after in ("SYSTEM", "USER") and self.word(2) == "VALUE" and self.frames[-1][2] in ("INSERT", "MERGE"):
            self.at += 3
            return True
        return False

    def rule_table(self, before: str, after: str) -> bool:
        if before not in ("", "(", ")", "UNION", "EXCEPT", "INTERSECT", "ALL", "DISTINCT"):
            raise Unreadable("a keyword in a place that is not read")
        if self.kind(1) not in (WORD, QUOTED) and after != "ONLY":
            raise Unreadable("a keyword in a place that is not read")
        self.out.append("SELECT * FROM")
        self.frames[-1][1] = "FROM"
        self.at += 1
        return True

    def rule_into(self, before: str, after: str) -> bool:
        if self.frames[-1][1] in ("SELECT", "UNION", "EXCEPT", "INTERSECT"):
            self.out.append("INTO")
            self.at += 1
            if self.word(0) in ("LOCAL", "GLOBAL") and self.word(1) in ("TEMP", "TEMPORARY"):
                self.at += 1
            names_table = self.kind(1) in (WORD, QUOTED) and (self.word(1) not in RESERVED or self.word(1) == "TABLE")
            if self.word(0) in ("TEMP", "TEMPORARY", "UNLOGGED") and names_table:
                self.at += 1
            if self.word(0) == "TABLE":
                self.at += 1
            if self.kind(0) not in (WORD, QUOTED):
                raise Unreadable("INTO without a table")
            self._name()
            return True
        return False

    def rule_only(self, before: str, after: str) -> bool:
        self.at += 1
        if after == "(":
            depth = self.at + 1
            while depth + 1 < self.end and self.tokens[depth + 1].text == ".":
                depth += 2
            if (
                depth + 1 >= self.end
                or self.tokens[depth + 1].text != ")"
                or self.tokens[depth].kind not in (WORD, QUOTED)
            ):
                raise Unreadable("ONLY without a table")
            self.at += 1
            while self.at < depth + 1:
                token = self.tokens[self.at]
                self.out.append("." if token.text == "." else f'"~{self.at}"')
                self.names[self.at] = 1
                self.at += 1
            self.at += 1
        return True

    def rule_limit(self, before: str, after: str) -> bool:
        self._keyword("LIMIT")
        if after == "ALL":
            self.out.append("NULL")
            self.at += 1
        return True

    def rule_fetch(self, before: str, after: str) -> bool:
        if after not in ("FIRST", "NEXT"):
            raise Unreadable("a keyword in a place that is not read")
        self._keyword("LIMIT", 2)
        self.frames[-1][1] = "OFFSET"
        if self.word(0) in ("ROW", "ROWS"):
            self.out.append("1")
        return True

    def rule_for(self, before: str, after: str) -> bool:
        """A locking clause goes: it names tables that are in FROM already."""
        self.at += 1
        for words in (("UPDATE",), ("NO", "KEY", "UPDATE"), ("SHARE",), ("KEY", "SHARE"), ("READ", "ONLY")):
            if tuple(self.word(i) for i in range(len(words))) == words:
                self.at += len(words)
                break
        else:
            raise Unreadable("a keyword in a place that is not read")
        self.result.has_row_lock = True
        if self.word(0) == "OF":
            self.at += 1
            self._skip_name()
            while self.word(0) == ",":
                self.at += 1
                self._skip_name()
        if self.word(0) == "NOWAIT":
            self.at += 1
        elif self.word(0) == "SKIP" and self.word(1) == "LOCKED":
            self.at += 2
        return True

    def _skip_name(self) -> tuple[str, ...]:
        parts = []
        while True:
            if self.kind(0) not in (WORD, QUOTED):
                raise Unreadable("a name is missing")
            parts.append(self.tokens[self.at].value or "")
            self.names[self.at] = 1
            self.at += 1
            if self.word(0) != ".":
                return tuple(parts)
            self.at += 1

    def rule_tablesample(self, before: str, after: str) -> bool:
        self.at += 1
        method = self._skip_name()
        if method[-1] not in ("system", "bernoulli") or len(method) > 2:
            raise Unreadable("a sampling method that is not built in")
        for _ in range(2):
            if self.word(0) != "(" or self.kind(1) not in (NUMBER, PARAM) or self.word(2) != ")":
                raise Unreadable("a sampling argument that is not a constant")
            self.at += 3
            if self.word(0) != "REPEATABLE":
                break
            self.at += 1
        return True

    def rule_collate(self, before: str, after: str) -> bool:
        self.at += 1
        self._skip_name()
        return True

    def rule_at(self, before: str, after: str) -> bool:
        if after == "TIME" and self.word(2) == "ZONE":
            self.out.append("-")
            self.at += 3
            return True
        if after == "LOCAL" and (self.kind(-1) in (STRING, PARAM) or before == ")" or self._is_name(-1)):
            self.at += 2
            return True
        return False

    def rule_operator(self, before: str, after: str) -> bool:
        start = self.at
        if after != "(":
            return False
        self.at += 2
        schema = ""
        while self.kind(0) in (WORD, QUOTED) and self.word(1) == ".":
            schema = self.tokens[self.at].value or ""
            self.at += 2
        if self.kind(0) != OP or self.word(1) != ")":
            self.at = start
            return False
        operator = self.word(0)
        self.result.operators.append((schema, operator))
        self.out.append(operator if operator in _COMPARISONS and operator != "*" else "-")
        self.at += 2
        return True

    def rule_is(self, before: str, after: str) -> bool:
        step = 2 if after == "NOT" else 1
        what = self.word(step)
        if what in ("JSON", "DOCUMENT", "NORMALIZED", "NFC", "NFD", "NFKC", "NFKD"):
            return self._skip_predicate(step)
        if what not in ("NULL", "TRUE", "FALSE", "UNKNOWN", "DISTINCT"):
            raise Unreadable("a test with IS that is not read")
        self.out.append("IS NOT" if step == 2 else "IS")
        self.at += step
        if what == "UNKNOWN":
            self.out.append("NULL")
            self.at += 1
        elif what == "DISTINCT":
            if self.word(1) != "FROM":
                raise Unreadable("a test with IS that is not read")
            self.out.append("DISTINCT FROM")
            self.at += 2
        return True

    def _skip_predicate(self, step: int) -> bool:
        self.at += step + 1
        if self.word(-1) == "JSON":
            if self.word(0) in ("VALUE", "SCALAR", "ARRAY", "OBJECT"):
                self.at += 1
            if self.word(0) in ("WITH", "WITHOUT") and self.word(1) == "UNIQUE":
                self.at += 3 if self.word(2) == "KEYS" else 2
        elif self.word(-1) not in ("DOCUMENT", "NORMALIZED"):
            if self.word(0) != "NORMALIZED":
                raise Unreadable("a test with IS that is not read")
            self.at += 1
        self.out.append("IS NOT NULL" if step == 2 else "IS NULL")
        return True

    def rule_isnull(self, before: str, after: str) -> bool:
        self.out.append("IS NULL" if self.word(0) == "ISNULL" else "IS NOT NULL")
        self.at += 1
        return True

    def rule_overlaps(self, before: str, after: str) -> bool:
        self.out.append("=")
        self.at += 1
        return True

    def rule_escape(self, before: str, after: str) -> bool:
        if (self.kind(1) in (STRING, PARAM)) and (
            self.kind(-1) in (STRING, PARAM, QUOTED) or before == ")" or self._is_name(-1)
        ):
            self.out.append("-")
            self.at += 1
            return True
        return False

    def rule_similar(self, before: str, after: str) -> bool:
        if after != "TO":
            raise Unreadable("a keyword in a place that is not read")
        self.out.append("LIKE")
        self.at += 2
        return True

    def rule_symmetric(self, before: str, after: str) -> bool:
        if before != "BETWEEN":
            raise Unreadable("a keyword in a place that is not read")
        self.at += 1
        return True

    def rule_variadic(self, before: str, after: str) -> bool:
        if before not in ("(", ","):
            raise Unreadable("a keyword in a place that is not read")
        self.at += 1
        return True

    def rule_constant(self, before: str, after: str) -> bool:
        self.out.append(f"'s{self.at}'")
        self.at += 1
        if after == "(":
            if self.kind(1) != NUMBER or self.word(2) != ")":
                raise Unreadable("a keyword in a place that is not read")
            self.at += 3
        return True

    def rule_current_schema(self, before: str, after: str) -> bool:
        return False if after == "(" else self.rule_constant(before, after)

    def rule_all(self, before: str, after: str) -> bool:
        """ALL and SOME behind an operator are read as ANY."""
        if after == "(" and (self.kind(-1) == OP or before in ("LIKE", "ILIKE", ")")):
            self.out.append("ANY")
            self.at += 1
            return True
        return False

    def rule_exists(self, before: str, after: str) -> bool:
        if after == "(":
            self._keyword("EXISTS")
            return True
        raise Unreadable("a keyword in a place that is not read")

    def rule_special_call(self, before: str, after: str) -> bool:
        if after == "(":
            self.result.calls.append(self.at)
            self.out.append(f'"~{self.at}"')
            self.at += 1
            return True
        return False


def _is_literal(token: Token) -> bool:
    return token.kind in (STRING, NUMBER, PARAM) or token.text in _LITERAL_WORDS


_RULES = {
    "AS": _Writer.rule_as,
    "CAST": _Writer.rule_cast,
    "TREAT": _Writer.rule_cast,
    "ARRAY": _Writer.rule_array,
    "ROW": _Writer.rule_row,
    "ROWS": _Writer.rule_rows,
    "RANGE": _Writer.rule_rows,
    "GROUPS": _Writer.rule_rows,
    "UNBOUNDED": _Writer.rule_frame,
    "PRECEDING": _Writer.rule_frame,
    "FOLLOWING": _Writer.rule_frame,
    "CURRENT": _Writer.rule_frame,
    "EXCLUDE": _Writer.rule_frame,
    "OVER": _Writer.rule_over,
    "FILTER": _Writer.rule_filter,
    "WITHIN": _Writer.rule_within,
    "BY": _Writer.rule_by,
    "PARTITION": _Writer.rule_partition,
    "ROLLUP": _Writer.rule_group_function,
    "CUBE": _Writer.rule_group_function,
    "GROUPING": _Writer.rule_group_function,
    "NULLS": _Writer.rule_nulls,
    "ON": _Writer.rule_on,
    "DO": _Writer.rule_do,
    "INSERT": _Writer.rule_verb,
    "UPDATE": _Writer.rule_verb,
    "DELETE": _Writer.rule_verb,
    "MERGE": _Writer.rule_verb,
    "SET": _Writer.rule_set,
    "MATCHED": _Writer.rule_matched,
    "WITH": _Writer.rule_with,
    "VALUES": _Writer.rule_values,
    "OVERRIDING": _Writer.rule_overriding,
    "TABLE": _Writer.rule_table,
    "INTO": _Writer.rule_into,
    "ONLY": _Writer.rule_only,
    "LIMIT": _Writer.rule_limit,
    "FETCH": _Writer.rule_fetch,
    "FOR": _Writer.rule_for,
    "TABLESAMPLE": _Writer.rule_tablesample,
    "COLLATE": _Writer.rule_collate,
    "AT": _Writer.rule_at,
    "OPERATOR": _Writer.rule_operator,
    "IS": _Writer.rule_is,
    "ISNULL": _Writer.rule_isnull,
    "NOTNULL": _Writer.rule_isnull,
    "OVERLAPS": _Writer.rule_overlaps,
    "ESCAPE": _Writer.rule_escape,
    "SIMILAR": _Writer.rule_similar,
    "SYMMETRIC": _Writer.rule_symmetric,
    "ASYMMETRIC": _Writer.rule_symmetric,
    "VARIADIC": _Writer.rule_variadic,
    "EXISTS": _Writer.rule_exists,
    "CURRENT_SCHEMA": _Writer.rule_current_schema,
    "ALL": _Writer.rule_all,
    "SOME": _Writer.rule_all,
    **dict.fromkeys(_CONSTANT_WORDS, _Writer.rule_constant),
    **dict.fromkeys(_CALL_SYNTAX, _Writer.rule_special_call),
}
