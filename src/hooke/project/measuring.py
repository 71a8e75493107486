"""`measure` and `Study`: what a user calls to know how far something scales, and gets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from hooke.base.errors import NotEnoughData, UsageError
from hooke.charts.curve import Curve
from hooke.journal.studies import StudyRecord, read_study
from hooke.pipeline.pipeline import Pipeline
from hooke.project.belonging import project_of
from hooke.project.curves import study_curve
from hooke.project.folder import Project
from hooke.project.loading import loading
from hooke.project.progress.choice import wanted_progress
from hooke.project.progress.study_lines import StudyLines
from hooke.project.studying import StudyDriver, StudyOrder, prepare_study
from hooke.scaling import Cost, Law, Measurements
from hooke.studies.measured import cost_of, law_of, measurements_of
from hooke.studies.report import facts_of, text_of
from hooke.studies.rows import StudyRow, rows_of

__all__ = ["Study", "measure", "take_study"]

OWN = ("task", "repeats", "sizes", "weak", "plain", "fresh")
"""Parameters of `measure` that a pipeline may have too."""


def measure(  # noqa: PLR0913 - one keyword for each choice
    pipeline: Pipeline[..., Any],
    /,
    *args: Any,
    task: str | None = None,
    workers: Sequence[int] | int | None = None,
    repeats: int = 3,
    sizes: Sequence[int] = (),
    weak: bool = False,
    plain: Callable[..., Any] | None = None,
    on: str = "local",
    fresh: bool = False,
    progress: str = "auto",
    **params: Any,
) -> Study:
    """Measure how far a task of a pipeline, or (without `task`) the whole pipeline, scales with the number of workers.

    What the task needs is computed once, or taken from the cache; then its work is done anew `repeats` times by each
    N of `workers`: a list, or a number for 1, 2, 4, ... up to it (by default the cores of this machine). Each round
    holds every N once, in a random order. The same work is also measured as plain calls, in one thread of a process
    without Hooke, or as `plain` does it, a function that is given the map's whole columns (a call's arguments).
    `weak` gives each worker the same work at every N, instead of all together. `sizes` are numbers of a map's items
    that are measured instead, by one N: what is fixed and what each item costs.

    An equal study that is there already is the answer, unless `fresh`; one that was stopped goes on, and so does one
    that has fewer repeats. `progress` is `auto` (lines on stderr) or `none`. The other arguments are the pipeline's.

    Raises UsageError and TraceError before anything runs; NotEnoughData where the machine is too noisy for so many
    repeats to conclude, saying how many would do; TaskFailed; KeyboardInterrupt after Ctrl-C, rounds done being kept.
    """
    if not isinstance(pipeline, Pipeline):
        raise UsageError(
            f"measure() takes a pipeline, not {type(pipeline).__name__} {getattr(pipeline, '__name__', '')}".rstrip(),
            mend="mark the function that composes tasks with @pipeline",
        )
    if (file := loading()) is not None:
        raise UsageError(
            f"{file} calls measure() while it is imported",
            mend='put the call under `if __name__ == "__main__":`',
        )
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
    """Measure what is not known yet, and give all of it."""
    driver.drive()
    return Study(driver.project, driver.study)


def _check_own(pipeline: Pipeline[..., Any], given: int) -> None:
    """Refuse a pipeline's parameter that bears the name of one of ours, unless it is given by position."""
    taken = [name for name in list(pipeline.signature.parameters)[given:] if name in OWN]
    if taken:
        raise UsageError(
            f"pipeline {pipeline.name!r} has a parameter {taken[0]!r}, and so has measure()",
            mend=f"give it by position, or on the command line behind --: hooke measure FILE.py -- --{taken[0]} VALUE",
        )


class Study:
    """What was measured, read from its journal: `print` shows the table, the law, the COST and what is missing."""

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
        except (NotEnoughData, UsageError):  # the text says why there is no picture
            return text

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed`, `stopped`, or `lost` (its driver died). All but the first two can go on."""
        finished = self._record().finished
        if finished is not None:
            return finished.status
        return "running" if self.project.runs.alive(self.id) else "lost"

    @property
    def rows(self) -> list[StudyRow]:
        """What was measured at each N."""
        return rows_of(self._record())

    @property
    def measurements(self) -> Measurements:
        """Every measurement, to be fitted in another way. Raises NotEnoughData where there is none."""
        return measurements_of(self._record())

    @property
    def law(self) -> Law:
        """The law that they speak for. Raises NotEnoughData, which names the missing N."""
        return law_of(self._record())

    @property
    def cost(self) -> Cost:
        """The smallest N that beats the plain calls, or never. Raises NotEnoughData, BeyondTheData."""
        return cost_of(self._record())

    @property
    def curve(self) -> Curve:
        """The law as a picture. Raises NotEnoughData as `law` does, and UsageError where sizes were swept."""
        return study_curve(self._record())

    @property
    def plain_seconds(self) -> list[float]:
        """What the plain calls took, once a round."""
        return [each.seconds for each in self._record().plain]

    def facts(self) -> dict[str, Any]:
        """All of it in values that JSON has."""
        return facts_of(self._record())

    def show(self) -> None:
        """Print it."""
        print(self)  # noqa: T201 - it is what the method is for

    def _record(self) -> StudyRecord:
        record = read_study(self.folder)
        if record is None:
            raise UsageError(f"{self.id} is no study", next="hooke runs")
        return record
