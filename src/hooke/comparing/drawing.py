"""Figures of runs: prepares logged values for `hooke.charts`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hooke.base.errors import UsageError
from hooke.comparing.facts import Name, RunFacts
from hooke.comparing.query import NameGroup, is_system, number
from hooke.journal.events import PointsLogged
from hooke.journal.reader import SegmentReader
from hooke.journal.run_folders import RunsFolder
from hooke.sync.outbox import logged_segments

if TYPE_CHECKING:
    from hooke.charts.run_figures import Curves, ParallelColumn

__all__ = ["curves", "figure", "has_curves", "page", "panels", "parallel", "parallel_columns"]

MOST_LINES = 60
"""Lines of one run in a panel; more could not be told apart."""
MOST_PANELS = 24

_Line = tuple[int | None, int | None, Name]
"""The attempt with the curve's end, item and metric."""


def curves(
    folder: RunsFolder, runs: Sequence[RunFacts], sources: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """Learning curves as a Plotly specification, one panel per metric; as `panels` finds them, and raising as it does."""
    from hooke.charts.run_figures import curves_spec

    shown, left_out = panels(folder, runs, sources, metrics)
    title = "Learning curves" + (f", {left_out} lines of items left out" if left_out else "")
    return curves_spec(shown, title=title)


def panels(
    folder: RunsFolder, runs: Sequence[RunFacts], sources: Sequence[str], metrics: Sequence[str]
) -> tuple[list[Curves], int]:
    """The curves of each metric, and how many lines of items are left out. `sources` are the runs' labels.

    By default of the metrics of which some run logged several values. Raises UsageError for a metric that no run logged.
    """
    from hooke.charts.run_figures import Curves, Trace

    names = NameGroup("metrics", runs)
    wanted = [names.find(metric) for metric in metrics] or _several(names, runs)
    traces: dict[Name, list[Trace]] = {name: [] for name in wanted}
    left_out = 0
    for source, facts in zip(sources, runs, strict=True):
        label = source if source == facts.run else f"{source}  {facts.run}"
        lines = _lines(folder.folder(facts.run), facts, set(wanted))
        drawn = dict.fromkeys(wanted, 0)
        for (_, item, name), points in lines.items():
            drawn[name] += 1
            if drawn[name] > MOST_LINES:
                left_out += 1
                continue
            points.sort(key=lambda point: point[:2])
            detail = f"{name.task}[{item}]" if item is not None else name.task
            steps, values = [step for step, _, _ in points], [value for _, _, value in points]
            traces[name].append(Trace(source=label, steps=steps, values=values, detail=detail))
    return [Curves(metric=names.shown(name), traces=each) for name, each in traces.items()], left_out


def has_curves(runs: Sequence[RunFacts]) -> bool:
    """Whether some run logged several values of a metric."""
    return any(
        spread.count > 1 and not is_system(name) for each in runs for name, spread in each.metrics.items()
    )


def parallel(runs: Sequence[RunFacts], columns: Sequence[str], colour: str) -> dict[str, Any]:
    """Parallel coordinates as a Plotly specification. Raises UsageError for a column that no run has, and for no columns."""
    from hooke.charts.run_figures import parallel_spec

    if not columns:
        raise UsageError("these runs do not differ", fix="name columns, such as params.depth or metrics.auc")
    made = parallel_columns(runs, columns)
    return parallel_spec(made, colour=colour.partition(".")[2] or colour, title=f"{len(runs)} runs")


def parallel_columns(runs: Sequence[RunFacts], columns: Sequence[str]) -> list[ParallelColumn]:
    """The values of each column, one for each run. Raises UsageError for a column that no run has."""
    from hooke.charts.run_figures import ParallelColumn

    return [ParallelColumn(name=column.partition(".")[2], values=_values(runs, column)) for column in columns]


def figure(spec: Mapping[str, Any]) -> Any:
    """The `plotly.graph_objects.Figure`. Raises MissingExtra."""
    from hooke.charts import plotly_figure

    return plotly_figure.figure_from_spec(spec)


def page(specs: Sequence[Mapping[str, Any]], below: str, *, title: str) -> str:
    """An HTML page with these figures above `below`, which is trusted markup. Raises MissingExtra."""
    from hooke.charts import plotly_figure
    from hooke.charts.html import plotly_page

    return plotly_page(specs, plotly_figure.plotly_script() if specs else "", below, title=title)


def _several(names: NameGroup, runs: Sequence[RunFacts]) -> list[Name]:
    found = [
        name
        for name in names.all()
        if not is_system(name) and any(name in each.metrics and each.metrics[name].count > 1 for each in runs)
    ]
    if not found:
        raise UsageError(
            "no metric of these runs has several values",
            fix="call log_metric() in a loop for a learning curve",
        )
    return found[:MOST_PANELS]


def _lines(folder: Path, facts: RunFacts, wanted: set[Name]) -> dict[_Line, list[tuple[int, float, float]]]:
    """Line -> its (step, time, value) points, from the attempts that count."""
    lines: dict[_Line, list[tuple[int, float, float]]] = {}
    for event in _points(folder):
        owner = event.attempt, event.item
        task, part = facts.counted.get(owner), facts.curves.get(owner)
        if task is None or part is None:
            continue
        times = event.times or itertools.repeat(event.at)
        for (metric, value, step), at in zip(event.points, times, strict=False):
            name = Name(task, metric)
            if name in wanted and step < part.limit(metric):
                lines.setdefault((part.ends_in, event.item, name), []).append((step, at, value))
    return lines


def _points(folder: Path) -> Iterable[PointsLogged]:
    for file in logged_segments(folder):
        with SegmentReader(file) as reader:
            yield from (event for event in reader if isinstance(event, PointsLogged))


def _values(runs: Sequence[RunFacts], column: str) -> list[float | str | None]:
    group, _, name = column.partition(".")
    if group == "metrics" and name:
        metric, which = NameGroup(group, runs).metric(name)
        return [each.metrics[metric].value(which) if metric in each.metrics else None for each in runs]
    if group in ("params", "tags") and name:
        found = NameGroup(group, runs).find(name)
        texts = [getattr(each, group).get(found) for each in runs]
        return [None if text is None else _typed(", ".join(text)) for text in texts]
    raise UsageError(f"no column {column!r}", fix="valid: params.NAME, metrics.NAME, tags.NAME")


def _typed(text: str) -> float | str:
    found = number(text)
    return text if found is None else found
