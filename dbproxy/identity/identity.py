"""Lets people in: finds the person behind a login name, runs the proof, chooses the account.

One Identity serves all listeners, one Attempt serves one connection. Whatever is wrong with a login, unknown, disabled or
expired person, wrong password, too many tries: the client gets the same words, and with SCRAM the same messages.
Counterpart: protocol/login.py, whose steps Identify and Authenticate the driver answers with an Attempt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from config.settings import Auth, Target
from config.users import Person, Users
from dbproxy.clock import Clock
from dbproxy.errors import DbproxyError
from dbproxy.identity.authorization import Authorization
from dbproxy.identity.fast_keys import MemoryFastKeys
from dbproxy.identity.names import canonical, fits_server, is_same_login, split_login
from protocol.contract import Refusal, Why
from protocol.login import LoginRefused, Startup, TLSInfo, UseExchange, UsePassword
from protocol.native import NATIVE, NativeExchange, NativeVerifier, mock_native_verifier, parse_native_verifier
from protocol.scram import MIN_ITERATIONS, SCRAM, ServerExchange, Verifier, mock_verifier, parse_verifier
from protocol.sha2 import CACHING_SHA2, Sha2Exchange, Sha2Verifier, mock_sha2_verifier, parse_sha2_verifier

FAILED = "login_failed"
ACCOUNT_REFUSED = "account_refused"


class UsersError(DbproxyError):
    """The users file cannot be used; the text says why."""


class People:
    """The users file as an index, immutable. Raises UsersError if two entries are one person in canonical form."""

    def __init__(self, users: Users) -> None:
        self._people: dict[str, Person] = {}
        self._verifiers: dict[str, Verifier] = {}
        self._sha2_verifiers: dict[str, Sha2Verifier] = {}
        self._native_verifiers: dict[str, NativeVerifier] = {}
        for person in users.people:
            key = canonical(person.name)
            if key in self._people:
                other = self._people[key].name
                raise UsersError(f'the names "{other}" and "{person.name}" cannot be told apart')
            self._people[key] = person
            if person.verifier is not None:
                self._verifiers[key] = parse_verifier(person.verifier)
            if person.sha2_verifier is not None:
                self._sha2_verifiers[key] = parse_sha2_verifier(person.sha2_verifier)
            if person.native_verifier is not None:
                self._native_verifiers[key] = parse_native_verifier(person.native_verifier)
        counts = Counter(verifier.iterations for verifier in self._verifiers.values())
        self.usual_iterations = counts.most_common(1)[0][0] if counts else MIN_ITERATIONS
        """What a made-up verifier shows, so that it looks like most real ones."""

    def find(self, key: str) -> Person | None:
        """The person of that canonical name."""
        return self._people.get(key)

    def find_verifier(self, key: str) -> Verifier | None:
        return self._verifiers.get(key)

    def find_sha2_verifier(self, key: str) -> Sha2Verifier | None:
        return self._sha2_verifiers.get(key)

    def find_native_verifier(self, key: str) -> NativeVerifier | None:
        return self._native_verifiers.get(key)


class Identity:
    """The people of the whole proxy. How often they may fail is counted in admission.py.

    mock_secret: random, kept as long as possible: it decides the salt that unknown people are shown.
    random_bytes: a source of nonces, such as secrets.token_bytes.
    """

    def __init__(
        self,
        auth: Auth,
        users: Users,
        clock: Clock,
        mock_secret: bytes,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.auth = auth
        self.people = People(users)
        self.clock = clock
        self.mock_secret = mock_secret
        self.random_bytes = random_bytes
        self.fast_keys = MemoryFastKeys()

    def reload(self, users: Users) -> None:
        """Take a new users file for logins from now on. Raises UsersError and keeps the old one if it cannot be used."""
        self.people = People(users)

    def attempt(self, target: Target, address: str) -> Attempt:
        """Begin a login. address: the client's IP address, without port."""
        return Attempt(self, target, address)

    def objection(self, authorization: Authorization) -> str:
        """Why a session may not go on: "removed", "disabled", "expired" or "account"; "" if it may. For reload and expiry."""
        person = self.people.find(authorization.canonical)
        if person is None:
            return "removed" if self.auth is Auth.LOCAL else ""
        if objection := self.objection_to(person):
            return objection
        is_account_gone = authorization.account is not None and not _may_use(person, authorization)
        return "account" if is_account_gone else ""

    def objection_to(self, person: Person) -> str:
        """Why this person may not log in: "disabled" or "expired"; "" if they may."""
        if person.disabled:
            return "disabled"
        if person.expires is not None and self.clock.wall_ns() >= int(person.expires.timestamp()) * 1_000_000_000:
            return "expired"
        return ""


def _may_use(person: Person, authorization: Authorization) -> bool:
    if person.accounts is None:
        return True  # the target's default account, which only new settings change
    return authorization.account in person.accounts.get(authorization.target, ())


class Attempt:
    """One connection's login. Call identify, then authenticate, once each."""

    def __init__(self, identity: Identity, target: Target, address: str) -> None:
        self._identity = identity
        self._target = target
        self._address = address
        self._exchange: ServerExchange | Sha2Exchange | NativeExchange | None = None
        self._name = ""
        self._account: str | None = None
        self._is_identified = False

    @property
    def is_settled_here(self) -> bool:
        """Authenticate says whether the proof is right; with `auth: upstream` the server will."""
        return self._identity.auth is Auth.LOCAL

    def name_of(self, startup: Startup) -> str:
        """Whose login this is, in canonical form: what failures are counted under, whether there is such a person or not."""
        name, self._account = split_login(startup.login) if self.is_settled_here else (startup.login, None)
        self._name = canonical(name)
        return self._name

    def identify(self, startup: Startup, tls: TLSInfo | None, mechanism: str = SCRAM) -> UseExchange | UsePassword:
        """How this person is to prove who it is."""
        self.name_of(startup)
        self._is_identified = True
        if not self.is_settled_here:
            return UsePassword()
        people = self._identity.people
        person = people.find(self._name)
        if mechanism == CACHING_SHA2:
            sha2 = people.find_sha2_verifier(self._name)
            is_known = person is not None and sha2 is not None and not self._identity.objection_to(person)
            unknown = mock_sha2_verifier(self._identity.mock_secret, self._name)
            self._exchange = Sha2Exchange(sha2 or unknown, self._identity.fast_keys, is_doomed=not is_known)
            return UseExchange(self._exchange)
        if mechanism == NATIVE:
            native = people.find_native_verifier(self._name)
            is_known = person is not None and native is not None and not self._identity.objection_to(person)
            nobodys = mock_native_verifier(self._identity.mock_secret, self._name)
            self._exchange = NativeExchange(native or nobodys, is_doomed=not is_known)
            return UseExchange(self._exchange)
        verifier = people.find_verifier(self._name)
        is_welcome = person is not None and verifier is not None and not self._identity.objection_to(person)
        # Made for everybody, so that it takes no longer for people who do not exist.
        made_up = mock_verifier(self._identity.mock_secret, self._name, people.usual_iterations)
        shown = verifier or made_up
        end_point = tls.end_point if tls else b""
        self._exchange = ServerExchange(shown, self._identity.random_bytes(18), end_point, is_doomed=not is_welcome)
        return UseExchange(self._exchange)

    def authenticate(self, startup: Startup, password: bytes | None = None) -> Authorization:
        """The Authorization, if the person proved it. Raises LoginRefused otherwise.

        password: only with UsePassword; whether it is right, the server will say.
        """
        person = self._identity.people.find(self._name)
        if not self._is_identified:
            raise _failed("authenticate before identify")
        self._is_identified = False  # one proof, one answer
        if self._identity.auth is Auth.UPSTREAM:
            return self._authorize_role(startup, person, password)
        if person is None:
            raise _failed("unknown person")
        # Asked again: the users file may have changed since identify.
        if objection := self._identity.objection_to(person):
            raise _failed(objection)
        if self._exchange is None or not self._exchange.verified:
            stored = person.verifier
            if isinstance(self._exchange, Sha2Exchange):
                stored = person.sha2_verifier
            elif isinstance(self._exchange, NativeExchange):
                stored = person.native_verifier
            raise _failed("wrong password" if stored is not None else "the person has no verifier of this method")
        return self._authorize_account(startup, person)

    def _authorize_role(self, startup: Startup, person: Person | None, password: bytes | None) -> Authorization:
        if person is not None and (objection := self._identity.objection_to(person)):
            raise _failed(objection)
        if not password or not fits_server(startup.login):
            raise _failed("no password, or a name that no role has")
        login = startup.login
        return Authorization(
            person=person.name if person else login,
            canonical=self._name,
            login=login,
            groups=person.groups if person else (),
            target=self._target.name,
            account=None,
            server_user=login,
            database=self._database(startup, login),
            address=self._address,
            password=password,
        )

    def _authorize_account(self, startup: Startup, person: Person) -> Authorization:
        target = self._target
        name = person.account_for(target.name, target.default_account, self._account)
        account = next((account for account in target.accounts if account.name == name), None)
        if account is None:
            wanted = f'the account "{self._account}"' if self._account is not None else "any account"
            text = f'user "{person.name}" may not use {wanted} of this database server'
            hint = 'Log in as "person+account".' if self._account is None else ""
            raise LoginRefused(Refusal(Why.LOGIN, text, hint=hint), text, ACCOUNT_REFUSED)
        return Authorization(
            person=person.name,
            canonical=self._name,
            login=startup.login,
            groups=person.groups,
            target=target.name,
            account=account.name,
            server_user=account.user,
            database=self._database(startup, account.user),
            address=self._address,
        )

    def _database(self, startup: Startup, server_user: str) -> str:
        """The database to open. Clients that name none send none, or their login name, as libpq does."""
        asked = startup.database
        if asked is None or is_same_login(asked, startup.login):
            return self._target.database or (server_user if startup.needs_database else "")
        if not fits_server(asked):
            raise LoginRefused(Refusal(Why.LOGIN, "the database name is too long"))
        return asked


def _failed(reason: str) -> LoginRefused:
    return LoginRefused(Refusal(Why.LOGIN, ""), reason, FAILED)
