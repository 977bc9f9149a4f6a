"""Are the programs here that the tests (or, with --bench, the measurements) need? Installs them where it may.

Run as a program before the tests: root on a machine with apt-get gets what is missing installed; everybody else is
told what is missing, and fails unless ALLOW_MISSING=1, in which case the tests that need it are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dbproxy.embedded.binaries import find_all

JDBC_JARS = (Path("/usr/share/java/postgresql.jar"), Path("/usr/share/java/postgresql-jdbc/postgresql.jar"))
CLIENT_PROGRAMS = ("psql", "pg_dump", "pg_restore", "pgbench")


@dataclass(frozen=True)
class Requirement:
    """A thing to have. packages: Debian's names."""

    name: str
    purpose: str
    packages: tuple[str, ...]
    is_met: Callable[[], bool]


def has_server_with_tls() -> bool:
    return any(each.has_tls for each in find_all())


def has_clients_with_tls() -> bool:
    return any(each.has_tls and all(each.program(name).exists() for name in CLIENT_PROGRAMS) for each in find_all())


def find_jdbc_jar() -> Path | None:
    """pgjdbc, from $PGJDBC_JAR or where Debian and Fedora put it."""
    named = os.environ.get("PGJDBC_JAR")
    return next((path for path in ([Path(named)] if named else JDBC_JARS) if path.exists()), None)


def find_mariadb(name: str) -> Path | None:
    """A program of MariaDB, in the PATH or where Debian puts servers."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


TEST_REQUIREMENTS = (
    Requirement(
        "PostgreSQL server with TLS", "TLS to the server, every login method", ("postgresql",), has_server_with_tls
    ),
    Requirement(
        ", ".join(CLIENT_PROGRAMS) + " with TLS",
        "real clients through the proxy",
        ("postgresql",),
        has_clients_with_tls,
    ),
    Requirement(
        "Java with its compiler",
        "pgjdbc through the proxy",
        ("default-jdk-headless",),
        lambda: shutil.which("java") is not None and shutil.which("javac") is not None,
    ),
    Requirement(
        "pgjdbc", "pgjdbc through the proxy", ("libpostgresql-jdbc-java",), lambda: find_jdbc_jar() is not None
    ),
    Requirement(
        "openssl",
        "signatures and keys checked by somebody else's program",
        ("openssl",),
        lambda: shutil.which("openssl") is not None,
    ),
    Requirement(
        "MariaDB server and clients",
        "MySQL's protocol on a real server",
        ("mariadb-server-core", "mariadb-client"),
        lambda: find_mariadb("mariadbd") is not None and find_mariadb("mariadb-dump") is not None,
    ),
)
BENCH_REQUIREMENTS = (
    *TEST_REQUIREMENTS[:2],
    Requirement(
        "pgbouncer",
        "the pooler to compare with",
        ("pgbouncer",),
        lambda: shutil.which("pgbouncer") is not None or Path("/usr/sbin/pgbouncer").exists(),
    ),
    TEST_REQUIREMENTS[-1],
    Requirement("sysbench", "the load on MariaDB", ("sysbench",), lambda: shutil.which("sysbench") is not None),
    Requirement(
        "haproxy",
        "the TCP proxy to compare with",
        ("haproxy",),
        lambda: shutil.which("haproxy") is not None or Path("/usr/sbin/haproxy").exists(),
    ),
)


def is_missing_allowed() -> bool:
    return os.environ.get("ALLOW_MISSING", "") not in ("", "0")


def go_without(what: str) -> NoReturn:
    """A test cannot run here: it fails, or is skipped if the run was told to go without what is missing."""
    import pytest  # not needed by the program

    if is_missing_allowed():
        pytest.skip(what)
    pytest.fail(f"{what}; ALLOW_MISSING=1 goes without", pytrace=False)


def main() -> int:
    wanted = BENCH_REQUIREMENTS if "--bench" in sys.argv[1:] else TEST_REQUIREMENTS
    missing = [each for each in wanted if not each.is_met()]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(sorted({package for each in missing for package in each.packages}))
        missing = [each for each in wanted if not each.is_met()]
    for each in wanted:
        if each in missing:
            print(f"missing {each.name} ({each.purpose}); Debian and Ubuntu: apt-get install {' '.join(each.packages)}")
    for binaries in find_all():
        print(f"found   PostgreSQL {binaries.version}{' with TLS' if binaries.has_tls else ''}: {binaries.source}")
    if not missing:
        return 0
    if wanted is BENCH_REQUIREMENTS:
        print("what is missing is left out of the comparison")
        return 0
    if is_missing_allowed():
        print("ALLOW_MISSING is set: the tests that need these are skipped")
        return 0
    print("install what is missing, or set ALLOW_MISSING=1 to go without the tests that need it")
    return 1


def _install(packages: list[str]) -> None:
    print(f"installing Debian packages: {' '.join(packages)}", flush=True)
    Path("reports").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C",
        "RUNLEVEL": "1",
    }  # do not start services
    # Debian's PostgreSQL would make a cluster and start it on port 5432; the tests want the programs only.
    drop_in = Path("/etc/postgresql-common/createcluster.d/dbproxy-tests.conf")
    is_drop_in_ours = not drop_in.exists()
    try:
        if is_drop_in_ours:
            drop_in.parent.mkdir(parents=True, exist_ok=True)
            drop_in.write_text("create_main_cluster = false\n")
        with Path("reports/packages.log").open("w") as log, tempfile.TemporaryFile() as nothing:
            for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
                done = subprocess.run(
                    ["apt-get", "-q", *command],
                    stdin=nothing,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    check=False,
                    timeout=1200,
                )
                if done.returncode:
                    print(f"apt-get {command[0]} ended with status {done.returncode}; see reports/packages.log")
    finally:
        if is_drop_in_ours:
            drop_in.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
