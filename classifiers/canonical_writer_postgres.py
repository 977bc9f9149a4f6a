"""The canonical text of one statement while it is written: where the pass stands, what it has written, what it has noted.

Knows how a name or a keyword is written, not where it is one: that is for canonical_postgres.py and the rules for single words
(canonical_clauses_postgres.py, canonical_windows_postgres.py, canonical_expressions_postgres.py).
"""

from __future__ import annotations

from collections.abc import Callable

from classifiers.builtins_postgres import RESERVED
from classifiers.tokens import QUOTED, STRING, WORD, Token, Unreadable

_CLAUSES = frozenset(
    ["SELECT", "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "RETURNING", "WINDOW", "VALUES", "UNION", "EXCEPT",
     "INTERSECT", "ON"]
)  # fmt: skip
COMPARISONS = frozenset(["=", "<", ">", "<=", ">=", "<>", "!=", "*"])


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


class Writer:
    """The state of one pass. frames: one per open bracket: what opened it, the clause at hand, the verb of the statement in it."""

    __slots__ = ("at", "end", "frames", "names", "out", "result", "tokens")

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

    def is_name(self, offset: int) -> bool:
        index = self.at + offset
        return bool(self.names[index]) or self.tokens[index].text not in RESERVED

    def name(self) -> None:
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

    def skip_name(self) -> tuple[str, ...]:
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

    def keyword(self, text: str, steps: int = 1) -> None:
        frame = self.frames[-1]
        if text in _CLAUSES and not (text == "ON" and frame[1] != "FROM"):
            frame[1] = text
        elif text == "JOIN":
            frame[1] = "FROM"
        self.out.append(text)
        self.at += steps


Rule = Callable[[Writer, str, str], bool]
"""How one word is written where it is a keyword: (writer, word before, word after). False: it is read in the ordinary way."""
