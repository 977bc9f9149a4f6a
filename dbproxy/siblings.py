"""The start-up check that `protocol`, `classifiers` and `config` are the packages that came with this dbproxy.

Their names are short ones: another package of that name, earlier on the import path, would be imported in their place,
and a classifier that is not ours must not judge anything. Called before anything of theirs is imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

SIBLINGS = ("protocol", "classifiers", "config")


class ForeignPackageError(Exception):
    """Another package would be imported in place of one of ours. The message says which and from where."""


def check_siblings() -> None:
    """Raise ForeignPackageError unless every sibling package lies beside this one."""
    home = Path(__file__).resolve().parent.parent
    for name in SIBLINGS:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin is not None else None
        if found != home / name / "__init__.py":
            raise ForeignPackageError(
                f"the package {name!r} would be imported from {found or 'nowhere'} instead of {home / name}: "
                "install dbproxy in a virtual environment of its own, and unset PYTHONPATH"
            )
