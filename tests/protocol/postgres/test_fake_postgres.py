"""The fake server and the raw client of the test kit can talk to each other: the other tests lean on them."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from scramp import ScramException
from support import pg_bytes as pg
from support.fake_postgres import Auth, FakePostgres, Fault, LoginError, raw_client


@pytest.mark.parametrize("auth", list(Auth))
def test_every_way_to_log_in_works(auth: Auth) -> None:
    async def run() -> None:
        async with FakePostgres(auth=auth, password="pässword") as server:
            async with raw_client(server.port, "alice", "pässword", "shop") as client:
                assert client.process_id == 4242
                assert client.parameters["server_version"] == "18.0"
                assert [kind for kind, _ in await client.ask(pg.query("rows3 1"))] == list("TDDDCZ")
            assert server.sessions[0].startup["user"] == "alice"
            assert server.errors == []

    asyncio.run(run())


@pytest.mark.parametrize("auth", [Auth.CLEARTEXT, Auth.MD5, Auth.SCRAM])
def test_wrong_password_is_refused(auth: Auth) -> None:
    async def run() -> None:
        async with FakePostgres(auth=auth) as server:
            with pytest.raises(LoginError, match="28P01"):
                async with raw_client(server.port, "alice", "wrong"):
                    pass
            assert not server.sessions[0].is_ready

    asyncio.run(run())


@pytest.mark.parametrize("fault", [Fault.WRONG_SIGNATURE, Fault.NO_FINAL, Fault.OTHER_NONCE])
def test_a_lying_server_is_found_out_by_the_oracle(fault: Fault) -> None:
    async def run() -> None:
        async with FakePostgres(auth=Auth.SCRAM, fault=fault) as server:
            with pytest.raises((ScramException, LoginError, ValueError)):
                async with raw_client(server.port, "alice", "secret"):
                    pass

    asyncio.run(run())


def test_tls_works_and_its_faults_show(tmp_path: Path) -> None:
    async def run() -> None:
        server_context, client_context = _contexts(tmp_path)
        async with FakePostgres(auth=Auth.SCRAM, tls=server_context) as server:
            async with raw_client(server.port, "alice", "secret", tls=client_context) as client:
                assert pg.ready() == pg.frame(*(await client.ask(pg.sync()))[-1])
            assert server.sessions[0].is_tls
        for fault in (Fault.TLS_REFUSED, Fault.TLS_ERROR):
            async with FakePostgres(tls=server_context, fault=fault) as server:
                with pytest.raises(LoginError):
                    async with raw_client(server.port, "alice", "secret", tls=client_context):
                        pass

    asyncio.run(run())


def _contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server context with a fresh certificate for 127.0.0.1 and a client context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "fake.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))
