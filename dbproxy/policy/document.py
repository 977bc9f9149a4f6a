"""The shape of a policy file, before its words are understood. Descriptions go into the JSON Schema (`dbproxy schema policy`).

Counterpart: load.py checks the words against the vocabulary and compiles the rules.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from classifiers.effects import FLAGS, Kind
from config.settings import Model


class RuleAction(StrEnum):
    """What a rule does."""

    ALLOW = "allow"
    ALERT = "alert"
    APPROVE = "approve"
    """Loads as block, with a warning, as long as no approver is configured."""
    BLOCK = "block"


class DefaultAction(StrEnum):
    """What happens when no rule says something stricter."""

    ALLOW = "allow"
    ALERT = "alert"
    BLOCK = "block"


class StrictAction(StrEnum):
    """What happens to what cannot be vouched for."""

    APPROVE = "approve"
    """Loads as block, with a warning, as long as no approver is configured."""
    BLOCK = "block"


class UnsafeAction(StrEnum):
    """What a fail-open switch may say."""

    ALLOW = "allow"
    ALERT = "alert"


class ErrorAction(StrEnum):
    """What happens when the policy cannot be evaluated."""

    BLOCK = "block"
    TERMINATE = "terminate"


class RuleMode(StrEnum):
    """Whether a rule counts."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class RuleSeverity(StrEnum):
    """How grave a hit is."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


_RULE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"


def _one_or_many(value: object) -> object:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str):
        return (value,)
    raise ValueError("must be text or a list of texts; put numbers in quotes")


def _rule_name(text: str) -> str:
    if not re.fullmatch(_RULE_NAME, text):
        raise ValueError("must be 1 to 63 letters, digits and any of _ . - (the first a letter or digit)")
    if text.startswith("defaults."):
        raise ValueError("names that begin with 'defaults.' stand for the defaults")
    return text


def _words(schema: dict[str, object]) -> dict[str, object]:
    item = {"anyOf": [schema, {"type": "string", "pattern": r"^\$"}]}
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}


_TEXT: dict[str, object] = {"type": "string", "minLength": 1}
_WORDS = Field(default=None, min_length=1)
Words = Annotated[tuple[str, ...], BeforeValidator(_one_or_many), WithJsonSchema(_words(_TEXT))]
"""One text or a list of them; $name stands for a list of the policy."""
Kinds = Annotated[
    tuple[str, ...], BeforeValidator(_one_or_many), WithJsonSchema(_words({"enum": [kind.value for kind in Kind]}))
]
Flags = Annotated[tuple[str, ...], BeforeValidator(_one_or_many), WithJsonSchema(_words({"enum": sorted(FLAGS)}))]


class MatchSpec(Model):
    """Conditions. Every key that is present must hold; of a key's values, one is enough."""

    env: Words | None = _WORDS
    """The target's env. Glob."""
    target: Words | None = _WORDS
    """The target's name. Glob."""
    database: Words | None = _WORDS
    """The database of the session. Glob."""
    kind: Kinds | None = _WORDS
    """What sort of thing is done; one effect must meet kind, flag, table and label together."""
    flag: Flags | None = _WORDS
    """What is remarkable about it."""
    table: Words | None = _WORDS
    """The object: customers, app.customers, *.customers, app.*; "Quoted" for names that are not lower case."""
    label: Words | None = _WORDS
    """A label of this policy; holds for the tables listed there."""
    function: Words | None = _WORDS
    """A function that is called; as table."""
    command: Words | None = _WORDS
    """The first word of the statement, such as SELECT. Of several statements in one text only the first one's is known: a rule that
    restricts then matches, an exception does not. Prefer kind and flag, which see through CTEs and EXPLAIN."""
    user: Words | None = _WORDS
    """The person. Glob; group:NAME for the members of a group."""
    group: Words | None = _WORDS
    """A group of the person. Glob."""
    account: Words | None = _WORDS
    """The account the person acts through. Glob."""
    client: Words | None = _WORDS
    """The client's address: a network such as 10.0.0.0/8, or an address."""
    application: Words | None = _WORDS
    """application_name as the client claims it; anyone can claim anything. Glob."""


class RuleSpec(Model):
    """One rule."""

    name: Annotated[str, AfterValidator(_rule_name), WithJsonSchema({"type": "string", "pattern": f"^{_RULE_NAME}$"})]
    """Unique among all files; shown to the person who is refused, and in every audit event."""
    match: MatchSpec
    """When the rule applies. Rules that restrict fire if any effect of the statement matches; allow needs that all of them do."""
    unless: MatchSpec | None = None
    """Exceptions; all keys present must hold."""
    action: RuleAction
    """allow, alert, approve or block. The strictest enforced action wins; order does not matter."""
    mode: RuleMode = RuleMode.ENFORCE
    """shadow: evaluated, counted and recorded, not enforced."""
    severity: RuleSeverity = RuleSeverity.MEDIUM
    """info, low, medium, high or critical; for readers of the audit trail."""
    message: Annotated[str, Field(max_length=500)] = ""
    """Told to the person who is refused: why, and what to do instead."""
    description: str = ""
    """For readers of the policy."""


class DefaultsSpec(Model):
    """What applies when no rule says something stricter. Of several files the strictest counts."""

    action: DefaultAction | None = None
    """allow, alert or block; allow when no file says."""
    on_unparsable: StrictAction | None = None
    """Text that the classifier cannot vouch for; block when no file says."""
    on_dynamic: StrictAction | None = None
    """Code whose effect cannot be seen; block when no file says."""
    on_error: ErrorAction | None = None
    """When the policy cannot be evaluated; block when no file says."""
    unsafe_on_unparsable: UnsafeAction | None = None
    """Fails open: instead of on_unparsable. Stamped into every audit event."""
    unsafe_on_dynamic: UnsafeAction | None = None
    """Fails open: instead of on_dynamic. Stamped into every audit event."""


class LabelSpec(Model):
    """What a label stands for."""

    tables: Annotated[Words, Field(min_length=1)]
    """Name patterns, as match.table."""


class PolicyFile(Model):
    """A dbproxy policy file."""

    version: Literal[1]
    """Version of this format: 1."""
    defaults: DefaultsSpec = DefaultsSpec()
    labels: dict[str, LabelSpec] = Field(default_factory=dict)
    """Names for groups of tables, used by match.label."""
    lists: dict[str, Annotated[Words, Field(min_length=1)]] = Field(default_factory=dict)
    """Values to refer to as $name, in this file and in others."""
    rules: Annotated[tuple[RuleSpec, ...], Field(min_length=1)]
    """The rules, in any order."""
