"""What a trial came to: the number that it returned, or a metric that it logged; where it was cached, by whoever computed it."""

from __future__ import annotations

import contextlib

from hooke.base.errors import UsageError
from hooke.pipeline.shown import shown
from hooke.project.comparing.facts import Facts, facts_of
from hooke.project.comparing.names import Names
from hooke.project.folder import Project
from hooke.project.outcome import view_of
from hooke.project.running import Run

__all__ = ["objective_of"]


def objective_of(project: Project, run: str, metric: str) -> float:
    """The value of a finished run. Raises UsageError where there is none: a result that is no number, a metric nobody logged."""
    return _logged(project, run, metric) if metric else _returned(project, run)


def _returned(project: Project, run: str) -> float:
    result = Run(project, run).result()
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(result, str | bytes):
            return float(result)
    raise UsageError(
        f"a trial returned {shown(result)}, which is no number to compare trials by",
        where=f"run {run}",
        mend="return a number, or name a metric that it logs: metric='auc'",
    )


def _logged(project: Project, run: str, metric: str) -> float:
    own = facts_of(project.runs, run)
    names = Names("metrics", [own])
    try:
        name, which = names.metric(metric)
        return own.metrics[name].value(which)
    except UsageError as error:
        found = _of_cached(project, run, metric)
        if found is not None:
            return found
        error.where = f"run {run}"
        if cached := [
            name for name, task in view_of(project.runs, run).tasks.items() if task.row(0.0, 1).cached
        ]:
            error.why = f"{', '.join(cached)} came from the cache, and what it logged when it ran is not to be found any more"
            error.mend = f"make it run again (hooke cache rm {cached[0]}), or return the value from the task, which is cached"
        raise


def _of_cached(project: Project, run: str, metric: str) -> float | None:
    """What a cached task logs it logged in the run that computed it; None where that one is gone, or logged no such metric."""
    store = project.store()
    for node in view_of(project.runs, run).nodes.values():
        entry = store.find(node.planned.key) if node.cached_count and node.planned.kind == "call" else None
        if entry is None or not project.runs.folder(entry.run).is_dir():
            continue
        there: Facts = facts_of(project.runs, entry.run, of_key=node.planned.key)
        try:
            name, which = Names("metrics", [there]).metric(metric)
        except UsageError:
            continue
        return there.metrics[name].value(which)
    return None
