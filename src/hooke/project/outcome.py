"""What a run came to, read from its journal."""

from __future__ import annotations

from pathlib import Path

from hooke.base.errors import UsageError
from hooke.base.ref import Ref
from hooke.journal.events import RunFinished, RunStarted
from hooke.journal.reader import first_event, last_event, read
from hooke.journal.runs import RunsFolder
from hooke.journal.view import RunView

__all__ = ["ending", "is_service", "output_ref", "view_of"]


def ending(folder: Path) -> RunFinished | None:
    """How the run in `folder` ended; None where it goes on, was resumed since, or its driver died."""
    last = last_event(folder, "driver") if folder.exists() else None
    return last if isinstance(last, RunFinished) else None


def is_service(folder: Path) -> bool:
    """Whether the run in `folder` is that of a service."""
    begun = first_event(folder, "driver") if folder.exists() else None
    return isinstance(begun, RunStarted) and begun.kind == "service"


def output_ref(folder: Path) -> Ref:
    """The stored output of a finished run. Raises UsageError where there is none."""
    ended = ending(folder)
    if ended is None or ended.output is None:
        raise UsageError(f"run {folder.name} has no result", next=f"hooke show {folder.name}")
    return ended.output


def view_of(runs: RunsFolder, run: str) -> RunView:
    """Where a run stands now: `lost` where it did not finish and nobody drives it."""
    view = RunView()
    for segment in read(runs.folder(run), "driver"):
        for event in segment.events:
            view.apply(event)
    view.driver_alive(runs.alive(run), runs.last_written(run))
    return view
