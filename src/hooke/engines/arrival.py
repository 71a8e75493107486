"""What a machine finds out when a run begins to use it: what it shares with the driver, and whether it can run tasks at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from blake3 import blake3

from hooke.base.errors import HookeError, StoreError
from hooke.base.ref import Ref
from hooke.engines.environment import versions_here
from hooke.engines.host_messages import Session
from hooke.engines.project_code import private_folder, unpack_code
from hooke.store.store import Store

__all__ = ["Arrival", "Probe", "arrive", "probe_bytes"]

_PROBE_BYTES = 80 * 1024
"""Larger than what travels inside a reference."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver leaves for a machine to find."""

    file: str
    """A file in the run's folder."""
    nonce: str
    """What that file holds."""
    stored: Ref
    """An object in the store."""
    code: Ref
    """The project's code, in the store or in here."""
    python: str
    """The driver's interpreter."""
    names: tuple[str, ...]
    """Distributions whose versions are asked."""


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine found."""

    shares: bool
    """The run's folder is there."""
    alike: bool
    """And so is the driver's interpreter: modules are found where the driver finds them."""
    versions: Mapping[str, str]
    stored: Ref | None = None
    """An object that it stored, for the driver to read."""
    trouble: str = ""
    """Why it cannot use the store."""


def probe_bytes(place: str) -> bytes:
    """An object that only this machine stores there, the same each time: it is stored once."""
    return blake3(f"hooke probe {os.uname().nodename} {place}".encode()).digest(_PROBE_BYTES)


def arrive(session: Session, probe: Probe) -> tuple[Session, Arrival]:
    """Look around; the session as it is to be here: with folders of its own and the code that was brought, where it must."""
    shares = _reads(probe.file) == probe.nonce
    alike = shares and os.path.realpath(sys.executable) == probe.python
    store = Store.open(session.store, secret=session.secret)
    try:
        store.get(probe.stored)
        stored = store.put(probe_bytes(session.store))
        path = session.sys_path if alike else [unpack_code(store.get(probe.code)), *sys.path]
    except (HookeError, OSError) as error:
        trouble = error.what if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        return session, Arrival(
            shares=shares,
            alike=alike,
            versions=versions_here(probe.names),
            trouble=trouble.partition("\n")[0],
        )
    here = msgspec.structs.replace(session, sys_path=path, fixed_path=not alike)
    if not shares:
        own = (
            private_folder("runs") / f"{session.id}-{os.getpid()}"
        )  # of several on one machine, each its own
        work = own / "work"
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        here = msgspec.structs.replace(
            here,
            logs=str(own / "logs"),
            folder=str(work),
            tracking=None if session.tracking is None else str(own),
        )
    return here, Arrival(shares=shares, alike=alike, versions=versions_here(probe.names), stored=stored)


def _reads(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
