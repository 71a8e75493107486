"""From a URL to the parts of a store: a backend, and claims that suit it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from blake3 import blake3

from hooke.base.clock import Clock
from hooke.base.errors import StoreError, UsageError
from hooke.base.registry import Registry
from hooke.store.backend import Backend
from hooke.store.claims import Claims, FileClaims, ListedClaims
from hooke.store.leases import LeaseClaims
from hooke.store.range_claims import RangeClaims, has_range_locks

__all__ = ["BACKENDS", "Place", "open_place"]

BACKENDS = Registry(
    "hooke.stores",
    {
        "folder": "hooke.store.backends.folder:FolderBackend",
        "memory": "hooke.store.backends.memory:MemoryBackend",
        "remote": "hooke.store.backends.remote:RemoteBackend",
    },
    {"remote": "remote"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a Store is made of."""

    backend: Backend
    claims: Claims
    live: ListedClaims


def open_place(url: str | PathLike[str], *, secret: bytes | None, near: Path, clock: Clock) -> Place:
    """The parts of the store at `url`; see Store.open."""
    text = os.fspath(url)
    scheme, mark, path = text.partition("://")
    if not mark or scheme == "file":
        return _folder(Path(path if mark else text))
    if secret is None:
        raise _no_secret(text)
    return _remote(text, near, clock)


def _folder(folder: Path) -> Place:
    backend: Backend = BACKENDS.load("folder")(folder)
    claims = RangeClaims(folder / "claims.lock") if has_range_locks() else FileClaims(folder / "claims")
    return Place(backend=backend, claims=claims, live=FileClaims(folder / "live"))


def _remote(url: str, near: Path, clock: Clock) -> Place:
    scheme = url.partition("://")[0]
    # A plug-in named as the scheme comes before fsspec, and is made the same way.
    remote = BACKENDS.load(scheme if scheme in set(BACKENDS.names()) - BACKENDS.builtin.keys() else "remote")
    _make_private(near)
    copies: Any = BACKENDS.load("folder")(near / blake3(url.encode()).hexdigest(16))
    backend: Backend = remote(url, copies)
    return Place(
        backend=backend,
        claims=LeaseClaims(backend, "claims", clock),
        live=LeaseClaims(backend, "live", clock),
    )


def _make_private(folder: Path) -> None:
    """Make the folder, and refuse one that others can write to: what was checked once is not checked again there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.stat()
    if facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o022:
        raise StoreError(
            f"others can write to {folder}, where copies of a remote store are to be kept",
            why="copies are trusted once their signature was checked",
            mend=f"chmod 700 {folder}, as its owner, or name another folder",
        )


def _no_secret(url: str) -> UsageError:
    return UsageError(
        f"the store {url} is refused: no secret is given for it",
        why="results can hold code that runs when they are opened, so those of a shared store must be signed",
        mend="give the store a secret of 16 bytes or more that all its users share, such as the output of "
        '`python -c "import secrets; print(secrets.token_hex(32))"`, or use a folder of your own',
    )
