"""The project's code on its way to machines that do not have it: an archive, by its content.

It holds the packages that this process has imported of the project, whole, and the modules beside those that are none's.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from hooke.base.errors import StoreError, UsageError
from hooke.keys.local import origin_of

__all__ = ["MOST_BYTES", "pack_code", "private_folder", "unpack_code"]

MOST_BYTES = 64 << 20
"""Code of that size has data in it, which is not to be sent with each run."""

_SKIPPED = {"__pycache__", "node_modules"}


def pack_code() -> bytes:
    """The archive, the same for the same files; raises UsageError where it is too large."""
    out = io.BytesIO()
    size = 0
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(_files().items()):
            data = path.read_bytes()
            size += len(data)
            if size > MOST_BYTES:
                raise UsageError(
                    f"the project's code is larger than {MOST_BYTES >> 20} MiB, too large to be sent to workers",
                    where=str(path),
                    mend="keep data outside of its packages, and read it from where workers can reach it",
                )
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def unpack_code(data: bytes) -> str:
    """The folder in which the archive lies unpacked, to be put on `sys.path`. Others cannot write to it."""
    folder = private_folder("code") / blake3(data).hexdigest(16)
    if folder.is_dir():
        return str(folder)
    beside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(beside, filter="data")
        beside.rename(folder)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        if not folder.is_dir():  # else another process was faster
            raise
    return str(folder)


def private_folder(name: str) -> Path:
    """A folder of this user for what is Hooke's on this machine, in that for temporary files."""
    above = Path(tempfile.gettempdir(), f"hooke-{os.getuid()}")
    for folder in (above, above / name):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()  # a link that is another's could lead elsewhere in the next moment
        ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
        if not ours or stat.S_IMODE(facts.st_mode) & 0o022:
            raise StoreError(
                f"others can write to {folder}, from which code is to be run",
                mend=f"chmod 700 {folder}, as its owner, or set TMPDIR to another folder",
            )
    return folder


def _files() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for top, folder in _tops():
        if top and (folder / top).is_dir():
            found |= {path.relative_to(folder).as_posix(): path for path in _below(folder / top)}
        else:
            found |= {path.name: path for path in folder.glob("*.py") if path.is_file()}
    return found


def _tops() -> set[tuple[str, Path]]:
    """Top-level names of the project's modules that this process has, with the folders that they were found in."""
    tops: set[tuple[str, Path]] = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or not str(file).endswith(".py") or not origin_of(name, file).local:
            continue
        if name == "__main__":  # it goes by value; what it may import lies beside it
            tops.add(("", Path(file).resolve().parent))
            continue
        path = Path(file).resolve()
        parts = name.split(".")
        up = len(parts) if path.name == "__init__.py" else len(parts) - 1
        tops.add((parts[0], path.parent if up == 0 else path.parents[up]))
    return {(top, folder) for top, folder in tops if top or _on_path(folder)}


def _on_path(folder: Path) -> bool:
    return str(folder) in {os.path.realpath(each) for each in sys.path}


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _SKIPPED:
            continue
        if path.is_dir():
            yield from _below(path)
        elif path.is_file():
            yield path
