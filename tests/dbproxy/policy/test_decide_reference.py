"""The decision against the slow evaluator, on generated policies, reports and contexts."""

from __future__ import annotations

import random

import pytest
from support.policies import as_yaml, policy, random_context, random_policy, random_report
from support.policy_reference import evaluate

from dbproxy.policy.decide import decide
from dbproxy.policy.model import Decision

POLICIES, PAIRS_EACH = 250, 40


def _essence(decision: Decision) -> tuple[str, list[tuple[str, str, str]]]:
    return decision.action.value, [(hit.rule, hit.mode.value, hit.action.value) for hit in decision.hits]


@pytest.mark.parametrize("block", range(5))
def test_decisions_equal_those_of_the_slow_evaluator(block: int) -> None:
    fired = 0
    for seed in range(block * POLICIES // 5, (block + 1) * POLICIES // 5):
        choose = random.Random(seed)
        plain = random_policy(choose, choose.choice([1, 2, 5, 12]))
        compiled = policy(as_yaml(plain))
        for _ in range(PAIRS_EACH):
            report, context = random_report(choose), random_context(choose)
            expected = evaluate(plain, report, context)
            assert _essence(decide(compiled, report, context)) == expected, (seed, plain, report, context)
            fired += bool(expected[1])
    assert fired > PAIRS_EACH * POLICIES // 5 // 4  # the pairs are not all empty


def test_order_of_rules_does_not_matter() -> None:
    for seed in range(25):
        choose = random.Random(f"shuffle {seed}")
        plain = random_policy(choose, 10)
        pairs = [(random_report(choose), random_context(choose)) for _ in range(20)]
        first = policy(as_yaml(plain))
        for _ in range(3):
            choose.shuffle(plain["rules"])
            other = policy(as_yaml(plain))
            for report, context in pairs:
                one, two = decide(first, report, context), decide(other, report, context)
                assert (one.action, one.hits, one.message) == (two.action, two.hits, two.message)


def test_redundant_rules_really_change_nothing() -> None:
    """Every rule that the loader calls useless is removed; no decision may become another."""
    from support.policies import checked

    named = 0
    for seed in range(60):
        choose = random.Random(f"redundant {seed}")
        plain = random_policy(choose, 12)
        result = checked(as_yaml(plain))
        useless = {
            plain["rules"][int(problem.key[len("rules[") :].split("]")[0])]["name"]
            for problem in result.problems
            if "can never change the result" in problem.text
        }
        if not useless or len(useless) == len(plain["rules"]):
            continue
        named += len(useless)
        assert result.policy is not None
        rest = policy(as_yaml({**plain, "rules": [rule for rule in plain["rules"] if rule["name"] not in useless]}))
        for _ in range(40):
            report, context = random_report(choose), random_context(choose)
            assert decide(result.policy, report, context).action is decide(rest, report, context).action, (
                seed,
                useless,
            )
    assert named > 40
