"""Results of two test runs, read from their JUnit reports and compared test by test."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """One test's outcome: passed, failed, error, skipped, or missing where it did not run at all."""

    outcome: str
    message: str = ""


_OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}
_MISSING = Result("missing")


def read_results(report: Path) -> dict[str, Result]:
    """Every test of a report by its full name. A test with several entries keeps the first that is not a pass."""
    found: dict[str, Result] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        result = Result("passed")
        for child in case:
            if child.tag in _OUTCOMES:
                result = Result(_OUTCOMES[child.tag], child.get("message") or "")
                break
        if name not in found or found[name].outcome == "passed":
            found[name] = result
    return found


def compare(direct: Mapping[str, Result], proxied: Mapping[str, Result]) -> dict[str, tuple[Result, Result]]:
    """The tests whose outcomes differ."""
    names = sorted({*direct, *proxied})
    pairs = {name: (direct.get(name, _MISSING), proxied.get(name, _MISSING)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0].outcome != pair[1].outcome}


def say_comparison(
    direct: Mapping[str, Result],
    proxied: Mapping[str, Result],
    differences: Mapping[str, tuple[Result, Result]],
    explained: Mapping[str, str],
) -> int:
    """Print the comparison. Returns the exit status: 0 if both ran something and each difference is explained."""
    for way, results in (("direct", direct), ("proxied", proxied)):
        counts = Counter(result.outcome for result in results.values())
        print(f"{way:8} " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items())))
    for name, result in direct.items():
        if result.outcome in ("failed", "error") and name not in differences:
            print(f"fails both ways: {name}")
    for name, (before, after) in differences.items():
        print(f"differs: {name}: direct {before.outcome}, proxied {after.outcome}")
        print(f"         {explained.get(name) or (after.message or before.message).strip()[:300] or 'no message'}")
    unexplained = [name for name in differences if name not in explained]
    print(f"{len(differences)} differences, {len(unexplained)} without an explanation")
    return 0 if direct and proxied and not unexplained else 1
