"""The certificate authority of one fleet, which signs the certificates of its machines; they are valid for no other name."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hooke.base.errors import HookeError, UsageError
from hooke.certificates.key_files import CA, CA_KEY, check_name, check_private

__all__ = ["ADMISSION", "LATE_S", "Authority", "BadRequest", "domain_of", "new_key", "pem_of", "request"]

ADMISSION = "admission"
"""The admission service's name in its certificate, which no machine can have."""

LATE_S = 600.0
"""How far the clocks of a fleet's machines may differ."""

_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class BadRequest(HookeError):
    """A certificate request is invalid, or cannot be granted."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 private key."""
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate signing request (RFC 2986) in PEM for the key. It has no name: the authority decides on that."""
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


class Authority:
    """Signs for one fleet. Times are seconds since the epoch."""

    def __init__(self, fleet: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.fleet = fleet
        self._key = key
        self._certificate = certificate

    @classmethod
    def make(cls, fleet: str, *, now: float, valid_s: float) -> Authority:
        """Make a new authority. Raises UsageError for an invalid name."""
        check_name("fleet", fleet)
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hooke fleet {fleet}")])
        anywhere = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
        certificate = (
            _builder(name, name, key.public_key(), now=now, until=now + valid_s)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(
                x509.NameConstraints(
                    permitted_subtrees=[x509.DNSName(domain_of(fleet))],
                    excluded_subtrees=[x509.IPAddress(each) for each in anywhere],
                ),
                critical=True,
            )
            .sign(key, hashes.SHA256())
        )
        return cls(fleet, key, certificate)

    @classmethod
    def read(cls, fleet: str, folder: Path) -> Authority:
        """Read the files `ca.pem` and `ca.key` of a folder. Raises UsageError where they are damaged, or others can read the key."""
        check_private(folder / CA_KEY)
        try:
            key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        except (ValueError, TypeError) as error:
            raise _damaged(folder, str(error)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise _damaged(folder, f"{CA_KEY} does not match {CA}")
        return cls(fleet, key, certificate)

    @property
    def pem(self) -> bytes:
        """The certificate, which is public."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key: whoever has it can admit any machine."""
        return pem_of(self._key)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate."""
        return hashlib.sha256(self._certificate.public_bytes(serialization.Encoding.DER)).digest()

    @property
    def until(self) -> float:
        """When it expires, with everything that it has signed."""
        return self._certificate.not_valid_after_utc.timestamp()

    def certify(self, machine: str, key: ec.EllipticCurvePublicKey, *, now: float, valid_s: float) -> bytes:
        """A certificate for a machine's key, in PEM, for both ends of a connection. Raises UsageError for an invalid name."""
        return self._sign(
            f"{check_name('machine', machine)}.machines", machine, key, now=now, valid_s=valid_s
        )

    def certify_admission(self, key: ec.EllipticCurvePublicKey, *, now: float, valid_s: float) -> bytes:
        """A certificate for the admission service, in PEM."""
        return self._sign(ADMISSION, ADMISSION, key, now=now, valid_s=valid_s)

    def grant(self, asked: bytes, machine: str, *, now: float, valid_s: float) -> bytes:
        """A certificate for the key in a signing request, of which only the key counts: no name, no extension.

        Raises BadRequest where the request is invalid, is not signed by its own key, or has another kind of key than `new_key` makes.
        """
        try:
            parsed = x509.load_pem_x509_csr(asked)
            key = parsed.public_key()
            signed = parsed.is_signature_valid
        except Exception as error:  # of many kinds, and the input is untrusted
            raise BadRequest("this is not a certificate signing request", why=str(error)) from error
        if not signed:
            raise BadRequest("the certificate signing request is not signed by its own key")
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise BadRequest("the key in the certificate signing request is not a P-256 key")
        return self.certify(machine, key, now=now, valid_s=valid_s)

    def _sign(
        self, label: str, subject: str, key: ec.EllipticCurvePublicKey, *, now: float, valid_s: float
    ) -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        own = self._key.public_key()
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(name, self._certificate.subject, key, now=now, until=min(now + valid_s, self.until))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(f"{label}.{domain_of(self.fleet)}")]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def domain_of(fleet: str) -> str:
    """The domain of the names in a fleet's certificates, which are never looked up."""
    return f"{fleet}.hooke.internal"  # .internal is reserved for private names


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{each: each in names for each in _KEY_USAGES})


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, now: float, until: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - LATE_S))
        .not_valid_after(_utc(until))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _utc(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


def _damaged(folder: Path, why: str) -> UsageError:
    return UsageError(
        "the authority's files are damaged",
        where=str(folder),
        why=why,
        fix="restore ca.pem and ca.key from a backup; or move the folder away, make a new authority, and let all machines join again",
    )
