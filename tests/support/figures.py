"""The figures of the security bar: how much was tried and how often it went wrong, kept in reports/bar.json.

    count = scaled(500, 10_000)     # 10,000 with BAR=full (`make bar`), 500 in `make test`
    record("B12", "cancels to the wrong statement", count=count, failures=0)

The report is one object by id; a later run replaces the ids that it measured.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

REPORT = Path(__file__).resolve().parents[2] / "reports" / "bar.json"
IS_HOURS = os.environ.get("BAR", "") == "hours"
"""Also what takes very long: the full figures and a few that BAR=full scales down, each of which says so."""
IS_FULL = IS_HOURS or os.environ.get("BAR", "") == "full"


def scaled(short: int, full: int) -> int:
    """How many to try: short in the ordinary run, full where the bar's own figure is asked for."""
    return full if IS_FULL else short


def report(bar_id: str, what: str, *, count: int, failures: int, **more: Any) -> None:
    """Keep a figure. bar_id: for example `D2`, or `D7.postgres15`."""
    entry = {"what": what, "count": count, "failures": failures, "full": IS_FULL, **more, "at": int(time.time())}
    figures = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    figures[bar_id] = entry
    REPORT.parent.mkdir(exist_ok=True)
    new = REPORT.with_suffix(".new")
    new.write_text(json.dumps(dict(sorted(figures.items())), indent=1) + "\n")
    new.replace(REPORT)


def record(bar_id: str, what: str, *, count: int, failures: int, **more: Any) -> None:
    """Keep a figure, print it, and fail the test if there were failures."""
    report(bar_id, what, count=count, failures=failures, **more)
    print(f"{bar_id}: {failures} of {count} - {what}")
    assert failures == 0, f"{bar_id}: {failures} of {count} failed: {what} {more}"
