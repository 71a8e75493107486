"""What is known of each task that is left: which of its past durations and which law hold, here and on other machines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hooke.journal.runs import RunsFolder
from hooke.journal.studies import StudyRecord
from hooke.project.planning.laws import CORE_TOLERANCE, Levels, law_of, levels_of, studies_of
from hooke.project.planning.machines import cpus_here
from hooke.project.planning.timings import RunTimes, Timed, past_runs
from hooke.project.planning.work import Left
from hooke.scaling.law import Law
from hooke.scaling.sizes import SAME_SIZE, law_of_size
from hooke.scaling.timing import Timing
from hooke.scaling.workload import Facts

__all__ = ["Known", "Past", "known"]

NO_BESIDE = (0.0, 0.3, 3.0)
"""The same where no run has been seen from beginning to end: workers start, and import what they need."""


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
        return int(min((run.cpus for run in self.runs if math.isfinite(run.cpus)), default=1.0))

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
    levels = {each.task: levels_of(each, past.studies.get(each.task), past.runs) for each in left}
    near = {task: law_of(each) for task, each in levels.items()}
    far = {task: law_of(each.within(cores)) for task, each in levels.items()}
    for work in left:
        timings, why = _timings(work, past, shown)
        if why:
            others.setdefault(why, {})[work.task] = None
        task, by_size = work.task, _by_size(work, past, timings)
        here[work.like] = Facts(
            timings=timings, law=near[task].law, lacking=near[task].lacking, by_size=by_size
        )
        cut = len(set(levels[task].within(cores).n)) < len(set(levels[task].n)) or far[task].law is None
        elsewhere[work.like] = Facts(
            timings=_within(timings, levels[task], cores),
            law=far[task].law,
            lacking=_with_cores(far[task].lacking, cores) if cut else far[task].lacking,
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


def _with_cores(lacking: str, cores: int) -> str:
    return f"{lacking}, as far as the {cores} cores of the machine that was measured go"


def _within(timings: Sequence[Timing], levels: Levels, cores: int) -> list[Timing]:
    """Those taken with cores enough for all at once; where there are none, those with the fewest at once."""
    most = CORE_TOLERANCE * cores / max(levels.cpu_share, 1e-3)
    kept = [each for each in timings if each.at_once <= most]
    least = min((each.at_once for each in timings), default=1)
    return kept or [each for each in timings if each.at_once == least]


def _timings(work: Left, past: Past, shown: Mapping[str, str] | None) -> tuple[list[Timing], str]:
    """The durations that are most like what is left, and how they are not; a study's where no run timed it."""
    ranked = [
        (each.likeness(work), run.run, each)
        for run in past.runs
        for each in run.timed
        if each.task == work.task and (run.pipeline == past.pipeline or each.likeness(work))
    ]
    best = max(ranked, key=lambda it: (_fits(it[2], work), it[0]), default=None)
    if best is None:
        study = past.studies.get(work.task)
        # A study says nothing of how many items each call read, but for its parameters.
        same = study is not None and (not work.reads or study.started.shown == shown)
        return list(_of_study(work, study)) if study is not None and same else [], ""
    chosen = [it for it in ranked if (_fits(it[2], work), it[0]) == (_fits(best[2], work), best[0])]
    why = ("timed with other code", "timed with other arguments", "")[best[0]]
    return list(_merged((run, each) for _, run, each in chosen)), why


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


def _fits(timed: Timed, work: Left) -> bool:
    reads = timed.timing.reads
    return reads <= SAME_SIZE * work.reads and work.reads <= SAME_SIZE * reads


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
            items=items, seconds=seconds, spread=math.sqrt(squares / items), at_once=at_once, reads=reads
        )


def _of_study(work: Left, study: StudyRecord) -> Iterator[Timing]:
    for each in study.measured:
        if each.work > 0:
            yield Timing(
                items=max(round(each.work), 1),
                seconds=each.n * each.seconds / each.work,
                at_once=each.n,
                reads=work.reads,
            )
