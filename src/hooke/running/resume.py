"""Taking a run up again after anything died."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

from hooke.base.errors import JournalError, UsageError
from hooke.fleets.elastic import RunTargets, spent_usd
from hooke.journal.events import RunFinished, RunStarted, StudyStarted
from hooke.journal.reader import SegmentReader
from hooke.journal.segments import SUFFIX
from hooke.pipeline.pipeline import Pipeline
from hooke.project.backends import BackendChoice, find_place, parse_workers
from hooke.project.folder import Project
from hooke.project.loading import load_entry
from hooke.running.driver import Driver, Observer, RunOrder, prepare
from hooke.store.store import Store

__all__ = ["arguments_of", "last_resumable", "pipeline_of", "reopen", "resume"]


def resume(
    project: Project, run: str, *, observers: tuple[Observer, ...] = (), wanted: RunTargets | None = None
) -> Driver | None:
    """A driver that goes on with `run`, or None where it has finished. Raises UsageError where it is running now.

    `wanted` is another deadline or budget than it had; what was spent of the old budget is spent of the new one.
    Code is taken as it is now: what was edited since has other keys and runs again.
    """
    started, finished = _ends(project, run)
    if project.runs.alive(run):
        raise UsageError(
            f"run {run} is running (process {started.pid} on {started.host})", next=f"hooke show {run}"
        )
    if finished is not None and finished.status == "finished":
        return None
    order = _order(started, project, observers)
    place = find_place(order.on, workers=parse_workers(order.workers), places=project.settings.places)
    wish = order.wanted
    if wanted is not None:
        wish = RunTargets(
            deadline=wanted.deadline or wish.deadline,
            budget_usd=wish.budget_usd if wanted.budget_usd is None else wanted.budget_usd,
        )
    if place.usd_per_hour and wish.budget_usd is not None:
        wish = replace(wish, spent_usd=_spent(project, run, place))
    return prepare(replace(order, wanted=wish), project)


def reopen(project: Project, run: str) -> Driver:
    """The run, traced again with the code of now, to look at; it is not to be driven."""
    started, _ = _ends(project, run)
    return prepare(_order(started, project, ()), project)


def _order(started: RunStarted, project: Project, observers: tuple[Observer, ...]) -> RunOrder:
    store = project.store()
    args, params = arguments_of(started, store)
    return RunOrder(
        pipeline=pipeline_of(started, store),
        args=args,
        params=params,
        on=started.place,
        workers=started.workers,
        allow_mismatch=started.allow_mismatch,
        wanted=RunTargets(deadline=started.deadline, budget_usd=started.budget_usd),
        run=started.run,
        observers=observers,
    )


def _spent(project: Project, run: str, place: BackendChoice) -> float:
    """What the run has spent so far. A worker's last sign counts as the driver's own does: that may have died without a word."""
    folder = project.runs.folder(run)
    events = project.runs.events(run)
    signs = [last for path in folder.glob(f"*{SUFFIX}") if (last := _last(path)) is not None]
    low = place.workers[0] if place.workers is not None else 1
    return spent_usd(events, signs, least=max(low, 1), usd_per_hour=place.usd_per_hour)


def _last(segment: Path) -> float | None:
    with SegmentReader(segment) as reader:
        last = reader.last()
    return None if last is None else last.at


def last_resumable(project: Project) -> str:
    """The newest run that can be resumed. Raises UsageError where there is none."""
    for run in project.runs.names():
        if project.runs.alive(run):
            continue
        try:
            started, finished = _ends(project, run)
        except (JournalError, UsageError):  # its journal is damaged, or it never began: named, it will say so
            continue
        # A trial that was pruned is where it should be: its search goes on with the others.
        if not started.parent and (finished is None or finished.status != "finished"):
            return run
    raise UsageError("no run is left to resume", where=str(project.runs.path), next="hooke runs")


def _ends(project: Project, run: str) -> tuple[RunStarted, RunFinished | None]:
    """The run's last start and, after it, its finish."""
    started: RunStarted | None = None
    finished: RunFinished | None = None
    for event in project.runs.events(run):
        if isinstance(event, RunStarted):
            _check_kind(run, event)
            started, finished = event, None
        elif isinstance(event, RunFinished):
            finished = event
        elif isinstance(event, StudyStarted):
            raise UsageError(
                f"{run} measured how {event.pipeline!r} scales: the command that began it goes on with it",
                next=f"hooke measure {event.entry}" + (f" --task {event.task}" if event.task else ""),
            )
    if started is None:
        raise UsageError(f"run {run} has no beginning in its journal: it never started", next="hooke runs")
    return started, finished


def _check_kind(run: str, event: RunStarted) -> None:
    """Raises UsageError for runs without a graph."""
    show = f"hooke show {run}"
    if event.kind == "script":
        raise UsageError(
            f"run {run} is that of a script, which has no tasks to go on with",
            fix=f"run {event.entry or 'it'} again: what it had logged is kept",
            next=show,
        )
    if event.kind == "service":
        raise UsageError(
            f"run {run} is that of a service, which has no tasks to go on with",
            fix=f"serve it again: hooke serve {event.entry}",
            next=show,
        )
    if event.kind == "search":
        raise UsageError(
            f"{run} is a search: the call of hooke.search() that began it goes on with it",
            fix=f"run {event.entry or 'it'} again; finished trials are not",
            next=show,
        )
    if event.kind == "imported":
        raise UsageError(
            f"run {run} was imported from {event.place}: it has no tasks to go on with", next=show
        )


def pipeline_of(started: RunStarted, store: Store) -> Pipeline[..., Any]:
    """The pipeline of a run, from its file as it is now. Raises UsageError where that is gone."""
    if started.pickled is not None:
        pipeline: Pipeline[..., Any] = pickle.loads(store.get(started.pickled))
        return pipeline
    file = started.entry.rpartition(":")[0]
    if not Path(file).is_file():
        raise UsageError(
            f"run {started.run} came from {file}, which is gone",
            fix="put the file back, or start a new run: what was finished is found in the cache",
        )
    return load_entry(started.entry)[0]


def arguments_of(started: RunStarted, store: Store) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Its parameters. Raises MissingObject where they were evicted."""
    if started.arguments is None:
        return (), {}
    args, params = pickle.loads(store.get(started.arguments))
    return tuple(args), dict(params)
