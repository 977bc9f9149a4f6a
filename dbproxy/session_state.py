"""What is known of a session's state at the server: how it reads text, where it looks for names, in which role it acts.

Some of it the server reports by itself, some has to be asked for when nothing is in flight, and in between it is in doubt. In doubt a
text is read in every way that it could be meant, and an unqualified name stands for any of that name.

    what was forwarded may change it ─► unsettled ─► nothing in flight: ask ─► answered ─► settled
"""

from __future__ import annotations

from classifiers.effects import LexingState
from dbproxy.dialect import Dialect
from protocol.contract import Act

_UNKNOWN_ENCODING = "UNKNOWN"
_ANY_ROLE = "$user"
"""Left in a search path as it is, and then any schema may be meant."""


class SessionState:
    """parameters: as the server confirmed them; this object owns them. server_user: the role of the login.

    is_unsettled: something may have changed what unqualified names or literals mean. lexing: as reported last. lexing_changed: it was
    another one before. name_case: how the server compares names. search_path: None if not known. role: in force; None if not known. Methods that return a bool say whether
    judgements made before do not hold any more.
    """

    __slots__ = (
        "_dialect",
        "_is_hard_unsettled",
        "_path_role",
        "_role_moved",
        "_server_user",
        "is_unsettled",
        "lexing",
        "lexing_changed",
        "name_case",
        "parameters",
        "role",
        "search_path",
        "version",
    )

    def __init__(self, dialect: Dialect, parameters: dict[str, str], server_user: str) -> None:
        self._dialect = dialect
        self._server_user = server_user
        self.parameters = parameters
        self.version = dialect.server_version(parameters)
        self.lexing = dialect.lexing_state(parameters)
        self.lexing_changed = False
        self.name_case = dialect.name_case(parameters)
        self._path_role = server_user  # what "$user" stands for; itself once the role may be another one
        self._role_moved = False  # something that may change the role was forwarded, ever
        self.role: str | None = server_user
        self.search_path = dialect.search_path(parameters, server_user)
        self.is_unsettled = self.search_path is None
        self._is_hard_unsettled = False

    def lexing_for(self, act: Act) -> LexingState:
        """The state in which a text is, or was, read by the server; in doubt one in which all readings must agree."""
        if act in (Act.EXECUTE, Act.RESUME):
            # Its Parse may have been read in another state than now.
            return LexingState(None, _UNKNOWN_ENCODING, None, None) if self.lexing_changed else self.lexing
        if not self.is_unsettled:
            return self.lexing
        encoding = _UNKNOWN_ENCODING if self._is_hard_unsettled else self.lexing.encoding
        return LexingState(None, encoding, None, None)

    def forwarded(self, *, changes_meaning: bool, changes_role: bool) -> bool:
        """A text was forwarded that is not neutral."""
        self.is_unsettled = True
        self._is_hard_unsettled = self._is_hard_unsettled or changes_meaning
        self._role_moved = self._role_moved or changes_role
        changed = self._role_moved and self._set_role(None)
        if changes_role and self._path_role != _ANY_ROLE:
            self._path_role = _ANY_ROLE
            changed = self._set_path(self._dialect.search_path(self.parameters, _ANY_ROLE)) or changed
        return changed

    def parameter(self, name: str, value: str) -> bool:
        """The server reported a parameter."""
        self.parameters[name] = value
        changed = False
        lexing = self._dialect.lexing_state(self.parameters)
        if lexing != self.lexing:
            self.lexing = lexing
            self.lexing_changed = changed = True
        name_case = self._dialect.name_case(self.parameters)
        if name_case is not self.name_case:
            self.name_case = name_case
            changed = True
        if name == "search_path":
            changed = self._set_path(self._dialect.search_path(self.parameters, self._path_role)) or changed
        return changed

    def question(self) -> bytes | None:
        """Nothing is in flight: what has to be asked for. None: all is known, and settled by that."""
        if self._role_moved and self._dialect.role_query is not None:
            return self._dialect.role_query
        if self._dialect.search_path(self.parameters, "") is None:
            return self._dialect.path_query
        self.is_unsettled = self._is_hard_unsettled = False
        return None

    def answered(self, value: str) -> bool:
        """The answer to the question."""
        changed = False
        if self._role_moved and self._dialect.role_query is not None:
            role, _, value = value.partition("\n")
            own = self._dialect.own_role(self.parameters) or self._server_user
            changed = self._set_role(own if role == "none" else role)
        changed = self._set_path(self._dialect.parse_path(value, self._path_role)) or changed
        self.is_unsettled = self._is_hard_unsettled = False
        return changed

    def _set_role(self, role: str | None) -> bool:
        changed = role != self.role
        self.role = role
        return changed

    def _set_path(self, path: tuple[str, ...] | None) -> bool:
        changed = path != self.search_path
        self.search_path = path
        return changed
