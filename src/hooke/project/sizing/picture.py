"""A run's workers against what could have used them, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hooke.base.errors import MissingExtra, UsageError
from hooke.base.files import write_atomic
from hooke.charts.changes import Change
from hooke.charts.fleet import FleetPicture, fleet_sheet
from hooke.charts.pixels import png_of
from hooke.charts.svg import svg_of
from hooke.journal.events import Event, RunFinished, RunStarted
from hooke.journal.fleets import FleetDecided
from hooke.journal.occupancy import demand_of

__all__ = ["fleet_picture", "save_fleet"]

PIXELS = 8 / 3
"""A point, as 96 dots an inch on a screen that is twice as sharp."""


def fleet_picture(events: Sequence[Event]) -> FleetPicture:
    """Of one run's `events`. Raises UsageError where nothing was decided in it."""
    begun = next((event for event in events if isinstance(event, RunStarted)), None)
    decided = [event for event in events if isinstance(event, FleetDecided)]
    if begun is None or not decided:
        raise UsageError(
            "this run had as many workers as it was told: there is nothing to draw",
            mend="let them follow the work: --workers 1-8",
        )
    demand = demand_of(events)
    moments = np.array(sorted({each.at for each in (*demand, *decided)}))
    at = np.searchsorted([each.at for each in demand], moments, side="right") - 1
    chosen = np.searchsorted([each.at for each in decided], moments, side="right")
    sizes = np.array([decided[0].before, *(each.after for each in decided)])
    end = max(event.at for event in events if isinstance(event, RunFinished | FleetDecided))
    changes = [
        Change(at=each.at - begun.at, before=each.before, after=each.after, text=each.reason)
        for each in decided
    ]
    return FleetPicture(
        title=f"{begun.pipeline}: workers, and what could have used them",
        moments=moments - begun.at,
        end=end - begun.at,
        could=np.array([float(each.could) for each in demand])[at],
        ready=np.array([float(each.workers) for each in demand])[at],
        wanted=sizes[chosen].astype(float),
        changes=tuple(changes),
        caption=f"from the journal of {begun.run}",
    )


def save_fleet(events: Sequence[Event], path: Path) -> None:
    """Write `.svg` or `.png`, as the path ends. Raises UsageError for another ending, MissingExtra for `.png` without Pillow, OSError."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"workers cannot be drawn as {path.name!r}", mend="end the name with .svg or .png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no such folder", mend="make it, or name another file")
    sheet = fleet_sheet(fleet_picture(events))
    if path.suffix.lower() == ".svg":
        write_atomic(path, svg_of(sheet).encode())
        return
    try:
        write_atomic(path, png_of(sheet, PIXELS))
    except ImportError as error:
        raise MissingExtra(
            "Pillow is not installed, and draws a picture as PNG",
            mend='pip install "hooke[plot]", or end the name with .svg',
        ) from error
