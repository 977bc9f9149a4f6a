"""An exception for one's own function must not let other code through beside it."""

import pytest

from classifiers.classify import classify
from classifiers.effects import LexingState
from dbproxy.policy.decide import decide
from dbproxy.policy.load import compile_policy
from dbproxy.policy.model import Action, Context

POLICY = b"""
version: 1
defaults: {action: allow, on_unparsable: block, unsafe_on_dynamic: alert}
rules: [{name: x, match: {kind: dynamic}, unless: {function: "shop.f"}, action: block}]
"""


def _action(text: str) -> Action:
    policy = compile_policy([("policy.yaml", POLICY)]).policy
    assert policy is not None
    context = Context("shop", "prod", "shop", "alice", search_path=("public",))
    return decide(policy, classify("postgres", text.encode(), LexingState()), context).action


def test_own_function_alone_is_excepted() -> None:
    assert _action("select shop.f(1)") is Action.ALERT


@pytest.mark.parametrize(
    "text",
    [
        "select shop.f(1); do 'x'",
        "select shop.f(1); execute q",
        "select shop.f(1) where 1 operator(s.+) 2",
        "select shop.f(1) from t where a <~~> b",
        "select shop.f(1), shop.g(1)",
        "select shop.f(1)::mytype",
        "do 'x'",
    ],
)
def test_other_code_beside_it_is_not(text: str) -> None:
    assert _action(text) is Action.BLOCK
