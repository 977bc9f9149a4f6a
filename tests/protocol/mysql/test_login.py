"""A whole login on scripted bytes, both legs: who proves what to whom, and what never leaves."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import pytest
from support import my_bytes as my
from support.login_driver import LoginDriver

from protocol.contract import Refusal, Side, Why
from protocol.errors import MalformedMessage, MessageTooLarge, ProtocolError, UnexpectedMessage, UnsupportedFeature
from protocol.login import (
    Authenticate,
    Identify,
    IssuedKey,
    LoginRefused,
    OpenServer,
    ServerAccess,
    ServerReady,
    UseExchange,
    UsePassword,
)
from protocol.mysql.client_login import LoginOptions, Profile
from protocol.mysql.login import login
from protocol.mysql.proofs import native_proof
from protocol.mysql.server_login import DOWNGRADE, UNVERIFIED, ProfileChanged, read_profile
from protocol.native import NativeExchange, build_native_verifier
from protocol.sha2 import Sha2Exchange, build_sha2_verifier, fast_proof

CONNECT_WITH_DB, SSL, SECURE, PLUGIN_AUTH, ATTRS, LENENC = 8, 1 << 11, 1 << 15, 1 << 19, 1 << 20, 1 << 21
COMPRESS, ZSTD = 1 << 5, 1 << 26
BASE = 1 | my.PROTOCOL_41 | SECURE | PLUGIN_AUTH | LENENC
SERVER_CAPS = (
    BASE | SSL | CONNECT_WITH_DB | ATTRS | my.SESSION_TRACK | my.DEPRECATE_EOF | COMPRESS | ZSTD | my.LOCAL_FILES
)
VERSION = "8.4.0"
PROFILE = Profile(VERSION, SERVER_CAPS, 255)
SERVER_NONCE = bytes(range(60, 80))
PASSWORD = b"alice-pw"
SECRET = b"account-secret"


class Keys:
    def __init__(self) -> None:
        self.kept: dict[Any, bytes] = {}

    def find(self, verifier: Any) -> bytes | None:
        return self.kept.get(verifier)

    def keep(self, verifier: Any, key: bytes) -> None:
        self.kept[verifier] = key


@dataclass
class Person:
    person: str = "alice"
    server_user: str = "app"
    database: str = "shop"


def response(
    proof: bytes = b"",
    *,
    caps: int = BASE,
    user: str = "alice",
    database: str = "",
    plugin: str = "caching_sha2_password",
) -> bytes:
    caps |= CONNECT_WITH_DB if database else 0
    body = struct.pack("<IIB", caps & 0xFFFFFFFF, 1 << 24, 255) + b"\0" * 19 + struct.pack("<I", caps >> 32)
    body += user.encode() + b"\0" + my.string(proof)
    body += (database.encode() + b"\0" if database else b"") + (plugin.encode() + b"\0" if caps & PLUGIN_AUTH else b"")
    if caps & ATTRS:
        body += my.string(my.string("program_name") + my.string("mysql") + my.string("_pid") + my.string("5"))
    return body


def greeting(*, caps: int = SERVER_CAPS, plugin: str = "caching_sha2_password", version: str = VERSION) -> bytes:
    head = b"\x0a" + version.encode() + b"\0" + struct.pack("<I", 41) + SERVER_NONCE[:8] + b"\0"
    middle = struct.pack("<HBHHB", caps & 0xFFFF, 255, 2, caps >> 16 & 0xFFFF, 21) + b"\0" * 6
    extension = b"\0" * 4 if caps & 1 else struct.pack("<I", caps >> 32)
    return my.frame(head + middle + extension + SERVER_NONCE[8:] + b"\0" + plugin.encode() + b"\0")


class Script:
    """Plays both peers. server: the payloads the server sends after the greeting, one after each packet of the proxy."""

    def __init__(
        self,
        *,
        has_tls: bool = True,
        listener_tls: Any = "allow",
        target_tls: str = "verify-full",
        allowed: frozenset[str] = frozenset({"caching_sha2_password"}),
        caps: int = BASE,
        password: bytes = PASSWORD,
        server: tuple[bytes, ...] = (b"\1\3", my.ok()),
        server_greeting: bytes = b"",
        is_personal: bool = False,
        keys: Keys | None = None,
        native: bool = False,
        knows_native_only: bool = False,
        **more: Any,
    ) -> None:
        self.keys = keys or Keys()
        self.has_tls = has_tls
        self.caps = caps | (SSL if has_tls else 0)
        self.password = password
        self.server_payloads = list(server)
        self.more = more
        self.client_packets: list[bytes] = []
        self.relays: list[Any] = []
        self.profiles: list[Profile] = []
        self.is_eager = True  # makes a proof from the greeting's nonce
        self.nonce = b""
        self.proof = native_proof if knows_native_only else fast_proof
        exchange: Any = Sha2Exchange(build_sha2_verifier(PASSWORD, b"r" * 20), self.keys, is_doomed=False)
        if knows_native_only and native:
            exchange = NativeExchange(build_native_verifier(PASSWORD), is_doomed=False)
        self.exchange = exchange
        access = ServerAccess("app", "shop", target_tls, allowed, 1, password=SECRET, is_personal=is_personal)

        def authenticate(step: Authenticate) -> Any:
            self.typed = step.password
            if is_personal or exchange.verified:
                return Person()
            return LoginRefused(Refusal(Why.LOGIN, ""), "wrong password")

        self.driver = LoginDriver(
            server=server_greeting or greeting(),
            answers={
                Identify: UsePassword() if is_personal else UseExchange(exchange),
                Authenticate: authenticate,
                OpenServer: access,
                ServerReady: IssuedKey(b""),
            },
            reply=self._reply,
        )
        self.options = LoginOptions(
            random_bytes=bytes, next_id=lambda: 0x80000005, tls=listener_tls, allow_native=native
        )

    def run(self, profile: Profile | None = PROFILE) -> Any:
        steps = login(
            self.options,
            "shop",
            lambda: profile,
            self.profiles.append,
            lambda authorization, claim, session: self.relays.append((authorization, claim, session)) or "relay",
        )
        return self.driver.run(steps)

    def _reply(self, side: Side, data: bytes) -> bytes:
        sequence, payload = my.split(data)[-1]
        if side is Side.SERVER:
            if payload[4:] and len(payload) == 32:
                return b""  # SSLRequest
            payload = self.server_payloads.pop(0)
            return my.frame(payload, sequence + 1) + (self._more_server(sequence + 1) if payload == b"\1\3" else b"")
        self.client_packets.append(payload)
        return self._client(sequence, payload)

    def _more_server(self, sequence: int) -> bytes:
        """A fast proof's success is followed by OK without being asked."""
        if self.server_payloads and self.server_payloads[0][:1] == b"\0":
            return my.frame(self.server_payloads.pop(0), sequence + 1)
        return b""

    def _client(self, sequence: int, payload: bytes) -> bytes:
        if payload[:1] == b"\x0a":
            at = payload.index(b"\0") + 5
            self.nonce = payload[at : at + 8] + payload[at + 27 : at + 39]
            self.offered = int.from_bytes(payload[at + 9 : at + 11] + payload[at + 14 : at + 16], "little")
            proof = self.proof(self.password, self.nonce) if self.is_eager else b""
            whole = response(proof, caps=self.caps, **self.more)
            if self.has_tls:
                return my.frame(whole[:32], 1) + my.frame(whole, 2)
            return my.frame(whole, 1)
        if payload == b"\1\4":
            return my.frame(self.password + b"\0", sequence + 1)
        if payload[:1] == b"\xfe":
            return my.frame(self.proof(self.password, self.nonce), sequence + 1)
        return b""

    @property
    def sent(self) -> bytes:
        return bytes(self.driver.sent[Side.SERVER])

    def told(self) -> bytes:
        return self.client_packets[-1]


def test_full_proof_inside_tls_and_then_the_servers_own_ok() -> None:
    script = Script(caps=BASE | ATTRS, database="shop")
    script.run()
    assert script.driver.names() == [
        "StartTLS",
        "Identify",
        "Authenticate",
        "OpenServer",
        "StartTLS",
        "ServerReady",
        "Ready",
    ]
    assert script.told() == my.ok()
    identify = next(step for step in script.driver.steps if isinstance(step, Identify))
    assert identify.startup.login == "alice"
    assert identify.startup.database == "shop"
    assert dict(identify.startup.parameters) == {"application_name": "mysql"}
    packets = my.split(script.sent)
    assert [sequence for sequence, _ in packets] == [1, 2]
    assert SECRET not in script.sent
    assert fast_proof(SECRET, SERVER_NONCE) in script.sent
    assert b"app\0" in packets[1][1]
    assert b"shop\0" in packets[1][1]
    assert my.string("program_name") in packets[1][1]


def test_the_second_login_is_fast() -> None:
    keys = Keys()
    Script(keys=keys).run()
    keys.kept = {build_sha2_verifier(PASSWORD, b"r" * 20): next(iter(keys.kept.values()))}
    script = Script(keys=keys)
    script.run()
    assert script.client_packets[1:] == [b"\1\3", my.ok()]


def test_a_wrong_password_is_access_denied_and_nothing_is_dialled() -> None:
    script = Script(password=b"wrong")
    with pytest.raises(LoginRefused):
        script.run()
    assert script.told() == b"\xff\x15\x04#28000Access denied for user 'alice' (using password: YES)"
    assert "OpenServer" not in script.driver.names()


def test_an_empty_password_is_access_denied() -> None:
    script = Script(password=b"")
    with pytest.raises(LoginRefused):
        script.run()
    assert script.told().startswith(b"\xff\x15\x04")


@pytest.mark.parametrize(
    "plugin", ["mysql_native_password", "mysql_clear_password", "mysql_old_password", "dialog", ""]
)
def test_other_plugins_are_switched_to_the_one_that_is_offered(plugin: str) -> None:
    script = Script(plugin=plugin)
    script.run()
    assert script.client_packets[1] == b"\xfecaching_sha2_password\0" + script.nonce + b"\0"
    assert script.told() == my.ok()


def test_a_client_without_plugins_is_refused() -> None:
    script = Script(caps=BASE & ~PLUGIN_AUTH)
    with pytest.raises(LoginRefused):
        script.run()
    assert script.told().startswith(b"\xff\xe3\x04")


NATIVE = {"native": True, "knows_native_only": True}


@pytest.mark.parametrize("is_eager", [True, False])
def test_where_it_is_allowed_a_client_that_names_the_native_method_proves_by_it(is_eager: bool) -> None:
    script = Script(**NATIVE, plugin="mysql_native_password", database="shop")
    script.is_eager = is_eager
    script.run()
    switch = b"\xfemysql_native_password\0" + script.nonce + b"\0"
    assert script.client_packets[1:] == ([] if is_eager else [switch]) + [my.ok()]
    identify = next(step for step in script.driver.steps if isinstance(step, Identify))
    assert identify.mechanism == "mysql_native_password"


def test_where_it_is_allowed_a_client_older_than_plugins_gets_in() -> None:
    script = Script(**NATIVE, caps=BASE & ~PLUGIN_AUTH)
    script.run()
    assert script.client_packets[1:] == [my.ok()]


@pytest.mark.parametrize("is_eager", [True, False])
@pytest.mark.parametrize("password", [b"wrong", b""])
def test_a_wrong_native_proof_reads_like_any_other(password: bytes, is_eager: bool) -> None:
    script = Script(**NATIVE, plugin="mysql_native_password", password=password)
    script.is_eager = is_eager
    with pytest.raises(LoginRefused):
        script.run()
    assert script.told() == b"\xff\x15\x04#28000Access denied for user 'alice' (using password: YES)"
    assert "Authenticate" in script.driver.names()
    assert "OpenServer" not in script.driver.names()


@pytest.mark.parametrize("plugin", ["caching_sha2_password", "mysql_clear_password", "mysql_old_password", "dialog"])
def test_where_it_is_allowed_nobody_is_led_to_it(plugin: str) -> None:
    script = Script(native=True, plugin=plugin)
    script.run()
    assert not any(b"mysql_native_password" in packet for packet in script.client_packets)
    identify = next(step for step in script.driver.steps if isinstance(step, Identify))
    assert identify.mechanism == "caching_sha2_password"


def test_without_tls_the_password_is_not_asked_for_in_clear() -> None:
    script = Script(has_tls=False)
    with pytest.raises(LoginRefused):
        script.run()
    assert b"\1\4" not in script.client_packets
    assert b"inside TLS only" in script.told()


def test_where_tls_is_required_a_plain_client_is_refused_before_it_proves_anything() -> None:
    script = Script(has_tls=False, listener_tls="require")
    with pytest.raises(LoginRefused):
        script.run()
    assert script.told().startswith(b"\xff" + struct.pack("<H", 3159))
    assert script.driver.names() == []


def test_tls_is_not_offered_where_there_is_none() -> None:
    script = Script(listener_tls="disable")
    with pytest.raises(UnsupportedFeature):
        script.run()
    assert not script.offered & SSL


def test_what_is_not_decoded_is_neither_offered_nor_agreed() -> None:
    wanted = BASE | my.SESSION_TRACK | my.LOCAL_FILES | my.QUERY_ATTRIBUTES | 1 << 28 | 1 << 29
    script = Script(caps=wanted)
    script.run()
    assert not script.offered & (COMPRESS | ZSTD | my.LOCAL_FILES | 1 << 28)
    agreed = script.relays[0][1].capabilities
    assert agreed & my.SESSION_TRACK
    assert not agreed & (my.LOCAL_FILES | my.QUERY_ATTRIBUTES | 1 << 28 | 1 << 29)
    sent = int.from_bytes(my.split(script.sent)[1][1][:4], "little")
    assert not sent & (COMPRESS | ZSTD | my.LOCAL_FILES | my.QUERY_ATTRIBUTES | my.DEPRECATE_EOF | 1 << 28)


@pytest.mark.parametrize("flag", [COMPRESS, ZSTD])
def test_a_client_that_compresses_unasked_is_refused(flag: int) -> None:
    with pytest.raises(UnsupportedFeature):
        Script(caps=BASE | flag).run()


def test_local_files_are_offered_where_they_are_allowed() -> None:
    script = Script(caps=BASE | my.LOCAL_FILES)
    script.options = LoginOptions(random_bytes=bytes, next_id=lambda: 1, tls="allow", allow_local_files=True)
    script.run()
    assert script.relays[0][1].capabilities & my.LOCAL_FILES


def test_mariadbs_extension_passes_both_ways() -> None:
    caps = (SERVER_CAPS | my.BULK | my.CACHE_METADATA | 1 << 33) & ~1
    script = Script(caps=(BASE | my.BULK | 1 << 33) & ~1, server_greeting=greeting(caps=caps))
    with pytest.raises(UnsupportedFeature):  # COM_MULTI
        script.run(Profile(VERSION, caps, 255))
    script = Script(caps=(BASE | my.BULK) & ~1, server_greeting=greeting(caps=caps))
    script.run(Profile(VERSION, caps, 255))
    assert script.relays[0][1].capabilities & my.BULK
    assert my.split(script.sent)[1][1][28:32] == struct.pack("<I", my.BULK >> 32)


def test_a_target_that_never_answered_is_said_to_be_unknown() -> None:
    script = Script()
    with pytest.raises(LoginRefused):
        script.run(None)
    assert b'the database "shop" has not answered yet' in script.told()


def test_another_server_than_the_one_shown_ends_the_login_and_is_shown_next() -> None:
    script = Script(server_greeting=greeting(version="9.0.0"))
    with pytest.raises(ProfileChanged):
        script.run()
    assert b"Connect again" in script.told()
    assert script.profiles == [Profile("9.0.0", SERVER_CAPS, 255)]
    assert script.sent == b""


# ------------------------------------------------------------------------------------------------ the proxy as a client


def test_the_upstream_password_goes_to_the_server_only() -> None:
    script = Script(is_personal=True)
    script.run()
    assert script.typed == PASSWORD
    script = Script(is_personal=True, has_tls=False)
    with pytest.raises(LoginRefused):
        script.run()
    assert b"inside TLS only" in script.told()


def native(nonce: bytes) -> bytes:
    once = hashlib.sha1(SECRET).digest()
    mask = hashlib.sha1(nonce + hashlib.sha1(once).digest()).digest()
    return bytes(a ^ b for a, b in zip(once, mask, strict=True))


def switch(plugin: str, nonce: bytes = SERVER_NONCE[::-1]) -> bytes:
    return b"\xfe" + plugin.encode() + b"\0" + nonce + b"\0"


def test_an_allowed_switch_is_answered_with_the_new_nonce() -> None:
    both = frozenset({"caching_sha2_password", "mysql_native_password"})
    script = Script(allowed=both, server=(switch("mysql_native_password"), my.ok()))
    script.run()
    assert my.split(script.sent)[-1] == (4, native(SERVER_NONCE[::-1]))


def test_a_plugin_that_is_not_allowed_is_not_wished_for_either() -> None:
    script = Script(allowed=frozenset({"mysql_native_password"}), server=(switch("mysql_native_password"), my.ok()))
    script.run()
    assert b"mysql_native_password\0" in my.split(script.sent)[1][1]
    assert fast_proof(SECRET, SERVER_NONCE) not in script.sent


@pytest.mark.parametrize(
    "payload",
    [
        switch("mysql_clear_password"),
        switch("mysql_native_password"),
        switch("sha256_password"),
        switch("dialog"),
        switch("unheard_of"),
        b"\xfe",
        b"\1\2",
        b"\1-----BEGIN PUBLIC KEY-----",
        b"\2next factor",
    ],
)
def test_a_weaker_demand_ends_the_login_and_the_secret_stays(payload: bytes) -> None:
    script = Script(server=(payload, my.ok()))
    with pytest.raises(LoginRefused) as caught:
        script.run()
    assert caught.value.event == DOWNGRADE
    assert SECRET not in script.sent
    assert len(my.split(script.sent)) == 2
    assert b"not allowed for this target" in script.told()


def test_the_full_proof_is_given_inside_tls() -> None:
    script = Script(server=(b"\1\4", my.ok()))
    script.run()
    assert my.split(script.sent)[-1] == (4, SECRET + b"\0")


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_without_tls_the_full_proof_is_not_given(mode: str) -> None:
    plain = SERVER_CAPS & ~SSL
    script = Script(target_tls=mode, server=(b"\1\4", my.ok()), server_greeting=greeting(caps=plain))
    with pytest.raises(LoginRefused) as caught:
        script.run(Profile(VERSION, plain, 255))
    assert caught.value.event == DOWNGRADE
    assert SECRET not in script.sent


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_server_without_tls_gets_nothing_where_tls_is_demanded(mode: str) -> None:
    plain = SERVER_CAPS & ~SSL
    script = Script(target_tls=mode, server_greeting=greeting(caps=plain))
    with pytest.raises(LoginRefused) as caught:
        script.run(Profile(VERSION, plain, 255))
    assert caught.value.event == UNVERIFIED
    assert script.sent == b""


def test_the_accounts_refusal_is_not_the_persons() -> None:
    script = Script(server=(my.err(1045, "Access denied for user 'app'@'10.0.0.1'", "28000"),))
    with pytest.raises(LoginRefused):
        script.run()
    assert b"10.0.0.1" not in script.told()
    assert b'could not log in to the database with the account "app"' in script.told()


def test_the_persons_own_refusal_reads_like_any_wrong_password() -> None:
    script = Script(is_personal=True, server=(my.err(1045, "Access denied for 'app'", "28000"),))
    with pytest.raises(LoginRefused):
        script.run()
    assert script.told() == b"\xff\x15\x04#28000Access denied for user 'alice' (using password: YES)"


def test_other_refusals_are_in_the_servers_words() -> None:
    script = Script(server=(my.err(1049, "Unknown database 'shop'"),))
    with pytest.raises(LoginRefused):
        script.run()
    assert script.told() == my.err(1049, "Unknown database 'shop'")


# ------------------------------------------------------------------------------------------------ broken peers


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (my.frame(response(), 0), UnexpectedMessage),
        (my.frame(response(), 2), UnexpectedMessage),
        (my.frame(b"", 1), MalformedMessage),
        (my.frame(b"x" * 20, 1), MalformedMessage),
        (my.frame(response(caps=BASE & ~my.PROTOCOL_41), 1), MalformedMessage),
        (my.frame(response()[:36], 1), MalformedMessage),
        (my.frame(b"x", 1, length=my.BIG), MessageTooLarge),
        (my.frame(response(b"x" * 32)[:32] + b"a\0\xfe" + b"\xff" * 8, 1), MalformedMessage),
        (my.query("drop table x"), UnexpectedMessage),
        (my.command(1), UnexpectedMessage),
    ],
)
def test_what_is_no_response_ends_the_login(data: bytes, fault: type[ProtocolError]) -> None:
    script = Script(has_tls=False)
    script._client = lambda sequence, payload: data if payload[:1] == b"\x0a" else b""  # type: ignore[method-assign]  # another client
    with pytest.raises(fault):
        script.run()
    assert script.driver.names() == []


@pytest.mark.parametrize(
    "data",
    [
        my.frame(b"\x09old\0"),
        my.frame(b""),
        greeting()[:30],
        my.frame(b"\x0a8.0\0short"),
        greeting(caps=SERVER_CAPS & ~my.PROTOCOL_41),
        greeting().replace(b"\0\0\0\0", b"", 1),
        b"\1\0\0\5\x0a",
    ],
)
def test_what_is_no_greeting_ends_the_login(data: bytes) -> None:
    script = Script(server_greeting=data)
    with pytest.raises((ProtocolError, LoginRefused)):
        script.run()
    assert script.sent == b""


def test_a_server_that_refuses_at_once_is_quoted() -> None:
    script = Script(server_greeting=my.frame(my.err(1129, "Host is blocked", "HY000")))
    with pytest.raises(LoginRefused):
        script.run()
    assert b"Host is blocked" in script.told()


def test_a_login_that_does_not_end_is_ended() -> None:
    script = Script(server=(b"\1\3",) * 40)
    script._more_server = lambda sequence: b"".join(my.frame(b"\1\3", sequence + step) for step in range(1, 40))  # type: ignore[method-assign]  # another server
    with pytest.raises(UnexpectedMessage):
        script.run()


def test_a_probe_reads_the_greeting_and_says_nothing() -> None:
    driver = LoginDriver(server=greeting())
    assert driver.run(read_profile()) == PROFILE
    assert driver.sent[Side.SERVER] == b""


def test_ed25519_proof_is_that_of_mariadb() -> None:
    from protocol.mysql.proofs import ed25519_proof

    # With 32 bytes as the password it is plain Ed25519, RFC 8032 section 7.1, test 2.
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    signature = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    assert ed25519_proof(seed, b"\x72").hex() == signature
