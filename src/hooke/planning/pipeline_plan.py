"""`plan()` and `Plan`: the predicted time and cost of a pipeline."""

from __future__ import annotations

import math
import os
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hooke.base.clock import Clock, SystemClock
from hooke.base.distributions import HOOKE_VERSION
from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import format_bytes, short_parameters
from hooke.base.units import parse_seconds, parse_usd
from hooke.journal.events import PlanMade, PlannedTask
from hooke.journal.study_records import StudyRecord
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.trace import trace
from hooke.planning.machines import configurations, given, this_machine
from hooke.planning.prediction import Prediction, TaskShare, plan_facts, plan_html, plan_text, planned_row
from hooke.planning.remaining import Survey, Times
from hooke.planning.task_facts import KnownFacts, PastJournals, known_facts
from hooke.planning.timings import speeds
from hooke.processes.devices import cpus_here, memory_here
from hooke.project.folder import Project, new_run_id, project_of
from hooke.project.pipeline_file import entry_of
from hooke.project.price_lists import Catalogs, read_catalogs
from hooke.scaling.call_times import LEVEL
from hooke.scaling.pareto import Advice, PlanLimits, first_measurement, recommend
from hooke.scaling.time_and_price import MOST_EXTRAPOLATED, Planner, Row
from hooke.scaling.workload import Untimed, Workload

__all__ = [
    "Plan",
    "PlanQuestion",
    "command_for",
    "make_plan",
    "measure_command",
    "plan",
    "plan_limits",
    "predicted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuestion:
    """What to predict. `workers` are the numbers considered on this machine; None means powers of 2 up to its cpus.

    `scale` is the factor on the size of all data; None means the data as they are. Raises UsageError for a scale that is none.
    """

    pipeline: Pipeline[..., Any]
    args: tuple[Any, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    wish: PlanLimits = field(default_factory=PlanLimits)
    workers: Sequence[int] | int | None = None
    times: Times = field(default_factory=dict)
    scale: float | None = None
    catalog: Catalogs = None
    speed: Mapping[str, Any] = field(default_factory=dict)
    startup: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if self.scale is not None and not (number and 0 < self.scale < math.inf):
            raise UsageError(
                f"scale: {self.scale!r} is not a number above 0", fix="give 10 for ten times the data"
            )

    @property
    def shown(self) -> dict[str, str]:
        """The pipeline's parameters as text."""
        return short_parameters(self.args, self.params)

    @property
    def title(self) -> str:
        """The question in one line."""
        shown = ", ".join(f"{name}={text}" for name, text in self.shown.items())
        wish = f", within {self.wish}" if str(self.wish) else ""
        times = "".join(f", {factor:g} times the items of {task}" for task, factor in self.times.items())
        data = "" if self.scale is None else f", {self.scale:g} times the data"
        return f"plan of {self.pipeline.name}({shown}){data}{times}{wish}"

    @property
    def of_other_data(self) -> bool:
        """Whether it is about data that do not exist, for which stored results do not count."""
        return bool(self.times) or self.scale is not None

    def levels(self) -> list[int]:
        """The numbers of workers considered on this machine. Raises UsageError."""
        if self.workers is None:
            doubled = [1 << power for power in range(cpus_here().bit_length())]
            return sorted({*doubled, cpus_here()})
        several = [self.workers] if isinstance(self.workers, int) else list(self.workers)
        wrong = [n for n in several if isinstance(n, bool) or not isinstance(n, int) or n < 1]
        if wrong or not several:
            raise UsageError(
                f"workers={several!r} is not valid", fix="give numbers from 1, such as [1, 2, 4]"
            )
        return sorted(set(several))


def plan_limits(deadline: str | float | None, budget: str | float | None) -> PlanLimits:
    """The limits from `"30m"` or seconds, and `"$20"` or US dollars. Raises UsageError."""
    seconds = None if deadline is None else parse_seconds(deadline, name="deadline")
    if seconds == 0:
        raise UsageError(f"deadline {deadline!r} is not above 0", fix='write for example "30m"')
    return PlanLimits(deadline_s=seconds, budget_usd=None if budget is None else parse_usd(budget))


UNRUN = "plan"
"""Stands for the run in keys of uncached tasks, so that nothing stored has such a key."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(Prediction):
    """The prediction for a pipeline. `print` shows a table.

    `rows` are all configurations considered; `front` those that no other beats in both time and cost; `recommended` is the
    best one (None if there is none), `reason` says why, and `next` is the command to type. `tasks` is the work
    left, `untimed` the work that no row includes, and `notes` the basis of the prediction.
    """

    question: PlanQuestion = field(repr=False)
    project: Project = field(repr=False)

    def times(self, factors: Times) -> Plan:
        """The plan for other data: task -> factor for the number of items of its maps, and of maps in step with them.

        Stored results do not count then. Raises UsageError for a name that is not a mapped task.
        """
        return make_plan(replace(self.question, times=dict(factors)), self.project)

    def facts(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        return plan_facts(self)

    def __repr__(self) -> str:
        best = self.recommended
        return f"<{self.title}: {best.configuration if best is not None else self.reason}>"

    def __str__(self) -> str:
        return plan_text(self)

    def _repr_html_(self) -> str:
        return plan_html(self)


def plan(
    pipeline: Pipeline[..., Any],
    /,
    *args: Any,
    deadline: str | float | None = None,
    budget: str | float | None = None,
    catalog: Catalogs = None,
    workers: Sequence[int] | int | None = None,
    scale: float | None = None,
    **params: Any,
) -> Plan:
    """Predict the time and cost of a run, on this machine and on the instance types of price lists, with intervals.

    `deadline` ("30m", or seconds) and `budget` ("$20", or US dollars) are the limits. `catalog` names price
    lists: shipped ones ("lambda", "coreweave", "digitalocean"; None means all of them) or CSV files, one or several.
    `workers` are the numbers of workers considered on this machine. `scale` plans for so many times the data: each call
    reads `scale` times the bytes of its files and arguments. All other arguments are passed to the pipeline. Nothing runs: durations and scaling laws come from the journals of the project's earlier runs and studies, and results in the
    store are left out.

    Raises UsageError, TraceError and NotFingerprintable as `run` does.
    """
    if not isinstance(pipeline, Pipeline):
        raise UsageError(
            f"plan() takes a pipeline, not {type(pipeline).__name__} {getattr(pipeline, '__name__', '')}".rstrip(),
            fix="decorate the function that calls the tasks with @pipeline",
        )
    if scale is not None and "scale" in pipeline.signature.parameters:
        raise UsageError(
            f"scale= is an option of plan(), and a parameter of pipeline {pipeline.name!r}",
            fix="rename the parameter, for example to scale_, or pass its value by position",
        )
    question = PlanQuestion(
        pipeline=pipeline,
        args=args,
        params=params,
        wish=plan_limits(deadline, budget),
        workers=workers,
        catalog=catalog,
        scale=scale,
    )
    return make_plan(question, project_of(pipeline))


def make_plan(question: PlanQuestion, project: Project, *, clock: Clock | None = None) -> Plan:
    """Make a plan and keep it in the project, so that a run can be checked against it.

    hooke.toml supplies price lists, speeds and start-up times that the question lacks.
    """
    now = (clock or SystemClock()).now()
    made = _answered(question, project)
    if not any(row.seconds is not None for row in made.rows):
        return made
    stale = [each.stale_text(now) for each in made.priced_by()]
    made = replace(made, notes=(*made.notes, *filter(None, stale)))
    try:
        project.plans.add(_event(made, now))
    except (HookeError, OSError) as error:
        return replace(made, notes=(*made.notes, f"this plan could not be saved: {error}"))
    return made


def _answered(question: PlanQuestion, project: Project) -> Plan:
    past = PastJournals.read(project.runs, pipeline=question.pipeline.name, host=socket.gethostname())
    return predicted(question, project, past)


def predicted(question: PlanQuestion, project: Project, past: PastJournals) -> Plan:
    """The plan that follows from these journals. hooke.toml supplies what the question lacks; nothing is kept."""
    settings = project.settings.plan
    lists = read_catalogs(question.catalog if question.catalog is not None else settings.catalog)
    speed, startup = {**settings.speed, **question.speed}, {**settings.startup, **question.startup}
    graph = trace(question.pipeline, question.args, question.params)
    survey = Survey(
        graph,
        GraphKeys(graph, run=UNRUN, seed=project.seed),
        project.store(),
        question.times,
        project.inputs_now(),
        past.data(project.root, question.scale),
    )
    speed = speeds(speed, past.everywhere, here=past.host)
    catalogs = given(lists, speed=speed, startup=startup)
    facts = known_facts(survey.left, past, shown=None if question.of_other_data else question.shown)
    here, elsewhere = (
        Workload(survey.works, each, calibration=facts.calibration) for each in (facts.here, facts.elsewhere)
    )
    planner = Planner(here, elsewhere=elsewhere, overhead_s=past.beside_s)
    machine = this_machine(speed, measured_here=past.is_here)
    considered = configurations(machine, question.levels(), catalogs)
    rows = tuple(planner.row(each) for each in considered) if _counts(here) else ()
    advice = _advice(rows, question.wish, here)
    return Plan(
        title=question.title,
        rows=rows,
        advice=advice,
        tasks=_shares(survey, here.untimed),
        untimed=here.untimed,
        catalogs=tuple(catalogs),
        notes=(*_data_notes(survey, rows, past), *_notes(facts, past)),
        next=_next(question, advice, facts, rows, here.untimed, past.studies),
        question=question,
        project=project,
    )


def _event(made: Plan, now: float) -> PlanMade:
    question = made.question
    return PlanMade(
        at=now,
        plan=new_run_id(question.pipeline.name, now),
        pipeline=question.pipeline.name,
        entry=str(entry_of(question.pipeline)),
        shown=question.shown,
        times=dict(question.times),
        scale=question.scale,
        tasks=tuple(
            PlannedTask(task=each.task, items=each.left, cached=each.cached, untimed=each.untimed)
            for each in made.tasks
        ),
        rows=tuple(planned_row(row) for row in made.main_rows if row.seconds is not None),
        recommended="" if made.recommended is None else str(made.recommended.configuration),
        reason=made.reason,
        level=LEVEL,
        host=socket.gethostname(),
        hooke=HOOKE_VERSION,
    )


def _counts(load: Workload) -> bool:
    """Whether any duration is known."""
    untimed = {each.task for each in load.untimed}
    return any(work.task not in untimed for work in load.works)


def _advice(rows: Sequence[Row], wish: PlanLimits, load: Workload) -> Advice:
    if not load.works:
        return Advice(row=None, reason="nothing is left to do: every result is stored")
    if not _counts(load):
        why = ", ".join(map(str, load.untimed))
        return Advice(row=None, reason=f"not enough data, no duration is known: {why}")
    return recommend(rows, wish, load.untimed)


def _shares(survey: Survey, untimed: Sequence[Untimed]) -> tuple[TaskShare, ...]:
    why = {each.task: each.why for each in untimed}
    left: dict[str, int | None] = {}
    for each in survey.left:
        before = left.get(each.task, 0)
        left[each.task] = None if before is None or each.items is None else before + each.items
    return tuple(
        TaskShare(
            task=task,
            left=left.get(task, 0),
            cached=items - (left.get(task, 0) or 0),
            untimed=why.get(task, ""),
        )
        for task, items in survey.items.items()
    )


def _notes(facts: KnownFacts, past: PastJournals) -> tuple[str, ...]:
    if not past.runs and not past.studies:
        return ("this project has no run or study that tells how long its tasks take",)
    elsewhere = () if past.is_here else (f"measured on {past.host}, not on this machine",)
    return (*elsewhere, *facts.notes)


def _data_notes(survey: Survey, rows: Sequence[Row], past: PastJournals) -> Iterator[str]:
    """What other sizes of the data mean, what was assumed, whether memory suffices, and which runs would tell more."""
    yield from survey.data.notes
    if not survey.data.is_scaled:
        return
    if past.is_here:
        yield from _memory_notes(survey, rows)
    if rows and not any(row.seconds for row in rows) and (runs := survey.data.runs_to_make()):
        yield f"to predict it: {runs}"


def _memory_notes(survey: Survey, rows: Sequence[Row]) -> Iterator[str]:
    """Whether the most memory of calls at once fits in this machine, for the task that needs the most."""
    workers = max((row.configuration.workers for row in rows if row.configuration.is_local), default=1)
    needs = {
        task: (min(workers, items), peak)
        for task, items in survey.items.items()
        if items and (peak := survey.data.peak(task)) is not None and peak[2] <= MOST_EXTRAPOLATED * peak[0]
    }
    if not needs:
        return
    task = max(needs, key=lambda each: needs[each][0] * needs[each][1][2])
    at_once, peak = needs[task]
    low, value, high = (format_bytes(round(each)) for each in peak)
    whole, free = at_once * peak[2], memory_here()
    compared = "of" if whole <= free else "more than"
    yield (
        f"memory: a call of {task} peaks at {value} ({low} to {high}); {at_once} at once take up to "
        f"{format_bytes(round(whole))}, {compared} the {format_bytes(free)} that are free on this machine"
    )


def _next(
    question: PlanQuestion,
    advice: Advice,
    facts: KnownFacts,
    rows: Sequence[Row],
    untimed: Sequence[Untimed],
    studies: Mapping[str, Sequence[StudyRecord]],
) -> str:
    # Other data cannot run here, but its tasks can be measured.
    measure = advice.measure or (first_measurement(rows) if question.of_other_data else None)
    if measure is not None:
        task, n = measure
        typed = measure_command(
            question.pipeline, question.params, task=task, n=n, known=studies.get(task, ())
        )
        cores = n * facts.cpu_share.get(task, 1.0)
        return typed if cores <= cpus_here() * 1.1 else f"{typed}, on a machine of {round(cores)} cores"
    local = advice.row is not None and advice.row.configuration.is_local
    if local and advice.row is not None and not question.of_other_data:
        workers = str(advice.row.configuration.workers)
        return command_for("run", question.pipeline, question.params, "--workers", workers)
    runs = bool(untimed) and not question.of_other_data
    return command_for("run", question.pipeline, question.params) if runs else ""


# --- Commands to type next, with the pipeline and its parameters.


def command_for(verb: str, pipeline: Pipeline[..., Any], params: Mapping[str, Any], *options: str) -> str:
    """`hooke VERB FILE.py:NAME OPTIONS PARAMETERS`. A value that cannot be typed is shown as `...`."""
    file = entry_of(pipeline).file
    if file is None:
        return f"hooke {verb} FILE.py {' '.join(options)}".rstrip()
    target = f"{_short(file)}:{entry_of(pipeline).name}"
    return " ".join([*map(shlex.quote, ["hooke", verb, target, *options]), *_typed(params)])


def measure_command(
    pipeline: Pipeline[..., Any],
    params: Mapping[str, Any],
    *,
    task: str,
    n: int,
    known: Sequence[StudyRecord] = (),
) -> str:
    """`hooke measure` of the task at every power of 2 up to `n`, and `n`; of a `known` study with this N, more repeats."""
    done = next((study for study in known if any(each.n == n for each in study.measured)), None)
    levels = [1] if done is None else list(done.started.levels)
    while done is None and levels[-1] < max(n, 2):
        levels.append(min(2 * levels[-1], max(n, 2)))
    more = [] if done is None else ["--repeats", str(2 * done.repeats[0])]
    workers = ",".join(map(str, levels))
    return command_for("measure", pipeline, params, "--task", task, "--workers", workers, *more)


def _short(file: Path) -> str:
    relative = os.path.relpath(file)
    return relative if len(relative) < len(str(file)) else str(file)


def _typed(params: Mapping[str, Any]) -> Iterator[str]:
    for name, value in params.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        elif isinstance(value, (int, float, str, os.PathLike)):
            yield f"{flag} {shlex.quote(os.fspath(value) if isinstance(value, os.PathLike) else str(value))}"
        else:
            yield f"{flag} ..."
