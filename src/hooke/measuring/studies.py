"""`measure()`, and `Study`, its result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, TextIO

from hooke.base.errors import NotEnoughData, UsageError
from hooke.base.formats import format_seconds
from hooke.charts.curve_chart import Curve
from hooke.journal.events import Event, Measured, PlainMeasured, StudyStarted
from hooke.journal.study_records import StudyRecord, read_study
from hooke.measuring.study_driver import StudyDriver, StudyOrder, prepare_study
from hooke.measuring.study_report import StudyRow, cause_of_study, facts_of, rows_of, text_of
from hooke.pipeline.pipeline import Pipeline
from hooke.planning.causes import Bottleneck
from hooke.planning.curves import study_curve
from hooke.planning.task_facts import cost_of, law_of_study, measurements_of
from hooke.progress.choice import wanted_progress
from hooke.project.folder import Project, project_of
from hooke.project.pipeline_file import check_call
from hooke.scaling import Cost, Law, Measurements

__all__ = ["Study", "StudyLines", "measure", "take_study"]


# --- Progress of a study: a line at the start, one that says how long it takes, and one for each round.


class StudyLines:
    """Writes the progress of a study to `stream`, until the stream is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._started: StudyStarted | None = None
        self._turns = 0
        self._repeats = 0
        self._counts: dict[int, int] = {}
        self._began = 0.0

    def observe(self, event: Event) -> None:
        """Write a line for the event, if it needs one."""
        match event:
            case StudyStarted():
                self._started = event
                self._turns = len(event.sizes or event.levels) + 1
                self._repeats = event.repeats
                what = f"{event.task} of {event.pipeline}" if event.task else event.pipeline
                varied = f"sizes {_listed(event.sizes)}" if event.sizes else f"N = {_listed(event.levels)}"
                self._say(f"measuring {what}: {varied} and plain calls, {event.repeats} rounds")
                self._began = event.at
            case Measured() | PlainMeasured():
                if self._started is not None:
                    self._forecast(event, self._started)
                self._counted(event.repeat, event.at)
            case _:
                pass

    def _forecast(self, first: Measured | PlainMeasured, started: StudyStarted) -> None:
        """How long all takes, by the first measurement: if the task scales as N, and if it does not at all."""
        self._started = None
        count = self._turns * self._repeats
        if started.weak or started.sizes:
            shortest = longest = first.seconds * count
        else:
            alone = first.seconds * (first.n if isinstance(first, Measured) else 1)
            shortest = self._repeats * alone * (1 + sum(1 / n for n in started.levels))
            longest = alone * count
        times = " to ".join(dict.fromkeys(map(format_seconds, (shortest, longest))))
        self._say(
            f"the first of {count} measurements took {format_seconds(first.seconds)}, so all take {times}"
        )

    def _counted(self, repeat: int, now: float) -> None:
        count = self._counts[repeat] = self._counts.get(repeat, 0) + 1
        if count == self._turns:
            took = format_seconds(max(now - self._began, 0.0))
            self._say(f"round {repeat + 1} of {self._repeats} is done, {took} after the start")

    def _say(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


OWN = ("task", "repeats", "sizes", "weak", "plain", "fresh")
"""Parameters of `measure` that may also be parameters of a pipeline."""


def measure(  # noqa: PLR0913 - one keyword for each choice
    pipeline: Pipeline[..., Any],
    /,
    *args: Any,
    task: str | None = None,
    workers: Sequence[int] | int | None = None,
    repeats: int | None = None,
    sizes: Sequence[int] = (),
    weak: bool = False,
    plain: Callable[..., Any] | None = None,
    on: str = "local",
    fresh: bool = False,
    progress: str = "auto",
    **params: Any,
) -> Study:
    """Measure how far a task of a pipeline, or (without `task`) the whole pipeline, scales with the number of workers.

    The task's inputs are computed once, or taken from the cache. Then its work is repeated `repeats` times (by default three,
    or two if three would take longer than ten plain calls of the work) with each
    N of `workers`: a list, or a number for 1, 2, 4, ... up to it (by default the cores of this machine). Each round
    measures every N once, in random order. The same work is also measured as plain calls, in one thread of a process
    without Hooke; or with `plain`, a function that takes the map's whole columns (or a call's arguments).
    With `weak`, each worker has the same work at every N (weak scaling). `sizes` are numbers of a map's items
    to measure with one N instead, which gives the fixed time and the time per item.

    If an equal study exists, it is the answer, unless `fresh`; if it was stopped or has fewer repeats, it
    continues. `progress` is `auto` (lines on stderr) or `none`. All other arguments are passed to the pipeline.

    Raises UsageError and TraceError before anything runs; NotEnoughData if the machine is too noisy for this number of
    repeats (the error says how many are enough); TaskFailed; KeyboardInterrupt after Ctrl-C, with finished rounds kept.
    """
    check_call("measure", pipeline)
    _check_own(pipeline, len(args))
    project = project_of(pipeline)
    lines = StudyLines(sys.stderr)
    wanted = wanted_progress(progress, project.settings.show.progress)
    order = StudyOrder(
        pipeline=pipeline,
        args=args,
        params=params,
        task=task,
        workers=workers,
        repeats=repeats,
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


class Study:
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
        text = f"<pre>{escape(str(self))}</pre>"
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
    def rows(self) -> list[StudyRow]:
        """The results at each N."""
        return rows_of(self._record())

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
