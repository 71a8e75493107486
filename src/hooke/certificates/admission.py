"""Who is let into a fleet: the answer to what a machine asks. No socket here."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from hooke.base.errors import UsageError
from hooke.certificates.authority import Authority, BadRequest
from hooke.certificates.members import Member, Members
from hooke.certificates.messages import (
    Answer,
    Ask,
    AskAuthority,
    AskJoin,
    AskRenewal,
    Granted,
    Refused,
    TheAuthority,
)
from hooke.certificates.tokens import Tokens, Turned, Wrong

__all__ = ["Admission"]


class Admission:
    """Answers for one authority, with the tokens and members in folders beside its files."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        self.authority = authority
        self.tokens = Tokens(folder / "tokens")
        self.members = Members(folder / "members")
        self.wrong = 0
        """How many tokens were shown that never were any."""

    def answer(self, ask: Ask, *, now: float, address: str, shown: int | None) -> Answer:
        """What is said to who asks from `address`; `shown` is the serial number of the certificate that TLS has verified.

        Raises HookeError where the authority's own files are damaged or cannot be written.
        """
        try:
            match ask:
                case AskAuthority():
                    return TheAuthority(pem=self.authority.pem.decode())
                case AskJoin():
                    return self._join(ask, now=now, address=address)
                case AskRenewal():
                    return self._renew(ask, now=now, address=address, shown=shown)
        except (BadRequest, Turned, UsageError, Wrong) as error:
            self.wrong += isinstance(error, Wrong)
            return Refused(why=f"{error.what} ({error.why})" if error.why else error.what, mend=error.mend)

    def _join(self, ask: AskJoin, *, now: float, address: str) -> Granted:
        # Whether the request is one comes first: a token is not to be lost by a mistake.
        self.authority.grant(ask.request.encode(), ask.machine, now=now, valid_s=1.0)
        valid_s = self.tokens.spend(ask.id, ask.secret, now=now, by=f"{ask.machine} at {address}")
        return self._grant(ask.request, ask.machine, now=now, valid_s=valid_s, address=address)

    def _renew(self, ask: AskRenewal, *, now: float, address: str, shown: int | None) -> Answer:
        member = None if shown is None else self.members.find(shown)
        if member is None:
            why = "no certificate was shown" if shown is None else "this machine was let go"
            return Refused(why=why, mend="join with a token of `hooke fleet token`")
        return self._grant(ask.request, member.machine, now=now, valid_s=member.valid_s, address=address)

    def _grant(self, request: str, machine: str, *, now: float, valid_s: float, address: str) -> Granted:
        pem = self.authority.grant(request.encode(), machine, now=now, valid_s=valid_s)
        certificate = x509.load_pem_x509_certificate(pem)
        until = certificate.not_valid_after_utc.timestamp()
        member = Member(
            machine=machine, serial=certificate.serial_number, until=until, valid_s=valid_s, address=address
        )
        self.members.add(member, now=now)
        return Granted(pem=pem.decode(), machine=machine, until=until, valid_s=valid_s)
