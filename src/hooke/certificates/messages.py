"""What passes between a machine that joins and the service that lets it in: one line of JSON each way, over TLS."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hooke.certificates.tokens import ID

__all__ = [
    "MOST_BYTES",
    "Answer",
    "Ask",
    "AskAuthority",
    "AskJoin",
    "AskRenewal",
    "Granted",
    "Refused",
    "TheAuthority",
]

MOST_BYTES = 16 << 10
"""Of a line. A signing request of P-256 has 350 bytes, a certificate 1,000."""

Pem = Annotated[str, msgspec.Meta(max_length=8 << 10)]


class AskAuthority(msgspec.Struct, frozen=True, tag="authority", forbid_unknown_fields=True):
    """Which authority is it? Asked before anybody can be trusted, so nothing goes with it."""


class AskJoin(msgspec.Struct, frozen=True, kw_only=True, tag="join", forbid_unknown_fields=True):
    """Let me in."""

    id: Annotated[str, msgspec.Meta(pattern=rf"\A{ID}\Z")]
    secret: Annotated[str, msgspec.Meta(max_length=64)]
    machine: Annotated[str, msgspec.Meta(max_length=64)]
    request: Pem


class AskRenewal(msgspec.Struct, frozen=True, kw_only=True, tag="renewal", forbid_unknown_fields=True):
    """Another certificate for who shows one in the handshake."""

    request: Pem


class TheAuthority(msgspec.Struct, frozen=True, kw_only=True, tag="authority"):
    """Its certificate."""

    pem: Pem


class Granted(msgspec.Struct, frozen=True, kw_only=True, tag="granted"):
    """A certificate for the key of the request, and what it says."""

    pem: Pem
    machine: str
    until: float
    valid_s: float


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Why not, in a sentence, and what to do."""

    why: str
    mend: str = ""


Ask = AskAuthority | AskJoin | AskRenewal
Answer = TheAuthority | Granted | Refused
