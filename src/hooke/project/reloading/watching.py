"""Sees that files of a project change, by watchfiles."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import watchfiles

from hooke.project.reloading.files import Look, changed, is_source, look

__all__ = ["Watcher"]

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
