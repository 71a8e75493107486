"""`measure()`, and `Study`, its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hooke.base.errors import NotEnoughData, UsageError
from hooke.base.formats import format_seconds
from hooke.base.table import Printed, TableKind, TableList, fields_by_name
from hooke.charts.curve_chart import Curve
from hooke.journal.events import Event, Measured, PlainMeasured, RunFinished, StudyStarted
from hooke.journal.study_records import StudyRecord, read_study
from hooke.measuring.design import LEAST_S, question_of
from hooke.measuring.study_driver import StudyDriver, StudyOrder, prepare_study
from hooke.measuring.study_report import (
    StudyRow,
    budget_unit,
    cause_of_study,
    facts_of,
    rows_of,
    text_of,
)
from hooke.pipeline.pipeline import Pipeline
from hooke.planning.causes import Bottleneck
from hooke.planning.curves import study_curve
from hooke.planning.task_facts import cost_of, law_of_study, measurements_of
from hooke.progress.choice import LineStream, line_stream, wanted_progress
from hooke.project.folder import Project, project_of
from hooke.project.pipeline_file import check_call
from hooke.scaling import Cost, Law, Measurements

__all__ = ["Study", "StudyLines", "measure", "take_study"]


# --- Progress of a study: a line at the start, one that says how long it takes, and one for each round.


class StudyLines:
    """Writes the progress of a study to `stream`, until the stream is closed."""

    def __init__(self, stream: LineStream) -> None:
        self._stream: LineStream | None = stream
        self._started: StudyStarted | None = None
        self._forecasted = False
        self._first: list[Measured | PlainMeasured] = []
        """The first measurement; with a baseline of the user's own, those in which a budget is counted."""
        self._round = -1
        self._last_at = 0.0

    def observe(self, event: Event) -> None:
        """Write a line for the event, if it needs one."""
        match event:
            case StudyStarted():
                self._begin(event)
            case Measured() | PlainMeasured() if self._started is not None:
                if not self._forecasted:
                    self._forecast(event, self._started)
                self._measured(event, self._started)
                self._last_at = event.at
            case RunFinished(status="finished") if self._started is not None and not self._started.budget:
                self._say_round(self._started)
            case _:
                pass

    def _begin(self, started: StudyStarted) -> None:
        self._started, self._forecasted, self._round = started, False, -1
        self._first.clear()
        what = f"{started.task} of {started.pipeline}" if started.task else started.pipeline
        varied = f"sizes {_listed(started.sizes)}" if started.sizes else f"N = {_listed(started.levels)}"
        how = f"{started.repeats} rounds"
        if started.budget:
            how = f"at most {_count(started)} measurements and {started.budget:g} {budget_unit(started)}"
        self._say(f"measuring {what}: {varied} and plain calls, {how}")

    def _forecast(self, event: Measured | PlainMeasured, started: StudyStarted) -> None:
        """How long all takes, by the first measurement: if the task scales as N, and if it does not at all or the budget ends it."""
        self._first.append(event)
        if started.budget and started.plain and len({type(each) for each in self._first}) < 2:
            return
        self._forecasted = True
        count = _count(started)
        if started.budget:
            first = max(self._first, key=lambda each: each.seconds)
            alone = _alone(first, least=min(started.levels) if started.plain else 1)
            most = format_seconds(max(started.budget * alone, LEAST_S))
            which = _named(first, started) if started.plain else "the first"
            took = format_seconds(first.seconds)
            self._say(f"{which} took {took}, so all measurements, at most {count}, take at most {most}")
            return
        alone = _alone(event)
        if started.weak or started.sizes:
            shortest = longest = event.seconds * count
        else:
            shortest = started.repeats * alone * (1 + sum(1 / n for n in started.levels))
            longest = alone * count
        times = " to ".join(dict.fromkeys(map(format_seconds, (shortest, longest))))
        self._say(
            f"the first of {count} measurements took {format_seconds(event.seconds)}, so all take {times}"
        )

    def _measured(self, event: Measured | PlainMeasured, started: StudyStarted) -> None:
        """In rounds, the last one when another begins; else each repeat, with its time."""
        if not started.budget:
            if event.repeat != self._round:
                self._say_round(started)
            self._round = event.repeat
        elif event.repeat:
            took = format_seconds(event.seconds)
            self._say(f"{_named(event, started)} a {_ordinal(event.repeat + 1)} time: {took}")

    def _say_round(self, started: StudyStarted) -> None:
        if self._round >= 0:
            took = format_seconds(max(self._last_at - started.at, 0.0))
            self._say(f"round {self._round + 1} of {started.repeats} is done, {took} after the start")

    def _say(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None


def _count(started: StudyStarted) -> int:
    """The number of measurements; with a budget, the most."""
    return started.repeats * (1 + len(started.sizes or started.levels))


def _alone(each: Measured | PlainMeasured, *, least: int = 1) -> float:
    """How long it takes the least number of workers, if the task scales as N."""
    return each.seconds * (each.n / least if isinstance(each, Measured) else 1)


def _named(each: Measured | PlainMeasured, started: StudyStarted) -> str:
    if isinstance(each, PlainMeasured):
        return "the plain calls"
    return f"N = {each.n}, {each.work:g} items" if started.sizes else f"N = {each.n}"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth"}.get(number, f"{number}th")


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


OWN = ("task", "repeats", "answer", "within", "sizes", "weak", "plain", "fresh")
"""Parameters of `measure` that may also be parameters of a pipeline."""


def measure(  # noqa: PLR0913 - one keyword for each choice
    pipeline: Pipeline[..., Any],
    /,
    *args: Any,
    task: str | None = None,
    workers: Sequence[int] | int | None = None,
    repeats: int | None = None,
    answer: str | int | None = None,
    within: float | None = None,
    sizes: Sequence[int] = (),
    weak: bool = False,
    plain: Callable[..., Any] | None = None,
    on: str = "local",
    fresh: bool = False,
    progress: str = "auto",
    **params: Any,
) -> Study:
    """Measure how far a task of a pipeline, or (without `task`) the whole pipeline, scales with the number of workers.

    The task's inputs are computed once, or taken from the cache. Then its work is measured with each N of `workers`: a list, or a
    number for 1, 2, 4, ... up to it (by default the cores of this machine). Of a gang, N is the number of ranks. The same work is
    also measured as plain calls, in one thread of a process without Hooke; or with `plain`, a function that takes the map's whole
    columns (or a call's arguments).

    After each N once, in random order, it measures again the N that is expected to tell most about `answer` for each second that it
    takes: `knee` (the default), `cost`, or a number N for the time with N workers. It ends when half the interval of the answer
    is at most `within` (by default 25 % of it, 10 % of a time), when the measurements took as long as ten plain calls of the
    work, or after three for each N and for the plain calls, on average. With `repeats` it takes as many whole rounds instead: each measures
    every N once, in random order.

    With `weak`, each worker has the same work at every N (weak scaling). `sizes` are numbers of a map's items
    to measure with one N instead, which gives the fixed time and the time per item.

    If an equal study exists, it is the answer, unless `fresh`; if it was stopped or has fewer repeats, it
    continues. `progress` is `auto` (lines on stderr) or `none`. All other arguments are passed to the pipeline.

    Raises UsageError and TraceError before anything runs; NotEnoughData if the machine is too noisy for this number of
    repeats (the error says how many are enough); TaskFailed; KeyboardInterrupt after Ctrl-C, with all measurements kept.
    """
    check_call("measure", pipeline)
    _check_own(pipeline, len(args))
    project = project_of(pipeline)
    lines = StudyLines(line_stream())
    wanted = wanted_progress(progress, project.settings.show.progress)
    order = StudyOrder(
        pipeline=pipeline,
        args=args,
        params=params,
        task=task,
        workers=workers,
        repeats=repeats,
        question=question_of(answer, within),
        sizes=sizes,
        weak=weak,
        plain=plain,
        on=on,
        fresh=fresh,
        observers=() if wanted == "none" else (lines.observe,),
    )
    return take_study(prepare_study(order, project))


def take_study(driver: StudyDriver) -> Study:
    """Take the missing measurements and return the study."""
    driver.drive()
    return Study(driver.project, driver.study)


def _check_own(pipeline: Pipeline[..., Any], given: int) -> None:
    """Raise UsageError for a pipeline's parameter with the name of one of ours, unless it is given by position."""
    taken = [name for name in list(pipeline.signature.parameters)[given:] if name in OWN]
    if taken:
        raise UsageError(
            f"pipeline {pipeline.name!r} and measure() both have a parameter {taken[0]!r}",
            fix=f"give it by position, or on the command line after --: hooke measure FILE.py -- --{taken[0]} VALUE",
        )


ROWS: TableKind[StudyRow] = TableKind(
    one="row", columns=fields_by_name(*StudyRow.__struct_fields__), label=lambda row: f"N = {row.n}"
)


class Study(Printed):
    """A study, read from its journal. `print` shows the table, the law, the COST and what is missing."""

    def __init__(self, project: Project, study: str) -> None:
        self.id = study
        self.project = project
        self.folder = project.runs.folder(study)

    def __repr__(self) -> str:
        return f"Study({self.id!r}, {self.status})"

    def __str__(self) -> str:
        return text_of(self._record())

    def _repr_html_(self) -> str:
        text = super()._repr_html_()
        try:
            return f"{self.curve._repr_html_()}{text}"
        except (NotEnoughData, UsageError):  # the text says why there is no figure
            return text

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed`, `stopped`, or `lost` (its driver died). The last three can be continued."""
        finished = self._record().finished
        if finished is not None:
            return finished.status
        return "running" if self.project.runs.alive(self.id) else "lost"

    @property
    def rows(self) -> TableList[StudyRow]:
        """The results at each N."""
        return TableList(rows_of(self._record()), kind=ROWS)

    @property
    def measurements(self) -> Measurements:
        """All measurements, for other fits. Raises NotEnoughData if there are none."""
        return measurements_of(self._record())

    @property
    def law(self) -> Law:
        """The scaling law. Raises NotEnoughData, which names the missing N."""
        return law_of_study(self._record())

    @property
    def cost(self) -> Cost:
        """The COST: the smallest N that beats plain calls, or never. Raises NotEnoughData, BeyondTheData."""
        return cost_of(self._record())

    @property
    def cause(self) -> Bottleneck | None:
        """What the task loses time to: its `name`, a `sentence` and the `evidence`; None if nothing is wrong or known."""
        return cause_of_study(self._record())

    @property
    def curve(self) -> Curve:
        """The law as a figure. Raises NotEnoughData as `law` does, and UsageError if sizes were varied."""
        return study_curve(self._record())

    @property
    def plain_seconds(self) -> list[float]:
        """The seconds of the plain calls, one value per round."""
        return [each.seconds for each in self._record().plain]

    def facts(self) -> dict[str, Any]:
        """The study as plain values, for JSON."""
        return facts_of(self._record())

    def show(self) -> None:
        """Print it."""
        print(self)  # noqa: T201 - the purpose of the method

    def _record(self) -> StudyRecord:
        record = read_study(self.folder)
        if record is None:
            raise UsageError(f"{self.id} is not a study", next="hooke runs")
        return record
