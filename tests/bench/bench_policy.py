"""How long a decision takes with 50 rules. Run: PYTHONPATH=.:tests python tests/bench/bench_policy.py"""

from __future__ import annotations

import platform
import timeit

from support.policies import context, effect, report, rules, shipped

from classifiers.effects import Report
from dbproxy.policy.decide import decide
from dbproxy.policy.model import Policy

CALLS, REPEATS = 20_000, 5


def fifty_rules() -> Policy:
    kinds = ["ddl", "dcl", "bulk_export", "admin", "dml_write"]
    lines = []
    for number in range(50):
        match = [
            f"{{kind: {kinds[number // 5 % 5]}, env: prod}}",
            "{flag: [truncate, no_where, server_file_read], env: prod}",
            f"{{table: ['app.t{number}', '*.u{number}']}}",
            f"{{kind: dml_read, table: app.v{number}, user: 'group:dba'}}",
            f"{{kind: dml_read, env: dev{number}}}",
        ][number % 5]
        lines.append(f"{{name: r{number}, match: {match}, action: block}}")
    return rules(*lines)


def measure(policy: Policy, what: Report) -> float:
    """Microseconds of one decision, the best of several rounds."""
    where = context(search_path=None)
    return min(timeit.repeat(lambda: decide(policy, what, where), number=CALLS, repeat=REPEATS)) / CALLS * 1e6


def main() -> None:
    cases = {
        "plain read": report(effect("dml_read", "app.orders", "read")),
        "write that reads": report(
            effect("dml_write", "app.orders", "write"), effect("dml_read", "app.customers", "read")
        ),
        "refused drop": report(effect("ddl", "app.customers", "write", "ddl_destructive")),
    }
    print(f"Python {platform.python_version()}, {platform.machine()}; microseconds a decision")
    for name, policy in (("50 rules", fifty_rules()), ("builtin:default", shipped("default"))):
        for case, what in cases.items():
            print(f"{name:16} {case:18} {measure(policy, what):6.2f}")


if __name__ == "__main__":
    main()
