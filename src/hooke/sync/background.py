"""The project's shipper as a separate process: `python -m hooke.sync.background FOLDER`.

Each project has at most one. It outlives the run that started it, retries while a tracker is unavailable, and ends by itself.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Self

from hooke.base.distributions import Plugins
from hooke.base.errors import ConfigError, HookeError
from hooke.base.files import FileLock
from hooke.base.later import LATER, LaterWork
from hooke.processes.start import python_module
from hooke.project.folder import Project
from hooke.project.settings import FILE, refuse_unknown
from hooke.sinks.sink import Sink
from hooke.sync.outbox import has_logged
from hooke.sync.shipper import Shipper

__all__ = ["LOCK", "LOG", "SINKS", "Shipping", "ensure_shipper", "main", "open_sinks", "sink_names"]


# --- The sinks of a project.

SINKS = Plugins(
    "hooke.sinks",
    {"comet": "hooke.sinks.comet:CometSink", "mlflow": "hooke.sinks.mlflow:MlflowSink"},
    extras={"comet": "comet", "mlflow": "mlflow"},
)

VARIABLE = "HOOKE_SINKS"
"""Names of sinks, separated by commas, or `none`. Overrides hooke.toml."""


def sink_names(project: Project) -> tuple[str, ...]:
    """The names of the project's sinks. Imports none of them."""
    if (said := os.environ.get(VARIABLE)) is not None:
        return tuple(name for each in said.split(",") if (name := each.strip()) not in ("", "none"))
    listed = project.settings.tracking.sinks
    if listed is not None:
        return listed
    return ("mlflow",) if find_spec("mlflow") is not None else ()


def open_sinks(project: Project) -> dict[str, Sink]:
    """The project's sinks, opened. Raises MissingExtra, UsageError for an unknown name, ConfigError for an unknown option."""
    opened: dict[str, Sink] = {}
    with ExitStack() as undo:
        for name in sink_names(project):
            kind, options = SINKS.load(name), project.settings.tracking.options.get(name, {})
            _check(project, name, kind, options)
            try:
                opened[name] = kind(project.root, **options)
            except TypeError as error:
                raise ConfigError(f"hooke.toml: [tracking.{name}]: {error}") from error
            undo.callback(opened[name].close)
        undo.pop_all()
    return opened


def _check(project: Project, name: str, kind: Callable[..., Sink], options: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key of `[tracking.NAME]` that the sink does not accept."""
    _, *taken = signature(kind).parameters.values()
    if not any(each.kind is Parameter.VAR_KEYWORD for each in taken):
        refuse_unknown(project.root / FILE, f"tracking.{name}.", options, [each.name for each in taken])


LOCK = "shipper.lock"
LOG = "shipper.log"
IDLE_S = 2.0
PATIENCE_S = 600.0
"""How long after the last run it retries an unavailable tracker. `hooke sync`, or the next run, continues."""
NICE = 10
POLL_S = 2.0
"""Seconds between two checks whether a run has something to send."""

_started: list[subprocess.Popen[bytes]] = []


def ensure_shipper(project: Project, folder: Path) -> None:
    """Start the project's shipper if the run in `folder` logged anything and no shipper is running. Never waits for it.

    If the disk has no room for its log, none starts: the next run, or `hooke sync`, sends the data.
    """
    if not has_logged(folder) or not sink_names(project) or FileLock(project.data / LOCK).taken():
        return
    _started[:] = [process for process in _started if process.poll() is None]  # reaps zombies
    try:
        with (project.data / LOG).open("ab") as log:
            _started.append(
                subprocess.Popen(
                    python_module("hooke.sync.background", str(project.root)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
    except OSError as error:
        logging.getLogger("hooke").warning(
            "nothing is sent to trackers now: %s; hooke sync does it later", error
        )


class Shipping:
    """Keeps a shipper running during a run, and starts one at its end, if there is something to send. Use it in `with`."""

    def __init__(self, project: Project, folder: Path) -> None:
        self._project = project
        self._folder = folder
        self._ended = threading.Event()
        self._later: LaterWork | None = None

    def __enter__(self) -> Self:
        self._later = LATER.after(POLL_S, self._look, name="hooke-shipping")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._later is not None:
            self._later.cancel()
        ensure_shipper(self._project, self._folder)

    def _look(self) -> None:
        while not self._ended.is_set():
            ensure_shipper(self._project, self._folder)
            self._ended.wait(POLL_S)


def main(folder: Path) -> int:
    """Send everything of the project, until nothing is left or a tracker is unavailable for too long."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    project = Project.at(folder)
    lock = FileLock(project.data / LOCK)
    if not lock.try_acquire():
        return 0
    os.nice(NICE)
    try:
        with Shipper(runs=project.runs, sinks=open_sinks(project)) as shipper:
            done = shipper.follow(idle_s=IDLE_S, patience_s=PATIENCE_S)
    except HookeError as error:
        logging.getLogger("hooke.ship").log(logging.ERROR, "%s", error)
        return 1
    finally:
        lock.release()
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
