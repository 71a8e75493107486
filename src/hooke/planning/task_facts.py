"""What is known of each remaining task: its past durations and its scaling law, here and on other machines."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hooke.base.errors import NotEnoughData
from hooke.journal.events import Measured, PlainMeasured
from hooke.journal.run_folders import RunsFolder
from hooke.journal.study_records import StudyRecord, find_studies
from hooke.journal.throughput import ThroughputRow, throughput
from hooke.planning.causes import cause_of
from hooke.planning.data_sizes import PastData
from hooke.planning.remaining import RemainingNode
from hooke.planning.timings import LEAST_SHARE, RunTimes, TimedCalls, past_runs, replays
from hooke.processes.devices import cpus_here
from hooke.scaling import Cost, Law, Measurements, cost, fit
from hooke.scaling.call_times import (
    Calibration,
    Ends,
    TimeSpread,
    Timing,
    borrowed_spread,
    calibrated,
    merged,
)
from hooke.scaling.families import Floats
from hooke.scaling.measurements import MeasurementSpread, spread_of
from hooke.scaling.workload import TaskFacts

__all__ = [
    "LEAST_LEVELS",
    "KnownFacts",
    "PastJournals",
    "comparable_studies",
    "cost_of",
    "known_facts",
    "law_of_levels",
    "law_of_study",
    "levels_of",
    "measurements_of",
    "pooled",
    "rows_of",
    "spread_in",
]


# --- The scaling law of a task, from the project's studies and runs.

CORE_TOLERANCE = 1.1
"""Tolerance for the system's own work before N calls count as needing more cores than the machine has."""


LEAST_LEVELS = 3
"""Two points cannot identify a curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Throughputs of a task with `n` calls at once, and their source. `cpu_share` is the number of cores that one call keeps busy."""

    n: tuple[int, ...] = ()
    rate: tuple[float, ...] = ()
    source: str = ""
    cpu_share: float = 1.0

    def most(self, cores: int) -> float:
        """How many calls at once these cores can serve."""
        return CORE_TOLERANCE * cores / max(self.cpu_share, 1e-3)

    def within(self, cores: int) -> Levels:
        """The levels with enough cores: others measure the machine, not the task."""
        kept = [at for at, n in enumerate(self.n) if n <= self.most(cores) or n == 1]
        return Levels(
            n=tuple(self.n[at] for at in kept),
            rate=tuple(self.rate[at] for at in kept),
            source=self.source,
            cpu_share=self.cpu_share,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLaw:
    """The law and its source. Without a law, `lacking` says why, in words that follow the task's name."""

    law: Law | None = None
    lacking: str = "it has no law"
    source: str = ""


def law_of_levels(levels: Levels) -> TaskLaw:
    """The law that fits the throughputs."""
    if not levels.n:
        return TaskLaw()
    distinct = sorted(set(levels.n))
    shown = ", ".join(map(str, distinct))
    try:
        if len(distinct) < LEAST_LEVELS:
            raise NotEnoughData(f"fewer than {LEAST_LEVELS} N")
        law = fit(Measurements(levels.n, throughput=levels.rate))
    except NotEnoughData:
        return TaskLaw(lacking=f"its throughput was measured only at N = {shown}", source=levels.source)
    return TaskLaw(law=law, source=levels.source)


def studies_of(runs: RunsFolder, *, pipeline: str, host: str) -> dict[str, list[StudyRecord]]:
    """Task -> its studies of strong scaling over workers on that host with measurements, the newest first."""
    found: dict[str, list[StudyRecord]] = {}
    for study in find_studies(runs, pipeline=pipeline):
        started = study.started
        other = started.weak or started.sizes or study.of_gang
        if started.host == host and not other and study.measured and started.task:
            found.setdefault(started.task, []).append(study)
    return found


def comparable_studies(studies: Sequence[StudyRecord], work: RemainingNode) -> list[StudyRecord]:
    """The studies of the task's code as it is now; if there is none, the newest of all."""
    return [study for study in studies if study.started.code == work.code] or list(studies[:1])


def rows_of(runs: Sequence[RunTimes]) -> list[ThroughputRow]:
    """All throughputs that ordinary runs measured, the newest first."""
    return [row for run in runs for row in throughput(run.events).rows if row.items > 0]


def levels_of(
    work: RemainingNode,
    studies: Sequence[StudyRecord],
    runs: Sequence[RunTimes],
    rows: Sequence[ThroughputRow],
) -> Levels:
    """The throughputs of a task: from all comparable studies, and from `rows` of ordinary `runs` with its current code."""
    own = [_levels_of_study(study) for study in comparable_studies(studies, work)]
    read = {run.run: each.timing.bytes for run in runs for each in run.timed if each.task == work.task}
    alike = _alike([row for row in rows if row.task == work.task and row.code == work.code], read)
    shares = [each.cpu_share for run in runs for each in run.timed if each.task == work.task]
    ordinary = Levels(
        n=tuple(row.n for row in alike),
        rate=tuple(row.rate for row in alike),
        source=", ".join(dict.fromkeys(row.run for row in alike)),
        cpu_share=max(shares, default=1.0),
    )
    return pooled([*own, ordinary]) if own else ordinary


def _levels_of_study(study: StudyRecord) -> Levels:
    measured = [each for each in study.measured if each.seconds > 0 and each.work > 0]
    alone = [each for each in measured if each.n == min(every.n for every in measured)]
    busy = sum(each.n * each.seconds for each in alone)
    return Levels(
        n=tuple(each.n for each in measured),
        rate=tuple(each.work / each.seconds for each in measured),
        source=study.started.study,
        cpu_share=sum(each.cpu_s for each in alone) / busy if busy else 1.0,
    )


def pooled(sources: Sequence[Levels]) -> Levels:
    """The throughputs of several sources as if they were one; the first is the newest study.

    Days and data differ, so a source counts by its shape: its throughputs are multiplied by the factor that makes it agree
    at the N that it shares with those before it. One that shares no N, or has only one, says nothing of the shape.
    """
    logs: dict[int, list[float]] = {}
    found = sources[0]
    left = [each for each in sources[1:] if len(set(each.n)) > 1]
    for n, rate in zip(found.n, found.rate, strict=True):
        logs.setdefault(n, []).append(math.log(rate))
    while shared := next((each for each in left if set(each.n) & set(logs)), None):
        left.remove(shared)
        off = [
            statistics.fmean(logs[n]) - math.log(rate)
            for n, rate in zip(shared.n, shared.rate, strict=True)
            if n in logs
        ]
        factor = math.exp(statistics.fmean(off))
        for n, rate in zip(shared.n, shared.rate, strict=True):
            logs.setdefault(n, []).append(math.log(rate * factor))
        found = replace(
            found,
            n=(*found.n, *shared.n),
            rate=(*found.rate, *(rate * factor for rate in shared.rate)),
            source=f"{found.source}, {shared.source}",
        )
    return found


def _alike(rows: Sequence[ThroughputRow], read: Mapping[str, float]) -> list[ThroughputRow]:
    """The rows of one kind of work: the kind measured at the most N, the newest first.

    The constant arguments of a kind are equal, and so are the bytes that a call `read` (by run).
    """
    kinds: dict[object, list[ThroughputRow]] = {}
    for row in rows:
        kinds.setdefault((_pairs(row.constants), read.get(row.run, 0.0)), []).append(row)
    return max(kinds.values(), key=lambda kind: len({row.n for row in kind}), default=[])


NO_OVERHEAD_SEEN = (0.0, 0.3, 3.0)
"""The assumed overhead of a run if no complete run is known: workers start and import."""
FEWEST_OVERHEADS = 3
OVERHEAD_PRIOR = TimeSpread(0.3, 2.0)
"""The prior spread of ln seconds of the overhead."""
OTHER_CODE_PRIOR = TimeSpread(0.25, 2.0)
"""The spread of seconds that were timed with other code, which no run can narrow."""
MOST_OTHER = 0.1
"""The share of the work up to which tasks timed with other code leave the spread of the whole run as it is."""


OTHER_ARGUMENTS = "timed with other arguments"
OTHER_CODE = "timed with other code"


@dataclass(frozen=True, slots=True, kw_only=True)
class PastJournals:
    """A project's journals of one machine: this one, else the one that ran last.

    `everywhere` are the runs of all machines. Tasks of other pipelines count only if their code is equal.
    """

    pipeline: str
    host: str
    is_here: bool
    runs: Sequence[RunTimes]
    studies: Mapping[str, Sequence[StudyRecord]]
    everywhere: Sequence[RunTimes]

    @classmethod
    def read(cls, runs: RunsFolder, *, pipeline: str, host: str) -> PastJournals:
        """Read the journals, the newest runs first. `host` is this machine's name."""
        found = list(past_runs(runs))
        here = [run for run in found if run.host == host and run.timed]
        there = next((run.host for run in found if run.timed), host)
        studies = studies_of(runs, pipeline=pipeline, host=host)
        of = host if here or studies else there
        return cls(
            pipeline=pipeline,
            host=of,
            is_here=of == host,
            runs=[run for run in found if run.host == of],
            everywhere=found,
            studies=studies if of == host else studies_of(runs, pipeline=pipeline, host=of),
        )

    def data(self, root: Path, scale: float | None = None) -> PastData:
        """What the runs read, for a plan of `scale` times the data. `root` is the project's folder."""
        uses = [timed.data for run in self.runs for timed in run.timed if timed.data is not None]
        return PastData(uses=uses, root=root, scale=scale)

    @property
    def cores(self) -> int:
        """The number of cores of the machine, as far as its runs show."""
        if self.is_here:
            return cpus_here()
        told = [run.cpus for run in self.runs if math.isfinite(run.cpus)]
        told += [study.started.cpus for each in self.studies.values() for study in each if study.started.cpus]
        return int(min(told, default=1))

    @property
    def beside_s(self) -> Ends:
        """Seconds of a run outside its attempts: start-up of workers, imports, and the end.

        With few runs: 0 (workers kept warm), the median, and twice the maximum; else Student's interval of the logarithms.
        """
        seen = [run.beside_s for run in self.runs if run.beside_s is not None]
        if not seen:
            return NO_OVERHEAD_SEEN
        if len(seen) < FEWEST_OVERHEADS or min(seen) <= 0:
            return 0.0, statistics.median(seen), 2 * max(seen)
        logs = [math.log(each) for each in seen]
        spread = OVERHEAD_PRIOR.updated(statistics.pvariance(logs) * len(logs), len(logs) - 1)
        factor = math.exp(spread.quantile * spread.value * math.sqrt(1 + 1 / len(logs)))
        middle = math.exp(statistics.fmean(logs))
        return middle / factor, middle, middle * factor


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFacts:
    """Facts by `RemainingNode.like`, on this machine and on others; `notes` explain them to the reader of the plan.

    `cpu_share` is task -> number of cores that one call keeps busy. `calibration` is the spread of a whole run about its
    prediction, from `replayed` past runs that were predicted from those before them.
    """

    here: Mapping[str, TaskFacts]
    elsewhere: Mapping[str, TaskFacts]
    notes: tuple[str, ...]
    cpu_share: Mapping[str, float]
    calibration: Calibration
    replayed: int


def known_facts(
    left: Sequence[RemainingNode], past: PastJournals, *, shown: Mapping[str, str] | None
) -> KnownFacts:
    """Collect what is known of these nodes.

    `shown` are the pipeline's parameters as text; None if the plan is for other data.
    """
    cores = past.cores
    here: dict[str, TaskFacts] = {}
    elsewhere: dict[str, TaskFacts] = {}
    others: dict[str, dict[str, None]] = {}
    rows, first = rows_of(past.runs), {each.task: each for each in reversed(left)}
    levels = {
        task: levels_of(each, past.studies.get(task, ()), past.runs, rows) for task, each in first.items()
    }
    timings_of = _Timings(past, shown)
    prior = _borrowed(past, names := _names(left, past))
    near = {task: law_of_levels(each) for task, each in levels.items()}
    within = {task: each.within(cores) for task, each in levels.items()}
    far = {
        task: near[task] if each.n == levels[task].n else law_of_levels(each) for task, each in within.items()
    }
    for work in left:
        timings, why = timings_of(work)
        if why:
            others.setdefault(why, {})[work.task] = None
        task = work.task
        here[work.like] = TaskFacts(
            timings=timings,
            law=near[task].law,
            lacking=near[task].lacking,
            prior=OTHER_CODE_PRIOR if why == OTHER_CODE else prior,
        )
        elsewhere[work.like] = TaskFacts(
            timings=_within(timings, levels[task], cores),
            law=far[task].law,
            lacking=far[task].lacking,
            limit=_limit(levels[task], cores),
            prior=here[work.like].prior,
        )
    notes = [f"{why}: {', '.join(tasks)}" for why, tasks in others.items()]
    notes += _sources({task: law.source for task, law in near.items() if law.law is not None})
    calibration, replayed = _calibrated(left, here, past, names)
    if replayed:
        notes.append(f"interval: from {replayed} past runs, each predicted from those before it")
    return KnownFacts(
        here=here,
        elsewhere=elsewhere,
        notes=tuple(notes),
        cpu_share={task: each.cpu_share for task, each in levels.items()},
        calibration=calibration,
        replayed=replayed,
    )


def _names(left: Sequence[RemainingNode], past: PastJournals) -> dict[str, tuple[str, ...]]:
    """Task -> the arguments that must be equal for a timing to count: all constants, or none if no timing has equal ones."""
    found: dict[str, tuple[str, ...]] = {}
    for work in left:
        if work.task not in found:
            exact = any(
                timed.task == work.task and timed.comparability(work) == 2
                for run in past.runs
                for timed in run.timed
            )
            found[work.task] = tuple(sorted(work.constants)) if exact else ()
    return found


def _borrowed(past: PastJournals, names: Mapping[str, tuple[str, ...]]) -> TimeSpread:
    """What all tasks of this machine show of the spread between runs. Tasks of other pipelines are compared with all arguments equal.

    Tasks that take almost none of the time are left out: milliseconds say nothing of longer calls.
    """
    kinds: dict[object, list[Timing]] = {}
    work: dict[str, float] = {}
    for run in past.runs:
        for timed in run.timed:
            work[timed.task] = work.get(timed.task, 0.0) + timed.timing.items * timed.timing.seconds
    least = LEAST_SHARE * max(work.values(), default=0.0)
    for run in past.runs:
        for timed in run.timed:
            if work[timed.task] >= least:
                kinds.setdefault(timed.kind_by(names.get(timed.task)), []).append(timed.timing)
    return borrowed_spread(kinds.values())


def _calibrated(
    left: Sequence[RemainingNode],
    facts: Mapping[str, TaskFacts],
    past: PastJournals,
    names: Mapping[str, tuple[str, ...]],
) -> tuple[Calibration, int]:
    """The spread of a whole run, and how many replayed runs it comes from: none if much of the work was timed with other code."""
    work: dict[bool, float] = {True: 0.0, False: 0.0}
    for each in left:
        own = facts[each.like]
        seconds = max((timing.seconds for timing in own.timings), default=0.0) * (each.items or 0)
        work[own.prior is OTHER_CODE_PRIOR] += seconds
    if work[True] > MOST_OTHER * sum(work.values()):
        return Calibration(OTHER_CODE_PRIOR), 0
    own = [run for run in past.runs if run.pipeline == past.pipeline]
    found = replays(own, names, {each.task: facts[each.like].law for each in left})
    return calibrated(found), len(found)


def _sources(sources: Mapping[str, str]) -> Iterator[str]:
    for source in dict.fromkeys(sources.values()):
        tasks = ", ".join(task for task, each in sources.items() if each == source)
        yield f"scaling of {tasks}: from {source}"


def _limit(levels: Levels, cores: int) -> str:
    """The limit to mention if the machine had too few cores for more measurements."""
    if 2 * max(levels.n, default=1) <= levels.most(cores):
        return ""
    return f", up to the {cores} cores of the measured machine"


def _within(timings: Sequence[Timing], levels: Levels, cores: int) -> list[Timing]:
    """The timings with enough cores; if there are none, those with the fewest calls at once."""
    kept = [each for each in timings if each.at_once <= levels.most(cores)]
    least = min((each.at_once for each in timings), default=1)
    return kept or [each for each in timings if each.at_once == least]


class _Timings:
    """Finds the past durations that are most comparable with the remaining work."""

    def __init__(self, past: PastJournals, shown: Mapping[str, str] | None) -> None:
        self._past = past
        self._shown = shown
        self._tasks: dict[str, list[tuple[RunTimes, TimedCalls]]] = {}
        self._exact: dict[object, dict[object, list[tuple[str, TimedCalls]]]] = {}
        self._other: dict[object, tuple[list[Timing], str]] = {}
        for run in past.runs:
            for timed in run.timed:
                self._tasks.setdefault(timed.task, []).append((run, timed))

    def __call__(self, work: RemainingNode) -> tuple[list[Timing], str]:
        """The durations, and how their calls differ from those of `work`; those of a study if no run timed the task."""
        exact = self._alike(work)
        if any(_fits(timed.timing, work) for _, timed in exact):
            return _merged(exact), ""
        key = (work.task, _pairs(work.code), work.reads)
        if key not in self._other:
            self._other[key] = self._nearest(work)
        found, why = self._other[key]
        if exact and not any(_fits(each, work) for each in found):
            return _merged(exact), ""
        return found or self._of_study(work), why

    def _alike(self, work: RemainingNode) -> list[tuple[str, TimedCalls]]:
        """The durations with equal code and constants."""
        names = tuple(sorted(work.constants))
        if (work.task, names) not in self._exact:
            self._exact[work.task, names] = self._indexed(work.task, names)
        index = self._exact[work.task, names]
        return index.get((_pairs(work.code), tuple(work.constants[name] for name in names)), [])

    def _indexed(self, task: str, names: Sequence[str]) -> dict[object, list[tuple[str, TimedCalls]]]:
        """The task's durations by code and by the values of these constants."""
        index: dict[object, list[tuple[str, TimedCalls]]] = {}
        for run, timed in self._tasks.get(task, ()):
            values = tuple(timed.inputs.get(name, "") for name in names)
            index.setdefault((_pairs(timed.code), values), []).append((run.run, timed))
        return index

    def _nearest(self, work: RemainingNode) -> tuple[list[Timing], str]:
        """The durations with equal code, else with any code of this pipeline's task; preferably of calls that read about as much."""
        there = self._tasks.get(work.task, ())
        same = [(run.run, timed) for run, timed in there if timed.code == work.code]
        own = [(run.run, timed) for run, timed in there if run.pipeline == self._past.pipeline]
        for found, why in ((same, OTHER_ARGUMENTS), (own, OTHER_CODE)):
            fitting = [(run, timed) for run, timed in found if _fits(timed.timing, work)]
            if fitting:
                return _merged(fitting), why
        found, why = (same, OTHER_ARGUMENTS) if same else (own, OTHER_CODE)
        return _merged(found), why if found else ""

    def _of_study(self, work: RemainingNode) -> list[Timing]:
        """The durations that a study measured. Calls that read items are comparable only with equal parameters."""
        studies = comparable_studies(self._past.studies.get(work.task, ()), work)
        return [
            Timing(
                items=max(round(each.work), 1),
                seconds=each.n * each.seconds / each.work,
                at_once=each.n,
                reads=work.reads,
            )
            for study in studies
            if not work.reads or study.started.shown == self._shown
            for each in study.measured
            if each.work > 0
        ]


def _pairs(parts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(parts.items()))


def _fits(timing: Timing, work: RemainingNode) -> bool:
    """Whether both read items, or neither does."""
    return bool(timing.reads) == bool(work.reads)


def _merged(chosen: Iterable[tuple[str, TimedCalls]]) -> list[Timing]:
    return merged(each.timing for _, each in chosen)


# --- The measurements of a study, and their law, COST and noise.

GROWING = ("linear", "gustafson", "hard_knee", "power", "closed_queue", "usl")
"""The families for work that grows with N. Amdahl's law is for constant work."""


def measurements_of(record: StudyRecord) -> Measurements:
    """The measurements at each N, or at each size if sizes were varied. Raises NotEnoughData if there are none.

    Only of a task is the work a number of items, which may not divide evenly among the workers.
    """
    if not record.measured:
        raise NotEnoughData(f"study {record.started.study} has no measurement: it ended before the first")
    work = np.array([each.work for each in record.measured], dtype=np.float64)
    return Measurements(
        work if record.started.sizes else [each.n for each in record.measured],
        throughput=work / [each.seconds for each in record.measured],
        work=work if record.started.unit == "items" else 1.0,
        conditions=[each.condition for each in record.measured],
        at=[each.at or math.nan for each in record.measured],
    )


def law_of_study(record: StudyRecord) -> Law:
    """The law of the study. Raises NotEnoughData, which names the missing N."""
    measured = measurements_of(record)
    levels = measured.levels
    if levels.size < 3:
        missing = 2 * int(levels[-1])
        full = missing > record.started.cpus and uses_all_cores(record)
        raise NotEnoughData(
            f"N = {_listed(levels)} cannot tell one law from another",
            why="two points cannot identify a curve",
            fix="measure on a machine with more cores" if full else f"measure at N = {missing}",
            next="" if full else _measure(record, missing),
            measure_at=float(missing),
        )
    law = fit(measured, families=_families(record, levels.size))
    if record.started.weak:
        # Nobody vouches for these families: the study only knows that its work grows.
        law = replace(law, vouched=False)
    if levels.size == 3 and not record.started.sizes and law.lack_of_fit.found:
        # Three N leave one degree of freedom for laws with two parameters, which rules out none of them.
        best = law.next_measurement()
        raise NotEnoughData(
            f"N = {_listed(levels)} cannot tell one law from another",
            why=f"the simplest law not ruled out, {law.family}, deviates by more than the repeats of one N",
            fix=str(best),
            next=_measure(record, best.n),
            measure_at=float(best.n),
        )
    return law


COMPUTES = 0.9
"""Workers whose CPU time is at least this share of their time leave nothing for more of them, if there are as many as cores."""


def uses_all_cores(record: StudyRecord) -> bool:
    """Whether more workers than cores would only share them: by the cause of lost time, or because as many workers compute all the time."""
    started = record.started
    if started.sizes or started.weak or record.of_service:
        return False
    found = cause_of(record.measured, cores=started.cpus, counts=record.counts)
    if found is not None and found.name in {"cores", "cores taken"}:
        return True
    full = [each.cpu_s / (each.n * each.seconds) for each in record.measured if each.n == started.cpus]
    return bool(full) and float(np.median(full)) >= COMPUTES


def _measure(record: StudyRecord, n: int) -> str:
    """The command that measures a task or pipeline at another N; empty if its parameters would have to be typed, too."""
    begun = record.started
    if record.of_service or begun.sizes or begun.shown or begun.weak or begun.entry == "pickle":
        return ""
    levels = ",".join(map(str, sorted({*begun.levels, n})))
    task = f" --task {begun.task}" if begun.task else ""
    return f"hooke measure {shlex.quote(begun.entry)}{task} --workers {levels}"


def _listed(levels: Floats) -> str:
    return ", ".join(f"{n:g}" for n in levels)


def _families(record: StudyRecord, levels: int) -> tuple[str, ...] | None:
    if record.started.sizes:
        return ("batch",)
    if record.started.weak:
        # The last family has three parameters: four N can contradict it, three cannot.
        return GROWING if levels > 3 else GROWING[:-1]
    return None


def cost_of(record: StudyRecord) -> Cost:
    """The smallest N, or size, that beats plain calls: by the law, or else among those measured.

    Raises NotEnoughData if no plain call was measured, BeyondTheData if the law reaches it too far from the data.
    """
    if not record.plain:
        raise NotEnoughData("no plain call was measured to compare with")
    seconds, work = [each.seconds for each in record.plain], record.plain[0].work
    try:
        scaled: Law | Measurements = law_of_study(record)
    except NotEnoughData:
        scaled = measurements_of(record)
    return cost(scaled, seconds, work=work)


def spread_in(measured: Iterable[Measured], plain: Iterable[PlainMeasured]) -> MeasurementSpread:
    """The spread of equal measurements, including the plain calls."""
    groups: dict[tuple[int, float], list[float]] = {}
    for each in measured:
        groups.setdefault((each.n, each.work), []).append(each.work / each.seconds)
    return spread_of([*groups.values(), [each.work / each.seconds for each in plain]])
