"""What is known of each task that is left: which of its past durations and which law hold, here and on other machines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hooke.base.cpus import cpus_here
from hooke.journal.runs import RunsFolder
from hooke.journal.studies import StudyRecord
from hooke.project.planning.laws import Levels, law_of, levels_of, rows_of, studies_of
from hooke.project.planning.timings import RunTimes, Timed, past_runs
from hooke.project.planning.work import Left
from hooke.scaling.law import Law
from hooke.scaling.sizes import SAME_SIZE, law_of_size
from hooke.scaling.timing import Timing
from hooke.scaling.workload import Facts

__all__ = ["Known", "Past", "known"]

NO_BESIDE = (0.0, 0.3, 3.0)
"""The same where no run has been seen from beginning to end: workers start, and import what they need."""


OTHER_ARGUMENTS = "timed with other arguments"
OTHER_CODE = "timed with other code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The journals of a project, as far as they are of one machine: this one, else the one that ran last.

    `everywhere` are the runs of all machines. Of other pipelines only those tasks count whose code is the same.
    """

    pipeline: str
    host: str
    is_here: bool
    runs: Sequence[RunTimes]
    studies: Mapping[str, StudyRecord]
    everywhere: Sequence[RunTimes]

    @classmethod
    def read(cls, runs: RunsFolder, *, pipeline: str, host: str) -> Past:
        """Read them, the newest runs first. `host` is this machine's name."""
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

    @property
    def cores(self) -> int:
        """How many cores the machine has, as far as its runs tell: none had fewer cpus to give."""
        if self.is_here:
            return cpus_here()
        told = [run.cpus for run in self.runs if math.isfinite(run.cpus)]
        told += [study.started.cpus for study in self.studies.values() if study.started.cpus]
        return int(min(told, default=1))

    @property
    def beside_s(self) -> tuple[float, float, float]:
        """Seconds that a run takes beside its attempts: none with workers kept warm, the median, and twice the most seen."""
        seen = [run.beside_s for run in self.runs if run.beside_s is not None]
        if not seen:
            return NO_BESIDE
        return 0.0, statistics.median(seen), 2 * max(seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Facts by `Left.like`, on this machine and on others; `notes` are what a reader of the plan should know of them.

    `cpu_share` is task -> cores that one call keeps busy.
    """

    here: Mapping[str, Facts]
    elsewhere: Mapping[str, Facts]
    notes: tuple[str, ...]
    cpu_share: Mapping[str, float]


def known(left: Sequence[Left], past: Past, *, shown: Mapping[str, str] | None) -> Known:
    """What is known of these nodes.

    `shown` are the pipeline's parameters as text; None where the data are others than these say.
    """
    cores = past.cores
    here: dict[str, Facts] = {}
    elsewhere: dict[str, Facts] = {}
    others: dict[str, dict[str, None]] = {}
    rows, first = rows_of(past.runs), {each.task: each for each in reversed(left)}
    levels = {task: levels_of(each, past.studies.get(task), past.runs, rows) for task, each in first.items()}
    timings_of = _Timings(past, shown)
    near = {task: law_of(each) for task, each in levels.items()}
    far = {task: law_of(each.within(cores)) for task, each in levels.items()}
    for work in left:
        timings, why = timings_of(work)
        if why:
            others.setdefault(why, {})[work.task] = None
        task, by_size = work.task, _by_size(work, past, timings)
        here[work.like] = Facts(
            timings=timings, law=near[task].law, lacking=near[task].lacking, by_size=by_size
        )
        elsewhere[work.like] = Facts(
            timings=_within(timings, levels[task], cores),
            law=far[task].law,
            lacking=far[task].lacking,
            limit=_limit(levels[task], cores),
            by_size=by_size,
        )
    notes = [f"{why}: {', '.join(tasks)}" for why, tasks in others.items()]
    notes += _sources({task: law.source for task, law in near.items() if law.law is not None})
    shares = {task: each.cpu_share for task, each in levels.items()}
    return Known(here=here, elsewhere=elsewhere, notes=tuple(notes), cpu_share=shares)


def _sources(sources: Mapping[str, str]) -> Iterator[str]:
    for source in dict.fromkeys(sources.values()):
        tasks = ", ".join(task for task, each in sources.items() if each == source)
        yield f"scaling of {tasks}: from {source}"


def _limit(levels: Levels, cores: int) -> str:
    """What is to be said where no more could have been measured with the cores that there were."""
    if 2 * max(levels.n, default=1) <= levels.most(cores):
        return ""
    return f", as far as the {cores} cores of the machine that was measured go"


def _within(timings: Sequence[Timing], levels: Levels, cores: int) -> list[Timing]:
    """Those taken with cores enough for all at once; where there are none, those with the fewest at once."""
    kept = [each for each in timings if each.at_once <= levels.most(cores)]
    least = min((each.at_once for each in timings), default=1)
    return kept or [each for each in timings if each.at_once == least]


class _Timings:
    """Finds the durations that are most like what is left. What differs by constants only is looked up, not searched for."""

    def __init__(self, past: Past, shown: Mapping[str, str] | None) -> None:
        self._past = past
        self._shown = shown
        self._tasks: dict[str, list[tuple[RunTimes, Timed]]] = {}
        self._exact: dict[object, dict[object, list[tuple[str, Timed]]]] = {}
        self._other: dict[object, tuple[list[Timing], str]] = {}
        for run in past.runs:
            for timed in run.timed:
                self._tasks.setdefault(timed.task, []).append((run, timed))

    def __call__(self, work: Left) -> tuple[list[Timing], str]:
        """The durations, and how their calls are not like those of `work`; a study's where no run timed it."""
        exact = self._alike(work)
        if any(_fits(timed.timing, work) for _, timed in exact):
            return list(_merged(exact)), ""
        key = (work.task, _pairs(work.code), work.reads)
        if key not in self._other:
            self._other[key] = self._nearest(work)
        found, why = self._other[key]
        if exact and not any(_fits(each, work) for each in found):
            return list(_merged(exact)), ""
        return found or self._of_study(work), why

    def _alike(self, work: Left) -> list[tuple[str, Timed]]:
        """Those of equal code and constants."""
        names = tuple(sorted(work.constants))
        if (work.task, names) not in self._exact:
            self._exact[work.task, names] = self._indexed(work.task, names)
        index = self._exact[work.task, names]
        return index.get((_pairs(work.code), tuple(work.constants[name] for name in names)), [])

    def _indexed(self, task: str, names: Sequence[str]) -> dict[object, list[tuple[str, Timed]]]:
        """The task's durations by code and by the values of these constants."""
        index: dict[object, list[tuple[str, Timed]]] = {}
        for run, timed in self._tasks.get(task, ()):
            values = tuple(timed.inputs.get(name, "") for name in names)
            index.setdefault((_pairs(timed.code), values), []).append((run.run, timed))
        return index

    def _nearest(self, work: Left) -> tuple[list[Timing], str]:
        """Those of equal code, else of any code of this pipeline's task; of calls that read about as much, if there are such."""
        there = self._tasks.get(work.task, ())
        same = [(run.run, timed) for run, timed in there if timed.code == work.code]
        own = [(run.run, timed) for run, timed in there if run.pipeline == self._past.pipeline]
        for found, why in ((same, OTHER_ARGUMENTS), (own, OTHER_CODE)):
            fitting = [(run, timed) for run, timed in found if _fits(timed.timing, work)]
            if fitting:
                return list(_merged(fitting)), why
        found, why = (same, OTHER_ARGUMENTS) if same else (own, OTHER_CODE)
        return list(_merged(found)), why if found else ""

    def _of_study(self, work: Left) -> list[Timing]:
        """What a study measured: it says nothing of how many items each call read, but for its parameters."""
        study = self._past.studies.get(work.task)
        if study is None or (work.reads and study.started.shown != self._shown):
            return []
        return [
            Timing(
                items=max(round(each.work), 1),
                seconds=each.n * each.seconds / each.work,
                at_once=each.n,
                reads=work.reads,
            )
            for each in study.measured
            if each.work > 0
        ]


def _pairs(parts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(parts.items()))


def _by_size(work: Left, past: Past, timings: Sequence[Timing]) -> Law | None:
    """The law of calls of other sizes, where none of this size was timed; from all that was timed with this code."""
    if not work.reads or any(each.reads == work.reads for each in timings):
        return None
    return law_of_size(
        [
            each.timing
            for run in past.runs
            for each in run.timed
            if each.task == work.task and each.likeness(work) == 2
        ]
    )


def _fits(timing: Timing, work: Left) -> bool:
    """Whether its calls read about as much."""
    return timing.reads <= SAME_SIZE * work.reads and work.reads <= SAME_SIZE * timing.reads


def _merged(chosen: Iterable[tuple[str, Timed]]) -> Iterator[Timing]:
    """One timing for each run and concurrency: calls of one run share what was special about it."""
    groups: dict[tuple[str, int, int], list[Timing]] = {}
    for run, each in chosen:
        groups.setdefault((run, each.timing.at_once, each.timing.reads), []).append(each.timing)
    for (_, at_once, reads), timings in groups.items():
        if len(timings) == 1:
            yield timings[0]
            continue
        items = sum(each.items for each in timings)
        seconds = sum(each.items * each.seconds for each in timings) / items
        logs = [math.log(each.seconds / seconds) if each.seconds > 0 else 0.0 for each in timings]
        squares = sum(each.items * (each.spread**2 + log**2) for each, log in zip(timings, logs, strict=True))
        yield Timing(
            items=items,
            seconds=seconds,
            gap_s=sum(each.items * each.gap_s for each in timings) / items,
            spread=math.sqrt(squares / items),
            at_once=at_once,
            reads=reads,
        )
