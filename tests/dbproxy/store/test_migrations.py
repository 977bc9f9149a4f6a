"""Schema changes: every way from an older version to the newest gives the same schema and keeps what was there."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_clock import FakeClock

from dbproxy.errors import StartError
from dbproxy.store.migrations import Migration, load_migrations, migrate
from dbproxy.store.sqlite import STATE_FILE, open_store

SHIPPED = load_migrations()

PUBLISHED = {
    1: "f6e79570d1dc4e887c0ceb60bc60e4741a7e089403118c73f1d5572ecefbc535",
}
"""A published change is never edited: files in the field have its digest in them. A new one is a new number."""

ROWS = {
    1: ("INSERT INTO process_runs VALUES (1, 'worker', 1, 42, '0.3.0', 10, 11, 'crashed', 'signal 9')",),
}
"""What a proxy of each version would have written into what that version brought."""


def old_file(directory: Path, version: int) -> Path:
    """A state file as the release with that many changes has left it."""
    asyncio.run(_opened_once(directory, SHIPPED[:version]))
    path = directory / STATE_FILE
    with closing(sqlite3.connect(path)) as connection:
        for number in range(1, version + 1):
            for statement in ROWS[number]:
                connection.execute(statement)
        connection.commit()
    return path


async def _opened_once(directory: Path, migrations: tuple[Migration, ...] | None = None) -> None:
    await (await open_store(directory, FakeClock(), migrations)).close()


def schema(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()


def dump(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def test_published_changes_are_as_they_were() -> None:
    assert {each.number: each.sha256 for each in SHIPPED} == PUBLISHED


def test_every_change_has_rows_to_try_it_with() -> None:
    assert set(ROWS) == {each.number for each in SHIPPED}


@pytest.mark.parametrize("version", range(1, len(SHIPPED) + 1))
def test_every_older_version_becomes_the_newest_and_keeps_its_rows(tmp_path: Path, version: int) -> None:
    fresh, old = tmp_path / "fresh", tmp_path / "old"
    fresh.mkdir()
    old.mkdir()
    asyncio.run(_opened_once(fresh))
    path = old_file(old, version)
    before = dump(path, "process_runs")
    asyncio.run(_opened_once(old))
    assert schema(path) == schema(fresh / STATE_FILE)
    assert dump(path, "process_runs") == before
    assert len(before) == 1
    assert [row[0] for row in dump(path, "schema_migrations")] == [each.number for each in SHIPPED]


def test_a_further_change_keeps_what_is_there(tmp_path: Path) -> None:
    path = old_file(tmp_path, len(SHIPPED))
    before = dump(path, "process_runs")
    further = Migration(len(SHIPPED) + 1, "further", "ALTER TABLE process_runs ADD COLUMN host TEXT DEFAULT 'here';")
    asyncio.run(_opened_once(tmp_path, (*SHIPPED, further)))
    assert dump(path, "process_runs") == [(*row, "here") for row in before]
    assert [row[0] for row in dump(path, "schema_migrations")] == [*(each.number for each in SHIPPED), further.number]


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = old_file(tmp_path, len(SHIPPED))
    before = schema(path), dump(path, "schema_migrations")
    asyncio.run(_opened_once(tmp_path))
    assert (schema(path), dump(path, "schema_migrations")) == before


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    newer = (*SHIPPED, Migration(len(SHIPPED) + 1, "from_the_future", "CREATE TABLE future (x);"))
    asyncio.run(_opened_once(tmp_path, newer))
    before = schema(tmp_path / STATE_FILE)
    with pytest.raises(StartError, match=f"version {len(newer)}, newer than this dbproxy"):
        asyncio.run(_opened_once(tmp_path))
    assert schema(tmp_path / STATE_FILE) == before


def test_a_change_with_another_text_is_refused(tmp_path: Path) -> None:
    asyncio.run(_opened_once(tmp_path))
    edited = (replace(SHIPPED[0], sql=SHIPPED[0].sql + "-- as it should have been\n"), *SHIPPED[1:])
    with pytest.raises(StartError, match="another change 1"):
        asyncio.run(_opened_once(tmp_path, edited))


def test_a_missing_row_is_refused(tmp_path: Path) -> None:
    asyncio.run(_opened_once(tmp_path))
    further = (*SHIPPED, Migration(len(SHIPPED) + 1, "further", "CREATE TABLE further (x);"))
    asyncio.run(_opened_once(tmp_path, further))
    with closing(sqlite3.connect(tmp_path / STATE_FILE)) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE number = 1")
        connection.commit()
    with pytest.raises(StartError, match="another change 2"):
        asyncio.run(_opened_once(tmp_path, further))


def test_a_change_that_fails_is_undone_whole(tmp_path: Path) -> None:
    broken = Migration(len(SHIPPED) + 1, "broken", "CREATE TABLE half (x);\nINSERT INTO nowhere VALUES (1);")
    with pytest.raises(StartError, match="no such table: nowhere"):
        asyncio.run(_opened_once(tmp_path, (*SHIPPED, broken)))
    assert "half" not in {row[1] for row in schema(tmp_path / STATE_FILE)}
    asyncio.run(_opened_once(tmp_path))


def test_a_text_that_ends_in_the_middle_is_refused() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with pytest.raises(StartError, match="in the middle of a statement"):
            migrate(connection, [Migration(1, "torn", "CREATE TABLE a (x);\nCREATE TABLE b (")], 0)
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'a'").fetchall()


def test_an_installation_without_a_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE b (x);")
    with pytest.raises(StartError, match="not whole"):
        load_migrations(tmp_path)
