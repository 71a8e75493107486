"""Which distributions are installed, read from the names of their folders; kept once for each set of them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

import msgspec
from blake3 import blake3

from hooke.base.files import write_atomic

__all__ = ["FOLDER", "digest_of", "installed", "keep", "read_kept"]

FOLDER = "environments"
EDITABLE = " (editable)"
"""Follows the version of a distribution whose code lies in somebody's folder, and may change without it."""


def installed(paths: Sequence[str] | None = None) -> dict[str, str]:
    """Distribution -> version, by normal name, of what `paths` (by default sys.path) give; the first of a name counts, as in imports."""
    found: dict[str, str] = {}
    for path in sys.path if paths is None else paths:
        for name, version in _in_folder(path or os.getcwd()):
            found.setdefault(name, version)
    return dict(sorted(found.items()))


def digest_of(distributions: dict[str, str]) -> str:
    """What names them: 32 hex characters."""
    return blake3(msgspec.json.encode(distributions)).hexdigest(length=16)


def keep(folder: Path, distributions: dict[str, str]) -> None:
    """Write them to `<folder>/environments/<digest>.json` unless they are there. Raises OSError."""
    path = folder / FOLDER / f"{digest_of(distributions)}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(distributions))


def read_kept(folder: Path, digest: str) -> dict[str, str] | None:
    """The distributions of that digest; None where they are not there."""
    try:
        return msgspec.json.decode((folder / FOLDER / f"{digest}.json").read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _in_folder(path: str) -> list[tuple[str, str]]:
    try:
        return _listed(path, os.stat(path).st_mtime_ns)
    except OSError:
        return []  # a zip file, a folder that is not there: nothing is imported from it by folders


@lru_cache(maxsize=64)
def _listed(path: str, _changed_ns: int) -> list[tuple[str, str]]:
    with os.scandir(path) as entries:
        folders = [entry.name for entry in entries if entry.name.endswith((".dist-info", ".egg-info"))]
    return sorted(each for name in folders if (each := _read(path, name)) is not None)


def _read(path: str, folder: str) -> tuple[str, str] | None:
    if folder.endswith(".dist-info"):
        name, _, version = folder.removesuffix(".dist-info").partition("-")
        if not version:
            return None
        direct = Path(path, folder, "direct_url.json")
        editable = direct.exists() and b'"editable": true' in direct.read_bytes().replace(
            b'":true', b'": true'
        )
        return _normal(name), version + EDITABLE * editable
    try:
        found = Distribution.at(Path(path, folder))
        return _normal(found.name), found.version
    except (PackageNotFoundError, KeyError, TypeError):
        return None


def _normal(name: str) -> str:
    """As the packaging specification has it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
