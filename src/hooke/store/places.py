"""From a URL to the parts of a store: a backend, and claims that suit it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from hooke.base.errors import UsageError
from hooke.base.registry import Registry
from hooke.store.backend import Backend
from hooke.store.claims import Claims, FileClaims

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
    live: Claims


def open_place(url: str | PathLike[str], secret: bytes | None) -> Place:
    """The parts of the store at `url`: a folder or `file://` URL, else what fsspec knows. Raises UsageError, MissingExtra."""
    text = os.fspath(url)
    scheme, mark, path = text.partition("://")
    if not mark or scheme == "file":
        folder = Path(path if mark else text)
        backend: Backend = BACKENDS.load("folder")(folder)
        return Place(backend=backend, claims=FileClaims(folder / "claims"), live=FileClaims(folder / "live"))
    raise UsageError("remote")
