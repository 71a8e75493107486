"""Machines of a fleet, certified without any exchange."""

import time
from pathlib import Path

from hooke.certificates.authority import Authority, new_key, pem_of
from hooke.certificates.key_files import CA_KEY, CertificateFacts, Keys

__all__ = ["certified"]


def certified(
    authority: Authority,
    data: Path,
    machine: str,
    *,
    valid_s: float = 3600.0,
    at: str = "",
    own: bool = False,
) -> Keys:
    """Keys below a project's `.hooke` folder `data`; `own` if the authority's key lies beside them."""
    now, key = time.time(), new_key()
    certificate = authority.certify(machine, key.public_key(), now=now, valid_s=valid_s)
    keys = Keys.of(data, authority.fleet)
    keys.create(
        ca=authority.pem,
        machine=certificate + pem_of(key),
        facts=CertificateFacts(
            fleet=authority.fleet, machine=machine, until=now + valid_s, valid_s=valid_s, at=at
        ),
        more={CA_KEY: authority.key_pem} if own else None,
    )
    return keys
