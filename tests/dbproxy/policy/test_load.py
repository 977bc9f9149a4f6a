"""What is wrong with a policy file is said with file, line, column, key and a suggestion; all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.policies import checked, policy, problems, rules, shipped

from config.errors import ConfigError
from dbproxy.policy.load import check_policy, load_policy
from dbproxy.policy.model import Action, Mode

HEAD = "version: 1\nrules:\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "p.yaml:1:1: the file is empty"),
        ("# nothing\n", "p.yaml:1:1: the file is empty"),
        ("version: 1\n", "p.yaml:1:1: rules: this key is required"),
        ("version: 1\nrules: []\n", "p.yaml:2:8: rules: must have at least 1 entry"),
        ("version: 1\nrules:\n", "p.yaml:2:7: rules: must be a list"),
        (
            "version: 2\nrules: [{name: a, match: {kind: ddl}, action: block}]",
            "p.yaml:1:10: version: unknown value; expected 1",
        ),
        ("rules: [{name: a, match: {kind: ddl}, action: block}]", "p.yaml:1:1: version: this key is required"),
        ("[1, 2]", "p.yaml:1:1: must be a mapping of keys to values"),
        (
            "version: 1\nrules: [",
            "p.yaml:2:9: not valid YAML: while parsing a flow node, expected the node content, but found '<stream end>'",
        ),
        (
            HEAD + "  - {name: a, match: {kind: ddl}, action: alow}",
            "p.yaml:3:43: rules[0].action: unknown value 'alow'; expected 'allow', 'alert', 'approve' or 'block' (did you mean 'allow'?)",
        ),
        (HEAD + "  - {name: a, match: {kind: ddl}}", "p.yaml:3:5: rules[0].action: this key is required"),
        (HEAD + "  - {name: a, action: block}", "p.yaml:3:5: rules[0].match: this key is required"),
        (HEAD + "  - {match: {kind: ddl}, action: block}", "p.yaml:3:5: rules[0].name: this key is required"),
        (
            HEAD + "  - {name: a, match: {kind: ddl}, unles: {user: x}, action: block}",
            "p.yaml:3:35: rules[0].unles: unknown key (did you mean 'unless'?)",
        ),
        (
            HEAD + "  - {name: a, match: {tabel: x}, action: block}",
            "p.yaml:3:23: rules[0].match.tabel: unknown key (did you mean 'table'?)",
        ),
        (
            HEAD + "  - {name: a, match: {}, action: block}",
            "p.yaml:3:22: rules[0].match: must name at least one key; what holds for every statement is defaults.action",
        ),
        (
            HEAD + "  - {name: a, match: {kind: []}, action: block}",
            "p.yaml:3:29: rules[0].match.kind: must have at least 1 entry",
        ),
        (
            HEAD + "  - {name: a, match: {kind: [ddl, dml_wirte]}, action: block}",
            "p.yaml:3:35: rules[0].match.kind[1]: unknown kind 'dml_wirte' (did you mean 'dml_write'?)",
        ),
        (
            HEAD + "  - {name: a, match: {flag: truncat}, action: block}",
            "p.yaml:3:29: rules[0].match.flag: unknown flag 'truncat' (did you mean 'truncate'?)",
        ),
        (
            HEAD + "  - {name: a, match: {label: pii}, action: block}",
            "p.yaml:3:30: rules[0].match.label: unknown label 'pii'",
        ),
        (
            HEAD + "  - {name: a, match: {user: $admins}, action: block}",
            "p.yaml:3:29: rules[0].match.user: there is no list 'admins'",
        ),
        (
            HEAD + "  - {name: a, match: {table: a.b.c}, action: block}",
            "p.yaml:3:30: rules[0].match.table: a name has at most two parts, schema.name; use match.database for the database",
        ),
        (
            HEAD + "  - {name: a, match: {table: 'a b'}, action: block}",
            'p.yaml:3:30: rules[0].match.table: must be a name such as customers, app.customers, *.customers or app."Customers"',
        ),
        (
            HEAD + "  - {name: a, match: {client: 10.0.0.1/8}, action: block}",
            "p.yaml:3:31: rules[0].match.client: must be a network such as 10.0.0.0/8 (no host bits set) or an address",
        ),
        (
            HEAD + "  - {name: a, match: {command: DROP TABLE}, action: block}",
            "p.yaml:3:32: rules[0].match.command: a command is the first word of a statement, such as SELECT or ALTER",
        ),
        (
            HEAD + "  - {name: a, match: {user: 'group:'}, action: block}",
            "p.yaml:3:29: rules[0].match.user: must not be empty",
        ),
        (
            HEAD + "  - {name: a, match: {user: 7}, action: block}",
            "p.yaml:3:29: rules[0].match.user: must be text or a list of texts; put numbers in quotes",
        ),
        (
            HEAD + "  - {name: a b, match: {kind: ddl}, action: block}",
            "p.yaml:3:12: rules[0].name: must be 1 to 63 letters, digits and any of _ . - (the first a letter or digit)",
        ),
        (
            HEAD + "  - {name: defaults.x, match: {kind: ddl}, action: block}",
            "p.yaml:3:12: rules[0].name: names that begin with 'defaults.' stand for the defaults",
        ),
        (
            HEAD + "  - {name: a, match: {kind: ddl}, action: block}\n  - {name: a, match: {kind: dcl}, action: block}",
            "p.yaml:4:12: rules[1].name: 'a' is already the name of a rule in this file",
        ),
        (
            HEAD + "  - {name: a, match: {kind: ddl}, action: block, mode: shadwo}",
            "p.yaml:3:56: rules[0].mode: unknown value 'shadwo'; expected 'enforce' or 'shadow' (did you mean 'shadow'?)",
        ),
        (
            "version: 1\ndefaults: {on_unparsable: allow}\nrules: [{name: a, match: {kind: ddl}, action: block}]",
            "p.yaml:2:27: defaults.on_unparsable: unknown value 'allow'; expected 'approve' or 'block'",
        ),
        (
            "version: 1\ndefaults: {on_error: allow}\nrules: [{name: a, match: {kind: ddl}, action: block}]",
            "p.yaml:2:22: defaults.on_error: unknown value 'allow'; expected 'block' or 'terminate'",
        ),
        (
            "version: 1\ndefaults: {on_dynamic: block, unsafe_on_dynamic: allow}\nrules: [{name: a, match: {kind: ddl}, action: block}]",
            "p.yaml:2:50: defaults.unsafe_on_dynamic: contradicts on_dynamic in the same file",
        ),
        (
            "version: 1\nlists: {a: [$b], b: [x]}\nrules: [{name: a, match: {user: [$a, $b]}, action: block}]",
            "p.yaml:2:13: lists.a[0]: a list cannot refer to a list",
        ),
        (
            "version: 1\nlists: {k: [ddl, dmlwrite]}\nrules: [{name: a, match: {kind: $k}, action: block}, {name: b, match: {kind: $k, env: x}, action: block}]",
            "p.yaml:2:18: lists.k[1]: unknown kind 'dmlwrite' (did you mean 'dml_write'?)",
        ),
        (
            HEAD + "  - {name: a, match: {kind: ddl}, action: block, name: b}",
            "p.yaml:3:50: rules[0].name: this key is already set on line 3",
        ),
    ],
)
def test_each_mistake_is_reported_at_its_place(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_all_mistakes_are_reported_at_once() -> None:
    text = (
        "version: 1\n"
        "defaults: {on_dynamic: aprove}\n"
        "rules:\n"
        "  - {name: a, match: {kind: dll}, action: blok}\n"
        "  - {name: a, match: {flag: truncat}, action: block, xyz: 1}\n"
    )
    assert problems(text) == [
        "p.yaml:2:24: defaults.on_dynamic: unknown value 'aprove'; expected 'approve' or 'block' (did you mean 'approve'?)",
        "p.yaml:4:29: rules[0].match.kind: unknown kind 'dll' (did you mean 'ddl'?)",
        "p.yaml:4:43: rules[0].action: unknown value 'blok'; expected 'allow', 'alert', 'approve' or 'block' (did you mean 'block'?)",
        "p.yaml:5:12: rules[1].name: 'a' is already the name of a rule in this file",
        "p.yaml:5:29: rules[1].match.flag: unknown flag 'truncat' (did you mean 'truncate'?)",
        "p.yaml:5:54: rules[1].xyz: unknown key",
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["{name: a, match: {kind: ddl}, action: allow}"], "what no rule forbids is allowed anyway (defaults.action)"),
        (
            ["{name: a, match: {kind: unparsable}, action: block}"],
            "defaults.on_unparsable is block already, and exceptions to it do not exist",
        ),
        (
            ["{name: a, match: {kind: dynamic, env: prod}, action: alert}"],
            "defaults.on_dynamic is block already, and exceptions to it do not exist",
        ),
        (
            ["{name: a, match: {kind: ddl}, unless: {kind: [ddl, dcl]}, action: block}"],
            "its unless excepts everything that its match finds",
        ),
        (
            [
                "{name: a, match: {kind: ddl, env: prod}, action: alert}",
                "{name: b, match: {kind: [ddl, dcl]}, action: block}",
            ],
            "rule 'b' matches everything that it matches and is at least as strict",
        ),
    ],
)
def test_a_rule_that_can_never_change_the_result_is_warned_about(lines: list[str], expected: str) -> None:
    found = checked(HEAD + "\n".join(f"  - {line}" for line in lines)).problems
    assert [str(problem) for problem in found] == [
        f"p.yaml:3:12: warning: rules[0].name: the rule can never change the result: {expected}"
    ]


def test_of_two_equal_rules_only_the_later_is_warned_about() -> None:
    found = problems(
        HEAD + "  - {name: a, match: {kind: ddl}, action: block}\n  - {name: b, match: {kind: ddl}, action: block}"
    )
    assert len(found) == 1
    assert "rules[1].name" in found[0]


def test_a_rule_that_makes_a_default_stricter_is_not_warned_about() -> None:
    assert problems(HEAD + "  - {name: a, match: {kind: ddl}, unless: {env: dev}, action: block}") == []
    text = "version: 1\ndefaults: {unsafe_on_dynamic: alert}\nrules: [{name: a, match: {kind: dynamic}, unless: {group: dba}, action: block}]"
    assert problems(text) == []


def test_a_rule_by_claimed_application_name_is_warned_about() -> None:
    found = problems(HEAD + "  - {name: a, match: {kind: ddl}, unless: {application: psql}, action: block}")
    assert found == [
        "p.yaml:3:57: warning: rules[0].unless.application: application is what the client claims: anyone can claim it, so this excuses anyone"
    ]


def test_unused_lists_and_labels_are_warned_about() -> None:
    text = (
        "version: 1\nlists: {a: x}\nlabels: {pii: {tables: t}}\nrules: [{name: a, match: {kind: ddl}, action: block}]"
    )
    assert problems(text) == [
        "p.yaml:2:9: warning: lists.a: is not used by any rule",
        "p.yaml:3:10: warning: labels.pii: is not used by any rule",
    ]


def test_approve_loads_as_block_with_a_warning() -> None:
    result = checked(
        "version: 1\ndefaults: {on_dynamic: approve}\nrules: [{name: a, match: {kind: ddl}, action: approve}]"
    )
    assert result.policy is not None
    assert result.policy.rules[0].action is Action.BLOCK
    assert result.policy.on_dynamic is Action.BLOCK
    assert [problem.key for problem in result.warnings] == ["defaults.on_dynamic", "rules[0].action"]


def test_defaults_are_safe_when_nothing_is_said() -> None:
    loaded = rules("{name: a, match: {kind: ddl}, action: alert}")
    assert (loaded.default, loaded.on_unparsable, loaded.on_dynamic, loaded.on_error, loaded.unsafe) == (
        Action.ALLOW,
        Action.BLOCK,
        Action.BLOCK,
        Action.BLOCK,
        (),
    )


RULE = "rules: [{name: %s, match: {kind: ddl, env: %s}, action: block}]"


def test_of_several_files_the_strictest_default_counts() -> None:
    loaded = policy(
        "version: 1\ndefaults: {action: alert, on_error: terminate}\n" + RULE % ("a", "x"),
        "version: 1\ndefaults: {action: allow, on_error: block}\n" + RULE % ("b", "y"),
    )
    assert (loaded.default, loaded.on_error) == (Action.ALERT, Action.TERMINATE)
    assert [rule.name for rule in loaded.rules] == ["a", "b"]


def test_an_unsafe_switch_does_not_undo_what_another_file_says() -> None:
    result = checked(
        "version: 1\ndefaults: {on_unparsable: block}\n" + RULE % ("a", "x"),
        "version: 1\ndefaults: {unsafe_on_unparsable: allow, unsafe_on_dynamic: alert}\n" + RULE % ("b", "y"),
    )
    assert result.policy is not None
    assert (result.policy.on_unparsable, result.policy.on_dynamic) == (Action.BLOCK, Action.ALERT)
    assert result.policy.unsafe == ("unsafe_on_dynamic",)
    assert [str(problem) for problem in result.problems] == [
        "p2.yaml:2:34: warning: defaults.unsafe_on_unparsable: has no effect, because another file sets on_unparsable"
    ]


def test_names_are_unique_among_files_and_lists_are_shared() -> None:
    first = "version: 1\nlists: {ops: [group:ops]}\n" + RULE % ("a", "x")
    second = "version: 1\nrules: [{name: b, match: {user: $ops, kind: dcl}, action: block}]"
    assert problems(first, second) == []
    assert (
        problems(first, "version: 1\n" + RULE % ("a", "y"))[-1]
        == "p2.yaml:2:16: rules[0].name: 'a' is already the name of a rule in p.yaml"
    )
    assert "p2.yaml:2:9: lists.ops: list 'ops' is already in p.yaml" in problems(
        first, "version: 1\nlists: {ops: x}\n" + RULE % ("b", "y")
    )


def test_sha256_covers_every_file_and_its_borders() -> None:
    one, two = "version: 1\n" + RULE % ("a", "x"), "version: 1\n" + RULE % ("b", "y")
    digests = {
        policy(one).sha256,
        policy(two).sha256,
        policy(one, two).sha256,
        policy(one + "\n", two).sha256,
        policy(one, two + " ").sha256,
    }
    assert len(digests) == 5
    assert policy(one, two).sha256 == policy(one, two).sha256


def test_files_of_others_are_refused_and_all_files_are_reported(tmp_path: Path) -> None:
    good, writable, broken = tmp_path / "good.yaml", tmp_path / "writable.yaml", tmp_path / "broken.yaml"
    good.write_text("version: 1\n" + RULE % ("a", "x"))
    writable.write_text("version: 1\n" + RULE % ("b", "y"))
    writable.chmod(0o666)
    broken.write_text("version: 1\nrules: []\n")
    for path in (good, broken):
        path.chmod(0o644)
    result = check_policy([good, writable, broken, tmp_path / "missing.yaml"])
    assert result.policy is None
    assert [str(problem) for problem in result.problems] == [
        f"{broken}:2:8: rules: must have at least 1 entry",
        f"{tmp_path}/missing.yaml: cannot be read: No such file or directory",
        f"{writable}: everyone may write to it; run chmod go-w",
    ]
    with pytest.raises(ConfigError, match="everyone may write"):
        load_policy([good, writable])
    assert load_policy([good]).policy is not None


@pytest.mark.parametrize("name", ["default", "observe"])
def test_shipped_policies_load_without_any_warning(name: str) -> None:
    from config.settings import SHIPPED_POLICIES

    assert check_policy([SHIPPED_POLICIES / f"{name}.yaml"]).problems == ()


def test_only_observe_opens_unsafe_switches() -> None:
    assert shipped("default").unsafe == ()
    assert shipped("observe").unsafe == ("unsafe_on_unparsable", "unsafe_on_dynamic")
    assert {rule.action for rule in shipped("observe").rules} == {Action.ALERT}
    assert {rule.mode for rule in shipped("default").rules} == {Mode.ENFORCE}
