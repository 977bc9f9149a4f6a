"""What a statement really touches: its report and a snapshot of its database make a report with everything that is reached. Pure.

    SELECT badge FROM app.v_directory ─► app.v_directory
                                           └ view app.v_directory ─► app.v_staff
                                               └ view app.v_staff ─► hr.employees (id, name, ssn)

What is reached stands beside what the text says, as effects of their own with `via`; nothing that the text says is ever dropped, but one
thing: that a function is not known, where the catalogue knows what it does. So a policy matches no less with a catalogue than without.
A name that stands for nothing here may stand for anything: it becomes the object "*.*", with flag degraded_visibility.

Over-approximation is on purpose. An unqualified name is every relation of that name in the search path (whoever may not use a schema
skips it), each overload of a function is called, and a view reads all columns that it is defined on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from classifiers.effects import Effect, Kind, Report
from classifiers.functions_postgres import ACTING, find_meaning
from classifiers.relations_postgres import find_read_flags
from classifiers.tokens import join_name
from dbproxy.catalogue.model import ALL_WRITES, Body, Function, Hook, Named, Relation, Snapshot

ANYTHING = "*.*"
"""The object of an effect whose real object is not known. A part of a real name is never "*" without quotes around all of it."""
EVERY_NAME = "*"
"""As a name in Derived: every one; for a session that has made more than is kept in mind."""
MAX_REACHED = 5_000
"""More than that is not listed: a statement that reaches so much may reach anything."""
MAX_DEPTH = 64
Path = tuple[str, ...] | None
"""A search_path; None: not known."""
Derived = tuple[tuple[str, tuple[str, ...]], ...]
"""Names that a session gave to what it made, with the qualified names of what that was made from."""

_NEED_RELATION = frozenset({Kind.DML_READ, Kind.DML_WRITE, Kind.BULK_EXPORT, Kind.METADATA})
_QUERIES = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "EXPLAIN", "DECLARE"})  # fmt: skip
_EVENTS = {"INSERT": "iu", "COPY": "i", "DELETE": "d", "SELECT": "s"}
"""Of a write, by the first word: data-modifying CTEs stand only behind WITH, and an UPDATE may move rows between partitions."""
_UNKNOWN = frozenset({"unknown_function"})
_SEVERAL = frozenset({"multi_statement"})
_DEGRADED = frozenset({"degraded_visibility"})
_HIDDEN = frozenset({"unknown_function", "degraded_visibility"})


@dataclass(frozen=True, slots=True)
class Resolution:
    """report: with everything that is reached; without unknown_function where the catalogue knows better.

    reached: the effects that were added, each with via. unresolved: names that stand for nothing in the snapshot.
    visibility: full; degraded if a name is unresolved or something that matters here could not be read; stale; missing without a snapshot.
    """

    report: Report
    reached: tuple[Effect, ...] = ()
    unresolved: tuple[str, ...] = ()
    visibility: str = "full"


def resolve(
    report: Report, snapshot: Snapshot | None, path: Path, derived: Derived = (), *, is_stale: bool = False
) -> Resolution:
    """path: schemas for unqualified names, None if not known. is_stale: the snapshot may not be what the database is now."""
    if snapshot is None:
        return _unseen(report)
    walk = _Walk(report, snapshot, path, derived)
    walk.run()
    effects = tuple(_as_effect(key, found) for key, found in walk.found.items())
    own = report.effects
    if walk.knows_functions:
        own = tuple(each for each in own if not (each.kind is Kind.DYNAMIC and each.flags == _UNKNOWN)) or (
            Effect(Kind.DML_READ),
        )
    is_degraded = walk.is_degraded or bool(walk.unresolved)
    if is_stale:
        own = tuple(replace(each, flags=each.flags | _DEGRADED) if each.object else each for each in own)
    visibility = "stale" if is_stale else "degraded" if is_degraded else "full"
    if not effects and own is report.effects:
        return Resolution(report, (), tuple(walk.unresolved), visibility)
    full = replace(report, effects=own + effects, functions=tuple(dict.fromkeys((*report.functions, *walk.called))))
    return Resolution(full, effects, tuple(walk.unresolved), visibility)


def find_events(report: Report) -> str:
    """What the writes of a text may be, of i(nsert) u(pdate) d(elete) t(runcate)."""
    return _EVENTS.get(report.command, ALL_WRITES) if report.statements == 1 else ALL_WRITES


def split_name(name: str) -> tuple[str, ...]:
    """The parts of an object's name; the inverse of classifiers.tokens.join_name."""
    if '"' not in name:
        return tuple(name.split("."))
    parts: list[str] = []
    at = 0
    while at <= len(name):
        if name[at : at + 1] == '"':
            part, at = "", at + 1
            while at < len(name):
                end = name.find('"', at)
                if end < 0:
                    end = len(name)
                part, at = part + name[at:end], end + 1
                if name[at : at + 1] != '"':
                    break
                part, at = part + '"', at + 1
        else:
            end = name.find(".", at)
            end = len(name) if end < 0 else end
            part, at = name[at:end], end
        parts.append(part)
        at += 1
    return tuple(parts)


def _unseen(report: Report) -> Resolution:
    """No snapshot: every table may be any table."""
    names = dict.fromkeys(each.object for each in report.effects if each.object and each.mode)
    added = tuple(
        replace(each, object=ANYTHING, columns=(), flags=each.flags | _DEGRADED, via="no catalogue")
        for each in report.effects
        if each.object and _needs_relation(each)
    )
    return Resolution(replace(report, effects=report.effects + added), added, tuple(names), "missing")


def _needs_relation(effect: Effect) -> bool:
    return effect.mode != "" and (effect.kind in _NEED_RELATION or "truncate" in effect.flags)


def _as_effect(key: tuple[Kind, str, str, str], found: tuple[dict[str, None], set[str]]) -> Effect:
    kind, name, mode, via = key
    return Effect(kind, name, mode, tuple(found[0]), frozenset(found[1]), via)


class _Walk:
    """One resolution. found: by kind, object, mode and via, the columns and flags."""

    def __init__(self, report: Report, snapshot: Snapshot, path: Path, derived: Derived) -> None:
        self._report = report
        self._snapshot = snapshot
        self._path = _known(path)
        self._derived = dict(derived)
        self._seen: set[tuple[object, ...]] = set()
        self.found: dict[tuple[Kind, str, str, str], tuple[dict[str, None], set[str]]] = {}
        self.called: dict[str, None] = {}
        self.unresolved: dict[str, None] = {}
        self.is_degraded = False
        self.knows_functions = False

    def run(self) -> None:
        report = self._report
        events = find_events(report)
        for effect in report.effects:
            if effect.object:
                self._own(effect, "t" if "truncate" in effect.flags else events)
        only_defined = report.statements == 1 and report.command == "CREATE" and "code_body" in report.flags
        if only_defined:  # called when it is used, and then seen
            return
        are_known = True
        for name in report.functions:
            are_known = self._call(name, self._path, "", 0) and are_known
        self.knows_functions = (
            are_known and bool(report.functions) and report.statements == 1 and report.command in _QUERIES
        )

    # ---- names --------------------------------------------------------------------------------------------------

    def _own(self, effect: Effect, events: str) -> None:
        """An object that the text names."""
        parts = split_name(effect.object)
        relations = list(self._find(parts, self._path))
        names = [parts[-1], *(former for relation in relations for _, former in relation.former), EVERY_NAME]
        known = [self._derived[name] for name in names if name in self._derived]
        origins = None if not known else tuple(dict.fromkeys(origin for each in known for origin in each))
        for origin in origins or ():
            for relation in self._find(split_name(origin), None) if origin != ANYTHING else ():
                self._use(relation, effect, f"derived {effect.object}", "s", 1)
            self._add(effect, origin, ("*",), f"derived {effect.object}")
        for relation in relations:
            self._identify(relation, effect)
            self._use(relation, effect, "", events if effect.mode == "write" else "s", 0)
            self._attributes(relation, effect, self._path, "", 0)
            if self._report.command == "REFRESH":
                self._use(relation, Effect(Kind.DML_READ, effect.object, "read"), "", "s", 0)
        if (
            relations
            or origins is not None
            or parts[-1] == "*"
            or self._is_system(parts)
            or not _needs_relation(effect)
        ):
            return
        self.unresolved[effect.object] = None
        self._add(effect, ANYTHING, (), "unresolved " + effect.object, _DEGRADED)

    def _find(self, parts: tuple[str, ...], path: Path) -> Iterator[Relation]:
        """Every relation that a name may stand for."""
        same = self._snapshot.by_name.get(parts[-1], ())
        schema = parts[-2] if len(parts) > 1 else None
        if schema == "pg_temp":
            return (each for each in same if each.schema.startswith("pg_temp_"))
        if schema is not None:
            return (each for each in same if each.schema == schema)
        found = [each for each in same if path is None or each.schema in path or each.schema == "pg_catalog"]
        # Temporary relations come first and hide others. They may be other sessions', so tables count only where nothing else does.
        found += [each for each in same if each.schema.startswith("pg_temp_") and (each.hooks or not found) and each not in found]  # fmt: skip
        return iter(found)

    def _attributes(self, relation: Relation, effect: Effect, path: Path, via: str, depth: int) -> None:
        """`t.f` is the function f(t) where t has no column f."""
        for column in effect.columns:
            if column not in relation.columns and column in self._snapshot.functions_by_name:
                self._call(join_name((column,)), path, via, depth + 1)

    def _is_system(self, parts: tuple[str, ...]) -> bool:
        names = self._snapshot.system_names
        if len(parts) > 1:
            return (parts[-2], parts[-1]) in names
        if ("pg_catalog", parts[-1]) in names:
            return True
        return (self._path is None or "information_schema" in self._path) and ("information_schema", parts[-1]) in names

    def _identify(self, relation: Relation, effect: Effect) -> None:
        """The object itself, by its full name and the names that it had."""
        columns = _columns(effect.columns, relation)
        name = join_name((relation.schema, relation.name))
        flags = frozenset({"remote_access"}) if relation.kind == "foreign" and effect.kind in _NEED_RELATION else frozenset[str]()  # fmt: skip
        if name != effect.object or set(columns) != set(effect.columns) or flags:
            self._add(effect, name, columns, "name", flags)
        for former in relation.former:
            self._add(effect, join_name(former), columns, f"former name of {name}")
        if relation.remote:
            self._add(effect, relation.remote, columns, f"foreign table {name}")

    # ---- what using a relation sets in motion -------------------------------------------------------------------

    def _use(self, relation: Relation, effect: Effect, via: str, events: str, depth: int) -> None:
        key = ("use", relation.oid, effect.kind, effect.mode, events, effect.flags)
        if key in self._seen or self._is_too_much(depth):
            return
        self._seen.add(key)
        if effect.kind in (Kind.DDL, Kind.DCL, Kind.ADMIN, Kind.TXN) and effect.mode != "read":
            self._children(relation, effect, events, depth)
            return
        for hook in relation.hooks:
            if set(hook.events) & set(events) or (hook.sort == "view" and effect.mode == "write"):
                self._hook(relation, hook, effect, events, depth)
        self._children(relation, effect, events, depth)
        self._parents(relation, effect)

    def _children(self, relation: Relation, effect: Effect, events: str, depth: int) -> None:
        for oid in relation.children:
            child = self._snapshot.by_oid.get(oid)
            if child is not None:
                via = f"{'partition' if relation.kind == 'partitioned' else 'child'} of {_name(relation)}"
                self._reach(child, effect, _columns(effect.columns, child, only_known=True), via, events, depth)

    def _parents(self, relation: Relation, effect: Effect) -> None:
        """What is in a partition is in the partitioned table too."""
        waiting = list(relation.parents)
        while waiting:
            parent = self._snapshot.by_oid.get(waiting.pop())
            if parent is not None and ("up", parent.oid, effect.kind, effect.mode) not in self._seen:
                self._seen.add(("up", parent.oid, effect.kind, effect.mode))
                for name in (_name(parent), *(join_name(each) for each in parent.former)):
                    self._add(effect, name, _columns(effect.columns, parent, only_known=True), f"parent of {_name(relation)}")  # fmt: skip
                waiting += parent.parents

    def _reach(
        self, relation: Relation, effect: Effect, columns: tuple[str, ...], via: str, events: str, depth: int
    ) -> None:
        """A relation that the text does not name."""
        flags = frozenset({"remote_access"}) if relation.kind == "foreign" else frozenset[str]()
        for name in (_name(relation), *(join_name(each) for each in relation.former), relation.remote):
            if name:
                self._add(effect, name, columns, via, flags)
        self._use(relation, replace(effect, columns=columns), via, events, depth + 1)

    def _hook(self, relation: Relation, hook: Hook, effect: Effect, events: str, depth: int) -> None:
        via = f"{hook.sort} {_name(relation) if hook.sort in ('view', 'materialized view') else hook.name}"
        if not hook.is_known:
            self.is_degraded = True
            if hook.sort in ("view", "materialized view"):
                self._add(effect, ANYTHING, (), via, _DEGRADED)
            else:
                self._add(Effect(Kind.DYNAMIC), "", (), via, _HIDDEN)
        for oid, columns in hook.relations:
            used = self._snapshot.by_oid.get(oid)
            if used is None:
                continue
            expanded = _columns(columns, used)
            if hook.mode == "read" and hook.sort not in ("view", "materialized view"):
                read = Effect(Kind.DML_READ, used.name, "read")
                self._reach(used, read, expanded, via, "s", depth)
            elif hook.mode == "read":
                # What a view shows is read; what is written to it goes to what it is made of, or is caught by its own triggers.
                if effect.mode == "write":
                    self._reach(used, replace(effect, columns=expanded), expanded, via, events, depth)
                else:
                    self._reach(used, effect, expanded, via, "s", depth)
            else:
                flags = effect.flags & {"no_where", "trivial_where"}
                if hook.mode == "both":
                    self._reach(used, Effect(Kind.DML_READ, used.name, "read"), expanded, via, "s", depth)
                self._reach(used, Effect(Kind.DML_WRITE, used.name, "write", flags=flags), expanded, via, "iud", depth)
        for oid in hook.functions:
            self._run(oid, self._path, via, depth + 1)
        for name in hook.system:
            self._add(Effect(Kind.DML_READ, mode="read"), name, ("*",), via, find_read_flags(split_name(name)))
        for name in hook.calls:
            self._call(join_name(("pg_catalog", name)), (), via, depth + 1)

    # ---- functions ----------------------------------------------------------------------------------------------

    def _call(self, name: str, path: Path, via: str, depth: int) -> bool:
        """A function, operator or cast by its name. Returns whether all that it may run is known."""
        sort, _, rest = name.partition(":")
        if sort == "operator" and rest:
            schema, dot, symbol = rest.rpartition(".")
            return self._named(self._snapshot.operators_by_name, (schema, symbol) if dot else (rest,), path, via, depth)
        if sort == "cast" and rest:
            return self._named(self._snapshot.types_by_name, split_name(rest), path, via, depth)
        parts = split_name(name)
        found = [each for each in self._snapshot.functions_by_name.get(parts[-1], ()) if _is_in(each.schema, parts, path)]  # fmt: skip
        is_known = True
        for function in found:
            is_known = self._run(function.oid, path, via, depth) and is_known
        meaning = find_meaning(parts)
        if meaning.is_known and not meaning.kinds and not meaning.flags:
            return is_known  # the server's own, and whoever has given it the same name
        if parts[-1] in ACTING:
            if via:
                for kind in meaning.kinds or (Kind.DML_READ,):
                    self._add(Effect(kind, flags=meaning.flags), "", (), via)
            return is_known
        return is_known and bool(found)

    def _named(
        self, names: Mapping[str, tuple[Named, ...]], parts: tuple[str, ...], path: Path, via: str, depth: int
    ) -> bool:
        # An array's own name is its element's with an underscore.
        found = [each for each in names.get(parts[-1], ()) or names.get(parts[-1].removeprefix("_"), ()) if _is_in(each.schema, parts, path)]  # fmt: skip
        is_known = bool(found)
        for each in found:
            for oid in each.functions:
                is_known = self._run(oid, path, via, depth) and is_known
        return is_known

    def _run(self, oid: int, path: Path, via: str, depth: int) -> bool:
        """A function runs. Returns whether all that it may run is known."""
        function = self._snapshot.functions_by_oid.get(oid)
        if function is None:
            if oid >= FIRST_USER_OID:
                self._hide(via or "a function")
                return False
            return True
        key = ("run", oid, path)
        if key in self._seen:
            return ("hidden", oid) not in self._seen
        self._seen.add(key)
        name = join_name((function.schema, function.name))
        self.called[name] = None
        own = f"function {name}"
        if function.body is None or self._is_too_much(depth):
            self._seen.add(("hidden", oid))
            self._hide(own)
            return False
        is_known = self._body(function, function.body, _known(function.path) if function.path is not None else path, own, depth)  # fmt: skip
        for other in function.functions:
            is_known = self._run(other, path, own, depth + 1) and is_known
        if not is_known:
            self._seen.add(("hidden", oid))
        return is_known

    def _body(self, function: Function, body: Body, path: Path, via: str, depth: int) -> bool:
        is_known = True
        for effect in body.effects:
            if effect.kind is Kind.DYNAMIC:
                if effect.flags - _SEVERAL == _UNKNOWN:
                    continue  # one of its functions: they follow
                is_known = False
            if not effect.object:
                if effect.kind is not Kind.DML_READ or effect.flags:
                    self._add(effect, "", (), via)
                continue
            relations = list(self._find(split_name(effect.object), path))
            for relation in relations:
                self._attributes(relation, effect, path, via, depth)
                columns = _columns(effect.columns, relation, only_known=True)
                self._reach(relation, effect, columns, via, body.events if effect.mode == "write" else "s", depth)
            if not relations:
                self._add(effect, effect.object, effect.columns, via, find_read_flags(split_name(effect.object)))
                if _needs_relation(effect) and not self._is_system(split_name(effect.object)):
                    self._add(effect, ANYTHING, (), via, _DEGRADED)
                    self.is_degraded = True
        for name in body.functions:
            if not self._call(name, path, via, depth + 1):
                self._hide(via)
                is_known = False
        return is_known

    def _hide(self, via: str) -> None:
        self._add(Effect(Kind.DYNAMIC), "", (), via, _UNKNOWN)

    # ---- gathering ----------------------------------------------------------------------------------------------

    def _add(
        self, effect: Effect, name: str, columns: tuple[str, ...], via: str, flags: frozenset[str] = frozenset()
    ) -> None:
        found = self.found.setdefault((effect.kind, name, effect.mode, via), ({}, set()))
        found[0].update(dict.fromkeys(columns))
        found[1].update(effect.flags | flags)

    def _is_too_much(self, depth: int) -> bool:
        if depth < MAX_DEPTH and len(self.found) < MAX_REACHED:
            return False
        if not self.is_degraded:
            self.is_degraded = True
            for kind, mode in ((Kind.DML_READ, "read"), (Kind.DML_WRITE, "write")):
                self._add(Effect(kind, "", mode), ANYTHING, (), "more than is followed", _DEGRADED)
        return True


FIRST_USER_OID = 16_384
"""Objects below it came with the server. Source: PostgreSQL, src/include/access/transam.h, FirstNormalObjectId."""


def _known(path: Path) -> Path:
    """With `$user` in it, which stands for a role that is not known, a path may name any schema."""
    return None if path is None or "$user" in path else path


def _name(relation: Relation) -> str:
    return join_name((relation.schema, relation.name))


def _is_in(schema: str, parts: tuple[str, ...], path: Path) -> bool:
    if len(parts) > 1:
        return schema == parts[-2] or (parts[-2] == "pg_temp" and schema.startswith("pg_temp_"))
    return path is None or schema in path or schema == "pg_catalog"


def _columns(columns: tuple[str, ...], relation: Relation, *, only_known: bool = False) -> tuple[str, ...]:
    """With "*" spelled out. only_known: a child has columns that its parent has not, and the other way round."""
    if "*" in columns and relation.columns:
        return ("*", *relation.columns)
    return tuple(each for each in columns if each in relation.columns) if only_known and relation.columns else columns


def find_made(report: Report, resolution: Resolution) -> Derived:
    """What a statement makes: the last part of each name that it creates or writes, with the names of what goes into it.

    A relation that gets a trigger or rule reaches from then on what that code does, which the snapshot does not have yet: anything.
    """
    reads = {each.object for each in resolution.report.effects if each.mode == "read" and each.object}
    creates = report.command not in ("ALTER", "DROP", "TRUNCATE", "COMMENT") or report.statements != 1
    made: dict[str, tuple[str, ...]] = {}
    for effect in report.effects:
        if effect.mode != "write" or not effect.object:
            continue
        if "code_body" in effect.flags:
            made[split_name(effect.object)[-1]] = (ANYTHING,)
            continue
        origins = tuple(sorted(reads - {effect.object}))
        if (effect.kind is Kind.DDL and creates) or (effect.kind is Kind.DML_WRITE and origins):
            made[split_name(effect.object)[-1]] = origins
    return tuple(made.items())
