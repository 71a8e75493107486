"""What of a project a service is made of: its file, what it imports from the project's folder, and hooke.toml."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import watchfiles

from hooke.project.settings import FILE

__all__ = ["Look", "Sources", "Stamp", "Watcher", "changed", "is_source", "look"]


Stamp: TypeAlias = tuple[int, int, int]
"""When it was written (ns), its size, and its number: an editor that saves by renaming makes another file."""

SKIPPED = frozenset({"__pycache__", "mlartifacts", "mlruns", "node_modules", "site-packages"})
VENV = "pyvenv.cfg"
"""Lies in every virtual environment, whatever it is called."""


@dataclass(frozen=True, slots=True)
class Look:
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


def look(root: Path) -> Look:
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
    return Look(frozenset(folders), stamps)


def is_source(name: str) -> bool:
    """Whether a file of this name, or path, is one that is looked at."""
    return name.endswith(".py") or os.path.basename(name) == FILE


def changed(before: Look, after: Look) -> frozenset[Path]:
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


# --- Sees that files of a project change, by watchfiles.

STEP_MS = 100
"""So long nothing more is written, and the change is whole: a checkout writes file after file."""
MOST_MS = 2000
"""And so long at most."""
TURN_MS = 500
"""How soon it sees that it is to stop."""


class Watcher:
    """A thread that calls `seen` with what is new, other or gone below `root`, from `start` on; with what ended it instead, if something did."""

    def __init__(self, root: Path, seen: Callable[[frozenset[Path] | OSError], None]) -> None:
        self._root = root
        self._seen = seen
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hooke-watch", daemon=True)
        self._before = Look(frozenset(), {})

    def start(self) -> None:
        """From now on nothing is missed."""
        self._before = look(self._root)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._before.folders:
                    self._watch(self._before.folders)
                else:  # the project's folder is gone, and may come back
                    self._stop.wait(TURN_MS / 1000)
                    self._look()
            except FileNotFoundError:  # a folder went before it was watched
                self._look()
            except (OSError, RuntimeError) as error:
                self._seen(error if isinstance(error, OSError) else OSError(str(error)))
                return

    def _watch(self, folders: frozenset[Path]) -> None:
        """Until there are other folders. Folders are watched one by one: those of environments and caches would be too many."""
        turns = watchfiles.watch(
            *folders,
            watch_filter=lambda _change, path: (
                is_source(path) or Path(path) in folders or os.path.isdir(path)
            ),
            debounce=MOST_MS,
            step=STEP_MS,
            stop_event=self._stop,
            rust_timeout=TURN_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
        )
        first = True
        for events in turns:
            if (events or first) and self._look() != folders:
                return
            first = False  # what was written between the look and the watch has been seen now

    def _look(self) -> frozenset[Path]:
        after = look(self._root)
        different = changed(self._before, after)
        self._before = after
        if different:
            self._seen(different)
        return after.folders
