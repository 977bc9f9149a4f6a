from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dbproxy.siblings import SIBLINGS, check_siblings

CHECK = "from dbproxy.siblings import check_siblings; check_siblings()"


def test_packages_beside_dbproxy_are_accepted() -> None:
    check_siblings()


@pytest.mark.parametrize("name", SIBLINGS)
@pytest.mark.parametrize("kind", ["package", "module"])
def test_foreign_package_of_the_same_name_is_refused(tmp_path: Path, project_root: Path, name: str, kind: str) -> None:
    if kind == "package":
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported')")
    else:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(project_root)!r}]; "
    done = subprocess.run([sys.executable, "-c", path + CHECK], cwd="/", capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert f"ForeignPackageError: the package '{name}' would be imported from {tmp_path}" in done.stderr


def test_command_line_ends_before_it_imports_a_foreign_package(tmp_path: Path, project_root: Path) -> None:
    (tmp_path / "config.py").write_text("raise SystemExit('imported')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(project_root)!r}]; from dbproxy.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dbproxy: the package 'config' would be imported from")


def test_command_line_runs_as_a_module(project_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dbproxy", "--help"], cwd=project_root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
