"""`start_run()`: a run of a plain script or notebook, which logs into a journal as tasks do."""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

from hooke.base.clock import SystemClock
from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import short_repr
from hooke.base.observed import DataSetsRead
from hooke.base.ref import DataSetRead
from hooke.journal.events import DataSetsOpened, RunFinished, RunStarted
from hooke.project.folder import Project, check_run_name, lock_run, new_run_id, open_run, start_of
from hooke.running.provenance import ProvenanceRecorder
from hooke.running.run import Run
from hooke.sync.background import Shipping, ensure_shipper
from hooke.sync.sync_report import refused_lines
from hooke.tracking import log  # noqa: F401 - imported now: a fork while a thread imports it would make the child hang
from hooke.tracking.system_metrics import SEGMENT as SYSTEM
from hooke.tracking.system_metrics import SystemMetrics
from hooke.tracking.tracker import Tracker, active, enter, leave

__all__ = ["AttachedRun", "ScriptRun", "attach_run", "start_run"]

_log = logging.getLogger("hooke")


def start_run(
    experiment: str = "",
    *,
    name: str = "",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> ScriptRun:
    """Begin a run of this script or notebook: `log_metric` and similar functions log into it, in all threads.

    Use it in `with`, or call `finish()`; otherwise it ends with the process. `experiment` is the experiment in trackers (by default
    that of hooke.toml, else the script's name), and `name` is the beginning of its id. The project is that of the script.

    Raises UsageError if this process already logs into a run (also inside a task); HookeError if the run's folder
    cannot be written. Later logging never raises.
    """
    if active() is not None:
        raise UsageError(
            "this process already logs into a run",
            fix="finish() that run first; inside a task, use log_metric() without start_run()",
        )
    if name:
        check_run_name(name, said=f"name={name!r}")
    start = start_of()
    project = Project.find(start)
    title = name or (
        start.stem if start.is_file() else "notebook" if "ipykernel" in sys.modules else "script"
    )
    entry = str(start) if start.is_file() else ""
    run = ScriptRun(project, title, experiment=experiment, entry=entry, params=params or {})
    if params:
        run.tracker.log_params(params)
    if tags:
        run.tracker.set_tags(tags)
    return run


def attach_run(run: str) -> AttachedRun:
    """Log into a run that another process began, from this process: `run` is its id, or the beginning of it.

    Use it in `with`, or call `close()`. What is logged belongs to the run, not to one of its tasks; the run may go on or have
    ended, and its end stays as it is. Processes that a run or its tasks start need not attach: they log into it anyway.

    Raises UsageError if there is no such run, or if this process already logs into a run.
    """
    if active() is not None:
        raise UsageError("this process already logs into a run", fix="finish() or close() that run first")
    project = Project.find(start_of())
    return AttachedRun(project, project.runs.find(run))


class AttachedRun(Run):
    """A run that this process logs into beside others, from `attach_run()`. Leaving `with` closes it, and does not end the run."""

    def __init__(self, project: Project, run: str) -> None:
        super().__init__(project, run)
        self.tracker = Tracker(self.folder, "attached", durable=project.settings.journal.durable)
        enter(self.tracker)
        atexit.register(self.close)

    def close(self) -> None:
        """Stop logging into the run. A second call does nothing."""
        if self.tracker.closed:
            return
        atexit.unregister(self.close)
        leave(self.tracker)
        self.tracker.close()
        for line in refused_lines(self.folder):
            _log.warning("run %s: of what was logged %s", self.id, line)
        ensure_shipper(self.project, self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shown(params: Any) -> dict[str, str]:
    """Parameters for listings. What is no mapping is refused when it is logged."""
    if not isinstance(params, Mapping):
        return {}
    return {name: short_repr(value) for name, value in params.items() if isinstance(name, str)}


class ScriptRun(Run):
    """A run of a script, from `start_run()`. Leaving `with` ends it: `failed` after an exception, `stopped` after Ctrl-C."""

    def __init__(
        self, project: Project, title: str, *, experiment: str, entry: str, params: Mapping[str, Any]
    ) -> None:
        clock = SystemClock()
        # A script may have any name; an id is a folder's, and is typed in a shell.
        slug = re.sub(r"[^\w.-]+", "-", title).strip("-") or "script"
        super().__init__(project, new_run_id(slug, clock.now()))
        self._lock = lock_run(project, self.id)
        durable = project.settings.journal.durable
        self._pid = os.getpid()
        self._began = clock.monotonic()
        given = {f"[{at}]": short_repr(word) for at, word in enumerate(sys.argv[1:])} if entry else {}
        begun = RunStarted(
            run=self.id,
            pipeline=title,
            entry=entry,
            place="here",
            kind="script",
            experiment=experiment or project.settings.tracking.experiment,
            parameters=given,
            shown=given | _shown(params),
        )
        self._driver = open_run(project, begun, clock=clock)
        self._recorder = ProvenanceRecorder(project.root, self.folder, self._driver.append, script=True)
        self._recorder.start()
        self.tracker = Tracker(self.folder, "script", durable=durable)
        self._system = SystemMetrics(
            Tracker(self.folder, SYSTEM), every_s=project.settings.tracking.system_metrics_s
        )
        self._system.__enter__()
        self._shipping = Shipping(project, self.folder)
        self._shipping.__enter__()
        enter(self.tracker)
        self._data = DataSetsRead(self._opened)
        self._data.open()
        atexit.register(self._end_with_process)

    def _opened(self, data_set: DataSetRead) -> None:
        if os.getpid() != self._pid:
            return  # the journal is this process's
        try:
            self._driver.append(DataSetsOpened(data=(data_set,)))
        except HookeError as error:  # what goes on is the user's work
            _log.warning("that run %s reads a data set is not recorded: %s", self.id, error)

    def finish(self, status: str = "finished", message: str = "") -> None:
        """End the run: `finished`, `failed` or `stopped`. A second call does nothing.

        Raises UsageError for another status, JournalError if the end cannot be written.
        """
        if status not in ("finished", "failed", "stopped"):
            raise UsageError(f"status={status!r} is not valid", fix="valid: 'finished', 'failed', 'stopped'")
        if not self._lock.held:
            return
        atexit.unregister(self._end_with_process)
        leave(self.tracker)
        self._data.close()
        self._system.__exit__(None, None, None)
        self.tracker.close()
        for line in refused_lines(self.folder):
            _log.warning("run %s: of what was logged %s", self.id, line)
        try:
            self._recorder.join()
            seconds = SystemClock().monotonic() - self._began
            self._driver.append(RunFinished(status=status, message=message, seconds=seconds))
            self._driver.close()
        finally:
            self._lock.release()
            self._shipping.__exit__()

    def result(self, timeout: float | None = None) -> NoReturn:  # noqa: ARG002 - same signature as Run.result
        """Raises UsageError: a script has no result."""
        raise UsageError(f"run {self.id} is a script's run, which has no result", fix="read .logged()")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._finish_after(error)

    def _end_with_process(self) -> None:
        if os.getpid() == self._pid:
            self._finish_after(getattr(sys, "last_value", None))

    def _finish_after(self, error: BaseException | None) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.finish()
        elif isinstance(error, KeyboardInterrupt):
            self.finish("stopped", "Ctrl-C")
        else:
            self.finish("failed", f"{type(error).__name__}: {error}")
