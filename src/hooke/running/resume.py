"""Resumes a run after a stop, a failure or the death of its driver."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from hooke.base.errors import JournalError, UsageError
from hooke.fleets.elastic import LedgerMeter, RunTargets, spent_usd
from hooke.journal.events import FINISHED, RunFinished, RunStarted, StudyStarted
from hooke.journal.reader import SegmentReader
from hooke.journal.segments import SUFFIX
from hooke.pipeline.pipeline import Pipeline
from hooke.project.backends import BackendChoice, find_backend, parse_workers
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.running.driver import Driver, Observer, RunOrder, prepare
from hooke.store.store import Store

__all__ = ["arguments_of", "last_resumable", "pipeline_of", "reopen", "resume"]


MOST_NAMED = 5
"""Runs that an error names."""


def resume(
    project: Project,
    run: str,
    *,
    observers: tuple[Observer, ...] = (),
    wanted: RunTargets | None = None,
    on: str | None = None,
    workers: int | tuple[int, int] | None = None,
) -> Driver | None:
    """A driver that continues `run`; None if the run has finished without failures. Raises UsageError if it is running.

    `wanted` replaces its deadline or budget; what was spent counts against the new budget.
    `on` moves the rest of it to another backend, with `workers` as for `run`: what is done is found there, too.
    The current code runs: edited tasks have new keys and run again.
    """
    started, finished = _ends(project, run)
    if project.runs.alive(run):
        raise UsageError(
            f"run {run} is running (process {started.pid} on {started.host})", next=f"hooke show {run}"
        )
    if finished is not None and finished.status == FINISHED:
        return None
    order = _order(started, project, observers)
    if on is not None or workers is not None:
        order = replace(order, on=order.on if on is None else on, workers=workers)
    place = find_backend(order.on, workers=parse_workers(order.workers), places=project.settings.places)
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
    """The run, traced again with the current code, for inspection only."""
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
        force=started.forced,
        wanted=RunTargets(deadline=started.deadline, budget_usd=started.budget_usd),
        name=started.name,
        tags=started.tags,
        retries=started.retries,
        run=started.run,
        observers=observers,
    )


def _spent(project: Project, run: str, place: BackendChoice) -> float:
    """US dollars that the run has spent. Workers' last events count, too, because the driver may have died before them."""
    ledger = LedgerMeter(project.runs, run)
    if ledger.priced:
        return ledger.usd(time.time())
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
    """The newest run that can be resumed. Raises UsageError if there is none, with what the others lack."""
    running: list[str] = []
    damaged: list[str] = []
    for run in project.runs.names():
        if project.runs.alive(run):
            running.append(run)
            continue
        try:
            started, finished = _ends(project, run)
        except JournalError:  # an error of its own only if the run is named
            damaged.append(run)
            continue
        except UsageError:  # it never started, or is no pipeline's
            continue
        # Trials belong to their search, which continues them itself.
        if not started.parent and (finished is None or finished.status != FINISHED):
            return run
    why = [f"{run} is running" for run in running] + [f"the journal of {run} is damaged" for run in damaged]
    raise UsageError(
        "there is no run to resume",
        where=str(project.runs.path),
        why="; ".join(why[:MOST_NAMED]) or "none was stopped, failed or killed",
        fix=f"hooke show {damaged[0]} says how to repair it" if damaged else "",
        next=f"hooke show {running[0]}" if running else "hooke runs",
    )


def _ends(project: Project, run: str) -> tuple[RunStarted, RunFinished | None]:
    """The run's last start, and its finish after that."""
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
                f"{run} is a scaling study of {event.pipeline!r}, which its own command continues",
                next=f"hooke measure {event.entry}" + (f" --task {event.task}" if event.task else ""),
            )
    if started is None:
        raise UsageError(f"run {run} never started: its journal has no beginning", next="hooke runs")
    return started, finished


def _check_kind(run: str, event: RunStarted) -> None:
    """Raise UsageError for a run without a graph."""
    show = f"hooke show {run}"
    if event.kind == "script":
        raise UsageError(
            f"run {run} is a script's run, which cannot be resumed",
            fix=f"run {event.entry or 'it'} again; what it logged is kept",
            next=show,
        )
    if event.kind == "service":
        raise UsageError(
            f"run {run} is a service's run, which cannot be resumed",
            fix=f"serve it again: hooke serve {event.entry}",
            next=show,
        )
    if event.kind == "search":
        raise UsageError(
            f"{run} is a search, which its own call of hooke.search() continues",
            fix=f"run {event.entry or 'it'} again; finished trials are not repeated",
            next=show,
        )
    if event.kind == "imported":
        raise UsageError(f"run {run} was imported from {event.place}, so it cannot be resumed", next=show)


def pipeline_of(started: RunStarted, store: Store) -> Pipeline[..., Any]:
    """The pipeline of a run, from the current file. Raises UsageError if the file is gone."""
    if started.pickled is not None:
        pipeline: Pipeline[..., Any] = pickle.loads(store.get(started.pickled))
        return pipeline
    file = started.entry.rpartition(":")[0]
    if not Path(file).is_file():
        raise UsageError(
            f"run {started.run} came from {file}, which no longer exists",
            fix="restore the file, or start a new run, which takes finished results from the cache",
        )
    return load_entry(started.entry)[0]


def arguments_of(started: RunStarted, store: Store) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The run's parameters. Raises MissingObject if they were evicted."""
    if started.arguments is None:
        return (), {}
    args, params = pickle.loads(store.get(started.arguments))
    return tuple(args), dict(params)
