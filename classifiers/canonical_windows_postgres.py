"""Rules for the words of window definitions and frames, and of what may follow a call: OVER, FILTER, WITHIN GROUP.

ROW and ROWS are here with their other meanings, as one word has one rule.
"""

from __future__ import annotations

from classifiers.builtins_postgres import RESERVED
from classifiers.canonical_writer_postgres import Rule, Writer
from classifiers.tokens import NUMBER, PARAM, QUOTED, STRING, WORD, Unreadable


def _row(writer: Writer, before: str, after: str) -> bool:
    if after == "(":
        writer.out.append('"~row"')
        writer.at += 1
        return True
    if after == "ONLY":
        writer.at += 2
        return True
    if after == "WITH" and writer.word(2) == "TIES":
        writer.at += 3
        return True
    if writer.frames[-1][1] == "OFFSET" and (writer.kind(-1) in (NUMBER, PARAM) or before == ")"):
        writer.at += 1
        return True
    if writer.frames[-1][0] == "OVER" and before == "CURRENT":
        writer.keyword("ROW")
        return True
    return False


def _rows(writer: Writer, before: str, after: str) -> bool:
    if writer.word(0) == "ROWS" and _row(writer, before, after if after != "(" else ""):
        return True
    if writer.word(0) == "ROWS" and after == "FROM" and writer.word(2) == "(":
        writer.keyword("ROWS")
        return True
    is_frame = after in ("BETWEEN", "UNBOUNDED", "CURRENT", "(") or writer.kind(1) in (NUMBER, PARAM, STRING)
    if writer.frames[-1][0] == "OVER" and is_frame and before not in (",", "BY"):
        writer.frames[-1][1] = "FRAME"
        writer.keyword(writer.word(0))
        return True
    return False


def _frame(writer: Writer, before: str, after: str) -> bool:
    if writer.frames[-1][1] != "FRAME":
        if writer.word(0) == "CURRENT" and after == "OF":
            if writer.kind(2) not in (WORD, QUOTED):
                raise Unreadable("CURRENT OF without a cursor")
            writer.result.is_current_of = True
            writer.out.append(f'"~{writer.at}"')
            writer.at += 3
            return True
        return False
    if writer.word(0) == "EXCLUDE":
        if (after, writer.word(2)) not in (("CURRENT", "ROW"), ("NO", "OTHERS"), (after, ")")):
            raise Unreadable("a window frame that is not read")
        writer.at += 2 if after in ("GROUP", "TIES") else 3
        return True
    writer.keyword(writer.word(0))
    return True


def _over(writer: Writer, before: str, after: str) -> bool:
    if before == ")" and (after == "(" or writer.kind(1) in (WORD, QUOTED)) and after not in RESERVED:
        writer.keyword("OVER")
        return True
    return False


def _filter(writer: Writer, before: str, after: str) -> bool:
    if before == ")" and after == "(" and writer.word(2) == "WHERE":
        writer.keyword("FILTER")
        return True
    return False


def _within(writer: Writer, before: str, after: str) -> bool:
    if before == ")" and after == "GROUP" and writer.word(2) == "(":
        writer.out.append("WITHIN GROUP")
        writer.at += 2
        return True
    return False


def _partition(writer: Writer, before: str, after: str) -> bool:
    if after == "BY" and writer.frames[-1][0] == "OVER":
        writer.keyword("PARTITION")
        return True
    return False


WINDOW_RULES: dict[str, Rule] = {
    "ROW": _row,
    "ROWS": _rows,
    "RANGE": _rows,
    "GROUPS": _rows,
    "UNBOUNDED": _frame,
    "PRECEDING": _frame,
    "FOLLOWING": _frame,
    "CURRENT": _frame,
    "EXCLUDE": _frame,
    "OVER": _over,
    "FILTER": _filter,
    "WITHIN": _within,
    "PARTITION": _partition,
}
