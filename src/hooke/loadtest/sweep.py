"""How far a service scales: its safe rate at several numbers of replicas or threads, kept as studies that `hooke curve` and plans read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hooke.base.clock import SystemClock
from hooke.journal.events import Measured, RunFinished, StudyStarted
from hooke.journal.records import STUDY_PREFIX
from hooke.journal.service_events import LoadMeasured
from hooke.loadtest.load_result import BenchResult
from hooke.processes.devices import cpus_here, machine_facts
from hooke.project.folder import Project, new_run_id
from hooke.project.open_run import lock_run, open_run

__all__ = ["About", "Sweep", "SweepRow", "Varied", "sweep"]

Numbers = tuple[int | None, int | None]
"""(replicas, threads of each); None is: as the class declares."""
Measure = Callable[[int | None, int | None], BenchResult]
"""Those numbers -> what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Varied:
    """Which numbers are measured; none: what the class declares."""

    replicas: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()

    def lines(self) -> list[list[Numbers]]:
        """What is measured for each study: several replicas of as many threads, or several threads of as many replicas."""
        replicas, threads = self.replicas or (None,), self.threads or (None,)
        if len(replicas) == 1:
            return [[(replicas[0], each) for each in threads]]
        return [[(each, number) for each in replicas] for number in threads]

    @property
    def counts(self) -> str:
        """What N counts in each study."""
        return "threads" if len(self.threads) > 1 and len(self.replicas) < 2 else "replicas"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Of which service: where it is, a hash of its code, and what its `setup` is given."""

    project: Project
    entry: str
    key: str
    given: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """What was measured for one study. `study` is where the safe rates are kept; empty where there were none."""

    results: tuple[BenchResult, ...]
    counts: str
    study: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What was measured, a line for each study."""

    lines: tuple[SweepRow, ...]

    @property
    def results(self) -> tuple[BenchResult, ...]:
        """Of all lines."""
        return tuple(result for line in self.lines for result in line.results)

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C ended it."""
        return any(result.stopped for result in self.results)


def sweep(varied: Varied, measure: Measure, *, about: About) -> Sweep:
    """Measure each, one after the other, until all are done or one is stopped. Raises what `measure` raises."""
    lines: list[SweepRow] = []
    for wanted in varied.lines():
        results: list[BenchResult] = []
        try:
            for replicas, threads in wanted:
                results.append(measure(replicas, threads))
                if results[-1].stopped:
                    break
        finally:
            # What was measured is kept whatever ends it: it took minutes.
            study = _keep(results, wanted, varied.counts, about)
        lines.append(SweepRow(results=tuple(results), counts=varied.counts, study=study))
        if results[-1].stopped:
            break
    return Sweep(lines=tuple(lines))


def _keep(results: Sequence[BenchResult], wanted: Sequence[Numbers], counts: str, about: About) -> str:
    """The study of the safe rates, the pessimistic ends; "" where there is none. What was stopped may have borne more, and has none."""
    kept = [
        result
        for result in results
        if result.safe is not None and result.safe.low is not None and not result.stopped
    ]
    if not kept:
        return ""
    clock = SystemClock()
    begun = _begun(kept, wanted, counts, about, now=clock.now())
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


def _begun(
    kept: Sequence[BenchResult], wanted: Sequence[Numbers], counts: str, about: About, *, now: float
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


def _load(result: BenchResult, about: About) -> LoadMeasured:
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
