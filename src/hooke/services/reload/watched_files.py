"""The source files of a service: its file, the project's modules that it imports, and hooke.toml."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hooke.project.settings import FILE

__all__ = ["SourceSnapshot", "Sources", "Stamp", "changed_files", "is_source", "snapshot"]


Stamp: TypeAlias = tuple[int, int, int]
"""Modification time (ns), size and inode: an editor that saves by renaming makes another file."""

SKIPPED = frozenset({"__pycache__", "mlartifacts", "mlruns", "node_modules", "site-packages"})
VENV = "pyvenv.cfg"
"""The file in every virtual environment, whatever the folder is called."""


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """Folders that may hold sources, and the sources in them."""

    folders: frozenset[Path]
    stamps: Mapping[Path, Stamp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of a service in `file`, in the project at `root`; both paths resolved."""

    root: Path
    file: Path

    def counts(self, path: Path, imported: Collection[Path] | None) -> bool:
        """Whether a change of `path` needs a new version. `imported` is None if unknown: any module may then be the missing one."""
        if path in (self.file, self.root / FILE):
            return True
        if path.suffix != ".py" or not self.holds(path):
            return False
        return imported is None or path in imported

    def holds(self, path: Path) -> bool:
        """Whether a path belongs to the project, by its name."""
        return path.is_relative_to(self.root) and not any(
            _is_skipped(part) for part in path.relative_to(self.root).parts[:-1]
        )

    def own(self, files: Collection[str]) -> frozenset[Path]:
        """The project's own files among those of modules."""
        paths = (Path(file) for file in files)
        found = (path.parent.resolve() / path.name for path in paths)
        return frozenset(path for path in found if path.suffix == ".py" and self.holds(path))


def snapshot(root: Path) -> SourceSnapshot:
    """All modules and hooke.toml below `root`, except in environments, caches and hidden folders."""
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
    """Whether a file with this name or path is watched."""
    return name.endswith(".py") or os.path.basename(name) == FILE


def changed_files(before: SourceSnapshot, after: SourceSnapshot) -> frozenset[Path]:
    """The paths that are new, changed or gone."""
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
    except OSError:  # it is gone by now, or a broken link
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
