"""pgjdbc prints the same direct and through the proxy: java/TwoWays.java goes through what that driver can do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.requirements import find_jdbc_jar, go_without
from support.two_ways import TwoWays, Way

SOURCE = Path(__file__).parent / "java" / "TwoWays.java"
PARTS = 21


@pytest.fixture(scope="module")
def classpath(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiled program and the driver."""
    jar, compiler = find_jdbc_jar(), shutil.which("javac")
    if jar is None or compiler is None or shutil.which("java") is None:
        go_without(
            "pgjdbc or a JDK is missing: install Debian's packages default-jdk-headless and libpostgresql-jdbc-java"
        )
    folder = tmp_path_factory.mktemp("classes")
    subprocess.run([compiler, "-cp", str(jar), "-d", str(folder), str(SOURCE)], check=True, timeout=120)
    return os.pathsep.join([str(folder), str(jar)])


def _run(way: Way, classpath: str) -> list[str]:
    url = f"jdbc:postgresql://{way.host}:{way.port}/{way.database.name}"
    url += f"?sslmode=verify-full&sslrootcert={way.ca}" if way.ca else "?sslmode=disable"
    done = way.run(
        "java",
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        "-Duser.timezone=Europe/Paris",
        "-cp",
        classpath,
        "TwoWays",
        url,
    )
    assert done.returncode == 0, (done.stdout[-2000:] + done.stderr).decode()
    return done.stdout.decode().splitlines()


def test_pgjdbc_prints_the_same(two_ways: TwoWays, classpath: str) -> None:
    lines = two_ways.compare("jdbc", lambda way: _run(way, classpath))
    assert len([line for line in lines if line.startswith("== ")]) == PARTS
    assert "server-side: true" in lines


def test_pgjdbc_prints_the_same_over_tls(two_ways_tls: TwoWays, classpath: str) -> None:
    lines = two_ways_tls.compare("jdbc_tls", lambda way: _run(way, classpath))
    assert len([line for line in lines if line.startswith("== ")]) == PARTS
