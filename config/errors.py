"""Problems found in configuration files, and the exception that carries all of them.

Counterpart: document.py finds problems of form, check.py those of content. Nothing here prints.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in one place.

    line, column: 1-based; 0 when the problem concerns the whole file. key: where in the document, for example "rules[3].action", may be "".
    text: one plain sentence without a secret. is_warning: the file is usable all the same.
    """

    file: str
    line: int
    column: int
    key: str
    text: str
    is_warning: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        what = f"{self.key}: {self.text}" if self.key else self.text
        return f"{place}: {'warning: ' if self.is_warning else ''}{what}"


class ConfigError(Exception):
    """A configuration file cannot be used. Its text has one line per problem.

    problems: everything found, in the order of the file, warnings included.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def suggest(word: str, known: Iterable[str]) -> str:
    """The hint " (did you mean 'allow'?)", or "" if no known word is near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
