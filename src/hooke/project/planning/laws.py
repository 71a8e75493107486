"""The law of scaling of a task, as far as its project's studies and runs tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hooke.base.errors import NotEnoughData
from hooke.journal.runs import RunsFolder
from hooke.journal.studies import StudyRecord, find_studies
from hooke.journal.throughput import ThroughputRow, throughput
from hooke.project.planning.timings import RunTimes
from hooke.project.planning.work import Left
from hooke.scaling import Law, Measurements, fit

__all__ = ["Levels", "TaskLaw", "law_of", "levels_of", "rows_of", "studies_of"]

CORE_TOLERANCE = 1.1
"""A share of a core that the system's own work may take before N calls count as wanting more cores than there are."""


LEAST_LEVELS = 3
"""Through two points goes a line, and a curve that is about to bend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Throughputs of a task with so many at once, and where they are from. `cpu_share` is cores that one call keeps busy."""

    n: tuple[int, ...] = ()
    rate: tuple[float, ...] = ()
    source: str = ""
    cpu_share: float = 1.0

    def most(self, cores: int) -> float:
        """How many calls at once so many cores are enough for."""
        return CORE_TOLERANCE * cores / max(self.cpu_share, 1e-3)

    def within(self, cores: int) -> Levels:
        """Those for which there were cores enough: beyond, it is the machine that was measured, not the task."""
        kept = [at for at, n in enumerate(self.n) if n <= self.most(cores) or n == 1]
        return Levels(
            n=tuple(self.n[at] for at in kept),
            rate=tuple(self.rate[at] for at in kept),
            source=self.source,
            cpu_share=self.cpu_share,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLaw:
    """The law, and from what; where there is none, `lacking` says why, in words that follow the task's name."""

    law: Law | None = None
    lacking: str = "it has no law"
    source: str = ""


def law_of(levels: Levels) -> TaskLaw:
    """The law that the throughputs speak for."""
    if not levels.n:
        return TaskLaw()
    distinct = sorted(set(levels.n))
    shown = ", ".join(map(str, distinct))
    try:
        if len(distinct) < LEAST_LEVELS:
            raise NotEnoughData(f"fewer than {LEAST_LEVELS} N")
        law = fit(Measurements(levels.n, throughput=levels.rate))
    except NotEnoughData:
        return TaskLaw(lacking=f"its throughput was measured at N = {shown} only", source=levels.source)
    return TaskLaw(law=law, source=levels.source)


def studies_of(runs: RunsFolder, *, pipeline: str, host: str) -> dict[str, StudyRecord]:
    """Task -> its newest study of strong scaling on that host which measured something."""
    found: dict[str, StudyRecord] = {}
    for study in find_studies(runs, pipeline=pipeline):
        started = study.started
        if started.host == host and not (started.weak or started.sizes) and study.measured and started.task:
            found.setdefault(started.task, study)
    return found


def rows_of(runs: Sequence[RunTimes]) -> list[ThroughputRow]:
    """What the runs measured by the way of any task's throughput, the newest first."""
    return [row for run in runs for row in throughput(run.events).rows if row.items > 0]


def levels_of(
    work: Left, study: StudyRecord | None, runs: Sequence[RunTimes], rows: Sequence[ThroughputRow]
) -> Levels:
    """What a study measured of the task; without one, what `runs` of its present code measured by the way, in `rows`."""
    if study is not None:
        measured = [each for each in study.measured if each.seconds > 0 and each.work > 0]
        alone = [each for each in measured if each.n == min(every.n for every in measured)]
        busy = sum(each.n * each.seconds for each in alone)
        return Levels(
            n=tuple(each.n for each in measured),
            rate=tuple(each.work / each.seconds for each in measured),
            source=study.started.study,
            cpu_share=sum(each.cpu_s for each in alone) / busy if busy else 1.0,
        )
    rows = _alike([row for row in rows if row.task == work.task and row.code == work.code])
    shares = [each.cpu_share for run in runs for each in run.timed if each.task == work.task]
    return Levels(
        n=tuple(row.n for row in rows),
        rate=tuple(row.rate for row in rows),
        source=", ".join(dict.fromkeys(row.run for row in rows)),
        cpu_share=max(shares, default=1.0),
    )


def _alike(rows: Sequence[ThroughputRow]) -> list[ThroughputRow]:
    """Those of one kind of work, by the arguments that are the same for all items: the kind with most N, newest first."""
    kinds: dict[tuple[tuple[str, str], ...], list[ThroughputRow]] = {}
    for row in rows:
        kinds.setdefault(tuple(sorted(row.constants.items())), []).append(row)
    return max(kinds.values(), key=lambda kind: len({row.n for row in kind}), default=[])
