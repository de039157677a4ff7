"""A federation's own certificate authority, and the certificate that its server shows to sites."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dp_risk.federation.checks import fingerprint
from dp_risk.types import ConfigurationError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 730
RENEW_DAYS = 60
# A clock may be behind; the beginning of a certificate protects nobody.
_EARLIER = datetime.timedelta(days=1)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MOST_CHARACTERS = 8192


@dataclass(frozen=True, kw_only=True, eq=False)
class Authority:
    """An authority with its private key.

    Parameters
    ----------
    certificate : Certificate
        Signed by itself.
    key : EllipticCurvePrivateKey
        P-256.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str, now: datetime.datetime) -> Authority:
        """Make the authority of a federation; it lives for ten years.

        Parameters
        ----------
        name : str
            The federation's name, at most 40 characters of it are kept.
        now : datetime
            With a time zone.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(f"dp-risk authority of {name[:40]}")
        builder = _builder(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_usage(authority=True), True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
        )
        return cls(certificate=builder.sign(key, hashes.SHA256()), key=key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> Authority:
        """Read an authority from PEM.

        Raises
        ------
        ConfigurationError
            If either is malformed, or they do not belong together.
        """
        found, secret = authority(certificate), load_key(key)
        if found.public_key() != secret.public_key():
            raise ConfigurationError("the authority's key is not that of its certificate")
        return cls(certificate=found, key=secret)

    def issue(
        self, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], now: datetime.datetime
    ) -> bytes:
        """Return a server's certificate in PEM; it lives for two years, never past the authority.

        Parameters
        ----------
        key : EllipticCurvePrivateKey
            Of the server; the same one may get another certificate later.
        hosts : sequence of str
            Names and IP addresses that sites connect to; one of this machine stands for all three.
        now : datetime
            With a time zone.
        """
        builder = _builder(
            _subject("dp-risk server"),
            self.certificate.subject,
            key.public_key(),
            now,
            SERVER_DAYS,
            self.certificate.not_valid_after_utc,
        )
        mine = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(authority=False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (_alternatives(hosts), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(mine), False),
        ):
            builder = builder.add_extension(extension, critical)
        return pem(builder.sign(self.key, hashes.SHA256()))


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new private key for a server: P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM, without a password."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_key(content: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a private key in PEM.

    Raises
    ------
    ConfigurationError
        If it is none; its content is never repeated.
    """
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("not a private key of a certificate (PEM)")
    return key


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def authority(content: bytes) -> x509.Certificate:
    """Return the one certificate of an authority, read from PEM and checked.

    Raises
    ------
    ConfigurationError
        If it is anything but one certificate, signed by itself, of an authority with an EC key.
    """
    wrong = ConfigurationError("not the certificate of one authority (PEM)")
    if len(content) > _MOST_CHARACTERS:
        raise wrong
    try:
        certificate = x509.load_pem_x509_certificate(content)
        certificate.verify_directly_issued_by(certificate)
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise wrong from None
    except (x509.ExtensionNotFound, x509.DuplicateExtension):
        raise wrong from None
    key = certificate.public_key()
    # Exactly one: a second one behind it would be trusted too.
    if (
        not limits.ca
        or not isinstance(key, ec.EllipticCurvePublicKey)
        or pem(certificate) != content
    ):
        raise wrong
    return certificate


def certificate_fingerprint(content: bytes) -> str:
    """Return 128 bits of the SHA-256 of a certificate: the start of what OpenSSL shows.

    Raises
    ------
    ConfigurationError
        If it is not the certificate of an authority.
    """
    return fingerprint(authority(content).public_bytes(serialization.Encoding.DER))


def renewal_due(content: bytes, hosts: Sequence[str], now: datetime.datetime) -> bool:
    """Whether a server's certificate (PEM) ends within 60 days, or is for other hosts.

    Raises
    ------
    ConfigurationError
        If it is no certificate of a server.
    """
    try:
        certificate = x509.load_pem_x509_certificate(content)
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise ConfigurationError("not a certificate of a server (PEM)") from None
    soon = certificate.not_valid_after_utc - now < datetime.timedelta(days=RENEW_DAYS)
    return soon or named.value != _alternatives(hosts)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternatives(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    named = list(dict.fromkeys(hosts))
    if any(host in LOOPBACK for host in named):
        named += [host for host in LOOPBACK if host not in named]
    return x509.SubjectAlternativeName([_alternative(host) for host in named])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    end = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(end if latest is None else min(end, latest))
    )
