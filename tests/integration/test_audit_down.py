"""The audit volume is full: statements are refused, the session stays, and runs again when there is room."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support.proxy import running_proxy
from support.requirements import go_without
from support.servers import Database

from dbproxy.audit.verify import verify_directory

pytestmark = pytest.mark.integration

MIB = 1 << 20


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB that can be enlarged."""
    volume = tmp_path / "volume"
    volume.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(volume)], capture_output=True, check=False
    )
    if mounted.returncode:
        go_without(f"mounting a tmpfs is not allowed here: {mounted.stderr.decode().strip()}")
    yield volume
    subprocess.run(["umount", "-l", str(volume)], check=True)


def test_full_volume_refuses_statements_and_resumes_without_restart(
    tmp_path: Path, small_volume: Path, database: Database
) -> None:
    def change(settings: dict) -> None:  # type: ignore[type-arg] # plain YAML
        settings["audit"] = {"directory": str(small_volume / "ledger"), "reserve_bytes": 256 * 1024}
        settings["processes"] = {"workers": 1}  # another one would go on for as long as it finds room itself

    marker = "x" * 3000
    with (
        running_proxy(tmp_path / "proxy", database.server, database=database.name, change=change) as proxy,
        proxy.connect("alice", database.name) as connection,
    ):
        connection.execute("CREATE TABLE ran (n int)")
        mark = database.server.log.mark()
        ran, refused = 0, None
        for number in range(2000):
            try:
                connection.execute(f"INSERT INTO ran VALUES ({number}) /* {marker} */".encode(), prepare=False)
                ran += 1
            except psycopg.errors.IoError as error:
                refused = error
                break
        assert refused is not None, "2,000 statements of 3 kB fitted into 1 MiB"
        assert refused.sqlstate == "58030"
        assert "session stays open" in str(refused)
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(psycopg.errors.IoError):
                connection.execute("SELECT 1")
        assert proxy.get("/readyz")[0] == 503
        with pytest.raises(psycopg.OperationalError, match="audit trail"), proxy.connect("bob", database.name):
            pass
        assert time.monotonic() - began < 30
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_volume)], check=True)
        deadline = time.monotonic() + 20
        while True:
            try:
                count = connection.execute("SELECT count(*) FROM ran").fetchone()
                break
            except psycopg.errors.IoError:
                assert time.monotonic() < deadline, "statements are still refused 20 s after there is room again"
                time.sleep(0.1)
        assert count == (ran,), "what was refused was run, or what ran was lost"
        executed = [
            each for each in database.server.log.statements(mark, database=database.name) if "INSERT" in each.sql
        ]
        assert len(executed) == ran
    found = verify_directory(small_volume / "ledger")
    assert found.exit_code == 0, found
