"""TLS material with certificates made on the spot; handshakes run in memory. SECURITY_BAR C4, C5 and C7."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from config.settings import ListenerTLS, ListenerTLSMode, TargetTLS, TargetTLSMode
from dbproxy.identity.tls import (
    ListenerCertificate,
    ListenerMaterial,
    TLSMaterialError,
    end_point,
    load_listener_certificate,
    target_context,
    tls_info,
    verification_reason,
)
from protocol.login import TLSInfo

NOW = dt.datetime.now(dt.UTC)
CA_KEY = ec.generate_private_key(ec.SECP256R1())


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def build(
    common: str,
    issuer: str,
    *,
    hosts: tuple[str, ...] = (),
    days: tuple[int, int] = (-2, 30),
    is_ca: bool = False,
    key: object = CA_KEY,
) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(name(issuer))
        .public_key(key.public_key())  # type: ignore[attr-defined] # any private key
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + dt.timedelta(days=days[0]))
        .not_valid_after(NOW + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if hosts:
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder


CA = build("Test CA", "Test CA", is_ca=True).sign(CA_KEY, hashes.SHA256())


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(CA.public_bytes(Encoding.PEM))
    return path


def write(
    folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, stem: str = "server"
) -> ListenerTLS:
    """Both files, as a listener's settings."""
    files = folder / f"{stem}.pem", folder / f"{stem}.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].touch(0o600)
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return ListenerTLS(mode=ListenerTLSMode.REQUIRE, certificate=files[0], key=files[1])


def server(folder: Path, common: str = "db.example", issuer: str = "Test CA", **more: object) -> ListenerTLS:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = build(common, issuer, key=key, **more).sign(CA_KEY, hashes.SHA256())  # type: ignore[arg-type] # keywords of build
    return write(folder, certificate, key)


def loaded(settings: ListenerTLS) -> ListenerCertificate:
    certificate = load_listener_certificate(settings)
    assert certificate is not None
    return certificate


def shake_hands(
    listener: ListenerCertificate, client: ssl.SSLContext, host: str = "db.example"
) -> tuple[TLSInfo, TLSInfo]:
    """A whole handshake in memory; what each end says of it: (listener's, client's)."""
    wires = [ssl.MemoryBIO(), ssl.MemoryBIO()]
    ends = [
        listener.context.wrap_bio(wires[0], wires[1], server_side=True),
        client.wrap_bio(wires[1], wires[0], server_hostname=host),
    ]
    waiting = {0, 1}
    for _ in range(10):
        for number in (1, 0):
            if number in waiting:
                try:
                    ends[number].do_handshake()
                    waiting.discard(number)
                except ssl.SSLWantReadError:
                    continue
    assert not waiting
    return tls_info(ends[0], listener), tls_info(ends[1])


def verify_full(ca: Path) -> ssl.SSLContext:
    context = target_context(TargetTLS(mode=TargetTLSMode.VERIFY_FULL, ca=ca))
    assert context is not None
    return context


def test_both_ends_agree_on_the_end_point(tmp_path: Path, ca: Path) -> None:
    theirs, ours = shake_hands(loaded(server(tmp_path, hosts=("db.example",))), verify_full(ca))
    assert theirs.end_point == ours.end_point
    assert len(ours.end_point) == 32
    assert ours.version == "TLSv1.3"
    assert ours.alpn == theirs.alpn == "postgresql"
    assert ours.peer_subject == "CN=db.example"
    assert theirs.peer_subject is None


@pytest.mark.parametrize(
    ("more", "host", "reason"),
    [
        ({"hosts": ("other.example",)}, "db.example", "certificate_wrong_host"),
        ({"hosts": ("127.0.0.2",)}, "127.0.0.1", "certificate_wrong_host"),
        ({"hosts": ("db.example",), "days": (-20, -10)}, "db.example", "certificate_expired"),
        ({"hosts": ("db.example",), "days": (10, 20)}, "db.example", "certificate_not_yet_valid"),
        ({}, "db.example", "certificate_name_only_in_cn"),
        ({"hosts": ("127.0.0.1",)}, "db.example", "certificate_name_only_in_cn"),
        ({"hosts": ("127.0.0.1",)}, "other.example", "certificate_wrong_host"),
        ({}, "127.0.0.1", "certificate_wrong_host"),
    ],
    ids=[
        "other host",
        "other address",
        "expired",
        "future",
        "name only in CN",
        "name in CN beside an address",
        "other name beside an address",
        "an address is never looked for in CN",
    ],
)
def test_verify_full_refuses_with_a_reason(
    tmp_path: Path, ca: Path, more: dict[str, object], host: str, reason: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake_hands(loaded(server(tmp_path, **more)), verify_full(ca), host)  # type: ignore[arg-type] # keywords of build
    assert verification_reason(caught.value) == reason


def test_other_authority_and_self_signed_are_refused(tmp_path: Path, ca: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    alone = build("db.example", "db.example", hosts=("db.example",), key=key).sign(key, hashes.SHA256())
    foreign = build("db.example", "Other CA", hosts=("db.example",), key=key).sign(key, hashes.SHA256())
    for certificate, reason in ((alone, "certificate_self_signed"), (foreign, "certificate_unknown_authority")):
        for mode in (TargetTLSMode.VERIFY_FULL, TargetTLSMode.VERIFY_CA, TargetTLSMode.REQUIRE):
            context = target_context(TargetTLS(mode=mode, ca=ca))
            assert context is not None
            with pytest.raises(ssl.SSLCertVerificationError) as caught:
                shake_hands(loaded(write(tmp_path, certificate, key)), context)
            assert verification_reason(caught.value) == reason


def test_address_in_the_certificate_is_accepted(tmp_path: Path, ca: Path) -> None:
    shake_hands(loaded(server(tmp_path, hosts=("127.0.0.1",))), verify_full(ca), "127.0.0.1")


def test_verify_ca_does_not_look_at_the_host(tmp_path: Path, ca: Path) -> None:
    context = target_context(TargetTLS(mode=TargetTLSMode.VERIFY_CA, ca=ca))
    assert context is not None
    shake_hands(loaded(server(tmp_path, hosts=("other.example",))), context)


@pytest.mark.parametrize("mode", [TargetTLSMode.REQUIRE, TargetTLSMode.PREFER])
def test_require_without_ca_verifies_nothing_but_still_binds(tmp_path: Path, mode: TargetTLSMode) -> None:
    context = target_context(TargetTLS(mode=mode))
    assert context is not None
    _, ours = shake_hands(loaded(server(tmp_path)), context)
    assert len(ours.end_point) == 32


def test_verify_ca_without_ca_is_refused() -> None:
    with pytest.raises(TLSMaterialError, match=r"needs tls\.ca"):
        target_context(TargetTLS(mode=TargetTLSMode.VERIFY_CA))


def test_disabled_tls_has_no_material() -> None:
    assert target_context(TargetTLS(mode=TargetTLSMode.DISABLE)) is None
    assert load_listener_certificate(ListenerTLS(mode=ListenerTLSMode.DISABLE)) is None


def test_old_tls_versions_are_refused(tmp_path: Path) -> None:
    listener = loaded(server(tmp_path))
    client = target_context(TargetTLS(mode=TargetTLSMode.REQUIRE))
    assert client is not None
    assert listener.context.minimum_version is client.minimum_version is ssl.TLSVersion.TLSv1_2


def test_reload_takes_the_new_certificate_or_keeps_the_old(tmp_path: Path) -> None:
    settings = server(tmp_path)
    material = ListenerMaterial(settings)
    old = material.current
    assert old is not None
    server(tmp_path, "second")
    material.reload()
    new = material.current
    assert new is not None
    assert new.fingerprint != old.fingerprint
    assert settings.certificate is not None
    settings.certificate.write_text("rubbish")
    with pytest.raises(TLSMaterialError):
        material.reload()
    assert material.current is new


def test_material_that_cannot_be_used_is_named(tmp_path: Path, ca: Path) -> None:
    settings = server(tmp_path)
    assert settings.certificate is not None
    assert settings.key is not None
    key = ec.generate_private_key(ec.SECP256R1())
    locked = tmp_path / "locked.key"
    locked.touch(0o600)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")))
    open_key = tmp_path / "open.key"
    open_key.write_bytes(settings.key.read_bytes())
    open_key.chmod(0o644)
    for change, match in (
        ({"key": locked}, "passphrase"),
        ({"key": open_key}, "chmod 600"),
        ({"key": tmp_path / "absent.key"}, "absent.key"),
        ({"certificate": tmp_path / "absent.pem"}, "absent.pem|No such file"),
        ({"certificate": ca}, "not a certificate and its key"),
        ({"certificate": None}, "needs a certificate"),
    ):
        with pytest.raises(TLSMaterialError, match=match):
            load_listener_certificate(settings.model_copy(update=change))
    with pytest.raises(TLSMaterialError, match="authorities"):
        target_context(TargetTLS(mode=TargetTLSMode.VERIFY_FULL, ca=tmp_path / "absent.pem"))


def test_client_certificate_is_loaded(tmp_path: Path, ca: Path) -> None:
    ours = server(tmp_path, "proxy")
    context = target_context(
        TargetTLS(mode=TargetTLSMode.VERIFY_FULL, ca=ca, certificate=ours.certificate, key=ours.key)
    )
    assert context is not None
    (tmp_path / "db").mkdir()
    listener = loaded(server(tmp_path / "db", hosts=("db.example",)))
    listener.context.verify_mode = ssl.CERT_REQUIRED
    listener.context.load_verify_locations(cafile=str(ca))
    theirs, _ = shake_hands(listener, context)
    assert theirs.peer_subject == "CN=proxy"


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_end_point_uses_the_signature_s_hash(algorithm: hashes.HashAlgorithm) -> None:
    der = build("db", "db").sign(CA_KEY, algorithm).public_bytes(Encoding.DER)  # type: ignore[arg-type] # one of its union
    assert end_point(der) == hashlib.new(algorithm.name, der).digest()


def test_end_point_of_rsa_pss_and_of_signatures_without_a_hash() -> None:
    key = rsa.generate_private_key(65537, 2048)
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
    der = build("db", "db", key=key).sign(key, hashes.SHA384(), rsa_padding=pss).public_bytes(Encoding.DER)
    assert end_point(der) == hashlib.sha384(der).digest()
    edwards = ed25519.Ed25519PrivateKey.generate()
    der = build("db", "db", key=edwards).sign(edwards, None).public_bytes(Encoding.DER)
    assert end_point(der) == b""
    assert end_point(b"rubbish") == b""


@pytest.mark.parametrize("old_algorithm", ["05", "04"], ids=["sha1", "md5"])
def test_end_point_of_outdated_signatures_is_sha256(old_algorithm: str) -> None:
    # Nothing makes such certificates any more: take a SHA-256 one and rename its algorithm, the signature is not checked.
    key = rsa.generate_private_key(65537, 2048)
    der = build("db", "db", key=key).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    renamed = der.replace(bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d0101" + old_algorithm))
    assert renamed != der
    assert end_point(renamed) == hashlib.sha256(renamed).digest()


def test_context_and_binding_are_not_in_the_repr(tmp_path: Path) -> None:
    assert "SSLContext" not in repr(loaded(server(tmp_path)))


def test_other_tls_errors_have_a_word_too() -> None:
    assert verification_reason(ssl.SSLError("alert")) == "tls_failed"
