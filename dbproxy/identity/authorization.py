"""The proof that somebody was let in. Made by identity.py alone; opening a server connection takes one."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Authorization:
    """Who acts, and as what on the server. Implements protocol.login.Authorization.

    person: the name in the users file, or the role's name with `auth: upstream`; canonical: the form to compare people by.
    login: as the client sent it. account: None with `auth: upstream`. password: what the person typed, only then;
    whoever logs in to the server with it drops the Authorization's last reference to it by `without_password`.
    """

    person: str
    canonical: str
    login: str
    groups: tuple[str, ...]
    target: str
    account: str | None
    server_user: str
    database: str
    address: str
    password: bytes | None = field(default=None, repr=False)

    @property
    def is_personal(self) -> bool:
        """The credential towards the server is the person's own."""
        return self.account is None

    def without_password(self) -> Authorization:
        """The same without the credential: what a session keeps."""
        return Authorization(
            self.person,
            self.canonical,
            self.login,
            self.groups,
            self.target,
            self.account,
            self.server_user,
            self.database,
            self.address,
        )
