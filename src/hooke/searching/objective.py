"""The value of a trial: the number that it returned, or a metric that it logged, also in an earlier run if it was cached."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from hooke.base.errors import UsageError
from hooke.base.formats import short_repr
from hooke.comparing.facts import RunFacts, facts_of
from hooke.comparing.query import WHICH, NameGroup
from hooke.journal.events import PointsLogged
from hooke.journal.reader import SegmentReader
from hooke.journal.run_view import AttemptsView, view_of
from hooke.journal.segments import SUFFIX
from hooke.project.folder import Project
from hooke.running.run import Run
from hooke.sync.outbox import logged_segments

__all__ = ["MetricWatch", "objective_of"]


def objective_of(project: Project, run: str, metric: str) -> float:
    """The value of a finished run. Raises UsageError if its result is not a number, or if the metric was not logged."""
    return _logged(project, run, metric) if metric else _returned(project, run)


def _returned(project: Project, run: str) -> float:
    result = Run(project, run).result()
    with contextlib.suppress(TypeError, ValueError):
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
