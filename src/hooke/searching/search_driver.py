"""`hooke.search()`: asks the sampler for parameters, runs trials in parallel, and reports their values to it."""

from __future__ import annotations

import itertools
import math
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from msgspec.structs import replace

from hooke.base.clock import SystemClock
from hooke.base.errors import HookeError, RunStopped, TaskFailed, UsageError
from hooke.base.formats import short_repr
from hooke.comparing.facts import RunFacts, facts_of
from hooke.comparing.query import WHICH, NameGroup
from hooke.journal.events import (
    WITH_FAILURES,
    PointsLogged,
    RunFinished,
    RunStarted,
    SearchStarted,
    TrialBegan,
    TrialEnded,
    ended_as,
)
from hooke.journal.reader import SegmentReader
from hooke.journal.run_view import AttemptsView, ending, view_of
from hooke.journal.segments import SUFFIX
from hooke.journal.study_records import SEARCH_PREFIX, SearchRecord, TrialRecord, find_search, read_search
from hooke.pipeline.runner import CTRL_C
from hooke.processes.devices import cpus_here
from hooke.progress.choice import wanted_progress
from hooke.project.backends import BackendChoice, Fleet, find_backend, fleet_for
from hooke.project.folder import Project, lock_run, new_run_id, open_run, start_of
from hooke.project.pipeline_file import check_not_importing
from hooke.running.driver import Driver, RunOrder, prepare
from hooke.running.run import Run
from hooke.searching.sampling import Sampling
from hooke.searching.search_result import Search, SearchLines
from hooke.searching.space import SearchOrder, parse_order, values_of
from hooke.sync.background import Shipping
from hooke.sync.outbox import logged_segments
from hooke.tracking.tracker import Tracker

__all__ = ["search"]

POLL_S = 0.1
"""Seconds between two checks of what trials log, and for a request to stop."""
FIRST_FAILURES = 3
"""If the first trials all fail, the search ends after this many: the code is wrong, not the parameters."""


def search(  # noqa: PLR0913 - options by name
    target: Any,
    space: Mapping[str, Any],
    /,
    *,
    trials: int = 20,
    metric: str = "",
    direction: str = "minimize",
    pruner: Any = "none",
    sampler: Any = "tpe",
    seed: int = 0,
    workers: int | None = None,
    on: Any = "local",
    progress: str = "auto",
    **params: Any,
) -> Search:
    """Look for the best parameters of a task or a pipeline, with Optuna. Each trial is a run, cached and journalled.

    `space` gives the values of each parameter: `(low, high)` (whole numbers if both are), `loguniform(low, high)`,
    `range(low, high, step)`, or a list of choices. All other arguments are passed to the target, the same for every trial.

    The objective is the number that a trial returns, or a `metric` that it logs: `auc` (its last value), `auc.max`, `loss.min`,
    `fit.auc`. `direction` is `minimize` or `maximize`. `pruner` stops a trial that is worse at a step than others were:
    `median`, `asha` (successive halving) or an Optuna pruner; it sees the values of `metric` as they are logged.
    `sampler` is `tpe`, `random` or an Optuna sampler. `workers` workers of the backend `on`, which is as in `run`, serve the trials:
    one for each, or as many as its largest gang has ranks; by default as many as there are cpus, or workers of the Fleet. On `dask`
    and `ray` one cluster, started by the first trial that runs, serves all of them. `progress` is as in `run`, but shows only a line
    every five seconds.

    Repeating the call continues the search: after a kill, after an error, or with more `trials`. Trials that finished or
    were pruned are not repeated. The parameters of a trial follow from `seed` and the earlier results; with one trial at a time they
    are always the same.

    Raises UsageError, TraceError and MissingExtra before anything runs; TaskFailed if the first trials all fail; RunStopped after
    `hooke stop`; KeyboardInterrupt after Ctrl-C, once all trials have stopped cleanly.
    """
    check_not_importing("search")
    order = parse_order(
        target,
        space,
        params,
        trials=trials,
        metric=metric,
        direction=direction,
        pruner=pruner,
        sampler=sampler,
        seed=seed,
    )
    project = Project.find(start_of(sys.modules.get(target.function.__module__)))
    where = _placement(project, workers, on)
    sampling = Sampling(order.space, direction=direction, sampler=sampler, pruner=pruner, seed=seed)
    wanted = wanted_progress(progress, project.settings.show.progress)
    telling = SearchLines(order.trials, now=time.monotonic(), quiet=wanted == "none")
    return SearchDriver(project, order, sampling, telling, where).drive()


def _placement(project: Project, workers: int | None, on: Any) -> _Placement:
    if workers is not None and (type(workers) is not int or workers < 1):
        raise UsageError(f"workers={workers!r}", fix="give a number from 1")
    place = find_backend(on, workers=None, places=project.settings.places)
    own = on.workers if isinstance(on, Fleet) else place.workers[1] if place.workers is not None else None
    most = workers or own or (1 if place.engine == "serial" else cpus_here())
    return _Placement(on=on, place=place, workers=most, fleet=fleet_for(place, workers=most))


@dataclass(slots=True, eq=False)
class _Trial:
    """A trial, driven in a thread once there is room for it."""

    number: int
    driver: Driver
    asked: dict[str, Any]
    shown: dict[str, str]
    watch: MetricWatch | None = None
    given_up: bool = False
    error: BaseException | None = None
    thread: threading.Thread | None = None


@dataclass(slots=True, eq=False)
class _PendingTrials:
    """The trials to run: first those that an earlier driver did not finish, then new ones."""

    again: list[TrialRecord] = field(default_factory=list)
    number: int = 0
    ready: _Trial | None = None
    """Traced, and waits for room."""
    workers: int = 1
    """Those of the last trial that was traced, which the next one probably needs too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placement:
    """The backend of the trials, and the number of its workers."""

    on: Any
    """As given to `search`."""
    place: BackendChoice
    workers: int
    fleet: Fleet | None
    """Not yet started; None where the trials need no cluster of their own."""


def _workers_of(driver: Driver) -> int:
    """The workers of a trial: one, or as many as its largest gang has ranks."""
    return max((node.task.resources.ranks for node in driver.graph.nodes), default=1)


class SearchDriver:
    """Drives a search in one thread; each trial runs in another thread."""

    def __init__(
        self,
        project: Project,
        order: SearchOrder,
        sampling: Sampling,
        telling: SearchLines,
        where: _Placement,
    ) -> None:
        self._project = project
        self._order = order
        self._sampling = sampling
        self._telling = telling
        self._where = where
        self._clock = SystemClock()
        self._key = order.key()
        known = find_search(project.runs, self._key)
        self._run = known or new_run_id(f"{SEARCH_PREFIX}{order.pipeline.name}", self._clock.now())
        self._new = known is None
        self._ended: queue.SimpleQueue[_Trial] = queue.SimpleQueue()
        self._going: dict[int, _Trial] = {}
        self._pending = _PendingTrials()
        self._opened = ExitStack()

    def drive(self) -> Search:
        """Run the search to its end."""
        folder = self._project.runs.folder(self._run)
        with self._opened:
            self._opened.enter_context(lock_run(self._project, self._run))
            self._project.runs.clear_stop(self._run)
            self._record = None if self._new else read_search(folder)
            if self._is_over():
                return Search(self._project, self._run)
            durable = self._project.settings.journal.durable
            self._opened.enter_context(Shipping(self._project, folder))
            begun = self._begun()
            self._journal = self._opened.enter_context(open_run(self._project, begun, clock=self._clock))
            self._tracker = Tracker(folder, "search", durable=durable)
            self._opened.callback(self._tracker.close)
            self._begin(begun)
            self._finish()
        return Search(self._project, self._run)

    # -- beginning and end

    def _is_over(self) -> bool:
        """Whether an earlier driver has run all requested trials."""
        record = self._record
        if record is None or record.finished is None or record.finished.status != "finished":
            return False
        return len([each for each in record.trials.values() if each.status != "failed"]) >= self._order.trials

    def _begun(self) -> RunStarted:
        order = self._order
        target = order.target
        return RunStarted(
            run=self._run,
            pipeline=order.pipeline.name,
            entry=str(getattr(sys.modules.get(target.function.__module__), "__file__", "") or ""),
            shown=dict(order.shown) | {name: short_repr(value) for name, value in order.fixed.items()},
            place=self._where.place.name,
            seed=order.seed,
            resumed=not self._new,
            kind="search",
            experiment=self._experiment(),
        )

    def _begin(self, begun: RunStarted) -> None:
        order = self._order
        looked = SearchStarted(
            key=self._key,
            space=dict(order.shown),
            metric=order.metric,
            direction=order.direction,
            sampler=str(order.sampler),
            pruner=str(order.pruner),
            seed=order.seed,
        )
        if self._record is None:
            self._record = SearchRecord(begun=begun, looked=looked)
            self._journal.append(looked)
            self._tracker.log_params({"search.direction": order.direction, "search.seed": order.seed})
        else:
            self._record.apply(begun)
            self._replay(self._record)

    def _experiment(self) -> str:
        return self._project.settings.tracking.experiment or self._order.pipeline.name

    def _replay(self, record: SearchRecord) -> None:
        """Report the earlier trials to the sampler in their order; unfinished ones run first."""
        for number in record.told:
            trial = record.trials[number]
            self._sampling.ask(number, trial.asked)
            if self._order.pruner != "none":
                with MetricWatch(self._project.runs.folder(trial.run), self._order.metric) as watch:
                    self._sampling.report(number, watch.points())
            self._sampling.tell(number, trial.status, trial.value)
        told = set(record.told)
        self._pending.again = [each for number, each in sorted(record.trials.items()) if number not in told]
        self._pending.number = max(record.trials, default=-1) + 1

    def _finish(self) -> None:
        began = self._clock.monotonic()
        status, message = "failed", ""
        try:
            status = self._run_trials()
        except KeyboardInterrupt:
            status, message = "stopped", CTRL_C
            self._stop_all()
            raise KeyboardInterrupt(
                f"search {self._run} stopped cleanly; repeat the call to continue it"
            ) from None
        except BaseException as error:
            message = error.what if isinstance(error, HookeError) else f"{type(error).__name__}: {error}"
            self._stop_all()
            raise
        finally:
            best = self._record.best() if self._record is not None else None
            if best is not None:
                self._tracker.set_tags(
                    {"best.trial": best.trial} | {f"best.{k}": v for k, v in best.shown.items()}
                )
            self._journal.append(
                RunFinished(status=status, message=message, seconds=self._clock.monotonic() - began)
            )
        if status == "stopped":
            raise RunStopped(f"search {self._run} was stopped", fix="repeat the call to continue it")

    # -- the loop

    def _run_trials(self) -> str:
        while True:
            self._launch()
            if not self._going:
                return "finished"
            self._wait()
            if self._project.runs.stop_requested(self._run) is not None:
                self._stop_all()
                return "stopped"

    def _wait(self) -> None:
        """Wait until a trial ends or for POLL_S, then check the running trials."""
        with suppress(queue.Empty):
            self._finish_trial(self._ended.get(timeout=POLL_S))
        assert self._record is not None
        self._telling.look(self._record, time.monotonic())
        for trial in list(self._going.values()):
            if trial.watch is not None and not trial.given_up:
                trial.given_up = self._sampling.report(trial.number, trial.watch.points())
            if trial.given_up:  # repeated, because a starting driver clears earlier requests
                self._project.runs.request_stop(trial.driver.run, f"the pruner of {self._run}")

    def _launch(self) -> None:
        """Start trials while there are workers for them."""
        pending = self._pending
        room = self._where.workers - sum(_workers_of(trial.driver) for trial in self._going.values())
        while room >= pending.workers and (trial := pending.ready or self._next()) is not None:
            pending.workers = _workers_of(trial.driver)
            pending.ready = trial if pending.workers > room else None
            if pending.ready is None:
                room -= pending.workers
                self._start(trial)

    def _next(self) -> _Trial | None:
        """The next trial, traced; None if there is none. Raises UsageError if it has a gang of more ranks than there are workers."""
        pending = self._pending
        if not pending.again and pending.number >= self._order.trials:
            return None
        former = pending.again.pop(0) if pending.again else None
        number = former.trial if former is not None else pending.number
        if former is None:
            pending.number += 1
        asked = self._sampling.ask(number, former.asked if former is not None else None)
        given = values_of(self._order.space, asked)
        run = (
            former.run
            if former is not None and (self._folder(former.run) / "driver.journal").exists()
            else None
        )
        order = RunOrder(
            pipeline=self._order.pipeline,
            params=dict(self._order.fixed) | given,
            on=self._where.on,
            workers=self._where.workers,
            run=run,
            parent=self._run,
            experiment=self._experiment(),
        )
        driver = prepare(order, self._project, clock=self._clock)
        workers = _workers_of(driver)
        driver.order = replace(order, workers=workers)
        driver.place = find_backend(
            order.on, workers=(workers, workers), places=self._project.settings.places
        )
        return _Trial(number, driver, asked, {name: short_repr(value) for name, value in given.items()})

    def _start(self, trial: _Trial) -> None:
        driver = trial.driver
        driver.place = replace(driver.place, at=self._cluster() or driver.place.at)
        if self._order.pruner != "none":
            trial.watch = MetricWatch(self._folder(driver.run), self._order.metric)
        self._say(TrialBegan(trial=trial.number, run=driver.run, asked=trial.asked, shown=trial.shown))
        self._project.runs.create(driver.run)  # so that it can be stopped at once
        self._going[trial.number] = trial
        trial.thread = threading.Thread(
            target=self._drive, args=(trial,), name=f"hooke-{driver.run}", daemon=True
        )
        trial.thread.start()

    def _cluster(self) -> Any:
        """Where the trials' engines connect to: the search's own cluster, started when a trial first needs it; None if it has none."""
        fleet = self._where.fleet
        if fleet is None:
            return None
        if not fleet.running:
            self._opened.enter_context(fleet)
        return fleet.at

    def _drive(self, trial: _Trial) -> None:
        try:
            ended = ending(self._folder(trial.driver.run)) if trial.driver.order.run is not None else None
            if ended is None or ended.status != "finished":
                trial.driver.drive()
        except BaseException as error:  # noqa: BLE001 - raised in the search's own thread
            trial.error = error
        self._ended.put(trial)

    def _finish_trial(self, trial: _Trial) -> None:
        """Report the outcome of a trial."""
        self._going.pop(trial.number)
        if trial.watch is not None:
            self._sampling.report(trial.number, trial.watch.points())
            trial.watch.close()
        if trial.error is not None:
            raise trial.error
        status, value, message, failure = self._outcome(trial)
        self._sampling.tell(trial.number, status, value)
        self._say(TrialEnded(trial=trial.number, status=status, value=value, message=message))
        self._log(trial, status, value)
        record = self._record
        assert record is not None
        failed = [each for each in record.trials.values() if each.status == "failed"]
        if failure is not None and len(failed) >= min(FIRST_FAILURES, self._order.trials) and not record.told:
            raise failure

    def _outcome(self, trial: _Trial) -> tuple[str, float | None, str, TaskFailed | None]:
        run = Run(self._project, trial.driver.run)
        try:
            run.check()
        except TaskFailed as error:
            return "failed", None, error.what, error
        except RunStopped:
            if trial.given_up:
                return "pruned", None, "", None
            raise
        if run.status == WITH_FAILURES:  # what was measured on fewer items cannot be compared
            return "failed", None, ended_as(WITH_FAILURES, len(run.failures)), run.failures[0]
        value = objective_of(self._project, run.id, self._order.metric)
        if math.isnan(value):
            return "failed", None, "its value is nan", None
        return "finished", value, "", None

    def _say(self, event: TrialBegan | TrialEnded) -> None:
        self._journal.append(event)
        assert self._record is not None
        self._record.apply(event)

    def _log(self, trial: _Trial, status: str, value: float | None) -> None:
        """Log for trackers: the value with its trial, and the best value with the search."""
        if status == "finished" and value is not None and self._record is not None:
            tracker = Tracker(self._folder(trial.driver.run), "search")
            tracker.log_metric("objective", value, step=trial.number)
            tracker.close()
            best = self._record.best()
            assert best is not None
            self._tracker.log_metrics({"objective": value, "best": best.value}, step=trial.number)

    def _folder(self, run: str) -> Path:
        return self._project.runs.folder(run)

    def _stop_all(self) -> None:
        """Stop all trials and wait for them. Repeating the call reports those that finished."""
        for trial in self._going.values():
            self._project.runs.request_stop(trial.driver.run, f"search {self._run}")
        for trial in self._going.values():
            if trial.thread is not None:
                trial.thread.join()
            if trial.watch is not None:
                trial.watch.close()
        self._going.clear()


# --- The value of a trial: the number that it returned, or a metric that it logged, also in an earlier run if it was cached.


def objective_of(project: Project, run: str, metric: str) -> float:
    """The value of a finished run. Raises UsageError if its result is not a number, or if the metric was not logged."""
    return _logged(project, run, metric) if metric else _returned(project, run)


def _returned(project: Project, run: str) -> float:
    result = Run(project, run).result()
    with suppress(TypeError, ValueError):
        if not isinstance(result, str | bytes):
            return float(result)
    raise UsageError(
        f"a trial returned {short_repr(result)}, which is not a number",
        where=f"run {run}",
        fix="return a number, or name a logged metric: metric='auc'",
    )


def _logged(project: Project, run: str, metric: str) -> float:
    own = facts_of(project.runs, run)
    names = NameGroup("metrics", [own])
    try:
        name, which = names.metric(metric)
        return own.metrics[name].value(which)
    except UsageError as error:
        found = _of_cached(project, run, metric)
        if found is not None:
            return found
        error.where = f"run {run}"
        if cached := [
            name for name, task in view_of(project.runs, run).tasks.items() if task.row(0.0).cached
        ]:
            error.why = (
                f"{', '.join(cached)} came from the cache, and what it logged when it ran no longer exists"
            )
            error.fix = f"run it again (hooke cache rm --task {cached[0]}), or return the value from the task instead of logging it"
        raise


def _of_cached(project: Project, run: str, metric: str) -> float | None:
    """The metric in the run that computed a cached task; None if that run is gone or did not log it."""
    store = project.store()
    for node in view_of(project.runs, run).nodes.values():
        if not node.cached_count or node.planned.kind != "call":
            continue
        # The run has checked what its result was made from; of several of the key it is the one that it found.
        used = {ref.digest for _, _, ref, _ in node.results}
        entry = store.find(node.planned.key, lambda _: True)
        if entry is None or entry.ref.digest not in used or not project.runs.folder(entry.run).is_dir():
            continue
        there: RunFacts = facts_of(project.runs, entry.run, of_key=node.planned.key)
        try:
            name, which = NameGroup("metrics", [there]).metric(metric)
        except UsageError:
            continue
        return there.metrics[name].value(which)
    return None


# --- The values of a metric while a trial runs, for the pruner.


class MetricWatch:
    """Follows the metric `auc` or `fit.auc` (for `auc.max`: `auc`) in a run's folder. Use it in `with`."""

    def __init__(self, folder: Path, metric: str) -> None:
        stem, _, which = metric.rpartition(".")
        self._names = {metric, stem} if which in WHICH and stem else {metric}
        self._folder = folder
        self._view = AttemptsView()
        self._opened = ExitStack()
        self._readers: dict[str, SegmentReader] = {}

    def points(self) -> list[tuple[int, float]]:
        """The new (step, value) pairs, in order of time. Raises JournalError."""
        events = [event for file in logged_segments(self._folder) for event in self._new(file)]
        driver = self._folder / f"driver{SUFFIX}"
        if events and driver.exists():  # read last, so that the attempts that logged are known
            for event in self._reader(driver):
                self._view.apply(event)
        found = [point for event in events for point in self._of(event)]
        return [(step, value) for _, step, value in sorted(found)]

    def _of(self, event: PointsLogged) -> Iterator[tuple[float, int, float]]:
        known = self._view.attempts.get(event.attempt) if event.attempt is not None else None
        task = f"{known.task}." if known is not None else ""
        for (name, value, step), at in zip(
            event.points, event.times or itertools.repeat(event.at), strict=False
        ):
            if name in self._names or task + name in self._names:
                yield at, step, value

    def _new(self, file: Path) -> list[PointsLogged]:
        return [event for event in self._reader(file) if isinstance(event, PointsLogged)]

    def _reader(self, file: Path) -> SegmentReader:
        reader = self._readers.get(file.stem)
        if reader is None:
            reader = self._readers[file.stem] = self._opened.enter_context(SegmentReader(file))
        return reader

    def close(self) -> None:
        """Close the segments."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
