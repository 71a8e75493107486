"""Advice for `hooke advise`: which cpus and memory to declare for each task, from what earlier attempts used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hooke.base.errors import JournalError
from hooke.journal.events import AttemptFailed, AttemptFinished, Event, NodePlanned, RunStarted
from hooke.journal.run_folders import RunsFolder
from hooke.journal.study_records import STUDY_PREFIX, find_studies
from hooke.planning.causes import cause_of
from hooke.planning.task_facts import measurements_of, uses_all_cores
from hooke.scaling.resource_advice import Needed, Used, needed

__all__ = ["advise"]

LARGEST_JOURNAL = 16 * 1024 * 1024
"""Bytes: a larger journal takes too long to read."""
MOST_RUNS = 20
"""Number of newest runs that are read."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    task: str
    code: Mapping[str, str]
    used: Used


def advise(runs: RunsFolder, *, run: str = "", pipeline: str = "") -> dict[str, Needed]:
    """Task -> needed resources, from one run, or from the newest runs (of one pipeline if it is given).

    If the newest study of a task found why more workers do not help, its sentence is part of the advice. Only attempts with a task's newest code count. Raises JournalError if the named run is damaged.
    """
    attempts: dict[str, list[_Attempt]] = {}
    pipelines: dict[str, str] = {}
    for name in [run] if run else _candidates(runs, pipeline):
        events = _events(runs, name, named=bool(run))
        begun = next((event for event in events if isinstance(event, RunStarted)), None)
        if begun is None or (pipeline and begun.pipeline != pipeline):
            continue
        for attempt in reversed(list(_attempts(events))):  # newest first
            attempts.setdefault(attempt.task, []).append(attempt)
            pipelines.setdefault(attempt.task, begun.pipeline)
    return {
        task: needed(
            [each.used for each in reversed(own) if each.code == own[0].code],
            known=known_limit(runs, pipelines[task], task),
        )
        for task, own in attempts.items()
    }


HELPED = ("network",)
"""Causes that more workers help against."""
NO_GAIN = 1.05
"""More workers that are not so many times as fast are no gain."""


def known_limit(runs: RunsFolder, pipeline: str, task: str) -> str:
    """Why more workers do not help the task, by its newest finished study; empty if no study says so."""
    studies = find_studies(runs, pipeline=pipeline, task=task)
    newest = next((study for study in studies if study.complete and not study.started.sizes), None)
    if newest is None or newest.started.weak or newest.of_gang:
        return ""
    cause = cause_of(newest.measured, cores=newest.started.cpus)
    if cause is not None and cause.name not in HELPED:
        return cause.sentence
    if uses_all_cores(newest):
        return f"the workers compute on all {newest.started.cpus} cores"
    means = measurements_of(newest).means()
    best, most = max(zip(*means, strict=True), key=lambda each: each[1]), (means[0][-1], means[1][-1])
    for n, rate in zip(*means, strict=True):
        if n < most[0] and rate * NO_GAIN > best[1]:
            return f"{most[0]:g} workers are no faster than {n:g}"
    return ""


def _candidates(runs: RunsFolder, pipeline: str) -> list[str]:
    """The newest runs; those of one pipeline if it is given, whose ids begin with its name."""
    found = [name for name in runs.names() if not name.startswith(STUDY_PREFIX)]
    own = [name for name in found if name.startswith(f"{pipeline}-")] if pipeline else []
    return (own or found)[:MOST_RUNS]


def _events(runs: RunsFolder, name: str, *, named: bool) -> Sequence[Event]:
    file = runs.folder(name) / "driver.journal"
    if not named and (not file.is_file() or file.stat().st_size > LARGEST_JOURNAL):
        return ()
    try:
        return runs.events(name)
    except JournalError:
        if named:
            raise
        return ()  # `hooke runs` reports it


def _attempts(events: Sequence[Event]) -> Iterator[_Attempt]:
    nodes: dict[int, NodePlanned] = {}
    for event in events:
        if isinstance(event, NodePlanned):
            nodes[event.node] = event
        elif isinstance(event, AttemptFinished | AttemptFailed) and event.node in nodes:
            planned = nodes[event.node]
            if event.hi > event.lo and (isinstance(event, AttemptFinished) or _ran_out_of_memory(event)):
                yield _Attempt(planned.task, planned.code, _used(event, planned))


def _ran_out_of_memory(event: AttemptFailed) -> bool:
    return event.failure.kind == "OutOfMemory"


def _used(event: AttemptFinished | AttemptFailed, planned: NodePlanned) -> Used:
    starved = isinstance(event, AttemptFailed)
    limit = event.failure.limit_bytes if isinstance(event, AttemptFailed) else None
    return Used(
        cpus=planned.cpus,
        memory=limit if limit is not None else planned.memory,
        items=event.hi - event.lo,
        seconds=event.seconds,
        cpu_s=event.cpu_s / planned.slots,
        peak_bytes=event.peak_bytes,
        starved=starved,
    )
