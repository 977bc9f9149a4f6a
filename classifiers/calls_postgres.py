"""Functions, operators and types that a PostgreSQL statement uses, put into the draft of its report."""

from __future__ import annotations

from classifiers.builtins_postgres import OPERATORS
from classifiers.draft import Draft
from classifiers.effects import Kind
from classifiers.functions_postgres import find_meaning
from classifiers.settings_postgres import UNKNOWN_SETTING_FLAGS, find_setting_flags, is_neutral_setting
from classifiers.tokens import join_name
from classifiers.types_postgres import is_builtin_type

_GRAMMAR_OPERATORS = frozenset(["=", "<>", "!=", "<", ">", "<=", ">=", "*"])


def note_function(draft: Draft, parts: tuple[str, ...], kind: Kind = Kind.DML_READ) -> None:
    """kind: of the statement that calls it; flags of a harmless-looking call are attached to that."""
    draft.functions[join_name(parts)] = None
    meaning = find_meaning(parts)
    if meaning.kinds:
        for each in meaning.kinds:
            draft.act(each, "", "", *meaning.flags)
    elif meaning.flags:
        draft.act(kind, "", "", *meaning.flags)
    if Kind.DYNAMIC in meaning.kinds:
        draft.is_neutral = False
        draft.reason = draft.reason or "a function runs whose effect cannot be seen"
    if parts[-1] == "set_config":
        draft.is_neutral = False


def note_set_config(draft: Draft, setting: str | None) -> None:
    """setting: the first argument where it is a plain string, None where it is computed."""
    flags = UNKNOWN_SETTING_FLAGS if setting is None else find_setting_flags(setting)
    draft.act(Kind.SESSION, "", "", *flags, "function_side_effect")
    if setting is None or not is_neutral_setting(setting):
        draft.is_neutral = False


def changes_settings(draft: Draft) -> bool:
    """Whether an expression calls set_config."""
    return any(name.rpartition(".")[2] == "set_config" for name in draft.functions)


def note_stored_change(draft: Draft) -> None:
    """What is stored changes settings whenever the object is used, and nobody sees it then: doubt is cast now."""
    draft.act(Kind.DYNAMIC, "", "", "code_body")
    draft.is_neutral = False
    draft.reason = draft.reason or "what is stored changes settings when it is used"


def note_operator(draft: Draft, schema: str, operator: str) -> None:
    """An operator that is not the server's own runs a function that cannot be seen."""
    # @@@ is a deprecated spelling of @@ that only operators of users have today.
    is_builtin = operator != "@@@" and (operator in OPERATORS or operator in _GRAMMAR_OPERATORS)
    if not is_builtin or schema not in ("", "pg_catalog"):
        draft.functions[f"operator:{schema}.{operator}" if schema else f"operator:{operator}"] = None
        draft.act(Kind.DYNAMIC, "", "", "unknown_function")
        draft.is_neutral = False
        draft.reason = draft.reason or "an operator runs a function that cannot be seen"


def note_type(draft: Draft, parts: tuple[str, ...]) -> None:
    """A cast to a type that is not the server's own can run a cast function or a domain's check."""
    if not is_builtin_type(parts):
        draft.functions["cast:" + join_name(parts)] = None
        draft.act(Kind.DYNAMIC, "", "", "unknown_function")
        draft.is_neutral = False
        draft.reason = draft.reason or "a cast to a type that is not built in can run code"
