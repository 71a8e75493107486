"""A machine joins: it makes its key, makes sure whom it talks to, shows its token, and keeps the certificate that comes back."""

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
    Address,
    AdmissionRefused,
    Answer,
    Ask,
    AskAuthority,
    AskJoin,
    AskRenewal,
    Granted,
    TheAuthority,
)
from hooke.certificates.authority import ADMISSION, domain_of, new_key, pem_of, request
from hooke.certificates.keys import CertificateFacts, Keys, check_name
from hooke.certificates.tokens import Token

__all__ = ["join", "renew"]

ANSWER_S = 15.0
"""Longer than the service gives a connection, so that it says no rather than we."""


def join(address: Address, token: Token, keys: Keys, *, machine: str) -> CertificateFacts:
    """Have the authority that the token names certify a key made here; the files lie in `keys` then, and nothing was sent but the public half.

    Where there are keys of the same authority, the certificate is replaced. Raises UsageError where it is refused or `keys` are another
    authority's, and HookeError where nobody answers, or somebody else does.
    """
    check_name("machine", machine)
    ca = _authority(address, token)
    known = keys.ca.read_text("ascii") if keys.ca.is_file() else None
    if known is not None and ssl.PEM_cert_to_DER_cert(known) != ssl.PEM_cert_to_DER_cert(ca):
        raise UsageError(
            f"this machine has keys of another fleet {token.fleet}",
            where=str(keys.folder),
            fix="move the folder away, if that fleet is over; or join in another project: --project FOLDER",
        )
    key = new_key()
    ask = AskJoin(id=token.id, secret=token.secret, machine=machine, request=request(key).decode())
    answer = _asked(address, ask, _trusting(ca), name=f"{ADMISSION}.{domain_of(token.fleet)}")
    pem, facts = _granted(answer, key, ca, token.fleet, address)
    if known is None:
        keys.create(ca=ca.encode(), machine=pem, facts=facts)
    else:
        keys.replace(machine=pem, facts=facts)
    return facts


def renew(keys: Keys) -> CertificateFacts:
    """Have another certificate, for a new key, by showing the one that is there. Raises as `join`, and UsageError where that has ended."""
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
    answer = _asked(address, ask, context, name=f"{ADMISSION}.{domain_of(known.fleet)}")
    pem, facts = _granted(answer, key, ca, known.fleet, address)
    keys.replace(machine=pem, facts=facts)
    return facts


def _authority(address: Address, token: Token) -> str:
    """The authority's certificate. Whoever sends it: it is the one whose fingerprint the token has."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    answer = _asked(address, AskAuthority(), anybody, name="")
    if isinstance(answer, TheAuthority):
        try:
            der = ssl.PEM_cert_to_DER_cert(answer.pem)
        except ValueError as error:
            raise _stranger(address, str(error)) from error
        if hashlib.sha256(der).digest() == token.pin:
            return ssl.DER_cert_to_PEM_cert(der)  # what came may have other certificates behind this one
    raise _stranger(
        address, "what answers shows another authority than the one whose fingerprint the token has"
    )


def _trusting(ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    return context


def _asked(address: Address, ask: Ask, context: ssl.SSLContext, *, name: str) -> Answer:
    deadline = time.monotonic() + ANSWER_S
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=ANSWER_S) as plain,
            context.wrap_socket(plain, server_hostname=name or None) as secure,
        ):
            secure.sendall(msgspec.json.encode(ask) + b"\n")
            line = _line(secure, deadline)
    except ssl.SSLCertVerificationError as error:
        raise _stranger(address, error.verify_message) from error
    except (OSError, EOFError) as error:
        raise HookeError(
            f"no answer from {address}",
            why=_cause(error),
            fix=_fix(ask),
        ) from error
    try:
        return msgspec.json.decode(line, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _stranger(address, str(error)) from error


def _line(secure: ssl.SSLSocket, deadline: float) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        secure.settimeout(max(0.001, deadline - time.monotonic()))
        piece = secure.recv(MOST_BYTES)
        data += piece
        if not piece or len(data) > MOST_BYTES:
            raise EOFError("the connection ended before the answer" if not piece else "the answer has no end")
    return data


def _granted(
    answer: Answer, key: ec.EllipticCurvePrivateKey, ca: str, fleet: str, address: Address
) -> tuple[bytes, CertificateFacts]:
    if isinstance(answer, AdmissionRefused):
        raise UsageError(f"{address} does not let this machine in: {answer.why}", fix=answer.fix)
    if not isinstance(answer, Granted):
        raise _stranger(address, "it answers what was not asked")
    try:
        certificate = x509.load_pem_x509_certificate(answer.pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _stranger(address, f"its certificate is not the authority's: {error}") from error
    if certificate.public_key() != key.public_key():
        raise _stranger(address, "its certificate is for another key")
    until = certificate.not_valid_after_utc.timestamp()
    if not certificate.not_valid_before_utc.timestamp() <= time.time() < until:
        raise HookeError(
            "the certificate is not good now, by this machine's clock",
            why=f"it is good from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}",
            fix="set the clocks of both machines, and join with a new token",
        )
    facts = CertificateFacts(
        fleet=fleet, machine=answer.machine, until=until, valid_s=answer.valid_s, at=str(address)
    )
    return answer.pem.encode() + pem_of(key), facts


def _stranger(address: Address, why: str) -> HookeError:
    return HookeError(
        f"what answers at {address} is not this fleet's authority",
        why=why,
        fix="check the address, and that the token is one of this fleet's",
    )


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came within {ANSWER_S:g} s"
    return str(error) or type(error).__name__


def _fix(ask: Ask) -> str:
    runs = "`hooke fleet admit NAME --listen HOST:PORT` must run on the authority's machine, and its port be reachable from here"
    match ask:
        case AskJoin():
            return f"{runs}; the token may be spent by now: if it is, get another"
        case AskRenewal():
            return f"{runs}; if it is, it does not take this machine's certificate: join with a token"
        case AskAuthority():
            return runs
