"""What is in the wheel: the four packages with their data files, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("dbproxy", "protocol", "classifiers", "config")
SUFFIXES = {".py", ".yaml", ".json", ".typed", ".sql"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=project_root, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def test_wheel_holds_every_source_and_data_file_of_the_four_packages(names: set[str], project_root: Path) -> None:
    there = {
        str(path.relative_to(project_root))
        for package in PACKAGES
        for path in (project_root / package).rglob("*")
        if path.is_file() and path.suffix in SUFFIXES
    }
    assert there - names == set()
    assert {"config/policies/observe.yaml", "config/policies/default.yaml", "dbproxy/audit/schema.json"} <= names


def test_wheel_holds_nothing_else(names: set[str]) -> None:
    inside = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == set(PACKAGES)
    assert {Path(name).suffix for name in inside} <= SUFFIXES


def test_wheel_carries_the_license_and_the_console_script(names: set[str]) -> None:
    info = {name.split(".dist-info/")[1] for name in names if ".dist-info/" in name}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= info
