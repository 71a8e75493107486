"""The joining machine: it makes a key, verifies the authority, shows its token, and stores the certificate it gets."""

from __future__ import annotations

import hashlib
import socket
import ssl
import time

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from hooke.base.errors import HookeError, UsageError
from hooke.certificates.admission import (
    MOST_BYTES,
    AdmissionRefused,
    Answer,
    Ask,
    AskAuthority,
    AskJoin,
    AskRenewal,
    AuthorityAnswer,
    Granted,
)
from hooke.certificates.authority import ADMISSION, domain_of, new_key, pem_of, request
from hooke.certificates.key_files import Address, CertificateFacts, Keys, check_name
from hooke.certificates.tokens import Token

__all__ = ["join", "renew"]

ANSWER_S = 15.0
"""Longer than the service's own limit, so that the service reports a timeout first."""


def join(address: Address, token: Token, keys: Keys, *, machine: str) -> CertificateFacts:
    """Make a key and have the token's authority certify it; the files are then in `keys`. Only the public half is sent.

    Where `keys` are of the same authority, the certificate is replaced. Raises UsageError where the machine is refused or `keys` are of
    another authority, and HookeError where nothing answers, or something else does.
    """
    check_name("machine", machine)
    ca = _authority(address, token)
    known = keys.ca.read_text("ascii") if keys.ca.is_file() else None
    if known is not None and ssl.PEM_cert_to_DER_cert(known) != ssl.PEM_cert_to_DER_cert(ca):
        raise UsageError(
            f"this machine has keys of another fleet named {token.fleet}",
            where=str(keys.folder),
            fix="move the folder away if that fleet no longer exists, or join in another project: --project FOLDER",
        )
    key = new_key()
    ask = AskJoin(id=token.id, secret=token.secret, machine=machine, request=request(key).decode())
    answer = _request(address, ask, _trusting(ca), name=f"{ADMISSION}.{domain_of(token.fleet)}")
    pem, facts = _granted(answer, key, ca, token.fleet, address)
    if known is None:
        keys.create(ca=ca.encode(), machine=pem, facts=facts)
    else:
        keys.replace(machine=pem, facts=facts)
    return facts


def renew(keys: Keys) -> CertificateFacts:
    """Get a certificate for a new key, by showing the current one. Raises as `join`, and UsageError where the current one has expired."""
    known = keys.good(time.time())
    ca = keys.ca.read_text("ascii")
    context = _trusting(ca)
    try:
        context.load_cert_chain(keys.machine)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            "this machine's certificate cannot be read",
            where=str(keys.machine),
            why=str(error),
            fix="join with a new token",
        ) from error
    key = new_key()
    ask = AskRenewal(request=request(key).decode())
    address = Address.parse(known.at)
    answer = _request(address, ask, context, name=f"{ADMISSION}.{domain_of(known.fleet)}")
    pem, facts = _granted(answer, key, ca, known.fleet, address)
    keys.replace(machine=pem, facts=facts)
    return facts


def _authority(address: Address, token: Token) -> str:
    """The authority's certificate. The sender need not be trusted: the token has the certificate's fingerprint."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    answer = _request(address, AskAuthority(), unverified, name="")
    if isinstance(answer, AuthorityAnswer):
        try:
            der = ssl.PEM_cert_to_DER_cert(answer.pem)
        except ValueError as error:
            raise _impostor(address, str(error)) from error
        if hashlib.sha256(der).digest() == token.pin:
            return ssl.DER_cert_to_PEM_cert(der)  # without other certificates that may follow
    raise _impostor(address, "its certificate does not have the fingerprint in the token")


def _trusting(ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    return context


def _request(address: Address, ask: Ask, context: ssl.SSLContext, *, name: str) -> Answer:
    deadline = time.monotonic() + ANSWER_S
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=ANSWER_S) as plain,
            context.wrap_socket(plain, server_hostname=name or None) as secure,
        ):
            secure.sendall(msgspec.json.encode(ask) + b"\n")
            line = _line(secure, deadline)
    except ssl.SSLCertVerificationError as error:
        raise _impostor(address, error.verify_message) from error
    except (OSError, EOFError) as error:
        raise HookeError(
            f"no answer from {address}",
            why=_cause(error),
            fix=_fix(ask),
        ) from error
    try:
        return msgspec.json.decode(line, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _impostor(address, str(error)) from error


def _line(secure: ssl.SSLSocket, deadline: float) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        secure.settimeout(max(0.001, deadline - time.monotonic()))
        piece = secure.recv(MOST_BYTES)
        data += piece
        if not piece or len(data) > MOST_BYTES:
            raise EOFError(
                "the connection ended before the answer" if not piece else "the answer is too long"
            )
    return data


def _granted(
    answer: Answer, key: ec.EllipticCurvePrivateKey, ca: str, fleet: str, address: Address
) -> tuple[bytes, CertificateFacts]:
    if isinstance(answer, AdmissionRefused):
        raise UsageError(f"{address} refused this machine: {answer.why}", fix=answer.fix)
    if not isinstance(answer, Granted):
        raise _impostor(address, "its answer does not fit the request")
    try:
        certificate = x509.load_pem_x509_certificate(answer.pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _impostor(address, f"the certificate is not signed by the authority: {error}") from error
    if certificate.public_key() != key.public_key():
        raise _impostor(address, "the certificate is for another key")
    until = certificate.not_valid_after_utc.timestamp()
    if not certificate.not_valid_before_utc.timestamp() <= time.time() < until:
        raise HookeError(
            "the certificate is not valid now, by this machine's clock",
            why=f"it is valid from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}",
            fix="set the clocks of both machines, and join with a new token",
        )
    facts = CertificateFacts(
        fleet=fleet, machine=answer.machine, until=until, valid_s=answer.valid_s, at=str(address)
    )
    return answer.pem.encode() + pem_of(key), facts


def _impostor(address: Address, why: str) -> HookeError:
    return HookeError(
        f"{address} is not this fleet's authority",
        why=why,
        fix="check the address, and that the token is for this fleet",
    )


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_S:g} s"
    return str(error) or type(error).__name__


def _fix(ask: Ask) -> str:
    runs = "run `hooke fleet admit NAME --listen HOST:PORT` on the authority's machine, and make sure that this machine can reach its port"
    match ask:
        case AskJoin():
            return f"{runs}; if the token has been used meanwhile, get another one"
        case AskRenewal():
            return f"{runs}; if it does, it rejects this machine's certificate: join with a token"
        case AskAuthority():
            return runs
