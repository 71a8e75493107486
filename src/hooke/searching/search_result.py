"""`Search`, the result of `hooke.search()`: its trials, the best one, tables and figures; and its progress lines."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from hooke.base.errors import UsageError
from hooke.base.formats import aligned, format_seconds, text_of
from hooke.base.table import Tabular, html_table
from hooke.comparing import drawing
from hooke.comparing.query import number
from hooke.journal.study_records import SearchRecord, TrialRecord, read_search
from hooke.progress.choice import line_stream
from hooke.project.folder import Project
from hooke.running.run import Run

if TYPE_CHECKING:
    from hooke.charts.run_figures import Curves, ParallelColumn

__all__ = ["Search", "SearchLines", "Trial", "Trials", "params_line", "short", "standing_line"]


# --- Progress lines, for searches longer than five seconds.

EVERY_S = 5.0


class SearchLines:
    """Prints a progress line every five seconds."""

    def __init__(self, trials: int, *, now: float, quiet: bool) -> None:
        """`now` is in seconds of a monotonic clock."""
        self._trials = trials
        self._due = now + EVERY_S
        self._quiet = quiet
        self._stream = line_stream()

    def look(self, record: SearchRecord, now: float) -> None:
        """Print a line if one is due."""
        if not self._quiet and now >= self._due:
            self._due = now + EVERY_S
            self._stream.write(f"{standing_line(record, self._trials)}\n")
            self._stream.flush()


def standing_line(record: SearchRecord, trials: int) -> str:
    """`search-fit-...: 12 of 40 trials, 2 pruned, 1 failed; best 0.93, trial 7: depth=4`."""
    counts = Counter(each.status for each in record.trials.values())
    ended = sum(counts.values()) - counts["running"]
    others = "".join(f", {counts[status]} {status}" for status in ("pruned", "failed") if counts[status])
    best = record.best()
    told = ""
    if best is not None and best.value is not None:
        told = f"; best {best.value:.6g}, trial {best.trial}: {params_line(best)}"
    return f"{record.begun.run}: {ended} of {trials} trials{others}{told}"


def params_line(trial: TrialRecord) -> str:
    """`depth=4, rate=0.0433`."""
    return ", ".join(f"{name}={short(text)}" for name, text in trial.shown.items())


def short(text: str) -> str:
    """A fractional number with four digits; other text unchanged."""
    found = number(text)
    return f"{found:.4g}" if found is not None and not text.lstrip("-").isdigit() else text


MOST_ROWS = 20
"""Number of trials listed, the best first; `trials.to_frame()` has all."""


class Trial:
    """One set of parameters and its value. `run` is its run."""

    def __init__(self, project: Project, record: TrialRecord) -> None:
        self._project = project
        self.number = record.trial
        self.status = record.status
        """`running`, `finished`, `pruned`, `failed`, or `lost` (its driver died)."""
        self.value = record.value
        """None unless the trial finished."""
        self.params = {name: _typed(text) for name, text in record.shown.items()}
        """Numbers as numbers, other values as short text."""
        self.message = record.message
        self.seconds = None if record.ended_at is None else record.ended_at - record.began_at
        self._run = record.run

    @property
    def run(self) -> Run:
        """Its run: `.result()`, `.logged()`, `.show()`."""
        return Run(self._project, self._run)

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value}" for name, value in self.params.items())
        value = "" if self.value is None else f" {self.value:.6g}"
        return f"<trial {self.number}:{value} {self.status}, {params}>"


class Trials(Sequence[Trial], Tabular):
    """The trials of a search, by number."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = list(trials)

    def __len__(self) -> int:
        return len(self._trials)

    @overload
    def __getitem__(self, at: int) -> Trial: ...
    @overload
    def __getitem__(self, at: slice) -> Trials: ...
    def __getitem__(self, at: int | slice) -> Trial | Trials:
        return Trials(self._trials[at]) if isinstance(at, slice) else self._trials[at]

    def __repr__(self) -> str:
        return f"<{len(self)} trials>"

    def columns(self) -> dict[str, list[Any]]:
        """Column -> one value per trial: `trial`, `status`, `value`, `seconds`, `run` and `params.*`."""
        names = dict.fromkeys(name for trial in self for name in trial.params)
        made: dict[str, list[Any]] = {
            "trial": [trial.number for trial in self],
            "status": [trial.status for trial in self],
            "value": [trial.value for trial in self],
            "seconds": [trial.seconds for trial in self],
            "run": [trial.run.id for trial in self],
        }
        return made | {f"params.{name}": [trial.params.get(name) for trial in self] for name in names}


class Search:
    """A search, as it was when this object was made. `print` shows its best trials."""

    def __init__(self, project: Project, search: str) -> None:
        """Raises UsageError if the run is not a search."""
        record = read_search(project.runs.folder(search))
        if record is None:
            raise UsageError(f"run {search} is not a search, or never started", next="hooke runs")
        self.id = search
        self.project = project
        self._record: SearchRecord = record
        self._alive = project.runs.alive(search)
        for each in record.trials.values():
            if each.status == "running" and not self._alive:
                each.status = "lost"

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed`, `stopped`, or `lost` (its driver died). Repeating the call continues it."""
        if self._record.finished is not None:
            return self._record.finished.status
        return "running" if self._alive else "lost"

    @property
    def trials(self) -> Trials:
        """All trials that were started, by number."""
        return Trials([Trial(self.project, each) for _, each in sorted(self._record.trials.items())])

    @property
    def best(self) -> Trial:
        """The trial with the best value, the first among equals. Raises UsageError if none has finished."""
        best = self._record.best()
        if best is None:
            raise UsageError(f"no trial of search {self.id} has finished", next=f"hooke show {self.id}")
        return Trial(self.project, best)

    @property
    def objective(self) -> str:
        """`maximize auc.max`, or `minimize the result`."""
        return f"{self._record.looked.direction} {self._record.looked.metric or 'the result'}"

    def show(self) -> None:
        """Print it."""
        print(self)  # noqa: T201 - the purpose of the method

    def __str__(self) -> str:
        header, rows = self._table()
        right = range(2, 2 + len(header) - 3)
        lines = aligned(header, rows, right=right)
        more = len(self._record.trials) - len(rows)
        return "\n".join([*self._head(), "", *lines, *([f"and {more} more trials"] if more else [])])

    def __repr__(self) -> str:
        return f"Search({self.id!r}, {self.status})"

    def _repr_html_(self) -> str:
        head, *rest = self._head()
        return html_table((head,), [(line,) for line in rest]) + html_table(*self._table())

    def facts(self) -> dict[str, Any]:
        """The search as plain values, for JSON."""
        looked, best = self._record.looked, self._record.best()
        columns = self.trials.columns()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return {
            "search": self.id, "status": self.status, "space": looked.space, "metric": looked.metric,
            "direction": looked.direction, "seed": looked.seed, "sampler": looked.sampler, "pruner": looked.pruner,
            "best": best.trial if best is not None else None, "trials": rows,
        }  # fmt: skip

    @property
    def started_at(self) -> float:
        """When it began, or was last continued, in seconds since the epoch."""
        return self._record.begun.at

    def counts(self) -> dict[str, int]:
        """Status -> how many trials have it."""
        return dict(Counter(each.status for each in self._record.trials.values()))

    def importance(self) -> dict[str, float]:
        """Parameter -> which share of the differences between the values of trials it explains alone, 0 to 1, the largest first.

        The finished trials are put into groups of like values of the parameter, of numbers at most five of about equal size. The share is
        epsilon squared (Kelley 1935) of the ranks of their values: eta squared less what chance would explain. Empty below LEAST_TRIALS.
        """
        ended = self._ended()
        if len(ended) < LEAST_TRIALS:
            return {}
        ranks = _ranks([trial.value or 0.0 for trial in ended])
        shares = {
            name: _explained(_groups([trial.params.get(name) for trial in ended]), ranks)
            for name in self._record.looked.space
        }
        return dict(sorted(shares.items(), key=lambda each: -each[1]))

    def history(self) -> Any:
        """A `plotly.graph_objects.Figure`: the values of trials by number, and the best so far. Raises MissingExtra."""
        from hooke.charts.run_figures import curves_spec  # SciPy comes with the laws

        return drawing.figure(curves_spec([self.history_curves()], title=self.id, steps="trial"))

    def history_curves(self) -> Curves:
        """What `history` draws."""
        from hooke.charts.run_figures import Curves, Trace

        ended = [each for _, each in sorted(self._record.trials.items()) if each.value is not None]
        numbers = [each.trial for each in ended]
        values = [each.value or 0.0 for each in ended]
        pick = max if self._record.looked.direction == "maximize" else min
        best = list(itertools.accumulate(values, pick))
        traces = [
            Trace(source="best so far", steps=numbers, values=best, stairs=True),
            Trace(source="trial", steps=numbers, values=values, joined=False),
        ]
        return Curves(metric=self._record.looked.metric or "result", traces=traces)

    def parallel_coordinates(self) -> Any:
        """A `plotly.graph_objects.Figure`: one line per finished trial through its parameters and its value. Raises MissingExtra."""
        from hooke.charts.run_figures import parallel_spec

        return drawing.figure(parallel_spec(self.parallel_columns(self._ended()), title=self.id))

    def parallel_columns(self, trials: Sequence[Trial]) -> list[ParallelColumn]:
        """A column for each parameter, and one for the value of these trials."""
        from hooke.charts.run_figures import ParallelColumn

        columns = [
            ParallelColumn(name=name, values=[trial.params.get(name) for trial in trials])
            for name in self._record.looked.space
        ]
        value = ParallelColumn(
            name=self._record.looked.metric or "result", values=[trial.value for trial in trials]
        )
        return [*columns, value]

    def ranked(self) -> list[Trial]:
        """All trials, the best first, then those without a value."""
        sign = -1 if self._record.looked.direction == "maximize" else 1
        return sorted(
            self.trials,
            key=lambda each: (math.inf if each.value is None else sign * each.value, each.number),
        )

    def _ended(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.value is not None]

    def _head(self) -> list[str]:
        told = ", ".join(f"{count} {status}" for status, count in self.counts().items())
        lines = [f"search {self.id}: {self.status}", f"  {self.objective}: {told or 'no trial yet'}"]
        best = self._record.best()
        if best is not None and best.value is not None:
            lines.append(f"  best {best.value:.6g}, trial {best.trial}: {params_line(best)}")
        failed = next((each for each in self._record.trials.values() if each.status == "failed"), None)
        if failed is not None:
            lines.append(f"  trial {failed.trial} failed: {failed.message}; next: hooke show {failed.run}")
        return lines

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The best trials first, then those without a value."""
        names = tuple(self._record.looked.space)
        sign = -1 if self._record.looked.direction == "maximize" else 1
        ranked = sorted(
            self._record.trials.values(),
            key=lambda each: (math.inf if each.value is None else sign * each.value, each.trial),
        )
        rows: list[tuple[str, ...]] = [
            (
                str(each.trial),
                each.status,
                "" if each.value is None else f"{each.value:.6g}",
                "" if each.ended_at is None else format_seconds(each.ended_at - each.began_at),
                *(short(each.shown.get(name, "")) for name in names),
                each.run,
            )
            for each in ranked[:MOST_ROWS]
        ]
        return ("trial", "status", "value", "took", *names, "run"), rows


def _typed(text: str) -> Any:
    found = number(text)
    if found is None:
        return text_of(text)
    return int(text) if text.lstrip("-").isdigit() else found


# --- Importance: how much of the differences between trials one parameter explains.

LEAST_TRIALS = 8
"""With fewer finished trials, chance explains most of any parameter."""
MOST_GROUPS = 5
IN_A_GROUP = 4
"""Trials, at least, of a number's group."""


def _ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    for _, same in itertools.groupby(enumerate(order, 1), key=lambda each: values[each[1]]):
        alike = list(same)
        for _, at in alike:
            ranks[at] = sum(rank for rank, _ in alike) / len(alike)
    return ranks


def _groups(values: Sequence[Any]) -> list[Any]:
    """The group of each value: the value itself where few are different, else the part of the order in which it lies."""
    most = min(MOST_GROUPS, len(values) // IN_A_GROUP)
    if len(set(values)) <= most or not all(isinstance(value, int | float) for value in values):
        return list(values)
    return [int(most * (rank - 0.5) / len(values)) for rank in _ranks(values)]


def _explained(groups: Sequence[Any], ranks: Sequence[float]) -> float:
    """Epsilon squared of the ranks by group; 0 where each group has one member, or there is one group."""
    by_group: dict[Any, list[float]] = {}
    for group, rank in zip(groups, ranks, strict=True):
        by_group.setdefault(group, []).append(rank)
    mean, free = sum(ranks) / len(ranks), len(ranks) - len(by_group)
    whole = sum((rank - mean) ** 2 for rank in ranks)
    if not free or not whole or len(by_group) < 2:
        return 0.0
    means = {group: sum(found) / len(found) for group, found in by_group.items()}
    within = sum((rank - means[group]) ** 2 for group, found in by_group.items() for rank in found)
    return max(0.0, 1 - within / free / (whole / (len(ranks) - 1)))
