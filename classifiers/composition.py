"""Putting a session's memory into a report: EXECUTE and FETCH get the effects of what their name stands for.

Names are kept as "prepared:x" and "cursor:x", in a mapping that the session owns and replaces; nothing here is mutable.
Protocol-level prepared statements share the server's name space with SQL-level ones: the caller enters them as "prepared:x" too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from classifiers.effects import Effect, Kind, Report


def compose(report: Report, names: Mapping[str, Report]) -> Report:
    """Replace what the report only names by what the names stand for.

    A known name brings its effects and functions, and the `dynamic` of EXECUTE goes unless the inner statement is dynamic itself.
    An unknown one leaves kind `dynamic` with flag unknown_prepared. Names prepared earlier in the same message are known.
    """
    if not report.uses:
        return report
    own = {f"prepared:{name}": inner for name, inner in report.prepares}
    own.update({f"cursor:{name}": inner for name, inner in report.cursors})
    is_wiped = bool(report.deallocates)
    effects: list[Effect] = []
    functions = dict.fromkeys(report.functions)
    is_neutral, is_unknown = report.is_neutral, False
    inner_effects: dict[Effect, None] = {}
    for use in report.uses:
        in_text, known = own.get(use), None if is_wiped else names.get(use)
        found = [each for each in (in_text, known) if each is not None]
        if not found:
            is_unknown = True
        for inner in found:
            inner_effects.update(dict.fromkeys(_without_wrapper(inner.effects)))
            functions.update(dict.fromkeys(inner.functions))
            is_neutral = is_neutral and inner.is_neutral
    for effect in report.effects:
        if effect.kind is Kind.DYNAMIC and not is_unknown and effect.flags <= _WRAPPER_FLAGS:
            continue
        effects.append(effect)
    effects += [effect for effect in inner_effects if effect not in effects]
    if is_unknown:
        effects.append(Effect(Kind.DYNAMIC, flags=frozenset(["unknown_prepared"])))
        is_neutral = False
    return replace(
        report, effects=tuple(effects), functions=tuple(functions), is_neutral=is_neutral,
        reason=report.reason if is_unknown else "",
    )  # fmt: skip


_WRAPPER_FLAGS = frozenset(["prepare", "multi_statement"])


def _without_wrapper(effects: tuple[Effect, ...]) -> list[Effect]:
    return [effect for effect in effects if effect.kind is not Kind.EMPTY]


def remember(report: Report, names: Mapping[str, Report]) -> dict[str, Report]:
    """The names after this text has succeeded.

    A name prepared twice keeps both meanings out of the way: the later wins, as the server refuses the second without DEALLOCATE.
    """
    kept = dict(names)
    for gone in report.deallocates:
        if gone == "*":
            kept = {name: inner for name, inner in kept.items() if not name.startswith("prepared:")}
        elif gone == "cursor:*":
            kept = {name: inner for name, inner in kept.items() if not name.startswith("cursor:")}
        else:
            kept.pop(gone if ":" in gone else f"prepared:{gone}", None)
    kept.update({f"prepared:{name}": inner for name, inner in report.prepares})
    kept.update({f"cursor:{name}": inner for name, inner in report.cursors})
    return kept
