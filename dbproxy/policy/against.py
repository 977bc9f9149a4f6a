"""A policy against the settings it is to be used with: rules about targets, accounts and groups that do not exist.

Such a rule is valid and silent, and often a slip of the pen that leaves something unprotected, so it is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator

from config.errors import Problem, suggest
from config.settings import Auth, Settings
from config.users import Users
from dbproxy.policy.globs import has_glob
from dbproxy.policy.load import CheckedPolicy


def check_against(checked: CheckedPolicy, settings: Settings, users: Users | None) -> Iterator[Problem]:
    """Warnings for words in a policy that nothing in the settings answers to. users: None when not known."""
    known: dict[str, set[str]] = {
        "env": {target.env for target in settings.targets},
        "target": {target.name for target in settings.targets},
    }
    if settings.users.auth is Auth.LOCAL:
        known["account"] = {account.name for target in settings.targets for account in target.accounts}
        if users is not None:
            known["group"] = {group for person in users.people for group in person.groups}
    for rule in checked.policy.rules if checked.policy else ():
        document, place = checked.places[rule.name]
        for test in rule.match.context:
            for value in sorted(test.values):
                if test.key in known and not has_glob(value) and value not in known[test.key]:
                    text = f"nothing in the settings has the {test.key} '{value}'{suggest(value, known[test.key])}"
                    yield document.problem((*place, "match", test.key), text, is_warning=True)
