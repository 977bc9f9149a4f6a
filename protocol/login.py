"""The steps that a login generator yields, and what its driver sends back. The driver is dbproxy/login.py.

A login is a ladder, so it is a generator: `answer = yield step`. It holds no socket and knows no clock; the driver
applies deadlines and runs the cryptography of TLS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from protocol.contract import Refusal, Relay, Side


@dataclass(frozen=True, slots=True)
class ReadExactly:
    """Answer: exactly `size` bytes from `side`. The driver raises ConnectionError if the peer leaves first."""

    side: Side
    size: int


@dataclass(frozen=True, slots=True)
class PeekByte:
    """Answer: the next byte from the client without consuming it, b"" if it left. For direct TLS and PROXY protocol."""


@dataclass(frozen=True, slots=True)
class Send:
    """Answer: None."""

    side: Side
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What the handshake agreed on.

    end_point: tls-server-end-point channel binding data of the certificate of the listening end (on the client's leg the
    proxy's own, on the server's leg the database's), b"" if undefined for its signature algorithm.
    """

    version: str
    cipher: str
    alpn: str | None
    end_point: bytes
    peer_subject: str | None


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Hand the raw socket to TLS. Answer: TLSInfo.

    INVARIANT: unless direct, the driver fails the login if any byte is already waiting on the raw socket (bytes injected
    before TLS); only then it sends `answer` (an eager client may send its ClientHello right after it) and shakes hands.
    On side SERVER the driver verifies the certificate as the target's settings say.
    direct: the client sent a ClientHello first; the generator checks the ALPN name.
    """

    side: Side
    direct: bool = False
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class Startup:
    """What the client asked for at start-up, after parsing; the driver records it for audit.

    login: the name as sent, for example "alice" or "alice+reporting"; parameters: all others, in order, values as text.
    needs_database: a session is always in a database; otherwise one that names none is in none.
    """

    login: str
    database: str | None
    parameters: tuple[tuple[str, str], ...]
    version: tuple[int, int]
    needs_database: bool = True


class Exchange(Protocol):
    """A server-side authentication exchange made by identity; the generator moves its messages, identity reads its result."""

    @property
    def mechanisms(self) -> tuple[str, ...]: ...

    def first(self, mechanism: str, message: bytes) -> bytes:
        """Take client-first, return server-first. Raises AuthenticationFailed."""

    def final(self, message: bytes) -> bytes:
        """Take client-final, return server-final. Raises AuthenticationFailed."""


class AuthenticationFailed(Exception):  # noqa: N818 - an outcome of a login, not a defect
    """The proof is wrong, or the exchange is not as the mechanism demands. Its text is for the log, never for the client."""


@dataclass(frozen=True, slots=True)
class Identify:
    """Ask identity how this person authenticates. Answer: UseExchange or UsePassword.

    Unknown, disabled and expired people get a mock exchange: the answers look and take the same.
    tls: the client's TLS, None if plain. mechanism: which of the person's verifiers the protocol can use.
    """

    startup: Startup
    tls: TLSInfo | None
    mechanism: str = "SCRAM-SHA-256"


@dataclass(frozen=True, slots=True)
class UseExchange:
    """Answer to Identify: run this SASL exchange."""

    exchange: Exchange


@dataclass(frozen=True, slots=True)
class UsePassword:
    """Answer to Identify: ask for the password in clear (only ever inside TLS); it logs in to the server (`auth: upstream`)."""


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Ask identity for an Authorization. Answer: Authorization; the driver raises LoginRefused otherwise.

    password: only with UsePassword.
    """

    startup: Startup
    password: bytes | None = field(default=None, repr=False)


class LoginRefused(Exception):  # noqa: N818 - an outcome of a login, not a defect
    """The login ends here; refusal is what the client is told.

    A Why.LOGIN refusal with an empty message means: the protocol's own words for a wrong password, always the same ones.
    detail: for the log and audit, never for the client. event: a word that names the case for metrics and audit, such as
    "server_auth_downgrade"; "" if it is nothing special.
    """

    def __init__(self, refusal: Refusal, detail: str = "", event: str = "") -> None:
        super().__init__(detail or refusal.message or refusal.why.value)
        self.refusal = refusal
        self.detail = detail
        self.event = event


class Authorization(Protocol):
    """Proof that identity let this person in. Only dbproxy.identity makes one; opening a server connection takes one."""

    @property
    def person(self) -> str: ...

    @property
    def server_user(self) -> str: ...

    @property
    def database(self) -> str: ...


@dataclass(frozen=True, slots=True)
class OpenServer:
    """Connect to the target. Answer: ServerAccess. Takes an Authorization: nothing is dialled before authentication."""

    authorization: Authorization


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """How to log in to the server. password: None when the account has none (trust, client certificate).

    tls: "disable" | "prefer" | "require" | "verify-ca" | "verify-full". allowed: authentication methods accepted from the
    server, out of "scram-sha-256-plus", "scram-sha-256", "md5", "password", "trust", "cert".
    is_personal: the password is the one the person typed (`auth: upstream`), so that the server's refusal is theirs;
    otherwise it is the account's, and its refusal is the operator's business.
    """

    user: str
    database: str
    tls: str
    allowed: frozenset[str]
    max_scram_iterations: int
    password: bytes | None = field(default=None, repr=False)
    min_scram_iterations: int = 4096
    is_personal: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """The connection was a cancel request; answer None, the login ends. key: process id and secret as the client knows them."""

    process_id: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerReady:
    """The server session stands. Answer: IssuedKey to give to the client. server_secret stays in the proxy."""

    process_id: int
    parameters: tuple[tuple[str, str], ...]
    server_secret: bytes = field(repr=False)
    secret_size: int = 4


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """The proxy's own cancel secret for this session, and the banner (None: none)."""

    secret: bytes = field(repr=False)
    banner: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Login is over. The relay takes both connections over. leftover bytes of either side are fed to it by the driver."""

    relay: Relay
