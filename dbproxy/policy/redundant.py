"""Rules that can never change the result: usually a mistake, so they are warned about when a policy is loaded.

It finds what follows from the rules alone. A rule about a target that does not exist is found by `dbproxy check`.
"""

from __future__ import annotations

from collections.abc import Iterator

from classifiers.effects import Kind
from dbproxy.policy.decide import TEXT_FLAGS
from dbproxy.policy.model import STRENGTH, Action, Condition, Mode, Policy, Rule


def find_redundant(policy: Policy) -> Iterator[tuple[str, str]]:
    """Yield (name of the rule, sentence) for each enforced rule without influence. Of two equal rules only the later is named."""
    for at, rule in enumerate(policy.rules):
        if rule.mode is Mode.ENFORCE:
            reason = _by_defaults(policy, rule) or _by_itself(rule) or _by_others(policy.rules, at)
            if reason:
                yield rule.name, f"the rule can never change the result: {reason}"


def _by_defaults(policy: Policy, rule: Rule) -> str:
    if rule.action is Action.ALLOW and policy.default is Action.ALLOW:
        return "what no rule forbids is allowed anyway (defaults.action)"
    if STRENGTH[rule.action] <= STRENGTH[policy.default] and rule.action is not Action.ALLOW and not _has_allow(policy):
        return f"defaults.action is {policy.default} already"
    kinds = rule.match.kinds
    for kind, action, name in (
        (Kind.UNPARSABLE, policy.on_unparsable, "on_unparsable"),
        (Kind.DYNAMIC, policy.on_dynamic, "on_dynamic"),
    ):
        if kinds == frozenset({kind}) and STRENGTH[rule.action] <= STRENGTH[action]:
            return f"defaults.{name} is {action} already, and exceptions to it do not exist"
    return ""


def _has_allow(policy: Policy) -> bool:
    return any(rule.action is Action.ALLOW and rule.mode is Mode.ENFORCE for rule in policy.rules)


def _by_itself(rule: Rule) -> str:
    unless = rule.unless
    if (
        unless is not None
        and rule.action is not Action.ALLOW
        and _is_certain_form(unless)
        and _covers(unless, rule.match)
    ):
        return "its unless excepts everything that its match finds"
    return ""


def _by_others(rules: tuple[Rule, ...], at: int) -> str:
    rule = rules[at]
    for index, other in enumerate(rules):
        is_stricter = STRENGTH[other.action] >= STRENGTH[rule.action]
        if (
            index == at
            or other.mode is not Mode.ENFORCE
            or not is_stricter
            or (other.action is Action.ALLOW) is not (rule.action is Action.ALLOW)
        ):
            continue
        is_wider = _covers(other.match, rule.match) and (other.unless is None or other.unless == rule.unless)
        is_equal = (
            is_wider and rule.match == other.match and rule.unless == other.unless and rule.action is other.action
        )
        if is_wider and (not is_equal or index < at):
            return f"rule '{other.name}' matches everything that it matches and is at least as strict"
    return ""


def _is_certain_form(condition: Condition) -> bool:
    """A condition that is certain whenever it is possible, so that covering means excepting."""
    names = (condition.tables, condition.labels, condition.functions, condition.commands)
    return (
        all(each is None for each in names)
        and (condition.flags is None or condition.flags.isdisjoint(TEXT_FLAGS))
        and all(each.key != "client" for each in condition.context)
    )


def _covers(wide: Condition, narrow: Condition) -> bool:
    """True only if whatever meets narrow meets wide: every key of wide is in narrow with the same or fewer values."""
    return (
        _subset(wide.kinds, narrow.kinds)
        and _subset(wide.flags, narrow.flags)
        and _subset(wide.commands, narrow.commands)
        and _subset(_set(wide.tables), _set(narrow.tables))
        and _subset(_set(wide.functions), _set(narrow.functions))
        and _subset(_set(wide.labels), _set(narrow.labels))
        and all(
            any(each.key == other.key and other.values <= each.values for other in narrow.context)
            for each in wide.context
        )
    )


def _set(values: tuple[object, ...] | None) -> frozenset[object] | None:
    return None if values is None else frozenset(values)


def _subset(wide: frozenset[object] | None, narrow: frozenset[object] | None) -> bool:
    return wide is None or (narrow is not None and narrow <= wide)
