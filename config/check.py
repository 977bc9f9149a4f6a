"""A parsed document against a model: the frozen model, or every problem with its place.

Counterpart: settings.py, users.py and the policy file's model say what is valid; document.py says where it was written.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from config.document import Document, Path
from config.errors import Problem, suggest

M = TypeVar("M", bound=BaseModel)

_TEXTS = {
    "missing": "this key is required",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} entry",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "value_error": "{error}",
}


def check_document(document: Document, model: type[M], base: FilePath) -> tuple[M | None, list[Problem]]:
    """Validate a document.

    base: directory that relative paths in it start from. Returns the model (None if invalid) and all problems, those of form included.
    """
    problems = list(document.problems)
    value, errors = _validate(document.root.plain(), model, base)
    problems += [_problem(document, model, error) for error in errors]
    return (None if problems else value), sorted(problems)


def salvage(
    document: Document, model: type[M], base: FilePath, repair: Callable[[object], None] = lambda value: None
) -> tuple[M | None, frozenset[Path]]:
    """Validate once more without the keys that are wrong, so that relations between the other keys can be checked in the same run.

    repair: puts something harmless in the place of required keys, in the plain value.
    Returns the model, None if a required key is among the wrong ones, and the paths of the keys that were left out.
    """
    value = document.root.plain()
    _, errors = _validate(value, model, base)
    lost: set[Path] = set()
    for error in errors:
        path = _path(error)
        while path and isinstance(path[-1], int):
            path = path[:-1]
        if path:
            lost.add(path)
            _drop(value, path)
    repair(value)
    return _validate(value, model, base)[0], frozenset(lost)


def _validate(value: object, model: type[M], base: FilePath) -> tuple[M | None, list[ErrorDetails]]:
    try:
        # By way of JSON, because that is where pydantic's strict mode takes lists for tuples and texts for enums and paths.
        return model.model_validate_json(json.dumps(value), context={"base": base}), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        wrong = {path[:size] for path in map(_path, errors) for size in range(len(path))}
        # A list with a wrong entry is also called too short, since the entry is left out.
        return None, [each for each in errors if not (each["type"] == "too_short" and _path(each) in wrong)]


def _drop(value: object, path: Path) -> None:
    for step in path[:-1]:
        if isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return
    if isinstance(value, dict):
        value.pop(path[-1], None)


def _path(error: ErrorDetails) -> Path:
    return tuple(step for step in error["loc"] if step != "[key]")


def _problem(document: Document, model: type[BaseModel], error: ErrorDetails) -> Problem:
    kind, path = error["type"], _path(error)
    is_key = kind == "extra_forbidden" or "[key]" in error["loc"]
    return document.problem(path, _text(kind, path, model, error), is_key=is_key)


def _text(kind: str, path: Path, model: type[BaseModel], error: ErrorDetails) -> str:
    context = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in error.get("ctx", {}).items()
    }
    if kind == "extra_forbidden":
        return f"unknown key{suggest(str(path[-1]), known_keys(model, path[:-1]))}"
    if kind in ("enum", "literal_error"):
        expected = str(context.get("expected", ""))
        known = re.findall(r"'([^']*)'", expected)
        given = error["input"]
        shown = f"unknown value {given[:60]!r}" if isinstance(given, str) else "unknown value"
        return f"{shown}; expected {expected}{suggest(str(given), known)}"
    if kind in ("string_type", "path_type"):
        return "must be text" + ("; put it in quotes" if isinstance(error["input"], int | float | bool) else "")
    text = _TEXTS.get(kind)
    return text.format(**context) if text else error["msg"]


def known_keys(model: type[BaseModel], path: Path) -> tuple[str, ...]:
    """The keys that the mapping at path may have; empty if it is not a model."""
    at: Any = model
    for step in path:
        at = _strip(at)
        if isinstance(at, type) and issubclass(at, BaseModel):
            fields = at.model_fields
            if step not in fields:
                return ()
            at = fields[str(step)].annotation
        elif get_origin(at) in (tuple, list):
            at = get_args(at)[0]
        elif get_origin(at) is dict:
            at = get_args(at)[1]
        else:
            return ()
    at = _strip(at)
    return tuple(at.model_fields) if isinstance(at, type) and issubclass(at, BaseModel) else ()


def _strip(annotation: Any) -> Any:
    """Without Annotated and None."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(arg for arg in get_args(annotation) if arg is not type(None))
        else:
            return annotation
