"""A saved model: a folder with its files and a manifest of their digests. The manifest's own digest is the model's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from hooke.base.errors import CorruptObject
from hooke.base.files import write_atomic

__all__ = ["MANIFEST", "Manifest", "check_files", "decode", "seal", "size_of"]

MANIFEST = "hooke.json"
_FILE = re.compile(r"\w[\w.-]*")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a model's folder: its format, and the digest of each file by name."""

    format: str
    files: dict[str, str]
    details: dict[str, Any] = {}
    """The format's own data for reading the files."""
    libraries: dict[str, str] = {}
    """Distributions needed to read it, with the versions that wrote it."""
    code: str = ""
    """Fingerprint of the model's class, if it is the project's own."""


def seal(
    folder: Path, *, format: str, details: Mapping[str, Any], code: str, libraries: Mapping[str, str]
) -> tuple[str, Manifest]:
    """Write the manifest of the files in `folder`, and return the model's digest and the manifest. Raises OSError."""
    manifest = Manifest(
        format=format,
        files={file.name: _digest(file) for file in sorted(folder.iterdir())},
        details=dict(details),
        libraries=dict(libraries),
        code=code,
    )
    data = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"))
    write_atomic(folder / MANIFEST, data)
    return blake3(data).hexdigest(), manifest


def decode(data: bytes, digest: str, *, where: str) -> Manifest:
    """The manifest in `data`. Raises CorruptObject unless it has this digest and only names files beside itself."""
    if blake3(data).hexdigest() != digest:
        raise _changed("its manifest was changed", where)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise CorruptObject("a model's manifest cannot be read", where=where, why=str(error)) from error
    strange = [name for name in manifest.files if not _FILE.fullmatch(name)]
    if strange:
        raise CorruptObject(
            "a model's manifest names files outside its folder", where=where, why=", ".join(strange)
        )
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise CorruptObject for a file that is not the one the manifest names."""
    for name, digest in manifest.files.items():
        try:
            found = _digest(folder / name)
        except FileNotFoundError:
            raise _changed(f"{name} is missing", str(folder)) from None
        if found != digest:
            raise _changed(f"{name} was changed", str(folder))


def size_of(folder: Path, manifest: Manifest) -> int:
    """Bytes of the model's files."""
    return sum((folder / name).stat().st_size for name in manifest.files)


def _digest(file: Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest()


def _changed(what: str, where: str) -> CorruptObject:
    return CorruptObject(
        f"a model differs from what was registered: {what}",
        where=where,
        why="the digests differ",
        fix="do not load it, and find out who changed it. A damaged copy in .hooke/models can be removed, so that it is fetched again",
    )
