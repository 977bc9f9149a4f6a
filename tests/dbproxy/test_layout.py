"""What each package may import from outside, as far as import-linter cannot say it: everything but a short list is out."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ALLOWED = {"protocol": set(), "classifiers": {"sqlglot"}, "config": {"pydantic", "pydantic_core", "yaml"}}


def _outside_imports(package: Path) -> set[str]:
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names) - {package.name}


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_it_may(project_root: Path, package: str) -> None:
    assert _outside_imports(project_root / package) <= ALLOWED[package]


def test_no_package_marker_under_tests_hides_a_real_package(project_root: Path) -> None:
    assert list((project_root / "tests").rglob("__init__.py")) == []
