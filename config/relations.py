"""What must hold between settings, and between settings and the files they name. Form is check.py's matter.

Each function yields problems; none raises. Files are only read, so `dbproxy check` may run on any machine.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path as FilePath

from config.address import Address
from config.document import Document, Path, render_path
from config.errors import Problem, suggest
from config.secret import SecretError, SecretRef
from config.settings import (
    Anchor,
    Auth,
    Listener,
    ListenerTLSMode,
    Protocol,
    ServerAuth,
    Settings,
    Target,
    TargetTLSMode,
)
from config.users import Users

_ENCRYPTED = (TargetTLSMode.REQUIRE, TargetTLSMode.VERIFY_CA, TargetTLSMode.VERIFY_FULL)


RELATED = (
    "mode",
    "certificate",
    "key",
    "accept_auth",
    "password",
    "accounts",
    "default_account",
    "monitor",
    "auth",
    "file",
    "tls",
    "syslog",
    "http",
)
"""Keys whose values decide what is wrong with their neighbours."""


def check_relations(settings: Settings, document: Document, lost: frozenset[Path] = frozenset()) -> list[Problem]:
    """Everything that concerns more than one key of the settings.

    lost: keys that were left out because they are wrong; what could be due to that is not reported.
    """
    doubtful = {render_path(path[:-1]) for path in lost if suggest(str(path[-1]), RELATED)}
    return [each for each in _relations(settings, document) if each.key.rpartition(".")[0] not in doubtful]


def _relations(settings: Settings, document: Document) -> Iterator[Problem]:
    yield from _listeners(settings, document)
    yield from _addresses(settings, document)
    for index, anchor in enumerate(settings.audit.anchors):
        yield from _anchor(anchor, settings, document, ("audit", "anchors", index))
    for index, target in enumerate(settings.targets):
        yield from _target(target, document, ("targets", index))
    yield from _unique(document, ("targets",), [target.name for target in settings.targets])
    yield from _unique(document, ("listeners",), [listener.name for listener in settings.listeners])
    if settings.users.auth is Auth.LOCAL:
        if settings.users.file is None:
            yield document.problem(("users", "file"), "auth local needs a users file; `dbproxy init` writes one")
        for index, target in enumerate(settings.targets):
            if not target.accounts:
                yield document.problem(
                    ("targets", index, "accounts"), "auth local needs at least one account, which people act through"
                )
    if settings.limits.held_max_bytes > settings.limits.max_message_bytes:
        yield document.problem(("limits", "held_max_bytes"), "must not be more than max_message_bytes")
    if settings.limits.max_statement_bytes > settings.limits.max_message_bytes:
        yield document.problem(("limits", "max_statement_bytes"), "must not be more than max_message_bytes")


def _anchor(anchor: Anchor, settings: Settings, document: Document, path: Path) -> Iterator[Problem]:
    if sum(each is not None for each in (anchor.file, anchor.syslog, anchor.http)) != 1:
        yield document.problem((*path, "file"), "an anchor needs exactly one of file, syslog and http")
    if anchor.http is None and (anchor.token is not None or anchor.ca is not None):
        yield document.problem((*path, "http"), "token and ca go with http only")
    elif anchor.token is not None and anchor.http is not None and not anchor.http.startswith("https:"):
        yield document.problem((*path, "token"), "a token is sent over https only")
    if anchor.file is not None and anchor.file.is_relative_to(settings.audit.directory):
        yield document.problem((*path, "file"), "an anchor must be outside of audit.directory")
    if anchor.ca is not None:
        yield from _authorities(document, (*path, "ca"), anchor.ca)


def check_users(settings: Settings, users: Users, document: Document) -> Iterator[Problem]:
    """The users file against the settings; document is the users file's."""
    targets = {target.name: {account.name for account in target.accounts} for target in settings.targets}
    for index, person in enumerate(users.people):
        place: Path = ("people", index)
        for target, accounts in (person.accounts or {}).items():
            at = (*place, "accounts", target)
            if target not in targets:
                yield document.problem(
                    at, f"there is no target '{target}'{suggest(target, targets)}", is_key=True, is_warning=True
                )
                continue
            for number, account in enumerate(accounts):
                if account not in targets[target]:
                    text = f"target '{target}' has no account '{account}'{suggest(account, targets[target])}"
                    yield document.problem((*at, number), text, is_warning=True)
        if person.verifier is None and settings.users.auth is Auth.LOCAL:
            text = f"has no verifier and cannot log in; run `dbproxy user passwd {person.name}`"
            yield document.problem((*place, "name"), text, is_warning=True)


def check_people(users: Users, document: Document) -> Iterator[Problem]:
    """What must hold between people."""
    yield from _unique(document, ("people",), [person.name for person in users.people])
    folded = Counter(person.name.casefold() for person in users.people)
    for index, person in enumerate(users.people):
        names = [other.name for other in users.people if other.name.casefold() == person.name.casefold()]
        if folded[person.name.casefold()] > len([name for name in names if name == person.name]):
            yield document.problem(("people", index, "name"), "differs from another name only in case", is_warning=True)
        listed = {account for accounts in (person.accounts or {}).values() for account in accounts}
        if person.default_account is not None and person.accounts is not None and person.default_account not in listed:
            text = f"'{person.default_account}' is not among the person's accounts{suggest(person.default_account, listed)}"
            yield document.problem(("people", index, "default_account"), text)


def _listeners(settings: Settings, document: Document) -> Iterator[Problem]:
    targets = {target.name: target for target in settings.targets}
    for index, listener in enumerate(settings.listeners):
        place: Path = ("listeners", index)
        target = targets.get(listener.target)
        if target is None:
            yield document.problem(
                (*place, "target"), f"there is no target '{listener.target}'{suggest(listener.target, targets)}"
            )
        elif str(target.protocol) != str(listener.protocol):
            yield document.problem((*place, "protocol"), f"target '{target.name}' speaks {target.protocol}")
        tls = listener.tls
        if tls.mode is ListenerTLSMode.DISABLE:
            if not listener.address.is_loopback:
                text = "without TLS everyone on the network path can read statements and results"
                yield document.problem((*place, "tls", "mode"), text, is_warning=True)
        else:
            yield from _key_pair(document, (*place, "tls"), tls.certificate, tls.key, is_needed=f"mode {tls.mode}")
        if settings.users.auth is Auth.UPSTREAM and tls.mode is not ListenerTLSMode.REQUIRE:
            text = "users.auth upstream needs mode require: passwords pass through the proxy in clear inside TLS"
            yield document.problem((*place, "tls", "mode"), text)
        if listener.mysql_native_password:
            yield from _native_password(settings, listener, document, (*place, "mysql_native_password"))


def _native_password(settings: Settings, listener: Listener, document: Document, place: Path) -> Iterator[Problem]:
    if listener.protocol is Protocol.POSTGRES:
        yield document.problem(place, "only for listeners with protocol mysql or mariadb")
    elif settings.users.auth is Auth.UPSTREAM:
        yield document.problem(
            place, "with users.auth upstream the proxy needs the password, which this method never gives"
        )
    else:
        text = "weak (SHA-1 without salt): best on a listener of its own, for clients that know nothing better"
        yield document.problem(place, text, is_warning=True)


def _addresses(settings: Settings, document: Document) -> Iterator[Problem]:
    taken: list[tuple[str, Address]] = []
    places: list[tuple[Path, Address]] = [
        (("listeners", index, "address"), each.address) for index, each in enumerate(settings.listeners)
    ]
    for place, address in [*places, (("admin", "address"), settings.admin.address)]:
        name = f"listeners[{place[1]}]" if place[0] == "listeners" else "admin"
        for other_name, other in taken:
            if _overlap(address, other):
                yield document.problem(place, f"{address} is taken by {other_name}")
        taken.append((name, address))
    if not settings.admin.address.is_loopback:
        text = "metrics and health have no log-in; keep them on a private address"
        yield document.problem(("admin", "address"), text, is_warning=True)


def _overlap(one: Address, other: Address) -> bool:
    if one.port != other.port or one.port == 0:
        return False
    return (
        one.host == other.host
        or one.is_any
        or other.is_any
        or {one.host, other.host} <= {"localhost", "127.0.0.1", "::1"}
    )


_MYSQL_AUTH = {
    ServerAuth.CACHING_SHA2_PASSWORD,
    ServerAuth.CLIENT_ED25519,
    ServerAuth.SHA256_PASSWORD,
    ServerAuth.MYSQL_NATIVE_PASSWORD,
    ServerAuth.TRUST,
}


def _target(target: Target, document: Document, place: Path) -> Iterator[Problem]:
    accounts = [account.name for account in target.accounts]
    yield from _unique(document, (*place, "accounts"), accounts)
    if target.default_account is not None and target.default_account not in accounts:
        text = f"there is no account '{target.default_account}'{suggest(target.default_account, accounts)}"
        yield document.problem((*place, "default_account"), text)
    if target.monitor is not None and target.monitor not in accounts:
        text = f"there is no account '{target.monitor}'{suggest(target.monitor, accounts)}"
        yield document.problem((*place, "monitor"), text)
    elif target.monitor is not None and target.protocol is not Protocol.POSTGRES:
        yield document.problem((*place, "monitor"), "the catalogue is read from PostgreSQL only")
    tls, methods = target.tls, set(target.accept_auth)
    is_mysql = target.protocol in (Protocol.MYSQL, Protocol.MARIADB)
    foreign = methods - (_MYSQL_AUTH if is_mysql else set(ServerAuth) - _MYSQL_AUTH | {ServerAuth.TRUST})
    if foreign:
        text = f"{min(foreign)} is not a way to log in to {target.protocol}"
        yield document.problem((*place, "accept_auth"), text)
    if ServerAuth.PASSWORD in methods and tls.mode not in _ENCRYPTED:
        yield document.problem(
            (*place, "accept_auth"), "password sends passwords in clear; it needs tls.mode require or stronger"
        )
    if ServerAuth.SCRAM_SHA_256_PLUS in methods and len(methods) == 1 and tls.mode not in _ENCRYPTED:
        yield document.problem((*place, "accept_auth"), "scram-sha-256-plus alone needs tls.mode require or stronger")
    if ServerAuth.CERT in methods and tls.certificate is None:
        yield document.problem((*place, "accept_auth"), "cert needs tls.certificate and tls.key")
    if tls.mode is not TargetTLSMode.DISABLE:
        yield from _key_pair(document, (*place, "tls"), tls.certificate, tls.key, is_needed=None)
        if tls.ca is not None:
            yield from _authorities(document, (*place, "tls", "ca"), tls.ca)
    for index, account in enumerate(target.accounts):
        at = (*place, "accounts", index)
        if account.password is None:
            if not methods & {ServerAuth.TRUST, ServerAuth.CERT}:
                text = "the account needs a password; write ${env:NAME} or ${file:/path}, or accept trust or cert"
                yield document.problem((*at, "password"), text)
        else:
            what = f'nobody can log in with the account "{account.name}" of "{target.name}" now'
            yield from _secret(document, (*at, "password"), account.password, what)


def _secret(document: Document, place: Path, reference: SecretRef, what: str) -> Iterator[Problem]:
    try:
        reference.resolve()
    except SecretError as error:
        yield document.problem(place, f"{what}: {error}", is_warning=True)


def _key_pair(
    document: Document, place: Path, certificate: FilePath | None, key: FilePath | None, *, is_needed: str | None
) -> Iterator[Problem]:
    if certificate is None or key is None:
        for name, path in (("certificate", certificate), ("key", key)):
            if path is None and (is_needed or certificate is not key):
                yield document.problem(
                    (*place, name), f"is needed with {is_needed}" if is_needed else "certificate and key go together"
                )
        return
    is_readable = True
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            path.read_bytes()
            is_open = name == "key" and path.stat().st_mode & 0o007
        except OSError as error:
            is_readable = False
            yield document.problem((*place, name), f"{path} cannot be read: {error.strerror}")
            continue
        if is_open:
            yield document.problem((*place, name), f"everyone may read or change {path}; run chmod o=")
    if is_readable:
        yield from _load(
            lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b""),
            document.problem(
                (*place, "certificate"), "certificate and key are not a valid PEM pair without passphrase"
            ),
        )


def _authorities(document: Document, place: Path, path: FilePath) -> Iterator[Problem]:
    try:
        path.read_bytes()
    except OSError as error:
        yield document.problem(place, f"{path} cannot be read: {error.strerror}")
        return
    yield from _load(
        lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path),
        document.problem(place, f"{path} holds no certificate in PEM form"),
    )


def _load(load: Callable[[], object], problem: Problem) -> Iterator[Problem]:
    try:
        load()
    except (ssl.SSLError, ValueError):
        yield problem


def _unique(document: Document, place: Path, names: Iterable[str]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            yield document.problem((*place, index, "name"), f"'{name}' is already the name of [{seen[name]}]")
        seen.setdefault(name, index)
