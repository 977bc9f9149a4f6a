"""A policy as it is used: frozen, compiled, indexed. And what a decision is made about and consists of.

Read from files by load.py, evaluated by decide.py; nothing here knows YAML, files or sessions.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from classifiers.effects import Kind, NameCase
from dbproxy.policy.globs import NamePattern, loosen


class Action(StrEnum):
    """What is done with a statement. See STRENGTH for their order."""

    ALLOW = "allow"
    """It runs."""
    ALERT = "alert"
    """It runs, and its audit event says that someone should look."""
    BLOCK = "block"
    """It does not run; the session lives on."""
    TERMINATE = "terminate"
    """It does not run and the session ends."""


STRENGTH: Mapping[Action, int] = {Action.ALLOW: 0, Action.ALERT: 1, Action.BLOCK: 2, Action.TERMINATE: 3}
"""The strictest enforced action wins."""


class Mode(StrEnum):
    """Whether a rule counts."""

    ENFORCE = "enforce"
    """Its action takes part in the decision."""
    SHADOW = "shadow"
    """It is evaluated, counted and recorded, nothing more."""


class Severity(StrEnum):
    """How grave a hit is, for those who read the audit trail; no effect on the decision."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Context:
    """Who runs a statement, and where. One per session, made anew when one of its values changes.

    target, env: the target's name and env. database, account: "" if there is none. person: the human; groups: theirs.
    address: the client's, None if not known. application: application_name as the client says it, so anyone can claim anything.
    search_path: schemas for unqualified names, with "$user" replaced by the role where that is known; None: not known.
    derived: names that the session has given to what it made, each with the names of what that was made from; only with a catalogue.
    name_case: how the server compares names.
    """

    target: str
    env: str
    database: str
    person: str
    groups: tuple[str, ...] = ()
    account: str = ""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    application: str = ""
    search_path: tuple[str, ...] | None = None
    derived: tuple[tuple[str, tuple[str, ...]], ...] = ()
    name_case: NameCase = NameCase.WRITTEN


@dataclass(frozen=True, slots=True)
class ContextTest:
    """One key of a condition that concerns the context. values: as written. test: True, False, or None when it cannot be known."""

    key: str
    values: frozenset[str]
    test: Callable[[Context], bool | None] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Condition:
    """The compiled `match` or `unless` of a rule. Every key that is present must hold; None: not present.

    context: keys that concern the context alone.
    kinds, flags, tables, labels: keys that one effect must meet all together; labels as (label, its patterns) pairs.
    functions, commands: keys that concern the text as a whole.
    """

    context: tuple[ContextTest, ...] = ()
    kinds: frozenset[Kind] | None = None
    flags: frozenset[str] | None = None
    tables: tuple[NamePattern, ...] | None = None
    labels: tuple[tuple[str, tuple[NamePattern, ...]], ...] | None = None
    functions: tuple[NamePattern, ...] | None = None
    commands: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. unless: None when it has none. message: for the person who is refused, may be ""."""

    name: str
    match: Condition
    unless: Condition | None
    action: Action
    mode: Mode = Mode.ENFORCE
    severity: Severity = Severity.MEDIUM
    message: str = ""


class Index(NamedTuple):
    """Which rules can fire at all for a report, so that the others cost nothing. Values are positions in Policy.rules.

    Each rule is in exactly one of the four, under each value of the key that narrows it most; by_loose_name is by_name for servers
    that may take names for one which differ in case.
    """

    by_flag: Mapping[str, tuple[int, ...]]
    by_name: Mapping[str, tuple[int, ...]]
    by_loose_name: Mapping[str, tuple[int, ...]]
    by_kind: Mapping[Kind, tuple[int, ...]]
    always: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything in force, from all files together. Immutable: a reload makes a new one.

    sha256: over the content of the files, hex. unsafe: names of the unsafe switches that are on; stamped into every event.
    default, on_unparsable, on_dynamic, on_error: what applies when no rule says something stricter.
    """

    rules: tuple[Rule, ...]
    sha256: str
    default: Action = Action.ALLOW
    on_unparsable: Action = Action.BLOCK
    on_dynamic: Action = Action.BLOCK
    on_error: Action = Action.BLOCK
    unsafe: tuple[str, ...] = ()
    index: Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", _index(self.rules))


class Hit(NamedTuple):
    """A rule that matched. rule: its name, or "defaults.…". matched: what in the statement and context met it, without literals."""

    rule: str
    mode: Mode
    action: Action
    severity: Severity
    matched: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a statement, and why.

    hits: all that matched; enforced before shadow, the strictest first, then rules before defaults, then by name. message: of the first hit, may be "".
    """

    action: Action
    hits: tuple[Hit, ...]
    message: str
    policy_sha256: str
    unsafe: tuple[str, ...] = ()

    @property
    def is_refused(self) -> bool:
        """The statement must not run."""
        return STRENGTH[self.action] >= STRENGTH[Action.BLOCK]

    @property
    def rule(self) -> str:
        """The name of the rule that decided, "" if none did."""
        first = self.hits[0] if self.hits else None
        return first.rule if first is not None and first.mode is Mode.ENFORCE and first.action is self.action else ""


def _index(rules: tuple[Rule, ...]) -> Index:
    by_flag: dict[str, tuple[int, ...]] = {}
    by_name: dict[str, tuple[int, ...]] = {}
    by_kind: dict[Kind, tuple[int, ...]] = {}
    always: tuple[int, ...] = ()
    for at, rule in enumerate(rules):
        match = rule.match
        patterns = match.tables or tuple(pattern for _, each in match.labels or () for pattern in each)
        names = {pattern.last for pattern in patterns}
        if match.flags is not None:
            for flag in match.flags:
                by_flag[flag] = (*by_flag.get(flag, ()), at)
        elif names and None not in names:
            for name in names:
                by_name[name or ""] = (*by_name.get(name or "", ()), at)
        elif match.kinds is not None:
            for kind in match.kinds:
                by_kind[kind] = (*by_kind.get(kind, ()), at)
        else:
            always = (*always, at)
    loose: dict[str, tuple[int, ...]] = {}
    for name, places in by_name.items():
        loose[loosen(name)] = (*loose.get(loosen(name), ()), *places)
    return Index(by_flag, by_name, loose, by_kind, always)
