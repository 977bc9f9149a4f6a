"""The decision: a pure function of policy, report and context.

Every key of a condition has three answers: met, not met, cannot be known. Doubt counts against the statement: a rule that restricts fires
when its `match` may be met and its `unless` is not certainly met; an `allow` rule needs certainty, for every effect.
Counterpart: the slow evaluator in tests/dbproxy/policy/reference.py.
"""

from __future__ import annotations

from classifiers.effects import Effect, Kind, NameCase, Report
from dbproxy.policy.globs import NamePattern, loosen, readings
from dbproxy.policy.model import STRENGTH, Action, Condition, Context, Decision, Hit, Mode, Policy, Rule, Severity

TEXT_FLAGS = frozenset(
    [
        "multi_statement",
        "executable_comment",
        "explain",
        "explain_analyze",
        "secret_literal",
        "prepare",
        "cursor",
        "dynamic_sql",
        "unknown_function",
        "unknown_prepared",
        "function_side_effect",
        "resource_abuse",
    ]
)
"""Flags that speak of the text as a whole; for `match` it does not matter which of its effects carries them."""

UNSEEN_FLAGS = frozenset({"unknown_function", "unknown_prepared"})
"""Flags that say that code runs whose effect cannot be seen, whatever the kind."""

TEXT_KINDS = frozenset({Kind.BULK_EXPORT, Kind.FILE_ACCESS, Kind.METADATA, Kind.ADMIN, Kind.DYNAMIC, Kind.UNPARSABLE})
"""Kinds of acts that may concern every object of the text when none is named: `COPY (SELECT … FROM customers) TO …` exports customers."""

PERMITTED_WITH = ("name", "former name of ", "view ", "materialized view ", "partition of ", "child of ", "parent of ", "foreign table ", "unresolved ")  # fmt: skip
"""Beginnings of Effect.via: other names and parts of an object, and what it shows. Whoever is allowed to use it, is allowed this."""

_ONLY_FUNCTION = frozenset({"unknown_function"})
_VISIBLE_PREPARE = frozenset({"prepare", "multi_statement"})


def decide(policy: Policy, report: Report, context: Context) -> Decision:
    """Decide about one statement. Order of rules does not matter.

    Raises only if the policy is broken; the caller then applies policy.on_error.
    """
    effects = report.effects
    index = policy.index
    candidates = set(index.always)
    by_flag, by_kind, by_name = index.by_flag, index.by_kind, index.by_name
    is_written = context.name_case is NameCase.WRITTEN
    if not is_written:
        by_name = index.by_loose_name
    is_unparsable = not effects  # a report that says nothing vouches for nothing
    is_dynamic = False
    for effect in effects:
        kind, flags = effect.kind, effect.flags
        if kind in by_kind:
            candidates.update(by_kind[kind])
        if flags:
            for flag in flags:
                if flag in by_flag:
                    candidates.update(by_flag[flag])
            if not is_dynamic and not flags.isdisjoint(UNSEEN_FLAGS):
                is_dynamic = True
        if by_name and effect.object:
            name = effect.object if is_written else loosen(effect.object)
            if "." not in name and '"' not in name:
                candidates.update(by_name.get(name, ()))
            else:
                for _, last in readings(name):
                    candidates.update(
                        by_name.get(last, ()) if last != "*" else (at for each in by_name.values() for at in each)
                    )
        if kind is Kind.UNPARSABLE:
            is_unparsable = True
        elif kind is Kind.DYNAMIC and not is_dynamic:
            is_dynamic = not _is_visible_prepare(effect, report)

    hits: list[Hit] = []
    text_flags: frozenset[str] | None = None
    is_allowed = False
    for at in candidates:
        rule = policy.rules[at]
        if rule.action is Action.ALLOW:
            matched = _allows(rule, report, context)
            is_allowed = is_allowed or (matched is not None and rule.mode is Mode.ENFORCE)
        else:
            if text_flags is None:
                text_flags = report.flags & TEXT_FLAGS
            matched = _restricts(rule, report, context, text_flags)
        if matched is not None:
            hits.append(Hit(rule.name, rule.mode, rule.action, rule.severity, matched))
    if is_unparsable:
        hits.append(_default("on_unparsable", policy.on_unparsable, "kind=unparsable"))
    if is_dynamic:
        hits.append(_default("on_dynamic", policy.on_dynamic, "kind=dynamic"))
    if policy.default is not Action.ALLOW and not is_allowed:
        hits.append(_default("action", policy.default, "no rule allows it"))
    if not hits:
        return Decision(Action.ALLOW, (), "", policy.sha256, policy.unsafe)
    if len(hits) > 1:
        hits.sort(key=_order)
    first = hits[0]
    if first.mode is Mode.SHADOW:
        return Decision(Action.ALLOW, tuple(hits), "", policy.sha256, policy.unsafe)
    message = next((policy.rules[at].message for at in candidates if policy.rules[at].name == first.rule), "")
    return Decision(first.action, tuple(hits), message, policy.sha256, policy.unsafe)


def _order(hit: Hit) -> tuple[bool, int, bool, str]:
    # A rule says more than a default: it has a message of its own.
    return hit.mode is Mode.SHADOW, -STRENGTH[hit.action], hit.rule.startswith("defaults."), hit.rule


def _default(name: str, action: Action, matched: str) -> Hit:
    return Hit(f"defaults.{name}", Mode.ENFORCE, action, Severity.MEDIUM, matched)


def _is_visible_prepare(effect: Effect, report: Report) -> bool:
    """A PREPARE whose inner statement was read runs nothing by itself; what it holds is judged when it is executed."""
    return bool(report.prepares) and "prepare" in effect.flags and effect.flags <= _VISIBLE_PREPARE


def _restricts(rule: Rule, report: Report, context: Context, text_flags: frozenset[str]) -> str | None:
    """What matched if the rule fires for any effect, else None."""
    match, unless = rule.match, rule.unless
    for each in match.context:
        if each.test(context) is False:
            return None
    if match.commands is not None and report.statements == 1 and report.command not in match.commands:
        return None  # of several statements only the first one's command is known
    if match.functions is not None and not _any_may(match.functions, report.functions, context):
        return None
    for effect in report.effects:
        if _effect_may(match, effect, report, text_flags, context) and (
            unless is None or not _is_certain(unless, effect, report, context)
        ):
            return _describe(match, effect, report, context)
    return None


def _allows(rule: Rule, report: Report, context: Context) -> str | None:
    """What matched if the rule certainly covers every effect, else None."""
    match, unless = rule.match, rule.unless
    effects = tuple(effect for effect in report.effects if not _is_permitted_with(effect))
    if not effects or not all(_is_certain(match, effect, report, context) for effect in effects):
        return None
    if unless is not None and any(_is_possible(unless, effect, report, context) for effect in effects):
        return None
    return _describe(match, effects[0], report, context)


def _is_permitted_with(effect: Effect) -> bool:
    """What is read because of what the text names is allowed together with that; what runs or writes is not."""
    return effect.via.startswith(PERMITTED_WITH) and effect.kind is not Kind.DYNAMIC


def _is_possible(condition: Condition, effect: Effect, report: Report, context: Context) -> bool:
    if any(each.test(context) is False for each in condition.context):
        return False
    if condition.commands is not None and report.statements == 1 and report.command not in condition.commands:
        return False
    if condition.functions is not None and not _any_may(condition.functions, report.functions, context):
        return False
    return _effect_may(condition, effect, report, report.flags & TEXT_FLAGS, context)


def _effect_may(
    condition: Condition, effect: Effect, report: Report, text_flags: frozenset[str], context: Context
) -> bool:
    if condition.kinds is not None and effect.kind not in condition.kinds:
        return False
    flags = condition.flags
    if flags is not None and flags.isdisjoint(effect.flags) and flags.isdisjoint(text_flags):
        return False
    if condition.tables is None and condition.labels is None:
        return True
    objects = _objects(effect, report)
    if condition.tables is not None and not _any_may(condition.tables, objects, context):
        return False
    return condition.labels is None or any(_any_may(each, objects, context) for _, each in condition.labels)


def _objects(effect: Effect, report: Report) -> tuple[str, ...]:
    """The objects that the effect may concern."""
    if effect.object:
        return (effect.object,)
    return tuple(dict.fromkeys(each.object for each in report.effects)) if effect.kind in TEXT_KINDS else ()


def _is_certain(condition: Condition, effect: Effect, report: Report, context: Context) -> bool:
    if any(each.test(context) is not True for each in condition.context):
        return False
    if condition.commands is not None and (report.statements != 1 or report.command not in condition.commands):
        return False
    if condition.functions is not None and not _are_all_code(condition.functions, report, context):
        return False
    if condition.kinds is not None and effect.kind not in condition.kinds:
        return False
    if condition.flags is not None and (report.statements != 1 or condition.flags.isdisjoint(effect.flags)):
        return (
            False  # the flags of equal acts of several statements are joined, so one may have brought it for the other
        )
    if condition.tables is not None and not _all_must(condition.tables, (effect.object,), context):
        return False
    if condition.labels is not None:
        return any(_all_must(patterns, (effect.object,), context) for _, patterns in condition.labels)
    return True


def _are_all_code(patterns: tuple[NamePattern, ...], report: Report, context: Context) -> bool:
    """Whether these functions are certainly all the code that the text runs: no DO, no EXECUTE, no second statement beside them."""
    if report.statements != 1 or not report.functions:
        return False
    dynamic = [effect for effect in report.effects if effect.kind is Kind.DYNAMIC]
    if any(effect.flags != _ONLY_FUNCTION for effect in dynamic):
        return False
    return _all_must(patterns, report.functions, context)


def _any_may(patterns: tuple[NamePattern, ...], names: tuple[str, ...], context: Context) -> bool:
    path, case = context.search_path, context.name_case
    return any(pattern.may_be(name, path, case) for name in names if name for pattern in patterns)


def _all_must(patterns: tuple[NamePattern, ...], names: tuple[str, ...], context: Context) -> bool:
    path, case = context.search_path, context.name_case
    return all(name != "" and any(pattern.must_be(name, path, case) for pattern in patterns) for name in names)


def _describe(match: Condition, effect: Effect, report: Report, context: Context) -> str:
    """The keys that met the rule, with the values they had. Names only, never a literal."""
    words: list[str] = []
    if match.kinds is not None:
        words.append(f"kind={effect.kind}")
    if match.flags is not None:
        words += [f"flag={flag}" for flag in sorted(match.flags & (effect.flags | (report.flags & TEXT_FLAGS)))]
    objects = _objects(effect, report)
    if match.labels is not None:
        met = [label for label, patterns in match.labels if _any_may(patterns, objects, context)]
        words.append(f"label={','.join(met)}")
    if match.tables is not None or match.labels is not None:
        wanted = (match.tables or ()) + tuple(pattern for _, patterns in match.labels or () for pattern in patterns)
        words.append(f"table={','.join(name for name in objects if _any_may(wanted, (name,), context))}")
    if effect.via not in ("", "name"):
        words.append(f"via {effect.via}")
    if match.functions is not None:
        met = [name for name in report.functions if _any_may(match.functions, (name,), context)]
        words.append(f"function={','.join(met)}")
    if match.commands is not None:
        words.append(f"command={report.command if report.statements == 1 else 'several'}")
    words += [f"{each.key}={_value(each.key, context)}" for each in match.context]
    return " ".join(words) or "every statement"


def _value(key: str, context: Context) -> str:
    match key:
        case "user":
            return context.person
        case "group":
            return ",".join(context.groups)
        case "client":
            return str(context.address or "unknown")
        case _:
            return str(getattr(context, key))
