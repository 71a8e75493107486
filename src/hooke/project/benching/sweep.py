"""How far a service scales with its replicas: its safe rate at several N, kept as a study that `hooke curve` reads."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from hooke.base.clock import SystemClock
from hooke.base.cpus import cpus_here
from hooke.base.errors import HookeError
from hooke.base.refusals import writing
from hooke.journal.events import Measured, RunFinished, StudyStarted
from hooke.journal.studies import PREFIX
from hooke.journal.writer import Journal
from hooke.project.benching.result import BenchResult
from hooke.project.driving import DRIVER
from hooke.project.folder import Project
from hooke.project.run_ids import new_run_id
from hooke.studies.machine import machine_facts

__all__ = ["Sweep", "sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What was measured at each N. `study` is where the safe rates are kept; empty where there were none."""

    results: tuple[BenchResult, ...]
    study: str

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C ended it."""
        return any(result.stopped for result in self.results)


def sweep(
    counts: Sequence[int], measure: Callable[[int], BenchResult], *, project: Project, entry: str
) -> Sweep:
    """Measure at each N, one after the other, until all are done or one is stopped. Raises what `measure` raises."""
    results: list[BenchResult] = []
    try:
        for count in counts:
            results.append(measure(count))
            if results[-1].stopped:
                break
    except HookeError:
        # What was measured before is kept: it took minutes.
        _keep(counts, results, project=project, entry=entry)
        raise
    return Sweep(results=tuple(results), study=_keep(counts, results, project=project, entry=entry))


def _keep(counts: Sequence[int], results: Sequence[BenchResult], *, project: Project, entry: str) -> str:
    """The study of the safe rates, the pessimistic ends; "" where no N has one. What was stopped may have borne more, and has none."""
    rates = [
        (count, result.safe.low)
        for count, result in zip(counts, results, strict=False)
        if result.safe is not None and result.safe.low is not None and not result.stopped
    ]
    if len(counts) < 2 or not rates:
        return ""
    clock = SystemClock()
    name, _, method = results[0].order.name.partition("/")
    study = new_run_id(f"{PREFIX}{name}", clock.now())
    whole = len(rates) == len(counts)
    folder = project.runs.folder(study)
    with writing("the study's folder", folder):
        project.create()
        project.runs.create(study)
    with Journal.create(folder, DRIVER, durable="group", clock=clock) as journal:
        journal.append(
            StudyStarted(
                study=study,
                pipeline=name,
                entry=entry,
                task=method,
                unit="requests",
                shown={"slo": str(results[0].order.slo)},
                place="local",
                levels=tuple(counts),
                repeats=1,
                seed=results[0].order.seed,
                cpus=cpus_here(),
                machine=machine_facts(),
                folder=os.getcwd(),
                pid=os.getpid(),
                host=socket.gethostname(),
                python=platform.python_version(),
                hooke=version("hooke"),
            )
        )
        for count, rate in rates:
            journal.append(Measured(task=method, n=count, work=rate, seconds=1.0))
        journal.append(RunFinished(status="finished" if whole else "stopped"))
    return study
