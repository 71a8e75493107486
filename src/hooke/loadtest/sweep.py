"""Measures how a service scales: its safe rate at several numbers of replicas or threads, kept as studies for `hooke curve` and plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hooke.base.clock import SystemClock
from hooke.journal.events import Measured, RunFinished, StudyStarted
from hooke.journal.service_events import LoadMeasured
from hooke.journal.study_records import STUDY_PREFIX
from hooke.loadtest.load_result import BenchResult
from hooke.processes.devices import cpus_here
from hooke.processes.usage import machine_facts
from hooke.project.folder import Project, lock_run, new_run_id, open_run

__all__ = ["Sweep", "SweepRow", "SweptService", "Varied", "sweep"]

Numbers = tuple[int | None, int | None]
"""(replicas, threads of each); None means the class's declaration."""
Measure = Callable[[int | None, int | None], BenchResult]
"""Numbers -> result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Varied:
    """The numbers to measure; empty means the class's declaration."""

    replicas: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()

    def lines(self) -> list[list[Numbers]]:
        """The numbers of each study: several replicas with equal threads, or several threads with equal replicas."""
        replicas, threads = self.replicas or (None,), self.threads or (None,)
        if len(replicas) == 1:
            return [[(replicas[0], each) for each in threads]]
        return [[(each, number) for each in replicas] for number in threads]

    @property
    def counts(self) -> str:
        """What N counts in each study."""
        return "threads" if len(self.threads) > 1 and len(self.replicas) < 2 else "replicas"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptService:
    """The service: its project and file, a hash of its code, and the arguments of its `setup`."""

    project: Project
    entry: str
    key: str
    given: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """The results of one study. `study` is its id; empty if there was no safe rate."""

    results: tuple[BenchResult, ...]
    counts: str
    study: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All results, with one line per study."""

    lines: tuple[SweepRow, ...]

    @property
    def results(self) -> tuple[BenchResult, ...]:
        """The results of all lines."""
        return tuple(result for line in self.lines for result in line.results)

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C ended it."""
        return any(result.stopped for result in self.results)


def sweep(varied: Varied, measure: Measure, *, about: SweptService) -> Sweep:
    """Measure all numbers one after another, until one is stopped. Raises what `measure` raises."""
    lines: list[SweepRow] = []
    for wanted in varied.lines():
        results: list[BenchResult] = []
        try:
            for replicas, threads in wanted:
                results.append(measure(replicas, threads))
                if results[-1].stopped:
                    break
        finally:
            # Results are kept in any case, because they took minutes.
            study = _keep(results, wanted, varied.counts, about)
        lines.append(SweepRow(results=tuple(results), counts=varied.counts, study=study))
        if results[-1].stopped:
            break
    return Sweep(lines=tuple(lines))


def _keep(results: Sequence[BenchResult], wanted: Sequence[Numbers], counts: str, about: SweptService) -> str:
    """Keep the safe rates (their lower ends) as a study and return its id; "" if there are none. A stopped test has none."""
    kept = [
        result
        for result in results
        if result.safe is not None and result.safe.low is not None and not result.stopped
    ]
    if not kept:
        return ""
    clock = SystemClock()
    begun = _study_of(kept, wanted, counts, about, now=clock.now())
    with lock_run(about.project, begun.study), open_run(about.project, begun, clock=clock) as journal:
        for result in kept:
            load = _load(result, about)
            journal.append(
                Measured(task=begun.task, n=_n(result, counts), work=load.rate, seconds=1.0, cpu_s=load.cores)
            )
            journal.append(load)
        journal.append(RunFinished(status="finished" if len(kept) == len(wanted) else "stopped"))
    return begun.study


def _n(result: BenchResult, counts: str) -> int:
    return (result.threads if counts == "threads" else result.replicas) or 1


def _study_of(
    kept: Sequence[BenchResult], wanted: Sequence[Numbers], counts: str, about: SweptService, *, now: float
) -> StudyStarted:
    first = kept[0]
    name, _, method = first.order.name.partition("/")
    levels = [
        (threads if counts == "threads" else replicas) or _n(first, counts) for replicas, threads in wanted
    ]
    shown = {"slo": str(first.order.slo)}
    if counts == "replicas" and len({result.threads for result in kept}) == 1:
        shown["threads"] = str(first.threads)
    return StudyStarted(
        study=new_run_id(f"{STUDY_PREFIX}{name}", now),
        pipeline=name,
        entry=about.entry,
        task=method,
        unit="requests",
        key=about.key,
        shown=shown | ({"with": about.given} if about.given else {}),
        place="local",
        levels=tuple(levels),
        repeats=1,
        seed=first.order.seed,
        cpus=cpus_here(),
        machine=machine_facts(),
    )


def _load(result: BenchResult, about: SweptService) -> LoadMeasured:
    assert result.safe is not None
    assert result.safe.low is not None
    slo, used = result.order.slo, result.at_safe_rate
    return LoadMeasured(
        replicas=result.replicas or 1,
        threads=result.threads or 0,
        slo_percent=slo.percent if slo else 0.0,
        slo_limit_s=slo.limit_s if slo else 0.0,
        rate=result.safe.low,
        breaks_at=result.safe.high if result.safe.high < float("inf") else None,
        cores=used.cores if used else 0.0,
        rss=used.rss if used else 0,
        batch_s=result.handled.batch_s if result.handled else None,
        arrivals=result.order.arrivals_name,
        sent=result.order.sent.digest,
        given=about.given,
    )
