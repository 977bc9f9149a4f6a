"""A slow, obvious evaluator of policies, straight from the YAML's plain values: no index, no compiled matchers, nothing shared with decide.py.

It knows three answers for each key, True, False and None (cannot be known), and works them out by enumeration.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from typing import Any

from classifiers.effects import Effect, Report
from dbproxy.policy.model import Context

ORDER = ["allow", "alert", "block"]
TEXT_FLAGS = {
    "multi_statement", "executable_comment", "explain", "explain_analyze", "secret_literal", "prepare", "cursor",
    "dynamic_sql", "unknown_function", "unknown_prepared", "function_side_effect", "resource_abuse",
}  # fmt: skip
TEXT_KINDS = {"bulk_export", "file_access", "metadata", "admin", "dynamic", "unparsable"}


def evaluate(policy: dict[str, Any], report: Report, context: Context) -> tuple[str, list[tuple[str, str, str]]]:
    """The action, and (rule, mode, action) of everything that matched, in the order that a decision lists them."""
    defaults = policy.get("defaults", {})
    hits: list[tuple[str, str, str]] = []
    is_allowed = False
    for rule in policy["rules"]:
        mode = rule.get("mode", "enforce")
        if rule["action"] == "allow":
            fires = bool(report.effects) and all(
                holds(rule["match"], policy, effect, report, context, certain=True)
                and not ("unless" in rule and holds(rule["unless"], policy, effect, report, context, certain=False))
                for effect in report.effects
            )
            is_allowed |= fires and mode == "enforce"
        else:
            fires = any(
                holds(rule["match"], policy, effect, report, context, certain=False)
                and not ("unless" in rule and holds(rule["unless"], policy, effect, report, context, certain=True))
                for effect in report.effects
            )
        if fires:
            hits.append((rule["name"], mode, rule["action"]))
    kinds = [effect.kind.value for effect in report.effects]
    if not kinds or "unparsable" in kinds:
        action = defaults.get("unsafe_on_unparsable", "block")
        hits.append(("defaults.on_unparsable", "enforce", action))
    unseen = {"unknown_function", "unknown_prepared"}
    if any(
        set(effect.flags) & unseen
        or (
            effect.kind == "dynamic"
            and not (
                report.prepares and "prepare" in effect.flags and not set(effect.flags) - {"prepare", "multi_statement"}
            )
        )
        for effect in report.effects
    ):
        hits.append(("defaults.on_dynamic", "enforce", defaults.get("unsafe_on_dynamic", "block")))
    default = defaults.get("action", "allow")
    if default != "allow" and not is_allowed:
        hits.append(("defaults.action", "enforce", default))
    hits.sort(key=lambda hit: (hit[1] == "shadow", -ORDER.index(hit[2]), hit[0].startswith("defaults."), hit[0]))
    enforced = [ORDER.index(action) for _, mode, action in hits if mode == "enforce"]
    return ORDER[max(enforced, default=0)], hits


def holds(
    spec: dict[str, Any], policy: dict[str, Any], effect: Effect, report: Report, context: Context, *, certain: bool
) -> bool:
    """Whether every key holds for the effect: certainly, or possibly."""
    answers = [
        key_holds(key, values(value, policy), policy, effect, report, context, certain) for key, value in spec.items()
    ]
    return all(answer is True for answer in answers) if certain else all(answer is not False for answer in answers)


def values(value: Any, policy: dict[str, Any]) -> list[str]:
    result: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        if item.startswith("$"):
            listed = policy["lists"][item[1:]]
            result += listed if isinstance(listed, list) else [listed]
        else:
            result.append(item)
    return result


def key_holds(
    key: str, wanted: list[str], policy: dict[str, Any], effect: Effect, report: Report, context: Context, certain: bool
) -> bool | None:
    if key in ("env", "target", "database", "account", "application"):
        return any(fnmatch.fnmatchcase(getattr(context, key), item) for item in wanted)
    if key == "group":
        return any(fnmatch.fnmatchcase(group, item) for group in context.groups for item in wanted)
    if key == "user":
        return any(
            any(fnmatch.fnmatchcase(group, item[6:]) for group in context.groups)
            if item.startswith("group:")
            else fnmatch.fnmatchcase(context.person, item)
            for item in wanted
        )
    if key == "client":
        return (
            None if context.address is None else any(context.address in ipaddress.ip_network(item) for item in wanted)
        )
    if key == "kind":
        return effect.kind.value in wanted
    if key == "flag":
        if certain:
            return report.statements == 1 and bool(set(wanted) & set(effect.flags))
        everywhere = {flag for each in report.effects for flag in each.flags} & TEXT_FLAGS
        return bool(set(wanted) & (set(effect.flags) | everywhere))
    if key == "command":
        return None if report.statements != 1 else report.command in wanted
    if key == "function":
        answers = [
            any_of(name_matches(item, name, context, True, certain) for item in wanted) for name in report.functions
        ]
        if certain:
            unseen = [set(each.flags) for each in report.effects if each.kind.value == "dynamic"]
            only_functions = report.statements == 1 and all(flags == {"unknown_function"} for flags in unseen)
            return only_functions and bool(answers) and all(answer is True for answer in answers)
        return any(answer is not False for answer in answers)
    if key == "table":
        return object_matches(wanted, effect, report, context, certain)
    assert key == "label"
    return any_of(
        object_matches(values(policy["labels"][label]["tables"], policy), effect, report, context, certain)
        for label in wanted
    )


def object_matches(patterns: list[str], effect: Effect, report: Report, context: Context, certain: bool) -> bool | None:
    names = [effect.object] if effect.object else []
    if not effect.object and effect.kind.value in TEXT_KINDS and not certain:
        names = [each.object for each in report.effects if each.object]
    return any_of(name_matches(pattern, name, context, False, certain) for pattern in patterns for name in names)


def any_of(answers: Any) -> bool | None:
    listed = list(answers)
    return True if True in listed else None if None in listed else False


def name_matches(pattern: str, name: str, context: Context, is_function: bool, certain: bool) -> bool | None:
    """Generated patterns and names have no quotes and at most one dot that separates."""
    schema_pattern, _, name_pattern = pattern.lower().rpartition(".")
    schema_pattern = schema_pattern or "*"
    schema, dot, last = name.rpartition(".")
    if not fnmatch.fnmatchcase(last, name_pattern):
        return False
    if schema_pattern == "*":
        return True
    if dot:
        return fnmatch.fnmatchcase(schema, schema_pattern)
    if certain:
        path = context.search_path
        return bool(path) and all(fnmatch.fnmatchcase(each, schema_pattern) for each in path or ())
    in_catalog = fnmatch.fnmatchcase("pg_catalog", schema_pattern)
    if in_catalog and (is_function or last.startswith("pg_")):
        return None
    if context.search_path is None:
        return None if not in_catalog or fnmatch.fnmatchcase("public", schema_pattern) else False
    return any(each == "$user" or fnmatch.fnmatchcase(each, schema_pattern) for each in context.search_path)
