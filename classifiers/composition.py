"""Putting a session's memory into a report: EXECUTE and FETCH get the effects of what their name stands for.

Names are kept as "prepared:x" and "cursor:x", in a dict that the session owns and remember() changes; reports are never changed.
Protocol-level prepared statements share the server's name space with SQL-level ones: the caller enters them as "prepared:x" too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from classifiers.effects import Effect, Kind, Report


def compose(report: Report, names: Mapping[str, Report]) -> Report:
    """Replace what the report only names by what the names stand for.

    A known name brings its effects and functions, and the `dynamic` of the wrapper goes unless what it wraps is dynamic itself: PREPARE of
    a text that could be read, and EXECUTE of a known name, do only what is then listed. An unknown name leaves kind `dynamic`
    with flag unknown_prepared. Names prepared earlier in the same message are known.
    """
    if not report.uses and not report.prepares:
        return report
    own = {f"prepared:{name}": inner for name, inner in report.prepares}
    own.update({f"cursor:{name}": inner for name, inner in report.cursors})
    is_wiped = bool(report.deallocates)
    functions = dict.fromkeys(report.functions)
    is_neutral, is_unknown = True, False
    inner_effects: dict[Effect, None] = {}
    for use in report.uses:
        in_text, known = own.get(use), None if is_wiped else names.get(use)
        found = [each for each in (in_text, known) if each is not None]
        if not found:
            is_unknown = True
        for inner in found:
            inner_effects.update(dict.fromkeys(inner.effects))
            functions.update(dict.fromkeys(inner.functions))
            is_neutral = is_neutral and inner.is_neutral
    effects = [e for e in report.effects if is_unknown or e.kind is not Kind.DYNAMIC or not e.flags <= _WRAPPER_FLAGS]
    wrapper = frozenset().union(*(e.flags for e in report.effects if e.kind is Kind.DYNAMIC and e not in effects))
    known_effects = [replace(effect, flags=effect.flags | wrapper) if wrapper else effect for effect in inner_effects]
    effects += [effect for effect in known_effects if effect not in effects]
    if is_unknown:
        effects.append(Effect(Kind.DYNAMIC, flags=frozenset(["unknown_prepared"])))
    has_other_doubt = any(effect.kind in (Kind.DYNAMIC, Kind.UNPARSABLE) for effect in effects)
    return replace(
        report,
        effects=tuple(effects),
        functions=tuple(functions),
        is_neutral=is_neutral and not is_unknown and report.is_neutral,
        reason=report.reason if has_other_doubt else "",
    )


_WRAPPER_FLAGS = frozenset(["prepare", "multi_statement"])


def remember(report: Report, names: dict[str, Report]) -> dict[str, Report]:
    """Change the names to what they are after this text has succeeded; returns the same dict.

    A name prepared twice means the later one; the server takes the second only after a DEALLOCATE. To be called only once the server has
    answered without an error, and kept across ROLLBACK, which does not undo PREPARE. Costs nothing for the names that stay, unless
    all are forgotten: a session may prepare thousands.
    """
    for gone in report.deallocates:
        if gone in ("*", "cursor:*"):
            prefix = "prepared:" if gone == "*" else "cursor:"
            for name in [name for name in names if name.startswith(prefix)]:
                del names[name]
        else:
            names.pop(gone, None)
    for name, inner in report.prepares:
        names[f"prepared:{name}"] = inner
    for name, inner in report.cursors:
        names[f"cursor:{name}"] = inner
    return names
