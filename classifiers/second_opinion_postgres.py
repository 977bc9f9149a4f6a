"""Which names stand where a table stands, from the tokens alone. An independent reading that the parse tree must agree with.

Knows nothing of the tree and shares no code with canonical_postgres.py, so that one mistake cannot hide in both.
"""

from __future__ import annotations

from classifiers.tokens import QUOTED, WORD, Token

_ENDS_FROM = frozenset(
    ["WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "OFFSET", "FETCH", "FOR", "UNION", "EXCEPT", "INTERSECT", "WINDOW", "RETURNING",
     "VALUES", "SELECT", "SET", "WHEN"]
)  # fmt: skip
_CALLS_WITH_FROM = frozenset(["EXTRACT", "TRIM", "SUBSTRING", "OVERLAY"])
_NAMES_NO_TABLE = frozenset(["SELECT", "VALUES", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "DEFAULT"])


def find_table_positions(tokens: list[Token]) -> frozenset[int]:
    """Indexes of the tokens that are the last part of a name in a table's place: after FROM, JOIN, INTO, UPDATE, USING,
    TABLE, or a comma of a FROM list. Functions in FROM and column lists are left out.
    """
    found: set[int] = set()
    # one frame per parenthesis: [in a FROM list, a table may come next, opened by a call with FROM inside]
    frames: list[list[bool]] = [[False, False, False]]
    at, end = 0, len(tokens)

    def text(index: int) -> str:
        return tokens[index].text if 0 <= index < end else ""

    while at < end:
        token = tokens[at]
        word = token.text
        frame = frames[-1]
        before = "" if text(at - 2) == "." else text(at - 1)  # t.as is no AS
        if before == "." or (before == "AS" and token.kind == WORD and word not in ("MATERIALIZED", "NOT")):
            frame[1] = False
        elif word == "(":
            frames.append([frame[1], frame[1], before in _CALLS_WITH_FROM])
            frame[1] = False
        elif word == ")":
            if len(frames) > 1:
                frames.pop()
        elif word == "CYCLE" and (end_at := _cycle_end(tokens, at)):
            at = end_at  # its USING names a column
        elif word == "FROM":
            is_distinct = before == "DISTINCT" and (
                text(at - 2) == "IS" or (text(at - 2) == "NOT" and text(at - 3) == "IS")
            )
            if not is_distinct and not frame[2]:
                frame[0] = frame[1] = True
        elif (
            word == "JOIN"
            or (word == "TABLE" and before not in ("INTO", "TEMP", "TEMPORARY", "UNLOGGED"))
            or word == "INTO"
        ):
            frame[1] = True
        elif word == "UPDATE" and before in ("", "(", ")") and (_is_name(tokens, at + 1) or text(at + 1) == "ONLY"):
            frame[1] = text(at + 1) != "FROM"
        elif word == "USING":
            follows = tokens[at + 1].kind if at + 1 < end else 0
            if follows in (WORD, QUOTED) or (text(at + 1) == "(" and text(at + 2) in _NAMES_NO_TABLE):
                frame[0] = frame[1] = at > 0
        elif word == "WITH" and text(at + 1) == "ORDINALITY":
            at += 1
        elif word == ",":
            frame[1] = frame[0]
        elif word in _ENDS_FROM or word == "WITH":
            frame[0] = frame[1] = False
        elif (
            frame[1]
            and word in ("TEMP", "TEMPORARY", "UNLOGGED", "LOCAL", "GLOBAL")
            and text(at - 1) in ("INTO", "LOCAL", "GLOBAL")
        ):
            frame[1] = True if _is_name(tokens, at + 1) else _take(tokens, at, found)
        elif frame[1] and word in ("ONLY", "LATERAL", "TABLE"):
            pass
        elif frame[1] and word == "ROWS" and text(at + 1) == "FROM":
            frame[1] = False
            at += 2
            frames.append([False, False, True])
        elif frame[1] and token.kind in (WORD, QUOTED):
            last = at
            while text(last + 1) == "." and last + 2 < end:
                last += 2
            opens = text(last + 1) == "("
            if not opens or text(at - 1) == "INTO":
                found.add(last)
            frame[1] = False
            at = last
        else:
            frame[1] = False
        at += 1
    return frozenset(found)


def _cycle_end(tokens: list[Token], at: int) -> int:
    """Index of the name behind the USING of `CYCLE a, b SET c [TO x DEFAULT y] USING p`, 0 if this is none."""
    words = [token.text for token in tokens[at + 1 : at + 60]]
    names = [token.kind in (WORD, QUOTED) for token in tokens[at + 1 : at + 60]]
    index = 0
    while index + 1 < len(words) and names[index] and words[index] != "SET" and words[index + 1] == ",":
        index += 2
    if index + 3 >= len(words) or not names[index] or words[index + 1] != "SET" or not names[index + 2]:
        return 0
    index += 3
    if words[index] == "TO" and words[index + 2 : index + 3] == ["DEFAULT"]:
        index += 4
    return at + index + 2 if words[index : index + 1] == ["USING"] and any(names[index + 1 : index + 2]) else 0


def _is_name(tokens: list[Token], at: int) -> bool:
    return at < len(tokens) and tokens[at].kind in (WORD, QUOTED) and tokens[at].text not in ("FROM", "AS")


def _take(tokens: list[Token], at: int, found: set[int]) -> bool:
    found.add(at)
    return False
