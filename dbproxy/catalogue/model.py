"""A snapshot of one database of one target: what its names stand for, and what using an object sets in motion. Frozen, plain, JSON-able.

No text of anybody's code is in it, and no data: of functions only what their bodies touch. Made by postgres.py, used by resolve.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import orjson

from classifiers.effects import FLAGS, Effect, Kind
from dbproxy.errors import DbproxyError

FORMAT = 1
"""Of the JSON. A file of another format is not read but made again."""
MAX_FORMER_NAMES = 8
ALL_WRITES = "iudt"


class SnapshotError(DbproxyError):
    """Bytes that are no snapshot."""


@dataclass(frozen=True, slots=True)
class Hook:
    """What happens besides when a relation is used.

    sort: "view", "rule", "trigger", "policy", "default", "foreign key" and the like; name: of it.
    events: of s(elect) i(nsert) u(pdate) d(elete) t(runcate), those that set it off.
    relations: (oid, columns) that it touches; "*" for whole rows. mode: "read", "write", or "both".
    functions: oids that it calls. system: names of the server's own relations that it reads; calls: of the server's own functions. is_known False: it is there, but what it does could not be read.
    """

    sort: str
    name: str
    events: str
    relations: tuple[tuple[int, tuple[str, ...]], ...] = ()
    mode: str = "read"
    functions: tuple[int, ...] = ()
    system: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Relation:
    """kind: table, view, matview, partitioned, foreign, sequence. remote: the foreign server's name for it, with the schema, "" if it has none.

    parents, children: by inheritance or partitioning, direct ones, oids. former: names (schema, name) that it had earlier, while the proxy was watching.
    """

    oid: int
    schema: str
    name: str
    kind: str
    columns: tuple[str, ...] = ()
    parents: tuple[int, ...] = ()
    children: tuple[int, ...] = ()
    hooks: tuple[Hook, ...] = ()
    remote: str = ""
    former: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Body:
    """What runs when a function is called: effects with names as they stand there, and functions that it calls by name.

    events: of i(nsert) u(pdate) d(elete) t(runcate), what its writes may be.
    """

    effects: tuple[Effect, ...] = ()
    functions: tuple[str, ...] = ()
    events: str = ALL_WRITES


@dataclass(frozen=True, slots=True)
class Function:
    """path: the search_path that it sets for itself, None if it runs under its caller's. body: None if it could not be read, and why.

    functions: oids of others that it depends on, by its arguments' defaults, an aggregate's parts, and the like.
    """

    oid: int
    schema: str
    name: str
    language: str
    volatility: str
    is_security_definer: bool
    path: tuple[str, ...] | None = None
    body: Body | None = None
    reason: str = ""
    functions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """An operator or a type of a user, and the functions that run when it is used. name: an operator's symbol."""

    schema: str
    name: str
    functions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """system: names of the server's own relations, as (schema, name). taken_at_ns: wall clock. gaps: what could not be read, one sentence each."""

    database: str
    server_version: int
    taken_at_ns: int
    relations: tuple[Relation, ...]
    functions: tuple[Function, ...]
    operators: tuple[Named, ...]
    types: tuple[Named, ...]
    system: tuple[tuple[str, str], ...]
    gaps: tuple[str, ...] = ()

    @property
    def visibility(self) -> str:
        """full, or degraded: see gaps."""
        return "degraded" if self.gaps else "full"

    @cached_property
    def by_oid(self) -> Mapping[int, Relation]:
        return {each.oid: each for each in self.relations}

    @cached_property
    def by_name(self) -> Mapping[str, tuple[Relation, ...]]:
        """By the last part of the name."""
        return _group(self.relations)

    @cached_property
    def functions_by_oid(self) -> Mapping[int, Function]:
        return {each.oid: each for each in self.functions}

    @cached_property
    def functions_by_name(self) -> Mapping[str, tuple[Function, ...]]:
        return _group(self.functions)

    @cached_property
    def operators_by_name(self) -> Mapping[str, tuple[Named, ...]]:
        return _group(self.operators)

    @cached_property
    def types_by_name(self) -> Mapping[str, tuple[Named, ...]]:
        return _group(self.types)

    @cached_property
    def system_names(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.system)

    @cached_property
    def sha256(self) -> str:
        """Of everything but the time: two that are equal say the same."""
        return hashlib.sha256(_encode(replace(self, taken_at_ns=0))).hexdigest()

    def index(self) -> None:
        """Make everything that is made on first use: it takes a while for a large database."""
        for name in ("by_oid", "by_name", "functions_by_oid", "functions_by_name", "operators_by_name", "types_by_name", "system_names"):  # fmt: skip
            getattr(self, name)


def keep_former_names(snapshot: Snapshot, before: Snapshot | None) -> Snapshot:
    """The snapshot with the names that its relations had before: what a policy says of a table follows it through renames."""
    if before is None:
        return snapshot
    changed = False
    relations = []
    for relation in snapshot.relations:
        old = before.by_oid.get(relation.oid)
        # An oid is used again only after four thousand million others, and then hardly for the same kind of relation.
        if old is not None and old.kind == relation.kind:
            names = [*old.former, (old.schema, old.name)]
            former = tuple(dict.fromkeys(each for each in names if each != (relation.schema, relation.name)))
            if former:
                relation = replace(relation, former=former[-MAX_FORMER_NAMES:])
                changed = True
        relations.append(relation)
    return replace(snapshot, relations=tuple(relations)) if changed else snapshot


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """As JSON."""
    return _encode(snapshot)


def decode_snapshot(data: bytes) -> Snapshot:
    """Raises SnapshotError if it is none, or of another format."""
    try:
        value = orjson.loads(data)
        if value.pop("format") != FORMAT:
            raise SnapshotError("a snapshot of another format")
        return Snapshot(
            value["database"],
            value["server_version"],
            value["taken_at_ns"],
            tuple(_relation(each) for each in value["relations"]),
            tuple(_function(each) for each in value["functions"]),
            tuple(_named(each) for each in value["operators"]),
            tuple(_named(each) for each in value["types"]),
            tuple((schema, name) for schema, name in value["system"]),
            tuple(value["gaps"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SnapshotError("not a snapshot of a catalogue") from None


def _group(items: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    found: dict[str, list[Any]] = {}
    for each in items:
        found.setdefault(each.name, []).append(each)
    return {name: tuple(each) for name, each in found.items()}


def _encode(snapshot: Snapshot) -> bytes:
    fields = {
        name: getattr(snapshot, name)
        for name in ("database", "server_version", "taken_at_ns", "relations", "functions", "operators", "types", "system", "gaps")
    }  # fmt: skip
    return orjson.dumps({"format": FORMAT, **fields}, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError


def _relation(value: dict[str, Any]) -> Relation:
    return Relation(
        **{
            **value,
            "columns": tuple(value["columns"]),
            "parents": tuple(value["parents"]),
            "children": tuple(value["children"]),
            "hooks": tuple(_hook(each) for each in value["hooks"]),
            "former": tuple((schema, name) for schema, name in value["former"]),
        }
    )


def _hook(value: dict[str, Any]) -> Hook:
    relations = tuple((oid, tuple(columns)) for oid, columns in value["relations"])
    lists = {name: tuple(value[name]) for name in ("functions", "system", "calls")}
    return Hook(**{**value, "relations": relations, **lists})


def _function(value: dict[str, Any]) -> Function:
    body, path = value["body"], value["path"]
    return Function(
        **{
            **value,
            "path": None if path is None else tuple(path),
            "body": None
            if body is None
            else Body(tuple(map(_effect, body["effects"])), tuple(body["functions"]), body["events"]),
            "functions": tuple(value["functions"]),
        }
    )


def _effect(value: dict[str, Any]) -> Effect:
    flags = frozenset(value["flags"])
    if not flags <= FLAGS:
        raise SnapshotError("a flag that is not known")
    return Effect(Kind(value["kind"]), value["object"], value["mode"], tuple(value["columns"]), flags, value["via"])


def _named(value: dict[str, Any]) -> Named:
    return Named(value["schema"], value["name"], tuple(value["functions"]))
