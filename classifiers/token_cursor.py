"""A reading position in a token list, for the hand-written rules of utility statements."""

from __future__ import annotations

from classifiers.tokens import NUMBER, OP, PARAM, QUOTED, STRING, WORD, Token, Unreadable, join_name


class TokenCursor:
    """Words are compared by their upper-case spelling; nothing quoted ever equals a word."""

    __slots__ = ("at", "end", "tokens")

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.end = len(tokens)

    @property
    def is_done(self) -> bool:
        return self.at >= self.end

    def word(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index].text if index < self.end else ""

    def kind(self, ahead: int = 0) -> int:
        index = self.at + ahead
        return self.tokens[index].kind if index < self.end else 0

    def value(self, ahead: int = 0) -> str | None:
        return self.tokens[self.at + ahead].value

    def accept(self, *words: str) -> bool:
        """Step over these words if they stand next, all of them in order."""
        for ahead, word in enumerate(words):
            if self.word(ahead) != word:
                return False
        self.at += len(words)
        return True

    def accept_any(self, *words: str) -> str:
        """Step over one of these words; returns it, or ""."""
        word = self.word()
        if word and word in words:
            self.at += 1
            return word
        return ""

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            raise Unreadable("a word is missing")

    def expect_done(self) -> None:
        if self.at < self.end:
            raise Unreadable("more words than the statement takes")

    @property
    def is_name(self) -> bool:
        return self.kind() in (WORD, QUOTED)

    def name(self) -> str:
        """One name, quoted or not."""
        if not self.is_name:
            raise Unreadable("a name is missing")
        value = self.tokens[self.at].value or ""
        self.at += 1
        return value

    def parts(self) -> tuple[str, ...]:
        """A qualified name, as its parts."""
        parts = [self.name()]
        while self.word() == ".":
            self.at += 1
            parts.append(self.name())
        return tuple(parts)

    def dotted(self) -> str:
        return join_name(self.parts())

    def string(self) -> str | None:
        if self.kind() != STRING:
            raise Unreadable("a string is missing")
        value = self.tokens[self.at].value
        self.at += 1
        return value

    def skip_constant(self) -> bool:
        """Step over a string, a number with an optional sign, or a parameter."""
        signed = self.kind() == OP and self.word() in ("-", "+") and self.kind(1) == NUMBER
        if signed or self.kind() in (STRING, NUMBER, PARAM):
            self.at += 2 if signed else 1
            return True
        return False

    def inside(self) -> list[Token]:
        """Step over a parenthesised part; returns the tokens between the parentheses."""
        if self.word() != "(":
            raise Unreadable("a parenthesis is missing")
        depth, start = 0, self.at + 1
        while self.at < self.end:
            text = self.tokens[self.at].text
            self.at += 1
            if text in ("(", "["):
                depth += 1
            elif text in (")", "]"):
                depth -= 1
                if depth == 0:
                    return self.tokens[start : self.at - 1]
        raise Unreadable("a parenthesis does not end")

    def rest(self) -> list[Token]:
        """Everything that is left, and step to the end."""
        tokens = self.tokens[self.at :]
        self.at = self.end
        return tokens
