"""Runs in MLflow: where they are, how Hooke finds its own, and what MLflow's own calls in a task log into.

Nothing here imports MLflow, whose import takes seconds. When user code imports it in a process that logs into a run, its
fluent calls (`mlflow.log_*`, autologging, `mlflow.start_run`) log into the run of the task: the one that the sink fills.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import msgspec

from hooke.base.files import FileLock
from hooke.base.this_process import set_variables, variables_here

__all__ = [
    "OWN_TAG",
    "RUN_TAG",
    "MlflowEnvironment",
    "MlflowPlace",
    "TaskLog",
    "can_open_runs",
    "configured_uri",
    "direct_mlflow",
    "end_new_runs",
    "mlflow_lock",
    "open_runs",
    "run_filter",
    "tracking_uri",
]

RUN_TAG = "hooke.run_id"
"""The tag of a run in MLflow with its permanent key."""
OWN_TAG = "hooke.mlflow.run_id"
"""The tag that a task logs when MLflow's own calls opened its run: then it is shipped, and linked to its parent."""
URI = "MLFLOW_TRACKING_URI"
LOCK_S = 60.0
"""How long to wait for a process that holds the lock while its server does not answer."""

_ODD = re.compile(r"[^\w.\-/ ]")
_log = logging.getLogger("hooke")


class MlflowPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where MLflow's own calls in the tasks of a run log."""

    uri: str
    experiment: str
    run: str
    """The run's id, with which the keys of its tasks begin."""
    root: str
    """The project's folder."""

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return "://" not in self.uri or self.uri.startswith(("sqlite:", "file:"))


def tracking_uri(folder: Path, uri: str = "") -> str:
    """The URI from hooke.toml, with a relative SQLite file inside the project; by default `mlflow.db` in the project."""
    if not uri:
        return f"sqlite:///{folder / 'mlflow.db'}"
    scheme, file = "sqlite:///", uri.removeprefix("sqlite:///")
    return f"{scheme}{folder / file}" if uri.startswith(scheme) else uri


def configured_uri(folder: Path, uri: str = "") -> str:
    """Where the project's runs go: `MLFLOW_TRACKING_URI`, else the URI from hooke.toml."""
    return os.environ.get(URI) or tracking_uri(folder, uri)


def run_filter(key: str, *, nested: bool = False) -> str:
    """MLflow's filter for the run with this key, and those `nested` in it. It may match similar keys, too: compare the tag `RUN_TAG`.

    MLflow's language has no escape for a quote, and takes a backslash before one for an escape.
    """
    pattern = _ODD.sub("_", key)
    exact = pattern == key and not nested
    return f"tags.`{RUN_TAG}` {'=' if exact else 'LIKE'} '{pattern}{'%' if nested else ''}'"


@contextlib.contextmanager
def mlflow_lock(root: Path) -> Iterator[None]:
    """Held while a run, an experiment or the schema is made, so that two processes do not make it twice.

    Inside, the working directory is `root`, against which MLflow resolves its artifact folder. Where the project has no
    folder (on another machine) there is no lock.
    """
    folder = root / ".hooke"
    if not folder.is_dir():
        yield
        return
    lock, deadline = FileLock(folder / "mlflow.lock"), time.monotonic() + LOCK_S
    while not lock.try_acquire() and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        with contextlib.chdir(root):
            yield
    finally:
        lock.release()


# --- MLflow's own calls in a task.

FLUENT = "mlflow.tracking.fluent"

_INNER = ("_get_or_start_run", "_active_run_stack", "_active_experiment_id")
"""Names inside that module: MLflow has no public way to say which run its calls open."""

_own: dict[str, tuple[str, str]] = {}
"""Key of a task's run -> its id and experiment in MLflow, while the task runs."""


class TaskLog(Protocol):
    """What MLflow's own calls need to know of the tracker that the task logs into."""

    mlflow: MlflowPlace | None
    attempt: int | None

    @property
    def key(self) -> str:
        """The permanent name of the task's run."""
        ...

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Log tags of the task's run."""
        ...


def direct_mlflow(current: Callable[[], TaskLog | None]) -> None:
    """Let MLflow's fluent calls open the run of `current`, now or when user code imports MLflow. Again, it does nothing."""
    fluent = sys.modules.get(FLUENT)
    if fluent is not None:
        _direct(fluent, current)
        mlflow: Any = sys.modules["mlflow"]
        if hasattr(mlflow, "start_run"):  # else it is being imported, and takes ours
            mlflow.start_run = fluent.start_run
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch(current))


class _Watch(MetaPathFinder):
    """Sees the import of MLflow's fluent module, once."""

    def __init__(self, current: Callable[[], TaskLog | None]) -> None:
        self._current = current

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, with a loader that directs the module once it is loaded."""
        if fullname != FLUENT:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            _direct(module, self._current)

        loader.exec_module = exec_module
        return spec


def _is_known(fluent: Any) -> bool:
    lacking = [name for name in ("start_run", *_INNER) if not hasattr(fluent, name)]
    if lacking:
        _log.warning(
            "MLflow's own calls log where its settings say, not into the run of the task: this MLflow has no %s in %s",
            ", ".join(lacking),
            FLUENT,
        )
    return not lacking


def _direct(fluent: Any, current: Callable[[], TaskLog | None]) -> None:
    if not _is_known(fluent) or hasattr(fluent.start_run, "hooke_original"):
        return
    start, implied = fluent.start_run, fluent._get_or_start_run  # noqa: SLF001 - see _INNER

    def mine() -> TaskLog | None:
        """The tracker whose run these calls open; None if a run is open, or they go to another server."""
        tracker = current()
        if tracker is None or tracker.mlflow is None or tracker.attempt is None:
            return None
        if fluent._active_run_stack.get() or os.environ.get("MLFLOW_RUN_ID"):  # noqa: SLF001 - see _INNER
            return None
        return tracker if sys.modules["mlflow"].get_tracking_uri() == tracker.mlflow.uri else None

    @functools.wraps(start)
    def start_run(*args: Any, **kwargs: Any) -> Any:
        tracker = mine()
        named = {"run_id", "experiment_id", "parent_run_id"}
        if tracker is None or args or any(kwargs.get(name) for name in named):
            return start(*args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in named}
        if (own := _own.get(tracker.key)) is not None:
            # The task's own run has ended: MLflow's callers expect a new one.
            return start(parent_run_id=own[0], experiment_id=own[1], **kwargs)
        return _open(fluent, start, tracker, kwargs)

    @functools.wraps(implied)
    def get_or_start_run() -> Any:
        tracker = mine()
        if tracker is None:
            return implied()
        own = _own.get(tracker.key)
        return start(run_id=own[0]) if own is not None else _open(fluent, start, tracker, {})

    start_run.hooke_original = start  # type: ignore[attr-defined]
    fluent.start_run, fluent._get_or_start_run = start_run, get_or_start_run  # noqa: SLF001 - see _INNER


class MlflowEnvironment:
    """Inside, MLflow and the processes that the task starts find the server and the experiment of `place`.

    It may be entered again and again; the variables stay as they are inside until `leave`.
    """

    __slots__ = ("_before", "_wanted")

    def __init__(self, place: MlflowPlace | None) -> None:
        self._wanted = _variables_of(place) if place is not None else {}
        self._before: Mapping[bytes, bytes | None] | None = None

    def enter(self) -> None:
        """Set the variables that are not so already."""
        if self._before is None:
            data = variables_here()
            self._before = {name: data.get(name) for name in self._wanted}
        set_variables(self._wanted)

    def leave(self) -> None:
        """Set them back."""
        before, self._before = self._before, None
        set_variables(before or {})


@functools.lru_cache(8)
def _variables_of(place: MlflowPlace) -> Mapping[bytes, bytes | None]:
    return {
        URI.encode(): os.fsencode(place.uri),
        b"MLFLOW_EXPERIMENT_NAME": os.fsencode(place.experiment),
        b"MLFLOW_EXPERIMENT_ID": None,
    }


def _open(fluent: Any, start: Callable[..., Any], tracker: TaskLog, kwargs: dict[str, Any]) -> Any:
    """Open the task's own run: the one that the sink made, or a new one that the sink will find."""
    place, key = tracker.mlflow, tracker.key
    assert place is not None
    with mlflow_lock(Path(place.root)):
        client = fluent.MlflowClient()
        experiment = fluent._active_experiment_id  # noqa: SLF001 - see _INNER
        if not experiment:
            known = client.get_experiment_by_name(place.experiment)
            experiment = client.create_experiment(place.experiment) if known is None else known.experiment_id
        found = client.search_runs([experiment], run_filter(key))
        made = next((run.info.run_id for run in found if run.data.tags.get(RUN_TAG) == key), None)
        if made is not None:
            opened = start(run_id=made, **kwargs)
        else:
            tags = {**(kwargs.pop("tags", None) or {}), RUN_TAG: key}
            name = kwargs.pop("run_name", None) or key
            opened = start(experiment_id=experiment, run_name=name, tags=tags, **kwargs)
    _own[key] = (opened.info.run_id, experiment)
    tracker.set_tags({OWN_TAG: opened.info.run_id})
    return opened


# --- Runs that a task leaves open in MLflow, W&B or Comet: the next task of the process must not log into them.


_NONE: frozenset[str] = frozenset()


def open_runs() -> frozenset[str]:
    """The ids of the runs that are open in this process. It imports none of these libraries."""
    if not can_open_runs():
        return _NONE
    found: set[str] = set()
    if (fluent := sys.modules.get(FLUENT)) is not None:
        found |= {run.info.run_id for stack in _stacks(fluent) for run in stack}
    if (run := getattr(sys.modules.get("wandb"), "run", None)) is not None:
        found.add(run.id)
    if (experiment := _comet_experiment()) is not None:
        found.add(experiment.get_key())
    return frozenset(found)


def can_open_runs() -> bool:
    """Whether this process has imported a library whose runs `end_new_runs` ends."""
    loaded = sys.modules
    return FLUENT in loaded or "wandb" in loaded or "comet_ml" in loaded


def end_new_runs(before: frozenset[str], task: TaskLog | None, *, failed: bool) -> None:
    """End the runs that `task` opened: open now, and not `before`. One that cannot be ended is logged, and closed here."""
    if not can_open_runs():
        return
    if task is not None:
        _own.pop(task.key, None)
    if (fluent := sys.modules.get(FLUENT)) is not None:
        _end_mlflow(fluent, before, "FAILED" if failed else "FINISHED")
    wandb: Any = sys.modules.get("wandb")
    if (run := getattr(wandb, "run", None)) is not None and run.id not in before:
        _ended("W&B", lambda: wandb.finish(exit_code=int(failed)))
    if (experiment := _comet_experiment()) is not None and experiment.get_key() not in before:
        _ended("Comet", experiment.end)


def _stacks(fluent: Any) -> list[list[Any]]:
    """The open runs of each thread: MLflow keeps them apart."""
    return [stack for stack in fluent._active_run_stack.get_all_thread_values().values() if stack]  # noqa: SLF001 - see _INNER


def _end_mlflow(fluent: Any, before: frozenset[str], status: str) -> None:
    own = fluent._active_run_stack.get()  # noqa: SLF001 - see _INNER
    while own and own[-1].info.run_id not in before:
        _ended("MLflow", lambda: fluent.end_run(status))
    for stack in _stacks(fluent):
        while stack and stack is not own and (run := stack[-1].info.run_id) not in before:
            stack.pop()
            _ended("MLflow", lambda run=run: fluent.MlflowClient().set_terminated(run, status))


def _ended(library: str, end: Callable[[], object]) -> None:
    try:
        end()
    except Exception as error:  # noqa: BLE001 - the task has its result, whether or not a tracker answers
        _log.warning("a run in %s could not be ended: %s: %s", library, type(error).__name__, error)


def _comet_experiment() -> Any:
    comet = sys.modules.get("comet_ml")
    get = getattr(comet, "get_running_experiment", None)
    experiment = get() if get is not None else None
    return (
        experiment if experiment is not None and experiment.alive else None
    )  # Comet keeps the last, ended one
