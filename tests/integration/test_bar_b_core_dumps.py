"""SECURITY_BAR B10: a process that crashes leaves none of the secrets in its memory behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.figures import record
from support.processes import is_ready, wait_until
from support.proxy import running_proxy
from support.servers import PostgresServer

from dbproxy import __file__ as package

pytestmark = pytest.mark.integration


@pytest.fixture
def core_dumps_allowed() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.mark.usefixtures("core_dumps_allowed")
def test_a_killed_process_leaves_no_core_dump(postgres: PostgresServer, tmp_path: Path) -> None:
    # What the kernel does here with a program that says nothing about it: a file, or a program that takes the dump.
    subprocess.run([sys.executable, "-c", "import os; os.abort()"], cwd=tmp_path, check=False)
    writes_files = any(path.name.startswith("core") for path in tmp_path.iterdir())
    with running_proxy(tmp_path / "proxy", postgres, is_clean_end_expected=False) as proxy:
        with proxy.connect() as connection:
            connection.execute("SELECT 1")
        everybody = proxy.pids
        for pid in everybody:
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            assert next(line for line in limits if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
            assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0, "no memory is dumped to a program"
        places = [proxy.folder, Path(package).parents[1], Path("/")]
        before = {path for place in places for path in place.glob("core*")}
        for pid in everybody[1:]:
            os.kill(pid, signal.SIGSEGV)
        wait_until(lambda: is_ready(proxy) and not set(everybody[1:]) & set(proxy.pids))
        left = {path for place in places for path in place.glob("core*")} - before
    record("B10", "core dumps of killed processes", count=len(everybody) - 1, failures=len(left), control=writes_files)
    assert not left
