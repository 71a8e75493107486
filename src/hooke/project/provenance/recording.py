"""The record of what a run is made of, gathered in a thread beside it: neither its start nor its tasks wait for that."""

from __future__ import annotations

import getpass
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hooke.base.files import write_atomic
from hooke.journal.events import RunMadeOf
from hooke.journal.made_of import MadeOf
from hooke.project.provenance import environment, machine
from hooke.project.provenance.git import GitTrouble, Repository

__all__ = ["DIFF", "Recording", "made_of"]

DIFF = "uncommitted.diff"
MOST_DIFF_BYTES = 1 << 20
JOIN_S = 30.0
"""More than git is given: the record's end is only waited for so that it is in the journal before the run's."""

_log = logging.getLogger("hooke")


class Recording:
    """Gathers the record from `start` on and gives it to `say`; `join` waits for it. No trouble of it ends the run."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        say: Callable[[RunMadeOf], None],
        *,
        seed: int = 0,
        script: bool = False,
    ) -> None:
        """`root` is the project's folder, `folder` the run's."""
        self._root = root
        self._folder = folder
        self._say = say
        self._argv = tuple(sys.argv[1:]) if script else ()
        self._seed = seed
        self._thread: threading.Thread | None = None

    def start(self, files: Mapping[str, str] | None = None) -> None:
        """Begin. `files` are those whose content is part of the run: path -> key."""
        self._thread = threading.Thread(
            target=self._gather, args=(dict(files or {}),), name="hooke-made-of", daemon=True
        )
        self._thread.start()

    def join(self, *, patience_s: float = JOIN_S) -> None:
        """Wait until the record is in the journal, or was given up."""
        if self._thread is not None:
            self._thread.join(patience_s)

    def _gather(self, files: dict[str, str]) -> None:
        try:
            record = made_of(self._root, self._folder, files=files, seed=self._seed, argv=self._argv)
            self._say(RunMadeOf(record=record))
        except Exception as error:  # noqa: BLE001 - a run must not end for its record, whatever it is
            _log.warning("what run %s is made of is not recorded: %s", self._folder.name, error)


def made_of(
    root: Path,
    folder: Path | None,
    *,
    files: Mapping[str, str] | None = None,
    seed: int = 0,
    argv: tuple[str, ...] = (),
) -> MadeOf:
    """What a run of the project in `root` would be made of now. With the run's `folder` its parts are kept, too.

    What cannot be known is said in `trouble`. Raises OSError where the disk refuses.
    """
    began = time.perf_counter()
    distributions = environment.installed()
    digest = environment.digest_of(distributions)
    if folder is not None:
        environment.keep(folder.parent.parent, distributions)
    code = _code(root, folder)
    return MadeOf(
        environment=digest,
        interpreter=machine.interpreter(),
        threads=machine.threads(),
        hardware=machine.hardware(),
        files=dict(files or {}),
        seed=seed,
        argv=argv,
        user=_user(),
        seconds=time.perf_counter() - began,
        **code,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return ""


def _code(root: Path, folder: Path | None) -> dict[str, Any]:
    repository = Repository.around(root)
    if repository is None:
        return {"trouble": f"{root} lies in no git repository"}
    top: dict[str, Any] = {"root": str(repository.root), "paths": _paths_in(repository.root)}
    try:
        taken = repository.snapshot()
    except GitTrouble as error:
        return top | {"trouble": f"{error.what}: {error.why}" if error.why else error.what}
    kept = bool(taken.diff) and folder is not None
    if kept:
        assert folder is not None
        write_atomic(folder / DIFF, taken.diff[:MOST_DIFF_BYTES])
    return top | {
        "tree": taken.tree,
        "commit": taken.commit,
        "branch": taken.branch,
        "dirty": taken.dirty,
        "remote": taken.remote,
        "left_out": taken.left_out,
        "diff": DIFF if kept else "",
        "diff_bytes": len(taken.diff),
    }


def _paths_in(root: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for path in sys.path if path and Path(path).is_relative_to(root)))
