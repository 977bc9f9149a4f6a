"""Snapshots: as files, over time, and in a worker."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from classifiers.classify import classify
from classifiers.effects import Effect, Kind, LexingState
from dbproxy.catalogue.files import read_latest, read_snapshot, write_snapshot
from dbproxy.catalogue.model import (
    Body,
    Function,
    Hook,
    Named,
    Relation,
    Snapshot,
    SnapshotError,
    decode_snapshot,
    encode_snapshot,
    keep_former_names,
)
from dbproxy.catalogue.sights import Sights

FULL = Snapshot(
    "shop", 180_000, 5,
    (
        Relation(20_001, "app", 'od"d', "view", ("a",), (1,), (2,), (Hook("view", "_RETURN", "s", ((3, ("b", "*")),), "both", (4,), ("pg_catalog.pg_class",), ("pg_sleep",), is_known=False),), "x.y", (("p", "q"),)),
    ),
    (Function(30_001, "code", "f", "sql", "stable", is_security_definer=True, path=("a", "$user"), body=Body((Effect(Kind.DML_WRITE, "t", "write", ("c",), frozenset({"no_where"})),), ("g",), "i"), reason="", functions=(5,)),
     Function(30_002, "code", "g", "c", "volatile", is_security_definer=False, reason="it is written in c")),
    (Named("code", "@@@", (30_001,)),), (Named("code", "mood"),), (("pg_catalog", "pg_class"),), ("triggers cannot be read",),
)  # fmt: skip


def test_a_snapshot_is_the_same_after_a_file(tmp_path: Path) -> None:
    assert decode_snapshot(encode_snapshot(FULL)) == FULL
    name = write_snapshot(tmp_path, "main", FULL)
    assert read_snapshot(tmp_path, name) == FULL == read_latest(tmp_path, "main", "shop")
    assert read_latest(tmp_path, "main", "other") is None
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "catalogue").iterdir()} == {0o600}


def test_two_files_of_a_database_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        name = write_snapshot(tmp_path, "main", replace(FULL, server_version=number))
        os.utime(tmp_path / "catalogue" / name, ns=(number, number))
    write_snapshot(tmp_path, "main", replace(FULL, database="other"))
    assert len(list((tmp_path / "catalogue").iterdir())) == 3
    assert read_latest(tmp_path, "main", "shop") is not None


def test_a_changed_file_is_not_used(tmp_path: Path) -> None:
    name = write_snapshot(tmp_path, "main", FULL)
    path = tmp_path / "catalogue" / name
    path.write_bytes(path.read_bytes().replace(b"pg_sleep", b"pg_sleeq"))
    with pytest.raises(SnapshotError, match="changed"):
        read_snapshot(tmp_path, name)
    with pytest.raises(SnapshotError):
        read_snapshot(tmp_path, "../" + name)
    assert read_latest(tmp_path, "main", "shop") is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format":1}', b'{"format":99}', encode_snapshot(FULL).replace(b"no_where", b"not_a_flag")])  # fmt: skip
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode_snapshot(data)


def test_the_digest_says_what_is_in_it_and_not_when_it_was_read() -> None:
    assert replace(FULL, taken_at_ns=9).sha256 == FULL.sha256
    assert replace(FULL, gaps=()).sha256 != FULL.sha256


def test_names_that_a_relation_had_stay_with_it() -> None:
    first = replace(FULL, relations=(Relation(20_001, "app", "customers", "table"),))
    second = keep_former_names(replace(FULL, relations=(Relation(20_001, "app", "boring", "table"),)), first)
    third = keep_former_names(replace(FULL, relations=(Relation(20_001, "attic", "boring", "table"),)), second)
    assert third.relations[0].former == (("app", "customers"), ("app", "boring"))
    again = keep_former_names(replace(FULL, relations=(Relation(20_001, "app", "customers", "table"),)), third)
    assert again.relations[0].former == (("app", "boring"), ("attic", "boring"))
    other_kind = keep_former_names(replace(FULL, relations=(Relation(20_001, "app", "x", "view"),)), first)
    assert other_kind.relations[0].former == ()


def test_a_worker_sees_says_what_it_misses_and_grows_old() -> None:
    wanted: list[tuple[str, str, str]] = []
    sights = Sights(frozenset({"main"}), 10.0, lambda *what: wanted.append(what))
    report = classify("postgres", b"select * from app.nowhere", LexingState())

    def look() -> str:
        return sights.resolve(report, "main", "shop", (), ()).visibility

    assert (sights.watches("main"), sights.watches("other")) == (True, False)
    assert look() == "missing"
    assert not sights.open("main", "shop")
    assert (look(), wanted) == ("missing", [])
    sights.swap("main", "shop", FULL, 0)
    assert sights.open("main", "shop")
    assert sights.sha256("main", "shop") == FULL.sha256
    assert (look(), look()) == ("degraded", "degraded")
    assert wanted == [("main", "shop", "miss")]  # once for each name and snapshot
    assert not sights.look(29 * 10**9)
    assert sights.look(31 * 10**9)
    assert look() == "stale"
    assert not sights.look(32 * 10**9)
    assert sights.confirm("main", "shop", 33 * 10**9)
    assert look() == "degraded"


def test_resolution_costs_little_in_a_large_database() -> None:
    relations = tuple(
        Relation(20_000 + n, "app", f"t{n}", "table", tuple(f"c{i}" for i in range(20))) for n in range(10_000)
    )
    snapshot = replace(FULL, relations=relations)
    snapshot.index()
    sights = Sights(frozenset({"main"}), 10.0, lambda *_: None)
    sights.swap("main", "shop", snapshot, 0)
    report = classify("postgres", b"select a.c1 from t5 a join t6 b on a.c1 = b.c1 where b.c2 = $1", LexingState())
    began = time.perf_counter()
    for _ in range(200):
        assert sights.resolve(report, "main", "shop", ("app",), ()).visibility == "full"
    assert (time.perf_counter() - began) / 200 < 0.005  # tens of microseconds; the bound is for a busy machine
