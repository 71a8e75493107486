"""The tracker: logs from one process into one run."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from operator import index
from pathlib import Path, PurePosixPath
from typing import Any

from hooke.base.clock import SystemClock
from hooke.base.errors import HookeError, UsageError
from hooke.base.files import write_atomic
from hooke.base.forks import on_fork
from hooke.journal.events import ArtifactLogged, Event, NotesLogged, PointsLogged
from hooke.journal.writer import Durability, Journal
from hooke.tracking.logged_values import SUFFIX, DroppedCallCounter
from hooke.tracking.mlflow_runs import MlflowPlace, direct_mlflow

__all__ = [
    "ARTIFACTS",
    "MUTED",
    "PREFIX",
    "Muted",
    "Tracker",
    "active",
    "current",
    "enter",
    "leave",
    "logging_into",
]


PREFIX = "track-"
"""The prefix of the names of segments with logged values."""
ARTIFACTS = "artifacts"
"""The folder of artifacts in a run's folder."""

_Step = int | None


class Tracker:
    """Logs from one process into the run of one folder: a segment and artifacts. It creates nothing before the first call.

    No method raises if it cannot log, not even `close`; `dropped` counts such calls. Values belong to the current
    `attempt` and `item`, and to the run itself if these are None. Threads may share it; a forked child has its own
    segment, and continues the steps from the fork.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        durable: Durability = "group",
        held: bool = False,
        mlflow: MlflowPlace | None = None,
    ) -> None:
        """`mlflow`: where MLflow's own calls in a task log. None leaves them to MLflow."""
        self.folder = folder
        self.mlflow = mlflow
        self.attempt: int | None = None
        self.item: int | None = None
        self._name = name
        self.dropped = self._count()
        self._durable: Durability = durable
        self._journal: Journal | None = None
        self._held: list[Event] | None = [] if held else None
        self._closed = False
        self._opening = threading.Lock()
        self._steps: dict[tuple[int | None, int | None, str], Iterator[int]] = {}
        on_fork(self)
        if mlflow is not None:
            direct_mlflow(_tracker_here)

    @property
    def key(self) -> str:
        """The permanent name of what it logs into now, as in trackers: `<run>/<attempt>/<item>`."""
        run = self.mlflow.run if self.mlflow is not None else self.folder.name
        parts = (run, self.attempt, self.item) if self.attempt is not None else (run,)
        return "/".join(str(part) for part in parts if part is not None)

    @property
    def segment(self) -> str:
        """The name of this process's segment."""
        return f"{PREFIX}{self._name}-{os.getpid()}"

    def log_metric(self, name: str, value: Any, step: _Step = None) -> None:
        """One value of a metric; without a step, the next one of that name."""
        try:
            self._points(((_named(name), float(value), self._step(name, step)),))
        except Exception as error:  # noqa: BLE001 - a training loop must not end for its log
            self._refuse(1, error, f"metric {name!r}")

    def log_metrics(self, values: Mapping[str, Any], step: _Step = None) -> None:
        """Values of several metrics, in one record."""
        try:
            self._points(
                tuple((_named(name), float(value), self._step(name, step)) for name, value in values.items())
            )
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(_length(values), error, "metrics")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters, kept as text."""
        try:
            self._notes(params=_as_text(params))
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(_length(params), error, "parameters")

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Tags, kept as text."""
        try:
            self._notes(tags=_as_text(tags))
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(_length(tags), error, "tags")

    def log_files(self, source: Path, name: str | None = None) -> None:
        """A copy of a file, or of all files below a folder."""
        try:
            if source.is_dir():
                files = sorted(each for each in source.rglob("*") if each.is_file())
                paths = [f"{name or source.name}/{each.relative_to(source).as_posix()}" for each in files]
            else:
                files, paths = [source], [name or source.name]
            for file, path in zip(files, paths, strict=True):
                self._keep(path, lambda target, file=file: shutil.copyfile(file, target))
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(1, error, f"artifact {str(source)!r}")

    def log_made(self, name: str, make: Callable[[], bytes]) -> None:
        """A file whose content `make` returns."""
        try:
            data = make()
            self._keep(name, lambda target: write_atomic(target, data))
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(1, error, f"artifact {name!r}")

    def begin(self) -> None:
        """Write the held events: with `held`, nothing is written before this call. Files cannot be held."""
        held, self._held = self._held or [], None
        for event in held:
            try:
                self._append(event)
            except Exception as error:  # noqa: BLE001 - as above
                self._refuse(1, error, "what the pipeline's body logged")
        if self.dropped.total is not None:
            with contextlib.suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
            self.dropped.keep()

    def close(self) -> None:
        """Sync and close. Later calls are dropped."""
        self._closed = True
        journal, self._journal = self._journal, None
        if journal is not None:
            try:
                journal.close()
            except Exception as error:  # noqa: BLE001 - as above
                self._refuse(1, error, "the end of what was logged")
        self.dropped.close()

    def after_fork(self) -> None:
        """In a child: begin an own segment, and an own count of dropped calls."""
        self._opening = threading.Lock()
        self._journal = None
        self.dropped = self._count()

    def _count(self) -> DroppedCallCounter:
        return DroppedCallCounter(self.folder / f".{self.segment}{SUFFIX}")

    def _step(self, name: str, step: _Step) -> int:
        if step is not None:
            return index(step)
        key = (self.attempt, self.item, name)
        counter = self._steps.get(key)
        if counter is None:
            counter = self._steps.setdefault(key, itertools.count())
        return next(counter)

    def _points(self, points: tuple[tuple[str, float, int], ...]) -> None:
        self._append(PointsLogged(at=time.time(), points=points, attempt=self.attempt, item=self.item))

    def _notes(self, **notes: dict[str, str]) -> None:
        self._append(NotesLogged(at=time.time(), attempt=self.attempt, item=self.item, **notes))

    def _append(self, event: Event) -> None:
        if self._held is not None:
            self._held.append(event)
            return
        journal = self._journal
        if journal is None:
            journal = self._opened()
        journal.append(event)

    def _opened(self) -> Journal:
        with self._opening:
            if self._closed:
                raise UsageError("the run has ended")
            if self._journal is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                # Before the segment, because there may be no room for that.
                with contextlib.suppress(OSError):
                    self.dropped.reserve()
                self._journal = Journal.create(
                    self.folder, self.segment, durable=self._durable, clock=SystemClock()
                )
            return self._journal

    def _keep(self, path: str, write: Callable[[Path], object]) -> None:
        if self._held is not None:
            raise UsageError(
                "the run has no folder yet while the pipeline's body is traced: log files inside a task"
            )
        attempt, item = self.attempt, self.item
        owner = "run" if attempt is None else f"{attempt}" if item is None else f"{attempt}-{item}"
        file = Path(ARTIFACTS, owner, *_parts(path))
        target = self.folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            write(whole)
            size = whole.stat().st_size
            whole.replace(target)
        except BaseException:
            whole.unlink(missing_ok=True)
            raise
        self._append(
            ArtifactLogged(
                at=time.time(),
                path=str(PurePosixPath(path)),
                file=file.as_posix(),
                size=size,
                attempt=attempt,
                item=item,
            )
        )

    def _refuse(self, calls: int, error: Exception, what: str) -> None:
        if isinstance(error, HookeError):
            why = f"{error.what}: {error.why}" if error.why else error.what
        else:
            why = f"{type(error).__name__}: {error}"
        if self._held is None:
            with contextlib.suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
        self.dropped.add(calls, f"{what}: {why}", time.time())


def _named(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise UsageError(f"a name must be non-empty text, not {name!r}")
    return name


def _as_text(notes: Mapping[str, Any]) -> dict[str, str]:
    return {_named(name): str(value) for name, value in notes.items()}


def _parts(path: str) -> tuple[str, ...]:
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or PurePosixPath(path).is_absolute():
        raise UsageError(f"{path!r} is not a relative path inside the run's artifacts")
    return parts


def _length(values: Any) -> int:
    return max(len(values), 1) if isinstance(values, Mapping) else 1


# --- The current tracker: set by code that runs user code, used by each call that logs.

_logger = logging.getLogger("hooke")


class Muted:
    """Replaces a tracker when logged values must be dropped: in a measurement, or in a debugger's rerun."""


MUTED = Muted()


_here: ContextVar[Tracker | Muted | None] = ContextVar("hooke_tracker", default=None)
"""The tracker of this thread or coroutine: the serial engine runs tasks of several runs in threads of one process."""
_process: list[Tracker | Muted] = []
"""The trackers of the process, of which the last one counts: threads of a task inherit no context variable."""
_said = False


def current(call: str) -> Tracker | None:
    """The tracker for `call`; None if nothing is to be logged. Warns once a process if there is no run."""
    tracker = active()
    if isinstance(tracker, Tracker):
        return tracker
    if tracker is None:
        _say_nowhere(call)
    return None


def enter(tracker: Tracker | Muted) -> None:
    """Log into this tracker from now on, in all threads of the process without a tracker of their own."""
    _process.append(tracker)


def leave(tracker: Tracker | Muted) -> None:
    """Stop logging into this tracker."""
    _process.remove(tracker)


@contextmanager
def logging_into(tracker: Tracker | Muted) -> Iterator[None]:
    """Inside, log into this tracker: in this thread, and in threads without a tracker of their own."""
    enter(tracker)
    token = _here.set(tracker)
    try:
        yield
    finally:
        _here.reset(token)
        leave(tracker)


def _tracker_here() -> Tracker | None:
    tracker = active()
    return tracker if isinstance(tracker, Tracker) else None


def active() -> Tracker | Muted | None:
    """The tracker that this process logs into now."""
    return _here.get() or (_process[-1] if _process else None)


def _say_nowhere(call: str) -> None:
    global _said  # noqa: PLW0603 - once a process
    if not _said:
        _said = True
        _logger.warning(
            "%s() was called outside a run, so nothing is logged. hooke.start_run() starts a run of a plain script",
            call,
        )
