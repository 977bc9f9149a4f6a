"""TLS material: the listeners' certificates, what the proxy demands of database servers, channel binding data.

The handshakes themselves are the transport's. Counterpart: config.settings.ListenerTLS and TargetTLS.
"""

from __future__ import annotations

import ipaddress
import ssl
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from config.settings import ListenerTLS, ListenerTLSMode, TargetTLS, TargetTLSMode
from dbproxy.errors import DbproxyError
from protocol.login import TLSInfo

ALPN = ("postgresql",)

_REASONS = {
    9: "certificate_not_yet_valid",
    10: "certificate_expired",
    18: "certificate_self_signed",
    19: "certificate_unknown_authority",
    20: "certificate_unknown_authority",
    21: "certificate_unknown_authority",
    62: "certificate_wrong_host",
    63: "certificate_wrong_host",
    64: "certificate_wrong_host",
}
"""OpenSSL's X509_V_ERR_ numbers, see its x509_vfy.h."""


class TLSMaterialError(DbproxyError):
    """A certificate or key cannot be used; the text names the file."""


class NameOnlyInCommonName(ssl.SSLCertVerificationError):
    """The certificate's chain is good, but it has the host's name nowhere but in the subject's common name."""


def _refuse_common_name(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
    """Raise NameOnlyInCommonName unless the name that OpenSSL found is one of the certificate's alternative names.

    OpenSSL looks at the common name only if there is no alternative name of the wanted kind, and never for an address.
    """
    names = (connection.getpeercert() or {}).get("subjectAltName", ())
    if any(entry[0] == "DNS" for entry in names):
        return
    try:
        ipaddress.ip_address(connection.server_hostname or "")
    except ValueError:
        raise NameOnlyInCommonName("the host's name stands only in the certificate's common name") from None


class _VerifyFullObject(ssl.SSLObject):
    """What wrap_bio makes under verify-full: the handshake ends here, and with it the last of the verification."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _refuse_common_name(self)


class _VerifyFullSocket(ssl.SSLSocket):
    """The same for wrap_socket."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the inherited signature
        super().do_handshake(block)
        _refuse_common_name(self)


@dataclass(frozen=True, slots=True)
class ListenerCertificate:
    """What a listener shows to clients. end_point: its tls-server-end-point, for SCRAM-SHA-256-PLUS."""

    context: ssl.SSLContext = field(repr=False)
    end_point: bytes = field(repr=False)
    fingerprint: str
    """SHA-256 of the certificate, for the event of a reload."""


class ListenerMaterial:
    """A listener's certificate through reloads. `current` is swapped whole; None when the listener has no TLS."""

    def __init__(self, settings: ListenerTLS) -> None:
        """Raises TLSMaterialError if the files cannot be used."""
        self._settings = settings
        self.current = load_listener_certificate(settings)

    def reload(self, settings: ListenerTLS | None = None) -> None:
        """Read the files again. Raises TLSMaterialError, and the old certificate stays in use."""
        fresh = load_listener_certificate(settings or self._settings)
        self._settings = settings or self._settings
        self.current = fresh


def load_listener_certificate(settings: ListenerTLS) -> ListenerCertificate | None:
    """Read certificate and key of a listener. None if its mode is disable. Raises TLSMaterialError."""
    if settings.mode is ListenerTLSMode.DISABLE:
        return None
    if settings.certificate is None or settings.key is None:
        raise TLSMaterialError("the listener's TLS needs a certificate and a key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # No resumption, as PostgreSQL: a ticket would outlive a reloaded certificate and every check made at a handshake.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.set_alpn_protocols(list(ALPN))
    der = _load_chain(context, settings.certificate, settings.key)
    return ListenerCertificate(context, end_point(der), sha256(der).hexdigest())


def target_context(settings: TargetTLS) -> ssl.SSLContext | None:
    """What the proxy demands of a server's certificate; None if mode is disable. Raises TLSMaterialError.

    As libpq: verify-ca checks the chain, verify-full the host name too, and a given CA is used in every mode. The
    transport passes the target's host as server_hostname in every mode, so that name indication works.
    """
    mode = settings.mode
    if mode is TargetTLSMode.DISABLE:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.check_hostname = mode is TargetTLSMode.VERIFY_FULL
    # A name that stands only in the common name is refused by the two classes: OpenSSL has one code for that and for a wrong host.
    context.hostname_checks_common_name = True
    context.sslobject_class = _VerifyFullObject if context.check_hostname else ssl.SSLObject
    context.sslsocket_class = _VerifyFullSocket if context.check_hostname else ssl.SSLSocket
    context.set_alpn_protocols(list(ALPN))
    if settings.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=str(settings.ca))
        except (OSError, ssl.SSLError) as error:
            raise TLSMaterialError(f"{settings.ca}: not a readable file of certificate authorities") from error
    elif mode is TargetTLSMode.VERIFY_FULL:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    elif mode is TargetTLSMode.VERIFY_CA:
        # Any public authority would do for any server in the world: libpq refuses this too.
        raise TLSMaterialError("tls.mode verify-ca needs tls.ca; with the system's authorities use verify-full")
    else:
        context.verify_mode = ssl.CERT_NONE
    if settings.certificate is not None and settings.key is not None:
        _load_chain(context, settings.certificate, settings.key)
    return context


def end_point(der: bytes) -> bytes:
    """tls-server-end-point channel binding data of a certificate; b"" if its signature has no hash of its own.

    Source: RFC 5929 section 4.1: the hash of the signature algorithm, SHA-256 in place of MD5 and SHA-1.
    """
    try:
        algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return b""
    if algorithm is None:
        return b""
    digest = hashes.Hash(hashes.SHA256() if isinstance(algorithm, hashes.MD5 | hashes.SHA1) else algorithm)
    digest.update(der)
    return digest.finalize()


def tls_info(connection: ssl.SSLObject | ssl.SSLSocket, listener: ListenerCertificate | None = None) -> TLSInfo:
    """What a finished handshake agreed on. listener: the certificate in use on a client's leg; None on a server's leg."""
    der = connection.getpeercert(binary_form=True)
    cipher = connection.cipher()
    subject = None
    if der:
        try:
            subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
        except ValueError:
            subject = ""
    if listener is not None:
        binding = listener.end_point
    else:
        binding = end_point(der) if der else b""
    name = cipher[0] if cipher else ""
    return TLSInfo(connection.version() or "", name, connection.selected_alpn_protocol(), binding, subject)


def verification_reason(error: ssl.SSLError) -> str:
    """A word that says why a server's certificate was not accepted, for events; "tls_failed" for any other TLS error."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return "tls_failed"
    if isinstance(error, NameOnlyInCommonName):
        return "certificate_name_only_in_cn"
    return _REASONS.get(error.verify_code, "certificate_rejected")


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> bytes:
    """Load both into the context; returns the own certificate's DER. Raises TLSMaterialError."""

    def refuse_passphrase() -> str:
        return ""  # without it OpenSSL would ask on the terminal

    try:
        mode = key.stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IRWXO):
            raise TLSMaterialError(f"{key}: others may read or change the key; run chmod 600")
        context.load_cert_chain(certificate, key, refuse_passphrase)
        return x509.load_pem_x509_certificates(certificate.read_bytes())[0].public_bytes(Encoding.DER)
    except ssl.SSLError as error:
        raise TLSMaterialError(
            f"{certificate}, {key}: not a certificate and its key, or the key has a passphrase"
        ) from error
    except OSError as error:
        raise TLSMaterialError(f"{error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise TLSMaterialError(f"{certificate}: not a certificate in PEM form") from error
