"""Reads the catalogue of one PostgreSQL database over asyncpg: one connection, one read-only transaction, then gone.

The account needs nothing but to log in: the catalogues are readable by everybody where nobody has taken that away. What cannot be read
is left out and said in Snapshot.gaps; what it would have shown counts as there and unknown. Without relations there is no snapshot.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg

from classifiers.effects import Kind, Report
from classifiers.functions_postgres import find_meaning
from classifiers.relations_postgres import find_read_flags
from classifiers.search_path_postgres import parse_search_path
from classifiers.tokens import Unreadable, join_name
from dbproxy.catalogue import queries
from dbproxy.catalogue.bodies import Known, read_plpgsql
from dbproxy.catalogue.model import Body, Function, Hook, Named, Relation, Snapshot
from dbproxy.catalogue.resolve import FIRST_USER_OID, find_events
from dbproxy.errors import DbproxyError

Classify = Callable[[bytes], Awaitable[Report]]
"""Reads an SQL text as for the proxy's sessions, in a process that can be killed. The lexing state of a body is not known."""
_KINDS = {"r": "table", "v": "view", "m": "matview", "p": "partitioned", "f": "foreign", "S": "sequence"}
_RULE_EVENTS = {"1": "s", "2": "u", "3": "i", "4": "d"}
_TRIGGER_EVENTS = ((4, "i"), (8, "d"), (16, "u"), (32, "t"))
_READ_S = 30.0
_CONNECT_S = 10.0
_ATOMIC = re.compile(r"\s*BEGIN ATOMIC(.*)\bEND\s*", re.DOTALL)


class CatalogueError(DbproxyError):
    """The catalogue cannot be read; the text says why, without what the server said of data."""


class DatabaseGoneError(CatalogueError):
    """There is no such database."""


@dataclass(frozen=True, slots=True)
class Login:
    """How to reach a database as the target's monitor account. ssl: as asyncpg takes it."""

    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    database: str
    ssl: ssl.SSLContext | str | bool


async def read_postgres(login: Login, classify: Classify, taken_at_ns: int) -> Snapshot:
    """Raises CatalogueError."""
    try:
        async with asyncio.timeout(_CONNECT_S + _READ_S):
            answers = await _ask(login)
    except asyncpg.InvalidCatalogNameError:
        raise DatabaseGoneError("there is no such database") from None
    except TimeoutError:
        raise CatalogueError("the server does not answer in time") from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        code = getattr(error, "sqlstate", None)
        raise CatalogueError(f"{type(error).__name__}{f' ({code})' if code else ''}") from None
    plain = await asyncio.to_thread(_Builder, login.database, taken_at_ns, answers)
    bodies = {oid: await _read_body(text, classify) for oid, text in plain.sql_bodies.items()}
    return await asyncio.to_thread(plain.build, bodies)


@dataclass
class _Answers:
    version: int = 0
    rows: dict[str, list[Any]] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    def of(self, name: str) -> list[Any]:
        return self.rows.get(name, [])


_QUESTIONS = {
    "columns": queries.COLUMNS,
    "inheritance": queries.INHERITANCE,
    "classes": queries.CLASSES,
    "dependencies": queries.DEPENDENCIES,
    "rules": queries.RULES,
    "triggers": queries.TRIGGERS,
    "constraints": queries.CONSTRAINTS,
    "policies": queries.POLICIES,
    "defaults": queries.DEFAULTS,
    "indexes": queries.INDEXES,
    "functions": queries.FUNCTIONS,
    "operators": queries.OPERATORS,
    "types": queries.TYPES,
    "casts": queries.CASTS,
    "foreign tables": queries.FOREIGN,
}


async def _ask(login: Login) -> _Answers:
    connection = await asyncpg.connect(
        host=login.host,
        port=login.port,
        user=login.user,
        password=login.password,
        database=login.database,
        ssl=login.ssl,
        timeout=_CONNECT_S,
        statement_cache_size=0,
        server_settings={
            "application_name": "dbproxy-catalogue",
            "statement_timeout": "20000",
            "search_path": "pg_catalog",
        },
    )
    try:
        for setting in queries.SETTINGS:
            await connection.execute(setting)
        answers = _Answers(connection.get_server_version().major * 10_000 + connection.get_server_version().minor)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            answers.rows["relations"] = await connection.fetch(queries.RELATIONS)
            for name, question in _QUESTIONS.items():
                try:
                    async with connection.transaction():  # a savepoint
                        answers.rows[name] = await connection.fetch(question)
                except asyncpg.PostgresError as error:
                    answers.gaps.append(f"{name} cannot be read ({type(error).__name__})")
        return answers
    finally:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            await connection.close(timeout=2)


async def _read_body(text: str, classify: Classify) -> Body | str:
    """What the body of an SQL function does, or why that cannot be said."""
    report = await classify(text.encode("utf-8", "surrogateescape"))
    if Kind.UNPARSABLE in report.kinds:
        return "its body cannot be read"
    return Body(
        tuple(each for each in report.effects if each.kind is not Kind.EMPTY), report.functions, find_events(report)
    )


class _Builder:
    """Puts the answers together. sql_bodies: texts to be classified, by the function's oid."""

    def __init__(self, database: str, taken_at_ns: int, answers: _Answers) -> None:
        self._database = database
        self._taken_at_ns = taken_at_ns
        self._answers = answers
        self._gaps = list(answers.gaps)
        self._class = {name.removeprefix("pg_catalog."): oid for name, oid in answers.of("classes")}
        self._columns: dict[int, dict[int, str]] = defaultdict(dict)
        for oid, number, name in answers.of("columns"):
            self._columns[oid][number] = name
        self._used: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
        for classid, objid, refclass, refobj, column in answers.of("dependencies"):
            self._used[classid, objid].append((refclass, refobj, column))
        self._operator_code = {oid: code for _, _, code, oid in answers.of("operators")}
        self._paths: dict[int, tuple[str, ...] | None] = {}
        self.sql_bodies: dict[int, str] = {}
        for row in answers.of("functions"):
            oid, language, kind, config, source, sqlbody = row[0], row[3], row[6], row[7], row[8], row[9]
            self._paths[oid] = _path_of(config)
            if language == "sql" and kind != "a":
                self.sql_bodies[oid] = source if sqlbody is None else _statements_of(sqlbody)
                if sqlbody is not None:
                    self._paths[oid] = ()  # the server wrote it out with every name qualified

    def build(self, sql_bodies: dict[int, Body | str]) -> Snapshot:
        answers = self._answers
        rows = [row for row in answers.of("relations") if row[0] >= FIRST_USER_OID]
        system = tuple((row[1], row[2]) for row in answers.of("relations") if row[0] < FIRST_USER_OID)
        hooks = self._hooks(rows)
        parents: dict[int, list[int]] = defaultdict(list)
        children: dict[int, list[int]] = defaultdict(list)
        for child, parent in answers.of("inheritance"):
            parents[child].append(parent)
            children[parent].append(child)
        remote = {oid: _remote_name(server, options or ()) for oid, server, options in answers.of("foreign tables")}
        names = {row[0]: row[2] for row in rows}
        relations = tuple(
            Relation(
                oid,
                schema,
                name,
                _KINDS[kind],
                tuple(self._columns.get(oid, {}).values()),
                tuple(parents.get(oid, ())),
                tuple(children.get(oid, ())),
                tuple(hooks.get(oid, ())),
                remote.get(oid) or (name if kind == "f" else ""),
            )
            for oid, schema, name, kind, *_ in rows
        )
        return Snapshot(
            self._database,
            answers.version,
            self._taken_at_ns,
            relations,
            self._functions(sql_bodies, frozenset(names.values())),
            tuple(
                Named(schema, name, (code,) if code >= FIRST_USER_OID else ())
                for schema, name, code, _ in answers.of("operators")
            ),
            self._types(),
            system,
            tuple(self._gaps),
        )

    def _uses(self, class_name: str, oid: int) -> tuple[dict[int, list[str]], list[int]]:
        """What an object depends on: columns by relation, and functions."""
        relations: dict[int, list[str]] = {}
        functions: dict[int, None] = {}
        for refclass, refobj, column in self._used.get((self._class.get(class_name, 0), oid), ()):
            if refclass == self._class.get("pg_class"):
                columns = relations.setdefault(refobj, [])
                if column:
                    columns.append(self._columns.get(refobj, {}).get(column, "*"))
            elif refclass == self._class.get("pg_proc"):
                functions[refobj] = None
            elif refclass == self._class.get("pg_operator") and refobj in self._operator_code:
                functions[self._operator_code[refobj]] = None
        return relations, list(functions)

    def _hooks(self, rows: list[Any]) -> dict[int, list[Hook]]:
        answers = self._answers
        found: dict[int, list[Hook]] = defaultdict(list)
        kinds = {row[0]: row[3] for row in rows}
        are_uses_known = "dependencies" in answers.rows and bool(self._class)
        system = {row[0]: join_name((row[1], row[2])) for row in answers.of("relations") if row[0] < FIRST_USER_OID}
        for oid, relation, event, name, is_whole_row, of_server, calls in answers.of("rules"):
            used, functions = self._uses("pg_rewrite", oid)
            is_view = event == "1"
            used.pop(relation, None)
            columns = tuple((each, ("*",) if is_whole_row else tuple(names)) for each, names in used.items())
            sort = {"v": "view", "m": "materialized view"}.get(kinds.get(relation, ""), "rule") if is_view else "rule"
            found[relation].append(
                Hook(
                    sort, name, _RULE_EVENTS.get(event, "siudt"), columns, "read" if is_view else "both", tuple(functions),
                    tuple(system[each] for each in of_server if each in system), tuple(filter(_acts, calls)), are_uses_known,
                )
            )  # fmt: skip
        for oid, relation, name, kind, function in answers.of("triggers"):
            _, functions = self._uses("pg_trigger", oid)
            events = "".join(letter for bit, letter in _TRIGGER_EVENTS if kind & bit)
            every = tuple(dict.fromkeys((function, *functions)))
            found[relation].append(Hook("trigger", name, events, (), "read", every, is_known=are_uses_known))
        for oid, kind, name, child, parent, _, on_update, on_delete in answers.of("constraints"):
            if kind == "f":
                events = ("u" if on_update in "cnd" else "") + ("d" if on_delete in "cnd" else "")
                if events:
                    found[parent].append(Hook("foreign key", name, events, ((child, ()),), "write"))
            elif child:
                self._expression(found, child, "constraint", name, "pg_constraint", oid, "iu")
        for oid, relation, name in answers.of("policies"):
            used, functions = self._uses("pg_policy", oid)
            used.pop(relation, None)
            columns = tuple((each, tuple(names)) for each, names in used.items())
            found[relation].append(
                Hook("policy", name, "siud", columns, "read", tuple(functions), is_known=are_uses_known)
            )
        for oid, relation, generated in answers.of("defaults"):
            events = "s" if generated == "v" else "iu"  # virtual columns are made when they are read
            self._expression(found, relation, "default", "of a column", "pg_attrdef", oid, events)
        for oid, relation in answers.of("indexes"):
            self._expression(found, relation, "index", "expression", "pg_class", oid, "iu")
        for row in rows:
            self._note_unread(found[row[0]], row)
        return found

    def _expression(
        self, found: dict[int, list[Hook]], relation: int, sort: str, name: str, class_name: str, oid: int, events: str
    ) -> None:
        _, functions = self._uses(class_name, oid)
        if functions:
            found[relation].append(Hook(sort, name, events, functions=tuple(functions)))

    def _note_unread(self, hooks: list[Hook], relation: Any) -> None:
        """What the relation has and nobody could be asked about."""
        kind, has_rules, has_triggers, has_policies = relation[3:7]
        rows = self._answers.rows
        if has_rules and "rules" not in rows:
            hooks.append(
                Hook({"v": "view", "m": "materialized view"}.get(kind, "rule"), "unread", "siudt", is_known=False)
            )
        if has_triggers and "triggers" not in rows:
            hooks.append(Hook("trigger", "unread", "iudt", is_known=False))
        if has_triggers and "constraints" not in rows:
            hooks.append(Hook("foreign key", "unread", "ud", is_known=False))
        if has_policies and "policies" not in rows:
            hooks.append(Hook("policy", "unread", "siud", is_known=False))

    def _functions(self, sql_bodies: dict[int, Body | str], relation_names: frozenset[str]) -> tuple[Function, ...]:
        answers = self._answers
        function_names = {row[2] for row in answers.of("functions")}
        operator_names = {row[1] for row in answers.of("operators")}
        type_names = {row[2] for row in answers.of("types")}
        # Of the server's own relations those count that show more than structure.
        telling = {row[2] for row in answers.of("relations") if row[0] < FIRST_USER_OID and find_read_flags((row[2],))}
        known = Known(
            (relation_names | telling).__contains__,
            function_names.__contains__,
            operator_names.__contains__,
            type_names.__contains__,
        )
        made: list[Function] = []
        for oid, schema, name, language, volatility, is_definer, kind, _, source, _ in answers.of("functions"):
            _, functions = self._uses("pg_proc", oid)
            body: Body | str
            if kind == "a":
                body = Body()
            elif language == "sql":
                body = sql_bodies.get(oid, "its body was not read")
            elif language == "plpgsql":
                body = _try(partial(read_plpgsql, source or "", known))
            elif language in ("c", "internal") and volatility == "i" and self._is_of_extension(oid):
                body = Body()  # an extension's own code, which says that it depends on nothing but its arguments
            else:
                body = f"it is written in {language}"
            made.append(
                Function(
                    oid, schema, name, language, {"i": "immutable", "s": "stable"}.get(volatility, "volatile"), is_definer,
                    self._paths.get(oid), None if isinstance(body, str) else body, body if isinstance(body, str) else "",
                    tuple(each for each in functions if each != oid),
                )
            )  # fmt: skip
        return tuple(made)

    def _is_of_extension(self, oid: int) -> bool:
        return any(refclass == self._class.get("pg_extension") for refclass, _, _ in self._used.get((self._class.get("pg_proc", 0), oid), ()))  # fmt: skip

    def _types(self) -> tuple[Named, ...]:
        answers = self._answers
        code: dict[int, list[int]] = defaultdict(list)
        for target, function in answers.of("casts"):
            code[target].append(function)
        for oid, _, _, _, _, domain, _, _ in answers.of("constraints"):
            if domain:
                code[domain] += self._uses("pg_constraint", oid)[1]
        base = {oid: below for oid, _, _, below in answers.of("types")}
        types: list[Named] = []
        if not {"casts", "constraints", "dependencies"} <= answers.rows.keys():
            return ()  # a type that is not listed is not known
        for oid, schema, name, _ in answers.of("types"):
            functions: dict[int, None] = {}
            at, steps = oid, 0
            while at in base and steps < 32:
                functions.update(dict.fromkeys([*code[at], *self._uses("pg_type", at)[1]]))
                at, steps = base[at], steps + 1
            types.append(Named(schema, name, tuple(functions)))
        return tuple(types)


def _acts(name: str) -> bool:
    """Whether calling a function of the server's own does more than to compute."""
    meaning = find_meaning(("pg_catalog", name))
    return bool(meaning.kinds or meaning.flags)


def _try(read: Callable[[], Body]) -> Body | str:
    try:
        return read()
    except Unreadable as unreadable:
        return str(unreadable)
    except Exception as error:  # noqa: BLE001 - a body that we cannot read is one that is not known
        return f"reading it failed ({type(error).__name__})"


def _path_of(config: list[str] | None) -> tuple[str, ...] | None:
    """The search_path that a function sets for itself; None if it sets none."""
    for setting in config or ():
        name, _, value = setting.partition("=")
        if name.lower() == "search_path":
            return parse_search_path(value, "$user")
    return None


def _statements_of(sqlbody: str) -> str:
    """The statements of a body in the form of the SQL standard."""
    found = _ATOMIC.fullmatch(sqlbody)
    if found is not None:
        return found[1]
    return re.sub(r"\A\s*RETURN\b", "SELECT", sqlbody, count=1)


def _remote_name(server: str, options: list[str] | tuple[()]) -> str:
    """How the other server knows a foreign table, as far as its options say; the server's name otherwise."""
    values = dict(option.partition("=")[::2] for option in options)
    table = values.get("table_name") or values.get("table")
    if table is None:
        return ""
    schema = values.get("schema_name") or values.get("schema")
    return join_name((schema, table) if schema else (table,))
