"""Short ways to make policies, contexts and reports, and generators of arbitrary ones."""

from __future__ import annotations

import ipaddress
import random
from pathlib import Path
from typing import Any

import yaml

from classifiers.effects import FLAGS, Effect, Kind, Report
from dbproxy.policy.load import CheckedPolicy, compile_policy
from dbproxy.policy.model import Context, Policy


def checked(text: str, *more: str) -> CheckedPolicy:
    """Compile policy texts as files p.yaml, p2.yaml, ..."""
    names = ["p.yaml", *(f"p{number}.yaml" for number in range(2, len(more) + 2))]
    return compile_policy([(name, each.encode()) for name, each in zip(names, (text, *more), strict=True)])


def problems(text: str, *more: str) -> list[str]:
    return [str(problem) for problem in checked(text, *more).problems]


def policy(text: str, *more: str) -> Policy:
    result = checked(text, *more)
    assert result.policy is not None, "\n".join(map(str, result.problems))
    return result.policy


def rules(*lines: str, head: str = "") -> Policy:
    """A policy of rules in flow style, without names for those that do not matter."""
    return policy("version: 1\n" + head + "\nrules:\n" + "\n".join(f"  - {line}" for line in lines))


def context(**values: Any) -> Context:
    fields: dict[str, Any] = {
        "target": "shop",
        "env": "prod",
        "database": "shop",
        "person": "alice",
        "groups": ("dba",),
        "account": "app",
        "address": ipaddress.ip_address("10.1.2.3"),
        "application": "psql",
        "search_path": ("public",),
    }
    return Context(**{**fields, **values})


def effect(kind: str, name: str = "", mode: str = "", *flags: str) -> Effect:
    return Effect(Kind(kind), name, mode, (), frozenset(flags))


def report(*effects: Effect, **values: Any) -> Report:
    return Report(effects, **values)


def shipped(name: str) -> Policy:
    from config.settings import SHIPPED_POLICIES
    from dbproxy.policy.load import load_policy

    result = load_policy([Path(SHIPPED_POLICIES) / f"{name}.yaml"]).policy
    assert result is not None
    return result


_KINDS = [kind.value for kind in Kind]
_FLAGS = sorted(FLAGS)
_TABLES = [
    "customers",
    "app.customers",
    "app.*",
    "*.customers",
    "cust*",
    "hr.emp?oyees",
    "pg_catalog.pg_authid",
    "p*.orders",
]
_OBJECTS = [
    "",
    "customers",
    "app.customers",
    "public.orders",
    "orders",
    "hr.employees",
    "pg_authid",
    "pg_catalog.pg_class",
]
_FUNCTIONS = ["pg_read_file", "pg_catalog.*", "util.run", "lo_*"]
_CALLED = ["pg_read_file", "pg_catalog.lower", "util.run", "run", "lo_import"]


def random_policy(choose: random.Random, size: int) -> dict[str, Any]:
    """A valid policy as plain values."""
    defaults: dict[str, str] = {}
    if choose.random() < 0.4:
        defaults["action"] = choose.choice(["allow", "alert", "block"])
    for name in ("unsafe_on_unparsable", "unsafe_on_dynamic"):
        if choose.random() < 0.5:
            defaults[name] = choose.choice(["allow", "alert"])
    listed = [_rule(choose, number) for number in range(size)]
    return {
        "version": 1,
        "defaults": defaults,
        "labels": {"pii": {"tables": choose.sample(_TABLES, 2)}, "money": {"tables": choose.sample(_TABLES, 1)}},
        "lists": {"people": ["alice", "group:ops"], "nets": ["10.0.0.0/8", "2001:db8::/32"]},
        "rules": listed,
    }


def _rule(choose: random.Random, number: int) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "name": f"r{number}",
        "match": _condition(choose, choose.randint(1, 3)),
        "action": choose.choice(["allow", "alert", "block", "block"]),
        "mode": choose.choice(["enforce", "enforce", "shadow"]),
    }
    if choose.random() < 0.4:
        rule["unless"] = _condition(choose, choose.randint(1, 2))
    return rule


def _condition(choose: random.Random, size: int) -> dict[str, Any]:
    makers: dict[str, list[str]] = {
        "kind": choose.sample(_KINDS, choose.randint(1, 4)),
        "flag": choose.sample(_FLAGS, choose.randint(1, 6)),
        "table": choose.sample(_TABLES, choose.randint(1, 2)),
        "label": choose.sample(["pii", "money"], 1),
        "function": choose.sample(_FUNCTIONS, 1),
        "command": choose.sample(["SELECT", "DROP", "WITH"], choose.randint(1, 2)),
        "env": choose.sample(["prod", "d*", "stage"], 1),
        "target": choose.sample(["shop", "s?op", "other"], 1),
        "database": choose.sample(["shop", "x*"], 1),
        "user": choose.sample(["alice", "b*", "group:dba", "$people"], choose.randint(1, 2)),
        "group": choose.sample(["dba", "o*"], 1),
        "account": choose.sample(["app", "report*"], 1),
        "client": choose.sample(["10.0.0.0/8", "192.168.1.5", "$nets"], 1),
        "application": choose.sample(["psql", "*JDBC*"], 1),
    }
    keys = choose.sample(sorted(makers), size)
    if choose.random() < 0.6:
        keys = list({*keys[:-1], choose.choice(["kind", "flag", "table"])})
    return {key: makers[key] if len(makers[key]) > 1 or choose.random() < 0.5 else makers[key][0] for key in keys}


def random_report(choose: random.Random) -> Report:
    effects = tuple(
        Effect(
            Kind(choose.choice(_KINDS)),
            choose.choice(_OBJECTS),
            choose.choice(["", "read", "write"]),
            (),
            frozenset(choose.sample(_FLAGS, choose.choice([0, 0, 1, 2, 4]))),
        )
        for _ in range(choose.choice([0, 1, 1, 1, 2, 3]))
    )
    return Report(
        effects,
        command=choose.choice(["SELECT", "DROP", "WITH", "OTHER"]),
        statements=choose.choice([1, 1, 1, 2]),
        functions=tuple(choose.sample(_CALLED, choose.choice([0, 0, 1, 2]))),
        prepares=choose.choice([(), (("x", Report(())),)]),
    )


def random_context(choose: random.Random) -> Context:
    return context(
        env=choose.choice(["prod", "dev", "stage"]),
        target=choose.choice(["shop", "other"]),
        person=choose.choice(["alice", "bob", "carol"]),
        groups=tuple(choose.sample(["dba", "ops", "dev"], choose.randint(0, 2))),
        account=choose.choice(["app", "reporting", ""]),
        address=choose.choice(
            [None, *map(ipaddress.ip_address, ["10.9.9.9", "192.168.1.5", "2001:db8::1", "1.1.1.1"])]
        ),
        application=choose.choice(["psql", "PostgreSQL JDBC Driver", ""]),
        search_path=choose.choice([None, (), ("public",), ("app",), ("app", "public"), ("$user", "public")]),
    )


def as_yaml(value: dict[str, Any]) -> str:
    return str(yaml.safe_dump(value, sort_keys=False))
