"""Advice for `hooke advise`: which cpus and memory to declare for each task, from what earlier attempts used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hooke.base.errors import JournalError
from hooke.journal.events import AttemptFailed, AttemptFinished, Event, NodePlanned, RunStarted
from hooke.journal.run_folders import RunsFolder
from hooke.journal.study_records import STUDY_PREFIX
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

    Only attempts with a task's newest code count. Raises JournalError if the named run is damaged.
    """
    attempts: dict[str, list[_Attempt]] = {}
    for name in [run] if run else _candidates(runs):
        events = _events(runs, name, named=bool(run))
        begun = next((event for event in events if isinstance(event, RunStarted)), None)
        if begun is None or (pipeline and begun.pipeline != pipeline):
            continue
        for attempt in reversed(list(_attempts(events))):  # newest first
            attempts.setdefault(attempt.task, []).append(attempt)
    return {
        task: needed([each.used for each in reversed(own) if each.code == own[0].code])
        for task, own in attempts.items()
    }


def _candidates(runs: RunsFolder) -> list[str]:
    return [name for name in runs.names() if not name.startswith(STUDY_PREFIX)][:MOST_RUNS]


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
