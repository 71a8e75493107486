"""How long items took in earlier runs of a pipeline, from their journals: the longest go first, and a map begins with chunks of a fitting size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import msgspec

from hooke.base.errors import HookeError, JournalError
from hooke.journal.events import AttemptFinished, Event, NodePlanned, RunStarted
from hooke.journal.reader import first_event
from hooke.journal.run_folders import DRIVER, RunsFolder

__all__ = ["PastDurations", "durations_in", "expected_seconds"]

LARGEST_JOURNAL = 16 * 1024 * 1024
"""Bytes: reading more would cost the seconds that it saves."""

RUNS_READ = 3
"""More than one, because a cached run measures nothing."""

NAMED_READ = 50
"""Only a journal says of which pipeline a run with a name of its own is."""


class PastDurations(msgspec.Struct, frozen=True):
    """What the items of a task's maps took in earlier runs."""

    items: dict[int, float] = msgspec.field(default_factory=dict)
    """Item -> seconds, of items that ran in an attempt of their own."""
    usual_s: float = 0.0
    """Seconds of an item in the largest chunk; 0 if there was none."""


def expected_seconds(runs: RunsFolder, pipeline: str, *, besides: str) -> dict[str, PastDurations]:
    """Task -> what its items took, from the pipeline's newest runs."""
    expected: dict[str, PastDurations] = {}
    for run in islice(_earlier(runs, pipeline, besides), RUNS_READ):
        journal = runs.folder(run) / "driver.journal"
        if not journal.is_file() or journal.stat().st_size > LARGEST_JOURNAL:
            continue
        try:
            events = runs.events(run)
        except JournalError:  # damage in an old journal must not stop a new run
            continue
        planned = (event for event in events if isinstance(event, NodePlanned) and event.kind == "map")
        for task, found in durations_in(events, {node.node: node.task for node in planned}).items():
            newer = expected.get(task, PastDurations())
            expected[task] = PastDurations(found.items | newer.items, newer.usual_s or found.usual_s)
    return expected


def _earlier(runs: RunsFolder, pipeline: str, besides: str) -> Iterator[str]:
    """The pipeline's other runs, the newest first; of those with a name of their own only the newest of all."""
    for index, run in enumerate(runs.names()):
        if run != besides and (
            run.rsplit("-", 3)[0] == pipeline or (index < NAMED_READ and _pipeline_of(runs, run) == pipeline)
        ):
            yield run


def _pipeline_of(runs: RunsFolder, run: str) -> str:
    try:
        begun = first_event(runs.folder(run), DRIVER)
    except HookeError:  # damage in an old journal must not stop a new run
        return ""
    return begun.pipeline if isinstance(begun, RunStarted) else ""


def durations_in(events: Iterable[Event], maps: Mapping[int, str]) -> dict[str, PastDurations]:
    """Task -> what its items took, by the events of one run. `maps` is the node of each map -> its task."""
    alone: dict[str, dict[int, float]] = {}
    chunks: dict[str, tuple[int, float]] = {}
    """Task -> how many items its largest chunk had, and what each took."""
    for event in events:
        if isinstance(event, AttemptFinished) and event.hi > event.lo and event.node in maps:
            task, items = maps[event.node], event.hi - event.lo
            if items == 1:
                alone.setdefault(task, {})[event.lo] = event.seconds
            else:
                chunks[task] = max(chunks.get(task, (0, 0.0)), (items, event.seconds / items))
    return {
        task: PastDurations(alone.get(task, {}), chunks.get(task, (0, 0.0))[1])
        for task in alone.keys() | chunks.keys()
    }
