"""Keys of a fleet: an authority of its own, and a certificate for each that takes part. Who has one of them is trusted."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Files"]

AUTHORITY_DAYS = 30
"""Longer than a fleet lives."""

LATE = datetime.timedelta(minutes=10)
"""How far the clocks of its machines may be apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What one that takes part needs: the authority's certificate, and a certificate and a key of its own. The key is readable to its owner alone."""

    ca: Path
    cert: Path
    key: Path


class Authority:
    """Signs certificates for one fleet. Its key stays in this process."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hooke fleet {name}")])
        self._certificate = (
            _builder(self._name, self._name, self._key, days=AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, name: str, folder: Path, *, days: float = 7.0) -> Files:
        """Write a certificate for `name`, valid for so many days, into a folder that only this user can read."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(subject, self._name, key, days=days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = Files(ca=folder / "ca.pem", cert=folder / f"{name}.pem", key=folder / f"{name}.key")
        _write(files.ca, self._certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(files.cert, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(files.key, secret, 0o600)
        return files


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LATE)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(data)
