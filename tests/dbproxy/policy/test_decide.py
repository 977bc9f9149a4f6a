from __future__ import annotations

import ipaddress

import pytest
from support.policies import context, effect, policy, report, rules, shipped

from classifiers.effects import Report
from dbproxy.policy.decide import decide
from dbproxy.policy.model import Action, Context, Hit, Mode, Policy, Severity

READ = report(effect("dml_read", "public.orders", "read"), command="SELECT")
DROP = report(effect("ddl", "customers", "write", "ddl_destructive"), command="DROP")
BLOCK_ALL = "defaults: {action: block}"


def action(compiled: Policy, what: Report, where: Context | None = None) -> str:
    return decide(compiled, what, where or context()).action.value


def one(line: str, head: str = "") -> Policy:
    return rules(f"{{name: r, {line}, action: block}}", head=head)


def test_a_decision_carries_its_reasons() -> None:
    compiled = rules(
        "{name: no-prod-drop, match: {env: prod, flag: [ddl_destructive, truncate]}, action: block, severity: high, message: Not now.}",
        "{name: look, match: {kind: ddl}, action: alert, severity: low}",
        "{name: maybe, match: {user: alice}, action: block, mode: shadow}",
    )
    decision = decide(compiled, DROP, context())
    assert decision.action is Action.BLOCK
    assert decision.is_refused
    assert decision.rule == "no-prod-drop"
    assert decision.message == "Not now."
    assert decision.policy_sha256 == compiled.sha256
    assert decision.hits == (
        Hit("no-prod-drop", Mode.ENFORCE, Action.BLOCK, Severity.HIGH, "flag=ddl_destructive env=prod"),
        Hit("look", Mode.ENFORCE, Action.ALERT, Severity.LOW, "kind=ddl"),
        Hit("maybe", Mode.SHADOW, Action.BLOCK, Severity.MEDIUM, "user=alice"),
    )


def test_shadow_rules_are_recorded_and_never_enforced() -> None:
    decision = decide(rules("{name: r, match: {kind: ddl}, action: block, mode: shadow, message: x}"), DROP, context())
    assert (decision.action, decision.rule, decision.message, decision.is_refused) == (Action.ALLOW, "", "", False)
    assert [hit.rule for hit in decision.hits] == ["r"]


def test_a_report_without_effects_is_unparsable() -> None:
    assert action(rules("{name: r, match: {kind: ddl}, action: alert}"), report()) == "block"
    assert action(one("match: {kind: ddl}", BLOCK_ALL), report()) == "block"


def test_unparsable_and_dynamic_are_refused_unless_a_switch_says_otherwise() -> None:
    compiled = rules("{name: r, match: {kind: ddl}, action: alert}")
    for kind in ("unparsable", "dynamic"):
        decision = decide(compiled, report(effect(kind)), context())
        assert (decision.action, decision.rule) == (Action.BLOCK, f"defaults.on_{kind}")
    opened = rules(
        "{name: r, match: {kind: ddl}, action: alert}",
        head="defaults: {unsafe_on_unparsable: alert, unsafe_on_dynamic: allow}",
    )
    unparsable = decide(opened, report(effect("unparsable")), context())
    assert (unparsable.action, unparsable.unsafe) == (Action.ALERT, ("unsafe_on_unparsable", "unsafe_on_dynamic"))
    assert action(opened, report(effect("dynamic"))) == "allow"


@pytest.mark.parametrize("flag", ["unknown_function", "unknown_prepared"])
def test_code_that_is_not_known_is_dynamic_whatever_the_kind(flag: str) -> None:
    assert action(shipped("default"), report(effect("dml_read", "t", "read", flag))) == "block"


def test_preparing_a_statement_that_was_read_is_not_dynamic() -> None:
    compiled = rules("{name: r, match: {kind: ddl}, action: alert}")
    prepare = effect("dynamic", "", "", "prepare")
    assert action(compiled, report(prepare, prepares=(("x", READ),))) == "allow"
    assert action(compiled, report(prepare)) == "block"
    assert (
        action(compiled, report(effect("dynamic", "", "", "prepare", "code_body"), prepares=(("x", READ),))) == "block"
    )
    assert (
        action(compiled, report(prepare, effect("dynamic", "", "", "dynamic_sql"), prepares=(("x", READ),))) == "block"
    )


def test_all_keys_must_be_met_by_one_and_the_same_effect() -> None:
    compiled = one("match: {kind: dml_write, table: app.cards}")
    split = report(effect("dml_write", "app.orders", "write"), effect("dml_read", "app.cards", "read"))
    assert action(compiled, split) == "allow"
    assert action(compiled, report(effect("dml_write", "app.cards", "write"))) == "block"


def test_an_export_without_a_name_exports_all_that_the_text_reads() -> None:
    compiled = one("match: {kind: bulk_export, table: app.cards}")
    copy = report(effect("bulk_export", "", "", "client_export"), effect("dml_read", "app.cards", "read"))
    decision = decide(compiled, copy, context())
    assert decision.hits[0].matched == "kind=bulk_export table=app.cards"
    assert action(one("match: {flag: client_export, table: app.cards}"), copy) == "block"
    assert action(one("match: {kind: bulk_export, table: app.orders}"), copy) == "allow"
    insert = report(effect("dml_write", "app.cards", "write"), effect("dml_read"))
    assert action(one("match: {kind: dml_read, table: app.cards}"), insert) == "allow"


def test_a_flag_of_the_whole_text_may_be_on_another_effect() -> None:
    compiled = one("match: {kind: dml_write, flag: multi_statement}")
    what = report(effect("session", "", "", "multi_statement"), effect("dml_write", "t", "write"), statements=2)
    assert action(compiled, what) == "block"


def test_a_flag_joined_from_another_statement_excuses_nothing() -> None:
    compiled = one("match: {table: t}, unless: {flag: explain}")
    assert action(compiled, report(effect("metadata", "t", "read", "explain"))) == "allow"
    assert action(compiled, report(effect("metadata", "t", "read", "explain"), statements=2)) == "block"


def test_unless_excuses_only_the_effects_that_meet_it() -> None:
    compiled = one("match: {kind: dml_write}, unless: {table: scratch.*}")
    assert action(compiled, report(effect("dml_write", "scratch.a", "write"))) == "allow"
    assert (
        action(compiled, report(effect("dml_write", "scratch.a", "write"), effect("dml_write", "app.b", "write")))
        == "block"
    )


def test_doubt_about_the_schema_counts_against_the_statement() -> None:
    block, excuse = one("match: {table: app.cards}"), one("match: {kind: dml_read}, unless: {table: app.*}")
    cards = report(effect("dml_read", "cards", "read"))
    unknown, elsewhere, there = (
        context(search_path=None),
        context(search_path=("public",)),
        context(search_path=("app",)),
    )
    assert [action(block, cards, where) for where in (unknown, elsewhere, there)] == ["block", "allow", "block"]
    assert [action(excuse, cards, where) for where in (unknown, elsewhere, there)] == ["block", "block", "allow"]


def test_an_allow_rule_must_cover_every_effect() -> None:
    compiled = rules(
        "{name: reads, match: {kind: dml_read, table: public.orders}, action: allow}",
        "{name: writes, match: {kind: dml_write}, action: allow}",
        head=BLOCK_ALL,
    )
    assert action(compiled, READ) == "allow"
    assert action(compiled, report(effect("dml_read", "public.cards", "read"))) == "block"
    assert action(compiled, report(*READ.effects, effect("dml_read", "public.cards", "read"))) == "block"
    assert (
        action(compiled, report(*READ.effects, effect("dml_write", "x", "write"))) == "block"
    )  # no single rule covers both
    decision = decide(compiled, DROP, context())
    assert decision.hits[0].rule == "defaults.action"


def test_a_block_rule_wins_over_an_allow_rule() -> None:
    compiled = rules(
        "{name: a, match: {kind: dml_read}, action: allow}",
        "{name: b, match: {table: orders}, action: block}",
        head=BLOCK_ALL,
    )
    assert action(compiled, READ) == "block"


def test_an_allow_rule_cannot_let_unparsable_text_pass() -> None:
    compiled = policy(
        "version: 1\ndefaults: {action: block, unsafe_on_dynamic: allow}\nrules:\n"
        "  - {name: a, match: {kind: [unparsable, dynamic]}, action: allow}"
    )
    assert action(compiled, report(effect("unparsable"))) == "block"
    assert action(compiled, report(effect("dynamic"))) == "allow"


@pytest.mark.parametrize(
    ("key", "hit", "miss"),
    [
        ("env: [prod, stage]", {"env": "stage"}, {"env": "dev"}),
        ("target: sh*", {"target": "shop"}, {"target": "x"}),
        ("database: shop", {"database": "shop"}, {"database": "Shop"}),
        ("user: al*", {"person": "alice"}, {"person": "bob"}),
        ("user: 'group:d*'", {"groups": ("x", "dba")}, {"groups": ()}),
        ("user: [bob, 'group:dba']", {"person": "bob", "groups": ()}, {"person": "dba", "groups": ()}),
        ("group: dba", {"groups": ("dba",)}, {"groups": ("dbas",)}),
        ("account: app", {"account": "app"}, {"account": ""}),
        ("application: '*JDBC*'", {"application": "PostgreSQL JDBC Driver"}, {"application": ""}),
        (
            "client: 10.0.0.0/8",
            {"address": ipaddress.ip_address("10.2.3.4")},
            {"address": ipaddress.ip_address("11.0.0.1")},
        ),
        (
            "client: 10.0.0.0/8",
            {"address": ipaddress.ip_address("::ffff:10.2.3.4")},
            {"address": ipaddress.ip_address("::1")},
        ),
        (
            "client: 2001:db8::/32",
            {"address": ipaddress.ip_address("2001:db8::1")},
            {"address": ipaddress.ip_address("10.0.0.1")},
        ),
        ("client: 10.0.0.0/8", {"address": None}, {"address": ipaddress.ip_address("9.0.0.1")}),
    ],
)
def test_each_context_key_matches(key: str, hit: dict[str, object], miss: dict[str, object]) -> None:
    compiled = one(f"match: {{{key}}}")
    assert action(compiled, READ, context(**hit)) == "block"
    assert action(compiled, READ, context(**miss)) == "allow"


def test_an_unknown_address_excuses_nobody() -> None:
    compiled = one("match: {kind: dml_read}, unless: {client: 10.0.0.0/8}")
    assert action(compiled, READ, context(address=None)) == "block"
    assert action(compiled, READ, context(address=ipaddress.ip_address("10.0.0.1"))) == "allow"


def test_lists_and_labels_stand_for_their_values() -> None:
    compiled = rules(
        "{name: r, match: {label: pii, kind: dml_read}, unless: {user: $trusted}, action: block}",
        head="labels: {pii: {tables: ['*.customers', $more]}}\nlists: {trusted: ['group:audit', carol], more: [hr.*]}",
    )
    for name in ("customers", "app.customers", "hr.employees"):
        decision = decide(compiled, report(effect("dml_read", name, "read")), context())
        assert decision.hits[0].matched == f"kind=dml_read label=pii table={name}"
    assert action(compiled, READ) == "allow"
    customers = report(effect("dml_read", "customers", "read"))
    assert action(compiled, customers, context(person="carol")) == "allow"
    assert action(compiled, customers, context(groups=("audit",))) == "allow"


def test_functions_match_anywhere_in_the_text() -> None:
    compiled = one("match: {function: [pg_read_file, util.*]}")
    what = {
        name: report(effect("dml_read"), functions=("lower", name))
        for name in ("pg_read_file", "util.run", "run", "upper")
    }
    assert [action(compiled, each) for each in what.values()] == ["block", "block", "allow", "allow"]
    assert action(compiled, what["run"], context(search_path=("util",))) == "block"
    excuse = one("match: {kind: dml_read}, unless: {function: lower}")
    assert action(excuse, report(effect("dml_read"), functions=("lower",))) == "allow"
    assert action(excuse, report(effect("dml_read"), functions=("lower", "upper"))) == "block"
    assert action(excuse, report(effect("dml_read"))) == "block"


def test_the_command_of_several_statements_is_not_known() -> None:
    block, excuse = one("match: {command: drop}"), one("match: {kind: ddl}, unless: {command: DROP}")
    assert action(block, DROP) == "block"
    assert action(block, READ) == "allow"
    several = report(*READ.effects, *DROP.effects, command="SELECT", statements=2)
    assert action(block, several) == "block"
    assert action(excuse, DROP) == "allow"
    assert action(excuse, report(*DROP.effects, command="DROP", statements=2)) == "block"


def test_a_rule_says_more_than_a_default_of_equal_strength() -> None:
    decision = decide(shipped("default"), report(effect("dynamic", "", "", "remote_access", "dynamic_sql")), context())
    assert [hit.rule for hit in decision.hits] == ["no-remote-access", "defaults.on_dynamic"]
    assert decision.message.startswith("Connections")


def test_an_act_on_a_whole_schema_concerns_each_table_in_it() -> None:
    rename = report(effect("ddl", "app", "write"), effect("ddl", "app.*", "write"), command="ALTER")
    assert action(one('match: {table: ["app.secrets"]}'), rename) == "block"
    assert action(one('match: {table: ["*.secrets"]}'), rename) == "block"
    assert action(one('match: {table: ["other.secrets"]}'), rename) == "allow"
