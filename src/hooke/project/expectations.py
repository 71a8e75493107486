"""How long items took last time, so that the longest go first."""

from __future__ import annotations

from hooke.base.errors import JournalError
from hooke.journal.events import AttemptFinished, NodePlanned
from hooke.journal.reader import read
from hooke.journal.runs import RunsFolder

__all__ = ["expected_seconds"]

LARGEST_JOURNAL = 16 * 1024 * 1024
"""Bytes: reading more to save seconds would cost seconds."""

RUNS_READ = 3
"""A cached run measures nothing, so the last one alone is often empty."""


def expected_seconds(runs: RunsFolder, pipeline: str, *, besides: str) -> dict[str, dict[int, float]]:
    """Task -> item -> seconds, from the newest runs of the pipeline whose items ran one by one."""
    expected: dict[str, dict[int, float]] = {}
    earlier = [run for run in runs.names() if run != besides and run.rsplit("-", 3)[0] == pipeline]
    for run in earlier[:RUNS_READ]:
        journal = runs.folder(run) / "driver.journal"
        if not journal.is_file() or journal.stat().st_size > LARGEST_JOURNAL:
            continue
        for task, items in _measured(runs, run).items():
            expected[task] = items | expected.get(task, {})
    return expected


def _measured(runs: RunsFolder, run: str) -> dict[str, dict[int, float]]:
    tasks: dict[int, str] = {}
    measured: dict[str, dict[int, float]] = {}
    try:
        segments = read(runs.folder(run), "driver")
    except JournalError:  # damage in an old run's journal is no reason not to run a new one
        return {}
    for segment in segments:
        for event in segment.events:
            if isinstance(event, NodePlanned) and event.kind == "map":
                tasks[event.node] = event.task
            elif isinstance(event, AttemptFinished) and event.hi - event.lo == 1 and event.node in tasks:
                measured.setdefault(tasks[event.node], {})[event.lo] = event.seconds
    return measured
