"""The tracker: logs from one process into one run."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cached_property
from operator import index
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal, NamedTuple

import msgspec

from hooke.base.background_fsync import Durability
from hooke.base.clock import SystemClock
from hooke.base.errors import HookeError, UsageError
from hooke.base.files import write_atomic
from hooke.base.formats import short_repr
from hooke.base.this_process import on_fork, set_variables, variables_here
from hooke.journal.events import ArtifactLogged, Event, NotesLogged, PointsLogged
from hooke.journal.writer import Journal
from hooke.tracking.logged_values import SUFFIX, DroppedCallCounter
from hooke.tracking.mlflow_runs import MlflowPlace, direct_mlflow

__all__ = [
    "ARTIFACTS",
    "MUTED",
    "PREFIX",
    "AttemptScope",
    "Muted",
    "Tracker",
    "active",
    "current",
    "enter",
    "leave",
    "logging_into",
    "pass_on",
]


PREFIX = "track-"
"""The prefix of the names of segments with logged values."""
ARTIFACTS = "artifacts"
"""The folder of artifacts in a run's folder."""

_Step = int | None


class _Series(NamedTuple):
    """What counts steps of its own, apart from a metric of the same name."""

    kind: str
    name: str


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
        self.name = name
        self.dropped = self._count()
        self.durable: Durability = durable
        self.is_passed_on = not held
        """Whether processes that are started log into it, too."""
        self._journal: Journal | None = None
        self._held: list[Event] | None = [] if held else None
        self.closed = False
        self._opening = threading.Lock()
        self._steps: dict[tuple[int | None, int | None, str | _Series], Iterator[int]] = {}
        on_fork(self)
        if mlflow is not None:
            direct_mlflow(_tracker_here)

    def move(self, attempt: int | None, item: int | None) -> None:
        """Log what follows for this attempt and item, in this process and in those that it starts."""
        self.attempt, self.item = attempt, item
        if self in _scoped:
            pass_on(self)

    @cached_property
    def passed_on(self) -> str:
        """What stays the same of the record for processes that are started: the end of a JSON object."""
        same = _Passed(folder=str(self.folder), name=self.name, durable=self.durable, mlflow=self.mlflow)
        return msgspec.json.encode(same).decode().removeprefix("{")

    @property
    def key(self) -> str:
        """The permanent name of what it logs into now, as in trackers: `<run>/<attempt>/<item>`."""
        run = self.mlflow.run if self.mlflow is not None else self.folder.name
        parts = (run, self.attempt, self.item) if self.attempt is not None else (run,)
        return "/".join(str(part) for part in parts if part is not None)

    @property
    def segment(self) -> str:
        """The name of this process's segment."""
        return f"{PREFIX}{self.name}-{os.getpid()}"

    def log_metric(self, name: Any, value: Any, step: _Step = None) -> None:
        """One value of a metric; without a step, the next one of that name."""
        self._log_points([(name, value)], step)

    def log_metrics(self, values: Any, step: _Step = None) -> None:
        """Values of several metrics, in one record, without those that are not numbers."""
        self._log_points(self._pairs(values, "metrics"), step)

    def log_param(self, name: Any, value: Any) -> None:
        """A parameter, kept as text."""
        self._log_notes([(name, value)], "parameter")

    def log_params(self, params: Any) -> None:
        """Parameters, kept as text, without those that have none."""
        self._log_notes(self._pairs(params, "parameters"), "parameter")

    def set_tag(self, name: Any, value: Any) -> None:
        """A tag, kept as text."""
        self._log_notes([(name, value)], "tag")

    def set_tags(self, tags: Any) -> None:
        """Tags, kept as text, without those that have none."""
        self._log_notes(self._pairs(tags, "tags"), "tag")

    def log_files(self, source: Any, name: Any = None) -> None:
        """A copy of a file, or of all files below a folder."""
        try:
            if isinstance(source, str) and not source:
                raise UsageError("the path is empty: '.' is the current folder")
            source = Path(source)
            if source.is_dir():
                files = sorted(each for each in source.rglob("*") if each.is_file())
                paths = [f"{name or source.name}/{each.relative_to(source).as_posix()}" for each in files]
            else:
                files, paths = [source], [name or source.name]
        except Exception as error:  # noqa: BLE001 - a training loop must not end for its log
            self._refuse(1, error, f"artifact {_shown(source)}")
            return
        for file, path in zip(files, paths, strict=True):
            self._log_file(path, lambda target, file=file: shutil.copyfile(file, target), file)

    def log_text(self, text: Any, name: Any) -> None:
        """A text as a file."""
        self.log_made(name, lambda: _text(text).encode())

    def log_made(self, name: Any, make: Callable[[], bytes]) -> None:
        """A file whose content `make` returns."""
        try:
            data = make()
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(1, error, f"artifact {_shown(name)}")
            return
        self._log_file(name, lambda target: write_atomic(target, data), name)

    def log_media(
        self, kind: Literal["image", "histogram"], name: Any, step: _Step, make: Callable[[], bytes]
    ) -> None:
        """An image or a histogram of a series: a file whose content `make` returns."""
        try:
            series = _Series(kind=kind, name=_named(name))
            data = make()
            step = self._step(series, step)
            if not -(2**63) <= step < 2**63:
                raise UsageError(f"the step {step} has more than 64 bits")
            suffix = ".png" if kind == "image" else ".json"
            self._keep(
                f"{kind}s/{name}/{step}{suffix}",
                lambda target: write_atomic(target, data),
                (kind, series.name, step),
            )
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(1, error, f"{kind} {_shown(name)}")

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
        self.closed = True
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

    def _step(self, name: str | _Series, step: _Step) -> int:
        if step is not None:
            return index(step)
        key = (self.attempt, self.item, name)
        counter = self._steps.get(key)
        if counter is None:
            counter = self._steps.setdefault(key, itertools.count())
        return next(counter)

    def _pairs(self, values: Any, what: str) -> list[tuple[Any, Any]]:
        try:
            return list(values.items())
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(1, error, what)
            return []

    def _log_points(self, pairs: Iterable[tuple[Any, Any]], step: _Step) -> None:
        points = []
        for name, value in pairs:
            try:
                points.append((_named(name), float(value), self._step(name, step)))
            except Exception as error:  # noqa: BLE001 - as above
                self._refuse(1, error, f"metric {_shown(name)}")
        if points:
            try:
                self._append(
                    PointsLogged(at=time.time(), points=tuple(points), attempt=self.attempt, item=self.item)
                )
            except Exception as error:  # noqa: BLE001 - as above
                self._refuse(len(points), error, _listed("metric", points))

    def _log_notes(self, pairs: Iterable[tuple[Any, Any]], what: Literal["parameter", "tag"]) -> None:
        notes = {}
        for name, value in pairs:
            try:
                notes[_named(name)] = str(value)
            except Exception as error:  # noqa: BLE001 - as above
                self._refuse(1, error, f"{what} {_shown(name)}")
        if notes:
            kind = {"params": notes} if what == "parameter" else {"tags": notes}
            try:
                self._append(NotesLogged(at=time.time(), attempt=self.attempt, item=self.item, **kind))
            except Exception as error:  # noqa: BLE001 - as above
                self._refuse(len(notes), error, _listed(what, list(notes.items())))

    def _log_file(self, path: Any, write: Callable[[Path], object], source: Any) -> None:
        try:
            self._keep(path, write)
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(1, error, f"artifact {_shown(source)}")

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
            if self.closed:
                raise UsageError("the run has ended")
            if self._journal is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                # Before the segment, because there may be no room for that.
                with contextlib.suppress(OSError):
                    self.dropped.reserve()
                self._journal = Journal.create(
                    self.folder, self.segment, durable=self.durable, clock=SystemClock()
                )
            return self._journal

    def _keep(
        self,
        path: Any,
        write: Callable[[Path], object],
        media: tuple[str, str, int] | None = None,
    ) -> None:
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
                media=media,
            )
        )

    def _refuse(self, calls: int, error: Exception, what: str) -> None:
        if self._held is None:
            with contextlib.suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
        self.dropped.add(calls, f"{what}: {_why(error)}", time.time())


def _named(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise UsageError(f"a name must be non-empty text, not {_shown(name)}")
    return name


def _text(value: Any) -> str:
    """The value, which must be text. Raises UsageError."""
    if not isinstance(value, str):
        raise UsageError(f"a text must be str, not {type(value).__name__}")
    return value


def _shown(name: Any) -> str:
    """A name in a message, whatever it is: its own `repr` may raise."""
    return short_repr(str(name) if isinstance(name, Path) else name)


def _listed(what: str, several: Sequence[tuple[Any, ...]]) -> str:
    return f"{what} {_shown(several[0][0])}" if len(several) == 1 else f"{what}s"


def _why(error: Exception) -> str:
    if isinstance(error, HookeError):
        return f"{error.what}: {error.why}" if error.why else error.what
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception of the user's, whose text raises
        return type(error).__name__


def _parts(path: Any) -> tuple[str, ...]:
    if not isinstance(path, str | PurePath):
        raise UsageError(f"a path in the run's artifacts must be text, not {_shown(path)}")
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or PurePosixPath(path).is_absolute():
        raise UsageError(f"{path!r} is not a relative path inside the run's artifacts")
    return parts


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
    tracker = active() or _inherited_tracker()
    if isinstance(tracker, Tracker):
        return tracker
    if tracker is None:
        _say_nowhere(call)
    return None


def enter(tracker: Tracker | Muted) -> None:
    """Log into this tracker from now on, in all threads of the process without a tracker of their own.

    Programs that the process starts log into the same, as far as they use Hooke.
    """
    if not _process:
        _outside[:] = [variables_here().get(_VARIABLE)]
    _process.append(tracker)
    pass_on(tracker)


def leave(tracker: Tracker | Muted) -> None:
    """Stop logging into this tracker."""
    _process.remove(tracker)
    if _process:
        pass_on(_process[-1])
    else:
        _passed[0] = b""
        set_variables({_VARIABLE: _outside[0]})


def logging_into(tracker: Tracker | Muted) -> AbstractContextManager[None]:
    """Inside, log into this tracker: in this thread, and in threads without a tracker of their own."""
    return _Scope(tracker)


class _Scope:
    """As a class, since a generator for each attempt takes three times as long."""

    __slots__ = ("_token", "_tracker")

    def __init__(self, tracker: Tracker | Muted) -> None:
        self._tracker = tracker

    def __enter__(self) -> None:
        _scoped.append(self._tracker)
        enter(self._tracker)
        self._token = _here.set(self._tracker)

    def __exit__(self, *_: object) -> None:
        _here.reset(self._token)
        _scoped.remove(self._tracker)
        leave(self._tracker)


class AttemptScope:
    """Surrounds the attempts of a worker, one after another: as `logging_into`, without a change of the environment for each.

    Between two attempts nothing is logged, but the variable for started processes stays until `leave`.
    """

    __slots__ = ("_before", "_inside", "_token", "_tracker")

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._inside = False
        self._before: bytes | None = None
        """The variable as it was."""

    def __enter__(self) -> None:
        if not self._inside:
            self._inside, self._before = True, variables_here().get(_VARIABLE)
        if not _process:
            _outside[:] = [self._before]
        _scoped.append(self._tracker)
        _process.append(self._tracker)
        self._token = _here.set(self._tracker)

    def __exit__(self, *_: object) -> None:
        _here.reset(self._token)
        _scoped.remove(self._tracker)
        _process.remove(self._tracker)
        if _process:
            pass_on(_process[-1])

    def leave(self) -> None:
        """Set the variable back. Does nothing if no attempt came since the last time."""
        if self._inside:
            self._inside, _passed[0] = False, b""
            set_variables({_VARIABLE: self._before})


# --- Processes that are started while something is logged: they log into the same, by an environment variable.

VARIABLE = "HOOKE_LOG_INTO"
"""What processes log into that a run or a task starts: a record in JSON."""
_VARIABLE = VARIABLE.encode()

_scoped: list[Tracker | Muted] = []
"""Trackers of code that runs now: several, if the serial engine runs tasks of several runs in threads."""
_outside: list[bytes | None] = [None]
"""The variable as this process was given it."""
_passed: list[bytes] = [b""]
"""The variable as this process last set it: that is for others, and names no tracker of this one's parent."""
_inherited: dict[str, Tracker | Muted] = {}
"""The tracker of this process for a value of the variable."""


class _Passed(msgspec.Struct, frozen=True, kw_only=True):
    """What of a tracker stays the same."""

    folder: str
    name: str
    durable: Durability
    mlflow: MlflowPlace | None


class _PassedOn(_Passed, frozen=True, kw_only=True):
    """A tracker, for a process that was started."""

    attempt: int | None
    item: int | None


def pass_on(tracker: Tracker | Muted) -> None:
    """Let processes that are started from now on log into this tracker, where it is now.

    The environment is the process's own: while tasks of several runs share it, a started process logs nothing.
    """
    shared = _scoped != [tracker] and any(each is not tracker for each in _scoped)
    if shared or isinstance(tracker, Muted) or not tracker.is_passed_on:
        set_variables({_VARIABLE: None})
        return
    attempt = "null" if tracker.attempt is None else tracker.attempt
    item = "null" if tracker.item is None else tracker.item
    said = f'{{"attempt":{attempt},"item":{item},{tracker.passed_on}'
    _passed[0] = os.fsencode(said)
    set_variables({_VARIABLE: _passed[0]})


def _inherited_tracker() -> Tracker | Muted | None:
    """The tracker of the process that started this one; None if it logged nothing."""
    found = variables_here().get(_VARIABLE)
    if found is None or found == _passed[0]:
        return None
    said = os.fsdecode(found)
    if said not in _inherited:
        _inherited[said] = _opened_from(said)
    return _inherited[said]


def _opened_from(said: str) -> Tracker | Muted:
    process = sys.modules.get("multiprocessing.process")
    parent = process.parent_process() if process is not None else None
    if parent is not None and parent.pid != os.getppid():
        # The server that forks these keeps the environment of the task that started it, which may be an earlier one.
        _logger.warning(
            "nothing is logged by a process of multiprocessing's forkserver, which cannot tell its task. "
            'Use multiprocessing.get_context("spawn")'
        )
        return MUTED
    try:
        passed = msgspec.json.decode(said, type=_PassedOn)
    except msgspec.MsgspecError as error:
        _logger.warning("nothing is logged: the variable %s is damaged: %s", VARIABLE, error)
        return MUTED
    folder = Path(passed.folder)
    if not folder.is_dir():
        _logger.warning("nothing is logged: the run's folder is not there: %s", folder)
        return MUTED
    tracker = Tracker(folder, passed.name, durable=passed.durable, mlflow=passed.mlflow)
    tracker.attempt, tracker.item = passed.attempt, passed.item
    atexit.register(tracker.close)
    return tracker


def _tracker_here() -> Tracker | None:
    tracker = active() or _inherited_tracker()
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
