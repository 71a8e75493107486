"""What of a project a service is made of: its file, what it imports from the project's folder, and hooke.toml."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hooke.project.settings import FILE

__all__ = ["SourceSnapshot", "Sources", "Stamp", "changed_files", "is_source", "snapshot"]


Stamp: TypeAlias = tuple[int, int, int]
"""When it was written (ns), its size, and its number: an editor that saves by renaming makes another file."""

SKIPPED = frozenset({"__pycache__", "mlartifacts", "mlruns", "node_modules", "site-packages"})
VENV = "pyvenv.cfg"
"""Lies in every virtual environment, whatever it is called."""


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """What was there: folders that may hold sources, and the sources."""

    folders: frozenset[Path]
    stamps: Mapping[Path, Stamp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Of a service in `file`, in the project at `root`; both resolved."""

    root: Path
    file: Path

    def counts(self, path: Path, imported: Collection[Path] | None) -> bool:
        """Whether a change of `path` asks for a new version. `imported` is None where nobody knows: then each module may be what is missing."""
        if path in (self.file, self.root / FILE):
            return True
        if path.suffix != ".py" or not self.holds(path):
            return False
        return imported is None or path in imported

    def holds(self, path: Path) -> bool:
        """Whether it is the project's own, by its name."""
        return path.is_relative_to(self.root) and not any(
            _is_skipped(part) for part in path.relative_to(self.root).parts[:-1]
        )

    def own(self, files: Collection[str]) -> frozenset[Path]:
        """Of the files of modules those of the project."""
        paths = (Path(file) for file in files)
        found = (path.parent.resolve() / path.name for path in paths)
        return frozenset(path for path in found if path.suffix == ".py" and self.holds(path))


def snapshot(root: Path) -> SourceSnapshot:
    """Every module and hooke.toml below `root`, without environments, caches and what is hidden."""
    folders: set[Path] = set()
    stamps: dict[Path, Stamp] = {}
    for folder, below, names in os.walk(root):
        if VENV in names:
            below.clear()
            continue
        below[:] = [name for name in below if not _is_skipped(name)]
        here = Path(folder)
        folders.add(here)
        for name in names:
            if is_source(name) and (name != FILE or here == root):
                stamp = _stamp(here / name)
                if stamp is not None:
                    stamps[here / name] = stamp
    return SourceSnapshot(frozenset(folders), stamps)


def is_source(name: str) -> bool:
    """Whether a file of this name, or path, is one that is looked at."""
    return name.endswith(".py") or os.path.basename(name) == FILE


def changed_files(before: SourceSnapshot, after: SourceSnapshot) -> frozenset[Path]:
    """What is new, other or gone."""
    return frozenset(
        path
        for path in before.stamps.keys() | after.stamps.keys()
        if before.stamps.get(path) != after.stamps.get(path)
    )


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in SKIPPED


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:  # it went while we looked, or is a link to nothing
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
