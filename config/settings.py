"""The settings file as frozen models: what may be set, what it means and what it is when not set.

Descriptions here are the reference: they go into the JSON Schema (`dbproxy schema settings`). Reading files is load.py.
Settings are read once at start and on reload; nothing on the way of a query validates with pydantic.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from config.address import Address
from config.secret import SecretRef

SHIPPED_POLICIES = Path(__file__).resolve().parent / "policies"
BUILTIN = "builtin:"
"""Prefix that names a shipped policy file, for example builtin:default."""


class Model(BaseModel):
    """Base of every model in a configuration file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )


def _from_base(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base / path.expanduser()


def _policy_path(text: str, info: ValidationInfo) -> Path:
    if not text.startswith(BUILTIN):
        return _from_base(Path(text), info)
    path = SHIPPED_POLICIES / (text.removeprefix(BUILTIN) + ".yaml")
    if path.parent != SHIPPED_POLICIES or not path.is_file():
        shipped = ", ".join(BUILTIN + file.stem for file in sorted(SHIPPED_POLICIES.glob("*.yaml")))
        raise ValueError(f"no such shipped policy; there are: {shipped}")
    return path


def _name(text: str) -> str:
    if not text or len(text) > 63 or not text.isprintable() or set(text) & set(" +%:/\\\"'$"):
        raise ValueError("must be a name of 1 to 63 characters without blanks, quotes and any of + % : / \\ $")
    return text


def read_network(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network such as 10.0.0.0/8, or one address. Raises ValueError with one sentence."""
    try:
        return ipaddress.ip_network(text if isinstance(text, str) else "")
    except ValueError as error:
        raise ValueError("must be a network such as 10.0.0.0/8 (no host bits set) or an address") from error


def _syslog_address(text: str) -> str:
    kind, _, rest = text.partition(":")
    host, _, port = rest.rpartition(":")
    is_host = kind in ("udp", "tcp") and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not is_host and not (kind == "unix" and rest.startswith("/")):
        raise ValueError("must be unix:/dev/log, udp:HOST:PORT or tcp:HOST:PORT")
    return text


def _http_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or not text.isascii():
        raise ValueError("must be a URL such as https://anchors.example/dbproxy, without user and password")
    return text


RelativePath = Annotated[Path, AfterValidator(_from_base)]
"""A path that starts from the directory of the file it is written in."""
PolicyPath = Annotated[Path, Field(strict=False), AfterValidator(lambda path, info: _policy_path(str(path), info))]
Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 63})]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    PlainValidator(read_network),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32"]}),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
KIB, MIB = 1024, 1024 * 1024


class Protocol(StrEnum):
    """The wire protocol of a listener or target."""

    POSTGRES = "postgres"
    MYSQL = "mysql"
    MARIADB = "mariadb"


class ListenerTLSMode(StrEnum):
    """What a listener does about TLS with clients."""

    REQUIRE = "require"
    """Clients without TLS are refused."""
    ALLOW = "allow"
    """The client chooses."""
    DISABLE = "disable"
    """No TLS. Passwords are not sent in clear with SCRAM, but statements and results are."""


class TargetTLSMode(StrEnum):
    """What the proxy demands of the database server, as libpq's sslmode."""

    DISABLE = "disable"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class ServerAuth(StrEnum):
    """A way of logging in that the proxy is willing to use with the database server."""

    SCRAM_SHA_256_PLUS = "scram-sha-256-plus"
    SCRAM_SHA_256 = "scram-sha-256"
    MD5 = "md5"
    PASSWORD = "password"  # noqa: S105 - the name of a method
    """In clear; only with tls.mode require or stronger."""
    TRUST = "trust"
    """The server asks for nothing."""
    CERT = "cert"
    """The client certificate of tls.certificate."""
    CACHING_SHA2_PASSWORD = "caching_sha2_password"  # noqa: S105 - the name of a method
    """MySQL; the server may ask for the password itself, which it gets inside TLS only."""
    CLIENT_ED25519 = "client_ed25519"
    """MariaDB."""
    SHA256_PASSWORD = "sha256_password"  # noqa: S105 - the name of a method
    """MySQL; the password itself, inside TLS only."""
    MYSQL_NATIVE_PASSWORD = "mysql_native_password"  # noqa: S105 - the name of a method
    """MySQL before 9, and MariaDB's default; SHA-1, weak against whoever reads the connection."""


class Auth(StrEnum):
    """Who checks people's passwords."""

    LOCAL = "local"
    """The proxy, against the verifiers in the users file; the server's credential is injected."""
    UPSTREAM = "upstream"
    """The database server: the proxy asks for the password inside TLS and logs in with it. Person and role are the same."""


class Durability(StrEnum):
    """When an audit record counts as written."""

    TIERED = "tiered"
    """On the disk before the statement is forwarded, but plain reads that no rule matches are only given to the kernel first, and are on the disk within a second."""
    DURABLE = "durable"
    """On the disk before any statement is forwarded: only this survives a loss of power for plain reads too."""
    WRITTEN = "written"
    """Given to the kernel before the statement is forwarded, on the disk within a second. Survives a crash of the proxy, not a loss of power."""


class Compression(StrEnum):
    """How closed segments of the ledger are kept."""

    GZIP = "gzip"
    """Compressed once they are closed; any gzip program reads them."""
    NONE = "none"
    """As they were written."""


class Parameters(StrEnum):
    """What of a bound parameter is kept in the audit trail."""

    DIGEST = "digest"
    """Type, size and a digest."""
    VALUES = "values"
    """The value itself."""
    OFF = "off"
    """Only how many there were."""


class ListenerTLS(Model):
    """TLS between clients and the proxy."""

    mode: ListenerTLSMode = ListenerTLSMode.REQUIRE
    """require, allow or disable."""
    certificate: RelativePath | None = None
    """PEM file with the certificate chain, own certificate first. Needed unless mode is disable."""
    key: RelativePath | None = None
    """PEM file with the private key; not readable by others."""


class Listener(Model):
    """An address that clients connect to, and the target behind it."""

    name: Name
    """Unique; appears in audit events and metrics."""
    protocol: Protocol = Protocol.POSTGRES
    """The same as the target's."""
    address: Address
    """HOST:PORT to listen on."""
    target: Name
    """Name of the target that sessions of this listener go to."""
    tls: ListenerTLS = ListenerTLS()
    mysql_native_password: bool = False
    """MySQL: take clients at their word that name this method, for those that know nothing better. People need the verifier that
    `dbproxy user passwd --mysql-native-password` stores: unsalted SHA-1, which whoever reads the users file and one login can log in with."""
    proxy_protocol_from: tuple[Network, ...] = ()
    """Load balancers (networks) that must announce the client's address with PROXY protocol v2. Nobody else may."""


class TargetTLS(Model):
    """TLS between the proxy and the database server."""

    mode: TargetTLSMode = TargetTLSMode.VERIFY_FULL
    """disable, prefer, require, verify-ca or verify-full, with the meaning of libpq's sslmode."""
    ca: RelativePath | None = None
    """PEM file with the certificate authorities to trust; the system's when not set."""
    certificate: RelativePath | None = None
    """PEM file with the proxy's own client certificate."""
    key: RelativePath | None = None
    """PEM file with its private key; not readable by others."""


class Account(Model):
    """A login of the database server that people may act through."""

    name: Name
    """What people write after their own name: alice+reporting."""
    user: Annotated[str, Field(min_length=1, max_length=63)]
    """The role on the server."""
    password: SecretRef | None = None
    """${env:NAME} or ${file:/path}; never the password itself. Not needed with trust and cert."""


_MYSQL_DEFAULTS = {"port": 3306, "accept_auth": (ServerAuth.CACHING_SHA2_PASSWORD, ServerAuth.CLIENT_ED25519)}


class Target(Model):
    """A database server."""

    name: Name
    """Unique; policies match on it."""
    protocol: Protocol = Protocol.POSTGRES
    host: Annotated[str, Field(min_length=1, max_length=255)]
    """Host name or IP address."""
    port: Port = 5432
    """When not set: 5432, with mysql and mariadb 3306."""
    env: Annotated[str, Field(min_length=1, max_length=63)] = "prod"
    """What the server is used for, a word of your choice; policies match on it. Taken for prod when not said."""
    database: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """The database for clients that name none, or only their own name; the account's name when not set."""
    tls: TargetTLS = TargetTLS()
    accept_auth: Annotated[tuple[ServerAuth, ...], Field(min_length=1)] = (
        ServerAuth.SCRAM_SHA_256_PLUS,
        ServerAuth.SCRAM_SHA_256,
    )
    """Ways of logging in that the server may ask for; anything else ends the login, so that it cannot be talked into a weaker one.

    When not set with mysql and mariadb: caching_sha2_password and client_ed25519."""
    max_scram_iterations: Annotated[int, Field(ge=4096, le=10_000_000)] = 100_000
    """Above this the login ends: a hostile server could burn the proxy's processor."""
    accounts: tuple[Account, ...] = ()
    """Needed with users.auth local."""
    default_account: Name | None = None
    """The account of people whose entry lists no accounts. When not set, they cannot use this target."""
    monitor: Name | None = None
    """PostgreSQL: the account by which the proxy itself reads the catalogue, so that rules about a table see access through views, partitions,
    triggers and functions. It needs no rights but to log in. When not set there is no catalogue."""
    allow_replication: bool = False
    """Let clients open replication connections, whose contents are not judged."""
    allow_local_infile: bool = False
    """MySQL: let statements with LOAD DATA LOCAL send a file of the client's, if the policy allows them and the file is the one they name."""

    @model_validator(mode="after")
    def _set_defaults(self) -> Self:
        if self.protocol is not Protocol.POSTGRES:
            for name, value in _MYSQL_DEFAULTS.items():
                if name not in self.model_fields_set:
                    self.__dict__[name] = value
        return self


class UsersSettings(Model):
    """Where people are listed and who checks their passwords."""

    auth: Auth = Auth.LOCAL
    """local or upstream."""
    file: RelativePath | None = None
    """The users file. Needed with auth local; with upstream it may add groups and disable people."""


class PolicySettings(Model):
    """Which policy files are in force, all together."""

    files: Annotated[tuple[PolicyPath, ...], Field(min_length=1)] = (SHIPPED_POLICIES / "default.yaml",)
    """Policy files; builtin:default and builtin:observe are shipped."""


class SigningSettings(Model):
    """Checkpoints over the audit ledger, signed with Ed25519."""

    enabled: bool = True
    """Without checkpoints the ledger is chained only: a ledger replaced as a whole, or cut at its end, cannot be found."""
    key: RelativePath | None = None
    """PEM file of the private key, mode 0600; signing.key in the state directory when not set. Made when it is missing and nothing was signed yet."""
    unsafe_accept_rollback: bool = False
    """Start although the ledger is older than what was anchored, and say so in the ledger. For one start, after a restore from a backup."""


class Anchor(Model):
    """A place outside of the ledger that keeps every checkpoint: exactly one of file, syslog and http."""

    file: RelativePath | None = None
    """A file that is only ever appended to; best on another machine's disk."""
    syslog: Annotated[str, AfterValidator(_syslog_address)] | None = None
    """unix:/dev/log, udp:HOST:PORT or tcp:HOST:PORT; messages as in RFC 5424."""
    http: Annotated[str, AfterValidator(_http_address)] | None = None
    """URL that checkpoints are posted to, each as a JSON object; any 2xx answer counts as kept."""
    token: SecretRef | None = None
    """With http: sent as a bearer token."""
    ca: RelativePath | None = None
    """With http: PEM file with the certificate authorities to trust; the system's when not set."""


class RetentionSettings(Model):
    """When old segments of the ledger are deleted; null means never."""

    max_age_days: Annotated[float, Field(gt=0, le=36_500)] | None = None
    """A segment whose last record is older is deleted."""
    max_bytes: Annotated[int, Field(ge=MIB)] | None = None
    """While the segments of all chains take more than this, the oldest are deleted."""


class AuditSettings(Model):
    """The audit ledger."""

    directory: RelativePath
    """Directory of the ledger's segments; created with mode 0700. One proxy writes to it."""
    durability: Durability = Durability.TIERED
    """tiered, durable or written: where a statement's record must be before the statement is forwarded."""
    parameters: Parameters = Parameters.DIGEST
    """digest, values or off."""
    segment_bytes: Annotated[int, Field(ge=64 * KIB, le=16 * 1024 * MIB)] = 128 * MIB
    """A segment larger than this is closed and the next one begun."""
    segment_age_s: Annotated[float, Field(ge=1, le=366 * 86_400)] = 86_400.0
    """So is a segment older than this."""
    compression: Compression = Compression.GZIP
    """gzip or none: what becomes of closed segments."""
    heartbeat_s: Annotated[float, Field(ge=1, le=3_600)] = 60.0
    """Each process writes its totals this often, also when nothing happens."""
    reserve_bytes: Annotated[int, Field(ge=64 * KIB, le=1024 * MIB)] = 16 * MIB
    """Disk space kept for the outcomes of statements that are already running."""
    signing: SigningSettings = SigningSettings()
    anchors: Annotated[tuple[Anchor, ...], Field(max_length=8)] = ()
    """Where checkpoints go, all of them to each. Without any, whoever controls this machine can cut off the ledger's end unseen."""
    retention: RetentionSettings = RetentionSettings()


class StateSettings(Model):
    """What must outlast a restart, besides the audit ledger, and the sockets of the command line."""

    directory: Path = Path("state")
    """Directory of state.db and of the admin socket; created with mode 0700. For one running proxy."""


def _state_from_base(state: StateSettings, info: ValidationInfo) -> StateSettings:
    """As RelativePath, for the default too."""
    return state.model_copy(update={"directory": _from_base(state.directory, info)})


class ProcessSettings(Model):
    """The processes of the proxy, besides the one that supervises and the one that controls."""

    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """How many serve clients; about as many as there are processors. A session stays in the worker that took it."""


class CatalogueSettings(Model):
    """How often the catalogue of a target with a monitor account is read, besides after DDL and when a name is not in it."""

    refresh_s: Annotated[float, Field(ge=5, le=86_400)] = 300.0
    """After this many seconds it is read again; one that could not be read for three times as long counts as stale."""


class AdminSettings(Model):
    """Metrics and health over HTTP; without log-in, so keep it on a private address."""

    address: Address = Address("127.0.0.1", 9464)
    """HOST:PORT."""


class SessionSettings(Model):
    """What people see."""

    banner: Annotated[str, Field(max_length=1000)] = "Sessions on this database are monitored and recorded."
    """Notice sent after login, where the protocol has one; empty for none."""


class LoginFailures(Model):
    """How many failed logins are taken before more are refused unseen."""

    per_address: Annotated[int, Field(ge=1)] = 20
    """From one client address within the window."""
    per_user: Annotated[int, Field(ge=1)] = 10
    """For one login name, from one address, within the window; others' logins are not affected."""
    window_s: Seconds = 60.0
    """How long a failure counts."""


class ClassifierLimits(Model):
    """The child processes that parse SQL."""

    processes: Annotated[int, Field(ge=1, le=64)] = 2
    """How many each worker keeps."""
    timeout_ms: Annotated[int, Field(ge=10, le=60_000)] = 250
    """A statement that takes longer is unparsable, and its process is replaced."""
    memory_mb: Annotated[int, Field(ge=128, le=65_536)] = 512
    """Address space of one process."""
    cache_bytes: Annotated[int, Field(ge=0, le=16 * 1024 * MIB)] = 32 * MIB
    """Memory for answers, by exact text."""


class Limits(Model):
    """Caps. Each one holds so that no session can harm another."""

    max_statement_bytes: Annotated[int, Field(ge=1024, le=1024 * MIB)] = 16 * MIB
    """A longer statement ends the session."""
    max_message_bytes: Annotated[int, Field(ge=64 * KIB, le=1024 * MIB)] = 64 * MIB
    """A longer protocol message that has to be looked at ends the session; bulk data is not looked at."""
    held_max_bytes: Annotated[int, Field(ge=64 * KIB, le=1024 * MIB)] = 4 * MIB
    """What a client may send while a statement of its waits."""
    max_sessions: Annotated[int, Field(ge=1)] = 1000
    max_sessions_per_user: Annotated[int, Field(ge=1)] = 100
    max_sessions_per_address: Annotated[int, Field(ge=1)] = 200
    max_prepared_per_session: Annotated[int, Field(ge=1)] = 5000
    """Prepared statements and portals that a session may keep."""
    login_failures: LoginFailures = LoginFailures()
    write_buffer_bytes: Annotated[int, Field(ge=16 * KIB, le=1024 * MIB)] = 512 * KIB
    """When more than this waits for a slow peer, the other side is not read."""
    classifier: ClassifierLimits = ClassifierLimits()


class Timeouts(Model):
    """All in seconds; null means never, where that is allowed."""

    login_s: Seconds = 10.0
    """From connect to the end of login."""
    connect_s: Seconds = 5.0
    """To reach the database server."""
    idle_s: Seconds | None = 28_800.0
    """Without a statement running and none arriving."""
    idle_in_transaction_s: Seconds | None = None
    """The same with a transaction open, which others may have to wait for; PostgreSQL's idle_in_transaction_session_timeout, for both databases."""
    statement_s: Seconds | None = None
    """For the answer to one statement to come to its end. The session ends then, and the database is asked to cancel."""
    session_s: Seconds | None = None
    """From login, whatever happens."""
    partial_message_s: Seconds = 60.0
    """For the rest of a message to arrive."""
    drain_s: Seconds = 30.0
    """On stop, for running statements to end."""
    cancel_s: Seconds = 5.0
    """For a cancel request to be delivered."""
    server_lost_s: Seconds = 25.0
    """A database server's host that acknowledges nothing for so long counts as lost."""


class Settings(Model):
    """The dbproxy settings file."""

    version: Literal[1]
    """Version of this format: 1."""
    listeners: Annotated[tuple[Listener, ...], Field(min_length=1)]
    """Where clients connect to."""
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    """The database servers."""
    users: UsersSettings
    policies: PolicySettings = PolicySettings()
    audit: AuditSettings
    state: Annotated[StateSettings, AfterValidator(_state_from_base), Field(validate_default=True)] = StateSettings()
    processes: ProcessSettings = ProcessSettings()
    catalogue: CatalogueSettings = CatalogueSettings()
    admin: AdminSettings = AdminSettings()
    session: SessionSettings = SessionSettings()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()

    def target(self, name: str) -> Target:
        """The target of that name. Raises KeyError; the loader has made sure that every listener's target exists."""
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(name)
