"""`run` and `Run`: what a user calls and gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hooke.base.errors import RunStopped, UsageError
from hooke.fleets.elastic import parse_wanted
from hooke.journal.events import Event
from hooke.journal.run_table import run_table
from hooke.journal.run_view import RunView, ending, output_ref, view_of
from hooke.journal.task_view import TaskRow
from hooke.pipeline.failures import task_failed
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.references import unpack
from hooke.pipeline.runner import CTRL_C
from hooke.progress.choice import Scene, open_progress, wanted_progress
from hooke.progress.notebook import run_html
from hooke.progress.progress import Progress
from hooke.project.folder import Project, project_of
from hooke.project.loading import loading
from hooke.running.driver import Driver, RunOrder, prepare
from hooke.tracking.logged_values import Logged, logged_in

if TYPE_CHECKING:
    from hooke.charts.curve_chart import Curve

__all__ = ["Run", "run"]


def run(  # noqa: PLR0913 - what a run may be asked, each by name
    pipeline: Pipeline[..., Any],
    /,
    *args: Any,
    on: Any = "local",
    workers: int | tuple[int, int] | None = None,
    wait: bool = True,
    progress: str = "auto",
    deadline: str | float | None = None,
    budget: str | float | None = None,
    allow_mismatch: Sequence[str] = (),
    **params: Any,
) -> Run:
    """Run a pipeline at a place, cached and journalled.

    `on` is a place: `local` (processes of this machine), `local:8`, `serial` (this process), `dask` (a Dask cluster
    of this machine), the address of a Dask scheduler, a cluster or a client of Dask's, `ray` (a Ray of this machine), the
    address of a Ray, or a name in `hooke.toml`. `workers` is a number or (low, high): as many, between these, as the work is worth while it goes on, for
    reasons that the journal has. `deadline` ("30m", or seconds from now) has just enough of them to be done by then, and
    `budget` ("$20", or US dollars; the place has a price in hooke.toml) ends the run before it is spent.
    Workers elsewhere must have this process's Python and the versions of what the code reaches; `allow_mismatch` names
    distributions (or `python`) that may differ all the same.
    With `wait=False` the run goes on in a thread, and no
    longer than this process: call `result()`, or `hooke resume` takes it up.
    `progress` is what stderr shows meanwhile: `auto` (a live table on a terminal or in a notebook, elsewhere a line
    each five seconds; nothing of a short run), `table` (at once, and lines where no table can be), `lines` (of each
    task) or `none`. The environment variable HOOKE_PROGRESS or hooke.toml may say what `auto` is.
    The other arguments are the pipeline's own.

    Raises UsageError and TraceError before anything runs; TaskFailed (a branch of it) when a task failed
    for good; KeyboardInterrupt after Ctrl-C, when the run has stopped cleanly and can be resumed.
    With `wait=False` those come from `Run.result()`.
    """
    if not isinstance(pipeline, Pipeline):
        raise UsageError(
            f"run() takes a pipeline, not {type(pipeline).__name__} {getattr(pipeline, '__name__', '')}".rstrip(),
            fix="mark the function that composes tasks with @pipeline",
        )
    if (file := loading()) is not None:
        raise UsageError(
            f"{file} calls run() while it is imported",
            fix='put the call under `if __name__ == "__main__":`',
        )
    project = project_of(pipeline)
    wanted = wanted_progress(progress, project.settings.show.progress)
    wish = parse_wanted(deadline, budget, now=time.time())
    order = RunOrder(
        pipeline=pipeline,
        args=args,
        params=params,
        on=on,
        workers=workers,
        wanted=wish,
        allow_mismatch=tuple(allow_mismatch),
    )
    driver = prepare(order, project)
    scene = Scene(in_this_process=driver.place.engine == "serial", background=not wait)
    shown = open_progress(wanted, scene)
    driver.order = replace(driver.order, observers=(shown.observe,))
    return _begin(driver, shown, wait=wait)


def _begin(driver: Driver, shown: Progress, *, wait: bool) -> Run:
    handle = Run(driver.project, driver.run)
    if not wait:
        handle.follow(driver, shown)
        return handle
    with shown:
        status = driver.drive()
    if status == "stopped" and handle.stopped_by == CTRL_C:
        raise KeyboardInterrupt(f"run {driver.run} stopped cleanly; next: hooke resume {driver.run}")
    if status != "finished":
        handle.check()
    return handle


class Run:
    """A run: one of now, or one read back from its journal."""

    def __init__(self, project: Project, run: str) -> None:
        self.id = run
        self.project = project
        self.folder = project.runs.folder(run)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.status})"

    def _repr_html_(self) -> str:
        view, now = self._view(), time.time()
        error = str(view.error(self.id) or view.row(now).message)
        return run_html(view.row(now), view.rows(now), stopping=self.stopped_by, error=error)

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed`, `stopped`, or `lost` (its driver died; it can be resumed)."""
        return self._view().status

    @property
    def stopped_by(self) -> str | None:
        """Who asked the run to stop; None if nobody did."""
        return self._view().stopping_by

    def result(self, timeout: float | None = None) -> Any:
        """What the pipeline returned; waits for it, at most `timeout` seconds.

        Raises TaskFailed, RunStopped (stopped or lost; its `next` is the command to resume), TimeoutError.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"run {self.id} goes on after {timeout} s")
        self.check()
        store = self.project.store()
        return unpack(store.get(output_ref(self.folder)), store)

    def check(self) -> None:
        """Raise what ended the run, if it did not finish."""
        if self._error is not None:
            raise self._error
        ended = ending(self.folder)
        if ended is not None and ended.status == "finished":
            return
        view = self._view()
        if (failed := view.failure) is not None:
            raise task_failed(failed, task=view.nodes[failed.node].planned.task, run=self.id)
        why = view.ended.message if view.ended is not None else ""
        raise RunStopped(
            f"run {self.id} is {view.status}: it has no result", why=why, next=f"hooke resume {self.id}"
        )

    def tasks(self) -> list[TaskRow]:
        """Per task: how many items are waiting, running, cached, done and failed, with times and memory."""
        return self._view().rows(time.time())

    @property
    def journal(self) -> Iterator[Event]:
        """Every event of the run so far, in order."""
        yield from self.project.runs.events(self.id, None)

    def curve(self, task: str = "") -> Curve:
        """How far a task scales, from what this run measured by the way; by default the task that took longest.

        Where the project's other runs did the same work at another N they count too. Raises UsageError for a task
        that there is not; NotEnoughData, with what to run next, where fewer than three N were measured or N changed
        together with the kind of work.
        """
        from hooke.planning.curves import curve_of  # SciPy takes a third of a second, and few runs are asked

        return curve_of(self.project.runs, self.id, task)

    def logged(self) -> Logged:
        """What was logged in the run: `.points` (one row a value), `.params`, `.tags`, `.artifacts`, `.refused`."""
        return logged_in(self.folder)

    def show(self) -> None:
        """Print the run's table."""
        print(run_table(self._view(), self.id))  # noqa: T201 - it is what the method is for

    def stop(self) -> None:
        """Ask the run to stop; it can be resumed."""
        self.project.runs.request_stop(self.id, "Run.stop()")

    def follow(self, driver: Driver, shown: Progress | None = None) -> None:
        """Drive the run in a thread of this process; `shown` is entered in this one."""
        context = ExitStack()

        def drive() -> None:
            try:
                with context:
                    driver.drive()
            except BaseException as error:  # noqa: BLE001 - whoever asks for the result is told
                self._error = error

        self.project.create()
        self.project.runs.create(driver.run)  # so that stop() has a place to ask, however soon it is called
        if shown is not None:
            context.enter_context(shown)
        self._thread = threading.Thread(target=drive, name=f"hooke-{self.id}", daemon=True)
        self._thread.start()

    def _view(self) -> RunView:
        return view_of(self.project.runs, self.id)
