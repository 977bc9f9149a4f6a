"""Policy files to one compiled Policy, or everything that is wrong with them, each with its place.

Several files add up: rules, labels and lists are put together, of defaults the strictest counts. Counterpart: document.py is the shape
of a file, model.py the result, redundant.py the warnings about rules that do nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path as FilePath

from classifiers.effects import FLAGS, Kind, NameCase
from config.check import check_document, salvage
from config.document import MAX_BYTES, Document, Path, parse_document, render_path
from config.errors import ConfigError, Problem, suggest
from config.files import read_trusted
from config.settings import SHIPPED_POLICIES, read_network
from dbproxy.policy.document import DefaultsSpec, MatchSpec, PolicyFile, RuleAction, RuleMode, RuleSpec
from dbproxy.policy.globs import NamePattern, compile_glob, has_glob, loosen
from dbproxy.policy.model import STRENGTH, Action, Condition, Context, ContextTest, Mode, Policy, Rule, Severity
from dbproxy.policy.redundant import find_redundant

NO_APPROVER = "approve loads as block, because no approver is configured"


@dataclass(frozen=True, slots=True)
class CheckedPolicy:
    """What came of looking at policy files.

    policy: None if there is an error. problems: errors and warnings. places: where each rule is written, by name.
    """

    policy: Policy | None
    problems: tuple[Problem, ...]
    places: Mapping[str, tuple[Document, Path]] = field(default_factory=dict, repr=False)

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if not problem.is_warning)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.is_warning)


def check_policy(files: Sequence[FilePath]) -> CheckedPolicy:
    """Read policy files and find all that is wrong with them."""
    contents, problems = read_policies(files)
    checked = compile_policy(contents)
    problems += checked.problems
    has_errors = any(not problem.is_warning for problem in problems)
    return CheckedPolicy(None if has_errors else checked.policy, tuple(sorted(problems)), checked.places)


def read_policies(files: Sequence[FilePath]) -> tuple[list[tuple[str, bytes]], list[Problem]]:
    """The contents of policy files that can be read and trusted, with their names, and what is wrong with the others."""
    problems: list[Problem] = []
    contents: list[tuple[str, bytes]] = []
    for path in files:
        try:
            # A shipped policy is part of the program: as trustworthy as the code that reads it.
            contents.append(
                (str(path), path.read_bytes() if path.parent == SHIPPED_POLICIES else read_trusted(path, MAX_BYTES))
            )
        except ConfigError as error:
            problems += error.problems
        except OSError as error:
            problems.append(Problem(str(path), 0, 0, "", f"cannot be read: {error.strerror}"))
    return contents, problems


def load_policy(files: Sequence[FilePath]) -> CheckedPolicy:
    """Read policy files; the result has a policy and perhaps warnings. Raises ConfigError with everything that is wrong."""
    checked = check_policy(files)
    if checked.policy is None:
        raise ConfigError(checked.problems)
    return checked


def compile_policy(contents: Sequence[tuple[str, bytes]]) -> CheckedPolicy:
    """Compile policy texts, given as (file name, content) pairs. Reads nothing."""
    compiler = _Compiler()
    digest = hashlib.sha256()
    for file, data in contents:
        digest.update(len(data).to_bytes(8, "big") + data)
        compiler.read(file, data)
    policy = compiler.finish(digest.hexdigest())
    return CheckedPolicy(policy, tuple(sorted(compiler.problems)), compiler.places)


@dataclass(slots=True)
class _Compiler:
    """Gathers files, then compiles them together. Used once."""

    problems: list[Problem] = field(default_factory=list)
    files: list[tuple[Document, PolicyFile]] = field(default_factory=list)
    lists: dict[str, tuple[Document, tuple[str, ...]]] = field(default_factory=dict)
    labels: dict[str, tuple[NamePattern, ...]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    places: dict[str, tuple[Document, Path]] = field(default_factory=dict)

    def read(self, file: str, data: bytes) -> None:
        try:
            document = parse_document(data, file)
        except ConfigError as error:
            self.problems += error.problems
            return
        base = FilePath(file).parent
        spec, problems = check_document(document, PolicyFile, base)
        self.problems += problems
        if spec is None:  # what is left is compiled all the same, to find what else is wrong
            spec, _ = salvage(document, PolicyFile, base, _repair)
        if spec is not None:
            self.files.append((document, spec))

    def finish(self, sha256: str) -> Policy | None:
        for document, spec in self.files:
            self._gather(document, spec)
        rules: list[Rule] = []
        for document, spec in self.files:
            for index, rule in enumerate(spec.rules):
                place: Path = ("rules", index)
                compiled = self._rule(document, place, rule)
                if rule.name in self.places:
                    other, _ = self.places[rule.name]
                    where = "this file" if other is document else other.file
                    self._error(document, (*place, "name"), f"'{rule.name}' is already the name of a rule in {where}")
                elif compiled is not None:
                    rules.append(compiled)
                self.places.setdefault(rule.name, (document, place))
        policy = self._policy(tuple(rules), sha256)
        if policy is None or any(not problem.is_warning for problem in self.problems):
            return None
        self._warn_unused()
        for name, text in find_redundant(policy):
            document, place = self.places[name]
            self._warn(document, (*place, "name"), text)
        return policy

    def _gather(self, document: Document, spec: PolicyFile) -> None:
        for name, values in spec.lists.items():
            if name in self.lists:
                self._error(
                    document, ("lists", name), f"list '{name}' is already in {self.lists[name][0].file}", is_key=True
                )
            for index, value in enumerate(values):
                if value.startswith("$"):
                    self._error(document, ("lists", name, index), "a list cannot refer to a list")
            self.lists.setdefault(name, (document, values))
        for name, label in spec.labels.items():
            if name in self.labels:
                self._error(document, ("labels", name), f"label '{name}' is already defined", is_key=True)
            place: Path = ("labels", name, "tables")
            patterns = self._patterns(document, place, label.tables, is_function=False)
            self.labels.setdefault(name, patterns)

    def _rule(self, document: Document, place: Path, spec: RuleSpec) -> Rule | None:
        before = len(self.problems)
        match = self._condition(document, (*place, "match"), spec.match)
        unless = None if spec.unless is None else self._condition(document, (*place, "unless"), spec.unless)
        if spec.action is RuleAction.APPROVE:
            self._warn(document, (*place, "action"), NO_APPROVER)
        action = Action.BLOCK if spec.action is RuleAction.APPROVE else Action(spec.action.value)
        excusing = spec.match if action is Action.ALLOW else spec.unless
        if excusing is not None and excusing.application is not None:
            key = "match" if action is Action.ALLOW else "unless"
            text = "application is what the client claims: anyone can claim it, so this excuses anyone"
            self._warn(document, (*place, key, "application"), text)
        if any(not problem.is_warning for problem in self.problems[before:]):
            return None
        mode = Mode.SHADOW if spec.mode is RuleMode.SHADOW else Mode.ENFORCE
        return Rule(spec.name, match, unless, action, mode, Severity(spec.severity.value), spec.message)

    def _condition(self, document: Document, place: Path, spec: MatchSpec) -> Condition:
        under = render_path(place) + "."
        if not spec.model_fields_set and not any(problem.key.startswith(under) for problem in self.problems):
            self._error(
                document, place, "must name at least one key; what holds for every statement is defaults.action"
            )
        tests: list[ContextTest] = []
        for key, make in _CONTEXT_KEYS.items():
            values: tuple[str, ...] | None = getattr(spec, key)
            if values is not None:
                expanded = self._expand(document, (*place, key), values)
                texts = [text for text, _ in self._valid(expanded, _check_text(key))]
                tests.append(ContextTest(key, frozenset(texts), make(texts)))
        return Condition(
            context=tuple(tests),
            kinds=self._kinds(document, (*place, "kind"), spec.kind),
            flags=self._flags(document, (*place, "flag"), spec.flag),
            tables=self._names(document, (*place, "table"), spec.table, is_function=False),
            labels=self._label(document, (*place, "label"), spec.label),
            functions=self._names(document, (*place, "function"), spec.function, is_function=True),
            commands=self._commands(document, (*place, "command"), spec.command),
        )

    def _kinds(self, document: Document, place: Path, values: tuple[str, ...] | None) -> frozenset[Kind] | None:
        if values is None:
            return None
        known = [kind.value for kind in Kind]
        found = self._valid(self._expand(document, place, values), _check_known("kind", known))
        return frozenset(Kind(text) for text, _ in found)

    def _flags(self, document: Document, place: Path, values: tuple[str, ...] | None) -> frozenset[str] | None:
        if values is None:
            return None
        found = self._valid(self._expand(document, place, values), _check_known("flag", FLAGS))
        return frozenset(text for text, _ in found)

    def _commands(self, document: Document, place: Path, values: tuple[str, ...] | None) -> frozenset[str] | None:
        if values is None:
            return None
        found = self._valid(self._expand(document, place, values), _check_command)
        return frozenset(text.upper() for text, _ in found)

    def _names(
        self, document: Document, place: Path, values: tuple[str, ...] | None, *, is_function: bool
    ) -> tuple[NamePattern, ...] | None:
        return None if values is None else self._patterns(document, place, values, is_function=is_function)

    def _patterns(
        self, document: Document, place: Path, values: tuple[str, ...], *, is_function: bool
    ) -> tuple[NamePattern, ...]:
        found = self._valid(self._expand(document, place, values), NamePattern)
        return tuple(NamePattern(text, is_function=is_function) for text, _ in found)

    def _label(
        self, document: Document, place: Path, values: tuple[str, ...] | None
    ) -> tuple[tuple[str, tuple[NamePattern, ...]], ...] | None:
        if values is None:
            return None
        found = self._valid(self._expand(document, place, values), _check_known("label", self.labels))
        self.used |= {f"labels.{text}" for text, _ in found}
        return tuple((text, self.labels[text]) for text, _ in found)

    def _expand(
        self, document: Document, place: Path, values: tuple[str, ...]
    ) -> list[tuple[str, tuple[Document, Path]]]:
        """Replace $name by the values of the list; each value with the place it is written at."""
        expanded: list[tuple[str, tuple[Document, Path]]] = []
        for index, value in enumerate(values):
            at = (*place, index)
            name = value.removeprefix("$")
            if name == value:
                expanded.append((value, (document, at)))
            elif name in self.lists:
                self.used.add(f"lists.{name}")
                source, items = self.lists[name]
                expanded += [
                    (item, (source, ("lists", name, number))) for number, item in enumerate(items) if item[:1] != "$"
                ]
            else:
                self._error(document, at, f"there is no list '{name}'{suggest(name, self.lists)}")
        return expanded

    def _valid(
        self, values: list[tuple[str, tuple[Document, Path]]], check: Callable[[str], object]
    ) -> list[tuple[str, tuple[Document, Path]]]:
        """The values that pass a check, which raises ValueError for the others."""
        valid: list[tuple[str, tuple[Document, Path]]] = []
        for text, (document, place) in values:
            try:
                check(text)
            except ValueError as error:
                self._error(document, place, str(error))
            else:
                valid.append((text, (document, place)))
        return valid

    def _policy(self, rules: tuple[Rule, ...], sha256: str) -> Policy | None:
        defaults = [(document, spec.defaults) for document, spec in self.files]
        for document, each in defaults:
            for name in ("on_unparsable", "on_dynamic"):
                if getattr(each, name) == "approve":
                    self._warn(document, ("defaults", name), NO_APPROVER)
                if getattr(each, name) is not None and getattr(each, f"unsafe_{name}") is not None:
                    self._error(document, ("defaults", f"unsafe_{name}"), f"contradicts {name} in the same file")
        if not self.files:
            return None
        unsafe: list[str] = []
        on_unparsable = self._strictest(defaults, "on_unparsable", unsafe)
        on_dynamic = self._strictest(defaults, "on_dynamic", unsafe)
        return Policy(
            rules,
            sha256,
            default=_max(Action(each.action.value) for _, each in defaults if each.action) or Action.ALLOW,
            on_unparsable=on_unparsable,
            on_dynamic=on_dynamic,
            on_error=_max(Action(each.on_error.value) for _, each in defaults if each.on_error) or Action.BLOCK,
            unsafe=tuple(unsafe),
        )

    def _strictest(self, defaults: list[tuple[Document, DefaultsSpec]], name: str, unsafe: list[str]) -> Action:
        """The action for on_unparsable or on_dynamic; an unsafe switch in force is added to unsafe."""
        switches = [(document, getattr(each, f"unsafe_{name}")) for document, each in defaults]
        opened = [(document, Action(value.value)) for document, value in switches if value is not None]
        is_closed = any(getattr(each, name) is not None for _, each in defaults)
        if is_closed or not opened:
            for document, each in defaults:
                if getattr(each, f"unsafe_{name}") is not None and getattr(each, name) is None:
                    self._warn(
                        document, ("defaults", f"unsafe_{name}"), f"has no effect, because another file sets {name}"
                    )
            return Action.BLOCK
        unsafe.append(f"unsafe_{name}")
        return _max(action for _, action in opened) or Action.BLOCK

    def _warn_unused(self) -> None:
        for document, spec in self.files:
            for section, names in (("lists", spec.lists), ("labels", spec.labels)):
                for name in names:
                    if f"{section}.{name}" not in self.used:
                        self._warn(document, (section, name), "is not used by any rule", is_key=True)

    def _error(self, document: Document, place: Path, text: str, *, is_key: bool = False) -> None:
        problem = document.problem(place, text, is_key=is_key)
        if problem not in self.problems:  # a bad value in a list is found by every rule that uses the list
            self.problems.append(problem)

    def _warn(self, document: Document, place: Path, text: str, *, is_key: bool = False) -> None:
        self.problems.append(document.problem(place, text, is_key=is_key, is_warning=True))


def _repair(value: object) -> None:
    """Give rules that lost a required key a harmless one."""
    if isinstance(value, dict):
        value.setdefault("version", 1)
        for index, rule in enumerate(value.get("rules") or ()):
            if isinstance(rule, dict):
                for key, substitute in (("name", f"rule-{index}"), ("action", "block"), ("match", {"kind": "empty"})):
                    rule.setdefault(key, substitute)


def _max(actions: Iterable[Action]) -> Action | None:
    return max(actions, key=STRENGTH.__getitem__, default=None)


def _check_known(what: str, known: Iterable[str]) -> Callable[[str], None]:
    def check(text: str) -> None:
        if text not in known:
            raise ValueError(f"unknown {what} '{text[:60]}'{suggest(text, known)}")

    return check


def _check_command(text: str) -> None:
    if not text.isascii() or not text.isalpha():
        raise ValueError("a command is the first word of a statement, such as SELECT or ALTER")


def _check_text(key: str) -> Callable[[str], object]:
    return read_network if key == "client" else _check_not_empty


def _check_not_empty(text: str) -> None:
    if not text.removeprefix("group:"):
        raise ValueError("must not be empty")


def _test_attribute(key: str) -> Callable[[list[str]], Callable[[Context], bool | None]]:
    read: Callable[[Context], str] = attrgetter(key)
    is_name = key == "database"

    def make(values: list[str]) -> Callable[[Context], bool | None]:
        literals = frozenset(value for value in values if not has_glob(value))
        globs = tuple(compile_glob(value) for value in values if has_glob(value))
        loose = tuple(compile_glob(loosen(value)) for value in values)
        if not globs and not is_name:
            return lambda context: read(context) in literals

        def test(context: Context) -> bool | None:
            value = read(context)
            if value in literals or any(glob(value) for glob in globs):
                return True
            if is_name and context.name_case is not NameCase.WRITTEN and any(each(loosen(value)) for each in loose):
                return None  # the server may take it for the same
            return False

        return test

    return make


def _test_groups(values: list[str]) -> Callable[[Context], bool | None]:
    globs = tuple(compile_glob(value) for value in values)

    def test(context: Context) -> bool:
        return any(glob(group) for group in context.groups for glob in globs)

    return test


def _test_user(values: list[str]) -> Callable[[Context], bool | None]:
    globs = tuple(compile_glob(value) for value in values if not value.startswith("group:"))
    in_group = _test_groups([value.removeprefix("group:") for value in values if value.startswith("group:")])

    def test(context: Context) -> bool | None:
        return any(glob(context.person) for glob in globs) or in_group(context)

    return test


def _test_client(values: list[str]) -> Callable[[Context], bool | None]:
    networks = tuple(read_network(value) for value in values)

    def test(context: Context) -> bool | None:
        address = context.address
        if address is None:
            return None
        if address.version == 6:
            address = address.ipv4_mapped or address
        return any(address in network for network in networks)

    return test


_CONTEXT_KEYS: dict[str, Callable[[list[str]], Callable[[Context], bool | None]]] = {
    "env": _test_attribute("env"),
    "target": _test_attribute("target"),
    "database": _test_attribute("database"),
    "user": _test_user,
    "group": _test_groups,
    "account": _test_attribute("account"),
    "client": _test_client,
    "application": _test_attribute("application"),
}
