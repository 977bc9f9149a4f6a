"""Patterns in policies: globs over plain texts, and names of database objects as PostgreSQL writes and folds them.

Servers that compare names in other ways say so with a NameCase. What they could take for the same name is the same for a rule that
restricts; a rule that allows, and an exception, need more than that.

Only `*` and `?` are special. A pattern for an object is `name` or `schema.name`; parts fold to lower case unless "quoted", and a quoted
part is taken literally. Pure; compiled once when a policy is loaded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from classifiers.effects import NameCase

Match = Callable[[str], object]
"""Truthy if the text matches."""

_PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')
_NOT_A_NAME = 'must be a name such as customers, app.customers, *.customers or app."Customers"'
_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def has_glob(text: str) -> bool:
    """True if the text holds a special character."""
    return "*" in text or "?" in text


def compile_glob(text: str) -> Match:
    """A matcher for the whole text, case-sensitive."""
    if not has_glob(text):
        return text.__eq__
    pattern = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in re.sub(r"\*+", "*", text))
    return re.compile(pattern, re.DOTALL).fullmatch


def fold(name: str) -> str:
    """Fold a name as PostgreSQL does in UTF-8: only A to Z."""
    return name.translate(_FOLD)


def loosen(name: str) -> str:
    """Fold a name so that any two which some server takes for one become equal: case, and marks on letters."""
    if name.isascii():
        return name.lower()
    return "".join(each for each in unicodedata.normalize("NFD", name.casefold()) if not unicodedata.combining(each))


class NamePattern:
    """A compiled pattern for tables or functions.

    text: as written. last: the literal last part, None if it is a glob. Compared and hashed by text.
    """

    __slots__ = (
        "_in_catalog",
        "_is_quoted",
        "_loose",
        "_name",
        "_schema",
        "_schema_is_any",
        "_tight",
        "last",
        "text",
    )

    def __init__(self, text: str, *, is_function: bool = False, spelling: Callable[[str], str] | None = None) -> None:
        """Compile. Raises ValueError with one sentence if the text is not a pattern.

        spelling: what becomes of every part, quoted or not; the names that it is compared with must have been through it.
        """
        parts = _split(text)
        self._is_quoted = any(is_literal for _, is_literal in parts)
        self._loose: NamePattern | None = None
        self._tight: NamePattern | None = None
        if spelling is None:
            self._loose = NamePattern(text, is_function=is_function, spelling=loosen)
            self._tight = NamePattern(text, is_function=is_function, spelling=fold)
        else:
            parts = [(spelling(part), is_literal) for part, is_literal in parts]
        if len(parts) > 2:
            raise ValueError("a name has at most two parts, schema.name; use match.database for the database")
        name, name_is_literal = parts[-1]
        schema, schema_is_literal = parts[0] if len(parts) == 2 else ("*", False)
        self.text = text
        self.last = name if name_is_literal or not has_glob(name) else None
        self._name: Match = name.__eq__ if name_is_literal else compile_glob(name)
        self._schema: Match = schema.__eq__ if schema_is_literal else compile_glob(schema)
        self._schema_is_any = not schema_is_literal and not schema.strip("*")
        # pg_catalog is searched first without being named. All its relations begin with pg_, its functions do not.
        self._in_catalog = bool(self._schema("pg_catalog")), is_function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamePattern) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"NamePattern({self.text!r})"

    def may_be(self, name: str, search_path: tuple[str, ...] | None, case: NameCase) -> bool:
        """As may_match, for a server that compares names in this way."""
        if case is NameCase.WRITTEN or self._loose is None or (case is NameCase.KEPT and self._is_quoted):
            return self.may_match(name, search_path)
        # Also where case counts: who wrote `Customers` into a rule without quotes did not mean customers alone.
        path = None if search_path is None else tuple(map(loosen, search_path))
        return self._loose.may_match(loosen(name), path)

    def must_be(self, name: str, search_path: tuple[str, ...] | None, case: NameCase) -> bool:
        """As must_match, for a server that compares names in this way."""
        if case is not NameCase.IGNORED or self._tight is None:
            return self.must_match(name, search_path)
        path = None if search_path is None else tuple(map(fold, search_path))
        return self._tight.must_match(fold(name), path)

    def may_match(self, name: str, search_path: tuple[str, ...] | None) -> bool:
        """True unless the object is certainly another one.

        name: as in Effect.object; "*.*" stands for any object. search_path: schemas in which unqualified names are looked up, None if not known.
        """
        if "." not in name and '"' not in name:
            return bool(self._name(name)) and self._may_be_in(name, search_path)
        for schema, last in readings(name):
            if last == "*" and schema is not None:  # whatever is in the schema
                return self._schema_is_any or schema == "*" or bool(self._schema(schema))
            if self._name(last):
                if self._schema_is_any:
                    return True
                if self._may_be_in(last, search_path) if schema is None else self._schema(schema):
                    return True
        return False

    def must_match(self, name: str, search_path: tuple[str, ...] | None) -> bool:
        """True only if the object certainly is one of those meant, wherever in the search path it is found."""
        schema, last = readings(name)[0]
        if not self._name(last):
            return False
        if self._schema_is_any:
            return True
        if schema is not None:
            return bool(self._schema(schema))
        return bool(search_path) and all(self._schema(each) for each in search_path or ())

    def _may_be_in(self, name: str, search_path: tuple[str, ...] | None) -> bool:
        if self._schema_is_any:
            return True
        matches_catalog, is_function = self._in_catalog
        if matches_catalog and (is_function or name.startswith("pg_")):
            return True
        if search_path is None:
            # In an unknown schema any will do; only a pattern for the catalogue alone cannot mean a user's table.
            return not matches_catalog or bool(self._schema("public"))
        return any(schema == "$user" or self._schema(schema) for schema in search_path)


def readings(name: str) -> list[tuple[str | None, str]]:
    """What the name of an object can mean, as (schema or None, last part); the likeliest first.

    A part that holds a dot may be "quoted"; then there is one reading. In a name of three or more parts without quotes the dots may
    belong to a part, so that each of them may be the separator.
    """
    if '"' in name:
        try:
            parts = [part for part, _ in _split(name, is_folded=True)]
        except ValueError:
            return [(None, name)]
        return [(parts[-2] if len(parts) > 1 else None, parts[-1])]
    parts = name.split(".")
    if len(parts) < 3:
        return [(parts[0] if len(parts) == 2 else None, parts[-1])]
    found: list[tuple[str | None, str]] = []
    for cut in range(len(parts) - 1, 0, -1):
        last = ".".join(parts[cut:])
        found += [(".".join(parts[start:cut]), last) for start in range(cut - 1, -1, -1)]
    return [*found, (None, name)]


def _split(text: str, *, is_folded: bool = False) -> list[tuple[str, bool]]:
    """Split a pattern into (folded part, is it quoted)."""
    parts: list[tuple[str, bool]] = []
    at = 0
    while True:
        found = _PART.match(text, at)
        if found is None:
            raise ValueError(_NOT_A_NAME)
        quoted, plain = found.groups()
        if plain is not None and not is_folded and re.search(r"\s", plain):
            raise ValueError(_NOT_A_NAME)
        parts.append(
            (plain if is_folded else fold(plain), False) if quoted is None else (quoted.replace('""', '"'), True)
        )
        at = found.end()
        if at == len(text):
            return parts
        if text[at] != ".":
            raise ValueError(_NOT_A_NAME)
        at += 1
