"""How the story sounds with each database: what its log and its client's errors look like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Story:
    """The words of one database.

    ran: how its log shows a statement that it was asked, {} for the text. connected: how its log shows a login of an account, {} for
    the name. refused: pattern of the error for a blocked statement. explains: what stands in it besides. denied: in the error for a
    wrong password. accept_auth: of the target.
    """

    protocol: str
    ran: str
    connected: str
    refused: str
    explains: tuple[str, ...]
    denied: str
    accept_auth: str


POSTGRES = Story(
    protocol="postgres",
    ran=": {}",
    connected="user={} ",
    refused=r'ERROR:  dbproxy: .*rule "no-prod-drop"',
    explains=("DETAIL:", "HINT:"),
    denied="authentication failed",
    accept_auth="scram-sha-256",
)
MARIADB = Story(
    protocol="mariadb",
    ran="Query\t{}",
    connected="Connect\t{}@",
    refused=r'ERROR 1142 \(42000\).* dbproxy: .*rule "no-prod-drop" \(request ',
    explains=("Destructive",),
    denied="Access denied",
    accept_auth="mysql_native_password",
)
