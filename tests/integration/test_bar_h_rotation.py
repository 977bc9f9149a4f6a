"""SECURITY_BAR H9: somebody else's log rotation, again and again under load: each time noticed, reported, and nothing lost but what was cut off."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from support.figures import record, scaled
from support.load import Load, mixed
from support.processes import wait_until
from support.proxy import Proxy
from support.servers import Database

from dbproxy.audit.segment import find_segments, open_segment, raw_name
from dbproxy.audit.verify import Status, verify_directory

MARK = re.compile(rb"m[a-z]+-[0-9]+-[0-9]+")
TIMES = scaled(3, 100)
REASONS = {"rename": "deleted", "copytruncate": "truncated"}


def newest(proxy: Proxy) -> dict[int, Path]:
    """The segment that each chain writes."""
    return {slot: segments[-1][1] for slot, segments in find_segments(proxy.ledger).items()}


def has_moved_on(proxy: Proxy, before: dict[int, Path]) -> bool:
    now = newest(proxy)  # while the newest is away, the one before it is the newest, or there is none
    return now.keys() == before.keys() and all(raw_name(now[slot].name) > path.name for slot, path in before.items())


def reasons(path: Path) -> list[str]:
    """Of the changes that a segment reports."""
    with open_segment(path) as file:
        found = [orjson.loads(line) for line in file if line.endswith(b'"}\n')]
    return [each["reason"] for each in found if each["type"] == "segment.lost"]


def disturb(path: Path, change: str, number: int) -> None:
    aside = path.with_suffix(f".jsonl.{number}")
    if change == "rename":
        path.rename(aside)
    else:
        aside.write_bytes(path.read_bytes())
        os.truncate(path, 0)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("change", REASONS)
def test_rotation_by_others_is_reported_each_time(
    make_proxy: Callable[..., Proxy], vault: Database, change: str
) -> None:
    proxy = make_proxy(database=vault.name)
    load = Load(proxy, vault.name, sessions=8, prefix="mothers")
    unreported = 0

    def rotate() -> None:
        try:
            rotate_often()
        finally:
            load.finish()

    def rotate_often() -> None:
        nonlocal unreported
        for number in range(TIMES):
            before = newest(proxy)
            for path in before.values():
                disturb(path, change, number)
            wait_until(lambda before=before: has_moved_on(proxy, before), 20)  # type: ignore[misc] # bound now
            for path in newest(proxy).values():
                wait_until(lambda path=path: reasons(path) != [], 20)  # type: ignore[misc] # as above
                unreported += reasons(path) != [REASONS[change]]

    load.run(1200, mixed, during=rotate)
    assert load.broken == 0
    assert proxy.stop() == 0
    recorded: list[str] = []
    for segments in find_segments(proxy.ledger).values():
        for _, path in segments:
            with open_segment(path) as file:
                recorded += [
                    mark.decode() for line in file if b'"statement.intent"' in line for mark in MARK.findall(line)
                ]
    missing = set(load.acknowledged) - set(recorded)
    status = verify_directory(proxy.ledger).status
    record(
        f"H9.{change}",
        "rotations by others that were not reported, or after which the ledger does not say what it should",
        count=TIMES,
        failures=unreported
        + (len(recorded) - len(set(recorded)))
        + (status is not {"rename": Status.OK, "copytruncate": Status.TAMPERED}[change])
        + (len(missing) if change == "rename" else 0),
        statements=len(load.acknowledged),
        records_cut_off_by_others=len(missing),
    )
