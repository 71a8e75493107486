"""Admission to a fleet: the requests of machines, the answers, and the list of members. No socket here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cryptography import x509

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import write_atomic, writing
from hooke.certificates.authority import Authority, BadRequest
from hooke.certificates.tokens import ID, TokenExpired, Tokens, UnknownToken

__all__ = [
    "MOST_BYTES",
    "Admission",
    "AdmissionRefused",
    "Answer",
    "Ask",
    "AskAuthority",
    "AskJoin",
    "AskRenewal",
    "AuthorityAnswer",
    "CertifiedMember",
    "Granted",
    "Members",
]


# -- addresses -----------------------------------------------------------------------------------

# -- members -------------------------------------------------------------------------------------


class CertifiedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that the authority has issued. Times are seconds since the epoch."""

    machine: str
    serial: int
    until: float
    valid_s: float
    address: str
    """Where the machine asked from."""


class Members:
    """The folder `members`, with `MACHINE-SERIAL.json` for each certificate that has not expired. Removing the file removes the member."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, member: CertifiedMember, *, now: float) -> None:
        """Record a member, and forget expired ones. Raises HookeError where it cannot be written."""
        with writing("the list of members", self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = self._folder / f"{member.machine}-{member.serial:040x}.json"
            write_atomic(path, msgspec.json.encode(member), sync=True, mode=0o600)
            for other in self._folder.glob("*.json"):
                known = self._read(other)
                if known is not None and now > known.until:
                    other.unlink(missing_ok=True)

    def find(self, serial: int) -> CertifiedMember | None:
        """The member with this certificate; None for a removed one. Raises HookeError where its file is damaged."""
        return next(filter(None, map(self._read, self._folder.glob(f"*-{serial:040x}.json"))), None)

    @staticmethod
    def _read(path: Path) -> CertifiedMember | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=CertifiedMember)
        except FileNotFoundError:  # removed meanwhile
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HookeError(
                "a member's file is damaged",
                where=str(path),
                fix="remove it; the machine can join again with a new token",
            ) from error


# -- messages between a joining machine and the admission service: one line of JSON each way, over TLS ---

MOST_BYTES = 16 << 10
"""The longest line. A P-256 signing request has 350 bytes, a certificate 1,000."""

Pem = Annotated[str, msgspec.Meta(max_length=8 << 10)]


class AskAuthority(msgspec.Struct, frozen=True, tag="authority", forbid_unknown_fields=True):
    """Ask for the authority's certificate. It carries nothing, since the service is not yet trusted."""


class AskJoin(msgspec.Struct, frozen=True, kw_only=True, tag="join", forbid_unknown_fields=True):
    """Ask to join with a token."""

    id: Annotated[str, msgspec.Meta(pattern=rf"\A{ID}\Z")]
    secret: Annotated[str, msgspec.Meta(max_length=64)]
    machine: Annotated[str, msgspec.Meta(max_length=64)]
    request: Pem


class AskRenewal(msgspec.Struct, frozen=True, kw_only=True, tag="renewal", forbid_unknown_fields=True):
    """Ask for a new certificate, with the old one shown in the TLS handshake."""

    request: Pem


class AuthorityAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="authority"):
    """The authority's certificate."""

    pem: Pem


class Granted(msgspec.Struct, frozen=True, kw_only=True, tag="granted"):
    """A certificate for the key in the request, and its content."""

    pem: Pem
    machine: str
    until: float
    valid_s: float


class AdmissionRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The reason, in one sentence, and the fix."""

    why: str
    fix: str = ""


Ask = AskAuthority | AskJoin | AskRenewal
Answer = AuthorityAnswer | Granted | AdmissionRefused


class Admission:
    """Answers requests for one authority. Tokens and members are in folders beside its files."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        self.authority = authority
        self.tokens = Tokens(folder / "tokens")
        self.members = Members(folder / "members")
        self.wrong = 0
        """How many unknown tokens were shown."""

    def answer(self, ask: Ask, *, now: float, address: str, shown: int | None) -> Answer:
        """Answer a request from `address`. `shown` is the serial number of the client certificate that TLS has verified.

        Raises HookeError where the authority's own files are damaged or cannot be written.
        """
        try:
            match ask:
                case AskAuthority():
                    return AuthorityAnswer(pem=self.authority.pem.decode())
                case AskJoin():
                    return self._join(ask, now=now, address=address)
                case AskRenewal():
                    return self._renew(ask, now=now, address=address, shown=shown)
        except (BadRequest, TokenExpired, UnknownToken, UsageError) as error:
            self.wrong += isinstance(error, UnknownToken)
            return AdmissionRefused(
                why=f"{error.what} ({error.why})" if error.why else error.what, fix=error.fix
            )

    def _join(self, ask: AskJoin, *, now: float, address: str) -> Granted:
        # Check the request first: a mistake must not cost the token.
        self.authority.grant(ask.request.encode(), ask.machine, now=now, valid_s=1.0)
        valid_s = self.tokens.spend(ask.id, ask.secret, now=now, by=f"{ask.machine} at {address}")
        return self._grant(ask.request, ask.machine, now=now, valid_s=valid_s, address=address)

    def _renew(self, ask: AskRenewal, *, now: float, address: str, shown: int | None) -> Answer:
        member = None if shown is None else self.members.find(shown)
        if member is None:
            why = "no certificate was shown" if shown is None else "this machine was removed from the fleet"
            return AdmissionRefused(why=why, fix="join with a token from `hooke fleet token`")
        return self._grant(ask.request, member.machine, now=now, valid_s=member.valid_s, address=address)

    def _grant(self, request: str, machine: str, *, now: float, valid_s: float, address: str) -> Granted:
        pem = self.authority.grant(request.encode(), machine, now=now, valid_s=valid_s)
        certificate = x509.load_pem_x509_certificate(pem)
        until = certificate.not_valid_after_utc.timestamp()
        member = CertifiedMember(
            machine=machine, serial=certificate.serial_number, until=until, valid_s=valid_s, address=address
        )
        self.members.add(member, now=now)
        return Granted(pem=pem.decode(), machine=machine, until=until, valid_s=valid_s)
