"""SECURITY_BAR C1 to C5: nothing slips in before the handshake, and neither side can be talked out of it."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support import pg_bytes as pg
from support.bar import fake_server, statements_of_clients
from support.fake_postgres import Auth, FakePostgres, Fault
from support.figures import record, scaled
from support.proxy import Proxy, running_proxy
from support.raw_client import Left, RawClient, error_texts, errors, logged_in
from support.servers import Database, PostgresServer

from dbproxy.embedded.certificates import CertificateAuthority

pytestmark = pytest.mark.workers(1)


def roomy(settings: dict[str, Any]) -> None:
    settings["limits"] = {
        "max_sessions_per_address": 5000,
        "login_failures": {"per_address": 1_000_000, "per_user": 1_000_000},
    }
    settings["timeouts"] = {"login_s": 5}


@pytest.fixture(scope="module")
def proxy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), postgres, workers=1, change=roomy) as proxy:
        yield proxy


def client_context(proxy: Proxy) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(proxy.ca))


def test_bytes_before_the_handshake_are_never_taken_for_the_clients_own(proxy: Proxy, vault: Database) -> None:
    """C1: a start-up packet and a statement behind SSLRequest, in the same segment and at every later moment."""
    count = scaled(120, 1000)
    before = len(proxy.records("connection.rejected"))
    context = client_context(proxy)
    mark = vault.server.log.mark()
    startup = pg.startup({"user": "alice", "database": vault.name})
    extras = [startup, pg.query("delete from notes"), startup + pg.query("delete from notes"), b"\0", b"\x16\3\1"]
    taken = 0
    early = 0
    for number in range(count):
        rng = Random(number)
        extra = extras[number % len(extras)]
        client = RawClient.open(proxy.host, proxy.port, 5)
        delay = rng.choice((0, 0, 0, 0.0001, 0.0005, 0.002))
        with contextlib.suppress(OSError, Left):
            client.stream.settimeout(0.3)  # some of these bytes make the other side wait for more
            if delay:
                client.send(pg.ssl_request())
                time.sleep(delay)
                client.send(extra)
            else:
                client.send(pg.ssl_request() + extra)
            # Go on as a client whose segment was tampered with would.
            data = client.stream.recv(1)
            if data == b"S":
                early += 1
                secured = context.wrap_socket(client.stream, server_hostname="localhost")
                client.stream = secured
                client.send(startup)
                messages = client.until_kind("RE")
                taken += messages[-1][0] == "R" and extra != b"\0"
        client.close()
    ran = [sql for sql in statements_of_clients(vault, mark) if "delete" in sql]
    assert vault.fetch("select count(*) from notes") == [(20,)]
    rejected = [each for each in proxy.records("connection.rejected")[before:] if each["why"] == "tls"]
    assert rejected
    record(
        "C1",
        "statements run, or handshakes finished, with bytes injected before the handshake",
        count=count,
        failures=taken + len(ran),
        answered_s_before_the_bytes_came=early,
        rejected=len(rejected),
    )


@pytest.fixture(scope="module", params=["require", "verify-full"])
def declined(
    request: pytest.FixtureRequest, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FakePostgres, Proxy, str]]:
    """A scripted server, which each test makes decline TLS in its way, a proxy that wants TLS to it, and how it wants it."""
    folder = tmp_path_factory.mktemp("declined")
    files = CertificateAuthority(folder).issue("fake", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    def change(settings: dict[str, Any]) -> None:
        settings["targets"][0] |= {"host": "localhost", "tls": {"mode": request.param, "ca": str(files.ca)}}
        settings["timeouts"] = {"connect_s": 1, "login_s": 2}

    with (
        fake_server(postgres, auth=Auth.SCRAM, tls=context) as (fake, server),
        running_proxy(folder / "proxy", server, workers=1, change=change) as proxy,
    ):
        yield fake, proxy, request.param


@pytest.mark.parametrize(
    "fault",
    [Fault.TLS_REFUSED, Fault.TLS_ERROR, Fault.TLS_EXTRA_BYTES, Fault.TLS_SILENCE],
    ids=lambda fault: fault.name,
)
def test_server_that_declines_tls_gets_nothing_in_clear(
    declined: tuple[FakePostgres, Proxy, str], fault: Fault
) -> None:
    """C2: no start-up packet in clear, whatever it answers to SSLRequest; it ends within the timeout."""
    fake, proxy, mode = declined
    fake.fault = fault
    failed = len(proxy.records("login.failure"))
    started = time.monotonic()
    with pytest.raises((AssertionError, Left)), logged_in(proxy.address()):
        pass
    taken = time.monotonic() - started
    assert proxy.wait_for_next("login.failure", failed)["person"] == "alice"
    in_clear = [each for each in fake.sessions if not each.is_tls and each.startup]
    assert taken < 10
    record(
        f"C2.{fault.name.lower()}.{mode}",
        "logins in clear to a server that declines TLS",
        count=1,
        failures=len(in_clear),
    )


def test_client_in_clear_is_refused_before_it_is_asked_for_a_password(
    make_proxy: Callable[..., Proxy], vault: Database
) -> None:
    """C3."""

    def change(settings: dict[str, Any]) -> None:
        settings["listeners"][0]["tls"]["mode"] = "require"

    proxy = make_proxy(database=vault.name, change=change)
    client = RawClient.open(proxy.host, proxy.port)
    client.send(pg.startup({"user": "alice", "database": vault.name}))
    messages = client.to_the_end()
    client.close()
    assert errors(messages) == ["28000"]
    assert "TLS" in error_texts(messages)[0]
    with proxy.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    record("C3", "passwords asked for in clear", count=1, failures=sum(kind == "R" for kind, _ in messages))


def subject(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def authority(text: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject(text)).issuer_name(subject(text))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - day * 30).not_valid_after(now + day * 30)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return key, builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())


@dataclass
class Doubtful:
    """A server that shows whatever certificate a test gives it, and a proxy that trusts one authority."""

    folder: Path
    trusted: tuple[ec.EllipticCurvePrivateKey, x509.Certificate]
    fake: FakePostgres = field(init=False)
    proxy: Proxy = field(init=False)

    def show(self, name: str) -> None:
        """From now on its certificate is good, or wrong in one way."""
        signer_key, signer = authority("other") if name == "wrong authority" else self.trusted
        key = ec.generate_private_key(ec.SECP256R1())
        now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
        common = "localhost"
        builder = x509.CertificateBuilder().subject_name(subject(common)).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        expiry = now - day if name == "expired" else now + day * 10
        builder = builder.not_valid_before(now - day * 20).not_valid_after(expiry)
        if name == "self-signed":
            builder, signer_key = builder.issuer_name(subject(common)), key
        else:
            builder = builder.issuer_name(signer.subject)
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key())
            builder = builder.add_extension(identifier, critical=False)
        if name != "name only in CN":
            host = "other.example" if name == "wrong host" else "localhost"
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        certificate = builder.sign(signer_key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        pkcs8, open_ = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path = self.folder / "server.pem"
        path.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, pkcs8, open_))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        self.fake.tls = context


@pytest.fixture(scope="module")
def doubtful(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doubtful]:
    found = Doubtful(tmp_path_factory.mktemp("doubtful"), authority("trusted"))
    ca = found.folder / "trusted.pem"
    ca.write_bytes(found.trusted[1].public_bytes(serialization.Encoding.PEM))

    def change(settings: dict[str, Any]) -> None:
        settings["targets"][0] |= {"host": "localhost", "tls": {"mode": "verify-full", "ca": str(ca)}}

    with (
        fake_server(postgres, auth=Auth.SCRAM) as (found.fake, server),
        running_proxy(found.folder / "proxy", server, workers=1, change=change) as found.proxy,
    ):
        yield found


REASONS = {
    "wrong host": "certificate_wrong_host",
    "expired": "certificate_expired",
    "self-signed": "certificate_self_signed",
    "wrong authority": "certificate_unknown_authority",
    "name only in CN": "certificate_name_only_in_cn",
}


@pytest.mark.parametrize("name", ["good", *REASONS])
def test_server_whose_certificate_is_wrong_is_not_logged_in_to(doubtful: Doubtful, name: str) -> None:
    """C4: under verify-full, each with a reason of its own in the event."""
    proxy = doubtful.proxy
    failed, before = len(proxy.records("login.failure")), len(doubtful.fake.sessions)
    doubtful.show(name)
    if name == "good":
        with logged_in(proxy.address()):
            return
    with pytest.raises(AssertionError), logged_in(proxy.address()):
        pass
    event = proxy.wait_for_next("login.failure", failed)
    reached = len(doubtful.fake.sessions) - before
    record(
        f"C4.{name.replace(' ', '_')}",
        "start-up packets sent to an unproven server, or the event names another reason",
        count=1,
        failures=reached + (event.get("reason") != REASONS[name]),
        reason=event.get("reason"),
    )


def test_channel_binding_works_through_the_proxy_and_is_never_dropped_silently(proxy: Proxy, vault: Database) -> None:
    """C5: bound to the proxy's own certificate; a client that could and did not say so is refused as downgraded."""
    with proxy.connect(channel_binding="require") as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    failures = 0
    with (
        pytest.raises(psycopg.OperationalError, match="channel binding"),
        proxy.connect(channel_binding="require", sslmode="disable"),
    ):
        pass
    # "y": the client could bind but saw no -PLUS offered. Over TLS the proxy did offer it: somebody took it away.
    for first, is_refused in ((b"y,,n=,r=abcdefghijklmnop", True), (b"n,,n=,r=abcdefghijklmnop", False)):
        client = RawClient.open(proxy.host, proxy.port)
        client.secure(client_context(proxy))
        client.send(pg.startup({"user": "alice", "database": vault.name}))
        offered = client.until_kind("R")[-1][1]
        assert b"SCRAM-SHA-256-PLUS" in offered
        client.send(pg.sasl_initial("SCRAM-SHA-256", first))
        failures += (client.until_kind("RE")[-1][0] == "E") != is_refused
        client.close()
    record("C5", "channel bindings dropped silently", count=3, failures=failures)


def test_tls_inside_tls_and_repeated_requests_are_refused(proxy: Proxy) -> None:
    """C1: one request of each kind, and none inside TLS."""
    for frames in ([pg.gssenc_request(), pg.gssenc_request()],):
        client = RawClient.open(proxy.host, proxy.port)
        client.send(frames[0])
        assert client.stream.recv(1) == b"N"
        client.send(frames[1])
        assert client.stream.recv(1) == b""
        client.close()
    client = RawClient.open(proxy.host, proxy.port)
    client.secure(client_context(proxy))
    client.send(pg.ssl_request())
    with contextlib.suppress(ssl.SSLError, socket.timeout):
        assert client.stream.recv(1) in (b"", b"N")
    client.close()
