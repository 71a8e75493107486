"""Who takes part in a fleet of the project: its authority, tokens, and this machine's keys."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hooke.base.errors import MissingExtra, UsageError
from hooke.certificates.address import Address
from hooke.certificates.keys import CA_KEY, Facts, Keys
from hooke.certificates.tokens import Token
from hooke.project.folder import Project

if TYPE_CHECKING:
    from hooke.certificates.admission import Admission
    from hooke.certificates.service import Told

__all__ = [
    "admission_of",
    "join_fleet",
    "keys_of",
    "let_in",
    "machine_name",
    "make_authority",
    "make_token",
    "renew_keys",
]


def keys_of(project: Project, fleet: str) -> Keys:
    """Those of this machine, whether or not there are any. Raises UsageError for what is no name of a fleet."""
    return Keys.of(project.data, fleet)


def machine_name() -> str:
    """This machine's, made of its host name as names of machines are."""
    words = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().partition(".")[0].lower())
    return words.strip("-")[:40].strip("-") or "machine"


def make_authority(project: Project, fleet: str, *, valid_s: float) -> Keys:
    """Make a fleet's authority, and this machine's certificate, which lasts as long. Raises UsageError where there are keys, MissingExtra, HookeError."""
    with _cryptography():
        from hooke.certificates.authority import Authority, new_key, pem_of
    now, key, machine = time.time(), new_key(), machine_name()
    authority = Authority.make(fleet, now=now, valid_s=valid_s)
    certificate = authority.certify(machine, key.public_key(), now=now, valid_s=valid_s)
    project.create()
    keys = keys_of(project, fleet)
    keys.create(
        ca=authority.pem,
        machine=certificate + pem_of(key),
        facts=Facts(fleet=fleet, machine=machine, until=authority.until, valid_s=valid_s),
        more={CA_KEY: authority.key_pem},
    )
    return keys


def admission_of(project: Project, fleet: str) -> Admission:
    """Who lets machines in. Raises UsageError where this machine does not have the authority's key, MissingExtra."""
    with _cryptography():
        from hooke.certificates.admission import Admission
        from hooke.certificates.authority import Authority
    keys = keys_of(project, fleet)
    facts = keys.good(time.time())
    if facts.at:
        raise UsageError(
            f"the authority of the fleet {fleet} is on another machine",
            where=str(keys.folder),
            mend=f"do it there: this machine joined by {facts.at}",
        )
    return Admission(Authority.read(fleet, keys.folder), keys.folder)


def make_token(project: Project, fleet: str, *, open_s: float, valid_s: float) -> Token:
    """A token that lets one machine in. Raises as `admission_of`."""
    admission = admission_of(project, fleet)
    pin = admission.authority.fingerprint
    return admission.tokens.make(fleet, pin, now=time.time(), open_s=open_s, valid_s=valid_s)


def let_in(project: Project, fleet: str, address: Address, *, for_s: float | None, tell: Told) -> int:
    """Let machines in at an address, for so long or while there is an open token; how many came. Raises as `admission_of`, and as `admit`."""
    admission = admission_of(project, fleet)
    from hooke.certificates.service import admit, listen

    now = time.time()
    if for_s is None and not admission.tokens.open(now):
        raise UsageError(
            f"there is no open token of the fleet {fleet}, so nobody could join",
            mend=f"hooke fleet token {fleet}; or stay without one, to renew certificates: --for 8h",
        )
    listener = listen(address)
    tell(f"machines may join the fleet {fleet} at {Address(address.host, listener.getsockname()[1])}")
    return admit(admission, listener, until=None if for_s is None else now + for_s, tell=tell)


def join_fleet(project: Project, address: Address, token: Token, *, machine: str) -> Facts:
    """Have this machine certified. Raises UsageError where it is refused, MissingExtra, HookeError where nobody answers."""
    with _cryptography():
        from hooke.certificates.joining import join
    project.create()
    return join(address, token, keys_of(project, token.fleet), machine=machine)


def renew_keys(keys: Keys) -> Facts:
    """Another certificate for one that is good. Raises UsageError where it is refused, MissingExtra, HookeError where nobody answers."""
    with _cryptography():
        from hooke.certificates.joining import renew
    facts = keys.good(time.time())
    if not facts.at:
        raise UsageError(
            f"this machine has the authority of the fleet {facts.fleet}: its certificate lasts as long"
        )
    return renew(keys)


@contextmanager
def _cryptography() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise MissingExtra(
            "the keys of a fleet need cryptography, which is not installed",
            why=str(error),
            mend='pip install "hooke[dask]"',
        ) from error
