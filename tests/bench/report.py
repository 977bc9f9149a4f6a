"""Figures of all rounds → medians, ratios, targets; as a table and as JSON.

A ratio is taken within each round, between runs that followed each other, and then the median of the rounds: what else the machine
did meanwhile touches both sides alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.contenders import DBPROXY, DIRECT, PGBOUNCER, SINGLE
from bench.workloads import Measurement, Workload

FIGURES: dict[str, Callable[[Measurement], float | None]] = {
    "rate": lambda each: each.rate,
    "latency_ms": lambda each: each.latency_ms,
    "cpu_us": lambda each: each.cpu_us,
    "cpu_user_us": lambda each: each.cpu_user_us,
    "cpu_system_us": lambda each: each.cpu_system_us,
    "memory_kib": lambda each: each.memory_kib,
}
# workload → contender → one measurement per round
Rounds = Mapping[str, Mapping[str, Sequence[Measurement]]]
Spread = dict[str, float]


@dataclass(frozen=True)
class Target:
    """What dbproxy has to reach. base: whom it is compared with, None for an absolute figure. goal: what is aimed at later."""

    workload: str
    figure: str
    base: str | None
    bound: float
    is_minimum: bool
    goal: float | None = None

    def is_met(self, value: float, bound: float) -> bool:
        return value >= bound if self.is_minimum else value <= bound


TARGETS = (
    Target("prepared-32", "rate", PGBOUNCER, 0.6, is_minimum=True, goal=0.8),
    Target("prepared-32", "cpu_us", PGBOUNCER, 2.0, is_minimum=False, goal=1.5),
    Target("prepared-32", "rate", SINGLE, 0.95, is_minimum=True),
    Target("result-150", "rate", DIRECT, 0.9, is_minimum=True),
    Target("result-1024", "rate", DIRECT, 0.9, is_minimum=True),
    Target("result-150", "memory_kib", None, 32 * 1024, is_minimum=False),
    Target("result-1024", "memory_kib", None, 32 * 1024, is_minimum=False),
)


def spread(values: Sequence[float]) -> Spread:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def figures(runs: Sequence[Measurement], figure: str) -> list[float]:
    """The figure of each run, empty where it is not measured."""
    return [value for value in map(FIGURES[figure], runs) if value is not None]


def ratio(rounds: Rounds, workload: str, figure: str, contender: str, base: str) -> Spread | None:
    """contender's figure divided by base's, round by round; None where one of them is missing."""
    runs = rounds.get(workload, {})
    ours, theirs = figures(runs.get(contender, ()), figure), figures(runs.get(base, ()), figure)
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=False) if other > 0]
    return spread(pairs) if pairs else None


def table(rounds: Rounds, workloads: Sequence[Workload]) -> str:
    """For people."""
    lines: list[str] = []
    for workload in workloads:
        runs = rounds.get(workload.name)
        if not runs:
            continue
        lines += [
            "",
            f"{workload.title}  ({workload.unit}; median, least and most; CPU of the proxy in µs per {workload.per})",
        ]
        lines.append(
            f"  {'':<10} {'median':>9} {'least':>9} {'most':>9} {'/direct':>8} {'/pgbnc':>8} {'CPU':>8} {'user':>8} {'system':>8}"
            f" {'/pgbnc':>7} {'+RSS MiB':>9}"
        )
        for name, each in runs.items():
            rate = spread(figures(each, "rate"))
            cpu, user, system, memory = (
                _median(figures(each, figure)) for figure in ("cpu_us", "cpu_user_us", "cpu_system_us", "memory_kib")
            )
            lines.append(
                f"  {name:<10} {rate['median']:>9,.0f} {rate['min']:>9,.0f} {rate['max']:>9,.0f}"
                f" {_shown(_middle(ratio(rounds, workload.name, 'rate', name, DIRECT)), '8.2f')}"
                f" {_shown(_middle(ratio(rounds, workload.name, 'rate', name, PGBOUNCER)), '8.2f')}"
                f" {_shown(cpu, '8.1f')} {_shown(user, '8.1f')} {_shown(system, '8.1f')}"
                f" {_shown(_middle(ratio(rounds, workload.name, 'cpu_us', name, PGBOUNCER)), '7.2f')}"
                f" {_shown(None if memory is None else memory / 1024, '9.1f')}"
            )
    return "\n".join(lines)


def judged_targets(rounds: Rounds) -> list[dict[str, object]]:
    """Each target with what was measured; `met` is None where it could not be measured."""
    judged: list[dict[str, object]] = []
    for target in TARGETS:
        if target.base is None:
            values = figures(rounds.get(target.workload, {}).get(DBPROXY, ()), target.figure)
            measured = spread(values) if values else None
        else:
            measured = ratio(rounds, target.workload, target.figure, DBPROXY, target.base)
        value = _middle(measured)
        if target.base is None and measured is not None:
            value = measured["max"]  # a limit of memory has to hold every time
        judged.append(
            {
                "workload": target.workload,
                "figure": target.figure,
                "compared_with": target.base,
                "at_least" if target.is_minimum else "at_most": target.bound,
                "goal": target.goal,
                "measured": measured,
                "met": None if value is None else target.is_met(value, target.bound),
                "goal_met": None if value is None or target.goal is None else target.is_met(value, target.goal),
            }
        )
    return judged


def target_lines(judged: Sequence[Mapping[str, object]]) -> list[str]:
    """For people."""
    lines = []
    for each, target in zip(judged, TARGETS, strict=True):
        mark = {True: "met", False: "NOT MET", None: "not measured"}
        unit = f"× {target.base}" if target.base else "KiB"
        sign = "≥" if target.is_minimum else "≤"
        measured = each["measured"]
        value = "-"
        if isinstance(measured, dict):
            value = f"{measured['median' if target.base else 'max']:,.2f}"
        goal = f"; goal {sign} {target.goal:g}: {mark[_flag(each['goal_met'])]}" if target.goal is not None else ""
        lines.append(
            f"{mark[_flag(each['met'])]:<12} {target.workload} {target.figure} {sign} {target.bound:g} {unit}: {value}{goal}"
        )
    return lines


def results(rounds: Rounds, workloads: Sequence[Workload]) -> dict[str, object]:
    """All figures, for JSON."""
    return {
        workload.name: {
            "title": workload.title,
            "unit": workload.unit,
            "contenders": {
                name: {
                    **{
                        figure: {**spread(values), "values": values}
                        for figure in FIGURES
                        if (values := figures(runs, figure))
                    },
                    "ratio_to_direct": ratio(rounds, workload.name, "rate", name, DIRECT),
                    "ratio_to_pgbouncer": ratio(rounds, workload.name, "rate", name, PGBOUNCER),
                    "cpu_ratio_to_pgbouncer": ratio(rounds, workload.name, "cpu_us", name, PGBOUNCER),
                }
                for name, runs in rounds[workload.name].items()
            },
        }
        for workload in workloads
        if workload.name in rounds
    }


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _middle(found: Spread | None) -> float | None:
    return None if found is None else found["median"]


def _shown(value: float | None, form: str) -> str:
    width = int(form.split(".")[0])
    return f"{'-':>{width}}" if value is None else f"{value:>{form}}"
