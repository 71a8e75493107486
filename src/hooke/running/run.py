"""`run()` and `run_async()`, and `Run`, their handle."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from msgspec.structs import replace

from hooke.base.errors import HookeError, RunStopped, TaskFailed, UsageError
from hooke.base.files import write_atomic
from hooke.base.formats import did_you_mean, first_line, preformatted, text_of
from hooke.base.table import TableDict, TableKind, TableList, fields_by_name
from hooke.base.user_code import cell_number
from hooke.fleets.elastic import parse_wanted
from hooke.journal.events import FINISHED, WITH_FAILURES, Event, RunFinished
from hooke.journal.reader import follow as follow_events
from hooke.journal.run_folders import DRIVER, LogLine, Transcript
from hooke.journal.run_view import RunView, ending, failed_items_text, output_ref, run_table, view_of
from hooke.journal.task_view import TaskRow
from hooke.keys.file import files_loaded
from hooke.pipeline.failures import task_failed, user_traceback
from hooke.pipeline.file_results import FileResults
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.references import unpack
from hooke.pipeline.runner import CTRL_C
from hooke.progress.choice import Scene, open_progress, wanted_progress
from hooke.progress.notebook import run_html
from hooke.progress.progress import Progress
from hooke.project.folder import Project, project_of, start_of
from hooke.project.pipeline_file import check_call
from hooke.running.driver import Driver, RunOrder, prepare
from hooke.sync.outbox import has_logged
from hooke.tracking.logged_values import (
    ARTIFACTS,
    Artifact,
    Logged,
    Metric,
    full_names,
    logged_in,
)

if TYPE_CHECKING:
    from hooke.charts.curve_chart import Curve

__all__ = ["Run", "check_followed", "follow", "run", "run_async", "watch_run"]

_log = logging.getLogger("hooke")

TASKS: TableKind[TaskRow] = TableKind(
    one="task",
    columns=fields_by_name(
        "task",
        "state",
        "kind",
        "items",
        "waiting",
        "running",
        "cached",
        "done",
        "failed",
        "attempts",
        "seconds",
        "cpu_s",
        "item_s",
        "peak_bytes",
        "error",
    ),
    label=attrgetter("task"),
)
LOGS: TableKind[LogLine] = TableKind(
    one="log line",
    columns=fields_by_name("task", "items", "attempt", "number", "tries", "text"),
    text=str,
)
PARAMS: TableKind[str] = TableKind(one="parameter", columns={"value": str})
FAILURES: TableKind[TaskFailed] = TableKind(
    one="failure",
    columns=fields_by_name("task", "item", "arguments")
    | {"error": lambda error: first_line(error.details.get("message") or error.what)}
    | fields_by_name("source", "attempt", "worker"),
    label=attrgetter("what"),
    text=str,
)


def run(  # noqa: PLR0913 - options by name
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
    force: bool | Sequence[str] = False,
    name: str = "",
    tags: Mapping[str, Any] | None = None,
    retries: int | None = None,
    **params: Any,
) -> Run:
    """Run a pipeline on a backend, cached and journalled.

    `on` is a backend: `local` (processes on this machine), `local:8`, `serial` (this process), `dask` (a Dask cluster
    on this machine), `ray` (a Ray cluster on this machine), the address of a Dask scheduler or a Ray cluster, a Dask cluster or
    client, a Fleet, or a name in `hooke.toml`. `workers` is a number, or a range (low, high) in which the number follows the work;
    the journal has the reasons. `deadline` ("30m", or seconds from now) uses just enough workers to be done by then, and
    `budget` ("$20", or US dollars; the backend has a price in hooke.toml) ends the run before the budget is spent.
    Remote workers need this process's Python, and its versions of the distributions that the code uses; `allow_mismatch` names
    distributions (or `python`) that may differ.
    `force` names tasks that run although their results are stored, as does all that uses them; True stands for all tasks.
    `name` is the beginning of the run's id, instead of the pipeline's name. `tags` are text by name, as from `set_tag`, which they
    override. `retries` is how often a failed task runs again, instead of what each task says.
    With `wait=False` the run continues in a thread, but not
    longer than this process: call `result()`, or continue it later with `hooke resume`.
    `progress` is what stderr shows: `auto` (a live table on a terminal or in a notebook, elsewhere a line
    every five seconds; nothing for a short run), `table` (at once; lines where a table is impossible), `lines` (for each
    task), `log` (the same lines, and what tasks print, to the loggers `hooke.run` and `hooke.tasks` instead) or `none`. The environment variable HOOKE_PROGRESS or hooke.toml can change what `auto` means.
    All other arguments are passed to the pipeline, and must have the annotated types.

    A run whose failed items were left out (`.map(..., on_error="continue")`) returns too: its `status` is "finished with
    failures", and `failures` has them.

    Raises UsageError and TraceError before anything runs; a subclass of TaskFailed if a task failed
    for good, which `except` also catches by the class of the task's exception (`except KeyError`; not SyntaxError and StopIteration), where this
    process can import that; KeyboardInterrupt after Ctrl-C, once the run has stopped cleanly and can be resumed.
    With `wait=False`, `Run.result()` raises them.
    """
    order = RunOrder(
        pipeline=pipeline,
        args=args,
        params=params,
        on=on,
        workers=workers,
        wanted=parse_wanted(deadline, budget, now=time.time()),
        allow_mismatch=tuple(allow_mismatch),
        force=force,
        name=name,
        tags=tags or {},
        retries=retries,
    )
    driver, shown = _prepared("run", order, progress, background=not wait)
    handle = Run(driver.project, driver.run)
    if not wait:
        handle.drive_behind(driver, shown)
        return handle
    with shown:
        status = driver.drive()
    handle.note_cell(shown)
    if status == "stopped" and handle.stopped_by == CTRL_C:
        raise KeyboardInterrupt(f"run {driver.run} stopped cleanly; next: hooke resume {driver.run}")
    _conclude(handle, status)
    return handle


async def run_async(  # noqa: PLR0913 - options by name
    pipeline: Pipeline[..., Any],
    /,
    *args: Any,
    on: Any = "local",
    workers: int | tuple[int, int] | None = None,
    progress: str = "auto",
    deadline: str | float | None = None,
    budget: str | float | None = None,
    allow_mismatch: Sequence[str] = (),
    force: bool | Sequence[str] = False,
    name: str = "",
    tags: Mapping[str, Any] | None = None,
    retries: int | None = None,
    **params: Any,
) -> Run:
    """Run a pipeline as `run` does, without blocking the asyncio loop: a thread drives the run.

    The arguments are those of `run` without `wait`, and so are the errors. The pipeline's body is traced in the loop's thread, before
    the first wait. Several runs may be awaited at once.

    Cancelling the await stops the run cleanly, as Ctrl-C does, and returns when it has stopped; `hooke resume` continues it. A
    second cancellation does not wait for that.
    """
    import asyncio  # the caller's loop has it; `run` needs none of it

    loop = asyncio.get_running_loop()
    order = RunOrder(
        pipeline=pipeline,
        args=args,
        params=params,
        on=on,
        workers=workers,
        wanted=parse_wanted(deadline, budget, now=time.time()),
        allow_mismatch=tuple(allow_mismatch),
        force=force,
        name=name,
        tags=tags or {},
        retries=retries,
    )
    driver, shown = _prepared("run_async", order, progress, background=True)
    handle, ended = Run(driver.project, driver.run), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(ended.set)

    handle.drive_behind(driver, shown, then=tell)
    try:
        await ended.wait()
    except asyncio.CancelledError:
        driver.project.runs.request_stop(driver.run, "cancellation")
        await ended.wait()
        raise
    _conclude(handle, handle.status)
    return handle


def _prepared(caller: str, order: RunOrder, progress: str, *, background: bool) -> tuple[Driver, Progress]:
    """The traced run with its progress display. Raises UsageError and TraceError."""
    check_call(caller, order.pipeline)
    project = project_of(order.pipeline)
    wanted = wanted_progress(progress, project.settings.show.progress)
    _check_options(caller, order)
    driver = prepare(order, project)
    logs = project.runs.folder(driver.run) / "logs"
    scene = Scene(in_this_process=driver.place.engine == "serial", background=background, logs=logs)
    shown = open_progress(wanted, scene)
    driver.order = replace(driver.order, observers=(shown.observe,))
    return driver, shown


def _check_options(caller: str, order: RunOrder) -> None:
    """Raise UsageError for an option that is a parameter of the pipeline, too: nobody could tell which is meant."""
    given = {"force": order.force, "name": order.name, "tags": order.tags, "retries": order.retries}
    for option, value in given.items():
        absent = value is None or value is False or value in ("", {})
        if not absent and option in order.pipeline.signature.parameters:
            raise UsageError(
                f"{option}= is an option of {caller}(), and a parameter of pipeline {order.pipeline.name!r}",
                fix=f"rename the parameter, for example to {option}_, or pass its value by position",
            )


def _conclude(handle: Run, status: str) -> None:
    """Raise the error that ended a run, or log which items its result lacks."""
    if status != FINISHED:
        handle.check()
    if status == WITH_FAILURES:
        _log.warning("%s", failed_items_text(handle._view(), handle.id))  # noqa: SLF001 - this module's class


def follow(run: Run | str = "", *, progress: str = "auto") -> Run:
    """Show a run that another process drives until it ends, as `run` shows its own: a cell's table, or a terminal's.

    `run` is a `Run`, an id or the beginning of one; by default the run that is running now, else the newest one, of the script's project.
    `progress` is that of `run`, but a table shows at once. A run that has ended shows its final table. Ctrl-C, or interrupting the
    kernel, ends this call with KeyboardInterrupt, and not the run. A failure of the run is not raised: the `Run` that is returned has it.

    Raises UsageError for an unknown run, for one in a Kubernetes cluster or without tasks, as that of a service, and without an id if
    several are running.
    """
    if not isinstance(run, Run):
        project = Project.find(start_of())
        run = Run(project, project.runs.find(run) if run else project.runs.current())
    return run.follow(progress=progress)


def check_followed(project: Project, run: str) -> None:
    """Raise UsageError for a run without tasks to follow: that of a service, a script and the like."""
    begun = view_of(project.runs, run).begun
    if begun is not None and begun.kind != "pipeline":
        raise UsageError(
            f"{run} is the run of a {begun.kind}, which has no tasks to follow", next=f"hooke show {run}"
        )


def watch_run(project: Project, run: str, shown: Progress) -> None:
    """Show the events of a run that another process drives, from the first one, until it has no driver."""
    events = follow_events(
        project.runs.folder(run), segments=(DRIVER,), stop=lambda: not project.runs.alive(run)
    )
    for event in events:
        shown.observe(event)


class Run:
    """A run in progress, or an earlier run read from its journal."""

    def __init__(self, project: Project, run: str) -> None:
        self.id = run
        self.project = project
        self.folder = project.runs.folder(run)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._cell: int | None = None
        """The cell that has its table already, from its progress."""

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.status})"

    def _repr_html_(self) -> str | None:
        metrics = self.metrics if has_logged(self.folder) else None
        below = metrics._repr_html_() if metrics else ""
        view, now = self._view(), time.time()
        row = view.row(now)
        error = str(view.error(self.id) or row.message)
        if self._cell is not None and self._cell == cell_number():  # its progress is above, without the error
            return (preformatted(error) if error else "") + below or None
        return run_html(row, view.rows(now), stopping=view.stopping_by, error=error) + below

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed`, `stopped`, or `lost` (its driver died; the run can be resumed).

        Or `finished with failures`: the result lacks failed items of maps with `on_error="continue"`; the run can be resumed.
        """
        return self._view().status

    @property
    def stopped_by(self) -> str | None:
        """Who requested the stop; None if nobody did."""
        return self._view().stopping_by

    @property
    def failures(self) -> TableList[TaskFailed]:
        """The items and calls that failed for good, each as a TaskFailed: `task`, `item`, `arguments`, `log_tail`.

        The exception of the task is the `__cause__`. Empty for a run without failures.
        """
        view, store = self._view(), self.project.store()
        found = [
            task_failed(
                event,
                task=view.nodes[event.node].planned.task,
                run=self.id,
                unseal=store.unseal,
                item=item,
                tries=view.nodes[event.node].tries_of(event),
                declared=view.nodes[event.node].planned.memory,
                joined=False,
            )
            for item, event in view.failures()
        ]
        return TableList(found, kind=FAILURES)

    @property
    def params(self) -> TableDict[str]:
        """The parameters as text, as `hooke runs` shows them: those of the pipeline, with defaults, and of `log_param`.

        What tasks logged is `TASK.NAME` where others logged NAME, too; the last value counts.
        """
        begun = self._view().begun
        given = (begun.parameters or begun.shown) if begun is not None else {}
        values = {("", name): text_of(value) for name, value in given.items()}
        values |= {(note.task, note.name): note.value for note in self.logged().params}
        return TableDict({name: values[key] for key, name in full_names(values).items()}, kind=PARAMS)

    @property
    def metrics(self) -> TableDict[Metric]:
        """Each metric's last, smallest and largest value; `logged()` has all values, and `system/` metrics.

        The name is `TASK.NAME` where others logged NAME, too. Of several attempts at the same items one counts.
        """
        return self.logged().metrics()

    @property
    def artifacts(self) -> TableList[Artifact]:
        """The files that were logged, the last of each path, task and item: `.path` is its name, `.file` where it lies."""
        found = {(each.path, each.task, each.item): each for each in self.logged().artifacts}
        return TableList(found.values(), kind=ARTIFACTS)

    def logs(self, task: str = "") -> TableList[LogLine]:
        """The lines that the tasks, or one of them, printed so far, in the order in which their attempts ended.

        `print` shows them as `hooke logs` does. Raises UsageError for an unknown task.
        """
        tasks = self._view().tasks
        if task and task not in tasks:
            raise UsageError(
                f"run {self.id} has no task {task!r}",
                fix=f"{did_you_mean(task, tasks)}its tasks: {', '.join(tasks) or 'none'}",
            )
        transcript = Transcript(self.folder / "logs", only=task)
        ended = [line for event in self.project.runs.events(self.id) for line in transcript.event(event)]
        return TableList([*ended, *transcript.unfinished()], kind=LOGS)

    def result(self, timeout: float | None = None) -> Any:
        """The pipeline's return value, without failed items of maps with `on_error="continue"`. Waits for it, at most `timeout` seconds.

        Files in it are put back where they are missing, or another result of the same task. Raises UsageError if
        something else has written to one, TaskFailed, RunStopped (stopped or lost; its `next` is the command to resume) and TimeoutError.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"run {self.id} is still running after {timeout} s")
        ended = self._ended()
        store = self.project.store()
        try:
            with files_loaded(self.project.root) as files:
                value = unpack(store.get(output_ref(self.folder, ended)), store)
        except HookeError:
            raise
        except Exception as error:
            raise HookeError(
                f"run {self.id} finished, but its result cannot be loaded here: {type(error).__name__}: {error}",
                why=user_traceback(error),
                fix="fix __setstate__ or __reduce__ of its class, or return something that pickle can load",
            ) from error
        FileResults(self.project.root, store).provide(files)
        return value

    def check(self) -> None:
        """Raise the error that ended the run, if it has no result."""
        self._ended()

    def _ended(self) -> RunFinished:
        """How the run ended. Raises its error if it has no result."""
        if self._error is not None:
            raise self._error
        ended = ending(self.folder)
        if ended is not None and ended.has_result:
            return ended
        view = self._view()
        if (failed := view.failure) is not None:
            node = view.nodes[failed.node]
            raise task_failed(
                failed,
                task=node.planned.task,
                item=failed.item if node.planned.kind == "map" else None,
                run=self.id,
                unseal=lambda data: self.project.store().unseal(data),
                tries=node.tries_of(failed),
                declared=node.planned.memory,
            )
        why = view.ended.message if view.ended is not None else ""
        raise RunStopped(
            f"run {self.id} is {view.status} and has no result", why=why, next=view.resume_command
        )

    def tasks(self) -> TableList[TaskRow]:
        """For each task: the numbers of items that are waiting, running, cached, done and failed, with times and memory."""
        return TableList(self._view().rows(time.time()), kind=TASKS)

    @property
    def journal(self) -> Iterator[Event]:
        """Every event of the run so far, in order."""
        yield from self.project.runs.events(self.id, None)

    def curve(self, task: str = "") -> Curve:
        """The scaling curve of a task, from what this run measured; by default of the task that took longest.

        Other runs of the project count, too, if they did the same work at another N. Raises UsageError for an unknown
        task; NotEnoughData, with what to run next, if fewer than three N were measured or if N changed
        together with the kind of work.
        """
        from hooke.planning.curves import curve_of  # importing SciPy takes a third of a second

        return curve_of(self.project.runs, self.id, task)

    def logged(self) -> Logged:
        """What the run logged: `.points` (one row per value), `.params`, `.tags`, `.artifacts`, `.refused`.

        `.metric(name)` has all values of a metric, `.curve(name)` those that count: one curve for each call, across retries.
        """
        return logged_in(self.folder)

    def report(self, path: str | Path = "run.html") -> Path:
        """Write the run's page as one file, to open without a network, mail or print; returns its path.

        At most 2 MB: graph, tasks, timeline, failures, the ends of logs, small pictures, code and environment. Needs the extra `ui`.
        Raises MissingExtra, UsageError for a missing folder, JournalError and OSError.
        """
        from hooke.running.run_page import (
            run_html_file,
        )  # the comparison with earlier runs is not needed to run

        file = Path(path)
        if not file.absolute().parent.is_dir():
            raise UsageError(f"{file}: its folder does not exist", fix=f"mkdir -p {file.parent}")
        write_atomic(file, run_html_file(self.project, self.id).encode())
        return file

    def show(self) -> None:
        """Print the run's table."""
        print(run_table(self._view(), self.id))  # noqa: T201 - it is what the method is for

    def stop(self) -> None:
        """Request a clean stop; the run can be resumed."""
        self.project.runs.request_stop(self.id, "Run.stop()")

    def follow(self, *, progress: str = "auto") -> Self:
        """Show the run until it ends, as `hooke.follow` does. Raises UsageError for a run in a Kubernetes cluster or without tasks."""
        if self.project.runs.elsewhere(self.id) is not None:
            raise UsageError(
                f"run {self.id} is in a cluster, and so is its journal", next=f"hooke attach {self.id}"
            )
        check_followed(self.project, self.id)
        wanted = wanted_progress(progress, self.project.settings.show.progress)
        view = RunView()
        scene = Scene(in_this_process=False, logs=self.folder / "logs")
        shown = open_progress("table" if wanted == "auto" else wanted, scene, view)
        with shown:
            try:
                watch_run(self.project, self.id, shown)
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt(f"run {self.id} goes on; next: hooke attach {self.id}") from error
            view.driver_alive(self.project.runs.alive(self.id), self.project.runs.last_written(self.id))
        self.note_cell(shown)
        return self

    def note_cell(self, shown: Progress) -> None:
        """Note whether this cell of a notebook shows the run's table, which is not to be there twice."""
        self._cell = cell_number() if shown.has_shown else None

    def drive_behind(
        self, driver: Driver, shown: Progress | None = None, *, then: Callable[[], None] | None = None
    ) -> None:
        """Drive the run in a thread of this process. `shown` is entered in the calling thread; the other one calls `then` at the end."""
        context = ExitStack()

        def drive() -> None:
            try:
                with context:
                    driver.drive()
            except BaseException as error:  # noqa: BLE001 - result() raises it
                self._error = error
            finally:
                if then is not None:
                    then()

        self.project.create()
        self.project.runs.create(driver.run)  # so that stop() works at once
        if shown is not None:
            context.enter_context(shown)
            self.note_cell(shown)
        self._thread = threading.Thread(target=drive, name=f"hooke-{self.id}", daemon=True)
        self._thread.start()

    def _view(self) -> RunView:
        return view_of(self.project.runs, self.id)
